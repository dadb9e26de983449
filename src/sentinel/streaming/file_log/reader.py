"""A reader of a file log: each partition a cursor, each read a few frames of each."""

from __future__ import annotations

import bisect
import os
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from sentinel.contract import RawBatch
from sentinel.core import limits
from sentinel.core.errors import ErrorCode, SentinelError
from sentinel.streaming.file_log.frames import (
    HEAD_BYTES,
    Frame,
    decode_frame,
    read_head,
)
from sentinel.streaming.file_log.log import heads_from, partitions_of, segments_of
from sentinel.streaming.stream.event_log import Ends, KeyedBatch, Member, Read, cut, topic_missing

# Fewer events of a partition in one read are not worth a batch of their own.
_QUOTA_EVENTS_MIN = 256


class _Cursor:
    """One partition: the file that is open, and where in it the next frame is."""

    def __init__(self, folder: Path, position: int) -> None:
        self._folder = folder
        self._handle = -1
        self._path = folder
        # Of the next frame: where it is in the file, and its first position.
        self._n_bytes = 0
        self._at = -1
        # What was read of the file and not all used, and where in the file it begins.
        self._chunk = memoryview(b"")
        self._chunk_at = 0
        self.position = position
        self.left: KeyedBatch | None = None
        self.is_at_end = False
        self.is_out_of_range = False

    def close(self) -> None:
        self._chunk = memoryview(b"")
        if self._handle >= 0:
            os.close(self._handle)
            self._handle = -1

    def frames(self, n_events_max: int) -> list[Frame]:
        """Read frames until there are so many events, or no more."""
        self.is_at_end = self.is_out_of_range = False
        found: list[Frame] = []
        n_events = 0
        while n_events < n_events_max:
            if self._handle < 0 and not self._open():
                break
            content = self._content()
            n_before = len(found)
            used = self._take(content, found, n_events_max - n_events)
            n_events += sum(len(frame.lengths) for frame in found[n_before:])
            if used == 0:
                # What looked torn may have been mended: it is read anew the next time.
                self._chunk = memoryview(b"")
                if not self._go_on(content):
                    break
        return found

    def _content(self) -> memoryview:
        """Return bytes from the next frame on: a whole frame, or all that the file has."""
        start = self._n_bytes - self._chunk_at
        rest = self._chunk[start:] if start >= 0 else self._chunk[:0]
        head = read_head(rest)
        if head is None or head.n_bytes > len(rest):
            rest = memoryview(os.pread(self._handle, limits.FILE_LOG_READ_BYTES, self._n_bytes))
            self._chunk, self._chunk_at = rest, self._n_bytes
        return rest

    def _take(self, content: memoryview, found: list[Frame], n_wanted: int) -> int:
        """Take whole frames out of what was read; return how many bytes they were."""
        used = 0
        while n_wanted > 0:
            head = read_head(content[used:])
            if head is None:
                break
            rest = content[used : used + head.n_bytes]
            if len(rest) < head.n_bytes:
                if used or head.n_bytes <= len(content):
                    break
                rest = memoryview(os.pread(self._handle, head.n_bytes, self._n_bytes))
                if len(rest) < head.n_bytes:
                    break
            if head.first_position != self._at:
                break
            if head.next_position > self.position:
                frame = decode_frame(head, rest)
                if frame is None:
                    break
                found.append(frame)
                n_wanted -= head.n_events
            self._at = head.next_position
            self._n_bytes += head.n_bytes
            used += head.n_bytes
        return used

    def _open(self) -> bool:
        """Open the segment that holds the position; False where there is none."""
        segments = segments_of(self._folder)
        if not segments:
            self.is_at_end = self.position == 0
            self.is_out_of_range = not self.is_at_end
            return False
        place = bisect.bisect_right([first for first, _ in segments], self.position) - 1
        if place < 0:
            self.is_out_of_range = True
            return False
        self._at, self._path = segments[place]
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC
        self._handle = os.open(self._path, flags)
        self._n_bytes = 0
        return True

    def _go_on(self, content: memoryview) -> bool:
        """At the end of what is good in a file: open the next, or say that it is the end."""
        segments = segments_of(self._folder)
        following = [first for first, _ in segments if first > self._segment_first()]
        if following and following[0] == self._at:
            self.close()
            self.position = max(self.position, self._at)
            return True
        if segments and segments[0][0] > self._at:
            self.close()
            self.position = max(self.position, self._at)
            self.is_out_of_range = True
            return False
        if following or self._has_frame_behind(content):
            raise SentinelError(
                ErrorCode.EVENT_FILE_DAMAGED,
                at=f"{self._path}, byte {self._n_bytes}",
                expected=f"a whole frame with position {self._at}",
                got="bytes that are none, and more behind them",
                hint="Restore the file from a copy.",
            )
        self.is_at_end = self.position <= self._at
        self.is_out_of_range = not self.is_at_end
        return False

    def _segment_first(self) -> int:
        return int(self._path.stem)

    def _has_frame_behind(self, content: memoryview) -> bool:
        """Say whether the frame that does not hold is followed by one: then it is not torn."""
        head = read_head(content)
        if head is None:
            return False
        end = self._n_bytes + head.n_bytes
        behind = read_head(memoryview(os.pread(self._handle, HEAD_BYTES, end)))
        return behind is not None and behind.first_position == head.next_position


