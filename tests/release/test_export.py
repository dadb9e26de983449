"""From neutral models to ONNX: the same paths, the same scores, the same bytes."""

from __future__ import annotations

import dataclasses
import math
import platform
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.release.conftest import good_candidate, matrix, random_trees

from sentinel.core import limits
from sentinel.core.errors import ErrorCode, SentinelError
from sentinel.release import Linear, OnnxModel, TreeEnsemble
from sentinel.release.edges import edge_rows, leaf_rows
from sentinel.release.export import round_down, to_onnx
from sentinel.scoring.session import ModelSession

doubles = st.floats(allow_nan=False, allow_infinity=False)
singles = st.floats(width=32, allow_nan=False, allow_infinity=False)
LARGEST = float(np.finfo(np.float32).max)


def trees() -> TreeEnsemble:
    champion = good_candidate().champion
    assert isinstance(champion, TreeEnsemble)
    return champion


def scores(content: bytes, inputs: np.ndarray) -> np.ndarray:
    return np.asarray(ModelSession(content, n_features=inputs.shape[1]).run(inputs), np.float64)


@given(doubles.filter(lambda t: t >= -LARGEST), singles)
def test_a_rounded_threshold_sends_every_float32_the_same_way(t: float, x: float) -> None:
    """``x <= t`` in float64 exactly when ``x <= round_down(t)`` in float32."""
    rounded = round_down(np.array([t]))[0]
    assert rounded.dtype == np.float32
    assert (x <= t) == (np.float32(x) <= rounded)


def test_the_smallest_threshold_is_itself_without_a_warning() -> None:
    assert round_down(np.array([-LARGEST]))[0] == np.float32(-LARGEST)


@given(singles, st.integers(-2, 2))
def test_thresholds_beside_a_float32_send_it_the_same_way(x: float, steps: int) -> None:
    """The hard cases: doubles next to a float32 number, on both sides and on it."""
    t = x
    for _ in range(abs(steps)):
        t = math.nextafter(t, math.inf if steps > 0 else -math.inf)
    if t < -LARGEST:
        return
    assert (x <= t) == (np.float32(x) <= round_down(np.array([t]))[0])


@pytest.mark.parametrize("t", [np.nan, np.inf, -np.inf, -3.5e38])
def test_a_threshold_that_no_float32_can_express_is_refused(t: float) -> None:
    with pytest.raises(SentinelError) as caught:
        round_down(np.array([0.0, t]))
    assert caught.value.code is ErrorCode.RELEASE_MODEL_INVALID
    assert caught.value.at == "trees.threshold"


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 30), st.integers(1, 40))
def test_exported_trees_answer_like_the_neutral_ones(
    seed: int, n_trees: int, n_leaves: int
) -> None:
    inputs = matrix().values[:300]
    ensemble = random_trees(inputs, n_trees=n_trees, n_leaves=n_leaves, seed=seed)
    ensemble.check()
    edges = edge_rows(ensemble, inputs)
    rows = np.concatenate([inputs, edges])
    assert np.abs(scores(to_onnx(ensemble), rows) - ensemble.scores(rows)).max() < 1e-6


def test_a_score_does_not_depend_on_the_batch_it_came_in() -> None:
    content = to_onnx(trees())
    values = matrix().values[:513]
    together = scores(content, values)
    for size in (1, 2, 7, 64, 100, 256):
        parts = [scores(content, values[i : i + size]) for i in range(0, len(values), size)]
        assert np.array_equal(np.concatenate(parts), together)


def test_a_linear_champion_answers_like_the_neutral_one_in_any_batch() -> None:
    rng = np.random.default_rng(1)
    linear = Linear(
        coefficients=rng.normal(size=5),
        centre=rng.normal(size=5),
        scale=rng.random(5) + 0.1,
        intercept=-1.0,
    )
    values = rng.normal(size=(200, 5)).astype(np.float32)
    content = to_onnx(linear)
    together = scores(content, values)
    assert np.abs(together - linear.scores(values)).max() < 1e-7
    alone = [scores(content, values[i : i + 1])[0] for i in range(len(values))]
    assert np.array_equal(alone, together)


def test_the_same_model_gives_the_same_bytes_and_says_nothing_of_the_machine() -> None:
    content = to_onnx(trees())
    assert content == to_onnx(trees())
    model = onnx.load_from_string(content)
    assert {entry.domain: entry.version for entry in model.opset_import} == {
        "": 17,
        "ai.onnx.ml": 3,
    }
    assert [value.name for value in model.graph.input] == ["features"]
    assert [value.name for value in model.graph.output] == ["score"]
    assert model.graph.input[0].type.tensor_type.shape.dim[0].dim_param == "rows"
    assert not model.doc_string
    assert str(Path.cwd()).encode() not in content
    assert platform.node().encode() not in content


