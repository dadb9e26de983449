"""A thread of no hurry rests in proportion to its work, and not at all where somebody waits."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from sentinel.core import limits
from sentinel.core.rests import Rests


class Clock(SimpleNamespace):
    """Processor time that a test sets, and the rests that were taken."""

    def __init__(self) -> None:
        super().__init__(worked_s=0.0, rests=[])

    def thread_time(self) -> float:
        worked_s: float = self.worked_s
        return worked_s

    def sleep(self, seconds: float) -> None:
        self.rests.append(seconds)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    found = Clock()
    monkeypatch.setattr("sentinel.core.rests.time", found)
    return found


def test_a_rest_is_some_times_the_work_before_it(clock: Clock) -> None:
    rests = Rests()
    for worked_s in (0.001, 0.004):
        clock.worked_s += worked_s
        rests.rest()
    assert clock.rests == pytest.approx([0.001 * limits.REST_OF_WORK, 0.004 * limits.REST_OF_WORK])


def test_a_rest_has_a_bound(clock: Clock) -> None:
    clock.worked_s = 60.0
    Rests().rest()
    assert clock.rests == [limits.REST_S_MAX]


def test_work_that_somebody_waits_for_is_not_rested_from_later(clock: Clock) -> None:
    rests = Rests()
    clock.worked_s = 0.01
    rests.rest(is_urgent=True)
    rests.rest()
    assert clock.rests == [0.0]
