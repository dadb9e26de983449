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
        Why it is degraded, for people; empty when healthy.
    breaker : State
    breaker_cause : str
    n_entered : dict of State to int
        How often the breaker entered each state.
    canary : CanaryState
    pages : tuple of Page
        Outcomes whose rate is wrong.
    degraded_sources : tuple of str
    degraded_callers : tuple of str
        Callers of a source that many share.
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


# The one form of a cause that names a caller.
_CALLER, _REFUSED = "caller ", " is refused too often"


def without_callers(causes: tuple[str, ...]) -> tuple[str, ...]:
    """Say of callers how many are refused too often, instead of who.

    Examples
    --------
    >>> without_callers(("a canary", "caller shop is refused too often"))
    ('a canary', '1 caller is refused too often')
    """
    others = tuple(
        cause for cause in causes if not (cause.startswith(_CALLER) and cause.endswith(_REFUSED))
    )
    n_callers = len(causes) - len(others)
    if not n_callers:
        return causes
    who = "1 caller is" if n_callers == 1 else f"{n_callers} callers are"
    return (*others, f"{who} refused too often")


def causes_of(
    *,
    breaker: State,
    breaker_cause: str,
    canary: CanaryState,
    pages: tuple[Page, ...],
    degraded_sources: tuple[str, ...],
    degraded_callers: tuple[str, ...] = (),
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
    causes += [f"{_CALLER}{caller}{_REFUSED}" for caller in degraded_callers]
    if store:
        causes.append(store)
    return tuple(causes)
