"""The buffer of an event file: events found in it, then a line that has not ended yet.

The algorithm is described in :mod:`sentinel.data.event_file`.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from sentinel.contract.batch import Int64Array, RawBatch
from sentinel.core import limits
from sentinel.core.errors import ErrorCode, SentinelError
from sentinel.data.byte_source import ByteSource

_LINE_FEED = 10
_CARRIAGE_RETURN = 13
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"


@dataclass(frozen=True, slots=True)
class ReadProgress:
    """How far the reading of an event file has come.

    Attributes
    ----------
    n_bytes : int
        Size of the file (as it lies on disk, compressed or not) when last looked at.
    n_bytes_read : int
        Bytes of it that were read.
    n_lines, n_events, n_blank_lines, n_lines_before : int
        Lines found; those handed on as events; blank ones; those before the first position.
    n_events_cut : int
        Events of which only the head was handed on.
    ends_without_newline : bool
        The last event came without a line end: the file may have been cut off.
    is_complete : bool
        The end was reached.
    """

    n_bytes: int = 0
    n_bytes_read: int = 0
    n_lines: int = 0
    n_events: int = 0
    n_blank_lines: int = 0
    n_lines_before: int = 0
    n_events_cut: int = 0
    ends_without_newline: bool = False
    is_complete: bool = False

    @property
    def notes(self) -> tuple[str, ...]:
        """What a person should know about the file, as sentences; empty where all is plain."""
        notes = []
        if self.is_complete and self.n_bytes == 0:
            notes.append("The file is empty (0 bytes).")
        elif self.is_complete and self.n_lines == self.n_blank_lines:
            notes.append("The file holds no event.")
        if self.ends_without_newline:
            notes.append("The last line has no line end; it may have been cut off.")
        if self.n_blank_lines:
            notes.append(f"{self.n_blank_lines} blank lines were passed over.")
        if self.n_events_cut:
            notes.append(f"{self.n_events_cut} events were too long to be kept whole.")
        return tuple(notes)


class Follower:
    """Whether and how long to wait for a file to grow."""

    def __init__(self, follow: bool, stop: threading.Event | None) -> None:
        self.follow = follow
        self._stop = stop if stop is not None else threading.Event()

    @property
    def goes_on(self) -> bool:
        """Whether more may come."""
        return self.follow and not self._stop.is_set()

    def wait(self) -> None:
        """Sleep until the file may have grown, or until the end of following."""
        self._stop.wait(limits.EVENT_FILE_POLL_S)

    def check_possible(self, path: Path, source: ByteSource) -> None:
        """Refuse to follow what cannot grow: ``file-unreadable``."""
        if self.follow and not source.is_plain:
            raise SentinelError(
                ErrorCode.FILE_UNREADABLE,
                at=str(path),
                expected="a plain file to follow",
                got="a compressed one",
            )


@dataclass(frozen=True, slots=True)
class _Found:
    """Events found in the buffer and not yet handed on."""

    starts: Int64Array
    ends: Int64Array
    positions: Int64Array
    whole_lengths: Int64Array

    def __len__(self) -> int:
        return len(self.starts)

    def cut(self, first: int, end: int) -> _Found:
        return _Found(
            self.starts[first:end],
            self.ends[first:end],
            self.positions[first:end],
            self.whole_lengths[first:end],
        )

    def moved(self, n_bytes: int) -> _Found:
        return replace(self, starts=self.starts - n_bytes, ends=self.ends - n_bytes)

    def followed_by(self, other: _Found) -> _Found:
        if not len(self):
            return other
        return _Found(
            np.concatenate((self.starts, other.starts)),
            np.concatenate((self.ends, other.ends)),
            np.concatenate((self.positions, other.positions)),
            np.concatenate((self.whole_lengths, other.whole_lengths)),
        )


_NO_LINES = np.empty(0, dtype=np.int64)
_NOTHING = _Found(_NO_LINES, _NO_LINES, _NO_LINES, _NO_LINES)


class LineBuffer:
    """The buffer: events found in it, then the beginning of a line that has not ended."""

    def __init__(self, source: ByteSource, first_position: int, follower: Follower) -> None:
        self._source = source
        self._first_position = first_position
        self._follower = follower
        self._buffer = np.empty(0, dtype=np.uint8)
        self._n_filled = 0
        self._tail_start = 0  # where the unfinished line begins
        self._n_bytes_cut = 0  # bytes of the unfinished line that were not kept
        self._found = _NOTHING
        self._n_bytes_limit = source.n_bytes()
        self._n_lines = 0
        self._n_blank = 0
        self._n_before = 0
        self._n_cut = 0
        self._n_handed_on = 0
        self._ends_without_newline = False
        self.is_at_end = False
        self.is_waiting = False

    def progress(self) -> ReadProgress:
        """Describe how far this reading has come."""
        return ReadProgress(
            n_bytes=self._n_bytes_limit,
            n_bytes_read=self._source.n_bytes_read,
            n_lines=self._n_lines,
            n_events=self._n_handed_on,
            n_blank_lines=self._n_blank,
            n_lines_before=self._n_before,
            n_events_cut=self._n_cut,
            ends_without_newline=self._ends_without_newline,
            is_complete=self.is_at_end and not len(self._found),
        )

    def position_fault(self, path: Path) -> SentinelError | None:
        """Say when the file ended before the first position."""
        if self._n_lines >= self._first_position:
            return None
        return SentinelError(
            ErrorCode.EVENT_FILE_POSITION,
            at=str(path),
            expected=f"at least {self._first_position} lines",
            got=f"{self._n_lines} lines",
        )

    # --- reading ------------------------------------------------------------------------------

    def refill(self, path: Path) -> None:
        """Move what is left to the front of a new buffer, read behind it, find its lines."""
        goes_on = self._follower.goes_on  # asked before the read: what came before is still read
        n_wanted = self._n_bytes_wanted()
        self._move_to_front(n_wanted)
        first = self._n_filled
        view = self._buffer.data[first : first + n_wanted]
        n_read = self._source.read_into(view) if n_wanted else 0
        self._n_filled += n_read
        self.is_waiting = False
        if n_read:
            self._find_lines(first)
        else:
            self._meet_end(path, goes_on)

    def _n_bytes_wanted(self) -> int:
        """Bytes to ask for: all of a block, but not past the end that a snapshot has."""
        if self._follower.follow or not self._source.is_plain:
            return limits.EVENT_FILE_BLOCK_BYTES
        n_left = self._n_bytes_limit - self._source.n_bytes_read
        if n_left > 0:
            return min(n_left, limits.EVENT_FILE_BLOCK_BYTES)
        # The file may have grown since: take the rest of the line that had begun, and no more.
        return limits.EVENT_FILE_BLOCK_BYTES if self._tail_length else 0

    @property
    def _tail_length(self) -> int:
        return self._n_filled - self._tail_start

    @property
    def _is_past_snapshot(self) -> bool:
        return (
            self._source.is_plain
            and not self._follower.follow
            and self._source.n_bytes_read > self._n_bytes_limit
        )

    def _move_to_front(self, n_wanted: int) -> None:
        first = int(self._found.starts[0]) if len(self._found) else self._tail_start
        kept = self._buffer[first : self._n_filled]
        # A new buffer each time: batches handed on are views of the old one.
        self._buffer = np.empty(len(kept) + n_wanted, dtype=np.uint8)
        self._buffer[: len(kept)] = kept
        self._n_filled = len(kept)
        self._tail_start -= first
        self._found = self._found.moved(first)

    def _find_lines(self, first: int) -> None:
        fresh = self._buffer[first : self._n_filled]
        newlines = np.flatnonzero(fresh == _LINE_FEED) + first
        if self._is_past_snapshot and len(newlines):
            newlines = newlines[:1]
            self._n_filled = int(newlines[0]) + 1
        if len(newlines):
            self._add_lines(newlines)
        self._shorten_tail()

    def _meet_end(self, path: Path, goes_on: bool) -> None:
        n_bytes = self._source.n_bytes()
        if self._source.is_plain and n_bytes < self._n_bytes_limit:
            raise _changed(path, got="a shorter one")
        self._n_bytes_limit = max(n_bytes, self._n_bytes_limit)
        if self._follower.follow:
            _check_not_replaced(path, self._source)
            self.is_waiting = goes_on
            self.is_at_end = not goes_on
            return
        if self._tail_length:
            self._ends_without_newline = True
            self._add_lines(np.array([self._n_filled], dtype=np.int64))
        self.is_at_end = True

    # --- lines --------------------------------------------------------------------------------

    def _add_lines(self, ends: Int64Array) -> None:
        """Turn line ends (positions of the line feeds) into events."""
        starts = np.empty_like(ends)
        starts[0] = self._tail_start
        starts[1:] = ends[:-1] + 1
        self._tail_start = min(int(ends[-1]) + 1, self._n_filled)
        self._skip_byte_order_mark(starts)
        has_return = self._buffer[np.maximum(ends - 1, 0)] == _CARRIAGE_RETURN
        ends = ends - (has_return & (ends > starts))
        whole = ends - starts
        whole[0] += self._n_bytes_cut
        self._n_bytes_cut = 0
        positions = np.arange(self._n_lines, self._n_lines + len(ends), dtype=np.int64)
        self._n_lines += len(ends)
        found = _Found(starts, ends, positions, whole)
        self._found = self._found.followed_by(self._cut_long(self._select(found)))

    def _skip_byte_order_mark(self, starts: Int64Array) -> None:
        """Pass over the mark that some editors put before the first line."""
        if self._n_lines == 0:
            start = int(starts[0])
            if self._buffer[start : start + 3].tobytes() == _BYTE_ORDER_MARK:
                starts[0] += 3

    def _select(self, found: _Found) -> _Found:
        """Leave out blank lines and those before the first position, and count them."""
        is_before = found.positions < self._first_position
        is_blank = (found.whole_lengths == 0) & ~is_before
        n_before = int(np.count_nonzero(is_before))
        n_blank = int(np.count_nonzero(is_blank))
        self._n_before += n_before
        self._n_blank += n_blank
        if not n_before and not n_blank:
            return found
        keep = ~(is_before | is_blank)
        return _Found(
            found.starts[keep],
            found.ends[keep],
            found.positions[keep],
            found.whole_lengths[keep],
        )

    def _cut_long(self, found: _Found) -> _Found:
        is_long = found.whole_lengths > limits.EVENT_FILE_LINE_BYTES_MAX
        n_long = int(np.count_nonzero(is_long))
        if not n_long:
            return found
        self._n_cut += n_long
        heads = found.starts + limits.EVENT_FILE_LINE_HEAD_BYTES
        return replace(found, ends=np.where(is_long, heads, found.ends))

    def _shorten_tail(self) -> None:
        r"""Keep only the head of an unfinished line that is too long, and its last byte.

        The last byte may be the ``\r`` of a line end whose ``\n`` is still to come.
        """
        if self._tail_length <= limits.EVENT_FILE_LINE_BYTES_MAX:
            return
        head_end = self._tail_start + limits.EVENT_FILE_LINE_HEAD_BYTES
        self._buffer[head_end] = self._buffer[self._n_filled - 1]
        self._n_bytes_cut += self._n_filled - (head_end + 1)
        self._n_filled = head_end + 1

    # --- handing on ---------------------------------------------------------------------------

    def take(self, n_events: int, *, flush: bool, source: str) -> Iterator[RawBatch]:
        """Hand on full batches; with ``flush`` or too many bytes, what is left as well."""
        first = 0
        while first < len(self._found):
            n_bytes_left = int(self._found.ends[-1] - self._found.starts[first])
            is_heavy = n_bytes_left > limits.EVENT_FILE_BATCH_BYTES_MAX
            if len(self._found) - first < n_events and not flush and not is_heavy:
                break
            end = self._batch_end(first, n_events)
            part = self._found.cut(first, end)
            first = end
            self._n_handed_on += len(part)
            if first == len(self._found):
                self._found = _NOTHING
                first = 0
            yield self._batch(part, source)
        self._found = self._found.cut(first, len(self._found))

    def _batch_end(self, first: int, n_events: int) -> int:
        end = min(first + n_events, len(self._found))
        last_end = int(self._found.starts[first]) + limits.EVENT_FILE_BATCH_BYTES_MAX
        if self._found.ends[end - 1] <= last_end:
            return end
        return max(first + 1, int(np.searchsorted(self._found.ends[:end], last_end, "right")))

    def _batch(self, part: _Found, source: str) -> RawBatch:
        start = int(part.starts[0])
        content: npt.NDArray[np.uint8] = self._buffer[start : int(part.ends[-1])]
        lengths = part.ends - part.starts
        is_cut = bool((part.whole_lengths != lengths).any())
        return RawBatch(
            content=content,
            starts=part.starts - start,
            ends=part.ends - start,
            source=source,
            partition=0,
            positions=part.positions,
            whole_lengths=part.whole_lengths if is_cut else None,
        )


def _changed(path: Path, *, got: str) -> SentinelError:
    return SentinelError(
        ErrorCode.EVENT_FILE_CHANGED,
        at=str(path),
        expected="the file that was opened, as long as it was or longer",
        got=got,
    )


def _check_not_replaced(path: Path, source: ByteSource) -> None:
    try:
        inode = path.stat().st_ino
    except FileNotFoundError as error:
        raise _changed(path, got="nothing under its name") from error
    if inode != source.inode():
        raise _changed(path, got="another one")
