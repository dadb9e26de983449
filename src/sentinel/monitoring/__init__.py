"""Metrics, drift, logs, the decision log, latency attribution."""

from sentinel.monitoring.decision_log import DecisionLog, FullPolicy, LogCounts, LogSettings
from sentinel.monitoring.drift import DriftAlarm, DriftMonitor, DriftReport, DriftSettings
from sentinel.monitoring.log_reader import ChainReport, read_decisions, verify_chain
from sentinel.monitoring.log_records import LogContext, LogRecords
from sentinel.monitoring.log_segments import LogHead
from sentinel.monitoring.logs import start_logging
from sentinel.monitoring.metrics import Metrics
from sentinel.monitoring.reference import Reference
from sentinel.monitoring.stages import STAGES, StageReport, StageTimer
from sentinel.monitoring.status import Health, Severity, Status, Trouble, build_status

__all__ = [
    "STAGES",
    "ChainReport",
    "DecisionLog",
    "DriftAlarm",
    "DriftMonitor",
    "DriftReport",
    "DriftSettings",
    "FullPolicy",
    "Health",
    "LogContext",
    "LogCounts",
    "LogHead",
    "LogRecords",
    "LogSettings",
    "Metrics",
    "Reference",
    "Severity",
    "StageReport",
    "StageTimer",
    "Status",
    "Trouble",
    "build_status",
    "read_decisions",
    "start_logging",
    "verify_chain",
]
