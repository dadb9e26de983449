"""Each gate refuses the candidate that it exists for, and no other gate does it for it."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.release.conftest import (
    DAY_MS,
    N_EVENTS,
    START_MS,
    declared_features,
    good_candidate,
    matrix,
    raw_events,
)

from sentinel.release import Candidate, OnnxModel, TimeTravel, TreeEnsemble
from sentinel.release.build import make_draft
from sentinel.release.export import to_onnx
from sentinel.release.gates import GATES, Draft, feature_parity, run_gates
from sentinel.release.gates.model import average_precision
from sentinel.scoring.canary import Canary
from sentinel.scoring.policy import Policy


def with_trees(**changes: object) -> Candidate:
    good = good_candidate()
    assert isinstance(good.champion, TreeEnsemble)
    return dataclasses.replace(good, champion=dataclasses.replace(good.champion, **changes))


def with_later(**changes: object) -> Candidate:
    good = good_candidate()
    return dataclasses.replace(good, later=dataclasses.replace(good.later, **changes))


def with_reference(**changes: object) -> Candidate:
    good = good_candidate()
    return dataclasses.replace(good, reference=dataclasses.replace(good.reference, **changes))


def with_parity(**changes: object) -> Candidate:
    good = good_candidate()
    return dataclasses.replace(good, parity=dataclasses.replace(good.parity, **changes))


def leaf_changed(value: float) -> np.ndarray:
    champion = good_candidate().champion
    assert isinstance(champion, TreeEnsemble)
    changed = champion.value.copy()
    changed[np.flatnonzero(champion.feature < 0)[0]] = value
    return changed


def threshold_changed(value: float) -> np.ndarray:
    champion = good_candidate().champion
    assert isinstance(champion, TreeEnsemble)
    changed = champion.threshold.copy()
    changed[0] = value
    return changed


def foreign(change: Callable[[onnx.ModelProto], object]) -> Candidate:
    """Hand over ONNX bytes that somebody changed."""
    good = good_candidate()
    model = onnx.load_from_string(to_onnx(good.champion))
    change(model)
    return dataclasses.replace(
        good, champion=OnnxModel(content=model.SerializeToString(), n_features=5)
    )


def one_row_off() -> np.ndarray:
    scores = good_candidate().parity.scores.copy()
    scores[137] += 2e-5
    return scores


def one_nan() -> np.ndarray:
    """Put NaN where no path of any tree asks for it: only the gate on nulls can see it."""
    values = matrix().values.copy()
    champion = good_candidate().champion
    assert isinstance(champion, TreeEnsemble)
    for row in range(len(values)):
        values[row, 3] = np.nan
        if champion.scores(values[row : row + 1])[0] == good_candidate().reference.scores[row]:
            return values
        values[row, 3] = matrix().values[row, 3]
    raise AssertionError("every row asks")


def always_absent() -> dict[str, int]:
    return {**good_candidate().null_counts, "n_1h": N_EVENTS}


def constant() -> Candidate:
    champion = good_candidate().champion
    assert isinstance(champion, TreeEnsemble)
    flat = dataclasses.replace(champion, value=np.zeros_like(champion.value))
    scores = flat.scores(matrix().values)
    good = with_parity(scores=scores[:500])
    reference = dataclasses.replace(good.reference, scores=scores)
    return dataclasses.replace(good, champion=flat, reference=reference)


def swapped(model: onnx.ModelProto) -> None:
    """Negate the leaves: the label order swapped."""
    for attribute in model.graph.node[0].attribute:
        if attribute.name == "target_weights":
            attribute.floats[:] = [-weight for weight in attribute.floats]


# What is wrong, the candidate, the gates that must say so.
BAD: dict[str, tuple[Callable[[], Candidate], set[str]]] = {
    "an encoding that nobody fitted": (
        lambda: dataclasses.replace(good_candidate(), features=declared_features()),
        {"schema", "canary", "canary_notices"},
    ),
    "a fallback for other features": (
        lambda: dataclasses.replace(
            good_candidate(),
            fallback=dataclasses.replace(
                good_candidate().fallback, features=("a", "b", "c", "d", "e")
            ),
        ),
        {"schema"},
    ),
    "shares that nobody resolved": (
        lambda: dataclasses.replace(
            good_candidate(), policy=Policy(review_share=0.1, decline_share=0.01)
        ),
        {"schema"},
    ),
    "null counts of other features": (
        lambda: dataclasses.replace(good_candidate(), null_counts={"x": 1}),
        {"schema"},
    ),
    "a feature that is never there": (
        lambda: dataclasses.replace(good_candidate(), null_counts=always_absent()),
        {"nulls"},
    ),
    "a feature that is never there later": (
        lambda: with_reference(status=np.ones_like(matrix().status)),
        {"nulls"},
    ),
    "a value that is not finite": (
        lambda: with_reference(values=one_nan()),
        {"nulls"},
    ),
    "a feature that reads the future": (
        lambda: dataclasses.replace(
            good_candidate(), time_travel=TimeTravel(n_checked=50, n_different=1, detail="n_1h")
        ),
        {"time_travel"},
    ),
    "a time-travel test of nothing": (
        lambda: dataclasses.replace(
            good_candidate(), time_travel=TimeTravel(n_checked=0, n_different=0)
        ),
        {"time_travel"},
    ),
    "one class only": (
        lambda: with_later(labels=np.zeros(N_EVENTS, bool)),
        {"evaluation", "champion_better"},
    ),
    "a later part that is not later": (
        lambda: with_later(trained_until_ms=START_MS),
        {"evaluation"},
    ),
    "less than the label delay between": (
        lambda: with_later(trained_until_ms=START_MS - 7 * DAY_MS + 1),
        {"evaluation"},
    ),
    "scores that are no probabilities": (
        lambda: with_later(champion_scores=good_candidate().later.champion_scores * 1.01 + 0.02),
        {"evaluation"},
    ),
    "a score that is NaN": (
        lambda: with_later(champion_scores=np.full(N_EVENTS, np.nan)),
        {"evaluation", "champion_better"},
    ),
    "a leaf that is NaN": (
        lambda: with_trees(value=leaf_changed(np.nan)),
        {"weights", "operators", "parity", "outputs", "canary", "canary_notices"},
    ),
    "a leaf that is infinite": (
        lambda: with_trees(value=leaf_changed(np.inf)),
        {"weights", "operators", "parity", "outputs", "canary", "canary_notices"},
    ),
    "a threshold that is NaN": (
        lambda: with_trees(threshold=threshold_changed(np.nan)),
        {"weights", "operators", "parity", "outputs", "canary", "canary_notices"},
    ),
    "an operator that is not allowed": (
        lambda: foreign(lambda m: setattr(m.graph.node[1], "op_type", "Erf")),
        {"operators", "parity", "outputs", "canary", "canary_notices"},
    ),
    "an output of another name": (
        lambda: foreign(lambda m: setattr(m.graph.output[0], "name", "x")),
        {"operators", "parity", "outputs", "canary", "canary_notices"},
    ),
    "an output of another type": (
        lambda: foreign(lambda m: setattr(m.graph.output[0].type.tensor_type, "elem_type", 11)),
        {"operators", "parity", "outputs", "canary", "canary_notices"},
    ),
    "one row that the trained model answers otherwise": (
        lambda: with_parity(scores=one_row_off()),
        {"parity"},
    ),
    "a leaf that the export changed": (
        lambda: with_trees(value=leaf_changed(0.5)),
        {"parity", "outputs"},
    ),
    "labels in the other order": (lambda: foreign(swapped), {"parity", "outputs"}),
    "too few rows to compare": (
        lambda: with_parity(inputs=matrix().values[:9], scores=good_candidate().parity.scores[:9]),
        {"parity"},
    ),
    "outputs out of range": (
        lambda: dataclasses.replace(
            good_candidate(),
            policy=msgspec.structs.replace(
                good_candidate().policy,
                outputs=msgspec.structs.replace(good_candidate().policy.outputs, minimum=0.01),
            ),
        ),
        {"outputs", "canary", "canary_notices"},
    ),
    "reference scores of another model": (
        lambda: with_reference(scores=good_candidate().reference.scores[::-1].copy()),
        {"outputs"},
    ),
    "a constant output": (constant, {"outputs", "canary", "canary_notices"}),
    "a champion no better than the fallback": (
        lambda: with_later(champion_scores=good_candidate().later.fallback_scores),
        {"champion_better"},
    ),
    "a canary that the contract refuses": (
        lambda: dataclasses.replace(good_candidate(), canary_events=(b"{}",)),
        {"canary", "canary_notices"},
    ),
    "no canary": (
        lambda: dataclasses.replace(good_candidate(), canary_events=()),
        {"canary", "canary_notices"},
    ),
}


def failed(draft: Draft) -> set[str]:
    return {result.name for result in run_gates(draft) if not result.passed}


def test_a_good_candidate_passes_every_gate() -> None:
    results = run_gates(make_draft(good_candidate()))
    assert [result.name for result in results] == [gate.__name__ for gate in GATES]
    assert [result for result in results if not result.passed] == []
    assert all(result.detail for result in results)


@pytest.mark.parametrize("what", BAD)
def test_a_bad_candidate_fails_the_gates_that_exist_for_it(what: str) -> None:
    """Removed from the list, a gate says nothing: then this fails."""
    make, expected = BAD[what]
    with np.errstate(invalid="ignore"):
        assert failed(make_draft(make())) == expected


def test_each_gate_is_the_only_one_for_some_fault_or_part_of_a_known_chain() -> None:
    """No gate of the list could be removed without one of the rows above failing."""
    named = set().union(*(expected for _, expected in BAD.values()))
    assert named == {gate.__name__ for gate in GATES}


def test_a_canary_with_other_answers_does_not_reproduce() -> None:
    draft = make_draft(good_candidate())
    assert draft.canary is not None
    scores = draft.canary.event_scores.copy()
    scores[3] += np.float32(1e-3)
    lying = dataclasses.replace(
        draft, canary=dataclasses.replace(draft.canary, event_scores=scores)
    )
    assert "canary" in failed(lying)


def test_a_canary_that_sees_two_rows_notices_too_little() -> None:
    """One event and one vector reach few leaves: most changed models pass it."""
    draft = make_draft(good_candidate())
    full = draft.canary
    assert full is not None
    blind = Canary(
        features=full.features,
        tolerance=full.tolerance,
        events=full.events[:1],
        event_vectors=full.event_vectors[:1],
        event_scores=full.event_scores[:1],
        event_fallback_scores=full.event_fallback_scores[:1],
        vectors=full.vectors[-1:],
        vector_scores=full.vector_scores[-1:],
    )
    assert failed(dataclasses.replace(draft, canary=blind)) == {"canary_notices"}


def test_results_hold_no_number_that_json_cannot_write() -> None:
    for what in ("a score that is NaN", "a leaf that is NaN"):
        with np.errstate(invalid="ignore"):
            for result in run_gates(make_draft(BAD[what][0]())):
                assert result.measured is None or np.isfinite(result.measured)
                assert np.isfinite(result.limit)


@settings(deadline=None)
@given(st.lists(st.tuples(st.booleans(), st.integers(0, 5)), min_size=1, max_size=40))
def test_average_precision_is_that_of_scikit_learn(rows: list[tuple[bool, int]]) -> None:
    from sklearn.metrics import average_precision_score

    labels = np.array([label for label, _ in rows])
    scores = np.array([score for _, score in rows], dtype=np.float64)
    if labels.any():
        theirs = average_precision_score(labels, scores)
        assert average_precision(labels, scores) == pytest.approx(theirs, abs=1e-12)
    else:
        assert average_precision(labels, scores) == 0.0


def test_the_canary_events_are_events_of_the_log() -> None:
    draft = make_draft(good_candidate())
    assert draft.canary is not None
    assert draft.canary.events == raw_events()[:64]


def test_every_gate_has_a_line_in_the_documentation() -> None:
    text = (Path(__file__).parents[2] / "docs" / "release.md").read_text()
    table = text.split("## Gates")[1].split("## ")[0]
    assert re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE) == [
        gate.__name__ for gate in (*GATES, feature_parity)
    ]
