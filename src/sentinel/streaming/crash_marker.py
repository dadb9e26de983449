"""What a process was doing when it died, in a few bytes that survive it.

Before a batch is handed to native code its place is written into a mapped page; afterwards the
page says that nothing is going on. A page that says otherwise at start belongs to a process that
died there. The batch is then taken event by event, so the next death names one event; after
``POISON_RESTARTS_MAX`` deaths at that one event it is poison.

The page is memory of the kernel: it survives ``kill -9`` and a crash, not a power cut, which is no
sign of poison.
"""

from __future__ import annotations

import mmap
import os
import struct
from dataclasses import dataclass
from pathlib import Path

from sentinel.core import limits
from sentinel.core.errors import ErrorCode, SentinelError

_PLACE = struct.Struct("<8sqqqqq")
_MAGIC = b"SNTLMRK1"


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
        try:
            handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
            try:
                os.ftruncate(handle, mmap.PAGESIZE)
                self._page = mmap.mmap(handle, mmap.PAGESIZE)
            finally:
                os.close(handle)
        except OSError as error:
            raise SentinelError(
                ErrorCode.FILE_UNWRITABLE,
                at=str(path),
                expected="a folder with room that this user may write",
                got=error.strerror or error,
            ) from error
        magic, is_busy, partition, first, end, n_deaths = _PLACE.unpack_from(self._page)
        self.suspect: Suspect | None = None
        if magic == _MAGIC and is_busy and end > first:
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
        )
