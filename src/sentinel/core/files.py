"""Files that are either whole or absent, and paths that stay inside their folder."""

from __future__ import annotations

import fcntl
import mmap
import os
import stat
import tempfile
from pathlib import Path, PurePosixPath

from sentinel.core.crash_points import passing
from sentinel.core.errors import ErrorCode, SentinelError


def lock_folder(folder: Path, *, owner: str, hint: str) -> int:
    """Hold a folder for this process; released when the process ends, however it ends.

    Parameters
    ----------
    folder : Path
        Made when it is not there.
    owner : str
        What holds such folders, for people: ``process`` or ``worker``.
    hint : str
        The way out.

    Returns
    -------
    int
        A descriptor; closing it lets go.

    Raises
    ------
    SentinelError
        ``state-locked``.
    """
    folder.mkdir(parents=True, exist_ok=True)
    handle = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(handle)
        raise SentinelError(
            ErrorCode.STATE_LOCKED,
            at=str(folder),
            expected=f"a folder that no other {owner} has open",
            got="one in use",
            hint=hint,
        ) from error
    return handle


def write_atomically(path: Path, content: bytes | memoryview, *, mode: int = 0o644) -> None:
    """Write a file so that a reader, or a crash, sees the old content or the new, never half.

    The content goes to a temporary file beside the target, is synced, renamed over it, and the
    directory entry is synced.

    Raises
    ------
    SentinelError
        ``file-unwritable`` when the folder is full, missing or not ours; nothing is left behind.
    """
    temporary: str | None = None
    try:
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        with os.fdopen(handle, "wb") as file:
            passing("write", path, "before")
            file.write(content)
            file.flush()
            passing("write", path, "after")
            os.fchmod(file.fileno(), mode)
            os.fsync(file.fileno())
            passing("sync", path, "after")
        Path(temporary).replace(path)
        temporary = None
        passing("replace", path, "after")
        sync_folder(path.parent)
    except OSError as error:
        raise unwritable(path, error) from error
    finally:
        if temporary is not None:
            Path(temporary).unlink(missing_ok=True)


def map_page(path: Path) -> mmap.mmap:
    """Open a page of memory that outlives the process: what is in it is in a file.

    Room is taken now: a page of a full disk would kill the process at its first use.

    Raises
    ------
    SentinelError
        ``file-unwritable``.
    """
    try:
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            os.posix_fallocate(handle, 0, mmap.PAGESIZE)
            return mmap.mmap(handle, mmap.PAGESIZE)
        finally:
            os.close(handle)
    except OSError as error:
        raise unwritable(path, error) from error


def unwritable(path: Path, error: OSError, *, hint: str = "") -> SentinelError:
    """Say what a disk did not take: ``file-unwritable``, with the way out, where there is one."""
    return SentinelError(
        ErrorCode.FILE_UNWRITABLE,
        at=str(path),
        expected="a folder with room that this user may write",
        got=error.strerror or error,
        hint=hint,
    )


def sync_folder(folder: Path) -> None:
    """Make renames and new names in a folder survive a power cut."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        passing("sync", folder, "before")
        os.fsync(handle)
        passing("sync", folder, "after")
    finally:
        os.close(handle)


def read_bounded(path: Path, *, n_bytes_max: int, may_be_link: bool = False) -> bytes:
    """Read a whole regular file of at most a stated size.

    Parameters
    ----------
    path : Path
    n_bytes_max : int
    may_be_link : bool
        Follow symbolic links: for a file that a person named, since volumes of secrets in
        Kubernetes consist of links. Else a link is refused.

    Raises
    ------
    SentinelError
        ``file-missing``; ``file-unreadable`` for a link, a folder, a device, a file too large.
    """
    return _read(path, n_bytes_max=n_bytes_max, may_be_link=may_be_link)[0]


def read_secret(path: Path, *, n_bytes_max: int, group_may_read: bool = True) -> bytes:
    """Read a file that holds a secret, and refuse one that others than its owner may read.

    Tokens, private keys, addresses of stores and passwords are all read so.

    Parameters
    ----------
    path : Path
        May be a link; what it leads to is judged.
    n_bytes_max : int
    group_may_read : bool
        Modes 440 and 640 are taken: so Kubernetes mounts a secret with ``fsGroup``.

    Raises
    ------
    SentinelError
        ``file-exposed``; as :func:`read_bounded`.
    """
    content, mode = _read(path, n_bytes_max=n_bytes_max, may_be_link=True)
    refused = stat.S_IRWXO | (stat.S_IWGRP | stat.S_IXGRP if group_may_read else stat.S_IRWXG)
    if mode & refused:
        in_a_volume = " (a volume of Kubernetes: defaultMode: 0440)" if group_may_read else ""
        raise SentinelError(
            ErrorCode.FILE_EXPOSED,
            at=str(path),
            expected="a file that its owner alone may read, mode 600",
            got=f"mode {mode:03o}",
            hint=f"Take it from others: chmod 600 {path}{in_a_volume}",
        )
    return content


def _read(path: Path, *, n_bytes_max: int, may_be_link: bool) -> tuple[bytes, int]:
    """Read a file and its permissions, which are those of what was read."""
    flags = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | (0 if may_be_link else os.O_NOFOLLOW)
    try:
        handle = os.open(path, flags)
    except FileNotFoundError as error:
        raise SentinelError(
            ErrorCode.FILE_MISSING, at=str(path), expected="a file", got="nothing"
        ) from error
    except OSError as error:
        raise SentinelError(
            ErrorCode.FILE_UNREADABLE,
            at=str(path),
            expected="a regular file",
            got=error.strerror or error,
        ) from error
    # fdopen refuses a folder with an error of its own, so what it is comes first.
    mode = os.fstat(handle).st_mode
    is_regular = stat.S_ISREG(mode)
    content = b""
    if is_regular:
        with os.fdopen(handle, "rb") as file:
            content = file.read(n_bytes_max + 1)
    else:
        os.close(handle)
    if not is_regular or len(content) > n_bytes_max:
        raise SentinelError(
            ErrorCode.FILE_UNREADABLE,
            at=str(path),
            expected=f"a regular file of at most {n_bytes_max} bytes",
            got="a larger one" if is_regular else "something else",
        )
    return content, stat.S_IMODE(mode)


def inside(folder: Path, relative: str) -> Path:
    """Join a relative path that came from outside, refusing every way out of the folder.

    Raises
    ------
    SentinelError
        ``path-outside`` for an absolute path, ``..``, an empty part, a backslash or a NUL.

    Examples
    --------
    >>> inside(Path("a"), "b/c.json").as_posix()
    'a/b/c.json'
    """
    parts = relative.split("/")
    plain = PurePosixPath(relative)
    if (
        plain.is_absolute()
        or any(part in {"", ".", ".."} for part in parts)
        or any(character in relative for character in ("\\", "\0"))
    ):
        raise SentinelError(
            ErrorCode.PATH_OUTSIDE,
            at=str(folder),
            expected="a plain relative path inside the folder",
            got=relative,
        )
    return folder.joinpath(*parts)
