"""A file of decisions that is either whole or plainly unfinished, and can be continued.

While a replay runs, its decisions grow in ``NAME.partial``; at the end that is synced and renamed
to ``NAME``. Beside it ``NAME.checkpoint.json`` says how far the file is good: the next position
of the source and the bytes written until then. After an interruption, even ``kill -9``, the file
is cut back to its checkpoint and continued there: no decision is lost or written twice.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import BinaryIO

import msgspec

from sentinel.core import limits
from sentinel.core.errors import ErrorCode, SentinelError
from sentinel.core.files import read_bounded, sync_folder, write_atomically


class Checkpoint(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How far a file of decisions is good.

    Attributes
    ----------
    run : str
        Digest of all that decides what the file will hold: release, sources, first position.
    next_position : int
        Position in the source of the first event that is not in the file.
    n_bytes : int
        Bytes of the file that are good.
    counts : dict of str to int
        What had been counted by then.
    """

    run: str
    next_position: int
    n_bytes: int
    counts: dict[str, int]


class DecisionFile:
    """Decisions, one JSON object a line.

    Parameters
    ----------
    path : Path
        Where the whole file will stand.
    run : str
        Digest of all that decides its content.
    """

    def __init__(self, path: Path, *, run: str) -> None:
        self.path = path
        self.partial = path.with_name(path.name + ".partial")
        self.checkpoint_path = path.with_name(path.name + ".checkpoint.json")
        self._run = run
        self._file: BinaryIO | None = None
        self._n_bytes = 0

    def start(self) -> None:
        """Begin anew; what an earlier run left unfinished is overwritten.

        Raises
        ------
        SentinelError
            ``file-unwritable``.
        """
        self.checkpoint_path.unlink(missing_ok=True)
        self._open(anew=True)
        self._n_bytes = 0

    def resume(self) -> Checkpoint | None:
        """Continue after the last checkpoint; begin anew when there is none.

        Returns
        -------
        Checkpoint or None
            Where to go on.

        Raises
        ------
        SentinelError
            ``checkpoint-mismatch`` when the unfinished file is of another run, or shorter than
            its checkpoint says; ``file-unwritable``.
        """
        checkpoint = self._read_checkpoint()
        if checkpoint is None:
            self.start()
            return None
        file = self._open(anew=False)
        file.truncate(checkpoint.n_bytes)
        file.seek(checkpoint.n_bytes)
        self._n_bytes = checkpoint.n_bytes
        return checkpoint

    def write(self, lines: bytes) -> None:
        """Append whole lines."""
        file = self._file
        if file is None:
            raise AssertionError("a decision file is started before it is written")
        try:
            file.write(lines)
        except OSError as error:
            raise _unwritable(self.partial, error) from error
        self._n_bytes += len(lines)

    def save_checkpoint(self, *, next_position: int, counts: Mapping[str, int]) -> None:
        """Make everything written so far survive, then say so."""
        self._sync()
        checkpoint = Checkpoint(
            run=self._run, next_position=next_position, n_bytes=self._n_bytes, counts=dict(counts)
        )
        write_atomically(self.checkpoint_path, msgspec.json.encode(checkpoint))

    def finish(self) -> None:
        """Turn the unfinished file into the whole one."""
        self._sync()
        self.close()
        self.partial.replace(self.path)
        self.checkpoint_path.unlink(missing_ok=True)
        sync_folder(self.path.parent)

    def close(self) -> None:
        """Let go of the file; what was written stays unfinished. Safe to call twice."""
        file, self._file = self._file, None
        if file is not None:
            try:
                file.close()
            except OSError as error:
                raise _unwritable(self.partial, error) from error

    def _open(self, *, anew: bool) -> BinaryIO:
        self.close()
        if self.path.exists() and not self.path.is_file():
            raise SentinelError(
                ErrorCode.FILE_UNWRITABLE,
                at=str(self.path),
                expected="a regular file, or nothing yet",
                got="something else",
            )
        n_bytes = limits.DECISION_FILE_BUFFER_BYTES
        try:
            self._file = (
                self.partial.open("wb", buffering=n_bytes)
                if anew
                else self.partial.open("r+b", buffering=n_bytes)
            )
        except OSError as error:
            raise _unwritable(self.partial, error) from error
        return self._file

    def _sync(self) -> None:
        if self._file is not None:
            try:
                self._file.flush()
                os.fsync(self._file.fileno())
            except OSError as error:
                raise _unwritable(self.partial, error) from error

    def _read_checkpoint(self) -> Checkpoint | None:
        if not self.checkpoint_path.exists() or not self.partial.exists():
            return None
        content = read_bounded(
            self.checkpoint_path, n_bytes_max=limits.CONFIGURATION_FILE_BYTES_MAX
        )
        try:
            checkpoint = msgspec.json.decode(content, type=Checkpoint)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise self._mismatch("a checkpoint", str(error)) from error
        if checkpoint.run != self._run:
            raise self._mismatch("the same release and the same files", "others")
        n_bytes = self.partial.stat().st_size
        if not 0 <= checkpoint.n_bytes <= n_bytes or checkpoint.next_position < 0:
            raise self._mismatch(f"at least {checkpoint.n_bytes} bytes of decisions", n_bytes)
        return checkpoint

    def _mismatch(self, expected: str, got: object) -> SentinelError:
        return SentinelError(
            ErrorCode.CHECKPOINT_MISMATCH,
            at=str(self.checkpoint_path),
            expected=expected,
            got=got,
            hint="Run without --resume to start again.",
        )


def _unwritable(path: Path, error: OSError) -> SentinelError:
    return SentinelError(
        ErrorCode.FILE_UNWRITABLE,
        at=str(path),
        expected="a folder with room that this user may write",
        got=error.strerror or error,
        hint="What was written until the last checkpoint is good: make room, then --resume.",
    )
