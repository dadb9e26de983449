"""From a batch of raw events to a batch of decisions, guarded."""

from __future__ import annotations

from sentinel.scoring.breaker import Breaker, Event, State
from sentinel.scoring.canary import Canary, CanaryPath, CanaryReport, choose_canary_rows
from sentinel.scoring.counts import Counts
from sentinel.scoring.decision import DecisionBatch, Outcome, Reason, ServedBy, code_names
from sentinel.scoring.encoding import encode
from sentinel.scoring.fallback import LinearFallback
from sentinel.scoring.parts import DecisionSink, RefusalSink, ScorerParts, Sinks
from sentinel.scoring.policy import (
    BreakerRules,
    GovernorRules,
    InsaneRules,
    OutputRules,
    Policy,
    StalePolicy,
)
from sentinel.scoring.replay_clock import ReplayClock
from sentinel.scoring.scorer import Scorer
from sentinel.scoring.session import ModelSession
from sentinel.scoring.status import Health, ScorerStatus

__all__ = [
    "Breaker",
    "BreakerRules",
    "Canary",
    "CanaryPath",
    "CanaryReport",
    "Counts",
    "DecisionBatch",
    "DecisionSink",
    "Event",
    "GovernorRules",
    "Health",
    "InsaneRules",
    "LinearFallback",
    "ModelSession",
    "Outcome",
    "OutputRules",
    "Policy",
    "Reason",
    "RefusalSink",
    "ReplayClock",
    "Scorer",
    "ScorerParts",
    "ScorerStatus",
    "ServedBy",
    "Sinks",
    "StalePolicy",
    "State",
    "choose_canary_rows",
    "code_names",
    "encode",
]
