"""Why a process ended, how long its successor waits, and the marker that says so.

The pause before the n-th start in a row is ``2^(n-1)`` s and up to a quarter more, at most
``PART_RESTART_S_MAX``: processes that fall together do not rise together, and none more often than
once in ``2^(n-1)`` s. One that has worked for ``PART_STEADY_S`` begins again at the first.
"""

from __future__ import annotations

import enum
import json
import re
import signal
from dataclasses import dataclass
from pathlib import Path

from sentinel.core.files import write_atomically
from sentinel.serving import bounds

_JITTER = 0.25
_DOUBLINGS_MAX = 32
_OOM_KILLS = re.compile(r"^oom_kill (\d+)$", re.MULTILINE)


class Reason(enum.StrEnum):
    """Why a process ended."""

    EXIT = "exit"
    REFUSED = "refused"
    SIGNAL = "signal"
    MEMORY = "memory"
    FROZEN = "frozen"
    SLOW_START = "slow-start"


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """The end of a process.

    Attributes
    ----------
    part : str
        ``scoring`` or ``front-1`` …
    pid : int
    reason : Reason
    status : int
        As :attr:`subprocess.Popen.returncode`: below 0, minus the signal.
    lived_s : float
    cause : str
        What it said itself; empty: nothing.
    """

    part: str
    pid: int
    reason: Reason
    status: int
    lived_s: float
    cause: str = ""

    @property
    def sentence(self) -> str:
        """Say it in words.

        Examples
        --------
        >>> Ended(part="front-1", pid=7, reason=Reason.SIGNAL, status=-9, lived_s=3.0).sentence
        'ended by SIGKILL after 3.0 s'
        """
        how = {
            Reason.EXIT: f"ended with status {self.status}",
            Reason.REFUSED: "could not go on",
            Reason.SIGNAL: f"ended by {_signal_name(-self.status)}",
            Reason.MEMORY: "killed by the kernel for its memory",
            Reason.FROZEN: "killed: it had not beaten any more",
            Reason.SLOW_START: "killed: it had not started in time",
        }[self.reason]
        words = f"{how} after {self.lived_s:.1f} s"
        return f"{words}: {self.cause}" if self.cause else words


def restart_pause_s(n_in_row: int, draw: float) -> float:
    """Say how long the n-th start in a row waits, in seconds.

    Parameters
    ----------
    n_in_row : int
        1: the first.
    draw : float
        In [0, 1), so that not all wait equally long.

    Examples
    --------
    >>> [restart_pause_s(n, 0.0) for n in (1, 2, 3, 7, 100)]
    [1.0, 2.0, 4.0, 48.0, 48.0]
    >>> restart_pause_s(100, 1.0)
    60.0
    """
    doubled = bounds.PART_RESTART_S * 2.0 ** min(n_in_row - 1, _DOUBLINGS_MAX)
    least_s = min(doubled, bounds.PART_RESTART_S_MAX / (1 + _JITTER))
    return least_s * (1 + _JITTER * draw)


def reason_of(status: int, *, was_killed: Reason | None, has_refused: bool, n_oom: int) -> Reason:
    """Find why a process ended.

    Parameters
    ----------
    status : int
        Below 0, minus the signal.
    was_killed : Reason or None
        Why the supervisor killed it.
    has_refused : bool
        It said itself why.
    n_oom : int
        Kills for memory that the kernel counted while it lived.
    """
    if was_killed is not None:
        return was_killed
    if status == -signal.SIGKILL and n_oom:
        return Reason.MEMORY
    if status < 0:
        return Reason.SIGNAL
    return Reason.REFUSED if has_refused else Reason.EXIT


def memory_kills() -> int:
    """Count the kernel's kills for memory: of this control group, or of the machine."""
    for path in (_own_group() / "memory.events", Path("/proc/vmstat")):
        try:
            found = _OOM_KILLS.search(path.read_text())
        except OSError:
            continue
        if found is not None:
            return int(found[1])
    return 0


def write_marker(folder: Path, ended: Ended, *, at_ms: int, pause_s: float, n_in_row: int) -> None:
    """Say on the disk why the last process of a part ended; a disk that is full says nothing.

    Raises
    ------
    SentinelError
        ``file-unwritable``.
    """
    document = {
        "part": ended.part,
        "pid": ended.pid,
        "reason": str(ended.reason),
        "status": ended.status,
        "sentence": ended.sentence,
        "lived_s": round(ended.lived_s, 3),
        "ended_at_ms": at_ms,
        "restarts_in_row": n_in_row,
        "next_start_after_s": round(pause_s, 3),
    }
    content = json.dumps(document, indent=2).encode() + b"\n"
    write_atomically(folder / f"last-end-{ended.part}.json", content)


def _own_group() -> Path:
    try:
        own = Path("/proc/self/cgroup").read_text()
    except OSError:
        return Path("/sys/fs/cgroup")
    name = next((line[3:] for line in own.splitlines() if line.startswith("0::")), "/")
    folder = Path("/sys/fs/cgroup") / name.lstrip("/")
    return folder if folder.is_dir() else Path("/sys/fs/cgroup")


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
