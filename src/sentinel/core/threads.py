"""Whether this process may start the threads it needs, asked before anything native is loaded.

Native libraries start threads while they are loaded and cannot do without: where the system gives
none, some end the process by a signal, without a word. Bounds on threads stand in several places
(control groups, one inside the other; the user's limit; the kernel's), so no number is read: as
many threads as are needed are started, and ended again.
"""

from __future__ import annotations

import _thread
import os
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from queue import SimpleQueue

from sentinel.core import limits
from sentinel.core.errors import ErrorCode, SentinelError

_TASKS = Path("/proc/self/task")
# What bounds the threads of the library for linear algebra, the stronger first.
_BLAS_SETTINGS = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS")


def require_threads(n_threads: int, *, at: str) -> None:
    """Refuse to go on where fewer threads may be started beside the first.

    Parameters
    ----------
    n_threads : int
        That are needed at the same time; 50 us each.
    at : str
        Who needs them.

    Raises
    ------
    SentinelError
        ``threads-missing``.

    Examples
    --------
    >>> require_threads(4, at="an example")
    """
    n_startable = _startable(n_threads)
    if n_startable < n_threads:
        raise SentinelError(
            ErrorCode.THREADS_MISSING,
            at=at,
            expected=f"room for {n_threads} threads beside its first",
            got=f"room for {n_startable}",
            hint="Raise pids.max of the control group (--pids-limit of a container, TasksMax of a "
            "service), or the user's limit (ulimit -u).",
        )


def threads_to_serve(*, n_fronts: int) -> int:
    """Return how many threads a server needs, its other processes and their threads included.

    Parameters
    ----------
    n_fronts : int
        Processes that hold the doors; 0: one process does everything.
    """
    doors = limits.THREADS_LIBUV + limits.THREADS_GRPC + _grpc_pool() + threads_of_blas()
    return limits.THREADS_SERVE + doors + n_fronts * (limits.THREADS_FRONT + doors)


def threads_of_blas(
    environment: Mapping[str, str] | None = None,
    *,
    is_loaded: bool | None = None,
    n_cores: int | None = None,
) -> int:
    """Return how many threads NumPy's library starts when it is loaded: one a further core.

    Parameters
    ----------
    environment : mapping of str to str, optional
        By default that of the process; ``OPENBLAS_NUM_THREADS`` and ``OMP_NUM_THREADS`` count.
    is_loaded : bool, optional
        Whether it is, so that it has its threads already; by default it is looked up.
    n_cores : int, optional
        That the process may use; by default they are looked up.

    Examples
    --------
    >>> threads_of_blas({}, is_loaded=False, n_cores=4)
    3
    """
    if "numpy" in sys.modules if is_loaded is None else is_loaded:
        return 0
    found = os.environ if environment is None else environment
    told = next((found[name] for name in _BLAS_SETTINGS if found.get(name)), "")
    n = len(os.sched_getaffinity(0)) if n_cores is None else n_cores
    if told.isascii() and told.isdigit() and int(told):
        n = min(n, int(told))
    return min(n, limits.BLAS_THREADS_MAX) - 1


def _grpc_pool() -> int:
    """Return the threads of gRPC's own pool: one a core, within its bounds."""
    n_cores = os.cpu_count() or 1
    return max(limits.GRPC_POOL_MIN, min(limits.GRPC_POOL_MAX, n_cores))


def _startable(n_threads: int) -> int:
    """Start so many threads at once, or as many as there is room for; end them, and count.

    What they run is native and asks for no memory: a thread that finds none on its first line of
    Python never says that it has started, and whoever started it would wait for ever.
    """
    ends: SimpleQueue[None] = SimpleQueue()
    n_started, n_before = 0, _n_tasks()
    stack_bytes = threading.stack_size(limits.THREAD_TRIED_BYTES)
    try:
        for _ in range(n_threads):
            _thread.start_new_thread(ends.get, ())
            n_started += 1
    except (RuntimeError, MemoryError):  # "can't start new thread"
        pass
    finally:
        threading.stack_size(stack_bytes)
        for _ in range(n_started):
            ends.put(None)
    # One that is at its end counts until the kernel has seen it.
    end_s = time.monotonic() + limits.HEARTBEAT_S
    while _n_tasks() > n_before and time.monotonic() < end_s:
        time.sleep(0.001)
    return n_started


def _n_tasks() -> int:
    return sum(1 for _ in _TASKS.iterdir()) if _TASKS.is_dir() else 0
