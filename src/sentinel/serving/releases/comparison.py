"""What a challenger would have answered, held against what was answered.

Counts and moments of *paired* answers, constant memory, one update a batch. Intervals are of 95 %:

* of a share (agreement), Wilson's (1927);
* of a difference of two paired shares, from the discordant pairs: with ``b`` and ``c`` of ``n`` the
  difference is ``d = (b - c) / n`` and its variance ``((b + c) / n - d^2) / n`` (McNemar's setting;
  Agresti, "Categorical Data Analysis", 10.1);
* of a mean difference of scores, from the variance of the paired differences.

They take rows as independent. Payments of one card are not, so a true interval is wider: what they
exclude by a hair is not excluded.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from sentinel.monitoring.divergence import jensen_shannon
from sentinel.monitoring.latency import LatencyHistogram
from sentinel.scoring import Outcome, ServedBy, code_names
from sentinel.scoring.guards import Answer

_Z = 1.959963984540054
_OUTCOMES = code_names(Outcome)
_SCORE_BINS = 100
Interval = tuple[float, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Answered:
    """What was answered to the rows of one batch.

    Attributes
    ----------
    scores : ndarray of float64, shape (n,)
    outcomes, served_by : ndarray of uint8, shape (n,)
    """

    scores: npt.NDArray[np.float64]
    outcomes: npt.NDArray[np.uint8]
    served_by: npt.NDArray[np.uint8]


class Comparison:
    """Paired answers of two releases; used by one thread.

    Attributes
    ----------
    n_rows : int
    """

    def __init__(self) -> None:
        self.n_rows = 0
        self._outcomes = np.zeros((len(_OUTCOMES), len(_OUTCOMES)), dtype=np.int64)
        self._scores = np.zeros((2, _SCORE_BINS), dtype=np.int64)
        self._fallback = np.zeros(2, dtype=np.int64)
        self._n_pairs = 0
        self._sum = self._sum_of_squares = self._sum_absolute = 0.0
        self._largest = 0.0
        self._seconds = LatencyHistogram()
        self._n_timed = 0

    def add(self, now: Answered, answer: Answer, outcomes: npt.NDArray[np.uint8]) -> None:
        """Count rows: what was answered, and what the challenger would have answered."""
        n_outcomes = len(_OUTCOMES)
        pairs = now.outcomes.astype(np.int64) * n_outcomes + outcomes
        counted = np.bincount(pairs, minlength=n_outcomes * n_outcomes)
        self._outcomes += counted.reshape(n_outcomes, n_outcomes)
        self.n_rows += len(pairs)
        for side, served_by in enumerate((now.served_by, answer.served_by)):
            self._fallback[side] += int(np.count_nonzero(served_by == ServedBy.FALLBACK))
        both = (now.served_by == ServedBy.CHAMPION) & (answer.served_by == ServedBy.CHAMPION)
        first, second = now.scores[both], answer.scores[both]
        for side, scores in enumerate((first, second)):
            bins = np.minimum((scores * _SCORE_BINS).astype(np.int64), _SCORE_BINS - 1)
            self._scores[side] += np.bincount(bins, minlength=_SCORE_BINS)
        difference = second - first
        self._n_pairs += len(difference)
        self._sum += float(difference.sum())
        self._sum_of_squares += float(np.square(difference).sum())
        self._sum_absolute += float(np.abs(difference).sum())
        self._largest = max(self._largest, float(np.abs(difference).max(initial=0.0)))

    def time(self, seconds: float, n_rows: int) -> None:
        """Note how long the challenger took for a slice of rows."""
        self._seconds.observe(seconds / n_rows, n=n_rows)
        self._n_timed += n_rows

    def to_data(self) -> dict[str, object]:
        """Return the report as plain data; None where nothing can be said yet."""
        n = self.n_rows
        agreed = int(np.trace(self._outcomes))
        return {
            "n_rows": n,
            "agreement": None if not n else agreed / n,
            "agreement_interval": None if not n else list(wilson(agreed, n)),
            "outcomes": {
                first: {second: int(self._outcomes[i, j]) for j, second in enumerate(_OUTCOMES)}
                for i, first in enumerate(_OUTCOMES)
            },
            "shares": {name: self._shares(i) for i, name in enumerate(_OUTCOMES)},
            "scores": self._score_data(),
            "fallback_rows": {
                "in_service": int(self._fallback[0]),
                "challenger": int(self._fallback[1]),
            },
            "challenger_seconds_a_row": {
                "mean": self._seconds.total_s / n if self._n_timed and n else None,
                "p50": self._seconds.quantile(0.5),
                "p99": self._seconds.quantile(0.99),
            },
        }

    # --- private -----------------------------------------------------------------------------

    def _shares(self, outcome: int) -> dict[str, object]:
        n = self.n_rows
        if not n:
            return {"in_service": None, "challenger": None, "difference_interval": None}
        first = int(self._outcomes[outcome].sum())
        second = int(self._outcomes[:, outcome].sum())
        stayed = int(self._outcomes[outcome, outcome])
        low, high = paired_difference(second - stayed, first - stayed, n)
        return {
            "in_service": first / n,
            "challenger": second / n,
            "difference_interval": [low, high],
        }

    def _score_data(self) -> dict[str, object]:
        n = self._n_pairs
        if not n:
            return {"n_pairs": 0}
        mean = self._sum / n
        variance = max(0.0, self._sum_of_squares / n - mean * mean)
        half = _Z * math.sqrt(variance / n)
        return {
            "n_pairs": n,
            "mean_difference": mean,
            "mean_difference_interval": [mean - half, mean + half],
            "mean_absolute_difference": self._sum_absolute / n,
            "largest_difference": self._largest,
            "distance": jensen_shannon(self._scores[0], self._scores[1]),
            "quantiles": {
                name: {f"p{q}": _quantile(self._scores[side], q / 100) for q in (50, 90, 99)}
                for side, name in enumerate(("in_service", "challenger"))
            },
        }


def wilson(n_hits: int, n: int) -> Interval:
    """Return Wilson's interval of a share, at 95 %.

    Examples
    --------
    >>> low, high = wilson(98, 100)
    >>> round(low, 3), round(high, 3)
    (0.93, 0.994)
    """
    share, z2 = n_hits / n, _Z * _Z
    middle = (share + z2 / (2 * n)) / (1 + z2 / n)
    half = _Z / (1 + z2 / n) * math.sqrt(share * (1 - share) / n + z2 / (4 * n * n))
    return max(0.0, middle - half), min(1.0, middle + half)


def paired_difference(n_gained: int, n_lost: int, n: int) -> Interval:
    """Return the interval of ``(gained - lost) / n``, at 95 %.

    Examples
    --------
    >>> low, high = paired_difference(30, 10, 1000)
    >>> round(low, 4), round(high, 4)
    (0.0077, 0.0323)
    """
    difference = (n_gained - n_lost) / n
    variance = max(0.0, (n_gained + n_lost) / n - difference * difference) / n
    half = _Z * math.sqrt(variance)
    return difference - half, difference + half


def _quantile(counts: npt.NDArray[np.int64], q: float) -> float:
    """Return the upper edge of the bin that holds a quantile."""
    place = int(np.searchsorted(np.cumsum(counts), q * counts.sum()))
    return (min(place, _SCORE_BINS - 1) + 1) / _SCORE_BINS
