"""Where a stream worker reads from and writes to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from sentinel.contract import Refusal
from sentinel.monitoring.log_records import LogRecords
from sentinel.scoring import DecisionBatch
from sentinel.streaming.stream.event_log import EventLog, GroupLog


class StreamSink(Protocol):
    """Takes decisions and refusals on to where others read them.

    It is also the scorer's sink of refusals (:meth:`put`).
    """

    @property
    def n_decisions(self) -> int:
        """Decisions that were handed in."""

    @property
    def n_refusals(self) -> int:
        """Refusals that were handed in."""

    @property
    def n_waiting(self) -> int:
        """Records that are not yet where they go."""

    def put(self, refusals: Sequence[Refusal]) -> None:
        """Take refusals."""

    def write(self, decisions: DecisionBatch, lines: bytes, *, event_id: str) -> None:
        """Take decisions, as JSON lines in the order of the batch; duplicates have none."""

    def poll(self, wait_s: float = 0.0) -> None:
        """Let time pass; raises when a record was given up."""

    def flush(self, wait_s: float) -> bool:
        """Bring everything where it goes; False when there was not time enough."""

    def close(self) -> None:
        """Let go of everything. Safe to call twice."""


class Transactions(Protocol):
    """Makes outputs and positions visible to others together.

    A place is a topic and a partition of it.
    """

    def begin(self, places: Sequence[tuple[str, int]]) -> bool:
        """Ask how far outputs are visible: they are not sent again. False: it is not known yet."""

    def commit(self, positions: Mapping[tuple[str, int], int]) -> None:
        """Make all outputs of what lies before these positions visible; never goes back."""


class KeepsDecisions(Protocol):
    """The decision log, as far as a worker has to know it; also a sink of its scorer."""

    def append(self, records: LogRecords) -> None:
        """Take a batch; raises when it cannot."""

    def flush(self) -> bool:
        """Bring every record into a segment; False when the disk did not take it in time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamEnds:
    """The two ends of a stream.

    Attributes
    ----------
    events : GroupLog
    sink : StreamSink
    feedback : EventLog or None
        Late labels.
    log : KeepsDecisions or None
        The decision log, which is a sink of the scorer.
    transactions : Transactions or None
        None: outputs are visible as they come.
    """

    events: GroupLog
    sink: StreamSink
    feedback: EventLog | None = None
    log: KeepsDecisions | None = None
    transactions: Transactions | None = None
