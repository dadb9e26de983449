"""People who watch a stream see the pace of the last seconds."""

from __future__ import annotations

from sentinel.cli.pace import Pace


def test_the_pace_is_that_of_the_last_seconds() -> None:
    """After a slow hour, a fast half minute is fast."""
    pace = Pace()
    pace.note(0.0, 0, None)
    for tick in range(100):
        shown = pace.note(3600.0 + tick, tick * 1000, None)
    assert shown == "99,000 events, 1,000 events/s"


def test_a_look_is_due_five_times_a_second() -> None:
    pace = Pace()
    assert pace.is_due(1.0)
    pace.note(1.0, 0, 5)
    assert not pace.is_due(1.1)
    assert pace.is_due(1.25)


def test_what_nobody_knows_is_not_said() -> None:
    pace = Pace()
    assert pace.note(1.0, 7, None) == "7 events"
    assert pace.note(1.0, 7, 0) == "7 events, 0 wait"
