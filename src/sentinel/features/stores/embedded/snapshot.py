"""The whole state at one sequence of the log, in one checksummed file, whole or absent.

Layout, little-endian::

    snapshot-<sequence, 20 digits>.state
      8s magic, u32 format, u32 head bytes, u32 crc of the head
      head: canonical JSON {"arrays": [[name, dtype, shape, offset, bytes, crc]...],
                            "epoch", "identity", "sequence", "values"}
      arrays, each at a multiple of 64 bytes from the start of the file

It is written under a temporary name, synced, renamed, and the folder is synced: a reader sees a
whole snapshot or none. Every array has a CRC-32, so any flipped bit is found before it is used;
the reader then falls back to the snapshot before.

Format 2 has rows that remember when they were seen; the layout of the file is that of format 1,
which is read (:mod:`sentinel.features.stores.embedded.migration`) and never written.
"""

from __future__ import annotations

import math
import struct
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np
import numpy.typing as npt

from sentinel.core import limits
from sentinel.core.disk import Disk
from sentinel.core.errors import ErrorCode, SentinelError
from sentinel.core.hashing import canonical_json

MAGIC = b"SNTLSNP\n"
FORMAT = 2
FORMATS = (1, 2)
_FRONT = struct.Struct("<8sIII")
_ALIGNMENT_BYTES = 64
_DTYPES = {"<i8", "<u8", "<i4", "<f8", "|u1", "|i1", "|b1"}

Array = npt.NDArray[np.generic]


class _ArrayEntry(msgspec.Struct, array_like=True, frozen=True):
    """Where one array lies; ``offset`` counts from the end of the padded head."""

    name: str
    dtype: str
    shape: list[int]
    offset: int
    n_bytes: int
    crc: int


