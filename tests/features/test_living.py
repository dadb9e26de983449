"""Idle entities are forgotten by event time alone; a full state leaves the known ones alone."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from feature_world import (
    HOUR_MS,
    START_MS,
    Payment,
    Verdict,
    batch_of,
    payments,
    split,
    verdicts,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from naive_engine import NaiveEngine

from sentinel.contract import EventBatch
from sentinel.core.errors import ErrorCode, SentinelError
from sentinel.core.native import native
from sentinel.features import (
    Count,
    DistinctCount,
    Engine,
    Entity,
    EntityLimits,
    FeatureSet,
    FirstSeen,
    LastValue,
    Mean,
    OnFull,
    Sum,
    compile_plan,
)
from sentinel.features.index import find, insert, remove
from sentinel.features.stores.embedded import EmbeddedStore
from sentinel.testing.memory_disk import MemoryDisk

if TYPE_CHECKING:
    from conftest import Trials

SCHEMA = Payment.schema
FOLDER = Path("state")


def idle_world(*, merchant_for: str | None = "3h") -> FeatureSet:
    """Cards have windows only; merchants a declared horizon; devices live for ever."""
    of = Payment
    card = Entity("card", key=of.card_id)
    merchant = Entity("merchant", key=of.merchant_id, forget_after=merchant_for)
    device = Entity("device", key=of.device_id)
    return FeatureSet(
        "idle-world",
        version="1",
        events=of,
        feedback=Verdict,
        features=[
            Count("n", by=card, over="1h"),
            Sum("amount", of=of.amount, by=card, over="2h", tiles=4),
            DistinctCount("n_merchants", of=of.merchant_id, by=card, over="1h"),
            LastValue("last", of=of.amount, by=merchant),
            FirstSeen("age", by=merchant),
            Mean("fraud", of=Verdict.is_fraud, by=merchant, over="3h"),
            Count("n_ever", by=device),
        ],
    )


PLAN = compile_plan(idle_world())
AT = {field.name: i for i, field in enumerate(SCHEMA.fields)}


def sparse(n_rows: int, seed: int, *, late_ms: int = 0) -> EventBatch:
    """Draw payments over two days of many cards and merchants, so that most fall idle."""
    events = payments(n_rows, seed, span_ms=48 * HOUR_MS, late_ms=late_ms, n_cards=25)
    rng = np.random.default_rng(seed)
    values = events.values.copy()
    values[AT["merchant_id"]] = rng.integers(0, 12, n_rows)
    return batch_of(SCHEMA, values, events.present)


def keyed(
    cards: np.ndarray, *, first_id: int = 1, at_ms: int = START_MS, step_ms: int = 1000
) -> EventBatch:
    """Make payments of given cards, of one merchant and no device."""
    n = len(cards)
    values = np.zeros((len(SCHEMA.fields), n), dtype=np.int64)
    values[AT["payment_id"]] = np.arange(first_id, first_id + n)
    values[AT["paid_at"]] = at_ms + step_ms * np.arange(n)
    values[AT["card_id"]] = cards
    present = np.ones(values.shape, dtype=np.bool_)
    present[AT["device_id"]] = False
    return batch_of(SCHEMA, values, present)


def fed(engine: Engine, events: EventBatch, cuts: list[int], feedback: EventBatch) -> bytes:
    engine.learn(feedback)
    parts = [engine.advance(part) for part in split(events, SCHEMA, cuts)]
    values = b"".join(part.values.tobytes() for part in parts)
    return values + b"".join(part.status.tobytes() for part in parts)


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    late_hours=st.sampled_from([0, 2, 9, 30]),
    cuts=st.lists(st.integers(0, 300), max_size=12),
)
def test_forgetting_is_what_the_plain_oracle_says_however_batches_are_cut(
    seed: int, late_hours: int, cuts: list[int]
) -> None:
    """Values, status and state digest; late events, horizons of hours over two days."""
    events = sparse(300, seed, late_ms=late_hours * HOUR_MS)
    feedback = verdicts(events, seed, delay_ms=4 * HOUR_MS)
    whole, cut = Engine(PLAN), Engine(PLAN)
    given_out = fed(whole, events, [], feedback)
    assert fed(cut, events, cuts, feedback) == given_out
    assert cut.state_digest() == whole.state_digest()
    assert cut.counts() == whole.counts()
    assert whole.counts().entities_forgotten > 0
    oracle = NaiveEngine(PLAN.features)
    oracle.learn(feedback)
    told = oracle.advance(events)
    again = Engine(PLAN)
    again.learn(feedback)
    matrix = again.advance(events)
    for i, answers in enumerate(told):
        assert answers is not None
        for f, (value, status) in enumerate(answers):
            assert matrix.status[i, f] == status, (i, matrix.names[f])
            assert matrix.values[i, f] == pytest.approx(value, rel=3e-7), (i, matrix.names[f])


def test_rows_of_forgotten_entities_are_used_again() -> None:
    """A new card with every event, for ten thousand hours: memory stays where it was."""
    features = FeatureSet(
        "churn", version="1", events=Payment,
        features=[Count("n", by=Entity("card", key=Payment.card_id), over="1h")],
    )  # fmt: skip
    engine = Engine(compile_plan(features), n_dedupe_min=1000)
    sizes = []
    for k in range(40):
        engine.advance(
            keyed(
                np.arange(k * 10_000, (k + 1) * 10_000),
                first_id=1 + k * 10_000,
                at_ms=START_MS + k * 10_000 * 1000,
            )
        )
        sizes.append((engine.n_entities, engine.n_rows, engine.state_bytes))
    living, rows, n_bytes = np.array(sizes[5:]).T
    # Two hours at one card a second, and up to an eighth more.
    assert living.min() >= 7200
    assert living.max() <= 7200 * 9 / 8 + 1
    assert rows.max() <= 1.6 * living.max()
    assert len(set(n_bytes.tolist())) == 1


@pytest.mark.reliability("B14", t1=1, t2=10, t3=50)
def test_memory_stays_at_the_cap_under_millions_of_new_names(trials: Trials) -> None:
    """A million cards that are used once for each trial, against a cap of twenty thousand."""
    engine = Engine(PLAN, n_entities_max=20_000, n_dedupe_min=10_000)
    known = np.arange(1000)
    engine.advance(keyed(np.concatenate([known, known]), step_ms=0))
    sizes = []
    for million in trials:
        for first in range(0, 1_000_000, 20_000):
            at = 1_000_000 * (million + 1) + first
            engine.advance(keyed(np.arange(at, at + 20_000), first_id=at, step_ms=0))
            sizes.append(engine.state_bytes)
        assert engine.n_entities <= 20_000
        assert engine.n_rows <= 40_000
    assert len(set(sizes[3:])) == 1, "after the first batches no table grows"
    matrix = engine.advance(keyed(known, first_id=90_000_000, step_ms=0))
    assert (matrix.values[:, matrix.names.index("n")] == 2).all()


@pytest.mark.reliability("B14")
@pytest.mark.parametrize("cut", [1000, 7])
def test_new_names_of_an_attacker_do_not_evict_those_in_use(cut: int) -> None:
    """Card testing: twenty thousand cards, each used once, against a cap of five hundred."""
    known = np.arange(100)
    engine = Engine(PLAN, n_entities_max=500)
    engine.advance(keyed(np.concatenate([known, known])))
    attack = np.arange(1_000_000, 1_020_000)
    for first in range(0, len(attack), cut):
        part = attack[first : first + cut]
        engine.advance(keyed(part, first_id=10_000 + first, at_ms=START_MS + 300_000 + first))
    counts = engine.counts()
    assert engine.n_entities <= 500
    assert counts.entities_turned_away + counts.entities_crowded_out > 19_000
    matrix = engine.advance(keyed(known, first_id=900_000, at_ms=START_MS + 400_000))
    assert (matrix.values[:, matrix.names.index("n")] == 2).all(), "nobody in use was forgotten"


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10_000), cuts=st.lists(st.integers(0, 300), max_size=8))
def test_a_full_state_gives_the_same_bits_however_batches_are_cut(
    seed: int, cuts: list[int]
) -> None:
    events = sparse(300, seed, late_ms=HOUR_MS)
    feedback = verdicts(events, seed)
    whole, cut = (Engine(PLAN, n_entities_max=14) for _ in range(2))
    assert fed(whole, events, [], feedback) == fed(cut, events, cuts, feedback)
    assert whole.state_digest() == cut.state_digest()
    assert whole.counts() == cut.counts()
    assert whole.counts().entities_turned_away + whole.counts().entities_crowded_out > 0


def test_a_full_state_recovers_under_the_limits_that_it_answered_under() -> None:
    """Snapshot, log, and a change of the limits between: each batch as it was answered."""
    events = sparse(300, 5)
    disk = MemoryDisk()
    expected: list[bytes] = []
    engine = Engine(PLAN)
    at = [(0, 100, 20), (100, 180, 14), (180, 300, 14)]
    for k, (first, end, n_max) in enumerate(at):
        store = EmbeddedStore(
            PLAN, FOLDER, disk=disk, entities=EntityLimits(n_max=n_max, on_full=OnFull.DEFAULTS)
        )
        assert k == 0 or store.state_digest() == digest  # noqa: F821 -- of the run before
        part = batch_of(SCHEMA, events.values[:, first:end], events.present[:, first:end])
        part.raw.positions[:] = np.arange(first, end)
        expected.append(store.advance(part).values.tobytes())
        digest = store.state_digest()
        n = store.counts()
        if k == 1:
            store.snapshot()
        disk = disk.after_kill()
    del engine
    again = EmbeddedStore(PLAN, FOLDER, disk=disk, entities=EntityLimits(n_max=14))
    assert again.state_digest() == digest
    assert again.counts() == n
    assert again.counts().entities_turned_away + again.counts().entities_crowded_out > 0


@native
def run_index(index: np.ndarray, keys: np.ndarray, adds: np.ndarray) -> int:
    """Add and remove; return how many look-ups were wrong at the end of each step."""
    is_there = np.zeros(64, dtype=np.bool_)
    n_wrong = 0
    for i in range(len(keys)):
        key = keys[i]
        if adds[i] and not is_there[key]:
            insert(index, 3, key * 1000, key + 1)
            is_there[key] = True
        elif not adds[i] and is_there[key]:
            remove(index, 3, key * 1000)
            is_there[key] = False
        for other in range(64):
            found = find(index, 3, other * 1000)
            n_wrong += found != (other + 1 if is_there[other] else -1)
    return n_wrong


@pytest.mark.parametrize("seed", range(20))
def test_index_without_what_was_removed_finds_all_the_rest(seed: int) -> None:
    """A table so small that runs of places wrap around its end."""
    rng = np.random.default_rng(seed)
    index = np.zeros((128, 2), dtype=np.int64)
    assert run_index(index, rng.integers(0, 64, 400), rng.random(400) < 0.6) == 0


def test_horizon_is_twice_the_longest_window_or_declared_or_none() -> None:
    hours = {name: ms // HOUR_MS for name, ms in idle_world().horizons_ms.items()}
    assert hours == {"card": 4, "merchant": 3, "device": 0}
    assert idle_world(merchant_for=None).horizons_ms["merchant"] == 0


def test_horizon_below_the_longest_window_is_refused() -> None:
    with pytest.raises(SentinelError) as caught:
        idle_world(merchant_for="179m")
    assert caught.value.code is ErrorCode.FEATURE_INVALID
    assert caught.value.at == "entity merchant.forget_after"


def test_declared_horizon_is_a_part_of_the_identity_and_survives_its_data() -> None:
    features = idle_world()
    assert features.identity != idle_world(merchant_for="4h").identity
    assert features.identity == idle_world(merchant_for="180m").identity
    read = FeatureSet.from_data(features.to_data())
    assert read.identity == features.identity
    assert read.horizons_ms == features.horizons_ms


def test_set_of_the_first_meaning_keeps_it() -> None:
    """What was released before entities were forgotten never forgets."""
    today = FeatureSet("w", version="1", events=Payment, features=[
        Count("n", by=Entity("card", key=Payment.card_id), over="1h")])  # fmt: skip
    first = FeatureSet("w", version="1", events=Payment, features=today.features, meaning=1)
    assert today.identity != first.identity
    read = FeatureSet.from_data(first.to_data())
    assert (read.meaning, read.identity) == (1, first.identity)
    assert (read.horizons_ms, today.horizons_ms) == ({"card": 0}, {"card": 2 * HOUR_MS})
