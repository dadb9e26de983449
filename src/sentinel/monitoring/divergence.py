"""How far two histograms are apart: a distance for people, a probability for alarms.

Jensen-Shannon, base 2, because it is the one divergence in common use that is symmetric, needs no
invented count in an empty bin, and is bounded: 0 for equal, 1 for disjoint. Its square root is a
metric (Endres, Schindelin 2003), so distances of replicas and days can be compared.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

Int64Array = npt.NDArray[np.int64]

# Cells with fewer counts in both samples together are pooled before a test.
CELL_COUNT_MIN = 20


def jensen_shannon(first: Int64Array, second: Int64Array, *, design_effect: float = 1.0) -> float:
    """Return the Jensen-Shannon distance of two histograms, without the part that is chance.

    A finite sample is never quite its own distribution: the expected divergence of two samples of
    ``n`` and ``m`` from the same one is ``(k - 1)(1/n + 1/m) / (8 ln 2)`` bits for ``k`` filled
    cells; that, times the design effect, is taken off before the root.

    Parameters
    ----------
    first, second : ndarray of int64, shape (n_cells,)
        Counts of the same cells.
    design_effect : float, at least 1
        How much more samples of this kind differ than independent ones.

    Returns
    -------
    float
        In [0, 1]; 0.0 where either histogram is empty.

    Examples
    --------
    >>> jensen_shannon(np.array([1000, 0]), np.array([0, 1000]))
    1.0
    """
    n, m = int(first.sum()), int(second.sum())
    if n == 0 or m == 0:
        return 0.0
    p, q = first / n, second / m
    middle = (p + q) / 2
    is_filled = middle > 0
    if np.array_equal(p, q):
        return 0.0
    divergence = (_bits(p, middle) + _bits(q, middle)) / 2
    if divergence >= 1.0 - 1e-12:
        return 1.0
    chance = design_effect * (int(is_filled.sum()) - 1) * (1 / n + 1 / m) / (8 * math.log(2))
    return math.sqrt(min(1.0, max(0.0, divergence - chance)))


def homogeneity(first: Int64Array, second: Int64Array) -> tuple[float, int]:
    """Return Pearson's two-sample statistic of two histograms, and its degrees of freedom.

    Cells with few counts are pooled into one, so that the statistic is near its limit law.

    Returns
    -------
    statistic : float
        ``sum((sqrt(m/n) o - sqrt(n/m) r)^2 / (o + r))``; 0.0 where there is nothing to compare.
    n_degrees : int
        Cells after pooling, less one.

    Notes
    -----
    Press et al., *Numerical Recipes*, 3rd edition, section 14.3.
    """
    n, m = int(first.sum()), int(second.sum())
    if n == 0 or m == 0:
        return 0.0, 0
    share = min(n, m) / (n + m)
    is_small = (first + second) * share < CELL_COUNT_MIN
    observed = np.append(first[~is_small], first[is_small].sum())
    reference = np.append(second[~is_small], second[is_small].sum())
    total = observed + reference
    keep = total > 0
    observed, reference, total = observed[keep], reference[keep], total[keep]
    difference = math.sqrt(m / n) * observed - math.sqrt(n / m) * reference
    return float((difference**2 / total).sum()), len(total) - 1


def chi_square_tail(statistic: float, n_degrees: int) -> float:
    """Return the probability that a chi-square variable is larger than a statistic.

    Parameters
    ----------
    statistic : float, at least 0
    n_degrees : int
        0 gives 1.0: nothing was compared.

    Notes
    -----
    The closed forms for whole degrees of freedom: Abramowitz, Stegun, *Handbook of Mathematical
    Functions*, 26.4.4 (odd) and 26.4.5 (even). Linear in ``n_degrees``.

    Examples
    --------
    >>> round(chi_square_tail(3.841458820694124, 1), 6)
    0.05
    """
    if n_degrees <= 0 or statistic <= 0:
        return 1.0
    half = statistic / 2
    if n_degrees % 2 == 0:
        term = total = math.exp(-half)
        for i in range(1, n_degrees // 2):
            term *= half / i
            total += term
        return min(1.0, total)
    total = math.erfc(math.sqrt(half))
    term = math.exp(-half) * math.sqrt(half) * 2 / math.sqrt(math.pi)
    for i in range(1, (n_degrees + 1) // 2):
        total += term
        term *= half / (i + 0.5)
    return min(1.0, total)


def _bits(p: npt.NDArray[np.float64], middle: npt.NDArray[np.float64]) -> float:
    keep = p > 0
    return float((p[keep] * np.log2(p[keep] / middle[keep])).sum())