class FileLog:
    """Reads one topic of a file log; a :class:`~sentinel.streaming.stream.event_log.GroupLog`.

    It has no group: :meth:`join` gives all partitions, and where several workers read one topic,
    the lock of a partition's state says whose it is.

    Parameters
    ----------
    folder : Path
    topic : str
    with_keys : bool
        Whether batches carry the keys.
    wait : callable, optional
        Waits so many seconds; sleeps by default.

    Raises
    ------
    SentinelError
        ``stream-topic-missing``.
    """

    is_dense = True

    def __init__(
        self,
        folder: Path,
        topic: str,
        *,
        with_keys: bool = False,
        wait: Callable[[float], object] = time.sleep,
    ) -> None:
        self.topic = topic
        self._folder = folder
        self._with_keys = with_keys
        self._wait = wait
        self._n_partitions = partitions_of(folder, topic)
        if not self._n_partitions:
            raise topic_missing(topic, f"nothing in {folder}")
        self._cursors: dict[int, _Cursor] = {}
        self._paused: set[int] = set()
        self._tails: dict[int, tuple[Path, int, int]] = {}
        self._first = 0
        self._member: Member | None = None
        self._is_given = False

    def n_partitions(self) -> int:
        """Say how many partitions there are."""
        return self._n_partitions

    def ends(self, partition: int) -> Ends:
        """Look where a partition begins and ends now."""
        segments = segments_of(self._place(partition))
        if not segments:
            return Ends(0, 0)
        first, path = segments[-1]
        known = self._tails.get(partition)
        n_bytes, position = (0, first) if known is None or known[0] != path else known[1:]
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            for head in heads_from(handle, n_bytes):
                n_bytes, position = n_bytes + head.n_bytes, head.next_position
        finally:
            os.close(handle)
        self._tails[partition] = (path, n_bytes, position)
        return Ends(segments[0][0], position)

    def known_end(self, partition: int) -> int:
        """Look where a partition ends."""
        return self.ends(partition).high

    def add(self, positions: Mapping[int, int]) -> None:
        """Read these partitions too."""
        for partition, at in positions.items():
            self.seek(partition, at)

    def remove(self, partitions: Sequence[int]) -> None:
        """Read these no longer."""
        for partition in partitions:
            cursor = self._cursors.pop(partition, None)
            if cursor is not None:
                cursor.close()
            self._paused.discard(partition)

    def seek(self, partition: int, position: int) -> None:
        """Go on elsewhere in a partition."""
        before = self._cursors.pop(partition, None)
        if before is not None:
            before.close()
        self._cursors[partition] = _Cursor(self._place(partition), position)

    def pause(self, partitions: Sequence[int]) -> None:
        """Give nothing of these until they are resumed."""
        self._paused.update(partitions)

    def resume(self, partitions: Sequence[int]) -> None:
        """Go on with paused partitions."""
        self._paused.difference_update(partitions)

    def read(self, n_events_max: int, wait_s: float) -> Read:
        """Take what there is, in turns from all partitions.

        Raises
        ------
        SentinelError
            ``event-file-damaged``.
        """
        if self._member is not None and not self._is_given:
            self._is_given = True
            self._give(self._member)
        waited_s = 0.0
        while True:
            read = self._read(n_events_max)
            if read.batches or read.out_of_range or waited_s >= wait_s:
                return read
            pause_s = min(limits.FILE_LOG_POLL_S, wait_s - waited_s)
            self._wait(pause_s)
            waited_s += pause_s

    def join(self, member: Member) -> None:
        """Ask for all partitions."""
        self._member = member
        self._is_given = False

    def tell(self, positions: Mapping[int, int]) -> bool:
        """Nobody keeps positions for people here: `sentinel store inspect` shows the state's."""
        return bool(positions)

    def close(self) -> None:
        """Give all partitions back."""
        member, self._member = self._member, None
        if member is not None and self._is_given:
            member.end(list(range(self._n_partitions)))
        self.remove(list(self._cursors))

    # --- private -----------------------------------------------------------------------------

    def _place(self, partition: int) -> Path:
        return self._folder / self.topic / f"{partition:05d}"

    def _give(self, member: Member) -> None:
        for partition, at in member.begin(list(range(self._n_partitions))).items():
            if at is None:
                self._paused.add(partition)
            else:
                self.seek(partition, at)

    def _read(self, n_events_max: int) -> Read:
        active = sorted(set(self._cursors) - self._paused)
        if not active:
            return Read()
        self._first += 1
        turn = self._first % len(active)
        quota = max(_QUOTA_EVENTS_MIN, -(-n_events_max // len(active)))
        batches: list[KeyedBatch] = []
        at_end: dict[int, int] = {}
        out_of_range: list[int] = []
        n_left = n_events_max
        for partition in active[turn:] + active[:turn]:
            if n_left <= 0:
                break
            cursor = self._cursors[partition]
            batch = self._take(partition, cursor, min(quota, n_left))
            if batch is not None:
                batches.append(batch)
                n_left -= batch.raw.n_events
            if cursor.is_at_end and cursor.left is None:
                at_end[partition] = cursor.position
            if cursor.is_out_of_range:
                out_of_range.append(partition)
        return Read(tuple(batches), at_end, tuple(out_of_range))

    def _take(self, partition: int, cursor: _Cursor, n_events_max: int) -> KeyedBatch | None:
        """Take at most so many events of a partition; what is left of a frame is kept."""
        batch = cursor.left
        if batch is None:
            position = cursor.position
            frames = cursor.frames(n_events_max)
            if not frames:
                return None
            batch = self._batch(partition, frames, position)
        n_events = min(n_events_max, batch.raw.n_events)
        is_more = n_events < batch.raw.n_events
        cursor.left = cut(batch, n_events, batch.raw.n_events) if is_more else None
        cursor.position = int(batch.raw.positions[n_events - 1]) + 1
        return cut(batch, 0, n_events)

    def _batch(self, partition: int, frames: list[Frame], position: int) -> KeyedBatch:
        lengths = np.concatenate([frame.lengths for frame in frames])
        times = np.concatenate([frame.times_ms for frame in frames])
        ends = np.cumsum(np.maximum(lengths, 0))
        first = frames[0].first_position
        content = [frame.values for frame in frames]
        raw = RawBatch(
            content=content[0] if len(frames) == 1 else np.concatenate(content),
            starts=ends - np.maximum(lengths, 0),
            ends=ends,
            source=self.topic,
            partition=partition,
            positions=np.arange(first, first + len(lengths), dtype=np.int64),
            received_at_ms=times if times.min(initial=0) >= 0 else None,
        )
        keys = _keys(frames) if self._with_keys else None
        return cut(KeyedBatch(raw, keys), max(position - first, 0), raw.n_events)


def _keys(frames: list[Frame]) -> tuple[bytes | None, ...]:
    keys: list[bytes | None] = []
    for frame in frames:
        content, at = frame.keys.tobytes(), 0
        for length in frame.key_lengths.tolist():
            keys.append(None if length < 0 else content[at : at + length])
            at += max(length, 0)
    return tuple(keys)
