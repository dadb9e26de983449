"""A session takes bytes that are a model of the right form, and nothing else."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto, helper
from scoring_rig import N_FEATURES, TREES, onnx_model, tree_model

from sentinel.core import limits
from sentinel.core.errors import ErrorCode, SentinelError
from sentinel.scoring.session import ModelSession

IDENTITY = helper.make_node("Identity", ["features"], ["score"])


def sum_of_columns() -> bytes:
    return onnx_model([helper.make_node("ReduceMax", ["features"], ["score"], axes=[1])])


def two_outputs() -> bytes:
    graph = helper.make_graph(
        [
            helper.make_node("ReduceMax", ["features"], ["score"], axes=[1]),
            helper.make_node("ReduceMin", ["features"], ["other"], axes=[1]),
        ],
        "champion",
        [helper.make_tensor_value_info("features", TensorProto.FLOAT, ["N", N_FEATURES])],
        [
            helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", 1])
            for name in ("score", "other")
        ],
    )
    content: bytes = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8
    ).SerializeToString()
    return content


def test_scores_are_one_float32_a_row() -> None:
    session = ModelSession(tree_model(), n_features=N_FEATURES)
    values = np.random.default_rng(0).normal(size=(7, N_FEATURES)).astype(np.float32)
    scores = session.run(values)
    assert (scores.shape, scores.dtype) == ((7,), np.float32)
    low = [np.where(values[:, t.feature] <= t.threshold, t.low, t.high) for t in TREES]
    assert scores == pytest.approx(1 / (1 + np.exp(-np.sum(low, axis=0))), rel=1e-5)


def test_a_score_does_not_depend_on_its_batch() -> None:
    session = ModelSession(tree_model(), n_features=N_FEATURES)
    values = (np.random.default_rng(1).random((700, N_FEATURES)) * 2_000).astype(np.float32)
    whole = session.run(values).tobytes()
    for size in (1, 2, 20, 50, 64, 129):
        parts = [session.run(values[at : at + size]) for at in range(0, 700, size)]
        assert np.concatenate(parts).tobytes() == whole


@pytest.mark.parametrize(
    ("content", "at"),
    [
        (b"", "model"),
        (b"not a model", "model"),
        (tree_model()[:-40], "model"),
        (tree_model(n_features=4), "model.inputs.features"),
        (onnx_model([IDENTITY], input_type=TensorProto.FLOAT, output_shape=["N", 5]),
         "model.outputs.score"),
        (two_outputs(), "model.outputs"),
    ],
)  # fmt: skip
def test_bytes_of_another_form_are_refused(content: bytes, at: str) -> None:
    with pytest.raises(SentinelError) as caught:
        ModelSession(content, n_features=N_FEATURES)
    assert (caught.value.code, caught.value.at) == (ErrorCode.MODEL_INVALID, at)


def test_a_path_is_refused() -> None:
    with pytest.raises(SentinelError) as caught:
        ModelSession("model.onnx", n_features=N_FEATURES)  # type: ignore[arg-type]
    assert (caught.value.code, caught.value.at) == (ErrorCode.MODEL_INVALID, "model")


def test_too_many_bytes_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "MODEL_BYTES_MAX", 10)
    with pytest.raises(SentinelError) as caught:
        ModelSession(b"x" * 11, n_features=N_FEATURES)
    assert caught.value.at == "model"


def test_what_the_runtime_raises_comes_as_an_error_of_the_house() -> None:
    session = ModelSession(sum_of_columns(), n_features=N_FEATURES)
    with pytest.raises(SentinelError) as caught:
        session.run(np.zeros((3, N_FEATURES + 1), np.float32))
    assert (caught.value.code, caught.value.at) == (ErrorCode.MODEL_FAILED, "champion")


def test_the_runtime_leaves_nothing_in_the_home_folder(tmp_path: Path) -> None:
    """ONNX Runtime's telemetry keeps a device id and a database there unless it is told not to."""
    environment = {k: v for k, v in os.environ.items() if k != "ORT_DISABLE_TELEMETRY"}
    subprocess.run(
        [sys.executable, "-c", "import sentinel.scoring.session"],
        env={**environment, "HOME": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path / "cache")},
        check=True,
    )
    assert [path.name for path in tmp_path.iterdir()] == ["cache"]
