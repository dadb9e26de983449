"""Gates on what is declared and on the data: schema, nulls, time travel, evaluation."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from sentinel.core import limits
from sentinel.core.errors import SentinelError
from sentinel.features.feature_set import FeatureSet
from sentinel.features.matrix import DEFAULTED
from sentinel.release.candidate import Candidate
from sentinel.release.gates.result import Draft, GateResult, verdict
from sentinel.scoring.policy import Policy

# A feature that is absent in all but one of a thousand events carries nothing.
NULL_SHARE_MAX = 0.999
# Fewer frauds than this, and no number about the champion means anything.
POSITIVES_MIN = 20
TIME_TRAVEL_EVENTS_MIN = 20


def schema(draft: Draft) -> GateResult:
    """Check that contract, features, models, policy and reference speak of the same columns."""
    candidate = draft.candidate
    names = candidate.features.names
    checks: dict[str, Callable[[], bool]] = {
        "the feature set is that of the pipeline": lambda: _same_set(candidate),
        "every encoding is fitted": lambda: not candidate.features.unfitted,
        "the feature set survives its data form": lambda: (
            FeatureSet.from_data(candidate.features.to_data()).identity
            == candidate.features.identity
        ),
        "the champion takes these features": lambda: candidate.champion.n_features == len(names),
        "the fallback takes these features": lambda: candidate.fallback.features == names,
        "the reference has these features": lambda: (
            candidate.reference.values.shape[1:] == (len(names),)
            and candidate.reference.status.shape == candidate.reference.values.shape
        ),
        "the policy decides by scores": lambda: candidate.policy.is_resolved,
        "the policy survives its data form": lambda: (
            Policy.from_data(candidate.policy.to_data()) == candidate.policy
        ),
        "null counts are given for these features": lambda: (
            set(candidate.null_counts) == set(names)
        ),
    }
    broken = [what for what, check in checks.items() if not _holds(check)]
    if "reference" in draft.problems:
        broken.append(draft.problems["reference"])
    detail = f"not so: {broken[0]}" if broken else f"{len(names)} features, {len(checks)} checks"
    return verdict("schema", passed=not broken, measured=len(broken), limit=0, detail=detail)


def nulls(draft: Draft) -> GateResult:
    """Check that no feature is absent nearly always, and that every value is finite."""
    candidate = draft.candidate
    n_rows = max(1, candidate.provenance.n_rows.get("train", 0))
    shares = {name: count / n_rows for name, count in candidate.null_counts.items()}
    by_reference = (candidate.reference.status == DEFAULTED).mean(axis=0)
    for name, share in zip(candidate.features.names, by_reference, strict=False):
        shares[name] = max(shares.get(name, 0.0), float(share))
    worst = max(shares, key=lambda name: shares[name], default="")
    n_odd = int((~np.isfinite(candidate.reference.values)).sum())
    share = shares.get(worst, 0.0)
    detail = f"largest share of absent values, {worst}; {n_odd} values are not finite"
    passed = share <= NULL_SHARE_MAX and n_odd == 0
    return verdict("nulls", passed=passed, measured=share, limit=NULL_SHARE_MAX, detail=detail)


def time_travel(draft: Draft) -> GateResult:
    """Check that cutting the log before an event changes none of its features."""
    travel = draft.candidate.time_travel
    enough = travel.n_checked >= TIME_TRAVEL_EVENTS_MIN
    detail = travel.detail or f"{travel.n_checked} events, the log cut before each"
    if not enough:
        detail = f"{travel.n_checked} events checked, {TIME_TRAVEL_EVENTS_MIN} needed"
    passed = enough and travel.n_different == 0
    return verdict(
        "time_travel", passed=passed, measured=travel.n_different, limit=0, detail=detail
    )


def evaluation(draft: Draft) -> GateResult:
    """Check that the later part is later, has both classes, and has probabilities by both."""
    later = draft.candidate.later
    delay_ms = draft.candidate.pipeline.label.delay_ms
    n_positive = int(later.labels.sum())
    problems = []
    if not later.from_ms < later.until_ms:
        problems.append("the later part covers no time")
    if later.trained_until_ms + delay_ms > later.from_ms:
        problems.append("training ends less than the label delay before the later part")
    if len(later.labels) - n_positive < POSITIVES_MIN:
        problems.append("too few events that were no fraud")
    both = (later.champion_scores, later.fallback_scores)
    if any(s.shape != later.labels.shape or not ((s >= 0) & (s <= 1)).all() for s in both):
        problems.append("scores that are no probabilities, one an event")
    detail = problems[0] if problems else f"{n_positive} frauds in {len(later.labels)} events"
    passed = not problems and n_positive >= POSITIVES_MIN
    return verdict(
        "evaluation", passed=passed, measured=n_positive, limit=POSITIVES_MIN, detail=detail
    )


def _same_set(candidate: Candidate) -> bool:
    declared = candidate.pipeline.features
    return (
        declared.names == candidate.features.names
        and declared.events.schema_hash == candidate.features.events.schema_hash
        and len(candidate.features.names) <= limits.FEATURES_MAX
    )


def _holds(check: Callable[[], bool]) -> bool:
    try:
        return check()
    except SentinelError:
        return False
