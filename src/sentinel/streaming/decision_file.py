"""A file of decisions that is either whole or plainly unfinished, and can be continued.

While a replay runs, its decisions grow in ``NAME.partial``; at the end that is synced and renamed
to ``NAME``. Beside it ``NAME.checkpoint.json`` says how far the file is good: the next position
of the source, the bytes and lines written until then and their checksum. After an interruption,
even ``kill -9``, the file is cut back to its checkpoint and continued there: no decision is lost or
written twice.
"""

from __future__ import annotations

import os
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import BinaryIO

import msgspec

from sentinel.core import limits
from sentinel.core.errors import ErrorCode, SentinelError
from sentinel.core.files import read_bounded, sync_folder, unwritable, write_atomically


class Checkpoint(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How far a file of decisions is good.

    Attributes
    ----------
    run : str
        Digest of all that decides what the file will hold: release, sources, first position.
    next_position : int
        Position in the source of the first event that is not in the file.
    n_bytes, n_lines : int
        Bytes and lines of the file that are good.
    checksum : int
        CRC-32 of those bytes.
    counts : dict of str to int
        What had been counted by then.
    made_of : dict of str to str
        What ``run`` is the digest of, by the names that people know; empty in files of versions
        that did not write it.
    """

    run: str
    next_position: int
    n_bytes: int
    n_lines: int
    checksum: int
    counts: dict[str, int]
    made_of: dict[str, str] = {}


class DecisionFile:
    """Decisions, one JSON object a line.

    Parameters
    ----------
    path : Path
        Where the whole file will stand.
    run : str
        Digest of all that decides its content.
    made_of : mapping of str to str, optional
        That, by the names that people know: to say what another run did otherwise.
    """

    def __init__(self, path: Path, *, run: str, made_of: Mapping[str, str] | None = None) -> None:
        self.path = path
        self.partial = path.with_name(path.name + ".partial")
        self.checkpoint_path = path.with_name(path.name + ".checkpoint.json")
        self._run = run
        self._made_of = dict(made_of or {})
        self._file: BinaryIO | None = None
        self._n_bytes = 0
        self._n_lines = 0
        self._checksum = 0
        self._saved_position = 0

    def start(self) -> None:
        """Begin anew; what an earlier run left unfinished is overwritten.

        Raises
        ------
        SentinelError
            ``file-unwritable``.
        """
        self.checkpoint_path.unlink(missing_ok=True)
        self._open(anew=True)
        self._n_bytes = self._n_lines = self._checksum = self._saved_position = 0

    def resume(self) -> Checkpoint | None:
        """Continue after the last checkpoint; begin anew when there is none.

        Returns
        -------
        Checkpoint or None
            Where to go on.

        Raises
        ------
        SentinelError
            ``checkpoint-mismatch`` when the unfinished file is of another run, or does not hold
            what its checkpoint says; ``file-unwritable``.
        """
        checkpoint = self._read_checkpoint()
        if checkpoint is None:
            self.start()
            return None
        file = self._open(anew=False)
        file.truncate(checkpoint.n_bytes)
        file.seek(checkpoint.n_bytes)
        self._n_bytes = checkpoint.n_bytes
        self._n_lines = checkpoint.n_lines
        self._checksum = checkpoint.checksum
        self._saved_position = checkpoint.next_position
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
        self._n_lines += lines.count(b"\n")
        self._checksum = zlib.crc32(lines, self._checksum)

    def save_checkpoint(self, *, next_position: int, counts: Mapping[str, int]) -> None:
        """Make everything written so far survive, then say so; it never goes backwards."""
        if next_position < self._saved_position:
            raise AssertionError(
                f"a checkpoint at {next_position} behind the one at {self._saved_position}"
            )
        self._sync()
        checkpoint = Checkpoint(
            run=self._run,
            next_position=next_position,
            n_bytes=self._n_bytes,
            n_lines=self._n_lines,
            checksum=self._checksum,
            counts=dict(counts),
            made_of=self._made_of,
        )
        write_atomically(self.checkpoint_path, msgspec.json.encode(checkpoint))
        self._saved_position = next_position

    def check_written(self, *, n_lines: int, checksum: int) -> None:
        """Compare what the file held when it was continued with what it should have held.

        Raises
        ------
        SentinelError
            ``checkpoint-mismatch`` when bytes and position of the checkpoint do not belong
            together.
        """
        if (n_lines, checksum) != (self._n_lines, self._checksum):
            raise self._mismatch(
                f"the {n_lines} decisions until line {self._saved_position} of the events",
                f"{self._n_lines} lines, or others",
            )

    def refuse_short_source(self, *, next_position: int) -> None:
        """Refuse to end well where the source ended before the checkpoint.

        Raises
        ------
        SentinelError
            ``checkpoint-mismatch``.
        """
        if next_position < self._saved_position:
            raise self._mismatch(
                f"events until line {self._saved_position}", f"a file of {next_position} lines"
            )

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
            hint = "Nothing was written: make that possible, or name another file."
            raise unwritable(self.partial, error, hint=hint) from error
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
            raise self._mismatch("a checkpoint", error) from error
        if checkpoint.run != self._run:
            raise self._of_another_run(checkpoint.made_of)
        n_bytes = self.partial.stat().st_size
        if not 0 <= checkpoint.n_bytes <= n_bytes or checkpoint.next_position < 0:
            raise self._mismatch(f"at least {checkpoint.n_bytes} bytes of decisions", n_bytes)
        n_lines, checksum = self._measure(checkpoint.n_bytes)
        if (n_lines, checksum) != (checkpoint.n_lines, checkpoint.checksum):
            raise self._mismatch(
                f"{checkpoint.n_lines} lines of checksum {checkpoint.checksum:08x}",
                f"{n_lines} lines of checksum {checksum:08x}",
            )
        return checkpoint

    def _measure(self, n_bytes: int) -> tuple[int, int]:
        """Count the lines of the first bytes of the unfinished file, and sum them up."""
        n_lines = checksum = 0
        with self.partial.open("rb") as file:
            while n_bytes and (part := file.read(min(n_bytes, limits.DECISION_FILE_BUFFER_BYTES))):
                n_bytes -= len(part)
                n_lines += part.count(b"\n")
                checksum = zlib.crc32(part, checksum)
        return n_lines, checksum

    def _of_another_run(self, made_of: Mapping[str, str]) -> SentinelError:
        """Say what the run of the checkpoint did otherwise."""
        for name, mine in self._made_of.items():
            if made_of.get(name, mine) != mine:
                return self._mismatch(f"{name} {made_of[name]}, as when it began", f"{name} {mine}")
        return self._mismatch("the release, files and flags that it began with", "others")

    def _mismatch(self, expected: str, got: object) -> SentinelError:
        return SentinelError(
            ErrorCode.CHECKPOINT_MISMATCH,
            at=str(self.checkpoint_path),
            expected=expected,
            got=got,
            hint="Resume with what it began with; or start again: without --resume, and where a "
            "--store keeps the state, with another one.",
        )


def _unwritable(path: Path, error: OSError) -> SentinelError:
    hint = "Mend that, then run it again with --resume: it goes on at its last checkpoint."
    return unwritable(path, error, hint=hint)
