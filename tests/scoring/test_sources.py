"""A source that is refused too often is marked, for as long as it is."""

from __future__ import annotations

import threading

import pytest
from scoring_rig import batch, make_parts, make_sinks, payments

from sentinel.core import limits
from sentinel.scoring import Health, ReplayClock, Scorer
from sentinel.scoring.sources import OTHER_SOURCES, SourceWatch


def watch() -> SourceWatch:
    return SourceWatch(refused_share_max=0.2, events_min=100)


def test_a_share_at_the_limit_is_forgiven_and_one_above_is_not() -> None:
    sources = watch()
    sources.observe("a", n_read=1_000, n_refused=200, now_s=0)
    sources.observe("b", n_read=1_000, n_refused=201, now_s=0)
    assert sources.degraded(now_s=0) == ("b",)


def test_few_events_say_nothing() -> None:
    sources = watch()
    sources.observe("a", n_read=99, n_refused=99, now_s=0)
    assert sources.degraded(now_s=0) == ()


def test_bad_events_count_for_a_minute() -> None:
    sources = watch()
    sources.observe("a", n_read=100, n_refused=100, now_s=10)
    assert sources.degraded(now_s=69.9) == ("a",)
    assert sources.degraded(now_s=70) == ()


def test_good_events_heal_a_source_before_the_minute_is_over() -> None:
    sources = watch()
    sources.observe("a", n_read=100, n_refused=100, now_s=0)
    sources.observe("a", n_read=10_000, n_refused=0, now_s=2)
    assert sources.degraded(now_s=2) == ()


def test_a_clock_that_steps_back_forgets_nothing() -> None:
    sources = watch()
    sources.observe("a", n_read=100, n_refused=100, now_s=1_000)
    assert sources.degraded(now_s=5) == ("a",)


def test_sources_beyond_the_bound_are_counted_together() -> None:
    sources = watch()
    for number in range(limits.SOURCES_WATCHED_MAX + 200):
        sources.observe(f"s-{number}", n_read=1, n_refused=1, now_s=0)
    assert sources.degraded(now_s=0) == (OTHER_SOURCES,)
    assert len(sources._minutes) == limits.SOURCES_WATCHED_MAX + 1


def test_sources_that_are_silent_for_a_minute_make_room_for_others() -> None:
    """Addresses come and go: the first ones do not hold the places for ever."""
    sources = watch()
    for number in range(limits.SOURCES_WATCHED_MAX):
        sources.observe(f"s-{number}", n_read=1, n_refused=1, now_s=0)
    sources.observe("late", n_read=100, n_refused=100, now_s=59)
    assert sources.degraded(now_s=59) == (OTHER_SOURCES,)
    sources.observe("late", n_read=100, n_refused=100, now_s=61)
    assert sources.degraded(now_s=61) == (OTHER_SOURCES, "late")
    assert len(sources._minutes) == 2


def test_whoever_asks_while_another_thread_counts_gets_an_answer() -> None:
    """Sources come, seconds pass and old ones go in the middle of the question."""
    sources = watch()
    is_over = threading.Event()
    faults: list[BaseException] = []

    def ask() -> None:
        try:
            while not is_over.is_set():
                sources.degraded(now_s=0)
        except RuntimeError as fault:
            faults.append(fault)

    asking = threading.Thread(target=ask)
    asking.start()
    for number in range(20_000):
        sources.observe(f"s-{number % 900}", n_read=1, n_refused=1, now_s=number / 50)
    is_over.set()
    asking.join()
    assert not faults


@pytest.mark.reliability("G12")
def test_a_caller_among_many_of_one_source_is_named_by_its_share() -> None:
    """The source itself is not marked for a tenth of its events."""
    sinks = make_sinks()
    scorer = Scorer(make_parts(), sinks, clock=ReplayClock())
    scorer.score(batch(payments(900) + [b"{}"] * 100, source="requests"))
    scorer.watch_callers({"shop": 890, "test rig": 110}, {"test rig": 100})
    status = scorer.status()
    assert (status.degraded_sources, status.degraded_callers) == ((), ("test rig",))
    assert status.health is Health.DEGRADED
    assert status.causes == ()
    text = sinks.metrics.exposition()[0]
    assert b"sentinel_callers_degraded 1.0" in text
    assert b'source_degraded{source="requests"} 0.0' in text
