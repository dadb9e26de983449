"""Rests of a thread that shares its core with decisions.

A thread of low priority would not do: it holds the interpreter lock for a moment at a time, and
whoever decides would wait for a thread that waits for the core. So work that may take its time is
cut into pieces, and after each the thread rests in proportion to what the piece took.
"""

from __future__ import annotations

import time

from sentinel.core import limits


class Rests:
    """Rests of one thread, which alone uses this.

    Examples
    --------
    >>> rests = Rests()
    >>> total = sum(range(1_000))
    >>> rests.rest()
    """

    def __init__(self) -> None:
        self._rested_at_s = 0.0

    def rest(self, *, is_urgent: bool = False) -> None:
        """Leave the core to who decides, after a piece of work.

        Parameters
        ----------
        is_urgent : bool
            Somebody waits for this thread: it goes on at once.
        """
        if not is_urgent:
            worked_s = time.thread_time() - self._rested_at_s
            time.sleep(min(limits.REST_OF_WORK * worked_s, limits.REST_S_MAX))
        self._rested_at_s = time.thread_time()
