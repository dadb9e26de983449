"""Labels come from the verdict feed, as it stood at one instant."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sentinel.core.errors import ErrorCode, SentinelError
from sentinel.data.simulator.contracts import Verdict
from sentinel.release import Label
from sentinel.training.labels import NEVER_KNOWN, Verdicts, join_labels

EVENTS = np.array([30, 10, 20], dtype=np.int64)
TIMES = np.array([3, 1, 2], dtype=np.int64)


def verdicts(*rows: tuple[int, bool, int]) -> Verdicts:
    return Verdicts(
        events=np.array([row[0] for row in rows], dtype=np.int64),
        is_positive=np.array([row[1] for row in rows], dtype=np.bool_),
        known_at_ms=np.array([row[2] for row in rows], dtype=np.int64),
    )


def test_an_empty_feed_gives_no_label() -> None:
    labels = join_labels(EVENTS, TIMES, verdicts(), known_by_ms=100)
    assert not labels.is_known.any()
    assert labels.n_strangers == 0


def test_an_empty_log_has_strangers_only() -> None:
    none = np.array([], dtype=np.int64)
    labels = join_labels(none, none, verdicts((10, True, 5)), known_by_ms=100)
    assert labels.n_strangers == 1
    assert len(labels.is_positive) == 0


def test_a_verdict_on_an_event_beyond_all_others_is_a_stranger() -> None:
    labels = join_labels(EVENTS, TIMES, verdicts((99, True, 5), (-4, True, 5)), known_by_ms=100)
    assert labels.n_strangers == 2
    assert not labels.is_known.any()


def test_a_verdict_known_later_does_not_exist() -> None:
    labels = join_labels(EVENTS, TIMES, verdicts((10, True, 51)), known_by_ms=50)
    assert labels.known_at_ms.tolist() == [NEVER_KNOWN] * 3


def test_the_last_verdict_known_by_then_counts() -> None:
    feed = verdicts((20, True, 40), (20, False, 10), (20, False, 60))
    assert join_labels(EVENTS, TIMES, feed, known_by_ms=20).is_positive.tolist() == [False] * 3
    assert join_labels(EVENTS, TIMES, feed, known_by_ms=50).is_positive[2]
    assert not join_labels(EVENTS, TIMES, feed, known_by_ms=60).is_positive[2]


def test_of_two_verdicts_known_at_once_the_later_of_the_feed_counts() -> None:
    feed = verdicts((20, True, 10), (20, False, 10))
    assert not join_labels(EVENTS, TIMES, feed, known_by_ms=20).is_positive[2]


def test_silence_means_genuine_only_after_the_delay_and_only_where_it_was_declared() -> None:
    feed = verdicts((10, True, 5))
    silent = join_labels(EVENTS, TIMES, feed, known_by_ms=9)
    assert silent.is_known.tolist() == [False, True, False]
    assumed = join_labels(EVENTS, TIMES, feed, known_by_ms=9, assume_genuine_after_ms=7)
    assert assumed.is_known.tolist() == [False, True, True]
    assert assumed.is_positive.tolist() == [False, True, False]
    assert assumed.known_at_ms[2] == 9
    assert assumed.n_assumed == 1


@given(
    rows=st.lists(st.tuples(st.integers(0, 9), st.booleans(), st.integers(0, 40)), max_size=40),
    known_by=st.integers(0, 40),
)
def test_labels_are_what_a_dictionary_would_say(
    rows: list[tuple[int, bool, int]], known_by: int
) -> None:
    """The same as replaying the feed in order of known-at time into a dictionary."""
    events = np.array([4, 0, 9, 2, 7], dtype=np.int64)
    expected: dict[int, tuple[bool, int]] = {}
    for event, is_positive, known_at in sorted(rows, key=lambda row: row[2]):
        if known_at <= known_by:
            expected[event] = (is_positive, known_at)
    labels = join_labels(events, np.zeros(5, dtype=np.int64), verdicts(*rows), known_by_ms=known_by)
    for row, event in enumerate(events.tolist()):
        is_positive, known_at = expected.get(event, (False, NEVER_KNOWN))
        assert labels.is_positive[row] == is_positive
        assert labels.known_at_ms[row] == known_at


@pytest.mark.parametrize("known_by", [0, 100])
def test_every_verdict_is_joined_or_a_stranger_or_too_late(known_by: int) -> None:
    feed = verdicts((10, True, 5), (11, True, 5), (20, True, 500))
    labels = join_labels(EVENTS, TIMES, feed, known_by_ms=known_by)
    n_late = int((feed.known_at_ms > known_by).sum())
    assert int(labels.is_known.sum()) + labels.n_strangers + n_late == 3


def test_a_pipeline_must_say_what_silence_means_in_known_words() -> None:
    with pytest.raises(SentinelError) as caught:
        Label(
            of=Verdict.is_fraud,
            event=Verdict.transaction_id,
            delay="7d",
            unlabelled="fraud",  # type: ignore[arg-type]
        )
    assert caught.value.code is ErrorCode.PIPELINE_INVALID
    assert caught.value.at == "label.unlabelled"
