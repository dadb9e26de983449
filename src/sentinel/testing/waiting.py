"""Waiting for what another thread or process does."""

from __future__ import annotations

import time
from collections.abc import Callable


def wait_until(
    holds: Callable[[], bool],
    *,
    wait_s: float = 90.0,
    every_s: float = 0.02,
    detail: Callable[[], object] = str,
) -> None:
    """Wait until something holds.

    Parameters
    ----------
    holds : callable
        Asked again and again; what it raises ends the waiting.
    wait_s : float
        Seconds after which it is not waited for any more.
    every_s : float
        Seconds between two questions.
    detail : callable, optional
        Says what to tell where it did not happen.

    Raises
    ------
    AssertionError
        When it did not happen in time.

    Examples
    --------
    >>> answers = iter([False, False, True])
    >>> wait_until(lambda: next(answers), every_s=0.0)
    """
    end_s = time.monotonic() + wait_s
    while not holds():
        if time.monotonic() > end_s:
            raise AssertionError(f"it did not happen {detail()}".rstrip())
        time.sleep(every_s)
