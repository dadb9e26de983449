"""Two clocks with two meanings, and one that is set by hand."""

from __future__ import annotations

import time

from sentinel.core.clock import Clock, SystemClock
from sentinel.testing import ManualClock


def test_the_clock_of_the_machine_is_the_machines() -> None:
    """Milliseconds of the epoch, and seconds that never go back."""
    clock: Clock = SystemClock()
    before = time.time() * 1000
    now = clock.now_ms()
    assert before - 1 <= now <= time.time() * 1000 + 1
    readings = [clock.monotonic_s() for _ in range(100)]
    assert readings == sorted(readings)


def test_a_clock_set_by_hand_moves_only_by_hand() -> None:
    """Wall time may jump; the other one only goes on."""
    clock: ManualClock = ManualClock()
    wall, steady = clock.now_ms(), clock.monotonic_s()
    clock.advance(1.5)
    assert clock.now_ms() - wall == 1500
    assert clock.monotonic_s() - steady == 1.5
    clock.jump(-3600)
    assert clock.now_ms() - wall == 1500 - 3_600_000
    assert clock.monotonic_s() - steady == 1.5
