"""Look at a state folder without opening it: what is there, and whether it is whole."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from sentinel.core.disk import Disk, SystemDisk
from sentinel.core.errors import ErrorCode, SentinelError
from sentinel.features.layout import R_ARENA, R_ENTITIES, R_EVENTS, R_LIVING, R_NOW
from sentinel.features.stores.embedded.boot_mark import BootMark
from sentinel.features.stores.embedded.snapshot import Snapshot, read_snapshot, snapshot_paths
from sentinel.features.stores.embedded.write_ahead_log import (
    SegmentReport,
    look_at_segments,
    segment_paths,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class SnapshotReport:
    """What is in a snapshot.

    Attributes
    ----------
    name : str
    n_bytes : int
    sequence : int
        Last record of the log that it holds.
    identity : str
        Of the feature set, hexadecimal; empty when the file is damaged.
    n_entities, n_rows, n_events : int
        Living entities; rows in use, those of forgotten entities that are not yet freed, too.
    bytes_per_entity : float
        Of rows, free ones too, and of the index; the remembered ids come on top.
    now_ms : int
        Latest event time.
    positions : mapping of str to int
        Next position by ``source/partition``.
    fault : str
        What is wrong with it; empty for nothing.
    """

    name: str
    n_bytes: int
    sequence: int
    identity: str
    n_entities: int
    n_rows: int
    n_events: int
    bytes_per_entity: float
    now_ms: int
    positions: Mapping[str, int]
    fault: str


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreReport:
    """What is in a state folder: snapshots newest first, segments oldest first."""

    snapshots: tuple[SnapshotReport, ...]
    segments: tuple[SegmentReport, ...]

    @property
    def n_bytes_torn(self) -> int:
        """Bytes at the end of the log that the next start cuts off."""
        return sum(part.n_bytes_torn for part in self.segments)

    @property
    def faults(self) -> tuple[str, ...]:
        """Everything that is wrong."""
        found = [part.fault for part in self.snapshots] + [part.fault for part in self.segments]
        return tuple(fault for fault in found if fault)


def look_at_store(folder: Path, disk: Disk | None = None) -> StoreReport:
    """Read everything in a state folder, check every checksum, and that no record is missing.

    It changes nothing.

    Raises
    ------
    SentinelError
        ``file-missing`` when there is no such folder, or no state in it; ``file-unreadable``.
    """
    disk = disk or SystemDisk()
    snapshots = tuple(_look_at_snapshot(disk, path) for path in require_state(folder, disk))
    after = max((part.sequence for part in snapshots if not part.fault), default=0)
    is_same_boot = BootMark(folder, disk.boot_id()).is_same
    segments = look_at_segments(disk, folder, after=after, is_same_boot=is_same_boot)
    return StoreReport(snapshots=snapshots, segments=tuple(segments))


def require_state(folder: Path, disk: Disk) -> list[Path]:
    """List the snapshots of a state folder, newest first; without one it has a log.

    Raises
    ------
    SentinelError
        As :func:`look_at_store`.
    """
    try:
        snapshots = snapshot_paths(disk, folder)
        segments = segment_paths(disk, folder)
    except PermissionError as error:
        raise SentinelError(
            ErrorCode.FILE_UNREADABLE,
            at=str(folder),
            expected="a folder of feature state that can be read",
            got=error.strerror or error,
        ) from error
    except OSError as error:
        raise _missing(folder, error.strerror or str(error)) from error
    if not snapshots and not segments:
        raise _missing(folder, "a folder without snapshot and log")
    return snapshots


def _missing(folder: Path, got: str) -> SentinelError:
    return SentinelError(
        ErrorCode.FILE_MISSING,
        at=str(folder),
        expected="a folder of feature state",
        got=got,
        hint="Name the FOLDER of --store embedded:FOLDER; with --partition-key a folder in it.",
    )


def _look_at_snapshot(disk: Disk, path: Path) -> SnapshotReport:
    sequence = int(path.stem.removeprefix("snapshot-"))
    try:
        snapshot = read_snapshot(disk, path, identity=None)
    except SentinelError as error:
        return SnapshotReport(
            name=path.name, n_bytes=_size(disk, path), sequence=sequence, identity="",
            n_entities=0, n_rows=0, n_events=0, bytes_per_entity=0.0, now_ms=0, positions={},
            fault=str(error),
        )  # fmt: skip
    return _describe(path, snapshot)


def _size(disk: Disk, path: Path) -> int:
    """Count the bytes of a file that may be damaged; 0 where it cannot be read at all."""
    try:
        return len(disk.read(path))
    except OSError:
        return 0


def _describe(path: Path, snapshot: Snapshot) -> SnapshotReport:
    registers = snapshot.arrays["registers"]
    n_rows = int(registers[R_ENTITIES])
    # In format 1 entities were never forgotten.
    n_entities = n_rows if snapshot.format == 1 else int(registers[R_LIVING])
    n_bytes = 8 * int(registers[R_ARENA]) + snapshot.arrays["places"].nbytes
    return SnapshotReport(
        name=path.name,
        n_bytes=sum(array.nbytes for array in snapshot.arrays.values()),
        sequence=snapshot.sequence,
        identity=snapshot.identity.hex(),
        n_entities=n_entities,
        n_rows=n_rows,
        n_events=int(registers[R_EVENTS]),
        bytes_per_entity=n_bytes / max(n_entities, 1),
        now_ms=int(registers[R_NOW]),
        positions={
            "/".join(reversed(name.split("/", 2)[1:])): position
            for name, position in snapshot.values.items()
            if name.startswith("position/")
        },
        fault="",
    )
