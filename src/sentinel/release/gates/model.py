"""Gates on the model: weights, operators, parity, outputs, better than the fallback."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from sentinel.core.errors import SentinelError
from sentinel.release.champion import Linear, OnnxModel, TreeEnsemble
from sentinel.release.edges import edge_rows
from sentinel.release.gates.result import Draft, GateResult, verdict
from sentinel.release.operators import admit
from sentinel.scoring.guards import run_in_slices
from sentinel.scoring.session import ModelSession

# Largest difference of a probability between the trained model and the exported one. Float32
# sums of 2,000 trees were 2e-6 off; a row on a wrong path is off by a hundred times this.
PARITY_MAX = 1e-5
PARITY_ROWS_MIN = 100
# Rows that are also scored one by one: a score must not depend on the batch it came in.
ALONE_ROWS = 32


def weights(draft: Draft) -> GateResult:
    """Check that every number of champion and fallback is finite."""
    champion, fallback = draft.candidate.champion, draft.candidate.fallback
    parts: dict[str, npt.NDArray[np.float64]] = {
        "fallback coefficients": fallback.coefficients,
        "fallback intercept": np.array([fallback.intercept]),
    }
    if isinstance(champion, TreeEnsemble):
        parts["thresholds"], parts["leaves"] = champion.threshold, champion.value
        parts["offset"] = np.array([champion.offset])
    if isinstance(champion, Linear):
        parts["coefficients"] = champion.coefficients
        parts["centre"], parts["scale"] = champion.centre, champion.scale
        parts["intercept"] = np.array([champion.intercept])
    odd = {name: int((~np.isfinite(part)).sum()) for name, part in parts.items()}
    n_odd = sum(odd.values())
    detail = ", ".join(f"{n} of the {name}" for name, n in odd.items() if n) or "all are finite"
    if isinstance(champion, OnnxModel):
        detail += "; those inside the ONNX file are looked at by the gate on operators"
    return verdict("weights", passed=n_odd == 0, measured=n_odd, limit=0, detail=detail)


def operators(draft: Draft) -> GateResult:
    """Check that the ONNX file has allowed operators, shapes and finite numbers only."""
    problem = draft.problems.get("export", "")
    detail = problem
    if not problem:
        try:
            admitted = admit(draft.model, n_features=len(draft.candidate.features.names))
            detail = f"{', '.join(admitted.operators)}; {admitted.n_weights} numbers"
        except SentinelError as error:
            problem = detail = str(error)
    n_problems = 1 if problem else 0
    return verdict("operators", passed=not problem, measured=n_problems, limit=0, detail=detail)


def parity(draft: Draft) -> GateResult:
    """Check that the exported model answers each row as the trained one did, edges too."""
    sample, session = draft.candidate.parity, draft.session
    if session is None:
        return _not_measured("parity", PARITY_MAX, draft)
    if len(sample.inputs) < PARITY_ROWS_MIN or sample.scores.shape != (len(sample.inputs),):
        detail = f"{len(sample.inputs)} rows, at least {PARITY_ROWS_MIN} needed"
        return verdict("parity", passed=False, measured=None, limit=PARITY_MAX, detail=detail)
    difference = np.abs(_run(session, sample.inputs) - sample.scores)
    champion, n_edges = draft.candidate.champion, 0
    if isinstance(champion, TreeEnsemble):
        edges = edge_rows(champion, sample.inputs)
        n_edges = len(edges)
        on_edges = np.abs(_run(session, edges) - champion.scores(edges))
        difference = np.concatenate([difference, on_edges])
    n_off = int((~(difference <= PARITY_MAX)).sum())
    worst = float(difference.max())
    detail = f"largest difference of {len(sample.inputs)} rows and {n_edges} on thresholds"
    detail += (
        f"; {n_off} rows are off, the first is row {int(np.argmax(~(difference <= PARITY_MAX)))}"
        if n_off
        else ""
    )
    return verdict("parity", passed=n_off == 0, measured=worst, limit=PARITY_MAX, detail=detail)


def outputs(draft: Draft) -> GateResult:
    """Check that outputs are in range, not constant, the reference's, the same in any batch."""
    session, reference = draft.session, draft.candidate.reference
    rules = draft.candidate.policy.outputs
    if session is None:
        return _not_measured("outputs", 0, draft)
    scores = _run(session, reference.values)
    alone = [
        _run(session, reference.values[i : i + 1]) for i in range(min(ALONE_ROWS, len(scores)))
    ]
    finite = np.isfinite(scores)
    problems = {
        "rows that are not finite": int((~finite).sum()),
        "rows out of range": int(
            ((scores < rules.minimum) | (scores > rules.maximum))[finite].sum()
        ),
        "rows of a constant output": len(scores) if len(np.unique(scores)) < 2 else 0,
        "rows that differ from the reference": int(
            (~(np.abs(scores - reference.scores) <= PARITY_MAX)).sum()
        ),
        "rows that depend on their batch": int(
            (np.concatenate(alone) != scores[: len(alone)]).sum()
        ),
    }
    n_bad = sum(problems.values())
    found = ", ".join(f"{n} {what}" for what, n in problems.items() if n)
    detail = found or f"{len(scores)} rows from {scores.min():.6g} to {scores.max():.6g}"
    return verdict("outputs", passed=n_bad == 0, measured=n_bad, limit=0, detail=detail)


def champion_better(draft: Draft) -> GateResult:
    """Check that the champion ranks the later part better than the fallback does."""
    later = draft.candidate.later
    ours = average_precision(later.labels, later.champion_scores)
    theirs = average_precision(later.labels, later.fallback_scores)
    detail = f"average precision, champion {ours:.4f} less fallback {theirs:.4f}"
    return verdict(
        "champion_better", passed=ours > theirs, measured=ours - theirs, limit=0, detail=detail
    )


def average_precision(labels: npt.NDArray[np.bool_], scores: npt.NDArray[np.float64]) -> float:
    """Average precision: the mean, over positives, of the precision at their rank; O(n log n).

    Ties are one threshold, so the order of equal scores does not matter (as in scikit-learn's
    ``average_precision_score``).

    Examples
    --------
    >>> average_precision(np.array([True, False, True]), np.array([0.9, 0.8, 0.7]))
    0.8333333333333333
    """
    if not labels.any() or not np.isfinite(scores).all():
        return 0.0
    order = np.argsort(-scores, kind="stable")
    ordered = scores[order]
    last_of_tie = np.append(np.flatnonzero(np.diff(ordered)), len(ordered) - 1)
    hits = np.cumsum(labels[order])[last_of_tie]
    precision = hits / (last_of_tie + 1)
    gained = np.diff(np.concatenate([[0], hits]))
    return float((precision * gained).sum() / labels.sum())


def _run(session: ModelSession, inputs: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    scores = run_in_slices(session.run, np.ascontiguousarray(inputs, dtype=np.float32))
    return np.asarray(scores, dtype=np.float64).reshape(len(inputs))


def _not_measured(name: str, limit: float, draft: Draft) -> GateResult:
    why = draft.problems.get("export") or draft.problems.get("admission") or "no session"
    return verdict(name, passed=False, measured=None, limit=limit, detail=f"not measured: {why}")
