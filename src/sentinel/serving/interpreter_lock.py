"""How long a thread waits for the interpreter lock: measured, not guessed.

A thread of its own sleeps in native code, which holds no lock, reads the clock in native code when
it wakes, and then asks for the lock like everybody who comes back from a disk, a socket or the
model. The time from the first reading of the clock to the first line of Python is the wait. What
the machine did with the thread before that (no core was free) has no part in it.

Each look asks for the lock once, so it runs only while somebody wants to know.
"""

from __future__ import annotations

import threading
import time
from typing import Any

import numpy as np
import numpy.typing as npt
from numba.core import types

from sentinel.core.native import native
from sentinel.core.words import address_of

_PERIOD_US = 5_000
_CLOCK_MONOTONIC = 1

# Of the C library, by name: what is compiled can be cached.
_usleep: Any = types.ExternalFunction("usleep", types.int32(types.uint32))
_clock_gettime: Any = types.ExternalFunction("clock_gettime", types.int32(types.int32, types.int64))


@native
def sleep_then_read(microseconds: int, reading: npt.NDArray[np.int64]) -> None:
    """Sleep without the lock, then read the monotonic clock, still without it.

    Parameters
    ----------
    microseconds : int
    reading : ndarray of int64, shape (2,)
        Filled with seconds and nanoseconds.
    """
    _usleep(np.uint32(microseconds))
    _clock_gettime(np.int32(_CLOCK_MONOTONIC), address_of(reading))


class LockProbe:
    """Measure waits for the interpreter lock, again and again, until told to stop.

    Attributes
    ----------
    waits_ns : list of int
        One a look, about 200 a second.
    """

    def __init__(self) -> None:
        self.waits_ns: list[int] = []
        self._is_wanted = True
        self._thread = threading.Thread(target=self._run, name="lock-probe", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self) -> None:
        """End, within two periods."""
        self._is_wanted = False
        self._thread.join()

    def _run(self) -> None:
        reading = np.zeros(2, dtype=np.int64)
        sleep_then_read(1, reading)  # loads what is compiled; no look
        while self._is_wanted:
            sleep_then_read(_PERIOD_US, reading)
            now_ns = time.monotonic_ns()
            self.waits_ns.append(now_ns - int(reading[0]) * 1_000_000_000 - int(reading[1]))
