"""Changed models: a canary is worth what it notices."""

from __future__ import annotations

import dataclasses

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from tests.release.conftest import good_candidate, matrix

from sentinel.core import limits
from sentinel.core.errors import ErrorCode, SentinelError
from sentinel.release import Linear, OnnxModel
from sentinel.release.build import make_draft
from sentinel.release.gates.watching import KILLED_SHARE_MIN, canary_notices
from sentinel.release.mutations import count_killed
from sentinel.release.operators import admit
from sentinel.scoring.canary import Canary
from sentinel.scoring.session import ModelSession


def canary_of(content: bytes, values: np.ndarray, *, tolerance: float = 1e-4) -> Canary:
    scores = np.asarray(ModelSession(content, n_features=values.shape[1]).run(values))
    return Canary(
        features=tuple(f"f{i}" for i in range(values.shape[1])),
        tolerance=tolerance,
        events=(b"{}",),
        event_vectors=values[:1],
        event_scores=scores[:1],
        event_fallback_scores=scores[:1],
        vectors=values[1:],
        vector_scores=scores[1:],
    )


def test_an_unchanged_model_is_not_killed_and_a_changed_one_is() -> None:
    draft = make_draft(good_candidate())
    assert draft.canary is not None
    before = draft.model
    assert count_killed(draft.model, draft.canary, n_mutations=30) == 30
    assert draft.model == before


def test_changes_of_a_linear_model_are_noticed() -> None:
    rng = np.random.default_rng(2)
    linear = Linear(
        coefficients=rng.normal(size=5),
        centre=np.zeros(5),
        scale=np.ones(5),
        intercept=0.1,
    )
    candidate = dataclasses.replace(good_candidate(), champion=linear)
    draft = make_draft(candidate)
    assert draft.model
    values = rng.normal(size=(40, 5)).astype(np.float32)
    assert count_killed(draft.model, canary_of(draft.model, values), n_mutations=20) == 20


@pytest.mark.reliability("G9")
@pytest.mark.parametrize("tolerance", [0.0, 0.011, 0.5, float("inf"), float("nan")])
def test_a_canary_that_forgives_too_much_is_none(tolerance: float) -> None:
    draft = make_draft(good_candidate())
    assert draft.canary is not None
    with pytest.raises(SentinelError) as refused:
        dataclasses.replace(draft.canary, tolerance=tolerance)
    assert (refused.value.code, refused.value.at) == (ErrorCode.CANARY_INVALID, "canary.tolerance")


@pytest.mark.reliability("G9")
def test_the_gate_fails_where_the_canary_looks_at_too_little() -> None:
    """Rows as they come, at the widest tolerance; chosen for every leaf, they pass."""
    draft = make_draft(good_candidate())
    assert canary_notices(draft).passed
    blind = canary_of(draft.model, matrix().values[:60], tolerance=limits.CANARY_TOLERANCE_MAX)
    result = canary_notices(dataclasses.replace(draft, canary=blind))
    assert not result.passed
    assert float(str(result.measured)) < KILLED_SHARE_MIN


@pytest.mark.reliability("G9")
def test_without_a_canary_the_gate_fails() -> None:
    draft = make_draft(dataclasses.replace(good_candidate(), canary_events=()))
    assert not canary_notices(draft).passed


def test_a_model_without_a_number_has_no_mutations() -> None:
    nodes = [helper.make_node("Sigmoid", ["features"], ["score"])]
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes,
        "g",
        [value("features", TensorProto.FLOAT, ["rows", 1])],
        [value("score", TensorProto.FLOAT, ["rows", 1])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    model.ir_version = 8
    onnx.checker.check_model(model)
    champion = OnnxModel(content=model.SerializeToString(), n_features=1)
    admit(champion.content, n_features=1)
    values = np.array([[0.0], [1.0], [2.0]], np.float32)
    assert count_killed(champion.content, canary_of(champion.content, values), n_mutations=5) == 0
