"""An event log of files: topics with partitions and positions, kept until somebody removes them.

``FOLDER/TOPIC/00003/00000000000000065536.events``: a partition is a folder, a segment a file named
by its first position, a segment a row of frames (:mod:`sentinel.streaming.file_log.frames`).

Several processes may append to a partition, one at a time: each append holds the partition's lock
and is one write. A process that dies in it leaves a torn frame; the next one to append cuts it off,
and readers take it for "not there yet". What a disk damaged later, with frames behind it, is an
error with its place. Nothing is forgotten unless :meth:`FileLogWriter.forget` is called.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from sentinel.core import limits
from sentinel.core.errors import ErrorCode, SentinelError
from sentinel.core.files import sync_folder, unwritable
from sentinel.streaming.file_log.frames import (
    HEAD_BYTES,
    FrameHead,
    decode_frame,
    encode_frame,
    read_head,
)
from sentinel.streaming.stream.event_log import topic_missing

_SUFFIX = ".events"
_DIGITS = 20


@dataclass(slots=True)
class _Tail:
    """The end of a partition, as last seen by this process.

    Attributes
    ----------
    segment : Path
    handle : int
        Open for writing.
    n_bytes, position : int
        Where the next frame goes, in the file and in the partition.
    """

    segment: Path
    handle: int
    n_bytes: int
    position: int


def refuse_topic(topic: str, n_partitions: int) -> None:
    """Refuse a topic that none may be.

    Raises
    ------
    SentinelError
        ``usage-invalid`` for a name that is not plain, a number of partitions that none may have.
    """
    is_plain = topic not in {"", ".."} and Path(topic).name == topic
    if not 0 < n_partitions <= limits.STREAM_PARTITIONS_MAX or not is_plain:
        raise SentinelError(
            ErrorCode.USAGE_INVALID,
            at=f"{topic}:{n_partitions}",
            expected=f"a plain name, and 1 to {limits.STREAM_PARTITIONS_MAX} partitions",
            got=f"{topic}:{n_partitions}",
        )


def create_topic(folder: Path, topic: str, n_partitions: int) -> None:
    """Make a topic; one that is there already is left alone.

    Raises
    ------
    SentinelError
        As :func:`refuse_topic`; ``file-unwritable``.
    """
    refuse_topic(topic, n_partitions)
    try:
        (folder / topic).mkdir(parents=True, exist_ok=True)
        if partitions_of(folder, topic):
            return
        for partition in reversed(range(n_partitions)):
            (folder / topic / f"{partition:05d}").mkdir(exist_ok=True)
        sync_folder(folder / topic)
    except OSError as error:
        raise unwritable(folder / topic, error) from error


def partitions_of(folder: Path, topic: str) -> int:
    """Count the partitions of a topic; 0 when there is none.

    Raises
    ------
    SentinelError
        ``file-missing`` without the folder of the log; ``file-unreadable``.
    """
    try:
        names = sorted(path.name for path in (folder / topic).iterdir() if path.is_dir())
    except PermissionError as error:
        raise SentinelError(
            ErrorCode.FILE_UNREADABLE,
            at=str(folder / topic),
            expected="a topic that can be read",
            got=error.strerror or error,
        ) from error
    except OSError:
        names_in(folder)
        return 0
    return len(names) if names == [f"{n:05d}" for n in range(len(names))] else 0


def names_in(folder: Path) -> list[str]:
    """List the names in the folder of a log, sorted.

    Raises
    ------
    SentinelError
        ``file-missing`` when there is no such folder, or it may not be read.
    """
    try:
        return sorted(path.name for path in folder.iterdir())
    except OSError as error:
        raise SentinelError(
            ErrorCode.FILE_MISSING,
            at=str(folder),
            expected="the folder of a file log",
            got=error.strerror or error,
        ) from error


def segments_of(folder: Path) -> list[tuple[int, Path]]:
    """List the segments of a partition by first position, in order.

    Raises
    ------
    SentinelError
        ``file-missing``.
    """
    try:
        paths = [path for path in folder.iterdir() if path.suffix == _SUFFIX]
    except OSError as error:
        raise SentinelError(
            ErrorCode.FILE_MISSING,
            at=str(folder),
            expected="the folder of a partition",
            got=error.strerror or error,
        ) from error
    return sorted((int(path.stem), path) for path in paths)


def heads_from(handle: int, n_bytes: int) -> Iterator[FrameHead]:
    """Hop from head to head, as long as frames are there in full; bodies are not looked at."""
    end = os.fstat(handle).st_size
    while True:
        head = read_head(memoryview(os.pread(handle, HEAD_BYTES, n_bytes)))
        if head is None or n_bytes + head.n_bytes > end:
            return
        yield head
        n_bytes += head.n_bytes


class FileLogWriter:
    """Appends to a topic.

    Parameters
    ----------
    folder : Path
        Of the log.
    topic : str
    segment_bytes : int
        A segment that is larger is followed by the next.
    syncs : bool
        Sync each append, so that it survives a power cut; otherwise :meth:`sync` does.

    Raises
    ------
    SentinelError
        ``stream-topic-missing``.
    """

    def __init__(
        self,
        folder: Path,
        topic: str,
        *,
        segment_bytes: int = limits.FILE_LOG_SEGMENT_BYTES,
        syncs: bool = False,
    ) -> None:
        self.topic = topic
        self.n_partitions = partitions_of(folder, topic)
        if not self.n_partitions:
            raise topic_missing(topic, f"nothing in {folder}")
        self._folder = folder / topic
        self._segment_bytes = segment_bytes
        self._syncs = syncs
        self._locks: dict[int, int] = {}
        self._tails: dict[int, _Tail] = {}

    def append(
        self,
        partition: int,
        values: Sequence[bytes | None],
        *,
        keys: Sequence[bytes | None] | None = None,
        times_ms: Sequence[int] | npt.NDArray[np.int64] | None = None,
    ) -> int:
        """Append events as one: all of them are there, or none.

        Parameters
        ----------
        partition : int
        values : sequence of bytes or None
            1 to ``FILE_LOG_FRAME_EVENTS_MAX``.
        keys : sequence of bytes or None, optional
        times_ms : sequence of int, optional
            When each was received.

        Returns
        -------
        int
            Position of the first.

        Raises
        ------
        SentinelError
            ``file-unwritable``: nothing was appended, and it may be tried again.
        """
        folder = self._folder / f"{partition:05d}"
        with self._locked(partition, folder):
            try:
                tail = self._tail(partition, folder)
                frame = encode_frame(tail.position, values, keys, times_ms)
                if tail.n_bytes and tail.n_bytes + len(frame) > self._segment_bytes:
                    tail = self._next_segment(partition, folder, tail)
                self._write(tail, frame)
            except OSError as error:
                self._forget_tail(partition)
                raise unwritable(folder, error) from error
            first = tail.position
            tail.n_bytes += len(frame)
            tail.position += len(values)
            return first

    def sync(self) -> None:
        """Make all that was appended survive a power cut.

        Raises
        ------
        SentinelError
            ``file-unwritable``.
        """
        for tail in self._tails.values():
            try:
                os.fdatasync(tail.handle)
            except OSError as error:
                raise unwritable(tail.segment, error) from error

    def forget(self, partition: int, before: int) -> int:
        """Remove the segments that hold nothing from a position on; return the first one kept.

        Raises
        ------
        SentinelError
            ``file-unwritable``.
        """
        folder = self._folder / f"{partition:05d}"
        with self._locked(partition, folder):
            segments = segments_of(folder)
            while len(segments) > 1 and segments[1][0] <= before:
                try:
                    segments.pop(0)[1].unlink()
                except OSError as error:
                    raise unwritable(folder, error) from error
            return segments[0][0] if segments else 0

    def close(self) -> None:
        """Let go of the files. Safe to call twice."""
        for partition in list(self._tails):
            self._forget_tail(partition)
        for handle in self._locks.values():
            os.close(handle)
        self._locks.clear()

    # --- private -----------------------------------------------------------------------------

    @contextmanager
    def _locked(self, partition: int, folder: Path) -> Iterator[None]:
        if not 0 <= partition < self.n_partitions:
            raise topic_missing(f"{self.topic}/{partition}", f"{self.n_partitions} partitions")
        try:
            if partition not in self._locks:
                flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
                self._locks[partition] = os.open(folder / "lock", flags, 0o600)
            fcntl.flock(self._locks[partition], fcntl.LOCK_EX)
        except OSError as error:
            raise unwritable(folder, error) from error
        try:
            yield
        finally:
            fcntl.flock(self._locks[partition], fcntl.LOCK_UN)

    def _tail(self, partition: int, folder: Path) -> _Tail:
        """Find the end, which another process may have moved; cut off what is torn."""
        tail = self._tails.get(partition)
        segments = segments_of(folder)
        if tail is None or not segments or segments[-1][1] != tail.segment:
            self._forget_tail(partition)
            first, path = segments[-1] if segments else (0, folder / _name(0))
            flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW
            tail = self._tails[partition] = _Tail(path, os.open(path, flags, 0o600), 0, first)
            if not segments:
                sync_folder(folder)
        n_bytes = os.fstat(tail.handle).st_size
        if n_bytes != tail.n_bytes:
            self._catch_up(tail, n_bytes)
        return tail

    def _catch_up(self, tail: _Tail, n_bytes: int) -> None:
        for head in heads_from(tail.handle, tail.n_bytes):
            content = memoryview(os.pread(tail.handle, head.n_bytes, tail.n_bytes))
            if head.first_position != tail.position or decode_frame(head, content) is None:
                break
            tail.n_bytes += head.n_bytes
            tail.position = head.next_position
        if tail.n_bytes != n_bytes:
            os.ftruncate(tail.handle, tail.n_bytes)
            os.fsync(tail.handle)

    def _next_segment(self, partition: int, folder: Path, tail: _Tail) -> _Tail:
        os.fdatasync(tail.handle)
        position = tail.position
        path = folder / _name(position)
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC
        handle = os.open(path, flags, 0o600)
        self._forget_tail(partition)
        self._tails[partition] = _Tail(path, handle, 0, position)
        sync_folder(folder)
        return self._tails[partition]

    def _write(self, tail: _Tail, frame: bytes) -> None:
        view = memoryview(frame)
        try:
            while view:
                view = view[os.write(tail.handle, view) :]
            if self._syncs:
                os.fdatasync(tail.handle)
        except OSError:
            os.ftruncate(tail.handle, tail.n_bytes)
            raise

    def _forget_tail(self, partition: int) -> None:
        tail = self._tails.pop(partition, None)
        if tail is not None:
            os.close(tail.handle)


def _name(position: int) -> str:
    return f"{position:0{_DIGITS}d}{_SUFFIX}"
