"""The gate on what was served: the candidate's features are those that decisions were made on."""

from __future__ import annotations

from sentinel.monitoring.feature_parity import ParityReport
from sentinel.release.gates.result import GateResult, verdict

# Fewer served vectors than this prove nothing.
SERVED_MIN = 100


def feature_parity(report: ParityReport) -> GateResult:
    """Check that a replay of past events gives the served features again, bit by bit.

    Asked where a decision log is at hand. A feature whose definition changed needs another name.
    """
    different = [each for each in report.features if each.n_different]
    detail = f"{report.n_compared} served vectors, each replayed"
    if different:
        worst = max(different, key=lambda each: each.n_different)
        first = f", first at event {worst.first.event_id}" if worst.first is not None else ""
        detail = (
            f"{len(different)} features differ, most of all {worst.feature}, "
            f"{worst.n_different} times{first}"
        )
    elif report.n_not_replayed:
        detail = (
            f"{report.n_not_replayed} decisions without their event, "
            f"the first {report.first_not_replayed}"
        )
    elif report.n_compared < SERVED_MIN:
        detail = f"{report.n_compared} served vectors, at least {SERVED_MIN} needed"
    n_wrong = report.n_different + report.n_not_replayed
    passed = report.holds and report.n_compared >= SERVED_MIN
    return verdict("feature_parity", passed=passed, measured=n_wrong, limit=0, detail=detail)
