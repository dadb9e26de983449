"""Parts that stand in order of time, with what was known at the cut and nothing else."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from sentinel.core.errors import ErrorCode, SentinelError
from sentinel.training.labels import NEVER_KNOWN
from sentinel.training.split import TimeSplit, known_compromised

DAY = 86_400_000


@pytest.mark.parametrize(
    ("changes", "place"),
    [
        ({"delay_ms": -1}, "split.delay_ms"),
        ({"cut_ms": 5, "delay_ms": 5}, "split.cut_ms"),
        ({"until_ms": 50}, "split.until_ms"),
        ({"validation_share": 0.0}, "split.validation_share"),
        ({"validation_share": float("nan")}, "split.validation_share"),
        ({"validation_share": 0.6}, "split.validation_share"),
    ],
)
def test_times_that_leave_a_part_without_room_are_refused(
    changes: dict[str, float], place: str
) -> None:
    times = {"train_from_ms": 0, "cut_ms": 50, "until_ms": 60, "delay_ms": 5} | changes
    with pytest.raises(SentinelError) as caught:
        TimeSplit(**times)  # type: ignore[arg-type]
    assert caught.value.code is ErrorCode.TRAINING_SPLIT_INVALID
    assert caught.value.at == place


@pytest.mark.parametrize(
    ("times", "known_at", "part"),
    [
        ([60, 70], [61, 71], "train"),
        ([1, 2], [NEVER_KNOWN, NEVER_KNOWN], "train"),
        ([1, 2], [3, 4], "later"),
    ],
)
def test_a_part_without_events_is_named(times: list[int], known_at: list[int], part: str) -> None:
    split = TimeSplit(train_from_ms=0, cut_ms=50, until_ms=80, delay_ms=5)
    with pytest.raises(SentinelError) as caught:
        split.parts(np.array(times), np.array(known_at))
    assert caught.value.code is ErrorCode.TRAINING_SPLIT_EMPTY
    assert caught.value.at == part


def test_a_log_without_events_cannot_be_cut() -> None:
    with pytest.raises(SentinelError) as caught:
        TimeSplit.of_span(np.array([], dtype=np.int64), delay_ms=1, later_share=0.2)
    assert caught.value.code is ErrorCode.TRAINING_SPLIT_EMPTY
    assert caught.value.at == "events"


def test_a_log_shorter_than_the_delay_cannot_be_cut() -> None:
    with pytest.raises(SentinelError) as caught:
        TimeSplit.of_span(np.arange(100), delay_ms=1_000, later_share=0.2)
    assert caught.value.code is ErrorCode.TRAINING_SPLIT_INVALID
    assert caught.value.at == "split.cut_ms"


@pytest.mark.parametrize("share", [0.0, 0.7, float("nan")])
def test_a_later_share_out_of_bounds_is_refused(share: float) -> None:
    with pytest.raises(SentinelError) as caught:
        TimeSplit.of_span(np.arange(100), delay_ms=1, later_share=share)
    assert caught.value.code is ErrorCode.TRAINING_SPLIT_INVALID
    assert caught.value.at == "split.later_share"


def test_an_event_whose_label_comes_after_the_cut_is_not_trained_on() -> None:
    split = TimeSplit(train_from_ms=0, cut_ms=50, until_ms=80, delay_ms=5)
    times = np.array([1, 2, 3, 55])
    parts = split.parts(times, np.array([6, 51, 8, 60]))
    assert parts.train.tolist() == [0, 2]


@given(
    times=st.lists(st.integers(0, 200), min_size=10, max_size=80),
    lag=st.integers(0, 60),
    delay=st.integers(0, 40),
)
def test_parts_never_meet_and_the_delay_lies_between_them(
    times: list[int], lag: int, delay: int
) -> None:
    """No row in two parts; all trained labels known at the cut; validation behind fit."""
    moments = np.array(times, dtype=np.int64)
    known_at = moments + lag
    split = TimeSplit(train_from_ms=10, cut_ms=100, until_ms=180, delay_ms=delay)
    in_train = ((moments >= 10) & (moments < 100 - delay) & (known_at <= 100)).sum()
    in_later = ((moments >= 100) & (moments < 180)).sum()
    assume(in_train >= 2 and in_later >= 1)
    parts = split.parts(moments, known_at)
    together = np.concatenate([parts.fit, parts.validation, parts.waiting, parts.later])
    assert len(np.unique(together)) == len(together)
    assert (known_at[parts.train] <= 100).all()
    assert moments[parts.train].max() < 100 - delay
    assert moments[parts.fit].max() <= moments[parts.validation].min()
    assert ((moments[parts.later] >= 100) & (moments[parts.later] < 180)).all()
    assert ((moments[parts.waiting] >= 100 - delay) & (moments[parts.waiting] < 100)).all()


def test_a_card_is_removed_from_the_day_after_its_fraud_was_known() -> None:
    """Known in the middle of day 8: day 8 still counts, day 9 does not."""
    times = np.array([1 * DAY, 8 * DAY, 9 * DAY, 9 * DAY])
    cards = np.array([7, 7, 7, 8])
    frauds = np.array([True, False, False, True])
    known_at = np.array([8 * DAY + 5, 15 * DAY, 16 * DAY, 16 * DAY])
    removed = known_compromised(times, cards, frauds, known_at, since_ms=0)
    assert removed.tolist() == [False, False, True, False]


def test_frauds_of_long_ago_are_forgiven() -> None:
    times, cards = np.array([1 * DAY, 9 * DAY]), np.array([7, 7])
    frauds, known_at = np.array([True, False]), np.array([2 * DAY, 10 * DAY])
    removed = known_compromised(times, cards, frauds, known_at, since_ms=2 * DAY)
    assert removed.tolist() == [False, False]


def test_a_fraud_that_nobody_told_of_removes_nothing() -> None:
    times, cards = np.array([1 * DAY, 9 * DAY]), np.array([7, 7])
    removed = known_compromised(
        times, cards, np.array([True, False]), np.full(2, NEVER_KNOWN), since_ms=0
    )
    assert not removed.any()
