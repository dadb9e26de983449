"""Metrics, drift, logs, the decision log, latency attribution."""

from sentinel.monitoring.decision_log import DecisionLog, FullPolicy, LogCounts, LogSettings
from sentinel.monitoring.log_reader import ChainReport, read_decisions, verify_chain
from sentinel.monitoring.log_records import LogContext, LogRecords
from sentinel.monitoring.log_segments import LogHead

__all__ = [
    "ChainReport",
    "DecisionLog",
    "FullPolicy",
    "LogContext",
    "LogCounts",
    "LogHead",
    "LogRecords",
    "LogSettings",
    "read_decisions",
    "verify_chain",
]
