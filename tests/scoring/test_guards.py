"""Guards one by one: what goes in, what comes out, who is asked."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sentinel.core import limits
from sentinel.features.matrix import DEFAULTED, PRESENT, STALE
from sentinel.scoring.decision import Reason, ServedBy
from sentinel.scoring.fallback import LinearFallback
from sentinel.scoring.guards import (
    Answer,
    Rows,
    answer_with_fallback,
    hold_unusable,
    run_in_slices,
    stack,
    unanswered,
)
from sentinel.scoring.policy import StalePolicy


def rows(values: npt.ArrayLike, status: npt.ArrayLike | None = None) -> Rows:
    matrix = np.array(values, dtype=np.float32)
    kinds = np.zeros(matrix.shape, np.uint8) if status is None else np.array(status, np.uint8)
    return Rows(matrix, kinds, np.arange(len(matrix)))


class Asked:
    """A prediction that remembers what it was asked."""

    def __init__(self) -> None:
        self.values: list[npt.NDArray[np.float32]] = []

    def __call__(self, asked: Rows) -> Answer:
        self.values.append(asked.values)
        n = asked.n_rows
        return Answer(np.full(n, 0.25), np.zeros(n, np.uint8), np.zeros(n, np.uint8))


@given(st.lists(st.lists(st.floats(width=32), min_size=2, max_size=2), min_size=1, max_size=30))
def test_no_value_that_is_not_finite_goes_in(values: list[list[float]]) -> None:
    asked = Asked()
    matrix = rows(values)
    answer = hold_unusable(StalePolicy.DEFAULT)(asked)(matrix)
    good = np.isfinite(matrix.values).all(axis=1)
    seen = np.concatenate(asked.values) if asked.values else np.zeros((0, 2), np.float32)
    assert seen.tobytes() == matrix.values[good].tobytes()
    assert (answer.served_by == np.where(good, ServedBy.CHAMPION, ServedBy.NONE)).all()
    assert (answer.reasons[~good] == Reason.FEATURE_NOT_FINITE).all()


@pytest.mark.parametrize(
    ("policy", "expected"),
    [
        (StalePolicy.DEFAULT, ServedBy.CHAMPION),
        (StalePolicy.HOLD, ServedBy.NONE),
    ],
)
def test_stale_rows_say_so_and_are_held_only_where_the_policy_says_so(
    policy: StalePolicy, expected: ServedBy
) -> None:
    status = [[PRESENT, PRESENT], [PRESENT, STALE], [DEFAULTED, PRESENT]]
    guarded = hold_unusable(policy)(Asked())
    answer = guarded(rows(np.zeros((3, 2)), status))
    assert answer.reasons.tolist() == [Reason.OK, Reason.FEATURES_STALE, Reason.OK]
    assert answer.served_by.tolist() == [ServedBy.CHAMPION, expected, ServedBy.CHAMPION]
    # Beside a row that nobody may see, and where that row is the stale one.
    answer = guarded(rows([[np.nan, 0.0], [0.0, 0.0], [0.0, np.inf]], [*status[:2], [STALE] * 2]))
    assert answer.reasons.tolist() == [
        Reason.FEATURE_NOT_FINITE,
        Reason.FEATURES_STALE,
        Reason.FEATURE_NOT_FINITE,
    ]
    assert answer.served_by.tolist() == [ServedBy.NONE, expected, ServedBy.NONE]


def test_a_stale_row_that_the_fallback_answers_keeps_the_graver_reason() -> None:
    def bypassed(asked: Rows) -> Answer:
        return unanswered(asked.n_rows, Reason.BREAKER_OPEN)

    answer = hold_unusable(StalePolicy.DEFAULT)(bypassed)(rows([[0.0, 0.0]], [[STALE, PRESENT]]))
    assert answer.reasons.tolist() == [Reason.BREAKER_OPEN]


def test_the_fallback_answers_only_what_nobody_answered_and_keeps_the_reason() -> None:
    def inner(asked: Rows) -> Answer:
        answer = unanswered(asked.n_rows, Reason.BREAKER_OPEN)
        answer.put(
            np.array([1]), Answer(np.array([0.75]), np.zeros(1, np.uint8), np.zeros(1, np.uint8))
        )
        return answer

    fallback = LinearFallback.of(("a",), centre=[0.0], scale=[1.0], coefficients=[0.0])
    answer = answer_with_fallback(fallback)(inner)(rows([[1.0], [2.0], [3.0]]))
    assert answer.scores.tolist() == [0.5, 0.75, 0.5]
    assert answer.served_by.tolist() == [
        ServedBy.FALLBACK,
        ServedBy.CHAMPION,
        ServedBy.FALLBACK,
    ]
    assert answer.reasons.tolist() == [Reason.BREAKER_OPEN, Reason.OK, Reason.BREAKER_OPEN]


def test_guards_are_stacked_with_the_first_one_outermost() -> None:
    order: list[str] = []

    def named(name: str):  # type: ignore[no-untyped-def]
        def guard(inner):  # type: ignore[no-untyped-def]
            def predict(asked: Rows) -> Answer:
                order.append(name)
                return inner(asked)

            return predict

        return guard

    stack([named("one"), named("two")], Asked())(rows([[1.0]]))
    assert order == ["one", "two"]


def test_a_large_batch_goes_in_bounded_slices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "SCORE_ROWS_MAX", 10)
    sizes: list[int] = []

    def run(values: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        sizes.append(len(values))
        return values[:, 0]

    values = np.arange(25, dtype=np.float32)[:, None]
    assert run_in_slices(run, values).tolist() == list(range(25))
    assert sizes == [10, 10, 5]
