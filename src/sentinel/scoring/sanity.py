"""Is what the champion said sane? Every row, before anything of it leaves.

1. *The array*: float32, one number a row, as many as were asked for. Anything else and no row of
   the call is used.
2. *Each row* (one native pass): finite, within the policy's bounds, not negative zero and not
   subnormal, above zero where that is declared. A bad row is not used; its neighbours are.
3. *Row identity*: rows of the call are scored again, each alone, and must give the same number,
   up to the canary's tolerance (:func:`differs`). A session that shifts, reverses or mixes its
   rows is caught in one call with probability ``1 - (1 - p)^k``, where ``p`` is the share of rows
   that got another row's number and ``k`` the rows checked (one, and one more for each full
   1,024): a shifted batch at once, two swapped rows of 4,096 in one batch of about 400. Rows with
   the same score may be exchanged: nobody could tell. A batch of one row cannot be mixed.
4. *Constant output*: a long run of equal outputs is reported, and the canary decides whether the
   champion is stuck or the traffic is dull.

The rule for shutting the champion off is :class:`InsaneRows`: it depends on the order of rows
only, never on how they were batched.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from sentinel.core import limits
from sentinel.core.native import native
from sentinel.scoring.decision import Reason
from sentinel.scoring.policy import InsaneRules, OutputRules

Float32Array = npt.NDArray[np.float32]

# What the kernel writes, and what that means.
_OK, _NOT_FINITE, _OUT_OF_RANGE = 0, 1, 2
_REASONS = np.array(
    [Reason.OK, Reason.OUTPUT_NOT_FINITE, Reason.OUTPUT_OUT_OF_RANGE], dtype=np.uint8
)
_TINY = np.float32(np.finfo(np.float32).tiny)
_EPSILON = float(np.finfo(np.float32).eps)
_ROWS_PER_IDENTITY_CHECK = 1_024


@native
def check_rows(
    output: npt.NDArray[np.float32],
    minimum: float,
    maximum: float,
    strictly_positive: bool,
    last: np.float32,
    run: int,
    faults: npt.NDArray[np.uint8],
) -> tuple[int, int, int]:
    """Judge every row in one pass; about 1 ns a row.

    Parameters
    ----------
    output : ndarray of float32, shape (n_rows,)
    minimum, maximum : float
        Inclusive.
    strictly_positive : bool
        Refuse 0.0.
    last : float32
        Last output of the call before.
    run : int
        How many rows in a row had that output; 0 before the first call.
    faults : ndarray of uint8, shape (n_rows,)
        Filled with 0 for a good row, 1 for one that is not finite, 2 for one out of range.

    Returns
    -------
    n_bad : int
    run : int
        Length of the run of equal outputs that the last row ends.
    run_longest : int
        Longest run of equal outputs that ended in this call, or the one that goes on.
    """
    n_bad = 0
    run_longest = run
    for row in range(len(output)):
        value = output[row]
        fault = _OK
        if not np.isfinite(value):
            fault = _NOT_FINITE
        elif value < minimum or value > maximum:
            fault = _OUT_OF_RANGE
        elif value == np.float32(0.0):
            if strictly_positive or np.signbit(value):
                fault = _OUT_OF_RANGE
        elif abs(value) < _TINY or (strictly_positive and value < np.float32(0.0)):
            fault = _OUT_OF_RANGE
        faults[row] = fault
        if fault != _OK:
            n_bad += 1
        if run > 0 and value == last:
            run += 1
        else:
            run = 1
            last = value
        run_longest = max(run_longest, run)
    return n_bad, run, run_longest


def differs(
    actual: Float32Array, expected: Float32Array, tolerance: float
) -> npt.NDArray[np.bool_]:
    """Say which scores are not the same number.

    Two probabilities are the same when they differ by at most ``tolerance`` in log-odds, which
    is ``tolerance * p * (1 - p)`` in probability, and four units in the last place of a float32.
    Numbers that are not finite are the same only when both have the same bits.

    Parameters
    ----------
    actual, expected : ndarray of float32, shape (n,)
    tolerance : float
        In log-odds.

    Returns
    -------
    ndarray of bool, shape (n,)

    Examples
    --------
    >>> differs(np.float32([0.5, 0.5]), np.float32([0.50001, 0.501]), 1e-4).tolist()
    [False, True]
    """
    a, e = actual.astype(np.float64), expected.astype(np.float64)
    with np.errstate(invalid="ignore", over="ignore"):
        allowed = tolerance * np.abs(e * (1.0 - e)) + 4 * _EPSILON * np.abs(e)
        is_close = np.abs(a - e) <= allowed
    is_equal = actual.view(np.uint32) == expected.view(np.uint32)
    different: npt.NDArray[np.bool_] = ~(is_close | is_equal)
    return different


@dataclass(frozen=True, slots=True)
class Verdict:
    """What came of one call.

    Attributes
    ----------
    scores : ndarray of float32, shape (n_rows,)
        The outputs; 0.0 where the reason is not ``OK``.
    reasons : ndarray of uint8, shape (n_rows,)
        Values of :class:`Reason`.
    n_bad : int
    is_row_of_another : bool
        A row scored alone gave another number than in the batch: the session mixes its rows.
    is_constant : bool
        The run of equal outputs has just passed the policy's length.
    """

    scores: Float32Array
    reasons: npt.NDArray[np.uint8]
    n_bad: int
    is_row_of_another: bool
    is_constant: bool


class Sanity:
    """The checks of one champion's outputs; remembers the run of equal outputs only.

    Parameters
    ----------
    rules : OutputRules
    run : callable
        The champion itself, ``(n, n_features) -> (n,)``, for scoring sampled rows alone.
    tolerance : float
        In log-odds, as :func:`differs` takes it.

    Examples
    --------
    >>> half = lambda values: np.full(len(values), 0.5, dtype=np.float32)
    >>> rows = np.zeros((2, 3), dtype=np.float32)
    >>> Sanity(OutputRules(), half, 1e-4).judge(rows, np.array([0.5, np.nan], np.float32)).n_bad
    1
    """

    def __init__(
        self,
        rules: OutputRules,
        run: Callable[[Float32Array], Float32Array],
        tolerance: float,
    ) -> None:
        self._rules = rules
        self._run = run
        self._tolerance = tolerance
        self._last = np.float32(0.0)
        self._run_length = 0
        self._n_calls = 0

    def judge(self, values: Float32Array, output: npt.NDArray[np.generic]) -> Verdict:
        """Check what one call gave for ``values``.

        Raises
        ------
        SentinelError
            ``model-failed`` when scoring a sampled row alone raises.
        """
        n_rows = len(values)
        if output.dtype != np.float32 or output.shape != (n_rows,):
            return _refused(n_rows, Reason.OUTPUT_SHAPE)
        scores = np.ascontiguousarray(output, dtype=np.float32)
        faults = np.empty(n_rows, dtype=np.uint8)
        before = self._run_length
        n_bad, self._run_length, longest = check_rows(
            scores,
            self._rules.minimum,
            self._rules.maximum,
            self._rules.strictly_positive,
            self._last,
            before,
            faults,
        )
        if n_rows:
            self._last = scores[-1]
            if self._is_row_of_another(values, scores, faults):
                return _refused(n_rows, Reason.OUTPUT_NOT_OF_ROW)
        if n_bad:
            scores = np.where(faults == _OK, scores, np.float32(0.0))
        return Verdict(
            scores=scores,
            reasons=_REASONS[faults] if n_bad else faults,  # where all is well both are 0
            n_bad=n_bad,
            is_row_of_another=False,
            is_constant=before < self._rules.constant_rows <= longest,
        )

    def _is_row_of_another(
        self, values: Float32Array, scores: Float32Array, faults: npt.NDArray[np.uint8]
    ) -> bool:
        """Score a few sane rows alone; which ones changes with every call, by a fixed sequence."""
        n_rows = len(values)
        if n_rows == 1:
            return False
        for _ in range(1 + n_rows // _ROWS_PER_IDENTITY_CHECK):
            self._n_calls += 1
            # A multiplicative (Fibonacci) sequence: the sampled rows look random and are not.
            row = self._n_calls * 0x9E3779B97F4A7C15 % (1 << 64) % n_rows
            if faults[row] != _OK:
                continue
            alone = self._run(values[row : row + 1])
            if alone.shape != (1,) or alone.dtype != np.float32:
                return True
            is_same = scores[row] == alone[0]  # nearly always; the tolerance costs ten times more
            if not is_same and differs(scores[row : row + 1], alone, self._tolerance)[0]:
                return True
        return False


def _refused(n_rows: int, reason: Reason) -> Verdict:
    return Verdict(
        scores=np.zeros(n_rows, dtype=np.float32),
        reasons=np.full(n_rows, reason, dtype=np.uint8),
        n_bad=n_rows,
        is_row_of_another=reason is Reason.OUTPUT_NOT_OF_ROW,
        is_constant=False,
    )


class InsaneRows:
    """Count bad rows by entity over the last rows, and say at which row it was too much.

    Parameters
    ----------
    rules : InsaneRules

    Examples
    --------
    >>> rule = InsaneRows(InsaneRules(entities=2))
    >>> rule.observe(4, np.array([1]), np.array([70])) is None
    True
    >>> rule.observe(4, np.array([2]), np.array([71]))
    2
    """

    def __init__(self, rules: InsaneRules) -> None:
        self._rules = rules
        self._n_rows = 0
        # Row number and entity of each bad row that is remembered, oldest first. An entity is
        # remembered for its newest `rows_per_entity` rows only, so one cannot push others out.
        self._bad: deque[tuple[int, int]] = deque(maxlen=limits.INSANE_ROWS_REMEMBERED_MAX)
        self._n_by_entity: Counter[int] = Counter()

    @property
    def n_entities(self) -> int:
        """Distinct entities with a bad row in the window."""
        return len(self._n_by_entity)

    def observe(
        self, n_rows: int, rows: npt.NDArray[np.int64], entities: npt.NDArray[np.int64]
    ) -> int | None:
        """Count one call's rows.

        Parameters
        ----------
        n_rows : int
            Rows that the champion answered.
        rows : ndarray of int64, shape (n_bad,)
            Which of them were bad, ascending.
        entities : ndarray of int64, shape (n_bad,)
            Whose they were.

        Returns
        -------
        int or None
            The row at which a rule was passed: what the champion said after it does not count.
        """
        start = self._n_rows
        self._n_rows += n_rows
        for row, entity in zip(rows.tolist(), entities.tolist(), strict=True):
            self._add(start + row, entity)
            if self._is_too_much():
                self._n_rows = start + row + 1
                return int(row)
        return None

    def pass_over(self, n_rows: int) -> None:
        """Count one call's rows, of which none was bad."""
        self._n_rows += n_rows

    def clear(self) -> None:
        """Forget everything: a person has reset the champion."""
        self._bad.clear()
        self._n_by_entity.clear()

    def _add(self, row: int, entity: int) -> None:
        while self._bad and self._bad[0][0] <= row - self._rules.window_rows:
            self._forget()
        if self._n_by_entity[entity] >= self._rules.rows_per_entity:
            self._bad.remove(next(bad for bad in self._bad if bad[1] == entity))
            self._n_by_entity[entity] -= 1
        if len(self._bad) == self._bad.maxlen:
            self._forget()
        self._bad.append((row, entity))
        self._n_by_entity[entity] += 1

    def _forget(self) -> None:
        _, entity = self._bad.popleft()
        self._n_by_entity[entity] -= 1
        if not self._n_by_entity[entity]:
            del self._n_by_entity[entity]

    def _is_too_much(self) -> bool:
        rules = self._rules
        is_many = len(self._bad) >= rules.share * rules.window_rows
        return is_many or self.n_entities >= rules.entities
