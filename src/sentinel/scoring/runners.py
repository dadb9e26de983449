"""Where probes and canary checks run: beside scoring, or, in a replay, inside it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Protocol


class Runner(Protocol):
    """Something that runs one task at a time."""

    def start(self, task: Callable[[], object]) -> bool:
        """Run it, now or soon; False when another is still running and this one was not taken."""


class InlineRunner:
    """Run a task at once: a replay waits for it, and is the same every time."""

    def start(self, task: Callable[[], object]) -> bool:
        """Run it to its end."""
        task()
        return True


class ThreadRunner:
    """Run a task in a thread of its own, one at a time, so that scoring never waits.

    A task that never ends keeps the place for itself: no second thread is ever started, and the
    breaker's own deadline says what that means.
    """

    def __init__(self) -> None:
        self._thread: threading.Thread | None = None

    def start(self, task: Callable[[], object]) -> bool:
        """Start it, unless one is running."""
        if self._thread is not None and self._thread.is_alive():
            return False
        self._thread = threading.Thread(target=task, name="champion-probe", daemon=True)
        self._thread.start()
        return True

    def wait(self, *, wait_s_max: float) -> None:
        """Wait for the task that is running, if any, but no longer than this."""
        if self._thread is not None:
            self._thread.join(wait_s_max)
