"""How features are declared: one class a kind, over contract fields and entities.

Every feature reads what stood before the event; the event itself only gives its own fields, its
time and its keys. A feature over a field of the feedback contract sees a verdict from its
known-at time on, never before.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar, Literal

from sentinel.contract import Field
from sentinel.core import limits

CalendarEncoding = Literal["number", "sine", "cosine"]


@dataclass(frozen=True, slots=True)
class Entity:
    """What state is kept for: a card, a merchant, a device.

    Parameters
    ----------
    name : str
    key : Field
        The field of the event contract that names it; null means no such entity.
    feedback_key : Field, optional
        The field of the feedback contract that names it; by default the one of the same name.
    forget_after : str, optional
        How long it may be idle, as ``"90d"``, before it is forgotten: read as one that was never
        seen. At least its longest window. By default twice the longest window where only windows
        are kept of it, else never: then state grows with every new key.
    """

    name: str
    key: Field
    feedback_key: Field | None = None
    forget_after: str | None = None


@dataclass(frozen=True, slots=True)
class Feature:
    """The root of all kinds of feature.

    Parameters
    ----------
    name : str
        Its column in the feature matrix: a lower-case identifier.
    default : float
        The value where there is nothing to compute from, or it is stale; the status says so.
    """

    kind: ClassVar[str]

    name: str
    default: float = field(default=0.0, kw_only=True)


@dataclass(frozen=True, slots=True)
class Value(Feature):
    """A field of the event itself: integer, decimal (major units), float, boolean (0 or 1)."""

    kind: ClassVar[str] = "value"

    of: Field = field(kw_only=True)


@dataclass(frozen=True, slots=True)
class Calendar(Feature):
    """The root of calendar features, of a time field (the event time by default).

    Parameters
    ----------
    of : Field, optional
        A time field of the event contract.
    encoding : str
        ``number``; or ``sine`` and ``cosine`` of the place in the cycle, in milliseconds.
    utc_offset_minutes : int
        Where the clock on the wall differs from UTC; -840 to 840.
    """

    of: Field | None = field(default=None, kw_only=True)
    encoding: CalendarEncoding = field(default="number", kw_only=True)
    utc_offset_minutes: int = field(default=0, kw_only=True)


@dataclass(frozen=True, slots=True)
class HourOfDay(Calendar):
    """Hour of the day, 0 to 23, or its place on the circle."""

    kind: ClassVar[str] = "hour-of-day"


@dataclass(frozen=True, slots=True)
class DayOfWeek(Calendar):
    """Day of the week, Monday 0 to Sunday 6, or its place on the circle."""

    kind: ClassVar[str] = "day-of-week"


@dataclass(frozen=True, slots=True)
class CategoryEncoding(Feature):
    """A number for each value of a category, fitted on the training part and carried as data.

    Parameters
    ----------
    of : Field
        A category of the event contract.
    values : mapping of str to float, optional
        The fitted numbers; a value that is not there gets the default. None until it is fitted
        by training; a feature set cannot be compiled before.
    """

    kind: ClassVar[str] = "category-encoding"

    of: Field = field(kw_only=True)
    values: Mapping[str, float] | None = field(default=None, kw_only=True)


@dataclass(frozen=True, slots=True)
class Ratio(Feature):
    """``numerator / denominator`` of two features of the set; the default where it is over 0.

    Parameters
    ----------
    numerator, denominator : Feature or str
        Features of the same set, or their names. Where one has no value, nor has the ratio.
    """

    kind: ClassVar[str] = "ratio"

    numerator: Feature | str = field(kw_only=True)
    denominator: Feature | str = field(kw_only=True)


@dataclass(frozen=True, slots=True)
class Difference(Feature):
    """``minuend - subtrahend`` of two features of the set.

    Parameters
    ----------
    minuend, subtrahend : Feature or str
        Features of the same set, or their names. Where one has no value, nor has the difference.
    """

    kind: ClassVar[str] = "difference"

    minuend: Feature | str = field(kw_only=True)
    subtrahend: Feature | str = field(kw_only=True)


@dataclass(frozen=True, slots=True)
class EntityFeature(Feature):
    """The root of features that come from what an entity did before.

    Parameters
    ----------
    by : Entity
        Whose events; where its key is null there is no value.
    where : Field, optional
        A boolean field of the same contract: only events in which it is true count.
    stale_after : str, optional
        A value that dates from longer ago is read as *stale*: the default, with that status.
    """

    by: Entity = field(kw_only=True)
    where: Field | None = field(default=None, kw_only=True)
    stale_after: str | None = field(default=None, kw_only=True)


@dataclass(frozen=True, slots=True)
class WindowFeature(EntityFeature):
    """The root of features over a window of an entity's events.

    Parameters
    ----------
    of : Field
        The field that is aggregated; null values are passed over.
    over : str, optional
        Length of the window, as ``"24h"``; the whole history by default.
    tiles : int
        Slices of the window, 1 to 60; it looks back between ``over - over/tiles`` and ``over``.
    """

    of: Field = field(kw_only=True)
    over: str | None = field(default=None, kw_only=True)
    tiles: int = field(default=limits.WINDOW_TILES_DEFAULT, kw_only=True)


@dataclass(frozen=True, slots=True)
class Count(EntityFeature):
    """How many events; with ``of``, in how many that field was not null. 0 is a value.

    Parameters
    ----------
    of : Field, optional
    over : str, optional
    tiles : int
        See :class:`WindowFeature`.
    """

    kind: ClassVar[str] = "count"

    of: Field | None = field(default=None, kw_only=True)
    over: str | None = field(default=None, kw_only=True)
    tiles: int = field(default=limits.WINDOW_TILES_DEFAULT, kw_only=True)


@dataclass(frozen=True, slots=True)
class Sum(WindowFeature):
    """Sum; exact for integers, booleans and decimals."""

    kind: ClassVar[str] = "sum"


@dataclass(frozen=True, slots=True)
class Mean(WindowFeature):
    """Mean; of a boolean, the share of true."""

    kind: ClassVar[str] = "mean"


@dataclass(frozen=True, slots=True)
class Minimum(WindowFeature):
    """Smallest value."""

    kind: ClassVar[str] = "minimum"


@dataclass(frozen=True, slots=True)
class Maximum(WindowFeature):
    """Largest value."""

    kind: ClassVar[str] = "maximum"


@dataclass(frozen=True, slots=True)
class StandardDeviation(WindowFeature):
    """Sample standard deviation (n - 1); none below two values."""

    kind: ClassVar[str] = "standard-deviation"


@dataclass(frozen=True, slots=True)
class DistinctCount(WindowFeature):
    """How many different values: exact up to 16, then estimated. 0 is a value.

    HyperLogLog of 256 registers: standard error at most 6.5 %.
    """

    kind: ClassVar[str] = "distinct-count"


@dataclass(frozen=True, slots=True)
class LastValue(EntityFeature):
    """The value in the entity's event of latest event time.

    Parameters
    ----------
    of : Field
        Integer, decimal, float or boolean; null values are passed over.
    """

    kind: ClassVar[str] = "last-value"

    of: Field = field(kw_only=True)


@dataclass(frozen=True, slots=True)
class TimeSince(EntityFeature):
    """Seconds since the entity's latest event; never negative."""

    kind: ClassVar[str] = "time-since"


