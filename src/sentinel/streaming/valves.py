"""Sinks that let through only what an earlier run has not kept yet.

An interrupted replay is continued by running it again from the start, with the same decisions, and
keeping only what comes after the checkpoint. So state, counts and drift are those of the whole
run, and no record is kept twice.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from sentinel.contract import Refusal
from sentinel.contract.quarantine import next_segment, read_quarantine
from sentinel.monitoring.decision_log import DecisionLog
from sentinel.monitoring.log_records import LogRecords
from sentinel.scoring import RefusalSink


class RefusalValve:
    """A quarantine that does not get the refusals of this run that it has already.

    A run refuses the events of a source in order, so what the quarantine holds of a source says
    how far it was kept: all until there was kept, or counted as left out. What came to the disk
    last decides, not the checkpoint, and a killed run is continued exactly where it was killed.

    Parameters
    ----------
    inner : RefusalSink
        Where the refusals go.
    folder : Path, optional
        Of the quarantine; without it a resumed run keeps refusals again.
    """

    def __init__(self, inner: RefusalSink, folder: Path | None = None) -> None:
        self._inner = inner
        self._folder = folder
        self._kept_until: dict[tuple[str, int], int] = {}
        self.first_segment = 0 if folder is None else next_segment(folder)

    def skip(self, *, first_segment: int) -> None:
        """Drop what the quarantine holds in this segment and those after it."""
        self.first_segment = first_segment
        if self._folder is None or not self._folder.exists():
            return
        kept = self._kept_until
        for record in read_quarantine(self._folder, first_segment=first_segment):
            if record.code is not None:
                place = (record.source, record.partition)
                kept[place] = max(kept.get(place, -1), record.position)

    def put(self, refusals: Sequence[Refusal]) -> None:
        """Keep those that were not kept before; raises when it cannot, and then none was kept."""
        if self._kept_until:
            refusals = [each for each in refusals if not self._is_kept(each)]
        self._inner.put(refusals)

    def _is_kept(self, refusal: Refusal) -> bool:
        place = (refusal.source, refusal.partition)
        return refusal.position <= self._kept_until.get(place, -1)


class DecisionValve:
    """A decision log that does not get the batches of this run that it has already.

    The log names what ran the model, which only the scorer knows; and the scorer wants its sinks
    when it is made. So the log is attached after it.
    """

    def __init__(self) -> None:
        self._log: DecisionLog | None = None
        self._n_to_drop = 0
        self.n_before = 0

    def attach(self, log: DecisionLog) -> None:
        """Say where decisions go; the log may hold records of other runs."""
        self._log = log
        self.n_before = _n_kept(log)

    def skip(self, *, n_before: int) -> None:
        """Drop as many records as the log has got since it held ``n_before``."""
        self.n_before = n_before
        self._n_to_drop = max(_n_kept(self.attached) - n_before, 0)

    def append(self, records: LogRecords) -> None:
        """Keep a batch that was not kept before; raises when it cannot."""
        if records.n_records <= self._n_to_drop:
            self._n_to_drop -= records.n_records
            return
        self.attached.append(records)

    def flush(self) -> bool:
        """Wait until everything is in segments; False when the disk did not take it in time."""
        return self.attached.flush()

    @property
    def n_kept(self) -> int:
        """Records that the log has got, of all runs."""
        return _n_kept(self.attached)

    @property
    def attached(self) -> DecisionLog:
        """The log."""
        if self._log is None:
            raise AssertionError("a decision log is attached before anything is decided")
        return self._log


def _n_kept(log: DecisionLog) -> int:
    counts = log.counts()
    return counts.written + counts.spilled + counts.dropped + counts.queued


@dataclass(frozen=True, slots=True, kw_only=True)
class Valves:
    """The sinks of a scorer whose run may have been begun before.

    Attributes
    ----------
    refusals : RefusalValve or None
    log : DecisionValve or None
    """

    refusals: RefusalValve | None = None
    log: DecisionValve | None = None

    def marks(self) -> dict[str, int]:
        """Return what a checkpoint has to remember."""
        marks = {}
        if self.refusals is not None:
            marks["quarantine_since"] = self.refusals.first_segment
        if self.log is not None:
            marks["log_before"] = self.log.n_before
            marks["log_kept"] = self.log.n_kept
        return marks

    def skip(self, marks: Mapping[str, int]) -> None:
        """Drop what an earlier run has kept."""
        self._skip_refusals(marks)
        if self.log is not None and "log_before" in marks:
            self.log.skip(n_before=marks["log_before"])

    def skip_since(self, marks: Mapping[str, int]) -> None:
        """Drop what an earlier run has kept after its checkpoint; for a run that begins there."""
        self._skip_refusals(marks)
        if self.log is not None and "log_kept" in marks:
            self.log.skip(n_before=marks["log_kept"])

    def _skip_refusals(self, marks: Mapping[str, int]) -> None:
        if self.refusals is not None:
            self.refusals.skip(first_segment=marks.get("quarantine_since", 0))

    def flush(self) -> bool:
        """Make everything kept so far survive; False when that took too long."""
        return self.log is None or self.log.flush()
