"""Champions that lie, fail or mix their rows, as real ONNX models."""

from __future__ import annotations

import numpy as np
from onnx import TensorProto, helper
from onnx import numpy_helper as arrays
from scoring_rig import onnx_model


def constant(name: str, value: float, kind: type = np.float32) -> object:
    tensor = arrays.from_array(np.array([value], dtype=kind), name=name)
    return helper.make_node("Constant", [], [name], value=tensor)


def lying_model(value: float, *, above: float = 100.0) -> bytes:
    """Write a champion that answers ``value`` when the feature ``risk`` is above 100."""
    good = helper.make_node("Sigmoid", ["scaled"], ["good"])
    nodes = [
        constant("column", 1, np.int64),
        constant("limit", above),
        constant("lie", value),
        constant("slope", 0.001),
        constant("first", 0, np.int64),
        helper.make_node("Gather", ["features", "column"], ["risk"], axis=1),
        helper.make_node("Gather", ["features", "first"], ["amount"], axis=1),
        helper.make_node("Mul", ["amount", "slope"], ["scaled"]),
        good,
        helper.make_node("Greater", ["risk", "limit"], ["is_lie"]),
        helper.make_node("Where", ["is_lie", "lie", "good"], ["score"]),
    ]
    return onnx_model(nodes)


def failing_model() -> bytes:
    """Write a champion that raises when ``risk`` is above 100: an index out of range."""
    table = helper.make_node(
        "Constant",
        [],
        ["table"],
        value=arrays.from_array(np.linspace(0.1, 0.9, 200, dtype=np.float32), name="t"),
    )
    nodes = [
        table,
        constant("column", 1, np.int64),
        constant("scale", 1.9),
        helper.make_node("Gather", ["features", "column"], ["risk"], axis=1),
        helper.make_node("Mul", ["risk", "scale"], ["scaled"]),
        helper.make_node("Cast", ["scaled"], ["index"], to=TensorProto.INT64),
        helper.make_node("Gather", ["table", "index"], ["score"], axis=0),
    ]
    return onnx_model(nodes)


def reversing_model() -> bytes:
    """Write a champion that gives its scores in reversed order for batches above 92 rows."""
    # The canary has 60 + 32 rows and must pass: only larger batches come out wrong.
    nodes = [
        constant("first", 0, np.int64),
        constant("slope", 0.001),
        constant("long", 92, np.int64),
        constant("one", 1, np.int64),
        constant("end", -(1 << 40), np.int64),
        constant("last", -1, np.int64),
        constant("axis", 0, np.int64),
        helper.make_node("Gather", ["features", "first"], ["amount"], axis=1),
        helper.make_node("Mul", ["amount", "slope"], ["scaled"]),
        helper.make_node("Sigmoid", ["scaled"], ["good"]),
        helper.make_node("Shape", ["good"], ["shape"]),
        helper.make_node("Gather", ["shape", "first"], ["n"]),
        helper.make_node("Greater", ["n", "long"], ["is_long"]),
        helper.make_node("Slice", ["good", "last", "end", "axis", "last"], ["reversed"]),
        helper.make_node("Where", ["is_long", "reversed", "good"], ["score"]),
    ]
    return onnx_model(nodes)
