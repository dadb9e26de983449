"""Events at which processes die: found one by one, then passed for ever.

A process that died in a batch has left its place in the crash marker. From then on that batch is
taken event by event, so that the next death names one event. One that has killed
``POISON_RESTARTS_MAX`` times is written into the state folder's list: it is quarantined instead of
decided. So is one that killed the feature kernel after it was logged: that one recovery has found,
and left out (:mod:`sentinel.features.stores.embedded.apply_marker`).
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path

import msgspec
import numpy as np
import numpy.typing as npt

from sentinel.core import limits
from sentinel.core.disk import Disk
from sentinel.core.errors import ErrorCode, SentinelError
from sentinel.core.files import unwritable
from sentinel.streaming.crash_marker import Marker

_NAME = "poison.json"
Int64Array = npt.NDArray[np.int64]


class _Entry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where an event is."""

    source: str
    partition: int
    position: int


class _Entries(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """All of one state folder, oldest first."""

    events: list[_Entry]


class Piece(msgspec.Struct, frozen=True):
    """A part of a batch that is taken by itself.

    Attributes
    ----------
    first, end : int
        Rows ``first`` to ``end - 1``.
    is_poison : bool
        It is one event, and is to be passed.
    """

    first: int
    end: int
    is_poison: bool


class Screen:
    """Cuts batches where processes died, and knows what is poison.

    Parameters
    ----------
    disk : Disk
    folder : Path
        The state folder, held by this process.
    marker : Marker
    passed : sequence of (source, partition, position)
        Events that recovery has found to kill the feature kernel, and left out.

    Raises
    ------
    SentinelError
        ``state-corrupt`` for a list that is none: without it recovery may die for ever.
    """

    def __init__(
        self,
        disk: Disk,
        folder: Path,
        marker: Marker,
        *,
        passed: Sequence[tuple[str, int, int]] = (),
    ) -> None:
        self.marker = marker
        self._passed = passed
        self._disk = disk
        self._path = folder / _NAME
        self._entries = _read(disk, self._path)

    def pieces(self, source: str, partition: int, positions: Int64Array) -> list[Piece]:
        """Cut a batch: poison and suspects one by one, all else together."""
        n_rows = len(positions)
        self._condemn(source, partition)
        here = (source, partition)
        poison = {e.position for e in self._entries if (e.source, e.partition) == here}
        poison |= {position for *where, position in self._passed if tuple(where) == here}
        suspect = self.marker.suspect
        if not poison and (suspect is None or suspect.partition != partition):
            return [Piece(0, n_rows, is_poison=False)]
        cuts = {0, n_rows}
        if suspect is not None and suspect.partition == partition:
            first, end = np.searchsorted(positions, [suspect.first, suspect.end]).tolist()
            cuts.update(range(first, end + 1))
        bad = set(np.flatnonzero(np.isin(positions, sorted(poison))).tolist())
        for row in bad:
            cuts.update((row, row + 1))
        return [
            Piece(first, end, is_poison=first in bad)
            for first, end in itertools.pairwise(sorted(cuts))
        ]

    def _condemn(self, source: str, partition: int) -> None:
        """Write a suspect that has killed often enough into the list."""
        suspect = self.marker.suspect
        if suspect is None or not suspect.is_poison or suspect.partition != partition:
            return
        entry = _Entry(source, partition, suspect.first)
        if entry in self._entries:
            return
        entries = [*self._entries, entry][-limits.POISON_EVENTS_MAX :]
        write_whole(self._disk, self._path, msgspec.json.encode(_Entries(entries)), syncs=True)
        self._entries = entries


def write_whole(disk: Disk, path: Path, content: bytes, *, syncs: bool) -> None:
    """Write a file whole or not at all; without ``syncs`` a power cut may take it back.

    Raises
    ------
    SentinelError
        ``file-unwritable``.
    """
    new = path.with_name(path.name + ".part")
    try:
        disk.remove(new)
        file = disk.create(new)
        try:
            file.write(content)
            if syncs:
                file.sync()
        finally:
            file.close()
        disk.replace(new, path)
        if syncs:
            disk.sync_folder(path.parent)
    except OSError as error:
        raise unwritable(path, error) from error


def _read(disk: Disk, path: Path) -> list[_Entry]:
    try:
        return msgspec.json.decode(disk.read(path), type=_Entries).events
    except FileNotFoundError:
        return []
    except (OSError, msgspec.DecodeError, UnicodeDecodeError) as error:
        raise SentinelError(
            ErrorCode.STATE_CORRUPT,
            at=str(path),
            expected="a list of events that are passed",
            got=error,
            hint="Remove the file: events that killed the process are then found anew.",
        ) from error
