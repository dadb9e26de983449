"""The engine against the plain meaning of features, and what may not change its answers."""

from __future__ import annotations

import numpy as np
import pytest
from feature_world import (
    HOUR_MS,
    START_MS,
    Payment,
    Verdict,
    batch_of,
    card,
    every_kind,
    merchant,
    payments,
    rows_of,
    split,
    verdicts,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from naive_engine import NaiveEngine

from sentinel.contract import EventBatch
from sentinel.core import limits
from sentinel.core.errors import ErrorCode, SentinelError
from sentinel.features import (
    DEFAULTED,
    PRESENT,
    STALE,
    Count,
    DistinctCount,
    Engine,
    FeatureMatrix,
    FeatureSet,
    LastValue,
    Maximum,
    Mean,
    StandardDeviation,
    Sum,
    TimeSince,
    Velocity,
    advance_log,
    compile_plan,
)
from sentinel.features import index as index_module
from sentinel.features.engine import OnFull

PLAN = compile_plan(every_kind())
SCHEMA = Payment.schema
# What the sketch estimates, and so is held against its stated error elsewhere.
ESTIMATED = {"n_merchants", "n_amounts"}


def whole(matrices: list[FeatureMatrix], part: str) -> np.ndarray:
    return np.concatenate([getattr(matrix, part) for matrix in matrices])


def assert_as_told(matrix: FeatureMatrix, told: list[list[tuple[float, int]] | None]) -> None:
    """Hold a matrix against the oracle: status exactly, values to a float32's last digits."""
    for i, answers in enumerate(told):
        assert matrix.is_duplicate[i] == (answers is None)
        for f, name in enumerate(matrix.names):
            if answers is None:
                assert matrix.status[i, f] == DEFAULTED
                continue
            value, status = answers[f]
            assert matrix.status[i, f] == status, (i, name)
            # A sketch is exact up to 16.
            relative = 0.2 if name in ESTIMATED and value > 16 else 3e-7
            # A deviation of equal floats is 0 in exact arithmetic and 1e-8 of them in float64.
            absolute = 1e-6 if name in {"tip_spread", "tip_sum", "tip_mean"} else 1e-9
            assert matrix.values[i, f] == pytest.approx(value, rel=relative, abs=absolute), (
                i,
                name,
            )


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("late_ms", [0, HOUR_MS // 2, 3 * HOUR_MS])
def test_every_feature_is_what_its_definition_says(seed: int, late_ms: int) -> None:
    """Every kind, over late, simultaneous, repeated and null values, against the plain oracle."""
    events = payments(220, seed, late_ms=late_ms, duplicate_share=0.1, span_ms=8 * HOUR_MS)
    feedback = verdicts(events, seed)
    engine, oracle = Engine(PLAN), NaiveEngine(PLAN.features)
    for batch in split(events, SCHEMA, [50, 51, 130]):
        now = int(batch.column("paid_at").max())
        due = feedback.column("known_at") <= now
        for learner in (engine, oracle):
            learner.learn(rows_of(feedback, Verdict.schema, due))
        assert_as_told(engine.advance(batch), oracle.advance(batch))


def test_oracle_sees_what_an_apply_before_read_would_change() -> None:
    """The oracle is sharp: applied before it is read, nearly every feature differs."""
    events = payments(60, 1)
    oracle = NaiveEngine(PLAN.features, reads_before_apply=False)
    told = oracle.advance(events)
    with pytest.raises(AssertionError):
        assert_as_told(Engine(PLAN).advance(events), told)


def test_features_of_an_event_are_those_before_it() -> None:
    """Read, then apply: the first event of a card finds nothing of itself."""
    matrix = Engine(PLAN).advance(payments(1, 3))
    first = dict(
        zip(matrix.names, zip(matrix.values[0], matrix.status[0], strict=True), strict=True)
    )
    assert first["n"] == (0.0, PRESENT)
    assert first["n_ever"] == (0.0, PRESENT)
    for name in ("amount_sum", "amount_mean", "amount_last", "since", "km", "kmh"):
        assert first[name][1] == DEFAULTED, name


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 1000),
    cuts=st.lists(st.integers(0, 300), max_size=12),
    verdict_cuts=st.lists(st.integers(0, 150), max_size=5),
)
def test_batches_can_be_cut_anywhere(seed: int, cuts: list[int], verdict_cuts: list[int]) -> None:
    """Live scoring in any batches equals the replay in one, to the last bit."""
    events = payments(300, seed, late_ms=2 * HOUR_MS, duplicate_share=0.1)
    feedback = verdicts(events, seed)
    one, many = Engine(PLAN), Engine(PLAN)
    expected = [m for _, m in advance_log(one, [events], [feedback])]
    actual = [
        matrix
        for _, matrix in advance_log(
            many,
            split(events, SCHEMA, [min(cut, events.n_rows) for cut in cuts]),
            split(feedback, Verdict.schema, [min(c, feedback.n_rows) for c in verdict_cuts]),
        )
    ]
    for part in ("values", "status", "is_late", "is_duplicate"):
        assert whole(actual, part).tobytes() == whole(expected, part).tobytes(), part
    # What was handed over but is not known yet may differ; what was applied may not.
    assert one.counts().feedback == many.counts().feedback
    for engine in (one, many):
        engine.advance(batch_of(SCHEMA, one_event(START_MS + 99 * HOUR_MS)))
    assert one.counts() == many.counts() or one.n_feedback_pending != many.n_feedback_pending


def one_event(time_ms: int, *, event_id: int = 77, card_id: int = 5) -> np.ndarray:
    values = payments(1, 0).values.copy()
    names = [field.name for field in SCHEMA.fields]
    values[names.index("paid_at"), 0] = time_ms
    values[names.index("payment_id"), 0] = event_id
    values[names.index("card_id"), 0] = card_id
    return values


def exact_features() -> FeatureSet:
    """Features whose state is exact whatever the order."""
    of, w = Payment, "12h"
    return FeatureSet(
        "exact",
        version="1",
        events=Payment,
        features=[
            Count("n", by=card, over=w),
            Count("n_tips", of=of.tip, by=card, over=w),
            Sum("total", of=of.amount, by=card, over=w),
            StandardDeviation("spread", of=of.amount, by=card, over=w),
            Maximum("most", of=of.amount, by=card, over=w),
            DistinctCount("merchants", of=of.merchant_id, by=card, over=w),
            LastValue("last", of=of.amount, by=card),
            TimeSince("since", by=card),
            Velocity("kmh", latitude=of.latitude, longitude=of.longitude, by=card),
        ],
    )


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 1000), data=st.data())
def test_order_and_repetition_inside_living_tiles_leave_no_trace(
    seed: int, data: st.DataObject
) -> None:
    """Shuffled and repeated events end in the same state, bit for bit."""
    plan = compile_plan(exact_features())
    events = payments(60, seed, span_ms=10 * HOUR_MS, grain_ms=HOUR_MS // 2)
    order = data.draw(st.permutations(range(60)))
    repeats = data.draw(st.lists(st.integers(0, 59), max_size=20))
    one, other = Engine(plan), Engine(plan)
    one.advance(events)
    other.advance(rows_of(events, SCHEMA, [*order, *repeats]))
    assert other.state_digest() == one.state_digest()
    assert other.counts().duplicates == len(repeats)


def test_a_log_read_again_changes_nothing() -> None:
    """The same log twice: the same state, and every event of the second time marked."""
    events, engine = payments(500, 5, late_ms=HOUR_MS), Engine(PLAN)
    feedback = verdicts(events, 5)
    list(advance_log(engine, [events], [feedback]))
    digest, counts = engine.state_digest(), engine.counts()
    [(_, again)] = advance_log(engine, [events], [feedback])
    assert again.is_duplicate.all()
    assert engine.state_digest() == digest
    assert engine.counts().events == counts.events
    assert engine.counts().feedback_duplicates == feedback.n_rows


def test_digest_does_not_see_where_rows_stand_and_sees_every_value() -> None:
    """Two engines that answer alike have one digest; one changed amount gives another."""
    plan = compile_plan(exact_features())
    events = payments(40, 8, n_cards=20)
    one, other, changed = Engine(plan), Engine(plan), Engine(plan)
    one.advance(events)
    other.advance(rows_of(events, SCHEMA, np.arange(40)[::-1]))
    assert one.state_digest() == other.state_digest()
    values = events.values.copy()
    values[[field.name for field in SCHEMA.fields].index("amount"), 17] += 1
    changed.advance(batch_of(SCHEMA, values, events.present))
    assert one.state_digest() != changed.state_digest()


def test_a_late_event_goes_to_its_tile_while_that_lives() -> None:
    """One hour in twelve tiles: 54 minutes late counts, 60 minutes late does not, both score."""
    features = FeatureSet(
        "late", version="1", events=Payment, features=[Count("n", by=card, over="1h")]
    )
    minute = 60_000
    start = START_MS // HOUR_MS * HOUR_MS + 4 * minute
    engine = Engine(compile_plan(features))

    def count_at(time_ms: int, event_id: int) -> tuple[float, bool]:
        matrix = engine.advance(batch_of(SCHEMA, one_event(time_ms, event_id=event_id)))
        return float(matrix.values[0, 0]), bool(matrix.is_late[0])

    assert count_at(start, 1) == (0, False)
    # In its own tile, which is the oldest one living: nothing stands before it.
    assert count_at(start - 54 * minute, 2) == (0, False)
    assert count_at(start, 3) == (2, False)
    assert count_at(start - 60 * minute, 4) == (0, True)
    assert count_at(start, 5) == (3, False)
    assert engine.counts().late_events == 1


def test_a_clock_that_jumps_ahead_makes_others_of_its_entity_late_and_no_one_else() -> None:
    """One event of the far future empties its card's window; other cards do not notice."""
    engine = Engine(PLAN)
    far = START_MS + 3650 * 24 * HOUR_MS
    for i, (time, who) in enumerate([(START_MS, 1), (START_MS, 2), (far, 1)]):
        engine.advance(batch_of(SCHEMA, one_event(time, event_id=i + 1, card_id=who)))
    after = engine.advance(batch_of(SCHEMA, one_event(START_MS + 1000, event_id=9, card_id=2)))
    n = PLAN.names.index("n")
    assert after.values[0, n] == 1
    hit = engine.advance(batch_of(SCHEMA, one_event(START_MS + 1000, event_id=10, card_id=1)))
    assert hit.values[0, n] == 0
    assert hit.is_late[0]


def test_a_null_key_has_no_history_and_leaves_none() -> None:
    """Events without a device neither share nor build a device's history."""
    values = one_event(START_MS)
    present = np.ones(values.shape, dtype=np.bool_)
    present[[field.name for field in SCHEMA.fields].index("device_id")] = False
    engine = Engine(PLAN)
    for i in range(3):
        values = one_event(START_MS + i, event_id=i + 1)
        matrix = engine.advance(batch_of(SCHEMA, values, present))
        for name in ("vpn_share", "tip_least", "age"):
            assert matrix.status[0, PLAN.names.index(name)] == DEFAULTED
    assert engine.n_entities == 2


def test_feedback_is_known_from_its_time_on_and_not_before() -> None:
    """Handed over early, a verdict waits; an event of its very millisecond sees it."""
    engine = Engine(PLAN)
    verdict = np.array([[1], [START_MS + 5000], [2], [5], [7], [1]])
    engine.learn(batch_of(Verdict.schema, verdict))
    n_fraud = PLAN.names.index("n_fraud")
    seen = [
        engine.advance(batch_of(SCHEMA, one_event(START_MS + t, event_id=t + 1))).values[0, n_fraud]
        for t in (0, 4999, 5000, 5001)
    ]
    assert seen == [0, 0, 1, 1]


def test_feedback_that_was_received_later_is_known_later() -> None:
    """Known-at is when it was received, where that is after its event time."""
    engine = Engine(PLAN)
    verdict = np.array([[1], [START_MS], [2], [5], [7], [1]])
    received = np.array([START_MS + 9000])
    engine.learn(batch_of(Verdict.schema, verdict, received_at_ms=received))
    n_fraud = PLAN.names.index("n_fraud")
    seen = [
        engine.advance(batch_of(SCHEMA, one_event(START_MS + t, event_id=t + 1))).values[0, n_fraud]
        for t in (0, 8999, 9000)
    ]
    assert seen == [0, 0, 1]


def test_feedback_makes_no_rows_where_nothing_is_kept_of_it() -> None:
    """A verdict names its card; a set that keeps nothing of it by card has no row for it."""
    features = FeatureSet(
        "by-merchant",
        version="1",
        events=Payment,
        feedback=Verdict,
        features=[Count("n", by=card), Sum("frauds", of=Verdict.is_fraud, by=merchant)],
    )
    engine = Engine(compile_plan(features))
    engine.learn(batch_of(Verdict.schema, np.array([[1], [START_MS], [2], [99], [77], [1]])))
    engine.advance(batch_of(SCHEMA, one_event(START_MS)))
    # The event's card and merchant, and the verdict's merchant.
    assert engine.n_entities == 3


def test_stale_is_not_present() -> None:
    """A value older than its limit comes back as stale, with the default, and says so."""
    features = FeatureSet(
        "stale",
        version="1",
        events=Payment,
        features=[
            LastValue("last", of=Payment.amount, by=card, stale_after="1s", default=-5.0),
            Mean("mean", of=Payment.amount, by=card, stale_after="1s"),
        ],
    )
    engine = Engine(compile_plan(features))
    status = [
        engine.advance(batch_of(SCHEMA, one_event(START_MS + t, event_id=t + 1))).status[0].tolist()
        for t in (0, 1000, 2001, 17 * 60_000)
    ]
    assert status == [[DEFAULTED] * 2, [PRESENT] * 2, [STALE] * 2, [STALE] * 2]


def test_two_places_at_once_are_fast_and_finite() -> None:
    """No time between two distant positions: the cap, not infinity; one position: zero."""
    engine = Engine(PLAN)
    names = [field.name for field in SCHEMA.fields]
    kmh = PLAN.names.index("kmh")
    found = []
    for i, latitude in enumerate([10.0, 10.0, 11.0]):
        values = one_event(START_MS, event_id=i + 1)
        values[names.index("latitude"), 0] = np.array([latitude]).view(np.int64)[0]
        found.append(float(engine.advance(batch_of(SCHEMA, values)).values[0, kmh]))
    assert found == [0.0, 0.0, 100_000.0]


def test_values_that_are_not_finite_are_passed_over_and_counted() -> None:
    """The contract lets none in; the kernel does not trust it."""
    engine = Engine(PLAN)
    names = [field.name for field in SCHEMA.fields]
    tip_sum = PLAN.names.index("tip_sum")
    for i, tip in enumerate([1.5, np.nan, np.inf, 2.0, 0.0]):
        values = one_event(START_MS + i, event_id=i + 1)
        values[names.index("tip"), 0] = np.array([tip]).view(np.int64)[0]
        matrix = engine.advance(batch_of(SCHEMA, values))
    assert matrix.values[0, tip_sum] == 3.5
    assert engine.counts().values_skipped > 0


def test_duplicates_are_known_as_far_back_as_promised() -> None:
    """The last n distinct ids are remembered; at most twice as many."""
    n = 100
    engine = Engine(PLAN, n_dedupe_min=n)
    ids = np.concatenate([np.arange(1, 501), np.arange(401, 501), np.arange(1, 301)])
    values = np.concatenate([one_event(START_MS)] * len(ids), axis=1)
    values[0] = ids
    matrix = engine.advance(batch_of(SCHEMA, values))
    assert not matrix.is_duplicate[:500].any()
    assert matrix.is_duplicate[500:600].all()
    assert not matrix.is_duplicate[600:].any()


def test_an_id_that_hashes_to_zero_is_an_id() -> None:
    """0 marks an empty place in the table; as an id it still works."""
    engine = Engine(PLAN)
    values = np.concatenate([one_event(START_MS, event_id=0)] * 2, axis=1)
    assert engine.advance(batch_of(SCHEMA, values)).is_duplicate.tolist() == [False, True]


def test_state_grows_with_its_entities_and_keeps_every_value() -> None:
    """Twenty thousand cards: every table was made larger several times, nothing was lost."""
    n = 20_000
    values = np.concatenate([one_event(START_MS)] * n, axis=1)
    values[0] = np.arange(1, n + 1)
    values[2] = np.arange(n)
    events = batch_of(SCHEMA, values)
    engine = Engine(PLAN)
    engine.advance(events)
    assert engine.n_entities == n + 2
    values = values.copy()
    values[0] += n
    again = engine.advance(batch_of(SCHEMA, values))
    assert (again.values[:, PLAN.names.index("n_ever")] == 1).all()
    assert not again.is_duplicate.any()


def test_too_many_entities_are_refused_before_anything_is_applied() -> None:
    """At the limit the whole batch is refused; known entities still go through."""
    engine = Engine(PLAN, n_entities_max=10, on_full=OnFull.REFUSE)
    values = np.concatenate([one_event(START_MS)] * 8, axis=1)
    values[0], values[2] = np.arange(1, 9), np.arange(8)
    engine.advance(batch_of(SCHEMA, values))
    assert engine.n_entities == 10
    digest = engine.state_digest()
    more = one_event(START_MS, event_id=50, card_id=99)
    with pytest.raises(SentinelError) as caught:
        engine.advance(batch_of(SCHEMA, more))
    assert caught.value.code is ErrorCode.ENTITIES_TOO_MANY
    assert caught.value.at == "feature state"
    assert engine.state_digest() == digest
    known = engine.advance(batch_of(SCHEMA, one_event(START_MS, event_id=51, card_id=3)))
    assert known.values[0, PLAN.names.index("n_ever")] == 1


def test_feedback_has_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    """More than may wait is refused whole."""
    monkeypatch.setattr("sentinel.core.limits.FEEDBACK_PENDING_MAX", 10)
    engine = Engine(PLAN)
    feedback = verdicts(payments(60, 1), 1)
    with pytest.raises(SentinelError) as caught:
        engine.learn(feedback)
    assert (caught.value.code, caught.value.at) == (ErrorCode.FEEDBACK_TOO_MUCH, "feedback")
    assert engine.n_feedback_pending == 0


def test_a_batch_of_another_contract_is_refused() -> None:
    """Columns are taken by place; a batch with others must not be read."""
    feedback: EventBatch = verdicts(payments(10, 1), 1)
    with pytest.raises(SentinelError) as caught:
        Engine(PLAN).advance(batch_of(Verdict.schema, feedback.values))
    assert caught.value.code is ErrorCode.FEATURE_BATCH_MISMATCH
    assert caught.value.at == "batch of payment"


def test_feedback_without_a_feedback_contract_is_refused() -> None:
    """A feature set that declares no feedback takes none."""
    with pytest.raises(SentinelError) as caught:
        Engine(compile_plan(exact_features())).learn(verdicts(payments(10, 1), 1))
    assert (caught.value.code, caught.value.at) == (
        ErrorCode.FEATURE_BATCH_MISMATCH,
        "feedback",
    )


def test_an_empty_batch_is_nothing() -> None:
    """No rows in, no rows out, nothing changed."""
    engine = Engine(PLAN)
    digest = engine.state_digest()
    assert engine.advance(payments(0, 1)).values.shape == (0, len(PLAN.names))
    assert engine.state_digest() == digest
    assert engine.now_ms is None


def test_one_compiled_kernel_serves_every_feature_set() -> None:
    """Tables drive it: another feature set compiles nothing anew."""
    from sentinel.features import kernel

    for features in (every_kind(), exact_features(), every_kind(tiles=5)):
        Engine(compile_plan(features)).advance(payments(20, 1))
    assert len(kernel.advance_rows.signatures) == 1  # type: ignore[attr-defined]
    assert index_module.ENTITY_TYPES_MAX >= limits.FEATURE_ENTITIES_MAX


def test_an_older_value_that_comes_later_does_not_replace_a_newer_one() -> None:
    """The last value is the last in event time, not the last to arrive."""
    engine = Engine(PLAN)
    names = [field.name for field in SCHEMA.fields]
    found = []
    for i, (time, minor) in enumerate([(5000, 700), (1000, 300), (6000, 100), (6000, 0)]):
        values = one_event(START_MS + time, event_id=i + 1)
        values[names.index("amount"), 0] = minor
        matrix = engine.advance(batch_of(SCHEMA, values))
        found.append(float(matrix.values[0, PLAN.names.index("amount_last")]))
    assert found == [0.0, 7.0, 7.0, 1.0]
