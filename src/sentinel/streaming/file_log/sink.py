"""Decisions and quarantine records on their way to topics of a file log."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from sentinel.contract import Refusal
from sentinel.core import limits
from sentinel.core.clock import Clock, SystemClock
from sentinel.core.errors import ErrorCode, SentinelError
from sentinel.scoring import DecisionBatch
from sentinel.streaming.file_log.log import FileLogWriter
from sentinel.streaming.stream.sink_records import decision_records, quarantine_record


@dataclass(frozen=True, slots=True)
class _Waiting:
    """Records that one append takes."""

    writer: FileLogWriter
    partition: int
    values: list[bytes | None]
    keys: list[bytes | None]


class FileLogSink:
    """Appends to two topics; also the scorer's sink of refusals.

    Where the disk does not take a record, it waits here, at most ``STREAM_WAITING_MAX`` and some,
    and is tried again; a disk that refuses for ``LOG_WAIT_S_MAX`` ends the worker.

    Parameters
    ----------
    folder : Path
        Of the log.
    decisions, quarantine : str
        Topics.
    syncs : bool
        Whether outputs are safe only when they survive a power cut.
    clock : Clock, optional

    Raises
    ------
    SentinelError
        ``stream-topic-missing``.
    """

    def __init__(
        self,
        folder: Path,
        *,
        decisions: str,
        quarantine: str,
        syncs: bool = False,
        clock: Clock | None = None,
    ) -> None:
        self._decisions = FileLogWriter(folder, decisions)
        self._quarantine = FileLogWriter(folder, quarantine)
        self._syncs = syncs
        self._clock = clock if clock is not None else SystemClock()
        self._waiting: deque[_Waiting] = deque()
        self._n_waiting = 0
        self._refused_since_s: float | None = None
        self.n_decisions = 0
        self.n_refusals = 0

    @property
    def n_waiting(self) -> int:
        """Records that the disk has not taken."""
        return self._n_waiting

    def put(self, refusals: Sequence[Refusal]) -> None:
        """Append refusals to the topic of refused events."""
        if not refusals:
            return
        now_ms = self._clock.now_ms()
        pairs = [quarantine_record(refusal, now_ms) for refusal in refusals]
        self._add(self._quarantine, 0, [v for _, v in pairs], [k for k, _ in pairs])
        self.n_refusals += len(pairs)

    def write(self, decisions: DecisionBatch, lines: bytes, *, event_id: str) -> None:
        """Append decisions, in the order of the batch; duplicates have none."""
        if not lines:
            return
        keys, values = decision_records(decisions, lines, event_id=event_id)
        partition = decisions.events.raw.partition % self._decisions.n_partitions
        self._add(self._decisions, partition, values, keys)
        self.n_decisions += len(keys)

    def poll(self, wait_s: float = 0.0) -> None:
        """Try again what the disk did not take.

        Raises
        ------
        SentinelError
            ``stream-failed``.
        """
        self._try_again()

    def flush(self, wait_s: float) -> bool:
        """Bring everything to the disk; False while it does not take it.

        Raises
        ------
        SentinelError
            ``stream-failed``; ``file-unwritable`` when what was taken cannot be synced.
        """
        if not self._try_again():
            return False
        if self._syncs:
            self._decisions.sync()
            self._quarantine.sync()
        return True

    def close(self) -> None:
        """Let go of the files."""
        self._decisions.close()
        self._quarantine.close()

    def _add(
        self,
        writer: FileLogWriter,
        partition: int,
        values: list[bytes],
        keys: list[bytes],
    ) -> None:
        step = limits.FILE_LOG_FRAME_EVENTS_MAX
        for first in range(0, len(values), step):
            part = slice(first, first + step)
            self._waiting.append(_Waiting(writer, partition, [*values[part]], [*keys[part]]))
        self._n_waiting += len(values)
        self._try_again()

    def _try_again(self) -> bool:
        while self._waiting:
            first = self._waiting[0]
            now_ms = self._clock.now_ms()
            try:
                first.writer.append(
                    first.partition,
                    first.values,
                    keys=first.keys,
                    times_ms=np.full(len(first.values), now_ms),
                )
            except SentinelError as error:
                self._refused(error)
                return False
            self._waiting.popleft()
            self._n_waiting -= len(first.values)
        self._refused_since_s = None
        return True

    def _refused(self, error: SentinelError) -> None:
        now_s = self._clock.monotonic_s()
        if self._refused_since_s is None:
            self._refused_since_s = now_s
        if now_s - self._refused_since_s > limits.LOG_WAIT_S_MAX:
            raise SentinelError(
                ErrorCode.STREAM_FAILED,
                at=error.at,
                expected=f"a disk that takes outputs within {limits.LOG_WAIT_S_MAX:.0f} s",
                got=error.got,
                hint="Nothing is lost: the state remembers how far outputs are safe. Start again.",
            ) from error
