"""The clock of the test kit moves only by hand."""

from __future__ import annotations

import pytest

from sentinel.core.clock import Clock
from sentinel.testing import ManualClock


def test_both_times_advance_together() -> None:
    clock: Clock = ManualClock(now_ms=1_000, monotonic_s=5.0)
    assert isinstance(clock, ManualClock)
    clock.advance(2.5)
    assert (clock.now_ms(), clock.monotonic_s()) == (3_500, 7.5)


@pytest.mark.parametrize("seconds", [-3600.0, 3600.0])
def test_a_jump_moves_wall_time_alone(seconds: float) -> None:
    clock = ManualClock(now_ms=10_000_000)
    clock.jump(seconds)
    assert (clock.now_ms(), clock.monotonic_s()) == (10_000_000 + int(seconds) * 1000, 0.0)


def test_wall_time_can_be_set() -> None:
    clock = ManualClock()
    clock.set_now_ms(42)
    assert (clock.now_ms(), clock.monotonic_s()) == (42, 0.0)


def test_time_does_not_pass_backwards() -> None:
    with pytest.raises(ValueError, match="seconds: expected 0 or more"):
        ManualClock().advance(-0.001)
