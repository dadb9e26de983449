"""Percentiles over events, in bounded memory."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sentinel.core import limits
from sentinel.streaming.durations import BatchDurations

BATCHES = st.lists(
    st.tuples(st.floats(min_value=0, max_value=10), st.integers(min_value=1, max_value=50)),
    min_size=1,
    max_size=30,
)


def test_without_events_there_is_no_percentile() -> None:
    durations = BatchDurations()
    assert durations.quantile_s(0.5) is None
    durations.add(1.0, n_events=0)
    assert durations.quantile_s(0.99) is None


@given(batches=BATCHES, share=st.floats(min_value=0.01, max_value=1.0))
def test_a_quantile_is_what_that_share_of_the_events_did_not_exceed(
    batches: list[tuple[float, int]], share: float
) -> None:
    durations = BatchDurations()
    for seconds, n_events in batches:
        durations.add(seconds, n_events=n_events)
    answer = durations.quantile_s(share)
    assert answer is not None
    each = sorted(seconds for seconds, n_events in batches for _ in range(n_events))
    assert sum(seconds <= answer for seconds in each) >= share * len(each)
    assert answer in each
    assert sum(seconds < answer for seconds in each) < share * len(each)


def test_memory_is_bounded_and_the_percentile_stays_true(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "BATCH_DURATIONS_MAX", 100)
    durations = BatchDurations()
    for i in range(10_000):
        durations.add(i / 10_000, n_events=1)
        assert len(durations._seconds) <= 100
    assert durations.quantile_s(0.5) == pytest.approx(0.5, abs=0.03)
