"""What is in a file log, by partition: positions, bytes, stamps. It changes nothing."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from sentinel.streaming.file_log.frames import FrameHead, decode_frame
from sentinel.streaming.file_log.log import heads_from, names_in, partitions_of, segments_of
from sentinel.streaming.stream.event_log import topic_missing


@dataclass(frozen=True, slots=True, kw_only=True)
class PartitionReport:
    """One partition.

    Attributes
    ----------
    topic : str
    partition : int
    first_position, next_position : int
        The first that is kept, and the one that the next event gets.
    n_segments, n_bytes : int
    oldest_ms, newest_ms : int or None
        Stamps of the first and the last event that is kept, milliseconds since the epoch; None
        where events have none.
    is_torn : bool
        An append did not end, or has not yet; the next one cuts its bytes off.
    """

    topic: str
    partition: int
    first_position: int = 0
    next_position: int = 0
    n_segments: int = 0
    n_bytes: int = 0
    oldest_ms: int | None = None
    newest_ms: int | None = None
    is_torn: bool = False


def look_at_file_log(folder: Path, topic: str | None = None) -> list[PartitionReport]:
    """Look at one topic of a file log, or at all; heads of frames are read, not events.

    Raises
    ------
    SentinelError
        ``file-missing`` without the folder; ``stream-topic-missing``, without any topic too.
    """
    names = [topic] if topic is not None else names_in(folder)
    counts = {name: partitions_of(folder, name) for name in names}
    if not any(counts.values()):
        raise topic_missing(topic or str(folder), f"nothing in {folder}")
    return [
        _look(folder, name, partition)
        for name, n_partitions in counts.items()
        for partition in range(n_partitions)
    ]


def _look(folder: Path, topic: str, partition: int) -> PartitionReport:
    segments = segments_of(folder / topic / f"{partition:05d}")
    if not segments:
        return PartitionReport(topic=topic, partition=partition)
    oldest, _, _ = _ends(segments[0][1])
    _, newest, n_whole = _ends(segments[-1][1])
    next_position, newest_ms = segments[-1][0], None
    if newest is not None:
        next_position, newest_ms = newest
    n_last = segments[-1][1].stat().st_size
    return PartitionReport(
        topic=topic,
        partition=partition,
        first_position=segments[0][0],
        next_position=next_position,
        n_segments=len(segments),
        n_bytes=sum(path.stat().st_size for _, path in segments),
        oldest_ms=oldest,
        newest_ms=newest_ms,
        is_torn=n_whole < n_last,
    )


def _ends(path: Path) -> tuple[int | None, tuple[int, int | None] | None, int]:
    """Return the first stamp, the next position with the last stamp, and the bytes of frames."""
    handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        oldest: int | None = None
        last: tuple[FrameHead, int] | None = None
        n_bytes = 0
        for head in heads_from(handle, 0):
            if last is None:
                oldest = _stamp(handle, head, n_bytes, 0)
            last = (head, n_bytes)
            n_bytes += head.n_bytes
        if last is None:
            return None, None, 0
        newest = _stamp(handle, *last, -1)
        return oldest, (last[0].next_position, newest), n_bytes
    finally:
        os.close(handle)


def _stamp(handle: int, head: FrameHead, at: int, place: int) -> int | None:
    frame = decode_frame(head, memoryview(os.pread(handle, head.n_bytes, at)))
    stamp = -1 if frame is None else int(frame.times_ms[place])
    return None if stamp < 0 else stamp