def test_onnx_bytes_pass_through_unchanged() -> None:
    assert to_onnx(OnnxModel(content=b"as it is", n_features=1)) == b"as it is"


def test_lightgbm_is_exported_on_the_paths_it_was_trained_on() -> None:
    """The real thing, once: a small boosted model against its own library."""
    import lightgbm

    from sentinel.training.boosted import read_trees

    rng = np.random.default_rng(3)
    values = rng.normal(size=(3_000, 5)).astype(np.float32)
    labels = (values[:, 0] * values[:, 1] + rng.normal(size=3_000) > 1).astype(int)
    options = {"objective": "binary", "num_leaves": 31, "verbose": -1, "seed": 1, "num_threads": 1}
    booster = lightgbm.train(options, lightgbm.Dataset(values, labels), 40)
    ensemble = read_trees(booster, n_rounds=40, n_features=5)
    edges = edge_rows(ensemble, values)
    # LightGBM reads numbers of at most 1e-35 as 0; of float32 numbers only -1e-35 itself then
    # goes another way than its own thresholds say.
    edges = edges[((edges == 0) | (np.abs(edges) > 1.01e-35)).all(axis=1)]
    assert len(edges) > 400
    rows = np.concatenate([values, edges])
    theirs = booster.predict(rows.astype(np.float64))
    assert np.abs(ensemble.scores(rows) - theirs).max() < 1e-12
    assert np.abs(scores(to_onnx(ensemble), rows) - theirs).max() < 1e-6


def test_rows_are_moved_into_the_leaves_that_they_are_meant_for() -> None:
    ensemble = trees()
    leaves = np.flatnonzero(ensemble.feature < 0)
    rows = leaf_rows(ensemble, leaves, matrix().values)
    assert len(rows) == len(leaves)
    reached = ensemble.leaves(rows)
    assert all(leaf in reached[i] for i, leaf in enumerate(leaves))


def broken(name: str, value: object) -> TreeEnsemble:
    array = getattr(trees(), name).copy()
    array[0] = value
    return dataclasses.replace(trees(), **{name: array})


BROKEN = {
    "a child before its parent": lambda: broken("left", 0),
    "a child in another tree": lambda: broken("left", trees().roots[1] + 1),
    "a child out of range": lambda: broken("right", trees().n_nodes),
    "one child twice": lambda: broken("left", trees().right[0]),
    "a feature out of range": lambda: broken("feature", 5),
    "a feature below -1": lambda: broken("feature", -2),
    "a branch that claims to be a leaf": lambda: broken("feature", -1),
    "roots from 1": lambda: broken("roots", 1),
    "no trees": lambda: dataclasses.replace(trees(), roots=np.zeros(0, np.int32)),
    "roots backwards": lambda: dataclasses.replace(trees(), roots=trees().roots[::-1].copy()),
    "float32 thresholds": lambda: dataclasses.replace(
        trees(), threshold=trees().threshold.astype(np.float32)
    ),
    "fewer leaves": lambda: dataclasses.replace(trees(), value=trees().value[:-1]),
    "no features": lambda: dataclasses.replace(trees(), n_features=0),
    "too many features": lambda: dataclasses.replace(trees(), n_features=limits.FEATURES_MAX + 1),
}


@pytest.mark.parametrize("what", BROKEN)
def test_arrays_that_are_no_trees_are_refused(what: str) -> None:
    with pytest.raises(SentinelError) as caught:
        BROKEN[what]().check()
    assert caught.value.code is ErrorCode.RELEASE_MODEL_INVALID
    assert caught.value.at.startswith("trees")


@pytest.mark.parametrize(
    ("name", "value", "at"),
    [
        ("scale", np.zeros(2), "linear.scale"),
        ("scale", np.full(2, np.nan), "linear.scale"),
        ("centre", np.zeros(3), "linear.centre"),
        ("coefficients", np.zeros(2, np.float32), "linear.coefficients"),
    ],
)
def test_arrays_that_are_no_linear_model_are_refused(name: str, value: np.ndarray, at: str) -> None:
    linear = Linear(coefficients=np.ones(2), centre=np.zeros(2), scale=np.ones(2), intercept=0.0)
    with pytest.raises(SentinelError) as caught:
        dataclasses.replace(linear, **{name: value}).check()
    assert (caught.value.code, caught.value.at) == (ErrorCode.RELEASE_MODEL_INVALID, at)
