"""Workers that carry events from a source through the scorer."""

from __future__ import annotations

from sentinel.streaming.decision_file import DecisionFile
from sentinel.streaming.file_log.log import FileLogWriter, create_topic
from sentinel.streaming.file_log.reader import FileLog
from sentinel.streaming.file_worker import FileJob, FileProgress, FileReport, FileWorker, Watchers
from sentinel.streaming.valves import DecisionValve, RefusalValve, Valves

__all__ = [
    "DecisionFile",
    "DecisionValve",
    "FileJob",
    "FileLog",
    "FileLogWriter",
    "FileProgress",
    "FileReport",
    "FileWorker",
    "RefusalValve",
    "Valves",
    "Watchers",
    "create_topic",
]
