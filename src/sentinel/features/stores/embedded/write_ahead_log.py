"""Append-only log of what was applied to the state, so that a crash loses nothing acknowledged.

Layout, little-endian::

    wal-<first sequence, 20 digits>.log
      head    8s magic, u32 format, 32s identity, u64 epoch, u64 first sequence, u32 crc
      record  4s marker, u32 payload bytes, u64 sequence, u64 synced, u32 kind, u64 epoch, u32 crc,
              payload

``crc`` is CRC-32 over all that precedes it and, for a record, the payload. Sequences run without
a gap over all segments. ``synced`` is the last sequence that was on the disk for certain when the
record was written. Reading stops at the first record that is not whole:

* a later record says that it had been synced, or the segment is not the last, or whole records
  stand behind it and the machine has run since the log was last opened (a killed process leaves
  the front of a write, never its end): corruption. An error names file and offset.
* otherwise it is the end of a write that a crash or a power cut interrupted. The tail is cut off,
  said in ``torn_tail``, and the position of the state moves back with it.

``epoch`` is the fencing token of the owner that wrote the record: each start takes a larger one
and begins a segment of its own. So what an owner that was frozen and replaced may still write lies
behind the first sequence of its successor's segment, and is passed over. Format 1 had the epoch in
the head only; it is read, and never written.

After a failed write the log cuts back to the last whole record before it writes again, so it
works when room returns. After a failed sync it refuses for good: what the kernel then holds is
unknown (Rebello et al., "Can Applications Recover from fsync Failures?", USENIX ATC 2020).
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from sentinel.core import limits
from sentinel.core.disk import Disk, DiskFile
from sentinel.core.errors import ErrorCode, SentinelError

MAGIC = b"SNTLWAL\n"
MARKER = b"\xf1rec"
FORMAT = 2
_HEAD = struct.Struct("<8sI32sQQ")
_RECORD_1 = struct.Struct("<4sIQQI")
_RECORD = struct.Struct("<4sIQQIQ")
_RECORDS = {1: _RECORD_1, 2: _RECORD}
_CRC = struct.Struct("<I")
HEAD_BYTES = _HEAD.size + _CRC.size
RECORD_HEAD_BYTES = _RECORD.size + _CRC.size


@dataclass(frozen=True, slots=True)
class WalRecord:
    """One applied batch.

    Attributes
    ----------
    sequence : int
        Position in this log, from 1, without a gap.
    kind : int
        What the payload is, for the store.
    payload : bytes
    synced : int
        Last sequence that was on the disk for certain when this one was written.
    epoch : int
        Fencing token of its writer; 0 in format 1.
    """

    sequence: int
    kind: int
    payload: bytes
    synced: int = 0
    epoch: int = 0


@dataclass(frozen=True, slots=True)
class TornTail:
    """What recovery cut off: the end of a write that a crash interrupted."""

    path: Path
    offset: int
    n_bytes: int


def segment_name(first_sequence: int) -> str:
    """Name the segment that starts with a sequence."""
    return f"wal-{first_sequence:020d}.log"


def segment_paths(disk: Disk, folder: Path) -> list[Path]:
    """List the segments in a folder, oldest first."""
    return [
        folder / name
        for name in disk.names(folder)
        if name.startswith("wal-") and name.endswith(".log")
    ]


def _first_of(path: Path) -> int:
    return int(path.stem.removeprefix("wal-"))


def encode_head(identity: bytes, epoch: int, first_sequence: int) -> bytes:
    """Encode the head of a segment; ``identity`` is 32 bytes."""
    head = _HEAD.pack(MAGIC, FORMAT, identity, epoch, first_sequence)
    return head + _CRC.pack(zlib.crc32(head))


def encode_record(record: WalRecord) -> bytes:
    """Encode one record with its checksum."""
    head = _RECORD.pack(
        MARKER, len(record.payload), record.sequence, record.synced, record.kind, record.epoch
    )
    crc = zlib.crc32(record.payload, zlib.crc32(head))
    return head + _CRC.pack(crc) + record.payload


def _decode_record(content: bytes, offset: int, version: int) -> tuple[WalRecord, int] | None:
    """Decode the record at an offset; None when it is not whole there."""
    layout = _RECORDS[version]
    start = offset + layout.size + _CRC.size
    if start > len(content):
        return None
    marker, n_bytes, sequence, synced, kind, *rest = layout.unpack_from(content, offset)
    end = start + n_bytes
    if marker != MARKER or n_bytes > limits.WAL_RECORD_BYTES_MAX or end > len(content):
        return None
    (crc,) = _CRC.unpack_from(content, offset + layout.size)
    payload = content[start:end]
    head = content[offset : offset + layout.size]
    if zlib.crc32(payload, zlib.crc32(head)) != crc:
        return None
    return WalRecord(sequence, kind, payload, synced, rest[0] if rest else 0), end


def _was_whole(
    content: bytes, offset: int, sequence: int, version: int, *, is_same_boot: bool
) -> bool:
    """Whether any whole record after the offset says that ``sequence`` was there before it.

    It says that it was on the disk; without a power cut it need not, having been written later.
    """
    position = content.find(MARKER, offset + 1)
    while position >= 0:
        decoded = _decode_record(content, position, version)
        if decoded is not None:
            record = decoded[0]
            if record.synced >= sequence or (is_same_boot and record.sequence > sequence):
                return True
        position = content.find(MARKER, position + 1)
    return False


def _corrupt(path: Path, offset: int, expected: str, got: object) -> SentinelError:
    return SentinelError(
        ErrorCode.STATE_CORRUPT,
        at=f"{path.name}:{offset}",
        expected=expected,
        got=got,
        hint="Restore the file, or move the state folder away and replay the source.",
    )


def _refuse_gap(path: Path, expected: int, got: int) -> None:
    """Refuse a record, or the first one of a segment, where others are missing before it."""
    if got != expected:
        raise SentinelError(
            ErrorCode.STATE_GAP,
            at=path.name,
            expected=f"record {expected}",
            got=f"record {got}",
            hint="A segment or a snapshot is missing: restore it, or replay the source.",
        )


def _behind(paths: list[Path], sequence: int) -> list[Path]:
    """Take the segments that may hold a record above a sequence.

    Those before them may be there still, or again: a power cut can bring back a removed name.
    """
    n_covered = sum(_first_of(path) <= sequence + 1 for path in paths[1:])
    return paths[n_covered:]


def _is_head(content: bytes) -> bool:
    """Whether a whole segment head stands at the front."""
    if len(content) < HEAD_BYTES:
        return False
    (crc,) = _CRC.unpack_from(content, _HEAD.size)
    return content.startswith(MAGIC) and crc == zlib.crc32(content[: _HEAD.size])


def _check_head(content: bytes, path: Path, identity: bytes | None) -> tuple[int, int, int]:
    """Return format, epoch and first sequence of a segment, or raise."""
    _, version, found, epoch, first_sequence = _HEAD.unpack_from(content)
    if not _is_head(content):
        raise _corrupt(path, 0, "a segment head", "a damaged one")
    if version not in _RECORDS:
        raise SentinelError(
            ErrorCode.STATE_FORMAT,
            at=path.name,
            expected=f"format 1 to {FORMAT}",
            got=version,
            hint="Use the version of Sentinel that wrote it, or replay the source.",
        )
    if identity is not None and found != identity:
        raise SentinelError(
            ErrorCode.STATE_OF_ANOTHER_FEATURE_SET,
            at=path.name,
            expected=f"state of feature set {identity.hex()[:12]}",
            got=f"feature set {found.hex()[:12]}",
            hint="Give the new feature set a state folder of its own and replay the source.",
        )
    return version, epoch, first_sequence


class _Segment:
    """One segment as it was found: the one rule of what is torn and what is damaged.

    Attributes
    ----------
    offset : int
        Where whole records end, once they were all read.
    n_bytes_torn, n_bytes_fenced : int
        Behind it: an unfinished write; what an owner wrote that had been replaced.
    """

    def __init__(
        self, disk: Disk, path: Path, following: Path | None, *, is_same_boot: bool
    ) -> None:
        self.path = path
        self.content = disk.read(path)
        self.offset = self.n_bytes_torn = self.n_bytes_fenced = 0
        self._end = None if following is None else _first_of(following)
        self._is_same_boot = is_same_boot

    def has_head(self) -> bool:
        """Whether there is more than an unfinished head, which only the last segment may be."""
        if len(self.content) > HEAD_BYTES or _is_head(self.content):
            return True
        if self._end is not None:
            raise _corrupt(self.path, 0, "a segment head", f"{len(self.content)} bytes of another")
        self.n_bytes_torn = len(self.content)
        return False

    def refuse_gap(self, reached: int) -> None:
        """Refuse it where records are missing between its first and the last that was reached."""
        first = _first_of(self.path)
        _refuse_gap(self.path, min(first, reached + 1), first)

    def head(self, identity: bytes | None) -> tuple[int, int, int]:
        """Return format, epoch and first sequence, or raise."""
        head = _check_head(self.content, self.path, identity)
        _refuse_gap(self.path, _first_of(self.path), head[2])
        return head

    def records(self, head: tuple[int, int, int]) -> Iterator[WalRecord]:
        """Yield the whole records up to the first sequence of the next segment."""
        version, epoch, next_sequence = head
        self.offset = HEAD_BYTES
        while self.offset < len(self.content):
            if next_sequence == self._end:
                # Of an owner that was frozen, replaced, and woke: its successor began here.
                self.n_bytes_fenced = len(self.content) - self.offset
                return
            decoded = _decode_record(self.content, self.offset, version)
            if decoded is None:
                if not self._is_torn(next_sequence, version):
                    raise _corrupt(self.path, self.offset, "a whole record", "a damaged one")
                self.n_bytes_torn = len(self.content) - self.offset
                return
            record, following = decoded
            if version > 1 and record.epoch != epoch:
                raise _corrupt(self.path, self.offset, f"a record of epoch {epoch}", record.epoch)
            _refuse_gap(self.path, next_sequence, record.sequence)
            self.offset = following
            next_sequence += 1
            yield record

    def _is_torn(self, next_sequence: int, version: int) -> bool:
        return self._end is None and not _was_whole(
            self.content, self.offset, next_sequence, version, is_same_boot=self._is_same_boot
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class SegmentReport:
    """What is in a segment.

    Attributes
    ----------
    name : str
    n_bytes : int
    first, last : int
        Sequences; ``last`` is ``first - 1`` for an empty segment.
    n_bytes_torn : int
        Of a write at its end that a crash interrupted: the next start cuts them off.
    fault : str
        What is wrong with it; empty for nothing.
    """

    name: str
    n_bytes: int
    first: int
    last: int
    n_bytes_torn: int
    fault: str


def look_at_segments(
    disk: Disk, folder: Path, *, after: int, is_same_boot: bool
) -> list[SegmentReport]:
    """Read the segments of any feature set as a recovery reads them, changing nothing.

    Parameters
    ----------
    disk : Disk
    folder : Path
    after : int
        Last record that the snapshot holds which a recovery begins with; 0 without one.
    is_same_boot : bool
        As for :class:`WriteAheadLog`.
    """
    paths = segment_paths(disk, folder)
    behind = _behind(paths, after)
    reports: list[SegmentReport] = []
    for path, following in zip(paths, [*paths[1:], None][: len(paths)], strict=True):
        reached = max(after, reports[-1].last) if reports else after
        if path not in behind or (reports and reports[-1].fault):
            # Not needed; or how far the one before it went, which is damaged, nobody knows.
            reached = _first_of(path)
        segment = _Segment(disk, path, following, is_same_boot=is_same_boot)
        reports.append(_look_at(segment, reached))
    return reports


def _look_at(segment: _Segment, reached: int) -> SegmentReport:
    first = _first_of(segment.path)
    last, fault = first - 1, ""
    try:
        if segment.has_head():
            for record in segment.records(segment.head(None)):
                last = record.sequence
        segment.refuse_gap(reached)
    except SentinelError as error:
        fault = str(error)
    return SegmentReport(
        name=segment.path.name,
        n_bytes=len(segment.content),
        first=first,
        last=last,
        n_bytes_torn=segment.n_bytes_torn,
        fault=fault,
    )


class WriteAheadLog:
    """The log of one state folder.

    Use :meth:`recover` first, once, to read what is there; then :meth:`append` and
    :meth:`commit`.

    Parameters
    ----------
    disk : Disk
    folder : Path
        Exists, and is locked by the caller: one writer at a time.
    identity : bytes
        32 bytes: the feature-set identity; another one's log is refused.
    epoch : int
        Fencing token of this owner, at least 0, larger than any earlier owner's.
    syncs : bool
        True for durability class ``power``: commit returns after the disk has it.
    is_same_boot : bool
        The machine has run since the log was last opened: no power was cut.
    """

    def __init__(
        self,
        disk: Disk,
        folder: Path,
        *,
        identity: bytes,
        epoch: int = 0,
        syncs: bool = False,
        is_same_boot: bool = False,
    ) -> None:
        self._disk = disk
        self._folder = folder
        self._identity = identity
        self.epoch = epoch
        self._syncs = syncs
        self._is_same_boot = is_same_boot
        self._file: DiskFile | None = None
        self._path = folder
        self._n_bytes = 0
        self._is_dirty = False
        self._has_failed = False
        self._pending: list[bytes] = []
        self._recovered: list[Path] = []
        self._synced = 0
        self.sequence = 0
        self.epoch_found = 0
        self.n_bytes_fenced = 0
        self.torn_tail: TornTail | None = None

    def recover(self, *, after: int) -> Iterator[WalRecord]:
        """Yield every whole record with a sequence above ``after``, oldest first.

        Raises
        ------
        SentinelError
            ``state-corrupt`` (file and offset), ``state-format``,
            ``state-of-another-feature-set``, ``state-gap`` when records are missing.
        """
        self.sequence = after
        paths = _behind(segment_paths(self._disk, self._folder), after)
        self._recovered = list(paths)
        for path, following in zip(paths, [*paths[1:], None][: len(paths)], strict=True):
            for record in self._read_segment(path, following):
                if record.sequence > after:
                    self.sequence = record.sequence
                    yield record

    def _read_segment(self, path: Path, following: Path | None) -> Iterator[WalRecord]:
        segment = _Segment(self._disk, path, following, is_same_boot=self._is_same_boot)
        segment.refuse_gap(self.sequence)
        if segment.has_head():
            head = segment.head(self._identity)
            self.epoch_found = max(self.epoch_found, head[1])
            yield from segment.records(head)
            self.n_bytes_fenced += segment.n_bytes_fenced
        if segment.n_bytes_torn or not segment.offset:
            self._cut(path, segment.offset, segment.n_bytes_torn)

    def _cut(self, path: Path, offset: int, n_bytes: int) -> None:
        self.torn_tail = TornTail(path, offset, n_bytes)
        if offset == 0:
            self._disk.remove(path)
            self._recovered.remove(path)
        else:
            self._disk.truncate(path, offset)

    def append(self, kind: int, payload: bytes) -> int:
        """Take a record into the next commit; returns its sequence."""
        if len(payload) > limits.WAL_RECORD_BYTES_MAX:
            raise SentinelError(
                ErrorCode.STATE_RECORD_TOO_LARGE,
                at=str(self._folder),
                expected=f"at most {limits.WAL_RECORD_BYTES_MAX} bytes in a record",
                got=len(payload),
                hint="Apply smaller batches.",
            )
        self.sequence += 1
        record = WalRecord(self.sequence, kind, payload, self._synced, self.epoch)
        self._pending.append(encode_record(record))
        return self.sequence

    def abandon(self) -> None:
        """Take back the records that were appended and not committed."""
        self.sequence -= len(self._pending)
        self._pending.clear()

    def commit(self) -> None:
        """Write the appended records; with ``syncs``, return when a power cut cannot take them.

        Raises
        ------
        SentinelError
            ``state-unwritable``. The records stay pending, and the next commit tries again from
            the last whole record, except after a failed sync: then every call is refused.
        """
        if not self._pending:
            return
        if self._has_failed:
            raise self._unwritable("a disk that syncs", "a failed sync; restart to recover")
        content = b"".join(self._pending)
        try:
            self._ensure_open()
            if self._file is None:  # pragma: no cover -- _ensure_open opens or raises
                return
            self._is_dirty = True
            self._file.write(content)
        except OSError as error:
            raise self._unwritable("room for the log", error.strerror or error) from error
        self._is_dirty = False
        self._n_bytes += len(content)
        self._pending.clear()
        if self._syncs:
            self._sync()

    def _sync(self) -> None:
        if self._file is None:  # pragma: no cover -- called after a write only
            return
        try:
            self._file.sync()
        except OSError as error:
            self._has_failed = True
            raise self._unwritable("a disk that syncs", error.strerror or error) from error
        self._synced = self.sequence

    def _ensure_open(self) -> None:
        if self._file is not None and not self._is_dirty:
            return
        if self._file is not None:
            # The last write may have left part of a record behind.
            self._disk.truncate(self._path, self._n_bytes)
            self._is_dirty = False
            return
        self._sync_recovered()
        first = self.sequence - len(self._pending) + 1
        self._path = self._folder / segment_name(first)
        self._disk.remove(self._path)
        file = self._disk.create(self._path)
        head = encode_head(self._identity, self.epoch, first)
        try:
            file.write(head)
            # In either class: records behind a head that is gone are no end that may be cut off.
            file.sync()
            self._disk.sync_folder(self._folder)
        except OSError:
            file.close()
            self._disk.remove(self._path)
            raise
        self._file = file
        self._n_bytes = len(head)

    def _sync_recovered(self) -> None:
        """Make what was recovered as durable as what is to follow it.

        A process that was killed may have left the end of its log in the kernel's hands; a power
        cut that took it after a segment behind it had been written would leave a hole.
        """
        if not self._recovered:
            return
        try:
            for path in self._recovered:
                file = self._disk.append(path)
                try:
                    file.sync()
                finally:
                    file.close()
            self._disk.sync_folder(self._folder)
        except OSError:
            self._has_failed = True
            raise
        self._recovered.clear()

    def _unwritable(self, expected: str, got: object) -> SentinelError:
        return SentinelError(
            ErrorCode.STATE_UNWRITABLE,
            at=str(self._folder),
            expected=expected,
            got=got,
            hint="Nothing that was acknowledged is lost; make room or replace the disk.",
        )

    def rotate(self) -> None:
        """End the segment: the next commit starts a new one. Call after a snapshot."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def drop_through(self, sequence: int) -> list[Path]:
        """Remove the segments that hold nothing above a sequence; returns what was removed."""
        paths = segment_paths(self._disk, self._folder)
        firsts = [_first_of(path) for path in paths]
        removed = []
        for path, next_first in zip(paths, firsts[1:], strict=False):
            if next_first <= sequence + 1:
                self._disk.remove(path)
                removed.append(path)
        return removed

    def close(self) -> None:
        """Release the file; pending records that were never committed are dropped."""
        self._pending.clear()
        self.rotate()
