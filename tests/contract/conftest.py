"""One contract with every kind of field, and a judge that asks kernel and explainer at once."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest

from sentinel.contract import (
    Boolean,
    Category,
    Contract,
    ContractSchema,
    Decimal,
    Decoder,
    EventId,
    EventTime,
    Float,
    Integer,
    Key,
    RawBatch,
    RefusalCode,
    Text,
    Timestamp,
)
from sentinel.contract.explain import explain
from sentinel.core import limits

ROOT = Path(__file__).parent.parent.parent
NOW_MS = 1_700_000_000_000

Judge = Callable[..., tuple[RefusalCode, ...]]


class Wide(Contract, name="wide", version="1"):
    """Every kind of field, with and without null and absence."""

    id = EventId(bytes_max=12)
    at = EventTime(unit="ms")
    card = Key(bytes_max=8)
    shop = Key(integer=True)
    amount = Decimal(scale=2, minimum=-5, maximum=100_000)
    tiny = Decimal(scale=9, required=False)
    ratio = Float(minimum=-90, maximum=90)
    wide = Float(nullable=True, required=False)
    ok = Boolean()
    channel = Category("chip", "onliné", 'a"b', nullable=True)
    device = Key(bytes_max=32, nullable=True)
    note = Text(bytes_max=600, required=False)
    count = Integer(minimum=-3, maximum=7)
    big = Integer(required=False)
    seen = Timestamp(unit="s", required=False)
    told = Timestamp(unit="rfc3339", required=False, minimum_ms=-(10**14))


GOOD = {
    "id": '"e1"',
    "at": str(NOW_MS),
    "card": '"c"',
    "shop": "12",
    "amount": "1.50",
    "tiny": "0.5",
    "ratio": "1.25",
    "wide": "1e10",
    "ok": "true",
    "channel": '"chip"',
    "device": "null",
    "note": '"hi"',
    "count": "2",
    "big": "12",
    "seen": "1700000000",
    "told": '"2024-01-01T00:00:00Z"',
}


def compose(tokens: dict[str, str]) -> bytes:
    """Write an event from its field names and JSON tokens."""
    text = ",".join(f"{json.dumps(key)}:{token}" for key, token in tokens.items())
    return f"{{{text}}}".encode("utf-8", "surrogatepass")


@pytest.fixture(scope="session")
def schema() -> ContractSchema:
    """Return the contract with every kind of field."""
    return Wide.schema


@pytest.fixture(scope="session")
def decoder() -> Decoder:
    """Return the decoder of the contract with every kind of field."""
    return Decoder(Wide.schema)


@pytest.fixture(scope="session")
def event() -> Callable[..., bytes]:
    """Return a good event, with some tokens replaced (None: left out)."""

    def build(**tokens: str | None) -> bytes:
        chosen = {**GOOD, **tokens}
        return compose({key: token for key, token in chosen.items() if token is not None})

    return build


@pytest.fixture(scope="session")
def judge_all() -> Callable[..., list[tuple[RefusalCode, ...]]]:
    """Return the codes of each event, on which kernel and explainer must agree."""

    def judge(
        events: Sequence[bytes],
        *,
        schema: ContractSchema = Wide.schema,
        received_at_ms: int | None = None,
    ) -> list[tuple[RefusalCode, ...]]:
        times = None
        if received_at_ms is not None:
            times = np.full(len(events), received_at_ms, dtype=np.int64)
        raw = RawBatch.from_events(events, received_at_ms=times)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(limits, "EXPLAINED_BYTES_MAX", -1)
            decoded = Decoder(schema).decode(raw)
        assert decoded.events.n_rows + len(decoded.refusals) == len(events)
        verdicts: list[tuple[RefusalCode, ...]] = [()] * len(events)
        for refusal in decoded.refusals:
            assert refusal.code == refusal.faults[0].code
            assert refusal.position not in decoded.events.rows
            verdicts[refusal.position] = tuple(fault.code for fault in refusal.faults)
        for content, verdict in zip(events, verdicts, strict=True):
            faults = explain(schema, content, n_bytes=len(content), received_at_ms=received_at_ms)
            explained = tuple(dict.fromkeys(fault.code for fault in faults))
            assert verdict == explained, f"kernel {verdict}, explainer {explained}: {content!r}"
        return verdicts

    return judge


@pytest.fixture(scope="session")
def judge(judge_all: Callable[..., list[tuple[RefusalCode, ...]]]) -> Judge:
    """Return the codes of one event."""

    def judge_one(content: bytes, *, received_at_ms: int | None = None) -> tuple[RefusalCode, ...]:
        return judge_all([content], received_at_ms=received_at_ms)[0]

    return judge_one


@pytest.fixture(scope="session")
def corpora() -> Path:
    """Find the folder of hostile input that nobody here wrote."""
    folder = Path(os.environ.get("SENTINEL_CORPORA") or ROOT.parent / "shared" / "corpora")
    if not folder.is_dir():
        pytest.skip(f"no corpora at {folder} (SENTINEL_CORPORA)")
    return folder
