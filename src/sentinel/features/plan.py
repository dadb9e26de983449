"""Compile a feature set and its contracts to the plain arrays that drive the kernel.

Partial results are shared: the mean and the sum of one field over one window keep one sum and one
count. A window is (entity, feed, hop, number of tiles); all that is kept over the whole history
of an entity is a window without tiles.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from sentinel.contract import ContractSchema, Field, FieldKind
from sentinel.core.errors import ErrorCode, SentinelError
from sentinel.features import aggregates as agg
from sentinel.features import reading as read
from sentinel.features.checks import EXACT, Reader, operands_of, order_of
from sentinel.features.definitions import (
    Calendar,
    CategoryEncoding,
    Count,
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
from sentinel.features.layout import (
    CACHE_LINE_WORDS,
    E_COLUMNS,
    E_END_WINDOW,
    E_FEEDBACK_KEY,
    E_FIRST_WINDOW,
    E_FRONT,
    E_KEY,
    E_SPAN,
    E_WORDS,
    F_A,
    F_AGE_AT,
    F_AGE_WINDOW,
    F_B,
    F_C,
    F_COLUMN,
    F_COLUMN_2,
    F_COLUMNS,
    F_ENCODING,
    F_LEFT,
    F_OFFSET_MS,
    F_OPCODE,
    F_REAL_COLUMNS,
    F_RIGHT,
    F_STALE_MS,
    F_WINDOW,
    HEADER_WORDS,
    LIFE_SLICES,
    P_AT,
    P_COLUMN,
    P_COLUMN_2,
    P_COLUMNS,
    P_FLOAT,
    P_OPCODE,
    P_WHERE,
    P_WORDS,
    ROW_HEADER_WORDS,
    W_AT,
    W_BLOCK,
    W_COLUMNS,
    W_EMPTY,
    W_END,
    W_ENTITY,
    W_FEED,
    W_FIRST,
    W_HOP,
    W_LINEAR,
    W_RING,
    W_SCRATCH,
    W_TILES,
    Tables,
)

Int64Array = npt.NDArray[np.int64]
Float64Array = npt.NDArray[np.float64]

_ENCODINGS = {"number": 0, "sine": 1, "cosine": 2}
_NO_COLUMN = -1


@dataclass(frozen=True, slots=True, kw_only=True)
class FeaturePlan:
    """A compiled feature set.

    Attributes
    ----------
    features : FeatureSet
    identity : str
        Of the feature set.
    tables : Tables
        What the kernel is driven by.
    head : ndarray of int64, shape (n_words,)
        How every arena begins: a scratch and an empty block for each window.
    entity_bytes : dict of str to int
        Bytes of one entity's row, by entity name; the index adds 32 to 64.
    """

    features: FeatureSet
    identity: str
    tables: Tables
    head: Int64Array
    entity_bytes: dict[str, int]

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the features; column order of the matrix."""
        return self.features.names


@dataclass(slots=True)
class _Window:
    """A window that is being filled with partial results."""

    hop_ms: int
    n_tiles: int
    partials: list[tuple[int, ...]] = field(default_factory=list)
    n_words: int = 0
    number: int = -1

    def take(self, opcode: int, *, column: int, column_2: int, where: int, is_float: bool) -> int:
        """Keep a partial result, shared with those who want the same; return its offset."""
        wanted = (opcode, column, column_2, where)
        for row in self.partials:
            if (row[P_OPCODE], row[P_COLUMN], row[P_COLUMN_2], row[P_WHERE]) == wanted:
                return row[P_AT]
        row_ = [0] * P_COLUMNS
        row_[P_OPCODE], row_[P_COLUMN], row_[P_COLUMN_2], row_[P_WHERE] = wanted
        row_[P_AT], row_[P_WORDS] = self.n_words, agg.WORDS[opcode]
        row_[P_FLOAT] = int(is_float)
        self.partials.append(tuple(row_))
        self.n_words += agg.WORDS[opcode]
        return row_[P_AT]

    @property
    def front_words(self) -> int:
        """Words of header and total, at the front of an entity's row."""
        return (HEADER_WORDS if self.hop_ms else 0) + self.n_words

    @property
    def ring_words(self) -> int:
        """Words of the ring, at the back of an entity's row."""
        return self.n_tiles * self.n_words


@dataclass(slots=True)
class _Row:
    """A feature's row of the tables; the window is numbered when all are known."""

    opcode: int
    window: _Window | None = None
    a: int = 0
    b: int = 0
    c: int = 0
    column: int = 0
    column_2: int = 0
    encoding: int = 0
    offset_ms: int = 0
    stale_ms: int = 0
    age_window: _Window | None = None
    age_at: int = 0
    divisor: float = 1.0
    cap: float = 0.0


