"""What a worker keeps between runs: feature state, how far outputs are safe, where it died.

One :class:`StreamState` is one folder: of all partitions together, or of one partition alone where
all entities are the partition key. Its lock is what keeps two workers off one partition, a frozen
one included, whatever the broker thinks.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import msgspec

from sentinel.core import limits
from sentinel.core.disk import Disk, SystemDisk
from sentinel.core.errors import ErrorCode, SentinelError
from sentinel.features import FeaturePlan
from sentinel.features.stores.embedded import Durability
from sentinel.streaming.crash_marker import CrashMarker, Marker, NoMarker, restart_pause_s
from sentinel.streaming.stream.poison import Screen, write_whole
from sentinel.streaming.stream.stores import SharedStreamStore, StreamStore

_MARKS_NAME = "outputs.json"


class _Marks(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """First position of each ``topic/partition`` whose outputs the broker may not have."""

    positions: dict[str, int]


class StreamState:
    """One state folder, open.

    Parameters
    ----------
    plan : FeaturePlan
    folder : Path
    durability : Durability
    snapshot_every_events : int
    disk : Disk, optional
        Another than the machine's has no crash marker.
    wait : callable, optional
        Waits so many seconds after a death in mid-batch; by default it sleeps.

    Raises
    ------
    SentinelError
        What :class:`EmbeddedStore` raises; ``state-locked`` while another process has it.
    """

    def __init__(
        self,
        plan: FeaturePlan,
        folder: Path,
        *,
        durability: Durability,
        snapshot_every_events: int = limits.SNAPSHOT_EVENTS,
        disk: Disk | None = None,
        wait: Callable[[float], object] = time.sleep,
    ) -> None:
        self.folder = folder
        self._durability = durability
        self._snapshot_every_events = snapshot_every_events
        self._disk = disk if disk is not None else SystemDisk()
        self._wait = wait
        self._is_closed = False
        self._marks: dict[str, int] = {}
        self.store = self._open(plan)

    @property
    def marker(self) -> Marker:
        """What is going on in this folder."""
        return self.screen.marker

    def knows(self, topic: str, partition: int) -> bool:
        """Say whether the state has a position in this partition."""
        return (topic, partition) in self.store.positions()

    def resume_position(self, topic: str, partition: int) -> int:
        """Say where reading goes on: at the first event whose outputs may be missing.

        Never behind what the state holds, never before what it can answer again. See
        ``docs/streaming.md``.
        """
        held = self.store.position(topic, partition)
        answerable = self.store.snapshot_position(topic, partition)
        marked = self._marks.get(f"{topic}/{partition}", answerable)
        return max(min(marked, held), answerable)

    def mark(self, topic: str = "", next_positions: Mapping[int, int] | None = None) -> bool:
        """Say how far outputs are safe.

        That is what the state holds, but in a topic that is read no further than the reading: after
        a death the state is ahead of it, and what lies between is answered once more.

        Parameters
        ----------
        topic : str
            Of the events.
        next_positions : mapping of int to int
            For each partition that is read, the first position that was not carried.

        Returns
        -------
        bool
            Whether the outputs of all that the state holds are safe: a snapshot may be taken.

        Raises
        ------
        SentinelError
            ``file-unwritable``.
        """
        held = self._positions()
        marks = held | self._carried(topic, next_positions or {})
        self.marker.recovered()
        if marks != self._marks:
            content = msgspec.json.encode(_Marks(marks))
            is_power = self._durability is Durability.POWER
            write_whole(self._disk, self.folder / _MARKS_NAME, content, syncs=is_power)
            self._marks = marks
        return marks == held

    def _carried(self, topic: str, next_positions: Mapping[int, int]) -> dict[str, int]:
        """Say how far each partition of the events was carried; those not read, as before."""
        found = {}
        for (source, partition), held in self.store.positions().items():
            if source == topic:
                at = next_positions.get(partition, self.resume_position(source, partition))
                found[f"{source}/{partition}"] = min(at, held)
        return found

    def close(self) -> None:
        """Let go of the folder; take a snapshot first where all outputs are marked as safe."""
        if self._is_closed:
            return
        self._is_closed = True
        try:
            self.store.close(with_snapshot=self._marks == self._positions())
        finally:
            self.marker.close()

    def _open(self, plan: FeaturePlan) -> StreamStore | SharedStreamStore:
        """Open the store, which locks the folder, and the rest of the folder."""
        store = StreamStore(
            plan,
            self.folder,
            durability=self._durability,
            snapshot_every_events=self._snapshot_every_events,
            disk=self._disk,
        )
        is_open = False
        try:
            self._open_folder(
                [(event.source, event.partition, event.position) for event in store.passed]
            )
            is_open = True
        finally:
            if not is_open:
                store.close(with_snapshot=False)
        return store

    def _open_folder(self, passed: Sequence[tuple[str, int, int]] = ()) -> None:
        """Open the marker; after deaths in mid-batch, wait. The folder's lock is held."""
        is_real = isinstance(self._disk, SystemDisk)
        marker: Marker = CrashMarker(self.folder / "marker") if is_real else NoMarker()
        if marker.suspect is not None:
            self._wait(restart_pause_s(marker.n_deaths_in_row))
        self.screen = Screen(self._disk, self.folder, marker, passed=passed)
        self._marks = _read_marks(self._disk, self.folder)

    def _positions(self) -> dict[str, int]:
        return {
            f"{source}/{partition}": position
            for (source, partition), position in self.store.positions().items()
        }


def _read_marks(disk: Disk, folder: Path) -> dict[str, int]:
    """Read the marks; without them, or with damaged ones, the snapshot's positions count."""
    path = folder / _MARKS_NAME
    try:
        return dict(msgspec.json.decode(disk.read(path), type=_Marks).positions)
    except (FileNotFoundError, msgspec.DecodeError, UnicodeDecodeError):
        return {}
    except OSError as error:
        raise SentinelError(
            ErrorCode.FILE_UNREADABLE,
            at=str(path),
            expected="a regular file",
            got=error.strerror or error,
        ) from error
