"""How the decision log behaves when its disk does not, and what it counts."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from sentinel.core import limits
from sentinel.core.configuration import Configuration


class FullPolicy(enum.StrEnum):
    """What happens to a batch that finds the queue full."""

    BLOCK = "block"  # scoring waits, and fails when it has waited too long: nothing is lost
    SPILL = "spill"  # it is written to the spill folder, and taken in again later
    DROP = "drop"  # it is dropped and counted: scoring never waits


@dataclass(frozen=True, slots=True)
class LogSettings:
    """How the log behaves; every bound has its default in :mod:`sentinel.core.limits`.

    Attributes
    ----------
    policy : FullPolicy
    queue_records_max : int
        Records in memory at most (one batch may be larger when the queue is empty).
    segment_records_max : int
        Records of one segment, whole batches.
    segment_s_max : float
        A record is in a segment after this many seconds at most.
    wait_s_max : float
        How long ``block`` and :meth:`DecisionLog.close` wait.
    retry_s : float
        Pause before a segment that could not be written is tried again.
    spill_folder : Path or None
        Another disk for spilled batches; None for a folder inside the log.
    spill_bytes_max : int
        Bytes that may wait there.
    """

    policy: FullPolicy = FullPolicy.BLOCK
    queue_records_max: int = limits.LOG_QUEUE_RECORDS_MAX
    segment_records_max: int = limits.LOG_SEGMENT_RECORDS_MAX
    segment_s_max: float = limits.LOG_SEGMENT_S_MAX
    wait_s_max: float = limits.LOG_WAIT_S_MAX
    retry_s: float = limits.LOG_RETRY_S
    spill_folder: Path | None = None
    spill_bytes_max: int = limits.LOG_SPILL_BYTES_MAX

    @classmethod
    def from_configuration(cls, configuration: Configuration, *, policy: FullPolicy) -> Self:
        """Take the bounds of this deployment; the policy is part of the release."""
        spill = configuration.decision_log_spill_folder
        return cls(
            policy=policy,
            queue_records_max=configuration.decision_log_queue_records,
            segment_records_max=configuration.decision_log_segment_records,
            segment_s_max=configuration.decision_log_segment_s,
            wait_s_max=configuration.decision_log_wait_s,
            spill_folder=Path(spill) if spill else None,
            spill_bytes_max=configuration.decision_log_spill_bytes,
        )


@dataclass(frozen=True, slots=True)
class LogCounts:
    """What became of every record, at one moment.

    Attributes
    ----------
    decided, written, spilled, dropped, queued, lost : int
        ``decided = written + spilled + dropped + queued + lost``, over the life of the folder.
    ingested : int
        Spilled records that have since been taken into segments.
    n_segments : int
        Number of the last segment.
    n_write_errors : int
        Segments that could not be written at once, since start.
    n_incomplete_files : int
        Incomplete files of a killed process, removed at start.
    last_error : str
        Why the log is degraded; empty when it is not.
    """

    decided: int
    written: int
    spilled: int
    dropped: int
    queued: int
    lost: int
    ingested: int
    n_segments: int
    n_write_errors: int
    n_incomplete_files: int
    last_error: str

    @property
    def is_balanced(self) -> bool:
        """Whether every decision is accounted for; anything else is a defect of Sentinel."""
        accounted = self.written + self.spilled + self.dropped + self.queued + self.lost
        return self.decided == accounted
