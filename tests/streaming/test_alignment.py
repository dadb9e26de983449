"""Who waits for whom, without a log or a clock; and why partitions are paused."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sentinel.release import LoadedRelease
from sentinel.streaming.stream.alignment import (
    BEGINNING_MS,
    Alignment,
    bound_of,
    medians_around,
    time_of_last,
)
from sentinel.streaming.stream.pauses import Pauses, Why

BOUND_MS, SILENCE_S = 100, 3.0


def alignment_of(times_ms: dict[int, int | None]) -> Alignment:
    """Say how far partitions are; None: they have not given anything."""
    made = Alignment(BOUND_MS, SILENCE_S)
    made.turn(0.0, is_reading=True)
    for partition, time_ms in times_ms.items():
        made.begin(partition)
        if time_ms is not None:
            made.carried(partition, time_ms)
    return made


@pytest.mark.parametrize(
    ("times_ms", "expected"),
    [
        ({0: 500}, None),
        ({0: 500, 1: 450}, 550),
        ({0: 500, 1: 9_000}, 9_100),
        ({0: 500, 1: 900, 2: 470, 3: 600}, 570),
        ({0: 500, 1: None}, BEGINNING_MS + BOUND_MS),
        ({0: None, 1: None}, BEGINNING_MS + BOUND_MS),
    ],
)
def test_a_partition_may_be_carried_as_far_as_the_slowest_other_and_the_bound(
    times_ms: dict[int, int | None], expected: int | None
) -> None:
    assert alignment_of(times_ms).limit_ms(0) == expected


def test_one_at_its_end_holds_nobody_until_it_gives_something() -> None:
    alignment = alignment_of({0: 500, 1: 100, 2: 300})
    alignment.reached_end(1)
    assert alignment.limit_ms(0) == 300 + BOUND_MS
    alignment.reached_end(2)
    assert alignment.limit_ms(0) is None
    alignment.gave(1)
    assert alignment.limit_ms(0) == 100 + BOUND_MS


@pytest.mark.parametrize("time_ms", [100, None])
def test_one_that_keeps_silent_holds_nobody_for_longer_than_the_bound(time_ms: int | None) -> None:
    """Also one that was just assigned; and again as soon as it gives something."""
    alignment = alignment_of({0: 500, 1: time_ms})
    alignment.hold(0, 500)
    for tenth in range(1, 31):
        alignment.turn(tenth / 10, is_reading=True)
        assert not alignment.is_due(0)
    alignment.turn(3.1, is_reading=True)
    assert alignment.is_due(0)
    assert alignment.limit_ms(0) is None
    alignment.gave(1)
    assert alignment.limit_ms(0) is not None


@pytest.mark.parametrize(
    ("turns_s", "is_reading"), [([50.0, 50.1, 50.2], True), ([1.0, 2.0, 3.0, 4.0, 9.0], False)]
)
def test_nobody_is_silent_while_the_worker_is_frozen_or_does_not_read(
    turns_s: list[float], is_reading: bool
) -> None:
    alignment = alignment_of({0: 500, 1: 100})
    for now_s in turns_s:
        alignment.turn(now_s, is_reading=is_reading)
    assert alignment.slowest(0) == 1


def test_one_that_is_held_goes_on_within_half_of_the_bound() -> None:
    alignment = alignment_of({0: 500, 1: 100})
    alignment.hold(0, 510)
    for time_ms, is_due in [(100, False), (459, False), (460, True), (700, True)]:
        alignment.carried(1, time_ms)
        assert alignment.is_due(0) is is_due


def test_one_that_is_held_is_never_silent_and_the_earliest_of_them_goes_on() -> None:
    alignment = alignment_of({0: 0, 1: 0, 2: 0})
    for partition, next_ms in enumerate([5_000, 4_000, 9_000]):
        alignment.hold(partition, next_ms)
    for now_s in range(1, 60):
        alignment.turn(float(now_s), is_reading=True)
    assert alignment.earliest_held() == 1
    assert [alignment.is_due(p) for p in range(3)] == [False, True, False]
    assert alignment.limit_ms(1) == 5_000 + BOUND_MS


def test_one_that_is_taken_away_holds_nobody_and_comes_back_like_a_new_one() -> None:
    alignment = alignment_of({0: 500, 1: 100})
    alignment.hold(0, 500)
    alignment.end(1)
    assert alignment.is_due(0)
    alignment.begin(1)
    assert not alignment.is_due(0)
    alignment.end(0)
    assert alignment.earliest_held() is None


@dataclass
class Played:
    """Partitions of finite times, carried a few at a time as an alignment says."""

    times_ms: list[list[int]]
    n_each: list[int]
    alignment: Alignment = field(default_factory=lambda: Alignment(BOUND_MS, SILENCE_S))
    next: list[int] = field(default_factory=list)
    ended: set[int] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.next = [0] * len(self.times_ms)
        self.order: list[tuple[int, int]] = []
        for partition in range(len(self.times_ms)):
            self.alignment.begin(partition)

    def has_more(self, partition: int) -> bool:
        return self.next[partition] < len(self.times_ms[partition])

    def held(self) -> set[int]:
        return {p for p in range(len(self.n_each)) if self.alignment.is_held(p)}

    def carry(self, partition: int, n_max: int) -> int:
        """Carry events up to the limit, and hold the partition at the first beyond."""
        limit_ms = self.alignment.limit_ms(partition)
        chosen = self.times_ms[partition][self.next[partition] :][:n_max]
        n_carried = 0
        for time_ms in chosen:
            if limit_ms is not None and time_ms > limit_ms:
                self.alignment.hold(partition, time_ms)
                break
            self.order.append((time_ms, partition))
            self.next[partition] += 1
            self.alignment.carried(partition, time_ms)
            n_carried += 1
        return n_carried

    def turn(self, number: int) -> int:
        """Read every partition that is not held, then go on with those that are due."""
        n_carried = 0
        for partition, n_each in enumerate(self.n_each):
            if self.alignment.is_held(partition):
                continue
            if self.has_more(partition):
                self.alignment.gave(partition)
                n_carried += self.carry(partition, n_each)
            else:
                self.alignment.reached_end(partition)
                self.ended.add(partition)
        self.alignment.turn(number / 100, is_reading=True)
        for partition in self.held():
            if self.alignment.is_due(partition):
                self.alignment.let_go(partition)
        giving = {p for p in range(len(self.n_each)) if p not in self.ended}
        assert not giving or self.held() < giving
        return n_carried


@given(
    st.lists(
        st.tuples(st.lists(st.integers(0, 2_000), max_size=40).map(sorted), st.integers(1, 20)),
        min_size=1,
        max_size=5,
    )
)
def test_something_always_goes_on_and_everything_is_carried_nearly_in_order(
    partitions: list[tuple[list[int], int]],
) -> None:
    """Never is every partition held that is not at its end; none is ahead by more than B."""
    played = Played([times for times, _ in partitions], [n_each for _, n_each in partitions])
    for number in range(3 * sum(len(times) for times, _ in partitions) + 5):
        played.turn(number)
    assert sorted(played.order) == sorted(
        (t, p) for p, (ts, _) in enumerate(partitions) for t in ts
    )
    latest_ms = BEGINNING_MS
    for time_ms, _ in played.order:
        assert time_ms >= latest_ms - BOUND_MS
        latest_ms = max(latest_ms, time_ms)


@pytest.mark.parametrize(
    ("times_ms", "before_ms", "expected"),
    [
        ([7], [], [7]),
        ([3, 4, 5, 6, 7], [1, 2], [3, 4, 5, 6, 6]),
        ([3, 10**6, 5, 6, 7, 8], [1, 2], [3, 5, 6, 7, 7, 7]),
        ([3, 4, -(10**6), 6, 7, 8], [1, 2], [2, 3, 4, 6, 7, 7]),
        ([3, 10**6, 10**6, 6, 7, 8], [1, 2], [3, 6, 7, 8, 8, 7]),
        ([10**6], [1, 2, 3], [3]),
        ([100, 101, 102, 103], [1, 2, 3], [100, 101, 102, 102]),
    ],
)
def test_garbage_among_five_events_moves_no_time(
    times_ms: list[int], before_ms: list[int], expected: list[int]
) -> None:
    """One of far away is not even seen; what all events say is taken at its first event."""
    found = medians_around(np.array(times_ms, dtype=np.int64), np.array(before_ms, dtype=np.int64))
    assert found.tolist() == expected


@pytest.mark.parametrize(
    ("times_ms", "expected"),
    [([4], 4), ([4, 9], 4), ([0, 0, 1, 2, 3, 4, 5], 3), ([1, 2, 3, 10**6, 10**6], 3)],
)
def test_how_far_events_go_is_the_median_of_the_last_five(
    times_ms: list[int], expected: int
) -> None:
    assert time_of_last(np.array(times_ms, dtype=np.int64)) == expected


def test_the_bound_is_half_of_what_the_finest_window_still_takes(loaded: LoadedRelease) -> None:
    """An hour in twelve slices takes what is 55 minutes behind."""
    assert bound_of(loaded.parts.plan) == 55 * 60_000 // 2


class Told:
    """A log that remembers what it was told."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, list[int]]] = []

    def pause(self, partitions: list[int]) -> None:
        self.calls.append(("pause", partitions))

    def resume(self, partitions: list[int]) -> None:
        self.calls.append(("resume", partitions))


