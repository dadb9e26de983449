"""How a scorer is, as data: what a status page, a probe and a person ask."""

from __future__ import annotations

import enum
from dataclasses import dataclass

from sentinel.scoring.breaker import State
from sentinel.scoring.champion import CanaryState
from sentinel.scoring.counts import Counts
from sentinel.scoring.governor import Page


class Health(enum.StrEnum):
    """Whether everything is as it should be; decisions are made in both."""

    HEALTHY = "healthy"
    DEGRADED = "degraded"


@dataclass(frozen=True, slots=True, kw_only=True)
class ScorerStatus:
    """A scorer at one moment.

    Attributes
    ----------
    release, release_digest : str
    execution_provider : str
    health : Health
    causes : tuple of str
        Why it is degraded, for people; callers are not among them.
    breaker : State
    breaker_cause : str
    n_entered : dict of State to int
        How often the breaker entered each state.
    canary : CanaryState
    pages : tuple of Page
        Outcomes whose rate is wrong.
    degraded_sources : tuple of str
    degraded_callers : tuple of str
        Callers of a source that many share, who are refused too often. Who may know their names,
        the door decides.
    drift_score : float or None
        Of the last window, in [0, 1]; None before the first.
    counts : Counts
    n_entities : int
    state_bytes : int
        Memory of the feature state.
    """

    release: str
    release_digest: str
    execution_provider: str
    health: Health
    causes: tuple[str, ...]
    breaker: State
    breaker_cause: str
    n_entered: dict[State, int]
    canary: CanaryState
    pages: tuple[Page, ...]
    degraded_sources: tuple[str, ...]
    degraded_callers: tuple[str, ...]
    drift_score: float | None
    counts: Counts
    n_entities: int
    state_bytes: int


def causes_of(
    *,
    breaker: State,
    breaker_cause: str,
    canary: CanaryState,
    pages: tuple[Page, ...],
    degraded_sources: tuple[str, ...],
    store: str = "",
) -> tuple[str, ...]:
    """Say in words what is not as it should be."""
    causes = []
    if breaker is not State.CLOSED:
        causes.append(f"the fallback answers: breaker {breaker} ({breaker_cause})")
    if not canary.report.passed:
        causes.append(f"canary: {canary.report}")
    causes += [
        f"{page.direction} decisions are {page.outcome.name.lower()}: "
        f"{page.share:.2%} where {page.expected:.2%} was expected"
        for page in pages
    ]
    causes += [f"source {source} is refused too often" for source in degraded_sources]
    if store:
        causes.append(store)
    return tuple(causes)
