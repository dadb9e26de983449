"""A source that is refused too often is marked, for as long as it is."""

from __future__ import annotations

from sentinel.core import limits
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
