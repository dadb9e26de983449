"""The few calls through which durable state touches a disk, so that faults can be put between.

State that must survive a crash is written only through a :class:`Disk`. The real one is
:class:`SystemDisk`; ``sentinel.testing.MemoryDisk`` forgets what was not synced, tears the last
write, fails the n-th call, and stops at any of them.
"""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path
from typing import Protocol

from sentinel.core import limits
from sentinel.core.crash_points import is_watched, passing
from sentinel.core.errors import SentinelError
from sentinel.core.files import read_bounded, sync_folder

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


class DiskFile(Protocol):
    """A file open for appending."""

    def write(self, content: bytes | memoryview) -> None:
        """Append all of the bytes; they survive the process, not a power cut."""

    def sync(self) -> None:
        """Make what was written survive a power cut. After an error, never call it again."""

    def close(self) -> None:
        """Release the file; does not sync."""


class Disk(Protocol):
    """A folder tree that durable state lives on; every call may raise OSError."""

    def create(self, path: Path) -> DiskFile:
        """Open a new file for appending; FileExistsError when there is one."""

    def append(self, path: Path) -> DiskFile:
        """Open an existing file for appending."""

    def read(self, path: Path) -> bytes:
        """Read a regular file whole, following no symbolic link."""

    def truncate(self, path: Path, n_bytes: int) -> None:
        """Cut a file to its first bytes, and sync it."""

    def replace(self, source: Path, target: Path) -> None:
        """Rename over the target, atomically; durable after ``sync_folder``."""

    def remove(self, path: Path) -> None:
        """Remove a file; no error when it is not there."""

    def names(self, folder: Path) -> list[str]:
        """List the names in a folder, sorted."""

    def make_folder(self, folder: Path) -> None:
        """Create a folder and its parents where missing."""

    def sync_folder(self, folder: Path) -> None:
        """Make new names and renames in a folder survive a power cut."""

    def boot_id(self) -> bytes:
        """Return another id after each power cut; empty where nobody can say."""


class _SystemFile:
    """A real file, unbuffered: what is written is in the kernel's hands at once."""

    def __init__(self, path: Path, flags: int) -> None:
        self._path = path
        self._handle = os.open(
            path, os.O_WRONLY | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC | flags, 0o600
        )

    def write(self, content: bytes | memoryview) -> None:
        """Append all of the bytes."""
        view = memoryview(content)
        if is_watched():
            passing("write", self._path, "before")
            half = view[: len(view) // 2]
            while half:
                written = os.write(self._handle, half)
                half, view = half[written:], view[written:]
            passing("write", self._path, "half")
        while view:
            view = view[os.write(self._handle, view) :]
        passing("write", self._path, "after")

    def sync(self) -> None:
        """Sync content and size."""
        passing("sync", self._path, "before")
        os.fdatasync(self._handle)
        passing("sync", self._path, "after")

    def close(self) -> None:
        """Release the file."""
        if self._handle >= 0:
            os.close(self._handle)
            self._handle = -1
            passing("close", self._path, "after")


class SystemDisk:
    """The disk of the machine."""

    def create(self, path: Path) -> DiskFile:
        """Open a new file for appending."""
        passing("create", path, "before")
        file = _SystemFile(path, os.O_CREAT | os.O_EXCL)
        passing("create", path, "after")
        return file

    def append(self, path: Path) -> DiskFile:
        """Open an existing file for appending."""
        return _SystemFile(path, 0)

    def read(self, path: Path) -> bytes:
        """Read a regular file whole."""
        passing("read", path, "before")
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        if not stat.S_ISREG(os.fstat(handle).st_mode):
            os.close(handle)
            raise OSError(errno.EINVAL, "Not a regular file", str(path))
        with os.fdopen(handle, "rb") as file:
            content = file.read()
        passing("read", path, "after")
        return content

    def truncate(self, path: Path, n_bytes: int) -> None:
        """Cut a file and sync it."""
        handle = os.open(path, os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            passing("truncate", path, "before")
            os.ftruncate(handle, n_bytes)
            passing("truncate", path, "half")
            os.fsync(handle)
            passing("truncate", path, "after")
        finally:
            os.close(handle)

    def replace(self, source: Path, target: Path) -> None:
        """Rename over the target."""
        passing("replace", source, "before")
        source.replace(target)
        passing("replace", source, "after")

    def remove(self, path: Path) -> None:
        """Remove a file."""
        passing("remove", path, "before")
        path.unlink(missing_ok=True)
        passing("remove", path, "after")

    def names(self, folder: Path) -> list[str]:
        """List the names in a folder."""
        return sorted(path.name for path in folder.iterdir())

    def make_folder(self, folder: Path) -> None:
        """Create a folder and its parents."""
        folder.mkdir(parents=True, exist_ok=True)

    def sync_folder(self, folder: Path) -> None:
        """Sync a folder's names."""
        sync_folder(folder)

    def boot_id(self) -> bytes:
        """Return the id that the kernel made at its start."""
        try:
            return read_bounded(_BOOT_ID, n_bytes_max=limits.BOOT_ID_BYTES_MAX).strip()
        except SentinelError:
            return b""
