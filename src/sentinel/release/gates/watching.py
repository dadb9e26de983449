"""Gates on the canary: it gives its answers again, and it notices a changed model."""

from __future__ import annotations

from sentinel.release.gates.result import Draft, GateResult, verdict
from sentinel.release.mutations import count_killed
from sentinel.release.reproduction import reproduce
from sentinel.scoring.canary import Canary

MUTATIONS = 100
KILLED_SHARE_MIN = 0.95


def canary(draft: Draft) -> GateResult:
    """Check that the canary, read back, gives its answers from the files alone."""
    if draft.canary is None:
        detail = draft.problems.get("canary", "there is no canary")
        return verdict("canary", passed=False, measured=None, limit=0, detail=detail)
    candidate = draft.candidate
    report = reproduce(
        Canary.from_data(draft.canary.to_data()),
        features=candidate.features.to_data(),
        model=draft.model,
        fallback=candidate.fallback.to_data(),
        policy=candidate.policy.to_data(),
    )
    n_events, n_vectors = len(draft.canary.events), len(draft.canary.vectors)
    detail = f"{n_events} events and {n_vectors} vectors: {report}"
    n_wrong = 0 if report.passed else 1
    return verdict("canary", passed=report.passed, measured=n_wrong, limit=0, detail=detail)


def canary_notices(draft: Draft) -> GateResult:
    """Check that of models with one changed number each, the canary finds nearly all."""
    name, limit = "canary_notices", KILLED_SHARE_MIN
    if draft.canary is None or draft.session is None:
        detail = draft.problems.get("canary", "there is no canary")
        return verdict(name, passed=False, measured=None, limit=limit, detail=detail)
    n_killed = count_killed(draft.model, draft.canary, n_mutations=MUTATIONS)
    share = n_killed / MUTATIONS
    detail = f"{n_killed} of {MUTATIONS} models with one changed number were noticed"
    return verdict(name, passed=share >= limit, measured=share, limit=limit, detail=detail)
