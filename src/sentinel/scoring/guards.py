"""Guards: wrappers around the champion, all of one shape, stacked in one visible list.

A prediction is ``Rows -> Answer``. A guard takes a prediction and gives one back::

    predict = stack(guards, champion)

From the outside in, the scorer's list is

1. :func:`hold_unusable`: rows with a feature that is not finite, and stale ones where the policy
   holds them, are answered by nobody; stale ones that are answered say so;
2. :func:`answer_with_fallback`: rows that nobody inside has answered are answered by the fallback;
3. :class:`BreakerGuard`: whether the champion may be asked, and how it went;
4. :class:`SanityGuard`: whether each of its outputs may be used.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from sentinel.core import limits
from sentinel.core.clock import Clock
from sentinel.core.errors import ErrorCode, SentinelError
from sentinel.core.native import native
from sentinel.features.matrix import STALE
from sentinel.scoring.breaker import Breaker, Call, State
from sentinel.scoring.decision import Reason, ServedBy
from sentinel.scoring.fallback import LinearFallback
from sentinel.scoring.policy import InsaneRules, StalePolicy
from sentinel.scoring.sanity import InsaneRows, Sanity

Float32Array = npt.NDArray[np.float32]
_CHAMPION = np.uint8(ServedBy.CHAMPION)
_FALLBACK = np.uint8(ServedBy.FALLBACK)
_NONE = np.uint8(ServedBy.NONE)


@dataclass(frozen=True, slots=True)
class Rows:
    """What is to be answered.

    Attributes
    ----------
    values : ndarray of float32, shape (n, n_features), C order
    status : ndarray of uint8, shape (n, n_features)
        As in :class:`sentinel.features.matrix.FeatureMatrix`.
    entities : ndarray of int64, shape (n,)
        Whose each row is.
    """

    values: Float32Array
    status: npt.NDArray[np.uint8]
    entities: npt.NDArray[np.int64]

    @property
    def n_rows(self) -> int:
        """How many."""
        return len(self.values)

    def take(self, rows: npt.NDArray[np.int64]) -> Rows:
        """Copy some of them."""
        return Rows(self.values[rows], self.status[rows], self.entities[rows])


@dataclass(frozen=True, slots=True)
class Answer:
    """What was answered, by whom, and why by that one.

    Attributes
    ----------
    scores : ndarray of float64, shape (n,)
        float32 numbers; 0.0 where nobody answered.
    served_by, reasons : ndarray of uint8, shape (n,)
        Values of :class:`ServedBy` and :class:`Reason`.
    is_call_bad : bool
        The champion's call as a whole cannot be used.
    is_whole : bool
        The champion is known to have answered every row.
    """

    scores: npt.NDArray[np.float64]
    served_by: npt.NDArray[np.uint8]
    reasons: npt.NDArray[np.uint8]
    is_call_bad: bool = False
    is_whole: bool = False

    def put(self, rows: npt.NDArray[np.int64], answer: Answer) -> None:
        """Write another answer into some rows of this one."""
        self.scores[rows] = answer.scores
        self.served_by[rows] = answer.served_by
        self.reasons[rows] = answer.reasons


Predict = Callable[[Rows], Answer]
Guard = Callable[[Predict], Predict]


def stack(guards: Sequence[Guard], champion: Predict) -> Predict:
    """Put guards around a champion, the first one outermost."""
    predict = champion
    for guard in reversed(guards):
        predict = guard(predict)
    return predict


def unanswered(n_rows: int, reason: Reason, *, is_call_bad: bool = False) -> Answer:
    """Answer nothing, for one reason."""
    return Answer(
        np.zeros(n_rows),
        np.full(n_rows, _NONE),
        np.full(n_rows, reason, dtype=np.uint8),
        is_call_bad,
    )


def run_in_slices(
    run: Callable[[Float32Array], npt.NDArray[np.generic]], values: Float32Array
) -> npt.NDArray[np.generic]:
    """Call a champion with at most ``limits.SCORE_ROWS_MAX`` rows at a time."""
    size = limits.SCORE_ROWS_MAX
    if len(values) <= size:
        return run(values)
    return np.concatenate([run(values[at : at + size]) for at in range(0, len(values), size)])


# What :func:`usable_rows` marks.
_NOT_FINITE, _STALE = 1, 2


@native
def usable_rows(
    values: npt.NDArray[np.float32],
    status: npt.NDArray[np.uint8],
    stale: int,
    faults: npt.NDArray[np.uint8],
) -> int:
    """Mark rows that no model may see: 1 for a value that is not finite, 2 for a stale one.

    Parameters
    ----------
    values : ndarray of float32, shape (n, n_features), C order
    status : ndarray of uint8, shape (n, n_features), C order
    stale : int
        The status that makes a row unusable; negative for none.
    faults : ndarray of uint8, shape (n,)
        Filled.

    Returns
    -------
    int
        How many rows are marked.
    """
    n_rows, n_features = values.shape
    n_marked = 0
    for row in range(n_rows):
        # x - x is 0 for finite numbers and NaN for all others; the sum needs no branch.
        total = np.float32(0.0)
        is_stale = False
        for j in range(n_features):
            total += values[row, j] - values[row, j]
        if stale >= 0:
            for j in range(n_features):
                is_stale |= status[row, j] == stale
        fault = 1 if total != np.float32(0.0) else 2 * is_stale
        faults[row] = fault
        n_marked += fault > 0
    return n_marked


def hold_unusable(policy: StalePolicy) -> Guard:
    """Let nobody answer a row with a value that is not finite; nor a stale one, by policy.

    Where the champion answers a stale row, the reason is that it was stale, and not ``OK``.
    """
    is_stale_held = policy is StalePolicy.HOLD
    reasons = np.array(
        [Reason.OK, Reason.FEATURE_NOT_FINITE, Reason.FEATURES_STALE], dtype=np.uint8
    )

    def guard(inner: Predict) -> Predict:
        def predict(rows: Rows) -> Answer:
            faults = np.empty(rows.n_rows, dtype=np.uint8)
            if not usable_rows(rows.values, rows.status, STALE, faults):
                return inner(rows)
            usable = np.flatnonzero(faults == 0 if is_stale_held else faults != _NOT_FINITE)
            if len(usable) == rows.n_rows:
                return _said_stale(inner(rows), faults)
            answer = unanswered(rows.n_rows, Reason.OK)
            answer.reasons[:] = reasons[faults]
            if len(usable):
                answer.put(usable, inner(rows.take(usable)))
            return _said_stale(answer, faults)

        return predict

    return guard


def _said_stale(answer: Answer, faults: npt.NDArray[np.uint8]) -> Answer:
    """Give stale rows that were answered as any other the reason that they are stale."""
    is_silent = (faults == _STALE) & (answer.reasons == Reason.OK)
    reasons = np.where(is_silent, np.uint8(Reason.FEATURES_STALE), answer.reasons)
    return replace(answer, reasons=reasons)


def answer_with_fallback(fallback: LinearFallback) -> Guard:
    """Let the fallback answer what nobody inside has answered; the reason stays."""

    def guard(inner: Predict) -> Predict:
        def predict(rows: Rows) -> Answer:
            answer = inner(rows)
            if answer.is_whole:
                return answer
            left = np.flatnonzero(answer.served_by == _NONE)
            if not len(left):
                return answer
            values = rows.values if len(left) == rows.n_rows else rows.values[left]
            scores = fallback.scores(values)
            is_good = (scores >= 0.0) & (scores <= 1.0)
            answer.scores[left] = np.where(is_good, scores, 0.0)
            answer.served_by[left] = np.where(is_good, _FALLBACK, _NONE)
            answer.reasons[left[~is_good]] = Reason.FALLBACK_FAILED
            return answer

        return predict

    return guard


class BreakerGuard:
    """Ask the breaker before the champion, and tell it how the call went.

    Parameters
    ----------
    breaker : Breaker
    clock : Clock
        Its readings are the breaker's time and the call's latency.
    """

    def __init__(self, breaker: Breaker, clock: Clock) -> None:
        self._breaker = breaker
        self._clock = clock

    def __call__(self, inner: Predict) -> Predict:
        """Wrap a prediction."""

        def predict(rows: Rows) -> Answer:
            permit = self._breaker.admit(self._clock.monotonic_s())
            if permit is None:
                is_latched = self._breaker.state is State.LATCHED
                reason = Reason.CHAMPION_LATCHED if is_latched else Reason.BREAKER_OPEN
                return unanswered(rows.n_rows, reason)
            try:
                answer = inner(rows)
            except SentinelError as error:
                if error.code is not ErrorCode.MODEL_FAILED:
                    self._breaker.cancel(permit)
                    raise
                answer = unanswered(rows.n_rows, Reason.CHAMPION_ERROR, is_call_bad=True)
            call = Call.FAILED if answer.is_call_bad else Call.GOOD
            self._breaker.finish(permit, self._clock.monotonic_s(), call)
            return answer

        return predict


class SanityGuard:
    """Use only sane outputs, and shut the champion off when too many are not.

    Parameters
    ----------
    sanity : Sanity
    rules : InsaneRules
    shut_off : callable
        Called with the cause when the champion must not be asked again.
    on_constant : callable
        Called when the outputs have been one and the same for too long.
    """

    def __init__(
        self,
        sanity: Sanity,
        rules: InsaneRules,
        *,
        shut_off: Callable[[str], None],
        on_constant: Callable[[], None],
    ) -> None:
        self._sanity = sanity
        self._shut_off = shut_off
        self._on_constant = on_constant
        self.insane_rows = InsaneRows(rules)

    def __call__(self, inner: Callable[[Rows], npt.NDArray[np.generic]]) -> Predict:
        """Wrap the champion's bare call."""

        def predict(rows: Rows) -> Answer:
            verdict = self._sanity.judge(rows.values, inner(rows))
            if verdict.is_row_of_another:
                self._shut_off("a row scored alone gave another score than in its batch")
            if verdict.is_constant:
                self._on_constant()
            scores = verdict.scores.astype(np.float64)
            if not verdict.n_bad:
                self.insane_rows.pass_over(len(scores))
                served_by = np.empty(len(scores), dtype=np.uint8)
                served_by.fill(_CHAMPION)
                return Answer(scores, served_by, verdict.reasons, is_whole=True)
            is_call_bad = verdict.n_bad == rows.n_rows and bool(
                np.isin(verdict.reasons, (Reason.OUTPUT_SHAPE, Reason.OUTPUT_NOT_OF_ROW)).all()
            )
            served_by = np.where(verdict.reasons == Reason.OK, _CHAMPION, _NONE)
            answer = Answer(scores, served_by, verdict.reasons, is_call_bad)
            if not is_call_bad:
                self._count_insane(rows, answer)
            return answer

        return predict

    def _count_insane(self, rows: Rows, answer: Answer) -> None:
        """Apply the rule at the row where it is passed: how rows were batched must not matter."""
        bad = np.flatnonzero(answer.reasons != Reason.OK)
        last = self.insane_rows.observe(rows.n_rows, bad, rows.entities[bad])
        if last is None:
            return
        n_entities = self.insane_rows.n_entities
        self._shut_off(f"insane outputs for {n_entities} entities")
        answer.scores[last + 1 :] = 0.0
        answer.served_by[last + 1 :] = _NONE
        answer.reasons[last + 1 :] = Reason.CHAMPION_LATCHED
