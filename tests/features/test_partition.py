"""A feature set cut into parts and shards gives the vectors of one engine, to the last bit."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import numpy as np
import pytest
from feature_world import (
    HOUR_MS,
    Payment,
    Verdict,
    card,
    device,
    every_kind,
    merchant,
    payments,
    rows_of,
    split,
    verdicts,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from sentinel.contract import EventBatch
from sentinel.core import limits
from sentinel.core.errors import ErrorCode, SentinelError
from sentinel.features import (
    Count,
    Difference,
    DistinctCount,
    Engine,
    FeatureSet,
    HourOfDay,
    Maximum,
    Mean,
    Ratio,
    Sum,
    TimeSince,
    Value,
    advance_log,
    compile_plan,
)
from sentinel.features.definitions import EntityFeature
from sentinel.features.history.partition import GlobalOrder, divide, owner_of
from sentinel.features.history.shard import Cutter, Shard


def across_entities() -> FeatureSet:
    """Every kind of feature, and some that are made of several entity types' features."""
    of_card = Mean("card_mean", of=Payment.tip, by=card, over="2h")
    of_device = Mean("device_mean", of=Payment.tip, by=device, over="2h")
    n_verdicts = Count("n_card_verdicts", of=Verdict.is_fraud, by=card, over="2h")
    ratio = Ratio("tip_ratio", numerator=of_card, denominator=of_device, default=-3.0)
    rest = [feature for feature in every_kind().features if feature.name != "amount_spread"]
    return FeatureSet(
        "across",
        version="1",
        events=Payment,
        feedback=Verdict,
        features=[
            ratio,
            *rest,
            of_card,
            of_device,
            n_verdicts,
            Difference("ratio_difference", minuend=ratio, subtrahend="fraud_share"),
            Ratio("verdict_ratio", numerator=n_verdicts, denominator="n_verdicts"),
        ],
    )


def windows_only() -> FeatureSet:
    """Entities that are forgotten when they were idle; some features are of two of them."""
    of_card = Mean("card_mean", of=Payment.tip, by=card, over="10m", tiles=5)
    of_device = Sum("device_sum", of=Payment.amount, by=device, over="15m", tiles=5)
    return FeatureSet(
        "windows",
        version="1",
        events=Payment,
        feedback=Verdict,
        features=[
            of_card,
            Count("n_verdicts", of=Verdict.is_fraud, by=card, over="20m", tiles=5),
            of_device,
            DistinctCount("n_cards", of=Payment.card_id, by=device, over="5m", tiles=5),
            Maximum("most", of=Payment.amount, by=merchant, over="30m", tiles=5),
            Ratio("ratio", numerator=of_card, denominator=of_device),
        ],
    )


FEATURES = across_entities()
FORGETFUL = windows_only()
PLANS = {each.name: compile_plan(each) for each in (FEATURES, FORGETFUL)}


