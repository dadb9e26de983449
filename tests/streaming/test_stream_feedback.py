"""How long events wait for feedback: while it comes, and for as long as somebody really asked."""

from __future__ import annotations

import pytest

from sentinel.contract import RawBatch
from sentinel.core import limits
from sentinel.streaming.stream.event_log import Read
from sentinel.streaming.stream.feedback import StreamFeedback
from sentinel.testing import ManualClock
from sentinel.testing.memory_log import MemoryLog, MemoryTopic

N_VERDICTS = 40
NOW_MS = 1_000


class SlowLog(MemoryLog):
    """A log whose reads take time on a clock that a test holds; some of them find nothing.

    ``stalls_s`` is what each of the first reads takes, without finding anything; the later ones
    take as long as they were told to wait, or ``each_s``, and find one event each.
    """

    def __init__(
        self, topic: MemoryTopic, clock: ManualClock, *, stalls_s: list[float], each_s: float = 0.0
    ) -> None:
        super().__init__(topic)
        self.clock, self.stalls_s, self.each_s = clock, stalls_s, each_s

    def read(self, n_events_max: int, wait_s: float) -> Read:
        """Let time pass, then give one event, or none."""
        if self.stalls_s:
            self.clock.advance(self.stalls_s.pop(0))
            return Read()
        self.clock.advance(self.each_s or wait_s)
        return super().read(1, wait_s)


class SilentLog(SlowLog):
    """A log that never answers."""

    def read(self, n_events_max: int, wait_s: float) -> Read:
        """Wait, for nothing."""
        self.clock.advance(wait_s)
        return Read()


def feedback_of(log: MemoryLog) -> tuple[StreamFeedback, list[int]]:
    """Read a log of verdicts, each known at its position in milliseconds."""
    learned: list[int] = []

    def learn(raw: RawBatch) -> int:
        assert raw.positions is not None
        learned.extend(raw.positions.tolist())
        return int(raw.positions[-1])

    reader = StreamFeedback(log, learn=learn, on_missing=pytest.fail)
    reader.add({0: 0})
    return reader, learned


def verdicts(n: int = N_VERDICTS) -> MemoryTopic:
    topic = MemoryTopic("verdicts", 1)
    topic.append(0, [b"v"] * n, times_ms=[0] * n)
    return topic


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(1_800_000_000_000, monotonic_s=1000.0)


@pytest.mark.parametrize("stalls_s", [[60.0], [11.0, 0.02, 11.0], [3_600.0, 86_400.0]])
def test_a_worker_that_was_frozen_has_not_waited(clock: ManualClock, stalls_s: list[float]) -> None:
    """The time is over when it is thawed, and all feedback is learned all the same."""
    reader, learned = feedback_of(SlowLog(verdicts(), clock, stalls_s=stalls_s))
    assert reader.read_until(NOW_MS, clock=clock)
    assert learned == list(range(N_VERDICTS))


def test_feedback_that_comes_slowly_is_waited_for(clock: ManualClock) -> None:
    """Longer than a silent topic is, as after an outage."""
    reader, learned = feedback_of(SlowLog(verdicts(), clock, stalls_s=[], each_s=0.9))
    assert reader.read_until(NOW_MS, clock=clock)
    assert learned == list(range(N_VERDICTS))
    assert clock.monotonic_s() - 1000.0 > limits.STREAM_FEEDBACK_WAIT_S


def test_feedback_that_cannot_be_caught_up_with_holds_nothing_up_for_ever(
    clock: ManualClock,
) -> None:
    reader, learned = feedback_of(SlowLog(verdicts(400), clock, stalls_s=[], each_s=1.0))
    assert not reader.read_until(NOW_MS, clock=clock)
    waited_s = clock.monotonic_s() - 1000.0
    assert limits.STREAM_FEEDBACK_CATCH_UP_S < waited_s <= limits.STREAM_FEEDBACK_CATCH_UP_S + 1
    assert len(learned) == waited_s


def test_a_topic_that_keeps_silent_is_given_up_after_its_time(clock: ManualClock) -> None:
    reader, learned = feedback_of(SilentLog(verdicts(), clock, stalls_s=[]))
    assert not reader.read_until(NOW_MS, clock=clock)
    waited_s = clock.monotonic_s() - 1000.0
    assert limits.STREAM_FEEDBACK_WAIT_S < waited_s < limits.STREAM_FEEDBACK_WAIT_S + 1
    assert learned == []


def test_feedback_of_later_is_not_waited_for(clock: ManualClock) -> None:
    """What is known after the event may come when it likes."""
    reader, learned = feedback_of(SlowLog(verdicts(), clock, stalls_s=[], each_s=1.0))
    assert reader.read_until(9, clock=clock)
    assert learned == list(range(11))
