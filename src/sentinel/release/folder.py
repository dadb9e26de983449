"""Reading a release folder: every byte once, into memory, and only plain files.

What is verified later is what is loaded later, because it is the same memory: a file that changes
on disk afterwards changes nothing (there is no second read). The folder is opened once and its
entries are opened relative to it, so a folder that is exchanged meanwhile is not followed either.

Refused: symbolic links, hard links, folders other than ``signatures``, devices, pipes, sockets,
names outside the manifest, too many or too large files.
"""

from __future__ import annotations

import json
import os
import stat
from dataclasses import dataclass
from pathlib import Path

from sentinel.core import limits
from sentinel.core.errors import ErrorCode, SentinelError
from sentinel.core.hashing import canonical_json
from sentinel.release.manifest import MANIFEST_NAME, SIGNATURES_NAME, Manifest, check_name

_OPEN_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_OPEN_FOLDER = os.O_RDONLY | os.O_NOFOLLOW | os.O_DIRECTORY | os.O_CLOEXEC
# One statement of each kind, the builder's included.
SIGNATURE_FILES = frozenset({"build.json", "data.json", "deploy.json", "weights.json"})


@dataclass(frozen=True, slots=True)
class Contents:
    """A release in memory, hashes verified.

    Attributes
    ----------
    manifest : Manifest
    files : dict of str to bytes
        Every file that the manifest names.
    signatures : dict of str to bytes
        Signed statements by file name; not yet judged.
    """

    manifest: Manifest
    files: dict[str, bytes]
    signatures: dict[str, bytes]


def read_folder(folder: Path) -> Contents:
    """Read a release into memory and hold it against its manifest.

    Only the manifest is parsed before the hashes of all files hold.

    Parameters
    ----------
    folder : Path
        The folder itself, no link to it.

    Raises
    ------
    SentinelError
        ``release-missing``, ``release-structure``, ``release-corrupt``,
        ``release-format-unknown``.
    """
    handle = _open_folder(folder)
    try:
        names = _names(handle, n_max=limits.RELEASE_FILES_MAX + 2)
        if MANIFEST_NAME not in names:
            raise _structure(MANIFEST_NAME, "a manifest", "nothing")
        content = _read(handle, MANIFEST_NAME, n_bytes_max=limits.MANIFEST_BYTES_MAX)
        manifest = Manifest.decode(content)
        _check_names(names, manifest)
        files = {
            entry.name: _read(handle, entry.name, n_bytes_max=entry.n_bytes)
            for entry in manifest.files
        }
        signatures = _read_signatures(handle) if SIGNATURES_NAME in names else {}
    finally:
        os.close(handle)
    manifest.check(files)
    return Contents(manifest, files, signatures)


def parse_json(content: bytes, *, at: str) -> object:
    """Parse a JSON file of a release, whose hash holds already: canonical, or refused.

    Raises
    ------
    SentinelError
        ``release-corrupt`` for anything that Sentinel would have written differently.
    """
    if len(content) > limits.RELEASE_JSON_BYTES_MAX:
        raise _corrupt(at, f"at most {limits.RELEASE_JSON_BYTES_MAX} bytes", len(content))
    try:
        data: object = json.loads(content)
        is_canonical = canonical_json(data) == content
    except (ValueError, RecursionError) as error:
        raise _corrupt(at, "JSON", error) from error
    if not is_canonical:
        raise _corrupt(at, "canonical JSON", "another way to write it")
    return data


def _open_folder(folder: Path) -> int:
    try:
        return os.open(folder, _OPEN_FOLDER)
    except FileNotFoundError as error:
        raise SentinelError(
            ErrorCode.RELEASE_MISSING, at=str(folder), expected="a release folder", got="nothing"
        ) from error
    except PermissionError as error:
        raise _unreadable(str(folder), error) from error
    except OSError as error:
        if folder.is_symlink():
            raise SentinelError(
                ErrorCode.RELEASE_STRUCTURE,
                at=str(folder),
                expected="a folder",
                got="a symbolic link",
                hint="Give the folder itself.",
            ) from error
        raise _structure(str(folder), "a folder", error.strerror or error) from error


def _names(handle: int, *, n_max: int) -> set[str]:
    names: set[str] = set()
    with os.scandir(handle) as entries:
        for entry in entries:
            names.add(entry.name)
            if len(names) > n_max:
                raise _structure(MANIFEST_NAME, f"at most {n_max} names in the folder", "more")
    return names


def _check_names(names: set[str], manifest: Manifest) -> None:
    expected = {entry.name for entry in manifest.files} | {MANIFEST_NAME}
    for name in sorted(names - expected - {SIGNATURES_NAME}):
        raise _structure(name, "a file that the manifest names", "an extra file")
    for name in sorted(expected - names):
        raise _structure(name, "a file", "nothing")


def _read(handle: int, name: str, *, n_bytes_max: int) -> bytes:
    """Read one plain file of the open folder; one byte more than it may have is enough to tell."""
    try:
        file = os.open(name, _OPEN_FILE, dir_fd=handle)
    except PermissionError as error:
        raise _unreadable(name, error) from error
    except OSError as error:
        raise _structure(name, "a file", error.strerror or error) from error
    try:
        status = os.fstat(file)
        if not stat.S_ISREG(status.st_mode):
            raise _structure(name, "a regular file", stat.filemode(status.st_mode))
        if status.st_nlink != 1:
            raise _structure(name, "one name for one file", f"{status.st_nlink} hard links")
        if status.st_size > n_bytes_max:
            raise _corrupt(name, f"at most {n_bytes_max} bytes", status.st_size)
        return _read_open(file, n_bytes_max + 1)
    except OSError as error:
        raise _unreadable(name, error) from error
    finally:
        os.close(file)


def _read_open(file: int, n_bytes_max: int) -> bytes:
    parts, n_left = [], n_bytes_max
    while n_left > 0 and (part := os.read(file, n_left)):
        parts.append(part)
        n_left -= len(part)
    return b"".join(parts)


def _read_signatures(handle: int) -> dict[str, bytes]:
    try:
        inner = os.open(SIGNATURES_NAME, _OPEN_FOLDER, dir_fd=handle)
    except PermissionError as error:
        raise _unreadable(SIGNATURES_NAME, error) from error
    except OSError as error:
        raise _structure(SIGNATURES_NAME, "a folder", error.strerror or error) from error
    try:
        names = _names(inner, n_max=len(SIGNATURE_FILES))
        for name in sorted(names):
            check_name(name)
        for name in sorted(names - SIGNATURE_FILES):
            raise _structure(f"{SIGNATURES_NAME}/{name}", "a known statement", "an extra file")
        return {
            name: _read(inner, name, n_bytes_max=limits.SIGNATURE_BYTES_MAX)
            for name in sorted(names)
        }
    finally:
        os.close(inner)


def _unreadable(at: str, error: OSError) -> SentinelError:
    return SentinelError(
        ErrorCode.FILE_UNREADABLE,
        at=at,
        expected="a file that can be read",
        got=error.strerror or error,
    )


def _structure(at: str, expected: str, got: object) -> SentinelError:
    return SentinelError(ErrorCode.RELEASE_STRUCTURE, at=at, expected=expected, got=got)


def _corrupt(at: str, expected: str, got: object) -> SentinelError:
    return SentinelError(ErrorCode.RELEASE_CORRUPT, at=at, expected=expected, got=got)