@pytest.fixture(autouse=True, scope="module")
def shards_remember_little() -> Iterator[None]:
    """Ids that come again within a shard are then met often."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(limits, "REPLAY_SHARD_IDS", 3)
        yield


def alone(
    features: FeatureSet,
    events: list[EventBatch],
    feedback: list[EventBatch],
    n_dedupe_min: int,
) -> tuple[np.ndarray, ...]:
    engine = Engine(PLANS[features.name], n_dedupe_min=n_dedupe_min)
    found = [matrix for _, matrix in advance_log(engine, events, feedback)]
    kept = ~np.concatenate([each.is_duplicate for each in found])
    return (
        np.concatenate([each.values for each in found])[kept],
        np.concatenate([each.status for each in found])[kept],
        np.concatenate([each.is_late for each in found])[kept],
        np.array([engine.counts().feedback, engine.counts().feedback_duplicates]),
        np.array(engine.counts().entities_forgotten),
    )


def shared_out(
    features: FeatureSet,
    rounds: list[list[EventBatch]],
    feedback: list[EventBatch],
    n_dedupe_min: int,
    n_shards: int,
) -> tuple[np.ndarray, ...]:
    order = GlobalOrder(features, feedback, n_dedupe_min=n_dedupe_min)
    shards = [
        Shard(p, index=i, n_shards=n_shards) for p in divide(features) for i in range(n_shards)
    ]
    cutters = [Cutter(shard) for shard in shards]
    found: list[tuple[np.ndarray, ...]] = []
    for batches in rounds:
        values = np.concatenate([batch.values for batch in batches], axis=1)
        present = np.concatenate([batch.present for batch in batches], axis=1)
        edges = np.cumsum([0, *(batch.n_rows for batch in batches)])[:-1].tolist()
        n_rows = values.shape[1]
        ordered = order.take(values[0], values[1], edges)
        out = np.full((n_rows, len(features.names)), np.nan, dtype=np.float32)
        status = np.full(out.shape, 9, dtype=np.uint8)
        is_late = np.zeros(n_rows, dtype=np.bool_)
        for shard, cutter in zip(shards, cutters, strict=True):
            rows, given = cutter.cut(values, present, ordered.live, ordered.now_ms, ordered.learned)
            part_values, part_status, late = shard.advance(given)
            out[np.ix_(rows, shard.part.columns)] = part_values
            status[np.ix_(rows, shard.part.columns)] = part_status
            is_late[rows] |= late & shard.part.marks_late
        found.append((out[ordered.live], status[ordered.live], is_late[ordered.live]))
    counts = np.array([order.n_feedback, order.n_feedback_duplicates])
    forgotten = sum(shard.engine.counts().entities_forgotten for shard in shards if shard.part.name)
    together = [np.concatenate(parts) for parts in zip(*found, strict=True)]
    return (*together, counts, np.array(forgotten))


def doubled(feedback: EventBatch, seed: int) -> EventBatch:
    """Let some verdicts come twice."""
    rng = np.random.default_rng(seed)
    again = np.flatnonzero(rng.random(feedback.n_rows) < 0.1)
    order = np.sort(np.concatenate([np.arange(feedback.n_rows), again]))
    return rows_of(feedback, Verdict.schema, order)


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_any_number_of_shards_gives_the_bits_of_one_engine(data: st.DataObject) -> None:
    """Late, repeated, forgotten and simultaneous events, feedback, any batches, any rounds."""
    seed = data.draw(st.integers(0, 10_000), label="seed")
    n_rows = data.draw(st.integers(1, 400), label="rows")
    events = payments(
        n_rows,
        seed,
        late_ms=data.draw(st.sampled_from([0, HOUR_MS, 4 * HOUR_MS]), label="late"),
        duplicate_share=data.draw(st.sampled_from([0.0, 0.2]), label="repeated"),
        n_cards=data.draw(st.integers(1, 12), label="cards"),
        grain_ms=data.draw(st.sampled_from([1, 600_000]), label="grain"),
    )
    feedback = doubled(verdicts(events, seed + 1), seed)
    cuts = st.lists(st.integers(0, n_rows), max_size=6)
    batches = split(events, Payment.schema, data.draw(cuts, label="batches"))
    known = split(feedback, Verdict.schema, data.draw(st.lists(
        st.integers(0, feedback.n_rows), max_size=4), label="feedback batches"))  # fmt: skip
    n_dedupe = data.draw(st.sampled_from([2, 30, 1 << 20]), label="ids remembered")
    features = data.draw(st.sampled_from([FEATURES, FORGETFUL]), label="features")
    expected = alone(features, batches, known, n_dedupe)
    at = sorted(data.draw(st.lists(st.integers(0, len(batches)), max_size=3), label="rounds"))
    edges = [0, *at, len(batches)]
    rounds = [batches[a:b] for a, b in itertools.pairwise(edges) if b > a]
    for n_shards in (1, 2, 3, 7):
        actual = shared_out(features, rounds, known, n_dedupe, n_shards)
        for one, other in zip(actual, expected, strict=True):
            assert one.tobytes() == other.tobytes()


def test_entities_are_forgotten_in_shards_as_in_one_engine() -> None:
    """The streams of the test above do forget, and the same entities."""
    events = payments(400, 5, late_ms=HOUR_MS, n_cards=40)
    feedback = verdicts(events, 6)
    expected = alone(FORGETFUL, [events], [feedback], 1 << 20)
    assert expected[-1] > 50
    actual = shared_out(FORGETFUL, [[events]], [feedback], 1 << 20, 3)
    for one, other in zip(actual, expected, strict=True):
        assert one.tobytes() == other.tobytes()


def test_every_feature_is_one_parts_own() -> None:
    """Parts have the entity types' names; what is made of several comes last, uncut."""
    parts = divide(FEATURES)
    assert [part.name for part in parts] == ["card", "merchant", "device", ""]
    owned = np.concatenate([part.columns for part in parts])
    assert sorted(owned.tolist()) == list(range(len(FEATURES.names)))
    joint = parts[-1]
    assert joint.key == -1
    own = [FEATURES.names[column] for column in joint.columns]
    assert own == ["tip_ratio", "ratio_difference", "verdict_ratio"]
    of_entities = {f.name for f in FEATURES.features if isinstance(f, EntityFeature)}
    assert {*own, *of_entities} <= set(joint.features.names)
    assert "amount" not in joint.features.names


def test_features_of_the_event_alone_are_cut_by_event_id() -> None:
    """Without any entity there is one part, and it is cut all the same."""
    features = FeatureSet(
        "plain",
        version="1",
        events=Payment,
        features=[HourOfDay("hour"), Value("n", of=Payment.n_items)],
    )
    (part,) = divide(features)
    assert part.key == Payment.schema.fields.index(Payment.schema.event_id)
    assert part.name == ""


def test_a_part_reads_only_its_fields() -> None:
    """What a part does not read is not copied for it."""
    features = FeatureSet(
        "two",
        version="1",
        events=Payment,
        features=[
            Sum("amount", of=Payment.amount, by=card, over="1h", where=Payment.is_vpn),
            TimeSince("since", by=merchant),
        ],
    )
    names = [[Payment.schema.fields[i].name for i in part.fields] for part in divide(features)]
    assert names == [
        ["payment_id", "paid_at", "card_id", "amount", "is_vpn"],
        ["payment_id", "paid_at", "merchant_id"],
    ]


def test_keys_are_spread_evenly() -> None:
    """Counting keys are spread as well as hashes are."""
    for keys in (np.arange(70_000), np.random.default_rng(1).integers(-(2**62), 2**62, 70_000)):
        counts = np.bincount(owner_of(keys, 7), minlength=7)
        assert counts.min() > 9_000
        assert counts.max() < 11_000


def test_feedback_that_waits_has_its_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    """Feedback far ahead of events is refused, as the engine refuses it."""
    events = payments(20, 1)
    monkeypatch.setattr(limits, "FEEDBACK_PENDING_MAX", 3)
    order = GlobalOrder(FEATURES, [verdicts(events, 2)])
    with pytest.raises(SentinelError) as caught:
        order.take(events.values[0], events.values[1], [0])
    assert caught.value.code is ErrorCode.FEEDBACK_TOO_MUCH
    assert caught.value.at == "feedback"
