"""Which logged batch was being applied when the process died, and the events that kill it.

A batch is logged before it is applied. Were there an event that crashes native code, every
recovery would apply it again and die. So a page of memory that survives the process, not the
machine, says what is being applied; a start that finds it busy applies that batch event by event,
and after ``POISON_RESTARTS_MAX`` deaths at one event that event is passed, for ever: it is written
down before anything else is applied, so that later recoveries come to the same state.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path

import msgspec

from sentinel.core import limits
from sentinel.core.errors import ErrorCode, SentinelError
from sentinel.core.files import map_page, read_bounded, write_atomically

_PLACE = struct.Struct("<8sqqqq")
_MAGIC = b"SNTLAPL1"
WHOLE = -1


class PassedEvent(msgspec.Struct, frozen=True, array_like=True):
    """An event that is logged and never applied: it killed every process that tried.

    Attributes
    ----------
    sequence, row : int
        Its record of the log, and its row there.
    source : str
    partition, position : int
    """

    sequence: int
    row: int
    source: str
    partition: int
    position: int


@dataclass(frozen=True, slots=True)
class Suspect:
    """What was being applied when processes died; row ``WHOLE`` for a whole batch."""

    sequence: int
    row: int
    n_deaths: int


class ApplyMarker:
    """The page and the list of one state folder.

    Parameters
    ----------
    folder : Path
        Held by this process.

    Raises
    ------
    SentinelError
        ``file-unwritable``, ``file-unreadable``, ``state-corrupt``.
    """

    def __init__(self, folder: Path) -> None:
        self._page = map_page(folder / "applying")
        self._list = folder / "passed.json"
        self.passed = self._read_list()
        magic, is_busy, sequence, row, n_deaths = _PLACE.unpack_from(self._page)
        self.suspect: Suspect | None = None
        if magic == _MAGIC and is_busy:
            self.suspect = Suspect(sequence, row, n_deaths + 1)
            self._write(0, self.suspect)

    def _read_list(self) -> tuple[PassedEvent, ...]:
        if not self._list.exists():
            return ()
        content = read_bounded(self._list, n_bytes_max=limits.PASSED_EVENTS_BYTES_MAX)
        try:
            return msgspec.json.decode(content, type=tuple[PassedEvent, ...])
        except msgspec.DecodeError as error:
            raise SentinelError(
                ErrorCode.STATE_CORRUPT,
                at=self._list.name,
                expected="a list of events",
                got=error,
                hint="Restore the file, or move the state folder away and replay the source.",
            ) from error

    def enter(self, sequence: int, row: int = WHOLE) -> None:
        """Say what is about to be applied."""
        suspect = self.suspect
        n_deaths = 0
        if suspect is not None and (suspect.sequence, suspect.row) == (sequence, row):
            n_deaths = suspect.n_deaths
        self._write(1, Suspect(sequence, row, n_deaths))

    def leave(self) -> None:
        """Say that nothing is being applied."""
        self._page[8:16] = b"\0" * 8

    def is_poison(self, sequence: int, row: int) -> bool:
        """Whether an event has killed as many processes as it may."""
        suspect = self.suspect
        return (
            suspect is not None
            and (suspect.sequence, suspect.row) == (sequence, row)
            and suspect.n_deaths >= limits.POISON_RESTARTS_MAX
        )

    def pass_event(self, event: PassedEvent) -> None:
        """Write an event down as one that is never applied."""
        self.passed = (*self.passed, event)
        write_atomically(self._list, msgspec.json.encode(self.passed) + b"\n")

    def close(self) -> None:
        """Release the page. Safe to call twice."""
        if not self._page.closed:
            self._page.close()

    def _write(self, is_busy: int, place: Suspect) -> None:
        _PLACE.pack_into(self._page, 0, _MAGIC, is_busy, place.sequence, place.row, place.n_deaths)