def test_a_partition_is_resumed_when_its_last_reason_is_gone() -> None:
    log = Told()
    pauses = Pauses(log)
    for partition in range(3):
        pauses.begin(partition, is_waiting=partition == 2)
    pauses.add(Why.AHEAD, [0])
    pauses.add(Why.AHEAD, [0])
    pauses.add(Why.ROOM, [0, 1])
    pauses.add(Why.ROOM, [0, 1, 2])
    assert log.calls == [("pause", [0]), ("pause", [1])]
    log.calls.clear()
    pauses.remove(Why.AHEAD, [0, 1])
    assert log.calls == []
    pauses.remove(Why.ROOM, [0, 1, 2])
    assert log.calls == [("resume", [0, 1])]
    pauses.remove(Why.STATE, [2])
    assert log.calls[1:] == [("resume", [2])]


def test_a_partition_that_comes_back_is_not_paused_for_what_was() -> None:
    log = Told()
    pauses = Pauses(log)
    pauses.begin(0, is_waiting=False)
    pauses.add(Why.ROOM, [0])
    pauses.say_again(0)
    pauses.end(0)
    pauses.begin(0, is_waiting=False)
    pauses.say_again(0)
    pauses.remove(Why.ROOM, [0])
    assert log.calls == [("pause", [0]), ("pause", [0])]
