"""What a feature's value means, in words: "amount 7.4 times this card's mean amount of 7 days".

Words are made of the definition (kind, entity, field, window) and the row, and of nothing of any
model. Every kind has two forms: what it is, as a noun ("this card's mean amount of the last 7
days"), and what was found, as a statement. Names lose their underscores, and ``is_`` and ``_id``
at their ends. Numbers are rounded for people. A value that is only a default says so.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from sentinel.contract import Field, FieldKind
from sentinel.features.definitions import (
    Calendar,
    CategoryEncoding,
    Count,
    DayOfWeek,
    Difference,
    Distance,
    DistinctCount,
    EntityFeature,
    Feature,
    FirstSeen,
    HourOfDay,
    LastValue,
    Maximum,
    Mean,
    Minimum,
    Ratio,
    StandardDeviation,
    Sum,
    TimeSince,
    Value,
    Velocity,
    WindowFeature,
)
from sentinel.features.durations import parse_ms
from sentinel.features.feature_set import FeatureSet
from sentinel.features.matrix import DEFAULTED, PRESENT, STALE

# What the status of a value is called, in every document.
STATUS_NAMES = {PRESENT: "present", DEFAULTED: "default", STALE: "stale"}

_UNITS = {"s": "second", "m": "minute", "h": "hour", "d": "day"}
_DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
_LENGTHS = ((86_400.0, "day"), (3_600.0, "hour"), (60.0, "minute"))
_CATEGORIES_SHOWN = 3
# Below this a multiple is easier to read as a share.
_SHARE_BELOW = 0.95

Say = Callable[[Feature, float], str]


class FeatureWords:
    """Says what the values of one feature set mean.

    Parameters
    ----------
    features : FeatureSet

    Examples
    --------
    >>> from sentinel.contract import Contract, Decimal, EventId, EventTime, Key
    >>> from sentinel.features import Entity
    >>> class Payment(Contract, name="payment", version="1"):
    ...     payment_id = EventId(bytes_max=36)
    ...     paid_at = EventTime(unit="ms")
    ...     card_id = Key(bytes_max=32)
    ...     amount = Decimal(scale=2, minimum=0, maximum=100_000)
    >>> card = Entity("card", key=Payment.card_id)
    >>> words = FeatureWords(FeatureSet("p", version="1", events=Payment, features=[
    ...     Value("amount", of=Payment.amount),
    ...     Mean("avg", of=Payment.amount, by=card, over="7d"),
    ...     Ratio("times", numerator="amount", denominator="avg")]))
    >>> words.say(2, [523.1, 70.69, 7.4], [0, 0, 0])
    "amount 7.4 times this card's mean amount of the last 7 days"
    """

    def __init__(self, features: FeatureSet) -> None:
        self._features = features.features
        self._by_name = {feature.name: feature for feature in features.features}
        self._column = {feature.name: j for j, feature in enumerate(features.features)}
        feedback = features.feedback
        self._feedback = feedback.name if feedback is not None else ""
        self._statements: dict[type[Feature], Say] = {
            Value: self._say_value,
            HourOfDay: self._say_hour,
            DayOfWeek: self._say_day,
            CategoryEncoding: self._say_category,
            Ratio: self._say_ratio,
            Difference: self._say_difference,
            Count: self._say_count,
            Sum: self._say_sum,
            Mean: self._say_mean,
            DistinctCount: self._say_distinct,
            TimeSince: self._say_time_since,
            FirstSeen: self._say_first_seen,
            Distance: self._say_distance,
            Velocity: self._say_velocity,
        }

    def say(
        self,
        j: int,
        values: Sequence[float] | npt.NDArray[np.float32],
        status: Sequence[int] | npt.NDArray[np.uint8],
    ) -> str:
        """Say what feature ``j`` of a row means.

        Parameters
        ----------
        j : int
            Column of the feature.
        values : sequence of float, shape (n_features,)
        status : sequence of int, shape (n_features,)
        """
        feature = self._features[j]
        if status[j] == STALE:
            return f"{self.noun(feature)} is out of date"
        if status[j] == DEFAULTED:
            return self._say_missing(feature, status)
        value = float(values[j])
        said = self._statements.get(type(feature), self._say_plain)(feature, value)
        if isinstance(feature, Value):
            said += self._compared(feature, value, values, status)
        return said

    def noun(self, feature: Feature) -> str:
        """Say what a feature is, without a value."""
        if isinstance(feature, Value | CategoryEncoding):
            return _plain(feature.of)
        if isinstance(feature, Calendar):
            return "time of day" if isinstance(feature, HourOfDay) else "day of the week"
        if isinstance(feature, Ratio):
            top, bottom = self._operands(feature.numerator, feature.denominator)
            return f"{self.noun(top)} over {self.noun(bottom)}"
        if isinstance(feature, Difference):
            top, bottom = self._operands(feature.minuend, feature.subtrahend)
            return f"{self.noun(top)} less {self.noun(bottom)}"
        if not isinstance(feature, EntityFeature):
            return _spaced(feature.name)
        return self._entity_noun(feature)

    # --- nouns -------------------------------------------------------------------------------

    def _entity_noun(self, feature: EntityFeature) -> str:
        whose = f"this {_spaced(feature.by.name)}"
        during, given = _window(feature), self._given(feature)
        if isinstance(feature, Count):
            return f"number of {self._events(feature)} of {whose}{given}{during}"
        if isinstance(feature, DistinctCount):
            return f"number of different {_plural(_plain(feature.of))} of {whose}{given}{during}"
        if isinstance(feature, WindowFeature):
            return f"{whose}'s {_statistic(feature)}{given}{during}"
        if isinstance(feature, LastValue):
            return f"{whose}'s last {_plain(feature.of)}{given}"
        if isinstance(feature, TimeSince):
            return f"time since {whose}'s last {self._event(feature)}{given}"
        if isinstance(feature, FirstSeen):
            return f"time that {whose} has been known"
        if isinstance(feature, Distance):
            return f"distance from {whose}'s last place"
        return f"speed from {whose}'s last place"

    def _events(self, feature: EntityFeature) -> str:
        return f"{self._event(feature)}s"

    def _event(self, feature: EntityFeature) -> str:
        of = getattr(feature, "of", None)
        field = feature.where or (of if isinstance(of, Field) else None)
        return "verdict" if field is not None and self._is_feedback(field) else "event"

    def _is_feedback(self, field: Field) -> bool:
        return bool(self._feedback) and field.contract == self._feedback

    def _given(self, feature: EntityFeature) -> str:
        return f" with {_plain(feature.where)}" if feature.where is not None else ""

    def _operands(self, *operands: Feature | str) -> tuple[Feature, ...]:
        return tuple(self._by_name[each] if isinstance(each, str) else each for each in operands)

    # --- statements --------------------------------------------------------------------------

    def _say_plain(self, feature: Feature, value: float) -> str:
        return f"{self.noun(feature)} is {_amount(_field_of(feature), value)}"

    def _say_value(self, feature: Feature, value: float) -> str:
        field = _field_of(feature)
        if field is not None and field.kind is FieldKind.BOOLEAN:
            return f"{_plain(field)}: {'yes' if value else 'no'}"
        return f"{self.noun(feature)} {_amount(field, value)}"

    def _compared(
        self,
        feature: Value,
        value: float,
        values: Sequence[float] | npt.NDArray[np.float32],
        status: Sequence[int] | npt.NDArray[np.uint8],
    ) -> str:
        """Hold an amount against the longest mean of the same field that the row has."""
        if feature.of.kind is FieldKind.BOOLEAN:
            return ""
        means = [
            each
            for each in self._features
            if isinstance(each, Mean)
            and each.of == feature.of
            and each.where is None
            and status[self._column[each.name]] not in {STALE, DEFAULTED}
            and float(values[self._column[each.name]]) > 0
        ]
        if not means or value < 0:
            return ""
        longest = max(means, key=_length_ms)
        times = value / float(values[self._column[longest.name]])
        return f", {_times(times)} {self.noun(longest)}"

    def _say_hour(self, feature: Feature, value: float) -> str:
        if isinstance(feature, Calendar) and feature.encoding == "number":
            return f"at {int(value):02d} o'clock"
        return "the time of day"

    def _say_day(self, feature: Feature, value: float) -> str:
        if isinstance(feature, Calendar) and feature.encoding == "number" and 0 <= value < 7:
            return f"on a {_DAYS[int(value)]}"
        return "the day of the week"

    def _say_category(self, feature: Feature, value: float) -> str:
        if not isinstance(feature, CategoryEncoding):
            return self.noun(feature)
        single = np.float32(value)
        fitted = feature.values or {}
        names = [name for name, number in fitted.items() if np.float32(number) == single]
        noun = self.noun(feature)
        if not names:
            return f"{noun} of a kind that was not seen in training"
        shown = " or ".join(names[:_CATEGORIES_SHOWN])
        return f"{noun} {shown}" if len(names) <= _CATEGORIES_SHOWN else f"{noun} {shown}, or like"

    def _say_ratio(self, feature: Feature, value: float) -> str:
        if not isinstance(feature, Ratio):
            return self.noun(feature)
        top, bottom = self._operands(feature.numerator, feature.denominator)
        return f"{self.noun(top)} {_times(value)} {self.noun(bottom)}"

    def _say_difference(self, feature: Feature, value: float) -> str:
        if not isinstance(feature, Difference):
            return self.noun(feature)
        top, bottom = self._operands(feature.minuend, feature.subtrahend)
        side = "above" if value >= 0 else "below"
        amount = _amount(_field_of(top), abs(value))
        return f"{self.noun(top)} {amount} {side} {self.noun(bottom)}"

    def _say_count(self, feature: Feature, value: float) -> str:
        if not isinstance(feature, Count):
            return self.noun(feature)
        n, given = round(value), self._given(feature)
        count = "no" if n == 0 else f"{n:,}"
        events = self._event(feature) if n == 1 else self._events(feature)
        return f"{count} {events} of this {_spaced(feature.by.name)}{given}{_in_window(feature)}"

    def _say_distinct(self, feature: Feature, value: float) -> str:
        if not isinstance(feature, DistinctCount):
            return self.noun(feature)
        n, what = round(value), _plain(feature.of)
        count = "no" if n == 0 else f"{n:,}"
        things = what if n == 1 else f"different {_plural(what)}"
        whose = f"this {_spaced(feature.by.name)}"
        return f"{count} {things} of {whose}{self._given(feature)}{_in_window(feature)}"

    def _say_sum(self, feature: Feature, value: float) -> str:
        field = _field_of(feature)
        if not isinstance(feature, Sum) or field is None or field.kind is not FieldKind.BOOLEAN:
            return self._say_plain(feature, value)
        n, whose = round(value), f"this {_spaced(feature.by.name)}"
        count = "no" if n == 0 else f"{n:,}"
        events = self._event(feature) if n == 1 else self._events(feature)
        return f"{count} {events} of {_plain(field)} for {whose}{_in_window(feature)}"

    def _say_mean(self, feature: Feature, value: float) -> str:
        field = _field_of(feature)
        if not isinstance(feature, Mean) or field is None or field.kind is not FieldKind.BOOLEAN:
            return self._say_plain(feature, value)
        whose = f"this {_spaced(feature.by.name)}"
        return f"{_plain(field)} in {_share(value)} of {whose}'s {self._events(feature)}" + (
            _in_window(feature)
        )

    def _say_time_since(self, feature: Feature, value: float) -> str:
        if not isinstance(feature, TimeSince):
            return self.noun(feature)
        event = f"this {_spaced(feature.by.name)}'s last {self._event(feature)}"
        return f"{_length(value)} since {event}{self._given(feature)}"

    def _say_first_seen(self, feature: Feature, value: float) -> str:
        whose = _spaced(feature.by.name) if isinstance(feature, FirstSeen) else ""
        return f"this {whose} was first seen {_length(value)} ago"

    def _say_distance(self, feature: Feature, value: float) -> str:
        whose = _spaced(feature.by.name) if isinstance(feature, Distance) else ""
        return f"{_number(value)} km from this {whose}'s last place"

    def _say_velocity(self, feature: Feature, value: float) -> str:
        whose = _spaced(feature.by.name) if isinstance(feature, Velocity) else ""
        return f"{_number(value)} km/h from this {whose}'s last place"

    def _say_missing(self, feature: Feature, status: Sequence[int] | npt.NDArray[np.uint8]) -> str:
        """Say why there is only a default."""
        if isinstance(feature, CategoryEncoding):
            return f"{self.noun(feature)} of a kind that was not seen in training"
        if isinstance(feature, Ratio | Difference):
            first = feature.numerator if isinstance(feature, Ratio) else feature.minuend
            second = feature.denominator if isinstance(feature, Ratio) else feature.subtrahend
            for operand in self._operands(first, second):
                column = self._column.get(operand.name)
                if column is not None and status[column] == DEFAULTED:
                    return self._say_missing(operand, status)
                if column is not None and status[column] == STALE:
                    return f"{self.noun(operand)} is out of date"
            return f"nothing to compare {self.noun(self._operands(first)[0])} with"
        if not isinstance(feature, EntityFeature):
            return f"{self.noun(feature)} is not given"
        whose = _spaced(feature.by.name)
        if feature.by.key.nullable and isinstance(feature, Count | DistinctCount):
            return f"no {whose} is given"
        if isinstance(feature, FirstSeen):
            absent = f"no {whose} is given, or it" if feature.by.key.nullable else f"this {whose}"
            return f"{absent} was never seen before"
        lead = f"no {whose}, or " if feature.by.key.nullable else ""
        return f"{lead}no history of this {whose} yet for {self.noun(feature)}"


def _spaced(name: str) -> str:
    return name.replace("_", " ").replace("-", " ")


def _plain(field: Field) -> str:
    return _spaced(field.name.removeprefix("is_").removesuffix("_id"))


def _plural(noun: str) -> str:
    return f"{noun[:-1]}ies" if noun.endswith("y") else f"{noun}s"


def _field_of(feature: Feature) -> Field | None:
    of = getattr(feature, "of", None)
    return of if isinstance(of, Field) else None


def _statistic(feature: WindowFeature) -> str:
    what = _plain(feature.of)
    if isinstance(feature, StandardDeviation):
        return f"usual spread of {what}"
    words = {Sum: "total", Mean: "mean", Minimum: "smallest", Maximum: "largest"}
    return f"{words.get(type(feature), feature.kind)} {what}"


def _over(feature: Feature) -> str:
    over = getattr(feature, "over", None)
    if not isinstance(over, str):
        return ""
    n, unit = over[:-1], _UNITS[over[-1]]
    return f"last {unit}" if n == "1" else f"last {n} {unit}s"


def _window(feature: Feature) -> str:
    return f" of the {_over(feature)}" if _over(feature) else ""


def _in_window(feature: Feature) -> str:
    return f" in the {_over(feature)}" if _over(feature) else " so far"


def _length_ms(feature: Mean) -> float:
    return parse_ms(feature.over, at=feature.name) if feature.over else float("inf")


def _amount(field: Field | None, value: float) -> str:
    if field is not None and field.kind is FieldKind.DECIMAL:
        return f"{value:,.{min(field.scale, 2)}f}"
    return _number(value)


def _number(value: float) -> str:
    """Three significant digits, or all of an integer."""
    if abs(value) >= 100 or value == round(value):
        return f"{value:,.0f}"
    return f"{value:.3g}"


def _times(value: float) -> str:
    if 0 <= value < _SHARE_BELOW:
        return f"{_share(value)} of"
    return f"{_number(float(f'{value:.2g}') if abs(value) < 100 else value)} times"


def _share(value: float) -> str:
    return f"{100 * value:.2g} %" if value < 0.995 else f"{100 * value:.0f} %"


def _length(seconds: float) -> str:
    """Say a length of time in its largest unit."""
    for size, unit in _LENGTHS:
        if seconds >= size:
            n = _number(float(f"{seconds / size:.2g}") if seconds / size < 100 else seconds / size)
            return f"{n} {unit}" if n == "1" else f"{n} {unit}s"
    n = _number(seconds)
    return f"{n} second" if n == "1" else f"{n} seconds"
