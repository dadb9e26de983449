"""The decision log: every decision counted, and written so that it can be reproduced.

``append`` copies a batch to the end of a bounded queue of columns; one thread turns them into
Parquet segments. Where a batch finds no room (a slow or a full disk), the policy says what
happens, and the count says that it did. At every moment::

    decided = written + spilled + dropped + queued + lost

and ``queued`` is 0 after :meth:`DecisionLog.flush` and :meth:`DecisionLog.close`. ``lost`` counts
what earlier processes held in memory when they were killed; it never grows while one runs.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import threading
import time
from collections import deque
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

from sentinel.core import limits
from sentinel.core.errors import ErrorCode, SentinelError
from sentinel.core.files import write_atomically
from sentinel.core.rests import Rests
from sentinel.monitoring.log_block import LogBlock
from sentinel.monitoring.log_ledger import Ledger
from sentinel.monitoring.log_records import LogContext, LogRecords, arrow_schema, chain
from sentinel.monitoring.log_segments import (
    FORMAT,
    SPILL_FOLDER,
    LogHead,
    SegmentMetadata,
    encode_segment,
    find_head,
    segment_path,
    sha256_of_segment,
    write_head,
)
from sentinel.monitoring.log_settings import FullPolicy, LogCounts, LogSettings
from sentinel.monitoring.log_spill import SpillFile, list_spilled, read_spilled, write_spilled

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["DecisionLog", "FullPolicy", "LogCounts", "LogSettings"]

LEDGER_NAME = "counts.bin"
LOCK_NAME = "lock"
# Records that one block has room for: a segment of usual size is few blocks, and a block that is
# given up half full for a larger batch is no waste worth counting.
_BLOCK_RECORDS = 16_384


@dataclass(slots=True)
class _State:
    """What the two threads share; guarded by the condition."""

    queue: deque[LogBlock] = field(default_factory=deque)
    n_queued: int = 0
    oldest_at_s: float = 0.0
    spilled: deque[SpillFile] = field(default_factory=deque)
    spilled_bytes: int = 0
    n_spill_files: int = 0
    n_write_errors: int = 0
    last_error: str = ""
    is_flushing: bool = False
    close_by_s: float | None = None


class DecisionLog:
    """Write decisions to a folder; see the module for what is promised.

    Parameters
    ----------
    folder : Path
        Made when absent. One process at a time; segments of earlier ones are continued.
    context : LogContext
        What records share unless :meth:`append` is told otherwise.
    settings : LogSettings

    Raises
    ------
    SentinelError
        ``decision-log-busy``, ``decision-log-damaged``, ``file-unwritable``.
    """

    def __init__(self, folder: Path, context: LogContext, settings: LogSettings) -> None:
        self._folder = folder
        self._context = context
        self._settings = settings
        self._spill_folder = settings.spill_folder or folder / SPILL_FOLDER
        _make_folders(folder, self._spill_folder)
        self._lock_handle = _lock(folder / LOCK_NAME)
        with contextlib.ExitStack() as stack:
            stack.callback(os.close, self._lock_handle)
            self._n_incomplete = _remove_incomplete(folder) + _remove_incomplete(self._spill_folder)
            self._ledger = Ledger(folder / LEDGER_NAME)
            self._head, last = find_head(folder)
            if last is not None:
                write_head(folder, self._head)
            self._state = _State()
            self._reconcile(last)
            stack.pop_all()
        self._condition = threading.Condition()
        self._is_closed = False
        self._rests = Rests()
        self._thread = threading.Thread(target=self._run, name="decision-log", daemon=True)
        self._thread.start()

    # --- what scoring calls ------------------------------------------------------------------

    def append(self, records: LogRecords, *, context: LogContext | None = None) -> None:
        """Take the decisions of one batch.

        Parameters
        ----------
        records : LogRecords
        context : LogContext, optional
            Of another release than that of the start; a segment holds records of one context.

        Raises
        ------
        SentinelError
            ``decision-log-blocked`` under the policy ``block``; then nothing was counted and
            the same batch may be given again.
        """
        if records.n_records == 0:
            return
        n_records, context = records.n_records, context or self._context
        with self._condition:
            self._check_open()
            if self._settings.policy is FullPolicy.BLOCK:
                self._wait_for_room(n_records)
            if self._has_room(n_records):
                self._enqueue(records, context)
                return
            block = LogBlock(context, n_records_max=n_records)
            block.put(records)
            if self._settings.policy is FullPolicy.SPILL and self._spill(block):
                return
            self._ledger.add("decided", n_records)
            self._ledger.add("dropped", n_records)

    def flush(self, *, wait_s_max: float = limits.LOG_WAIT_S_MAX) -> bool:
        """Wait until everything appended so far is in segments; False when time ran out."""
        deadline = time.monotonic() + wait_s_max
        with self._condition:
            self._state.is_flushing = True
            self._condition.notify_all()
            while self._state.n_queued and self._thread.is_alive():
                left = deadline - time.monotonic()
                if left <= 0:
                    return False
                self._condition.wait(left)
            return not self._state.n_queued

    def close(self) -> None:
        """Write what is queued, for at most ``wait_s_max``; spill or drop, and count, the rest."""
        if self._is_closed:
            return
        with self._condition:
            self._is_closed = True
            self._state.close_by_s = time.monotonic() + self._settings.wait_s_max
            self._condition.notify_all()
        self._thread.join(self._settings.wait_s_max + limits.LOG_WAIT_S_MAX)
        is_stuck = self._thread.is_alive()
        if not is_stuck:
            with self._condition:
                self._give_up_queue()
        self._ledger.sync()
        os.close(self._lock_handle)
        if is_stuck:
            raise SentinelError(
                ErrorCode.DECISION_LOG_BLOCKED,
                at=str(self._folder),
                expected="a disk that answers",
                got="a write that does not return",
            )

    def counts(self) -> LogCounts:
        """Count what became of every record; always balanced."""
        with self._condition:
            state, ledger = self._state, self._ledger
            return LogCounts(
                decided=ledger.get("decided"),
                written=ledger.get("written"),
                spilled=ledger.get("spilled"),
                dropped=ledger.get("dropped"),
                queued=state.n_queued,
                lost=ledger.get("lost"),
                ingested=ledger.get("ingested"),
                n_segments=self._head.segment,
                n_write_errors=state.n_write_errors,
                n_incomplete_files=self._n_incomplete,
                last_error=state.last_error,
            )

    @property
    def head(self) -> LogHead:
        """Where the chain ends now. Keep it elsewhere to prove later that nothing was cut off."""
        with self._condition:
            return self._head

    def __enter__(self) -> DecisionLog:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    # --- under the condition -----------------------------------------------------------------

    def _check_open(self) -> None:
        if self._is_closed:
            raise ValueError("append to a decision log that is closed")

    def _has_room(self, n_records: int) -> bool:
        queued = self._state.n_queued
        return queued == 0 or queued + n_records <= self._settings.queue_records_max

    def _wait_for_room(self, n_records: int) -> None:
        deadline = time.monotonic() + self._settings.wait_s_max
        while not self._has_room(n_records):
            left = deadline - time.monotonic()
            if left <= 0:
                raise SentinelError(
                    ErrorCode.DECISION_LOG_BLOCKED,
                    at=str(self._folder),
                    expected=f"room within {self._settings.wait_s_max} s",
                    got=self._state.last_error or "a queue that stays full",
                    hint="Make room on the disk, or choose the policy spill or drop.",
                )
            self._condition.wait(left)

    def _enqueue(self, records: LogRecords, context: LogContext) -> None:
        """Count a batch and copy it to the end of the queue.

        The writer is woken when it has something to do: to look at the clock, or to write.
        """
        state, n_records = self._state, records.n_records
        block = state.queue[-1] if state.queue else None
        if block is None or block.context is not context or not block.has_room(records):
            room = max(n_records, min(_BLOCK_RECORDS, self._settings.segment_records_max))
            block = LogBlock(context, n_records_max=room)
        block.put(records)
        self._ledger.add("decided", n_records)
        if not state.queue:
            state.oldest_at_s = time.monotonic()
        if not state.queue or state.queue[-1] is not block:
            state.queue.append(block)
        before, state.n_queued = state.n_queued, state.n_queued + n_records
        if before == 0 or before < self._settings.segment_records_max <= state.n_queued:
            self._condition.notify_all()

    def _spill(self, block: LogBlock, *, is_counted: bool = False) -> bool:
        """Spill one block and count it; False when there is no room for that either."""
        state = self._state
        try:
            file = write_spilled(
                self._spill_folder,
                block.to_arrow(),
                block.context,
                number=state.n_spill_files + 1,
                n_bytes_max=self._settings.spill_bytes_max - state.spilled_bytes,
            )
        except SentinelError as error:
            state.last_error = str(error)
            return False
        state.n_spill_files = file.number
        state.spilled.append(file)
        state.spilled_bytes += file.n_bytes
        if not is_counted:
            self._ledger.add("decided", block.n_records)
        self._ledger.add("spilled", block.n_records)
        self._ledger.put("spill_files", file.number)
        return True

    def _give_up_queue(self) -> None:
        while self._state.queue:
            block = self._state.queue.popleft()
            self._state.n_queued -= block.n_records
            can_spill = self._settings.policy is FullPolicy.SPILL
            if not (can_spill and self._spill(block, is_counted=True)):
                self._ledger.add("dropped", block.n_records)

    # --- start -------------------------------------------------------------------------------

    def _reconcile(self, last: SegmentMetadata | None) -> None:
        """Bring the counts in line with the files, and count what a killed process lost."""
        ledger, state = self._ledger, self._state
        if last is not None:
            ledger.put("written", last.written)
            ledger.put("ingested", last.ingested)
        for file in list_spilled(self._spill_folder):
            if last is not None and file.path.name in last.spill_files:
                file.path.unlink()
                continue
            if file.number > ledger.get("spill_files"):
                ledger.add("decided", file.n_records)
                ledger.add("spilled", file.n_records)
                ledger.put("spill_files", file.number)
            state.spilled.append(file)
            state.spilled_bytes += file.n_bytes
        state.n_spill_files = ledger.get("spill_files")
        accounted = sum(ledger.get(name) for name in ("written", "spilled", "dropped", "lost"))
        lost = ledger.get("decided") - accounted
        ledger.add("lost" if lost > 0 else "decided", abs(lost))
        ledger.sync()

    # --- the writer --------------------------------------------------------------------------

    def _run(self) -> None:
        is_orderly = False
        try:
            self._warm_up()
            while self._write_next():
                pass
            is_orderly = True
        finally:
            # A defect ends this thread with its trace; whoever waits for it must not wait on.
            with self._condition:
                if not is_orderly:
                    self._state.last_error = "the writer ended by a defect of Sentinel"
                self._condition.notify_all()

    def _warm_up(self) -> None:
        """Encode a segment of nothing: the first use of what does it takes long."""
        nothing = LogBlock(self._context, n_records_max=1).to_arrow()
        encode_segment(*self._build([nothing], self._context, ()), rest=self._rest)

    def _rest(self) -> None:
        """Leave the core to who decides, after a piece of work, unless somebody waits for it."""
        state = self._state
        is_behind = 2 * state.n_queued > self._settings.queue_records_max
        self._rests.rest(is_urgent=state.is_flushing or self._is_closed or is_behind)

    def _write_next(self) -> bool:
        """Write one segment; False to end."""
        with self._condition:
            work = self._wait_for_work()
        if work is None:
            return False
        if not work:
            return self._ingest()
        batches = []
        for block in work:
            batches.append(block.to_arrow())
            self._rest()
        return self._write(batches, work[0].context, files=())

    def _wait_for_work(self) -> list[LogBlock] | None:
        """Return blocks for one segment, an empty list to take in spilled ones, None to end."""
        state, settings = self._state, self._settings
        while True:
            now = time.monotonic()
            age_s = now - state.oldest_at_s
            is_due = state.n_queued >= settings.segment_records_max or (
                state.n_queued > 0
                and (state.is_flushing or self._is_closed or age_s >= settings.segment_s_max)
            )
            if is_due:
                return self._take()
            state.is_flushing = False
            if self._is_closed:
                return None
            if state.spilled and state.n_queued * 2 < settings.segment_records_max:
                return []
            self._condition.wait(settings.segment_s_max - age_s if state.n_queued else None)

    def _take(self) -> list[LogBlock]:
        """Choose the oldest blocks that make one segment, and seal them; they stay on the queue."""
        chosen: list[LogBlock] = []
        n_records = 0
        for block in self._state.queue:
            is_full = n_records + block.n_records > self._settings.segment_records_max
            if chosen and (is_full or block.context is not chosen[0].context):
                break
            block.is_sealed = True
            chosen.append(block)
            n_records += block.n_records
        return chosen

    def _ingest(self) -> bool:
        """Write the oldest spilled batches that fit one segment; False to end."""
        with self._condition:
            waiting = list(self._state.spilled)
        batches: list[pa.RecordBatch] = []
        files: list[SpillFile] = []
        context, n_records = self._context, 0
        for file in waiting:
            if batches and n_records + file.n_records > self._settings.segment_records_max:
                break
            try:
                batch, batch_context = read_spilled(file.path)
            except SentinelError as error:
                self._set_aside(file, error)
                return True
            if batches and batch_context != context:
                break
            context = batch_context
            batches.append(batch)
            files.append(file)
            n_records += file.n_records
        return self._write(batches, context, files=tuple(files))

    def _set_aside(self, file: SpillFile, error: SentinelError) -> None:
        """Keep a spilled file that cannot be read, out of the way, and say so."""
        file.path.rename(file.path.with_suffix(".damaged"))
        with self._condition:
            self._state.spilled.remove(file)
            self._state.spilled_bytes -= file.n_bytes
            self._state.last_error = str(error)

    def _write(
        self, batches: list[pa.RecordBatch], context: LogContext, *, files: tuple[SpillFile, ...]
    ) -> bool:
        """Write one segment, trying until it is written or the log closes; False to end."""
        numbered, metadata = self._build(batches, context, files)
        content = encode_segment(numbered, metadata, rest=self._rest)
        head = LogHead(
            segment=metadata.segment,
            n_records=metadata.first_record + metadata.n_records,
            sha256=sha256_of_segment(content),
            record_hash=metadata.last_record_hash,
        )
        self._rest()
        while True:
            try:
                write_atomically(segment_path(self._folder, head.segment), content)
                break
            except SentinelError as error:
                if not self._wait_to_retry(error):
                    return False
        self._settle(batches, head, files)
        return True

    def _build(
        self, batches: list[pa.RecordBatch], context: LogContext, files: tuple[SpillFile, ...]
    ) -> tuple[list[pa.RecordBatch], SegmentMetadata]:
        import numpy as np
        import pyarrow as pa

        first, previous = self._head.n_records, self._head.record_hash
        numbered = []
        for batch in batches:
            hashes = chain(batch, context, first_record=first, previous=previous)
            numbers = np.arange(first, first + batch.num_rows, dtype=np.int64)
            numbered.append(
                pa.RecordBatch.from_arrays(
                    [pa.array(numbers), *batch.columns, pa.array(hashes)],
                    schema=arrow_schema(context, is_chained=True),
                )
            )
            first += batch.num_rows
            previous = int(hashes[-1]) if batch.num_rows else previous
            self._rest()
        n_records = first - self._head.n_records
        metadata = SegmentMetadata(
            format=FORMAT,
            segment=self._head.segment + 1,
            first_record=self._head.n_records,
            n_records=n_records,
            previous_sha256=self._head.sha256,
            previous_record_hash=self._head.record_hash,
            last_record_hash=previous,
            written=self._ledger.get("written") + (0 if files else n_records),
            ingested=self._ledger.get("ingested") + (n_records if files else 0),
            spill_files=tuple(file.path.name for file in files),
            context=context,
        )
        return numbered, metadata

    def _wait_to_retry(self, error: SentinelError) -> bool:
        with self._condition:
            state = self._state
            state.n_write_errors += 1
            state.last_error = str(error)
            self._condition.notify_all()
            wake_at_s = time.monotonic() + self._settings.retry_s
            while (now := time.monotonic()) < wake_at_s:
                if state.close_by_s is not None and now >= state.close_by_s:
                    return False
                self._condition.wait(wake_at_s - now)
            return state.close_by_s is None or time.monotonic() < state.close_by_s

    def _settle(
        self, batches: list[pa.RecordBatch], head: LogHead, files: tuple[SpillFile, ...]
    ) -> None:
        """Count a segment that is on the disk, and forget what it holds."""
        n_records = sum(batch.num_rows for batch in batches)
        with self._condition:
            state = self._state
            self._head = head
            if files:
                self._ledger.add("ingested", n_records)
                for file in files:
                    state.spilled.remove(file)
                    state.spilled_bytes -= file.n_bytes
            else:
                for _ in batches:
                    state.queue.popleft()
                state.n_queued -= n_records
                state.oldest_at_s = time.monotonic()
                self._ledger.add("written", n_records)
            state.last_error = ""
            self._condition.notify_all()
        for file in files:
            with contextlib.suppress(OSError):  # the segment names it; the next start removes it
                file.path.unlink(missing_ok=True)
        try:
            write_head(self._folder, head)
        except SentinelError as error:
            # The segment itself says where the chain ends; the head only says it sooner.
            with self._condition:
                self._state.last_error = str(error)
        self._ledger.sync()


def _make_folders(*folders: Path) -> None:
    for folder in folders:
        try:
            folder.mkdir(parents=True, exist_ok=True, mode=0o750)
        except OSError as error:
            raise SentinelError(
                ErrorCode.FILE_UNWRITABLE,
                at=str(folder),
                expected="a folder that this user may make",
                got=error.strerror or error,
            ) from error


def _lock(path: Path) -> int:
    handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(handle)
        raise SentinelError(
            ErrorCode.DECISION_LOG_BUSY,
            at=str(path.parent),
            expected="a folder that no other process writes",
            got="one that is locked",
        ) from error
    return handle


def _remove_incomplete(folder: Path) -> int:
    """Remove what a killed process had not finished; such names start with a dot."""
    incomplete = [
        path for path in folder.iterdir() if path.name.startswith((".decisions", ".spill", ".head"))
    ]
    for path in incomplete:
        path.unlink()
    return len(incomplete)
