"""A disk in memory that forgets what was not synced, tears writes and fails on demand.

It models what a power cut may do to a POSIX file system that keeps its promises and nothing more:
content is durable after ``sync``, names and renames after ``sync_folder``. Of what was written
and not synced, a cut keeps any part: nothing, all, or a torn prefix with a hole in it.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

from sentinel.core.disk import DiskFile


class PowerCut(BaseException):
    """The machine stopped here. Not an Exception: nothing in the code under test may catch it."""


@dataclass(slots=True)
class _Inode:
    content: bytearray = field(default_factory=bytearray)
    durable: bytes = b""


@dataclass(frozen=True, slots=True)
class DiskCall:
    """One call that reached the disk: its number, its name, its path."""

    number: int
    name: str
    path: Path


class _MemoryFile:
    def __init__(self, disk: MemoryDisk, path: Path, inode: _Inode) -> None:
        self._disk = disk
        self._path = path
        self._inode = inode

    def write(self, content: bytes | memoryview) -> None:
        """Append; at a full disk a part is written, then the call fails."""
        room = self._disk.room_bytes()
        if room is not None and len(content) > room:
            self._inode.content += content[:room]
            self._disk.enter("write", self._path)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self._disk.enter("write", self._path)
        self._inode.content += content

    def sync(self) -> None:
        """Make the content durable."""
        self._disk.enter("sync", self._path)
        if not self._disk.forgets_syncs:
            self._inode.durable = bytes(self._inode.content)

    def close(self) -> None:
        """Do nothing: closing promises nothing."""


class MemoryDisk:
    """An in-memory :class:`sentinel.core.disk.Disk` with faults.

    Parameters
    ----------
    n_bytes_max : int or None
        Room on the disk; a write over it fails with ENOSPC and leaves a part behind.
    before_call : callable or None
        Called with each :class:`DiskCall` before it takes effect; may raise OSError or
        :class:`PowerCut`.
    forgets_syncs : bool
        True makes every ``sync`` a lie: the control that shows a test can see a missing sync.

    Examples
    --------
    >>> disk = MemoryDisk()
    >>> disk.make_folder(Path("s"))
    >>> file = disk.create(Path("s/a"))
    >>> file.write(b"one"); file.sync(); disk.sync_folder(Path("s")); file.write(b"two")
    >>> disk.after_power_cut(keep=0.0).read(Path("s/a"))
    b'one'
    """

    def __init__(
        self,
        *,
        n_bytes_max: int | None = None,
        before_call: Callable[[DiskCall], None] | None = None,
        forgets_syncs: bool = False,
    ) -> None:
        self._names: dict[Path, _Inode] = {}
        self._durable_names: dict[Path, _Inode] = {}
        self._folders: set[Path] = set()
        self.n_bytes_max = n_bytes_max
        self.before_call = before_call
        self.forgets_syncs = forgets_syncs
        self.n_calls = 0

    def enter(self, name: str, path: Path) -> None:
        """Count a call and let the fault happen."""
        self.n_calls += 1
        if self.before_call is not None:
            self.before_call(DiskCall(self.n_calls, name, path))

    def room_bytes(self) -> int | None:
        """Bytes that still fit; None without a bound."""
        if self.n_bytes_max is None:
            return None
        used = sum(len(inode.content) for inode in self._names.values())
        return max(0, self.n_bytes_max - used)

    def create(self, path: Path) -> DiskFile:
        """Open a new file."""
        self.enter("create", path)
        if path in self._names:
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(path))
        if path.parent not in self._folders:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path))
        self._names[path] = _Inode()
        return _MemoryFile(self, path, self._names[path])

    def append(self, path: Path) -> DiskFile:
        """Open an existing file."""
        self.enter("append", path)
        return _MemoryFile(self, path, self._inode(path))

    def _inode(self, path: Path) -> _Inode:
        try:
            return self._names[path]
        except KeyError:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path)) from None

    def read(self, path: Path) -> bytes:
        """Read a file whole."""
        self.enter("read", path)
        return bytes(self._inode(path).content)

    def truncate(self, path: Path, n_bytes: int) -> None:
        """Cut a file and sync it."""
        self.enter("truncate", path)
        inode = self._inode(path)
        del inode.content[n_bytes:]
        inode.durable = bytes(inode.content)

    def replace(self, source: Path, target: Path) -> None:
        """Rename over the target."""
        self.enter("replace", source)
        self._names[target] = self._inode(source)
        del self._names[source]

    def remove(self, path: Path) -> None:
        """Remove a file."""
        self.enter("remove", path)
        self._names.pop(path, None)

    def names(self, folder: Path) -> list[str]:
        """List the names in a folder."""
        self.enter("names", folder)
        if folder not in self._folders:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(folder))
        return sorted(path.name for path in self._names if path.parent == folder)

    def make_folder(self, folder: Path) -> None:
        """Create a folder; folders are durable at once."""
        self.enter("make_folder", folder)
        self._folders.update([folder, *folder.parents])

    def sync_folder(self, folder: Path) -> None:
        """Make the names in a folder durable."""
        self.enter("sync_folder", folder)
        if self.forgets_syncs:
            return
        kept = {p: inode for p, inode in self._durable_names.items() if p.parent != folder}
        here = {p: inode for p, inode in self._names.items() if p.parent == folder}
        self._durable_names = {**kept, **here}

    def boot_id(self) -> bytes:
        """Say nothing: it may forget at any time."""
        return b""

    def after_kill(self) -> MemoryDisk:
        """Return the disk a new process finds after ``kill -9``: all that was written."""
        return self._copy({path: bytes(inode.content) for path, inode in self._names.items()})

    def after_power_cut(self, *, keep: float, rng: Random | None = None) -> MemoryDisk:
        """Return the disk after a power cut.

        Parameters
        ----------
        keep : float in [0, 1]
            Probability that a name or a content that was not synced survives, whole or torn.
        rng : Random, optional
            Decides what survives; needed where ``keep`` is neither 0 nor 1.
        """
        rng = rng or Random(0)  # noqa: S311 -- a seeded choice, not a secret
        names = dict(self._durable_names)
        for path in sorted(set(self._names) | set(names)):
            if rng.random() < keep:
                if path in self._names:
                    names[path] = self._names[path]
                else:
                    names.pop(path, None)
        return self._copy(
            {p: surviving(bytes(i.content), i.durable, keep, rng) for p, i in names.items()}
        )

    def _copy(self, contents: dict[Path, bytes]) -> MemoryDisk:
        disk = MemoryDisk(n_bytes_max=self.n_bytes_max)
        disk._folders = set(self._folders)
        for path, content in contents.items():
            disk._names[path] = _Inode(bytearray(content), content)
        disk._durable_names = dict(disk._names)
        return disk


def surviving(written: bytes, durable: bytes, keep: float, rng: Random) -> bytes:
    """Return what a power cut leaves of a file: what was synced, all, or a torn part of the rest.

    Parameters
    ----------
    written, durable : bytes
        What processes saw, and what was synced.
    keep : float in [0, 1]
        Probability that more than what was synced survives.
    rng : Random
    """
    if written == durable or rng.random() >= keep:
        return durable
    if not written.startswith(durable):
        return written
    start = len(durable)
    length = rng.randint(start, len(written))
    survivor = bytearray(written[:length])
    if length - start > 16 and rng.random() < 0.5:
        # A page that never reached the disk reads as zeros.
        hole = rng.randrange(start, length)
        survivor[hole : hole + 512] = bytes(len(survivor[hole : hole + 512]))
    return bytes(survivor)