@dataclass(frozen=True, slots=True)
class FirstSeen(EntityFeature):
    """Seconds since the entity's first event; never negative."""

    kind: ClassVar[str] = "first-seen"


@dataclass(frozen=True, slots=True)
class Distance(EntityFeature):
    """Great-circle kilometres from the entity's last position to this event's.

    Parameters
    ----------
    latitude, longitude : Field
        Float fields of the event contract, in degrees.
    """

    kind: ClassVar[str] = "distance"

    latitude: Field = field(kw_only=True)
    longitude: Field = field(kw_only=True)


@dataclass(frozen=True, slots=True)
class Velocity(EntityFeature):
    """Kilometres an hour from the entity's last position to this event's.

    Two positions at once are the largest velocity, not infinity.

    Parameters
    ----------
    latitude, longitude : Field
        Float fields of the event contract, in degrees.
    maximum_kmh : float
        Where the value is cut.
    """

    kind: ClassVar[str] = "velocity"

    latitude: Field = field(kw_only=True)
    longitude: Field = field(kw_only=True)
    maximum_kmh: float = field(default=limits.VELOCITY_KMH_MAX, kw_only=True)


# Every kind that can stand in a feature set, by its name in data.
KINDS: Mapping[str, type[Feature]] = {
    kind.kind: kind
    for kind in (
        Value,
        HourOfDay,
        DayOfWeek,
        CategoryEncoding,
        Ratio,
        Difference,
        Count,
        Sum,
        Mean,
        Minimum,
        Maximum,
        StandardDeviation,
        DistinctCount,
        LastValue,
        TimeSince,
        FirstSeen,
        Distance,
        Velocity,
    )
}
