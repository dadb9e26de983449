"""Metrics, drift, logs, the decision log, latency attribution."""

from sentinel.monitoring.decision_log import DecisionLog, FullPolicy, LogCounts, LogSettings
from sentinel.monitoring.drift import DriftAlarm, DriftMonitor, DriftReport, DriftSettings
from sentinel.monitoring.log_reader import ChainReport, read_decisions, verify_chain
from sentinel.monitoring.log_records import LogContext, LogRecords
from sentinel.monitoring.log_segments import LogHead
from sentinel.monitoring.metrics import Metrics
from sentinel.monitoring.reference import Reference
from sentinel.monitoring.stages import STAGES, StageReport, StageTimer

__all__ = [
    "STAGES",
    "ChainReport",
    "DecisionLog",
    "DriftAlarm",
    "DriftMonitor",
    "DriftReport",
    "DriftSettings",
    "FullPolicy",
    "LogContext",
    "LogCounts",
    "LogHead",
    "LogRecords",
    "LogSettings",
    "Metrics",
    "Reference",
    "StageReport",
    "StageTimer",
    "read_decisions",
    "verify_chain",
]
