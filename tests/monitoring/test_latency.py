"""Durations are counted in bounded memory and read back within a stated error."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sentinel.monitoring.latency import BUCKETS_S, LatencyHistogram
from sentinel.monitoring.stages import StageTimer


def test_no_events_have_no_quantile() -> None:
    """Unknown is not zero."""
    assert LatencyHistogram().quantile(0.99) is None


def test_a_clock_that_stepped_back_counts_as_nothing() -> None:
    """No negative time, one event."""
    histogram = LatencyHistogram()
    histogram.observe(-5.0)
    histogram.observe_many(np.array([-1.0]))
    assert (histogram.n, histogram.total_s) == (2, 0.0)
    assert histogram.cumulative()[0] == 2


@pytest.mark.parametrize("q", [0.5, 0.9, 0.99, 0.999])
def test_quantiles_are_right_to_six_percent(q: float) -> None:
    """From microseconds to seconds."""
    rng = np.random.default_rng(1)
    values = rng.lognormal(-6, 1.5, 50_000)
    histogram = LatencyHistogram()
    histogram.observe_many(values)
    assert histogram.quantile(q) == pytest.approx(float(np.quantile(values, q)), rel=0.06)


@given(values=st.lists(st.floats(0, 1000), min_size=1, max_size=50))
def test_buckets_are_exact_and_both_ways_of_counting_agree(values: list[float]) -> None:
    """One by one or all at once; a value on an edge belongs below it, as Prometheus has it."""
    one, many = LatencyHistogram(), LatencyHistogram()
    for value in values:
        one.observe(value)
    many.observe_many(np.array(values))
    expected = [sum(value <= bucket for value in values) for bucket in BUCKETS_S]
    assert one.cumulative() == many.cumulative() == expected
    assert one.total_s == pytest.approx(many.total_s)


def test_a_value_on_an_edge_belongs_below_it() -> None:
    """As Prometheus counts: less or equal."""
    for index, bucket in enumerate(BUCKETS_S):
        histogram = LatencyHistogram()
        histogram.observe(bucket)
        assert histogram.cumulative()[index] == 1
        assert sum(histogram.cumulative()[:index]) == 0


def test_beyond_the_last_edge_is_still_counted() -> None:
    """An hour is in +Inf, and its quantile is the last edge."""
    histogram = LatencyHistogram()
    histogram.observe(3600.0, n=3)
    assert histogram.n == 3
    assert histogram.cumulative()[-1] == 0
    assert histogram.quantile(0.5) == 100.0


def test_the_time_of_a_batch_is_divided_among_its_stages() -> None:
    """All of it, none twice; what lies between batches belongs to none."""
    ticks = iter([0, 10, 40, 1000, 1030, 1100])
    timer = StageTimer(("decode", "model", "log"), clock_ns=lambda: next(ticks) * 1_000_000)
    for _ in range(2):
        timer.start()
        timer.lap("decode")
        timer.lap("model")
    rows = {row.stage: row for row in timer.report()}
    assert set(rows) == {"decode", "model"}
    assert rows["decode"].total_s == pytest.approx(0.04)
    assert rows["model"].total_s == pytest.approx(0.1)
    assert sum(row.share for row in rows.values()) == pytest.approx(1.0)
    assert rows["model"].n_batches == 2
    assert rows["model"].p99_s == pytest.approx(0.07, rel=0.06)


def test_an_unknown_stage_is_a_defect() -> None:
    """No stage appears by misspelling."""
    timer = StageTimer(("decode",))
    timer.start()
    with pytest.raises(KeyError, match="dekode"):
        timer.lap("dekode")
