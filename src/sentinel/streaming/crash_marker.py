"""What a process was doing when it died, in a few bytes that survive it.

Before a batch is handed to native code its place is written into a mapped page; afterwards the
page says that nothing is going on. A page that says otherwise at start belongs to a process that
died there. The batch is then taken event by event, so the next death names one event; after
``POISON_RESTARTS_MAX`` deaths at that one event it is poison.

The page also counts deaths in a row, wherever they were, until outputs were once made safe again:
each start after one waits twice as long as the one before it.

The page is memory of the kernel: it survives ``kill -9`` and a crash, not a power cut, which is no
sign of poison.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from sentinel.core import limits
from sentinel.core.files import map_page

_PLACE = struct.Struct("<8sqqqqqq")
_MAGIC = b"SNTLMRK2"
# A larger count is no count; beyond so many doublings the pause has long reached its bound.
_DEATHS_MAX = 1 << 32
_DOUBLINGS_MAX = 32


@dataclass(frozen=True, slots=True)
class Suspect:
    """Where processes died.

    Attributes
    ----------
    partition, first, end : int
        Positions ``first`` to ``end - 1`` of the partition.
    n_deaths : int
    """

    partition: int
    first: int
    end: int
    n_deaths: int

    @property
    def is_one_event(self) -> bool:
        """Whether it is known which event it was."""
        return self.end - self.first == 1

    @property
    def is_poison(self) -> bool:
        """Whether that event is to be passed."""
        return self.is_one_event and self.n_deaths >= limits.POISON_RESTARTS_MAX


class Marker(Protocol):
    """Remembers what was going on."""

    suspect: Suspect | None
    n_deaths_in_row: int

    def enter(self, partition: int, first: int, end: int) -> None:
        """Say what is about to be done."""

    def leave(self) -> None:
        """Say that nothing is going on."""

    def passed(self, partition: int, position: int) -> None:
        """Forget a suspect that lies before a position: it did no harm this time."""

    def recovered(self) -> None:
        """Say that all is well: deaths in a row are counted anew."""

    def close(self) -> None:
        """Release what it holds. Safe to call twice."""


class NoMarker:
    """Remembers nothing: for state that no process of its own works on."""

    def __init__(self) -> None:
        self.suspect: Suspect | None = None
        self.n_deaths_in_row = 0

    def enter(self, partition: int, first: int, end: int) -> None:
        """Do nothing."""

    def leave(self) -> None:
        """Do nothing."""

    def passed(self, partition: int, position: int) -> None:
        """Do nothing."""

    def recovered(self) -> None:
        """Do nothing."""

    def close(self) -> None:
        """Do nothing."""


class CrashMarker:
    """The page of one state folder.

    Parameters
    ----------
    path : Path
        Made when absent; its folder is held by this process.

    Raises
    ------
    SentinelError
        ``file-unwritable``.
    """

    def __init__(self, path: Path) -> None:
        self._page = map_page(path)
        magic, is_busy, partition, first, end, n_deaths, n_row = _PLACE.unpack_from(self._page)
        self.suspect: Suspect | None = None
        self.n_deaths_in_row = 0
        if magic != _MAGIC:
            return
        self.n_deaths_in_row = n_row if 0 <= n_row < _DEATHS_MAX else 0
        if is_busy and end > first:
            self.n_deaths_in_row += 1
            self.suspect = Suspect(partition, first, end, n_deaths + 1)
            # Counted at once: a process that dies before it comes here again is not counted.
            self._write(0, self.suspect)

    def enter(self, partition: int, first: int, end: int) -> None:
        """Say what is about to be done."""
        suspect = self.suspect
        n_deaths = 0
        if suspect is not None and (suspect.partition, suspect.first, suspect.end) == (
            partition,
            first,
            end,
        ):
            n_deaths = suspect.n_deaths
        self._write(1, Suspect(partition, first, end, n_deaths))

    def leave(self) -> None:
        """Say that nothing is going on."""
        self._page[8:16] = b"\0" * 8

    def passed(self, partition: int, position: int) -> None:
        """Forget a suspect that lies before a position: it did no harm this time."""
        suspect = self.suspect
        if suspect is not None and suspect.partition == partition and position >= suspect.end:
            self.suspect = None

    def recovered(self) -> None:
        """Say that all is well: deaths in a row are counted anew."""
        if self.n_deaths_in_row:
            self.n_deaths_in_row = 0
            self._page[_PLACE.size - 8 : _PLACE.size] = b"\0" * 8

    def close(self) -> None:
        """Release the page. Safe to call twice."""
        if not self._page.closed:
            self._page.close()

    def _write(self, is_busy: int, place: Suspect) -> None:
        _PLACE.pack_into(
            self._page,
            0,
            _MAGIC,
            is_busy,
            place.partition,
            place.first,
            place.end,
            place.n_deaths,
            self.n_deaths_in_row,
        )


def restart_pause_s(n_deaths_in_row: int) -> float:
    """Say how long a start waits after so many deaths in a row, in seconds.

    Examples
    --------
    >>> [restart_pause_s(n) for n in (0, 1, 2, 3, 20)]
    [0.0, 0.25, 0.5, 1.0, 30.0]
    """
    if n_deaths_in_row <= 0:
        return 0.0
    doubled = limits.STREAM_RESTART_S * 2.0 ** min(n_deaths_in_row - 1, _DOUBLINGS_MAX)
    return min(doubled, limits.STREAM_RESTART_S_MAX)
