"""The governor watches whether the rate of each outcome is what it should be, both ways.

Over a window of ``n`` decisions with ``k`` of one outcome and an expected share ``p``:

1. *too many*: ``k / n > factor * p``; *too few*: ``k / n < p / factor``, none at all included;
2. and chance explains it with a probability below ``chance``, by Chernoff's bound
   ``P <= exp(-n / b * KL(k/n || p))``, where ``KL`` is the relative entropy of two coins and ``b``
   says how many such decisions come together: fraud comes in bursts, and ``n`` decisions then say
   as much as ``n / b`` independent ones. Training measures ``b`` (:meth:`Policy.resolve`).

A rare outcome has a longer window of its own, so that its absence can be told from chance.

It pages; it never changes who serves. In a real attack declines should rise. The scorer asks the
canary when it pages, and only a canary that disagrees shuts the champion off.

The bound is checked after every 100 decisions, wherever batches are cut, so that the same outcomes
give the same pages in batches of any size. With windows of 5,000 decisions a false page is at most
50 times ``chance`` a window.

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

# Fewer decisions than this say nothing about a rate; and after every so many it is judged.
_DECISIONS_STEP = 100
_N_OUTCOMES = len(Outcome)


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
        self._tallies: dict[Outcome, _Tally] = {
            outcome: _Tally(outcome, share, max(rules.window_decisions, _window(rules, share)))
            for outcome, share in expected.items()
            if 0.0 < share < 1.0 and outcome is not Outcome.HELD
        }
        held = _Tally(Outcome.HELD, rules.held_share, rules.window_decisions)
        self._tallies[Outcome.HELD] = held
        self._n_since_judged = 0

    @property
    def pages(self) -> tuple[Page, ...]:
        """Outcomes whose rate is wrong; each stays until a whole window was calm."""
        return tuple(tally.page for tally in self._tallies.values() if tally.page is not None)

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
        new: list[Page] = []
        at = 0
        while at < len(outcomes):
            end = min(at + _DECISIONS_STEP - self._n_since_judged, len(outcomes))
            counts = _counts(outcomes[at:end])
            for tally in self._tallies.values():
                tally.n += end - at
                tally.count += counts[tally.outcome]
            self._n_since_judged += end - at
            at = end
            if self._n_since_judged == _DECISIONS_STEP:
                self._n_since_judged = 0
                new += self._judge_all()
        return tuple(new)

    def _judge_all(self) -> list[Page]:
        """Judge every outcome, and close the windows that are full; give the pages that are new."""
        new = []
        for tally in self._tallies.values():
            page = self._judge(tally)
            if page is not None:
                if tally.page is None:
                    new.append(page)
                tally.page = page
                tally.is_calm = False
            if tally.n >= tally.window:
                tally.start_again()
        return new

    def _judge(self, tally: _Tally) -> Page | None:
        n, expected = tally.n, tally.expected
        share = tally.count / n
        is_held = tally.outcome is Outcome.HELD
        if share > (expected if is_held else self._rules.factor * expected):
            direction = Direction.TOO_MANY
        elif share < expected / self._rules.factor and not is_held:
            direction = Direction.TOO_FEW
        else:
            return None
        burst = 1.0 if is_held else self._rules.burst
        if chance_bound(n / burst, share, expected) >= self._rules.chance:
            return None
        return Page(tally.outcome, direction, share, expected, n)


@dataclass(slots=True)
class _Tally:
    """The open window of one outcome."""

    outcome: Outcome
    expected: float
    window: int
    n: int = 0
    count: int = 0
    page: Page | None = None
    is_calm: bool = True

    def start_again(self) -> None:
        """Close the window; a calm one ends the page."""
        if self.is_calm:
            self.page = None
        self.n = self.count = 0
        self.is_calm = True


def _counts(outcomes: npt.NDArray[np.uint8]) -> list[int]:
    """Count each outcome; one alone needs no array."""
    if len(outcomes) == 1:
        counts = [0] * _N_OUTCOMES
        counts[outcomes.item()] = 1
        return counts
    counted: list[int] = np.bincount(outcomes, minlength=_N_OUTCOMES).tolist()
    return counted


def _window(rules: GovernorRules, share: float) -> int:
    """Count the decisions after which the absence of an outcome is no chance, twice over."""
    return math.ceil(-2.0 * math.log(rules.chance) * rules.burst / share)


def chance_bound(n: float, share: float, expected: float) -> float:
    """Bound the probability that chance moves a share so far, by Chernoff.

    Parameters
    ----------
    n : float
        Independent decisions.
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
