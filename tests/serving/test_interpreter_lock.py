"""What the probe says is the time that a thread waits for the interpreter lock."""

from __future__ import annotations

import threading
import time

import numpy as np

from sentinel.serving.interpreter_lock import LockProbe, sleep_then_read


def test_the_reading_is_of_the_monotonic_clock_after_the_sleep() -> None:
    """Native seconds and nanoseconds lie between two readings of Python."""
    reading = np.zeros(2, dtype=np.int64)
    sleep_then_read(1, reading)
    before_ns = time.monotonic_ns()
    sleep_then_read(2_000, reading)
    found_ns = int(reading[0]) * 1_000_000_000 + int(reading[1])
    assert before_ns + 2_000_000 <= found_ns <= time.monotonic_ns()


def test_a_thread_that_keeps_the_lock_is_seen_and_an_idle_process_is_not() -> None:
    """A call that holds the lock for long makes every other thread wait so long."""
    numbers = list(range(400_000))

    def looks(*, is_busy: bool) -> list[int]:
        probe = LockProbe()
        probe.start()
        end_s = time.monotonic() + 0.5
        while time.monotonic() < end_s:
            if is_busy:
                sorted(numbers, key=numbers.__getitem__)  # one call, the lock in hand
            else:
                time.sleep(0.01)
        probe.stop()
        return probe.waits_ns

    idle, busy = looks(is_busy=False), looks(is_busy=True)
    assert idle
    assert busy
    assert min(idle + busy) >= 0
    # Looks before the first call found the lock free; those that met one waited for its end.
    assert max(busy) > 10 * np.median(idle)
    assert max(busy) > 1_000_000


def test_a_probe_that_is_stopped_leaves_no_thread() -> None:
    """It ends within its period."""
    probe = LockProbe()
    probe.start()
    probe.stop()
    assert "lock-probe" not in {thread.name for thread in threading.enumerate()}
