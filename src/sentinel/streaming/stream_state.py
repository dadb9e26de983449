"""What a worker keeps between runs: feature state, how far outputs are safe, where it died.

One :class:`StreamState` is one folder: of all partitions together, or of one partition alone where
all entities are the partition key. Its lock is what keeps two workers off one partition, a frozen
one included, whatever the broker thinks.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import msgspec

from sentinel.contract import EventBatch
from sentinel.core import limits
from sentinel.core.errors import ErrorCode, SentinelError
from sentinel.core.files import read_bounded, write_atomically
from sentinel.features import FeaturePlan
from sentinel.features.matrix import FeatureMatrix
from sentinel.features.stores.embedded import Durability, EmbeddedStore
from sentinel.streaming.crash_marker import CrashMarker

_MARKS_NAME = "outputs.json"


class _Marks(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """First position of each ``topic/partition`` whose outputs the broker may not have."""

    positions: dict[str, int]


class StreamStore(EmbeddedStore):
    """The durable engine, and a call when a batch has been applied."""

    on_applied: Callable[[], None] | None = None

    def advance(self, events: EventBatch) -> FeatureMatrix:
        """Log, commit and apply; see :meth:`EmbeddedStore.advance`."""
        matrix = super().advance(events)
        if self.on_applied is not None:
            self.on_applied()
        return matrix


class StreamState:
    """One state folder, open.

    Parameters
    ----------
    plan : FeaturePlan
    folder : Path
    durability : Durability
    snapshot_every_events : int

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
    ) -> None:
        self.folder = folder
        self._is_power = durability is Durability.POWER
        self.store = StreamStore(
            plan, folder, durability=durability, snapshot_every_events=snapshot_every_events
        )
        try:
            self.marker = CrashMarker(folder / "marker")
        except SentinelError:
            self.store.close()
            raise
        self._marks = _read_marks(folder / _MARKS_NAME)
        self._is_closed = False

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

    def mark(self) -> None:
        """Say that the outputs of all that the state holds are safe.

        Raises
        ------
        SentinelError
            ``file-unwritable``.
        """
        marks = self._positions()
        if marks == self._marks:
            return
        content = msgspec.json.encode(_Marks(marks))
        path = self.folder / _MARKS_NAME
        if self._is_power:
            write_atomically(path, content, mode=0o600)
        else:
            _replace(path, content)
        self._marks = marks

    def _positions(self) -> dict[str, int]:
        return {
            f"{source}/{partition}": position
            for (source, partition), position in self.store.positions().items()
        }

    def close(self) -> None:
        """Let go of the folder; take a snapshot first where all outputs are marked as safe."""
        if self._is_closed:
            return
        self._is_closed = True
        try:
            self.store.close(with_snapshot=self._marks == self._positions())
        finally:
            self.marker.close()


def _read_marks(path: Path) -> dict[str, int]:
    """Read the marks; without them, or with damaged ones, the snapshot's positions count."""
    if not path.exists():
        return {}
    content = read_bounded(path, n_bytes_max=limits.CONFIGURATION_FILE_BYTES_MAX)
    try:
        return dict(msgspec.json.decode(content, type=_Marks).positions)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return {}


def _replace(path: Path, content: bytes) -> None:
    """Write a file whole or not at all as far as processes see; a power cut may take it back."""
    new = path.with_name(path.name + ".part")
    try:
        new.write_bytes(content)
        new.replace(path)
    except OSError as error:
        raise SentinelError(
            ErrorCode.FILE_UNWRITABLE,
            at=str(path),
            expected="a folder with room that this user may write",
            got=error.strerror or error,
        ) from error
