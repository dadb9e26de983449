"""The few calls through which durable state touches a disk, so that faults can be put between.

State that must survive a crash is written only through a :class:`Disk`. The real one is
:class:`SystemDisk`; ``sentinel.testing.MemoryDisk`` forgets what was not synced, tears the last
write, fails the n-th call, and stops at any of them.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Protocol

from sentinel.core.files import sync_folder


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


class _SystemFile:
    """A real file, unbuffered: what is written is in the kernel's hands at once."""

    def __init__(self, path: Path, flags: int) -> None:
        self._handle = os.open(
            path, os.O_WRONLY | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC | flags, 0o600
        )

    def write(self, content: bytes | memoryview) -> None:
        """Append all of the bytes."""
        view = memoryview(content)
        while view:
            view = view[os.write(self._handle, view) :]

    def sync(self) -> None:
        """Sync content and size."""
        os.fdatasync(self._handle)

    def close(self) -> None:
        """Release the file."""
        if self._handle >= 0:
            os.close(self._handle)
            self._handle = -1


class SystemDisk:
    """The disk of the machine."""

    def create(self, path: Path) -> DiskFile:
        """Open a new file for appending."""
        return _SystemFile(path, os.O_CREAT | os.O_EXCL)

    def append(self, path: Path) -> DiskFile:
        """Open an existing file for appending."""
        return _SystemFile(path, 0)

    def read(self, path: Path) -> bytes:
        """Read a regular file whole."""
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        with os.fdopen(handle, "rb") as file:
            return file.read()

    def truncate(self, path: Path, n_bytes: int) -> None:
        """Cut a file and sync it."""
        handle = os.open(path, os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            os.ftruncate(handle, n_bytes)
            os.fsync(handle)
        finally:
            os.close(handle)

    def replace(self, source: Path, target: Path) -> None:
        """Rename over the target."""
        source.replace(target)

    def remove(self, path: Path) -> None:
        """Remove a file."""
        path.unlink(missing_ok=True)

    def names(self, folder: Path) -> list[str]:
        """List the names in a folder."""
        return sorted(path.name for path in folder.iterdir())

    def make_folder(self, folder: Path) -> None:
        """Create a folder and its parents."""
        folder.mkdir(parents=True, exist_ok=True)

    def sync_folder(self, folder: Path) -> None:
        """Sync a folder's names."""
        sync_folder(folder)
