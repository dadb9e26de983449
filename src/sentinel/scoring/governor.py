"""The governor watches whether the rate of each outcome is what it should be, both ways.

Over each window of ``n`` decisions with ``k`` of one outcome and an expected share ``p``:

1. *too many*: ``k / n > factor * p``; *too few*: ``k / n < p / factor``, none at all included;
2. and chance explains it with a probability below ``chance``, by Chernoff's bound
   ``P <= exp(-n * KL(k/n || p))``, where ``KL`` is the relative entropy of two coins.

It pages; it never changes who serves. In a real attack declines should rise. The scorer asks the
canary when it pages, and only a canary that disagrees shuts the champion off.

The bound is checked after every batch, not once: with windows of 5,000 decisions in batches of
100 or more, a false page is at most 50 times ``chance`` a window.

Source: Hoeffding, "Probability inequalities for sums of bounded random variables", 1963,
theorem 1.
"""

from __future__ import annotations

import enum
import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from sentinel.scoring.decision import Outcome
from sentinel.scoring.policy import GovernorRules

# Fewer decisions than this say nothing about a rate.
_DECISIONS_MIN = 100


class Direction(enum.StrEnum):
    """Which way a rate is wrong."""

    TOO_MANY = "too many"
    TOO_FEW = "too few"


@dataclass(frozen=True, slots=True)
class Page:
    """One outcome whose rate is wrong.

    Attributes
    ----------
    outcome : Outcome
    direction : Direction
    share : float
        Of the decisions of the window so far.
    expected : float
        Share that the policy was made for.
    n_decisions : int
        Length of the window so far.
    """

    outcome: Outcome
    direction: Direction
    share: float
    expected: float
    n_decisions: int


class Governor:
    """Watch the rates of outcomes.

    Parameters
    ----------
    rules : GovernorRules
    expected : mapping of Outcome to float
        Expected share of each outcome to watch, in (0, 1).

    Examples
    --------
    >>> governor = Governor(GovernorRules(), {Outcome.DECLINE: 0.01})
    >>> declines = np.full(1_000, Outcome.DECLINE, dtype=np.uint8)
    >>> [(page.outcome.name, page.direction.value) for page in governor.observe(declines)]
    [('DECLINE', 'too many')]
    """

    def __init__(self, rules: GovernorRules, expected: dict[Outcome, float]) -> None:
        self._rules = rules
        self._expected = {o: p for o, p in expected.items() if 0.0 < p < 1.0}
        self._counts = np.zeros(len(Outcome), dtype=np.int64)
        self._pages: dict[Outcome, Page] = {}
        self._seen_in_window: set[Outcome] = set()

    @property
    def pages(self) -> tuple[Page, ...]:
        """Outcomes whose rate is wrong now; each stays for a whole calm window."""
        return tuple(self._pages.values())

    def observe(self, outcomes: npt.NDArray[np.uint8]) -> tuple[Page, ...]:
        """Count decisions.

        Parameters
        ----------
        outcomes : ndarray of uint8, shape (n,)
            Values of :class:`Outcome`, duplicates left out.

        Returns
        -------
        tuple of Page
            Those that are new: raised by this call.
        """
        self._counts += np.bincount(outcomes, minlength=len(Outcome))
        n = int(self._counts.sum())
        found = [page for outcome in Outcome if (page := self._judge(outcome, n)) is not None]
        new = tuple(page for page in found if page.outcome not in self._pages)
        for page in found:
            self._pages[page.outcome] = page
            self._seen_in_window.add(page.outcome)
        if n >= self._rules.window_decisions:
            self._pages = {o: p for o, p in self._pages.items() if o in self._seen_in_window}
            self._seen_in_window.clear()
            self._counts[:] = 0
        return new

    def _judge(self, outcome: Outcome, n: int) -> Page | None:
        if n < _DECISIONS_MIN:
            return None
        share = int(self._counts[outcome]) / n
        if outcome is Outcome.HELD:
            limit = self._rules.held_share
            is_wrong = share > limit and chance_bound(n, share, limit) < self._rules.chance
            return Page(outcome, Direction.TOO_MANY, share, limit, n) if is_wrong else None
        expected = self._expected.get(outcome)
        if expected is None or chance_bound(n, share, expected) >= self._rules.chance:
            return None
        if share > self._rules.factor * expected:
            return Page(outcome, Direction.TOO_MANY, share, expected, n)
        if share < expected / self._rules.factor:
            return Page(outcome, Direction.TOO_FEW, share, expected, n)
        return None


def chance_bound(n: int, share: float, expected: float) -> float:
    """Bound the probability that chance moves a share so far, by Chernoff.

    Parameters
    ----------
    n : int
        Decisions.
    share : float in [0, 1]
        What was seen.
    expected : float in (0, 1)

    Returns
    -------
    float in [0, 1]

    Examples
    --------
    >>> chance_bound(1_000, 0.01, 0.01)
    1.0
    >>> chance_bound(5_000, 0.0, 0.01) < 1e-20
    True
    """
    entropy = 0.0
    if share > 0.0:
        entropy += share * math.log(share / expected)
    if share < 1.0:
        entropy += (1.0 - share) * math.log((1.0 - share) / (1.0 - expected))
    return math.exp(-n * max(0.0, entropy))
