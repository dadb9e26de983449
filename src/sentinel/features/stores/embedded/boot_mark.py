"""Which start of the machine a log was last opened in: without another one, no power was cut.

The kernel makes an id at each of its starts (random(4), ``boot_id``). It is kept in the state
folder, renewed once a recovery has mended what a power cut left. It is not synced: what a power cut
leaves of it is an older one or none, and neither is that of the next start.
"""

from __future__ import annotations

import contextlib
from pathlib import Path

from sentinel.core import limits
from sentinel.core.errors import SentinelError
from sentinel.core.files import read_bounded


class BootMark:
    """The id that a state folder keeps.

    Parameters
    ----------
    folder : Path
        Held by this process.
    boot_id : bytes
        Of this start; empty where nobody can say.

    Attributes
    ----------
    is_same : bool
        The kernel has run since the folder was last opened; False where nobody can say.
    """

    def __init__(self, folder: Path, boot_id: bytes) -> None:
        self._path = folder / "boot-id"
        self._now = boot_id
        self.is_same = bool(self._now) and _read(self._path) == self._now

    def renew(self) -> None:
        """Keep the id of this start; a disk that does not take it says nothing."""
        if self._now and not self.is_same:
            with contextlib.suppress(OSError):
                self._path.write_bytes(self._now)


def _read(path: Path) -> bytes:
    try:
        return read_bounded(path, n_bytes_max=limits.BOOT_ID_BYTES_MAX).strip()
    except SentinelError:
        return b""
