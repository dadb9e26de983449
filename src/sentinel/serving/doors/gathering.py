"""Calls that wait a little for each other, so that they are scored together.

What gRPC does for a call takes several times as long as to score a row, and it hands calls over one
by one: each would be a batch of its own. While the machine is busy, a call that waits costs nobody
anything, and those of the others come to be ready meanwhile. So one waits where that has been worth
it: it is tried now and then while the process is busy, and left again when nobody came. A server
with time to spare never waits.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from sentinel.serving import bounds


class ProcessorShare:
    """Share of one core that this process used lately.

    Parameters
    ----------
    interval_s : float
        Measured anew at most so often.
    """

    def __init__(self, interval_s: float) -> None:
        self._interval_s = interval_s
        self._at_s = time.monotonic()
        self._used_s = time.process_time()
        self._share = 0.0

    def __call__(self) -> float:
        """Return the share; above 1 where several threads run at once."""
        now_s = time.monotonic()
        if now_s - self._at_s >= self._interval_s:
            used_s = time.process_time()
            self._share = (used_s - self._used_s) / (now_s - self._at_s)
            self._at_s, self._used_s = now_s, used_s
        return self._share


class Gathering:
    """Where calls wait for each other; used in one loop.

    Parameters
    ----------
    share : callable
        Share of a core that the process uses.

    Attributes
    ----------
    n_expected : int
        Calls that are waited for; 1: nobody waits.
    """

    def __init__(self, share: Callable[[], float]) -> None:
        self._share = share
        self.n_expected = 1
        self._waiting: list[asyncio.Future[None]] = []
        self._timer: asyncio.TimerHandle | None = None
        self._try_every = self._n_until_try = bounds.GATHER_TRY_EVERY
        self._n_full = 0

    async def join(self, left_s: float) -> None:
        """Wait for others, or for nobody.

        Parameters
        ----------
        left_s : float
            How long the caller waits; one who is in a hurry is not kept.
        """
        if left_s < bounds.GATHER_LEFT_S_MIN or not (self._waiting or self._is_worth()):
            return
        loop = asyncio.get_running_loop()
        if self._timer is None:
            self._timer = loop.call_later(bounds.GATHER_S, self._end)
        future: asyncio.Future[None] = loop.create_future()
        self._waiting.append(future)
        if len(self._waiting) >= self.n_expected > 1:
            self._timer.cancel()
            self._n_full += 1
            if self._n_full >= bounds.GATHER_FULL_MIN:
                self._n_full = 0
                self.n_expected = min(bounds.GATHER_CALLS_MAX, self.n_expected * 5 // 4 + 1)
            self._release()
        await future

    # --- private -----------------------------------------------------------------------------

    def _is_worth(self) -> bool:
        """Whether the first of a round should wait: it has been worth it, or it is tried anew."""
        if self._share() < bounds.GATHER_BUSY_SHARE:
            self.n_expected = 1
            return False
        if self.n_expected > 1:
            return True
        self._n_until_try -= 1
        return self._n_until_try <= 0

    def _end(self) -> None:
        """Wait no longer: those who came are as many as are expected from now on."""
        n_came = sum(not future.done() for future in self._waiting)
        self._n_full = 0
        self.n_expected = max(1, n_came)
        is_worth = n_came > 1
        # Odd numbers: a round of 2, 4 or 8 callers must not be met at its end each time.
        every = bounds.GATHER_TRY_EVERY if is_worth else 2 * self._try_every + 1
        self._try_every = self._n_until_try = min(every, bounds.GATHER_TRY_EVERY_MAX)
        self._release()

    def _release(self) -> None:
        self._timer = None
        waiting, self._waiting = self._waiting, []
        for future in waiting:
            if not future.done():  # a call that was cancelled meanwhile
                future.set_result(None)
