"""The demo's stores: each word gives fresh stores of its kind, and a wrong one an error."""

from __future__ import annotations

from pathlib import Path

import pytest

from sentinel.cli.demo_store import demo_stores
from sentinel.core.errors import ErrorCode, SentinelError
from sentinel.features.stores.choice import StoreKind, open_store
from sentinel.release import load_release

GOLDEN = Path(__file__).parent.parent / "golden" / "releases" / "format-1" / "payments-1.2.0"


@pytest.mark.parametrize(
    ("word", "replay", "live"),
    [
        ("memory", StoreKind.MEMORY, StoreKind.EMBEDDED),
        ("embedded", StoreKind.EMBEDDED, StoreKind.EMBEDDED),
        ("redis", StoreKind.REDIS, StoreKind.REDIS),
        ("redis-cluster", StoreKind.REDIS, StoreKind.REDIS),
    ],
)
def test_a_word_gives_two_stores_that_are_fresh_and_apart(
    word: str, replay: StoreKind, live: StoreKind, tmp_path: Path
) -> None:
    """The store of the server outlives the process that filled it, so it is never in memory."""
    plan = load_release(GOLDEN, None, now_ms=0, allow_unapproved=True).parts.plan
    with demo_stores(word, tmp_path) as stores:
        assert stores.choice("replay").kind is replay
        assert stores.choice("live").kind is live
        for name in ("replay", "live"):
            with open_store(stores.choice(name), plan) as engine:
                assert engine.n_entities == 0


@pytest.mark.parametrize("word", ["", "redis-clutser", "embedded:", "sqlite://x"])
def test_a_wrong_word_is_refused_before_anything_is_done(word: str, tmp_path: Path) -> None:
    with pytest.raises(SentinelError) as refused, demo_stores(word, tmp_path):
        pass
    assert refused.value.code is ErrorCode.STORE_ADDRESS_INVALID
    assert not list(tmp_path.iterdir())
