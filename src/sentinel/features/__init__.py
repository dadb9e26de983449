"""Feature definitions, the tile kernel, the engine that reads and advances them, replay."""

from __future__ import annotations

from sentinel.features.definitions import (
    CategoryEncoding,
    Count,
    DayOfWeek,
    Difference,
    Distance,
    DistinctCount,
    Entity,
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
)
from sentinel.features.engine import Engine, EngineCounts, EntityLimits, OnFull, known_at
from sentinel.features.feature_set import FeatureSet
from sentinel.features.matrix import DEFAULTED, PRESENT, STALE, FeatureMatrix
from sentinel.features.plan import FeaturePlan, compile_plan
from sentinel.features.record import FeatureSetRecord, record_of
from sentinel.features.replay import FeedbackOrder, Replayed, advance_log, replay
from sentinel.features.time_travel import TimeTravelReport, time_travel, time_travel_of

__all__ = [
    "DEFAULTED",
    "PRESENT",
    "STALE",
    "CategoryEncoding",
    "Count",
    "DayOfWeek",
    "Difference",
    "Distance",
    "DistinctCount",
    "Engine",
    "EngineCounts",
    "Entity",
    "EntityLimits",
    "Feature",
    "FeatureMatrix",
    "FeaturePlan",
    "FeatureSet",
    "FeatureSetRecord",
    "FeedbackOrder",
    "FirstSeen",
    "HourOfDay",
    "LastValue",
    "Maximum",
    "Mean",
    "Minimum",
    "OnFull",
    "Ratio",
    "Replayed",
    "StandardDeviation",
    "Sum",
    "TimeSince",
    "TimeTravelReport",
    "Value",
    "Velocity",
    "advance_log",
    "compile_plan",
    "known_at",
    "record_of",
    "replay",
    "time_travel",
    "time_travel_of",
]
