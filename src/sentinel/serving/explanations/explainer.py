"""The explainer's process, from the server's side: started, asked, ended when it is silent.

It is a program of its own (never a fork of the server, whose threads and locks it must not
inherit), so a crash, a leak or a hang of it is nothing to scoring. One question at a time; used by
one thread.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import msgspec

from sentinel.core import limits
from sentinel.core.priority import lower_priority
from sentinel.serving import bounds
from sentinel.serving.explanations.explainer_wire import (
    READ_BYTES,
    Ask,
    Lost,
    Told,
    read_frame_until,
    write_frame_until,
)

MODULE = "sentinel.serving.explanations.explainer_child"


class ExplainerProcess:
    """One explainer, started when it is first asked.

    Parameters
    ----------
    folder : Path or None
        Where it keeps explanations.
    command : sequence of str
        What is started instead of this Python; for tests.
    answer_s_max, start_s_max : float
        How long it may take for an answer, and for its first one.
    niceness : int
        How far below the server's its priority is: 0 to 19.

    Attributes
    ----------
    niceness : int
    n_starts : int
    """

    def __init__(
        self,
        folder: Path | None,
        *,
        command: Sequence[str] = (sys.executable, "-m", MODULE),
        answer_s_max: float = bounds.EXPLAINER_ANSWER_S_MAX,
        start_s_max: float = bounds.EXPLAINER_START_S_MAX,
        niceness: int = limits.EXPLAINER_NICE,
    ) -> None:
        self._command = [*command, *([] if folder is None else [str(folder)])]
        self._answer_s_max = answer_s_max
        self._start_s_max = start_s_max
        self.niceness = niceness
        self._process: subprocess.Popen[bytes] | None = None
        self._known: set[str] = set()
        self._decoder = msgspec.msgpack.Decoder(Told)
        self.n_starts = 0

    @property
    def pid(self) -> int | None:
        """Id of the process that runs; None when none does."""
        return None if self._process is None else self._process.pid

    def ask(self, ask: Ask) -> Told | Lost:
        """Ask, and wait for the answer; a process that gives none is ended."""
        # A release that it has not seen yet is verified and opened first.
        wait_s = self._answer_s_max if ask.digest in self._known else self._start_s_max
        try:
            told = self._exchange(ask, time.monotonic() + wait_s)
        except (OSError, msgspec.MsgspecError) as error:
            told = Lost(type(error).__name__)
        if isinstance(told, Lost):
            self.kill()
        else:
            self._known.add(ask.digest)
        return told

    def kill(self) -> None:
        """End the process at once."""
        process, self._process = self._process, None
        self._known.clear()
        if process is None:
            return
        process.kill()
        process.wait()
        _close(process)

    def close(self) -> None:
        """Let it finish what it keeps, and end it."""
        process = self._process
        if process is None:
            return
        if process.stdin is not None:
            with contextlib.suppress(OSError):
                process.stdin.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(bounds.EXPLAINER_END_S_MAX)
        self.kill()

    def _exchange(self, ask: Ask, deadline_s: float) -> Told | Lost:
        to, back = self._pipes()
        lost = write_frame_until(to, ask, deadline_s)
        if lost is not None:
            return lost
        found = read_frame_until(back, deadline_s)
        if isinstance(found, Lost):
            return found
        told, n_rows = self._decoder.decode(found), len(ask.event_ids)
        if not told.error and not len(told.answers) == len(told.absences) == n_rows:
            return Lost(f"{len(told.answers)} answers to {n_rows} rows")
        return told

    def _pipes(self) -> tuple[int, int]:
        """Return where to write and where to read, of a process that runs."""
        if self._process is None:
            self.n_starts += 1
            self._process = subprocess.Popen(  # noqa: S603 -- this Python, or a test's own program
                self._command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                bufsize=0,
                # Not a session of its own: niceness counts only inside one.
                process_group=0,
            )
            lower_priority(self._process.pid, self.niceness)
        ends = (self._process.stdin, self._process.stdout)
        to, back = (-1 if end is None else end.fileno() for end in ends)
        os.set_blocking(to, False)
        os.set_blocking(back, False)
        with contextlib.suppress(OSError):  # a whole answer in one piece, where the system has room
            fcntl.fcntl(back, fcntl.F_SETPIPE_SZ, READ_BYTES)
        return to, back


def _close(process: subprocess.Popen[bytes]) -> None:
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            with contextlib.suppress(OSError):
                pipe.close()
