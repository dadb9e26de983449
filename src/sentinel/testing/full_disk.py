"""Disks that are full, for real: the operating system refuses, nothing is pretended."""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

from sentinel.core.errors import ErrorCode, SentinelError


@contextlib.contextmanager
def small_disk(folder: Path, *, n_bytes: int) -> Iterator[Path]:
    """Mount a disk of ``n_bytes`` in memory over a folder; writing beyond it fails with ENOSPC.

    Needs the right to mount (``can_mount``); where there is none, :func:`file_size_limit` gives
    a like failure.

    Parameters
    ----------
    folder : Path
        An existing, empty folder.
    n_bytes : int
        Size of the disk, rounded up by the kernel to whole pages.

    Yields
    ------
    Path
        The folder; it is unmounted at the end, and what was written is gone.

    Raises
    ------
    SentinelError
        ``file-unwritable`` where this process may not mount.
    """
    options = f"size={n_bytes},mode=0700"
    done = subprocess.run(  # noqa: S603 -- fixed program, no shell
        ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)],  # noqa: S607 -- as found
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise SentinelError(
            ErrorCode.FILE_UNWRITABLE,
            at=str(folder),
            expected="the right to mount a disk in memory",
            got=done.stderr.strip() or f"mount ended with {done.returncode}",
            hint="Use file_size_limit() instead.",
        )
    try:
        yield folder
    finally:
        # Lazily: a test that failed may still hold a file open.
        subprocess.run(["umount", "-l", str(folder)], check=True)  # noqa: S603, S607 -- as above


def can_mount() -> bool:
    """Whether this process may mount a disk (it tries, in a name space of its own)."""
    if os.geteuid() != 0:
        return False
    try:
        done = subprocess.run(
            ["unshare", "--mount", "mount", "-t", "tmpfs", "tmpfs", "/mnt"],  # noqa: S607 -- as found
            capture_output=True,
            check=False,
        )
    except OSError:
        return False
    return done.returncode == 0


@contextlib.contextmanager
def file_size_limit(n_bytes: int) -> Iterator[None]:
    """Let no file of this process grow beyond ``n_bytes``; writing beyond it fails with EFBIG.

    Works for every user. It holds for the whole process while it lasts, all threads included.

    Parameters
    ----------
    n_bytes : int
        Largest size of any one file.
    """
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (n_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
