"""What may be declared, what is refused and where, and what makes the identity."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable

import pytest
from feature_world import Payment, Verdict, card, every_kind, merchant
from hypothesis import given
from hypothesis import strategies as st

from sentinel.contract import (
    Boolean,
    Contract,
    Decimal,
    EventId,
    EventTime,
    Integer,
    Key,
    Timestamp,
)
from sentinel.core.errors import ErrorCode, SentinelError
from sentinel.core.hashing import canonical_json
from sentinel.features import (
    CategoryEncoding,
    Count,
    DayOfWeek,
    Difference,
    Distance,
    DistinctCount,
    Entity,
    Feature,
    FeatureSet,
    HourOfDay,
    LastValue,
    Mean,
    Ratio,
    StandardDeviation,
    Sum,
    TimeSince,
    Value,
    Velocity,
    compile_plan,
)
from sentinel.features.durations import parse_ms, write_ms


class Labelled(Contract, name="labelled", version="1"):
    event_id = EventId()
    at = EventTime()
    card_id = Key()
    is_fraud = Boolean()
    scenario = Integer(minimum=0, maximum=3)
    unbounded = Integer()
    large = Decimal(scale=2)
    number = Key(integer=True)
    booked_at = Timestamp()


class Other(Contract, name="other", version="1"):
    other_id = EventId()
    at = EventTime()
    amount = Decimal(scale=2)


labelled_card = Entity("card", key=Labelled.card_id)


def payments_of(*features: Feature) -> FeatureSet:
    return FeatureSet("demo", version="1", events=Payment, feedback=Verdict, features=features)


def labelled_of(*features: Feature, **more: object) -> FeatureSet:
    return FeatureSet("demo", version="1", events=Labelled, features=features, **more)


amount = Value("amount", of=Payment.amount)
REFUSED: dict[str, tuple[Callable[[], FeatureSet], ErrorCode, str]] = {
    "field of a third contract": (
        lambda: payments_of(Value("x", of=Other.amount)),
        ErrorCode.FEATURE_UNKNOWN_FIELD,
        "x.of",
    ),
    "sum of a text": (
        lambda: payments_of(Sum("x", of=Payment.card_id, by=card, over="1h")),
        ErrorCode.FEATURE_WRONG_KIND,
        "x.of",
    ),
    "value of a category": (
        lambda: payments_of(Value("x", of=Payment.channel)),
        ErrorCode.FEATURE_WRONG_KIND,
        "x.of",
    ),
    "value of an integer key": (
        lambda: labelled_of(Value("x", of=Labelled.number)),
        ErrorCode.FEATURE_WRONG_KIND,
        "x.of",
    ),
    "distinct floats": (
        lambda: payments_of(DistinctCount("x", of=Payment.tip, by=card)),
        ErrorCode.FEATURE_WRONG_KIND,
        "x.of",
    ),
    "condition that is no boolean": (
        lambda: payments_of(Count("x", by=card, where=Payment.amount)),
        ErrorCode.FEATURE_WRONG_KIND,
        "x.where",
    ),
    "position that is no float": (
        lambda: payments_of(
            Distance("x", latitude=Payment.amount, longitude=Payment.longitude, by=card)
        ),
        ErrorCode.FEATURE_WRONG_KIND,
        "x.latitude",
    ),
    "entity by an amount": (
        lambda: payments_of(Count("x", by=Entity("e", key=Payment.amount))),
        ErrorCode.FEATURE_WRONG_KIND,
        "x.by",
    ),
    "label of the event, by the feedback's name": (
        lambda: FeatureSet(
            "demo",
            version="1",
            events=Labelled,
            feedback=Verdict,
            features=[Mean("x", of=Labelled.is_fraud, by=labelled_card, over="7d")],
        ),
        ErrorCode.FEATURE_READS_LABEL,
        "x.of",
    ),
    "label of the event, declared": (
        lambda: labelled_of(Value("x", of=Labelled.scenario), labels=[Labelled.scenario]),
        ErrorCode.FEATURE_READS_LABEL,
        "x.of",
    ),
    "label of the event as a condition": (
        lambda: labelled_of(
            TimeSince("x", by=labelled_card, where=Labelled.is_fraud), labels=[Labelled.is_fraud]
        ),
        ErrorCode.FEATURE_READS_LABEL,
        "x.where",
    ),
    "verdict of this very event": (
        lambda: payments_of(Value("x", of=Verdict.is_fraud)),
        ErrorCode.FEATURE_INVALID,
        "x.of",
    ),
    "two feeds in one feature": (
        lambda: payments_of(Sum("x", of=Payment.amount, by=card, where=Verdict.is_fraud)),
        ErrorCode.FEATURE_INVALID,
        "x",
    ),
    "feedback of an entity that it does not name": (
        lambda: payments_of(
            Mean("x", of=Verdict.is_fraud, by=Entity("device", key=Payment.device_id), over="1h")
        ),
        ErrorCode.FEATURE_INVALID,
        "x.by",
    ),
    "one name twice": (
        lambda: payments_of(amount, Value("amount", of=Payment.tip)),
        ErrorCode.FEATURE_DUPLICATE,
        "feature amount",
    ),
    "one entity name for two keys": (
        lambda: payments_of(
            Count("a", by=card), Count("b", by=Entity("card", key=Payment.merchant_id))
        ),
        ErrorCode.FEATURE_DUPLICATE,
        "entity card",
    ),
    "a ratio of itself": (
        lambda: payments_of(
            Ratio("a", numerator="b", denominator="b"), Difference("b", minuend="a", subtrahend="a")
        ),
        ErrorCode.FEATURE_CYCLE,
        "feature a",
    ),
    "an operand that is not there": (
        lambda: payments_of(Ratio("a", numerator=amount, denominator="b")),
        ErrorCode.FEATURE_INVALID,
        "a",
    ),
    "an operand of another meaning": (
        lambda: payments_of(
            Value("amount", of=Payment.tip),
            Value("tip", of=Payment.tip),
            Ratio("a", numerator=amount, denominator="tip"),
        ),
        ErrorCode.FEATURE_INVALID,
        "a.numerator",
    ),
    "a window in words": (
        lambda: payments_of(Count("x", by=card, over="an hour")),
        ErrorCode.FEATURE_INVALID,
        "x.over",
    ),
    "a window of nothing": (
        lambda: payments_of(Count("x", by=card, over="0s")),
        ErrorCode.FEATURE_INVALID,
        "x.over",
    ),
    "a window of a century": (
        lambda: payments_of(Count("x", by=card, over="36500d")),
        ErrorCode.FEATURE_INVALID,
        "x.over",
    ),
    "tiles that do not divide": (
        lambda: payments_of(Count("x", by=card, over="1s", tiles=12)),
        ErrorCode.FEATURE_INVALID,
        "x.tiles",
    ),
    "no tiles": (
        lambda: payments_of(Count("x", by=card, over="1h", tiles=0)),
        ErrorCode.FEATURE_INVALID,
        "x.tiles",
    ),
    "too many tiles": (
        lambda: payments_of(Count("x", by=card, over="1h", tiles=61)),
        ErrorCode.FEATURE_INVALID,
        "x.tiles",
    ),
    "a stale_after in words": (
        lambda: payments_of(LastValue("x", of=Payment.amount, by=card, stale_after="soon")),
        ErrorCode.FEATURE_INVALID,
        "x.stale_after",
    ),
    "a default that is not finite": (
        lambda: payments_of(Value("x", of=Payment.amount, default=float("nan"))),
        ErrorCode.FEATURE_INVALID,
        "x.default",
    ),
    "a name with a space": (
        lambda: payments_of(Value("an amount", of=Payment.amount)),
        ErrorCode.FEATURE_INVALID,
        "feature an amount",
    ),
    "a sum that could overflow": (
        lambda: labelled_of(Sum("x", of=Labelled.unbounded, by=labelled_card)),
        ErrorCode.FEATURE_INVALID,
        "x.of",
    ),
    "a deviation of a decimal without bounds": (
        lambda: labelled_of(StandardDeviation("x", of=Labelled.large, by=labelled_card)),
        ErrorCode.FEATURE_INVALID,
        "x.of",
    ),
    "a velocity over the limit": (
        lambda: payments_of(
            Velocity(
                "x",
                latitude=Payment.latitude,
                longitude=Payment.longitude,
                by=card,
                maximum_kmh=1e9,
            )
        ),
        ErrorCode.FEATURE_INVALID,
        "x.maximum_kmh",
    ),
    "an hour of a number": (
        lambda: payments_of(HourOfDay("x", of=Payment.amount)),
        ErrorCode.FEATURE_WRONG_KIND,
        "x.of",
    ),
    "an encoding in words": (
        lambda: payments_of(DayOfWeek("x", encoding="tangent")),  # type: ignore[arg-type]
        ErrorCode.FEATURE_INVALID,
        "x.encoding",
    ),
    "an offset of two days": (
        lambda: payments_of(HourOfDay("x", utc_offset_minutes=2880)),
        ErrorCode.FEATURE_INVALID,
        "x.utc_offset_minutes",
    ),
    "a category that is not declared": (
        lambda: payments_of(CategoryEncoding("x", of=Payment.channel, values={"swipe": 1.0})),
        ErrorCode.FEATURE_INVALID,
        "x.values",
    ),
    "no feature at all": (payments_of, ErrorCode.FEATURE_INVALID, "features"),
    "something that is no feature": (
        lambda: payments_of("amount"),  # type: ignore[arg-type]
        ErrorCode.FEATURE_INVALID,
        "features",
    ),
    "a root of features": (
        lambda: payments_of(Feature("x")),
        ErrorCode.FEATURE_INVALID,
        "features",
    ),
    "a label that is no field": (
        lambda: labelled_of(Value("x", of=Labelled.scenario), labels=[Payment.amount]),
        ErrorCode.FEATURE_UNKNOWN_FIELD,
        "labels",
    ),
    "one contract for both feeds": (
        lambda: FeatureSet(
            "demo", version="1", events=Payment, feedback=Payment, features=[amount]
        ),
        ErrorCode.FEATURE_INVALID,
        "feedback",
    ),
    "events that are no contract": (
        lambda: FeatureSet(
            "demo",
            version="1",
            events=int,  # type: ignore[arg-type]
            features=[amount],
        ),
        ErrorCode.FEATURE_INVALID,
        "events",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_stand_is_refused_when_it_is_declared(name: str) -> None:
    """Each with its code, at the part that is wrong."""
    declare, code, at = REFUSED[name]
    with pytest.raises(SentinelError) as caught:
        declare()
    assert (caught.value.code, caught.value.at) == (code, at)


def test_an_integer_that_is_a_label_may_be_read_from_the_feedback() -> None:
    """The way out that the message names works."""
    features = FeatureSet(
        "demo",
        version="1",
        events=Labelled,
        feedback=Verdict,
        features=[Mean("x", of=Verdict.is_fraud, by=labelled_card, over="7d")],
    )
    assert compile_plan(features).names == ("x",)


def test_an_unfitted_encoding_cannot_be_compiled() -> None:
    """The set can be declared; it cannot run before it is fitted."""
    features = payments_of(CategoryEncoding("x", of=Payment.channel))
    assert [feature.name for feature in features.unfitted] == ["x"]
    with pytest.raises(SentinelError) as caught:
        compile_plan(features)
    assert (caught.value.code, caught.value.at) == (ErrorCode.FEATURE_UNFITTED, "feature x")


def test_data_and_back_is_the_same_set() -> None:
    """Every kind survives the way through JSON, with its identity."""
    import json

    features = every_kind()
    data = json.loads(canonical_json(features.to_data()))
    again = FeatureSet.from_data(data)
    assert again.to_data() == features.to_data()
    assert again.identity == features.identity
    assert again.names == features.names


@pytest.mark.parametrize(
    ("change", "code"),
    [
        (lambda d: d.update(format="sentinel-features-0"), ErrorCode.FEATURE_INVALID),
        (lambda d: d.update(extra=1), ErrorCode.FEATURE_INVALID),
        (lambda d: d.pop("entities"), ErrorCode.FEATURE_INVALID),
        (lambda d: d.update(identity="0" * 64), ErrorCode.FEATURE_INVALID),
        (lambda d: d["features"][0].update(kind="total"), ErrorCode.FEATURE_INVALID),
        (lambda d: d["features"][0].update(over="1h"), ErrorCode.FEATURE_INVALID),
        (lambda d: d["features"][0].pop("of"), ErrorCode.FEATURE_INVALID),
        (lambda d: d["features"][9].update(by="nobody"), ErrorCode.FEATURE_INVALID),
        (lambda d: d["features"][9].update(tiles="12"), ErrorCode.FEATURE_INVALID),
        (lambda d: d["features"][9].update(tiles=6), ErrorCode.FEATURE_INVALID),
        (
            lambda d: d["features"][0].update(of={"contract": "payment", "field": "x"}),
            ErrorCode.FEATURE_UNKNOWN_FIELD,
        ),
        (lambda d: d["entities"].append(d["entities"][0]), ErrorCode.FEATURE_INVALID),
        (lambda d: d["events"].update(name="x" * 1000), ErrorCode.CONTRACT_INVALID),
    ],
)
def test_data_that_was_changed_is_refused(
    change: Callable[[dict], object], code: ErrorCode
) -> None:
    """Unknown parts, missing parts, wrong types, and an identity that does not follow."""
    data = copy.deepcopy(every_kind().to_data())
    change(data)
    with pytest.raises(SentinelError) as caught:
        FeatureSet.from_data(data)
    assert caught.value.code is code
    assert caught.value.at


@pytest.mark.parametrize("data", [None, 3, [], {}, {"features": []}, "x", {"format": None}])
def test_data_of_another_shape_is_refused(data: object) -> None:
    """Whatever came from outside, the error is ours."""
    with pytest.raises(SentinelError) as caught:
        FeatureSet.from_data(data)
    assert caught.value.at == "feature set data"


def with_feature(place: int, **parts: object) -> FeatureSet:
    features = list(every_kind().features)
    features[place] = dataclasses.replace(features[place], **parts)
    return every_kind().with_features(features)


def place_of(name: str) -> int:
    return every_kind().names.index(name)


CHANGES_A_VALUE: dict[str, Callable[[], FeatureSet]] = {
    "default": lambda: with_feature(place_of("tip"), default=3.0),
    "window": lambda: with_feature(place_of("n"), over="2h"),
    "no window": lambda: with_feature(place_of("n"), over=None),
    "tiles": lambda: with_feature(place_of("n"), tiles=6),
    "field": lambda: with_feature(place_of("tip_most"), of=Payment.amount),
    "entity": lambda: with_feature(place_of("n"), by=merchant),
    "condition": lambda: with_feature(place_of("n"), where=Payment.is_vpn),
    "staleness": lambda: with_feature(place_of("n"), stale_after="1h"),
    "fitted number": lambda: with_feature(place_of("channel"), values={"chip": 0.6}),
    "calendar encoding": lambda: with_feature(place_of("hour"), encoding="sine"),
    "offset": lambda: with_feature(place_of("hour"), utc_offset_minutes=60),
    "cap": lambda: with_feature(place_of("kmh"), maximum_kmh=900.0),
    "operand": lambda: with_feature(place_of("amount_difference"), subtrahend="tip"),
    "order": lambda: every_kind().with_features(every_kind().features[::-1]),
    "one feature less": lambda: every_kind().with_features(every_kind().features[:9]),
    "name of a column": lambda: with_feature(place_of("hour"), name="hour_of_day"),
}


@pytest.mark.parametrize("name", CHANGES_A_VALUE)
def test_whatever_changes_a_value_changes_the_identity(name: str) -> None:
    """Every part of a definition counts."""
    assert CHANGES_A_VALUE[name]().identity != every_kind().identity


def test_a_contract_that_changes_changes_the_identity() -> None:
    """A wider bound lets other events in."""
    data = copy.deepcopy(every_kind().to_data())
    feature_set = FeatureSet.from_data(data)
    events = dataclasses.replace(
        feature_set.events,
        fields=tuple(
            dataclasses.replace(field, maximum=2000) if field.name == "n_items" else field
            for field in feature_set.events.fields
        ),
    )
    changed = FeatureSet(
        "demo", version="1", events=events, features=[Value("amount", of=Payment.amount)]
    )
    same = FeatureSet(
        "demo", version="1", events=Payment, features=[Value("amount", of=Payment.amount)]
    )
    assert changed.identity != same.identity


CHANGES_NO_VALUE: dict[str, Callable[[], FeatureSet]] = {
    "name and version of the set": lambda: FeatureSet(
        "renamed",
        version="9",
        events=Payment,
        feedback=Verdict,
        features=every_kind().features,
    ),
    "an hour in minutes": lambda: with_feature(place_of("n"), over="60m"),
    "an operand by its name": lambda: with_feature(
        place_of("amount_ratio"), numerator="amount", denominator="amount_mean"
    ),
    "tiles of a window that is none": lambda: with_feature(place_of("n_ever"), tiles=3),
    "a label that nobody reads": lambda: FeatureSet(
        "every-kind",
        version="1",
        events=Payment,
        feedback=Verdict,
        features=every_kind().features,
        labels=[Payment.n_items],
    ),
}


@pytest.mark.parametrize("name", CHANGES_NO_VALUE)
def test_what_changes_no_value_changes_no_identity(name: str) -> None:
    """Names for people, and two ways of writing one meaning."""
    assert CHANGES_NO_VALUE[name]().identity == every_kind().identity


@given(st.integers(1, 3660), st.sampled_from("smhd"))
def test_lengths_of_time_are_read_and_written(n: int, unit: str) -> None:
    """Written and read again, a length is the same."""
    length = parse_ms(f"{n}{unit}", at="over")
    assert parse_ms(write_ms(length), at="over") == length


@given(st.text(max_size=12))
def test_any_other_text_is_no_length(text: str) -> None:
    """Nothing else is read as a length, and the error names the place."""
    is_length = len(text) > 1 and text[-1] in "smhd" and text[:-1].isdecimal()
    if is_length:
        return
    with pytest.raises(SentinelError) as caught:
        parse_ms(text, at="x.over")
    assert caught.value.code is ErrorCode.FEATURE_INVALID
    assert caught.value.at == "x.over"


def test_windows_of_one_field_share_their_state() -> None:
    """Sum, mean and count of one field over one window keep one sum and one count."""
    of = Payment.amount
    one = compile_plan(payments_of(Sum("a", of=of, by=card, over="1h")))
    all_three = compile_plan(
        payments_of(
            Sum("a", of=of, by=card, over="1h"),
            Mean("b", of=of, by=card, over="60m"),
            Count("c", by=card, over="1h"),
        )
    )
    assert all_three.entity_bytes == one.entity_bytes
