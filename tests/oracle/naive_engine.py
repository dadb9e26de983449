"""The meaning of features, written down plainly: every event is kept, every value counted anew.

Exact arithmetic (integers, fractions) and Python's own statistics. Nothing of the engine is used.
"""

from __future__ import annotations

import math
import statistics
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from fractions import Fraction

import numpy as np

from sentinel.contract import ContractSchema, EventBatch
from sentinel.features import (
    CategoryEncoding,
    Count,
    DayOfWeek,
    Difference,
    Distance,
    DistinctCount,
    Feature,
    FeatureSet,
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
)

UNITS_MS = {"s": 1000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}
Row = dict[str, int | float | Fraction | None]
Answer = tuple[float, int]


def length_ms(text: str) -> int:
    return int(text[:-1]) * UNITS_MS[text[-1]]


def rows_of(batch: EventBatch, schema: ContractSchema) -> list[Row]:
    """Read columns as plain values: decimals as fractions, nulls as None."""
    rows: list[Row] = []
    for i in range(batch.n_rows):
        row: Row = {}
        for f, field_ in enumerate(schema.fields):
            value: int | float | Fraction | None = int(batch.values[f, i])
            if field_.kind == "float":
                value = float(batch.values[f, i : i + 1].view(np.float64)[0])
            elif field_.kind == "decimal":
                value = Fraction(int(batch.values[f, i]), 10**field_.scale)
            row[field_.name] = value if batch.present[f, i] else None
        rows.append(row)
    return rows


def kilometres(a: tuple[float, float], b: tuple[float, float]) -> float:
    """Great-circle distance by the chord between two points of the sphere."""

    def point(latitude: float, longitude: float) -> tuple[float, float, float]:
        phi, theta = math.radians(latitude), math.radians(longitude)
        return math.cos(phi) * math.cos(theta), math.cos(phi) * math.sin(theta), math.sin(phi)

    return 6371.0088 * 2 * math.asin(min(1.0, math.dist(point(*a), point(*b)) / 2))


