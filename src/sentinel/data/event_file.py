r"""Lines of an event file as raw batches, in bounded memory, with no work per line in Python.

1. Read a block behind what is left of the last one (:mod:`sentinel.data.byte_source`).
2. Find every ``\n`` of the block with one NumPy comparison. Each is the end of a line; a ``\r``
   before it belongs to the line end.
3. Drop blank lines, and count them: they carry nothing. Every other line is an event, good or
   not; what it is worth is the contract's business.
4. Hand on batches of ``n_events`` as views of the block. What is left, whole lines and the
   beginning of the next one, moves to the front of the next block.

A line of more than ``EVENT_FILE_LINE_BYTES_MAX`` is handed on as its head, with its whole length
beside it (``RawBatch.whole_lengths``). While such a line is read only its head is kept.

Always ``n_lines = n_events + n_blank_lines + n_lines_before``, the last being the lines before
``first_position``. A position is a 0-based line number, blank lines included.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

from sentinel.contract.batch import RawBatch
from sentinel.core import limits
from sentinel.core.errors import ErrorCode, SentinelError
from sentinel.data.byte_source import open_bytes
from sentinel.data.line_buffer import Follower, LineBuffer, ReadProgress

__all__ = ["EventFile", "ReadProgress", "refuse_empty"]


class EventFile:
    r"""A file of events, one JSON object a line; plain, gzip or zstd, told by its content.

    Parameters
    ----------
    path : Path
        The file. Nothing is opened before :meth:`batches` is iterated.
    source : str, optional
        Name in refusals and decisions; the name of the file by default.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder) / "events.ndjson"
    ...     _ = path.write_text('{"a":1}\n\n{"a":2}\n')
    ...     [batch.positions.tolist() for batch in EventFile(path).batches()]
    [[0, 2]]
    """

    def __init__(self, path: Path, *, source: str | None = None) -> None:
        self.path = Path(path)
        self.source = source if source is not None else self.path.name
        self._progress = ReadProgress()

    @property
    def progress(self) -> ReadProgress:
        """How far the newest reading has come."""
        return self._progress

    def batches(
        self,
        n_events: int = limits.EVENT_FILE_BATCH_EVENTS_DEFAULT,
        *,
        first_position: int = 0,
        follow: bool = False,
        stop: threading.Event | None = None,
    ) -> Iterator[RawBatch]:
        """Read the events in order.

        Parameters
        ----------
        n_events : int
            Events of a batch, 1 to ``EVENT_FILE_BATCH_EVENTS_MAX``. The last batch may have
            fewer, and so may one that reaches ``EVENT_FILE_BATCH_BYTES_MAX``, and any batch of
            a file that is followed.
        first_position : int
            Lines before it are passed over, at the speed of reading.
        follow : bool
            Go on waiting for more at the end of the file, until ``stop`` is set. A last line
            without its line end is then not handed on: it is not whole yet. Without ``follow``
            the lines that had begun when the file was opened are read, and no more.
        stop : threading.Event, optional
            Ends the following; what was read whole is handed on first.

        Yields
        ------
        RawBatch
            With positions; ``received_at_ms`` is None.

        Raises
        ------
        SentinelError
            ``file-missing``, ``file-unreadable``, ``event-file-damaged``,
            ``event-file-changed``, ``event-file-position``. All whole lines before the fault
            are handed on before it is raised.
        ValueError
            For an ``n_events`` or ``first_position`` out of range: the caller's mistake.

        Notes
        -----
        Linear in the size of the file; about 0.06 µs an event of 300 bytes. Memory: a batch
        and a few blocks; 50 MB for a file of nothing but line ends.
        """
        if not 1 <= n_events <= limits.EVENT_FILE_BATCH_EVENTS_MAX:
            raise ValueError(f"n_events: expected 1 to {limits.EVENT_FILE_BATCH_EVENTS_MAX}")
        if first_position < 0:
            raise ValueError("first_position: expected 0 or more")
        self._progress = ReadProgress()
        return self._read(n_events, first_position, Follower(follow, stop))

    def _read(self, n_events: int, first_position: int, follower: Follower) -> Iterator[RawBatch]:
        source = open_bytes(self.path)
        try:
            follower.check_possible(self.path, source)
            lines = LineBuffer(source, first_position, follower)
            fault: SentinelError | None = None
            while not lines.is_at_end and fault is None:
                try:
                    lines.refill(self.path)
                except SentinelError as error:
                    fault = error
                flush = lines.is_at_end or lines.is_waiting or fault is not None
                for batch in lines.take(n_events, flush=flush, source=self.source):
                    self._progress = lines.progress()
                    yield batch
                self._progress = lines.progress()
                if lines.is_waiting:
                    follower.wait()
            if fault is None:
                fault = lines.position_fault(self.path)
            if fault is not None:
                raise fault
        finally:
            source.close()


def refuse_empty(path: Path) -> None:
    """Refuse a file of zero bytes: an accident upstream. A missing one is for the reader to name.

    Raises
    ------
    SentinelError
        ``source-empty``.
    """
    if path.is_file() and path.stat().st_size == 0:
        raise SentinelError(
            ErrorCode.SOURCE_EMPTY, at=str(path), expected="at least one event", got="0 bytes"
        )
