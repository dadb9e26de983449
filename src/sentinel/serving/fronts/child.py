"""One process of a server: ``python -m sentinel.serving.fronts.child DESCRIPTOR``.

What it is to do comes over the descriptor, its line to the supervisor; nothing of it stands on the
command line. It ends with its parent.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import logging
import os
import signal
import socket
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack

import uvloop

import sentinel
from sentinel.core.errors import SentinelError
from sentinel.monitoring import start_logging
from sentinel.monitoring.logs import LineHandler
from sentinel.release import Trust, load_release
from sentinel.serving import bounds
from sentinel.serving.fronts.control import FRONT, STATUS_STATE_BEHIND, Job, Refused, line, take_job
from sentinel.serving.fronts.front import Front
from sentinel.serving.fronts.scoring_server import ScoringServer
from sentinel.serving.fronts.wire import to_wire
from sentinel.serving.opening import Opened, open_parts
from sentinel.serving.releases.release_source import ReleaseSource

_LOG = logging.getLogger("sentinel.serving.fronts")
_PR_SET_PDEATHSIG = 1
_REFUSED = 3


def run(descriptor: int, *, prepare: Callable[[Job, Opened], None] | None = None) -> int:
    """Do the job that comes over a descriptor; return the exit status.

    Parameters
    ----------
    descriptor : int
        One end of a socket pair.
    prepare : callable, optional
        Told what was opened before anything is scored: for tests that break it.
    """
    control = socket.socket(fileno=descriptor)
    job, rest = take_job(control)
    die_with_parent(job)
    lines = start_logging(
        service="sentinel",
        version=sentinel.__version__,
        level=job.configuration.log_level,
        descriptor=sys.stderr.fileno(),
    )
    try:
        if job.part == FRONT:
            _run_front(job, control, rest)
        else:
            n_left = _run_scoring(
                job, control, rest, lambda opened: _prepare(job, opened, lines, prepare)
            )
            return STATUS_STATE_BEHIND if n_left else 0
    except SentinelError as error:
        _LOG.error("this process cannot start", extra={"cause": str(error)})
        with contextlib.suppress(OSError):  # the line may have been handed to the loop, and closed
            control.setblocking(True)
            control.sendall(line(Refused(to_wire(error))))
        return _REFUSED
    finally:
        lines.close()
    return 0


def die_with_parent(job: Job) -> None:
    """Ask the kernel for a signal when the parent ends; the end of the line says so, too.

    The scoring process gets the one that lets it close state and log.
    """
    number = signal.SIGKILL if job.part == FRONT else signal.SIGTERM
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, int(number), 0, 0, 0)
    if os.getppid() != job.parent:
        raise SystemExit(_REFUSED)


def _run_front(job: Job, control: socket.socket, rest: bytes) -> None:
    front = Front(job, control, rest)
    _settle()
    uvloop.run(front.run())


def _run_scoring(
    job: Job,
    control: socket.socket,
    rest: bytes,
    prepare: Callable[[Opened], None],
) -> int:
    served = job.served
    trust = None if served.trust is None else Trust.load(served.trust)
    loaded = load_release(
        served.release,
        trust,
        now_ms=time.time_ns() // 1_000_000,
        allow_unapproved=served.allow_unapproved,
    )
    source = None
    if served.releases is not None:
        source = ReleaseSource(
            folder=served.releases, trust=served.trust, allow_unapproved=served.allow_unapproved
        )
    with ExitStack() as stack:
        opened = open_parts(loaded, job.settings, job.configuration, stack)
        prepare(opened)
        server = ScoringServer(opened, job, control, rest, source=source)
        _settle()
        return uvloop.run(server.run())


def _prepare(
    job: Job,
    opened: Opened,
    lines: LineHandler,
    further: Callable[[Job, Opened], None] | None,
) -> None:
    opened.metrics.watch_lines(lines)
    if further is not None:
        further(job, opened)


def _settle() -> None:
    """Take what lives as long as the process out of the collector's sight."""
    gc.collect()
    gc.freeze()
    sys.setswitchinterval(bounds.INTERPRETER_SWITCH_S)


if __name__ == "__main__":
    sys.exit(run(int(sys.argv[1])))