@dataclass
class NaiveEngine:
    """Answers each event from all that was applied before it."""

    features: FeatureSet
    history: list[tuple[int, Row]] = field(default_factory=list)
    verdicts: list[tuple[int, Row]] = field(default_factory=list)
    waiting: list[tuple[int, int, Row]] = field(default_factory=list)
    seen: set[object] = field(default_factory=set)
    seen_verdicts: set[object] = field(default_factory=set)
    now_ms: int = -(1 << 62)
    reads_before_apply: bool = True
    # By entity and key: the slice of time it was last seen in, and what came before it was born.
    lives: dict[tuple[str, object], tuple[int, int, int]] = field(default_factory=dict)

    def _see(self, row: Row, time: int, *, is_feedback: bool) -> None:
        """Note that the entities of an event or a verdict were seen; idle ones are born anew."""
        reader = self.features.reader()
        for entity in self.features.entities:
            horizon = self.features.horizons_ms[entity.name]
            own = [f for f in self.features.features if getattr(f, "by", None) == entity]
            name = entity.key.name
            if is_feedback:
                key_field = reader.feedback_key(entity)
                if key_field is None or not any(reader.feed_of(f) for f in own):
                    continue
                name = key_field.name
            if not horizon or row[name] is None:
                continue
            span = -(-horizon // 8)
            seen, *born = self.lives.get(
                (entity.name, row[name]), (-(1 << 62), len(self.history), len(self.verdicts))
            )
            if self.now_ms // span - seen > 8:
                seen, born = time // span, [len(self.history), len(self.verdicts)]
            self.lives[entity.name, row[name]] = (max(seen, time // span), born[0], born[1])

    def learn(self, feedback: EventBatch) -> None:
        schema = self.features.feedback
        assert schema is not None
        for row in rows_of(feedback, schema):
            if row[schema.event_id.name] not in self.seen_verdicts:
                self.seen_verdicts.add(row[schema.event_id.name])
                at = int(row[schema.event_time.name] or 0)
                self.waiting.append((at, len(self.seen_verdicts), row))
        self.waiting.sort(key=lambda item: item[:2])

    def advance(self, events: EventBatch) -> list[list[Answer] | None]:
        """Answer a batch; None for a duplicate."""
        answers: list[list[Answer] | None] = []
        schema = self.features.events
        for row in rows_of(events, schema):
            if row[schema.event_id.name] in self.seen:
                answers.append(None)
                continue
            self.seen.add(row[schema.event_id.name])
            time = int(row[schema.event_time.name] or 0)
            self.now_ms = max(self.now_ms, time)
            while self.waiting and self.waiting[0][0] <= self.now_ms:
                at, _, verdict = self.waiting.pop(0)
                self._see(verdict, at, is_feedback=True)
                self.verdicts.append((at, verdict))
            self._see(row, time, is_feedback=False)
            if not self.reads_before_apply:
                self.history.append((time, row))
            answers.append(self._read(row, time))
            if self.reads_before_apply:
                self.history.append((time, row))
        return answers

    def _read(self, row: Row, time: int) -> list[Answer]:
        found: dict[str, Answer] = {}
        by_name = {feature.name: feature for feature in self.features.features}

        def value_of(name: str) -> Answer:
            if name not in found:
                found[name] = self._feature(by_name[name], row, time, value_of)
            return found[name]

        return [value_of(name) for name in self.features.names]

    def _feature(self, feature: Feature, row: Row, time: int, value_of: object) -> Answer:
        default = (feature.default, 1)
        if isinstance(feature, Ratio | Difference):
            return self._pair(feature, value_of)
        if isinstance(feature, HourOfDay | DayOfWeek):
            return self._calendar(feature, row), 0
        if isinstance(feature, Value | CategoryEncoding):
            value = row[feature.of.name]
            if value is None:
                return default
            if isinstance(feature, CategoryEncoding):
                assert feature.values is not None
                text = feature.of.values[int(value)]
                return feature.values.get(text, feature.default), 0
            return float(value), 0
        return self._entity(feature, row, time)

    def _pair(self, feature: Ratio | Difference, value_of: object) -> Answer:
        assert callable(value_of)
        pair = (
            (feature.numerator, feature.denominator)
            if isinstance(feature, Ratio)
            else (feature.minuend, feature.subtrahend)
        )
        (a, status_a), (b, status_b) = [
            value_of(part if isinstance(part, str) else part.name) for part in pair
        ]
        if max(status_a, status_b):
            return feature.default, max(status_a, status_b)
        if isinstance(feature, Difference):
            return a - b, 0
        return (a / b, 0) if b else (feature.default, 1)

    def _calendar(self, feature: HourOfDay | DayOfWeek, row: Row) -> float:
        name = (feature.of or self.features.events.event_time).name
        offset = timedelta(minutes=feature.utc_offset_minutes)
        when = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=int(row[name] or 0))
        when += offset
        day = (when - when.replace(hour=0, minute=0, second=0, microsecond=0)) / timedelta(days=1)
        if isinstance(feature, HourOfDay):
            number, share = float(when.hour), day
        else:
            number, share = float(when.weekday()), (when.weekday() + day) / 7
        turn = {"sine": math.sin, "cosine": math.cos}.get(feature.encoding)
        return number if turn is None else turn(2 * math.pi * share)

    def _entity(self, feature: Feature, row: Row, time: int) -> Answer:
        default = (feature.default, 1)
        key = row[feature.by.key.name]
        if key is None:
            return default
        feedback = self.features.feedback
        fields = [getattr(feature, name, None) for name in ("of", "where")]
        is_feedback = feedback is not None and any(
            part is not None and part.contract == feedback.name for part in fields
        )
        _, born, born_2 = self.lives.get((feature.by.name, key), (0, 0, 0))
        own = [(t, r) for t, r in self.history[born:] if r[feature.by.key.name] == key]
        items = own
        if is_feedback:
            items = [(t, r) for t, r in self.verdicts[born_2:] if r[feature.by.key.name] == key]
        chosen = [(t, r) for t, r in items if feature.where is None or r[feature.where.name] == 1]
        if self._is_stale(feature, chosen, time):
            return feature.default, 2
        over = getattr(feature, "over", None)
        counted = chosen
        if over is not None:
            hop = length_ms(over) // feature.tiles
            # A ring moves on with every event of its entity; a ring of feedback with feedback too.
            newest = max(t // hop for t, _ in [*own, *items, (time, row)])
            oldest = newest - feature.tiles + 1
            counted = [(t, r) for t, r in chosen if oldest <= t // hop <= time // hop]
        if isinstance(feature, Distance | Velocity):
            return self._movement(feature, row, time, counted)
        return self._of_history(feature, time, counted, is_feedback=is_feedback)

    def _is_stale(self, feature: Feature, chosen: list[tuple[int, Row]], time: int) -> bool:
        if feature.stale_after is None:
            return False
        of = feature.of.name if isinstance(feature, LastValue) else None
        dated = [t for t, r in chosen if of is None or r[of] is not None]
        return bool(dated) and time - max(dated) > length_ms(feature.stale_after)

    def _of_history(
        self, feature: Feature, time: int, counted: list[tuple[int, Row]], *, is_feedback: bool
    ) -> Answer:
        if isinstance(feature, TimeSince | FirstSeen):
            if not counted:
                return feature.default, 1
            pick = max if isinstance(feature, TimeSince) else min
            return max(0, time - pick(t for t, _ in counted)) / 1000, 0
        of = getattr(feature, "of", None)
        if isinstance(feature, Count) and of is None:
            return float(len(counted)), 0
        if isinstance(feature, LastValue):
            schema = self.features.feedback if is_feedback else self.features.events
            there = [(t, r[schema.event_id.name], r) for t, r in counted if r[of.name] is not None]
            if not there:
                return feature.default, 1
            return float(max(there, key=lambda item: item[:2])[2][of.name]), 0
        values = [r[of.name] for _, r in counted if r[of.name] is not None]
        return self._statistic(feature, values)

    def _movement(
        self, feature: Distance | Velocity, row: Row, time: int, counted: list[tuple[int, Row]]
    ) -> Answer:
        event_id = self.features.events.event_id.name
        if not counted:
            return feature.default, 1
        at, last = max(counted, key=lambda item: (item[0], item[1][event_id]))
        names = feature.latitude.name, feature.longitude.name
        here, there = ((float(r[names[0]]), float(r[names[1]])) for r in (row, last))
        km = 0.0 if here == there else kilometres(here, there)
        if isinstance(feature, Distance) or km == 0.0:
            return km, 0
        hours = abs(time - at) / 3_600_000
        return (min(km / hours, feature.maximum_kmh) if hours else feature.maximum_kmh), 0

    def _statistic(self, feature: Feature, values: list[object]) -> Answer:
        default = (feature.default, 1)
        if isinstance(feature, Count):
            return float(len(values)), 0
        if isinstance(feature, DistinctCount):
            return float(len(set(values))), 0
        if not values:
            return default
        if isinstance(feature, Sum):
            return float(sum(Fraction(value) for value in values)), 0
        if isinstance(feature, Mean):
            return float(sum(Fraction(value) for value in values) / len(values)), 0
        if isinstance(feature, Minimum | Maximum):
            return float(min(values) if isinstance(feature, Minimum) else max(values)), 0
        assert isinstance(feature, StandardDeviation)
        if len(values) < 2:
            return default
        return statistics.stdev([Fraction(value) for value in values]), 0
