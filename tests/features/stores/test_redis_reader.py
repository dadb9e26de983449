"""Features by entity key are what the entity's next event would read, to the last bit."""

from __future__ import annotations

import numpy as np
import pytest
from feature_world import (
    HOUR_MS,
    Payment,
    Verdict,
    batch_of,
    card,
    payments,
    rows_of,
    verdicts,
)
from redis_rig import PLAN, closed_later, read_hashed

from sentinel.contract import EventBatch, RawBatch
from sentinel.contract.decoder import Decoder
from sentinel.core import limits
from sentinel.core.errors import ErrorCode, SentinelError
from sentinel.data.simulator.contracts import Transaction
from sentinel.features import (
    DEFAULTED,
    PRESENT,
    Count,
    Engine,
    Entity,
    FeaturePlan,
    FeatureSet,
    compile_plan,
)
from sentinel.features.stores.redis.reader import FeatureReader
from sentinel.features.stores.redis.store import RedisSettings, RedisStore
from sentinel.testing import sample_events
from sentinel.testing.redis_server import RedisServer


def reader_of(server: RedisServer, name: str, plan: FeaturePlan = PLAN) -> FeatureReader:
    return closed_later(FeatureReader(plan, url=server.url, name=name, deadline_ms=10_000))


def store_of(server: RedisServer, name: str, plan: FeaturePlan = PLAN) -> RedisStore:
    settings = RedisSettings(url=server.url, name=name, deadline_ms=10_000)
    return closed_later(RedisStore(plan, settings))


def with_history(server: RedisServer, name: str, seed: int) -> tuple[Engine, EventBatch, int]:
    """Feed one log to a store and to an engine in memory; return that, and the latest time."""
    events = payments(200, seed, late_ms=HOUR_MS)
    latest = int(events.column("paid_at").max())
    feedback = verdicts(events, seed)
    # What becomes known later is not in the state yet.
    feedback = rows_of(feedback, Verdict.schema, feedback.column("known_at") <= latest)
    object.__setattr__(feedback.raw, "source", "verdicts")
    memory, store = Engine(PLAN), store_of(server, name)
    for engine in (memory, store):
        engine.learn(feedback)
        engine.advance(events)
    assert store.state_digest() == memory.state_digest()
    return memory, events, latest


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("later_ms", [-HOUR_MS // 2, 0, 1, HOUR_MS // 3, 2 * HOUR_MS])
def test_read_is_what_the_next_event_would_read(
    server: RedisServer, seed: int, later_ms: int
) -> None:
    name = f"reader-{seed}-{later_ms}"
    memory, events, latest = with_history(server, name, seed)
    reader = reader_of(server, name)
    values = events.values[:, :1].copy()
    names = [field.name for field in Payment.schema.fields]
    values[names.index("paid_at")] = latest + later_ms
    values[names.index("payment_id")] = 99
    matrix = memory.advance(batch_of(Payment.schema, values, events.present[:, :1].copy()))
    for entity in ("card", "merchant"):
        hashed = values[names.index(f"{entity}_id")]
        found = read_hashed(reader, entity, hashed, latest + later_ms)
        columns = [matrix.names.index(feature) for feature in found.names]
        assert len(columns) > 5
        assert found.values[0].tobytes() == matrix.values[0, columns].tobytes()
        assert found.status[0].tolist() == matrix.status[0, columns].tolist()
        assert found.is_known.tolist() == [True]


def test_read_changes_nothing_and_answers_repeated_and_unknown_keys(server: RedisServer) -> None:
    _, events, latest = with_history(server, "unchanged", 1)
    before = store_of(server, "unchanged").state_digest()
    reader = reader_of(server, "unchanged")
    known = int(events.column("card_id")[0])
    keys = np.array([known, 123456, known], dtype=np.int64)
    found = read_hashed(reader, "card", keys, latest + 1)
    assert found.is_known.tolist() == [True, False, True]
    assert found.values[0].tobytes() == found.values[2].tobytes()
    n, mean = found.names.index("n"), found.names.index("amount_mean")
    assert (found.values[1, n], found.status[1, n]) == (0.0, PRESENT)
    assert found.status[1, mean] == DEFAULTED
    assert found.age_ms_max[1] == -1
    assert not {"km", "kmh"} & set(found.names)
    assert store_of(server, "unchanged").state_digest() == before


def test_age_is_that_of_the_latest_event_to_one_tile(server: RedisServer) -> None:
    _, events, latest = with_history(server, "ages", 2)
    cards = np.unique(events.column("card_id"))
    found = read_hashed(reader_of(server, "ages"), "card", cards, latest)
    for key, age in zip(cards, found.age_ms_max, strict=True):
        newest = int(events.column("paid_at")[events.column("card_id") == key].max())
        assert latest - newest <= age < latest - newest + HOUR_MS // 12


def test_keys_are_texts_as_they_stand_in_events(server: RedisServer) -> None:
    features = FeatureSet(
        "texts",
        version="1",
        events=Transaction,
        features=[Count("n_ever", by=Entity("card", key=Transaction.card_id))],
    )
    plan = compile_plan(features)
    raw = sample_events(300, seed=2)
    decoded = Decoder(Transaction.schema).decode(RawBatch.from_events(
        [raw.event_bytes(i) for i in range(300)], source="payments", first_position=0
    )).events  # fmt: skip
    store_of(server, "texts", plan).advance(decoded)
    texts = decoded.texts("card_id")
    asked = sorted(set(texts))
    found = reader_of(server, "texts", plan).read("card", asked, 2_000_000_000_000)
    assert found.values[:, 0].tolist() == [float(texts.count(text)) for text in asked]
    assert found.age_ms_max.tolist() == [-1] * len(asked)


def test_bad_questions_are_refused(server: RedisServer) -> None:
    with_history(server, "refusing", 3)
    reader = reader_of(server, "refusing")
    too_many = ["a"] * (limits.STORE_KEYS_READ_MAX + 1)
    for entity, keys, place in (
        ("house", ["a"], "entity"),
        ("card", [], "keys"),
        ("card", too_many, "keys"),
        ("card", [1], "keys of card_id"),
    ):
        with pytest.raises(SentinelError) as caught:
            reader.read(entity, keys, 0)  # type: ignore[arg-type]
        assert caught.value.code is ErrorCode.ENTITY_KEYS_INVALID
        assert caught.value.at == place
    other = FeatureSet("other", version="1", events=Payment, features=[Count("n", by=card)])
    with pytest.raises(SentinelError) as caught:
        reader_of(server, "refusing", compile_plan(other))
    assert caught.value.code is ErrorCode.STATE_OF_ANOTHER_FEATURE_SET
    with pytest.raises(SentinelError) as caught:
        reader_of(server, "nowhere")
    assert caught.value.code is ErrorCode.STATE_MISSING
