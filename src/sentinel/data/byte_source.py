"""The bytes of a file, plain or compressed, block by block, with errors that name the file.

What a file is, is told from its first bytes and never from its name. Compressed input is
expanded block by block: memory is bounded whatever a file expands to, and one that expands
beyond ``EVENT_FILE_EXPANSION_MAX`` is refused as a bomb.
"""

from __future__ import annotations

import gzip
import io
import os
import stat
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import IO, Protocol, cast

from sentinel.core import limits
from sentinel.core.errors import ErrorCode, SentinelError

_GZIP_MAGIC = b"\x1f\x8b"
_ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"
_UTF16_MARKS = (b"\xff\xfe", b"\xfe\xff")
_PARQUET_MAGIC = b"PAR1"
_HEAD_BYTES = 4
_EXPANDED_BYTES = 1 << 18  # one call of a decompressor
_DAMAGE = (EOFError, OSError, zlib.error)


class ByteSource(Protocol):
    """Where the line reader gets its bytes."""

    @property
    def is_plain(self) -> bool:
        """Whether the bytes are those of the file itself, which may grow."""

    @property
    def n_bytes_read(self) -> int:
        """Bytes of the file consumed so far (compressed bytes where it is compressed)."""

    def n_bytes(self) -> int:
        """Size of the file now."""

    def inode(self) -> int:
        """Which file it is, whatever its name means by now."""

    def read_into(self, view: memoryview) -> int:
        """Fill as much of ``view`` as there is; 0 at the end of the file as it is now."""

    def close(self) -> None:
        """Give the file back; safe to call twice."""


def open_bytes(path: Path) -> ByteSource:
    """Open a regular file and choose how to read it by its first bytes.

    Raises
    ------
    SentinelError
        ``file-missing``; ``file-unreadable`` for a folder, a pipe, a device, a file without the
        right to read, and for content that is known not to be lines of UTF-8 (UTF-16, Parquet).
    """
    file = _open_regular(path)
    try:
        head = file.read(_HEAD_BYTES)
        file.seek(0)
    except OSError as error:
        file.close()
        raise _unreadable(path, error) from error
    if head.startswith(_GZIP_MAGIC):
        return _Expanded(path, file, _gzip_stream)
    if head == _ZSTD_MAGIC:
        return _Expanded(path, file, _zstd_stream)
    wrong = _known_not_to_be_text(head)
    if wrong:
        file.close()
        raise SentinelError(
            ErrorCode.FILE_UNREADABLE,
            at=str(path),
            expected="lines of JSON in UTF-8, plain, gzip or zstd",
            got=wrong,
        )
    return _Plain(path, file)


def _open_regular(path: Path) -> io.FileIO:
    try:
        # Non-blocking, so that a named pipe without a writer is refused and not waited for.
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError as error:
        raise SentinelError(
            ErrorCode.FILE_MISSING, at=str(path), expected="an event file", got="nothing"
        ) from error
    except (OSError, ValueError) as error:
        raise _unreadable(path, error) from error
    mode = os.fstat(handle).st_mode
    if not stat.S_ISREG(mode):
        os.close(handle)
        raise SentinelError(
            ErrorCode.FILE_UNREADABLE,
            at=str(path),
            expected="a regular file",
            got="a folder" if stat.S_ISDIR(mode) else "a pipe, a socket or a device",
        )
    return io.FileIO(handle, "rb", closefd=True)


def _known_not_to_be_text(head: bytes) -> str:
    if head.startswith(_UTF16_MARKS):
        return "UTF-16 text"
    if head == _PARQUET_MAGIC:
        return "a Parquet file"
    return ""


def _unreadable(path: Path, error: Exception) -> SentinelError:
    reason = error.strerror if isinstance(error, OSError) and error.strerror else error
    return SentinelError(
        ErrorCode.FILE_UNREADABLE, at=str(path), expected="a file that can be read", got=reason
    )