class _Head(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    arrays: list[_ArrayEntry]
    epoch: int
    identity: str
    sequence: int
    values: dict[str, int]


@dataclass(frozen=True, slots=True)
class Snapshot:
    """State at a sequence.

    Attributes
    ----------
    identity : bytes
        32 bytes: the feature-set identity.
    sequence : int
        Last record of the write-ahead log that the state holds.
    epoch : int
        Fencing token of the owner that wrote it.
    values : mapping of str to int
        Small state: source positions, running times, counts.
    arrays : mapping of str to ndarray
        Large state; of a snapshot that was read, views of the file's bytes, not to be written.
    format : int
        What the arrays are laid out for.
    """

    identity: bytes
    sequence: int
    epoch: int
    values: Mapping[str, int]
    arrays: Mapping[str, Array]
    format: int = FORMAT


def snapshot_name(sequence: int) -> str:
    """Name the snapshot of a sequence."""
    return f"snapshot-{sequence:020d}.state"


def snapshot_paths(disk: Disk, folder: Path) -> list[Path]:
    """List the snapshots in a folder, newest first."""
    names = [n for n in disk.names(folder) if n.startswith("snapshot-") and n.endswith(".state")]
    return [folder / name for name in reversed(names)]


def write_snapshot(disk: Disk, folder: Path, snapshot: Snapshot) -> Path:
    """Write a snapshot, whole or not at all, and return its path.

    Raises
    ------
    SentinelError
        ``state-unwritable``; the temporary file is removed.
    """
    path = folder / snapshot_name(snapshot.sequence)
    temporary = folder / f"{path.name}.new"
    try:
        _write_file(disk, temporary, snapshot)
        disk.replace(temporary, path)
        disk.sync_folder(folder)
    except OSError as error:
        _remove_quietly(disk, temporary)
        raise SentinelError(
            ErrorCode.STATE_UNWRITABLE,
            at=str(path),
            expected="room for a snapshot",
            got=error.strerror or error,
            hint="The log still holds all that was acknowledged; make room or replace the disk.",
        ) from error
    return path


def _remove_quietly(disk: Disk, path: Path) -> None:
    try:
        disk.remove(path)
    except OSError:
        # A disk that refuses the removal too: the next start removes it by its name.
        return


def _write_file(disk: Disk, path: Path, snapshot: Snapshot) -> None:
    arrays = {name: np.ascontiguousarray(array) for name, array in snapshot.arrays.items()}
    head, offsets = _encode_head(snapshot, arrays)
    disk.remove(path)
    file = disk.create(path)
    try:
        file.write(head)
        position = len(head)
        for name, array in arrays.items():
            file.write(bytes(offsets[name] - position))
            file.write(_bytes_of(array))
            position = offsets[name] + array.nbytes
        file.sync()
    finally:
        file.close()


def _aligned(n_bytes: int) -> int:
    return -(-n_bytes // _ALIGNMENT_BYTES) * _ALIGNMENT_BYTES


def _bytes_of(array: Array) -> memoryview:
    return memoryview(array.reshape(-1).view(np.uint8).data)


def _encode_head(snapshot: Snapshot, arrays: Mapping[str, Array]) -> tuple[bytes, dict[str, int]]:
    """Encode front and head, and say where in the file each array starts."""
    position = 0
    entries = []
    for name, array in arrays.items():
        if array.dtype.str not in _DTYPES:
            raise ValueError(f"{name}: {array.dtype.str} is not a dtype of snapshots")
        shape, n_bytes = list(array.shape), int(array.nbytes)
        crc = zlib.crc32(_bytes_of(array))
        entries.append(_ArrayEntry(name, array.dtype.str, shape, position, n_bytes, crc))
        position = _aligned(position + n_bytes)
    head = canonical_json(
        msgspec.to_builtins(
            _Head(
                arrays=entries,
                epoch=snapshot.epoch,
                identity=snapshot.identity.hex(),
                sequence=snapshot.sequence,
                values=dict(snapshot.values),
            )
        )
    )
    front = _FRONT.pack(MAGIC, FORMAT, len(head), zlib.crc32(head))
    start = _aligned(len(front) + len(head))
    padded = (front + head).ljust(start, b"\0")
    return padded, {entry.name: start + entry.offset for entry in entries}


def read_snapshot(disk: Disk, path: Path, *, identity: bytes | None) -> Snapshot:
    """Read a snapshot, checking everything before anything is used.

    ``identity`` None takes the state of any feature set: to look at it, never to serve it.

    Raises
    ------
    SentinelError
        ``state-corrupt`` (file and offset), ``state-format``, ``state-of-another-feature-set``.
    """
    try:
        content = disk.read(path)
    except OSError as error:
        raise _corrupt(path, 0, "a readable file", error.strerror or error) from error
    version, head, start = _read_head(content, path)
    found = bytes.fromhex(head.identity)
    if identity is not None and found != identity:
        raise SentinelError(
            ErrorCode.STATE_OF_ANOTHER_FEATURE_SET,
            at=path.name,
            expected=f"state of feature set {identity.hex()[:12]}",
            got=f"feature set {found.hex()[:12]}",
            hint="Give the new feature set a state folder of its own and replay the source.",
        )
    arrays = {entry.name: _read_array(content, start, path, entry) for entry in head.arrays}
    _check_padding(content, start, path, head.arrays)
    return Snapshot(found, head.sequence, head.epoch, head.values, arrays, version)


def _read_head(content: bytes, path: Path) -> tuple[int, _Head, int]:
    if len(content) < _FRONT.size:
        raise _corrupt(path, 0, "a snapshot", f"{len(content)} bytes")
    magic, version, n_bytes, crc = _FRONT.unpack_from(content)
    if magic != MAGIC or n_bytes > limits.SNAPSHOT_HEAD_BYTES_MAX:
        raise _corrupt(path, 0, "a snapshot", "something else")
    if version not in FORMATS:
        raise SentinelError(
            ErrorCode.STATE_FORMAT,
            at=path.name,
            expected=f"format 1 to {FORMAT}",
            got=version,
            hint="Use the version of Sentinel that wrote it, or replay the source.",
        )
    head_bytes = content[_FRONT.size : _FRONT.size + n_bytes]
    if zlib.crc32(head_bytes) != crc:
        raise _corrupt(path, _FRONT.size, "a whole head", "a damaged one")
    start = _aligned(_FRONT.size + n_bytes)
    if any(content[_FRONT.size + n_bytes : start]):
        raise _corrupt(path, _FRONT.size + n_bytes, "zeros between head and arrays", "others")
    try:
        return version, msgspec.json.decode(head_bytes, type=_Head), start
    except msgspec.DecodeError as error:
        raise _corrupt(path, _FRONT.size, "a head of this format", error) from error


def _read_array(content: bytes, start: int, path: Path, entry: _ArrayEntry) -> Array:
    begin = start + entry.offset
    part = memoryview(content)[begin : begin + entry.n_bytes]
    if len(part) != entry.n_bytes or zlib.crc32(part) != entry.crc:
        raise _corrupt(path, begin, "a whole array", "a damaged one")
    count = math.prod(entry.shape)
    flat = np.frombuffer(part, dtype=np.dtype(entry.dtype), count=count)
    array: Array = flat.reshape(entry.shape)
    return array


def _check_padding(content: bytes, start: int, path: Path, entries: list[_ArrayEntry]) -> None:
    """Hold the bytes between the arrays to zero, and the file to its end."""
    position = start
    for entry in entries:
        if any(content[position : start + entry.offset]):
            raise _corrupt(path, position, "zeros between arrays", "others")
        position = start + entry.offset + entry.n_bytes
    if len(content) != position:
        raise _corrupt(path, position, "the end of the file", f"{len(content) - position} bytes")


def _corrupt(path: Path, offset: int, expected: str, got: object) -> SentinelError:
    return SentinelError(
        ErrorCode.STATE_CORRUPT,
        at=f"{path.name}:{offset}",
        expected=expected,
        got=got,
        hint="An older snapshot and the log behind it are used where there are any.",
    )