class _Compiler:
    """Turns features into rows, collecting windows on the way."""

    def __init__(self, features: FeatureSet) -> None:
        self.reader: Reader = features.reader()
        self.events: ContractSchema = features.events
        self.feedback: ContractSchema | None = features.feedback
        self.entities = features.entities
        self.horizons = features.horizons_ms
        # By entity, then by (feed, hop, tiles); dictionaries keep the order of first use.
        self.windows: list[dict[tuple[int, int, int], _Window]] = [{} for _ in self.entities]
        self.codes: list[float] = []

    def window(self, feature: EntityFeature, hop_ms: int, n_tiles: int) -> _Window:
        """Find or make a window of the feature's entity and feed."""
        entity = [entity.name for entity in self.entities].index(feature.by.name)
        key = (int(self.reader.feed_of(feature)), hop_ms, n_tiles)
        return self.windows[entity].setdefault(key, _Window(hop_ms, n_tiles))

    def window_of(self, feature: EntityFeature) -> _Window:
        """Find or make the window that a feature is over."""
        over = getattr(feature, "over", None)
        if not isinstance(over, str):
            return self.window(feature, 0, 0)
        n_tiles = int(getattr(feature, "tiles", 1))
        return self.window(feature, parse_ms(over, at=feature.name) // n_tiles, n_tiles)

    def column(self, wanted: Field | None) -> int:
        """Return the column of a field in its own contract; -1 for none."""
        if wanted is None:
            return _NO_COLUMN
        is_feedback = self.feedback is not None and wanted.contract == self.feedback.name
        schema = self.feedback if is_feedback and self.feedback is not None else self.events
        return schema.fields.index(wanted)

    def take(
        self, window: _Window, opcode: int, feature: EntityFeature, of: Field | None = None
    ) -> int:
        """Keep a partial result of one field for a feature."""
        return window.take(
            opcode,
            column=self.column(of),
            column_2=_NO_COLUMN,
            where=self.column(feature.where),
            is_float=of is not None and of.kind is FieldKind.FLOAT,
        )

    def take_count(self, window: _Window, feature: EntityFeature, of: Field | None) -> int:
        """Keep a count of values; of a field that is always there, it is the count of events."""
        always = of is None or (not of.nullable and of.required and of.kind is not FieldKind.FLOAT)
        return self.take(window, agg.COUNT, feature, None if always else of)

    def compile(self, feature: Feature) -> _Row:
        """Turn a feature into its row."""
        if isinstance(feature, EntityFeature):
            row = self._entity_row(feature)
            if feature.stale_after is not None:
                self._date(row, feature)
            return row
        if isinstance(feature, Ratio):
            return _Row(read.RATIO)
        if isinstance(feature, Difference):
            return _Row(read.DIFFERENCE)
        return self._event_row(feature)

    def _event_row(self, feature: Feature) -> _Row:
        if isinstance(feature, Calendar):
            is_hour = isinstance(feature, HourOfDay)
            return _Row(
                read.HOUR if is_hour else read.WEEKDAY,
                column=self.column(feature.of or self.events.event_time),
                encoding=_ENCODINGS[feature.encoding],
                offset_ms=feature.utc_offset_minutes * 60_000,
            )
        if isinstance(feature, CategoryEncoding):
            first = len(self.codes)
            fitted = feature.values or {}
            self.codes += [float(fitted.get(v, feature.default)) for v in feature.of.values]
            return _Row(read.CATEGORY, column=self.column(feature.of), encoding=first)
        if isinstance(feature, Value):
            opcode = read.VALUE_INT if feature.of.kind in EXACT else read.VALUE_FLOAT
            return _Row(opcode, column=self.column(feature.of), divisor=_unit(feature.of))
        raise TypeError(f"no rule to compile {feature.kind}")

    def _entity_row(self, feature: EntityFeature) -> _Row:
        window = self.window_of(feature)
        if isinstance(feature, Count):
            return _Row(read.COUNT, window, a=self.take_count(window, feature, feature.of))
        if isinstance(feature, DistinctCount):
            a = self.take(window, agg.DISTINCT, feature, feature.of)
            return _Row(read.DISTINCT, window, a=a)
        if isinstance(feature, WindowFeature):
            return self._statistic_row(feature, window)
        if isinstance(feature, LastValue):
            is_exact = feature.of.kind in EXACT
            a = self.take(window, agg.LAST, feature, feature.of)
            opcode = read.LAST_INT if is_exact else read.LAST_FLOAT
            return _Row(opcode, window, a=a, divisor=_unit(feature.of))
        if isinstance(feature, TimeSince):
            return _Row(read.SINCE, window, a=self.take(window, agg.MAXIMUM_INT, feature))
        if isinstance(feature, FirstSeen):
            return _Row(read.AGE, window, a=self.take(window, agg.MINIMUM_INT, feature))
        if isinstance(feature, Distance | Velocity):
            return self._movement_row(feature, window)
        raise TypeError(f"no rule to compile {feature.kind}")

    def _statistic_row(self, feature: WindowFeature, window: _Window) -> _Row:
        is_exact = feature.of.kind in EXACT
        row = _Row(read.COUNT, window, divisor=_unit(feature.of))
        row.b = self.take_count(window, feature, feature.of)
        opcodes = {
            Sum: (agg.SUM_INT, agg.SUM_FLOAT, read.SUM_INT, read.SUM_FLOAT),
            Mean: (agg.SUM_INT, agg.SUM_FLOAT, read.MEAN_INT, read.MEAN_FLOAT),
            Minimum: (
                agg.MINIMUM_INT,
                agg.MINIMUM_FLOAT,
                read.EXTREME_INT,
                read.EXTREME_FLOAT,
            ),
            Maximum: (
                agg.MAXIMUM_INT,
                agg.MAXIMUM_FLOAT,
                read.EXTREME_INT,
                read.EXTREME_FLOAT,
            ),
            StandardDeviation: (
                agg.SUM_INT,
                agg.MOMENTS_FLOAT,
                read.DEVIATION_INT,
                read.DEVIATION_FLOAT,
            ),
        }[type(feature)]
        row.opcode = opcodes[2 if is_exact else 3]
        row.a = self.take(window, opcodes[0 if is_exact else 1], feature, feature.of)
        if row.opcode == read.DEVIATION_INT:
            row.c = self.take(window, agg.SQUARES_INT, feature, feature.of)
        return row

    def _movement_row(self, feature: Distance | Velocity, window: _Window) -> _Row:
        latitude, longitude = self.column(feature.latitude), self.column(feature.longitude)
        a = window.take(
            agg.POSITION,
            column=latitude,
            column_2=longitude,
            where=self.column(feature.where),
            is_float=True,
        )
        is_velocity = isinstance(feature, Velocity)
        return _Row(
            read.VELOCITY if is_velocity else read.DISTANCE,
            window,
            a=a,
            column=latitude,
            column_2=longitude,
            cap=feature.maximum_kmh if isinstance(feature, Velocity) else 0.0,
        )

    def _date(self, row: _Row, feature: EntityFeature) -> None:
        """Say from when the value dates: of a last value itself, else of the latest event."""
        row.stale_ms = parse_ms(str(feature.stale_after), at=feature.name)
        if row.opcode in {read.LAST_INT, read.LAST_FLOAT, read.DISTANCE, read.VELOCITY}:
            row.age_window, row.age_at = row.window, row.a
            return
        row.age_window = self.window(feature, 0, 0)
        row.age_at = self.take(row.age_window, agg.MAXIMUM_INT, feature)


def _unit(of: Field) -> float:
    return float(10**of.scale)


def compile_plan(features: FeatureSet) -> FeaturePlan:
    """Compile a feature set.

    Raises
    ------
    SentinelError
        ``feature-unfitted`` where an encoding has no numbers yet.
    """
    for feature in features.unfitted:
        raise SentinelError(
            ErrorCode.FEATURE_UNFITTED,
            at=f"feature {feature.name}",
            expected="fitted values",
            got="none",
            hint="Fit it on the training part first.",
        )
    compiler = _Compiler(features)
    rows = [compiler.compile(feature) for feature in features.features]
    windows, partials, head = _window_tables(compiler)
    entities = _entity_table(compiler)
    table, reals = _feature_tables(features, rows)
    feedback_id = -1
    if features.feedback is not None:
        feedback_id = features.feedback.fields.index(features.feedback.event_id)
    events = features.events
    columns = [events.fields.index(events.event_id), events.fields.index(events.event_time)]
    tables = Tables(
        entities=entities,
        windows=windows,
        partials=partials,
        features=table,
        feature_reals=reals,
        order=np.array(order_of(features.features), dtype=np.int64),
        codes=np.array([*compiler.codes, 0.0], dtype=np.float64),
        columns=np.array([*columns, feedback_id, len(head)], dtype=np.int64),
    )
    return FeaturePlan(
        features=features,
        identity=features.identity,
        tables=tables,
        head=head,
        entity_bytes={
            entity.name: int(row[E_WORDS]) * 8
            for entity, row in zip(features.entities, entities, strict=True)
        },
    )


def _window_tables(compiler: _Compiler) -> tuple[Int64Array, Int64Array, Int64Array]:
    """Give the windows numbers; lay out their partial results and the arena's head."""
    windows: list[list[int]] = []
    partials: list[tuple[int, ...]] = []
    head: list[Int64Array] = []
    n_head = 0
    for entity, of_entity in enumerate(compiler.windows):
        at = ROW_HEADER_WORDS
        ring = at + sum(window.front_words for window in of_entity.values())
        for (feed, hop_ms, n_tiles), window in of_entity.items():
            window.number = len(windows)
            blocks = np.concatenate([agg.empty(row[P_OPCODE]) for row in window.partials])
            row = [0] * W_COLUMNS
            row[W_ENTITY], row[W_FEED], row[W_HOP], row[W_TILES] = entity, feed, hop_ms, n_tiles
            row[W_AT], row[W_RING], row[W_BLOCK] = at, ring - at, window.n_words
            row[W_FIRST], row[W_END] = len(partials), len(partials) + len(window.partials)
            row[W_SCRATCH], row[W_EMPTY] = n_head, n_head + window.n_words
            row[W_LINEAR] = int(all(agg.IS_LINEAR[p[P_OPCODE]] for p in window.partials))
            windows.append(row)
            partials.extend(window.partials)
            head += [blocks, blocks]
            n_head += 2 * window.n_words
            at += window.front_words
            ring += window.ring_words
    # The first row begins a cache line, and not at 0: an index place of 0 is an empty one.
    head.append(np.zeros(_whole_lines(n_head + 1) - n_head, dtype=np.int64))
    return (
        np.array(windows, dtype=np.int64).reshape(-1, W_COLUMNS),
        np.array(partials, dtype=np.int64).reshape(-1, P_COLUMNS),
        np.concatenate(head),
    )


def _entity_table(compiler: _Compiler) -> Int64Array:
    """Lay out the entities: key columns, words of a row and of its front, windows."""
    rows = []
    first = 0
    for entity, of_entity in zip(compiler.entities, compiler.windows, strict=True):
        n_front = ROW_HEADER_WORDS + sum(window.front_words for window in of_entity.values())
        n_words = n_front + sum(window.ring_words for window in of_entity.values())
        row = [0] * E_COLUMNS
        row[E_KEY] = compiler.column(entity.key)
        # Feedback makes no row for an entity that keeps nothing of it.
        keeps_feedback = any(feed == 1 for feed, _, _ in of_entity)
        feedback_key = compiler.reader.feedback_key(entity) if keeps_feedback else None
        row[E_FEEDBACK_KEY] = compiler.column(feedback_key)
        row[E_WORDS], row[E_FRONT] = _whole_lines(n_words), n_front
        row[E_FIRST_WINDOW], row[E_END_WINDOW] = first, first + len(of_entity)
        # Rounded up: what is idle for all slices is older than the horizon.
        row[E_SPAN] = -(-compiler.horizons[entity.name] // LIFE_SLICES)
        rows.append(row)
        first += len(of_entity)
    return np.array(rows, dtype=np.int64).reshape(-1, E_COLUMNS)


def _whole_lines(n_words: int) -> int:
    return -(-n_words // CACHE_LINE_WORDS) * CACHE_LINE_WORDS


def _feature_tables(features: FeatureSet, rows: list[_Row]) -> tuple[Int64Array, Float64Array]:
    """Write the rows of features as arrays."""
    table = np.zeros((len(rows), F_COLUMNS), dtype=np.int64)
    reals = np.zeros((len(rows), F_REAL_COLUMNS), dtype=np.float64)
    for i, (row, feature) in enumerate(zip(rows, features.features, strict=True)):
        operands = [features.names.index(name) for name in operands_of(feature)] or [0, 0]
        table[i, F_OPCODE] = row.opcode
        table[i, F_WINDOW] = row.window.number if row.window else -1
        table[i, F_A], table[i, F_B], table[i, F_C] = row.a, row.b, row.c
        table[i, F_COLUMN], table[i, F_COLUMN_2] = row.column, row.column_2
        table[i, F_LEFT], table[i, F_RIGHT] = operands
        table[i, F_ENCODING], table[i, F_OFFSET_MS] = row.encoding, row.offset_ms
        table[i, F_STALE_MS], table[i, F_AGE_AT] = row.stale_ms, row.age_at
        table[i, F_AGE_WINDOW] = row.age_window.number if row.age_window else 0
        reals[i] = (feature.default, row.divisor, row.cap)
    return table, reals