def _gzip_stream(file: io.FileIO) -> IO[bytes]:
    return cast("IO[bytes]", gzip.GzipFile(fileobj=file, mode="rb"))


def _zstd_stream(file: io.FileIO) -> IO[bytes]:
    import pyarrow as pa

    return cast("IO[bytes]", pa.CompressedInputStream(pa.PythonFile(file, "r"), "zstd"))


class _Plain:
    """The file itself."""

    is_plain = True

    def __init__(self, path: Path, file: io.FileIO) -> None:
        self._path = path
        self._file = file
        self.n_bytes_read = 0

    def n_bytes(self) -> int:
        return os.fstat(self._file.fileno()).st_size

    def inode(self) -> int:
        return os.fstat(self._file.fileno()).st_ino

    def read_into(self, view: memoryview) -> int:
        try:
            n = self._file.readinto(view) or 0
        except OSError as error:
            raise _unreadable(self._path, error) from error
        self.n_bytes_read += n
        return n

    def close(self) -> None:
        self._file.close()


class _Expanded:
    """A compressed file, expanded as it is read.

    Where the file is damaged, the library's call fails whole and takes the good bytes before the
    damage with it. They are fetched again from a second stream, byte by byte, so that every
    event before the damage is handed on.
    """

    is_plain = False

    def __init__(
        self, path: Path, file: io.FileIO, stream_of: Callable[[io.FileIO], IO[bytes]]
    ) -> None:
        self._path = path
        self._stream_of = stream_of
        self._stat = os.fstat(file.fileno())
        self._file = file
        self._stream = stream_of(file)
        self._n_bytes_out = 0
        self._fault: SentinelError | None = None
        self.n_bytes_read = 0

    def n_bytes(self) -> int:
        return self._stat.st_size

    def inode(self) -> int:
        return self._stat.st_ino

    def read_into(self, view: memoryview) -> int:
        if self._fault is not None:
            raise self._fault
        n_asked = min(len(view), _EXPANDED_BYTES)
        content = self._read(n_asked)
        view[: len(content)] = content
        self._n_bytes_out += len(content)
        if not self._file.closed:
            self.n_bytes_read = self._file.tell()
        self._refuse_bomb()
        return len(content)

    def _read(self, n_bytes: int) -> bytes:
        try:
            return self._stream.read(n_bytes)
        except _DAMAGE as error:
            self._fault = self._damaged(
                expected="a whole compressed file",
                got=f"{error} near byte {self._file.tell()} of {self.n_bytes()}",
            )
            self._fault.__cause__ = error
        content = self._read_again(n_bytes)
        if not content:
            raise self._fault
        return content

    def _read_again(self, n_bytes: int) -> bytes:
        """Fetch the bytes that lie between the last good call and the damage."""
        self.close()
        self._file = _open_regular(self._path)
        self._stream = self._stream_of(self._file)
        content = bytearray()
        try:
            n_left = self._n_bytes_out
            while n_left and (passed := self._stream.read(min(n_left, _EXPANDED_BYTES))):
                n_left -= len(passed)
            while len(content) < n_bytes and (byte := self._stream.read(1)):
                content += byte
        except _DAMAGE:
            pass
        return bytes(content)

    def _refuse_bomb(self) -> None:
        n_out_max = limits.EVENT_FILE_EXPANSION_MAX * max(self.n_bytes_read, 1)
        if self._n_bytes_out > max(n_out_max, limits.EVENT_FILE_EXPANSION_FREE_BYTES):
            raise self._damaged(
                expected=f"a file that expands at most {limits.EVENT_FILE_EXPANSION_MAX} times",
                got=f"{self._n_bytes_out} bytes out of {self.n_bytes_read}",
            )

    def _damaged(self, *, expected: str, got: str) -> SentinelError:
        return SentinelError(
            ErrorCode.EVENT_FILE_DAMAGED,
            at=str(self._path),
            expected=expected,
            got=got,
            hint="The events before it were handed on.",
        )

    def close(self) -> None:
        self._stream.close()
        self._file.close()
