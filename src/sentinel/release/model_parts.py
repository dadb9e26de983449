"""The arrays inside an admitted ONNX model: what explanations are computed from.

Only models that passed :func:`sentinel.release.operators.admit` come here; their bytes have one
reading. What is read is what the runtime scores with: thresholds, leaves and coefficients as they
were exported, not as they were trained.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from sentinel.core import limits
from sentinel.release import wire
from sentinel.release.champion import Linear, TreeEnsemble
from sentinel.release.operators import DTYPES, TREES, Admitted, Attribute, read_attributes

Float64Array = npt.NDArray[np.float64]
Int64Array = npt.NDArray[np.int64]

# The graphs that this house exports: trees, and a standardised linear model.
_TREE_GRAPH = (TREES, "Sigmoid")
_LINEAR_GRAPH = ("Cast", "Sub", "Div", "MatMul", "Add", "Sigmoid", "Cast")
_LINEAR_WEIGHTS = ("centre", "scale", "coefficients", "intercept")


def read_trees(content: bytes, admitted: Admitted) -> TreeEnsemble | None:
    """Read the trees of an admitted model; None when it is not trees and a sigmoid.

    Parameters
    ----------
    content : bytes
    admitted : Admitted
        What :func:`~sentinel.release.operators.admit` said of these bytes.

    Returns
    -------
    TreeEnsemble or None
        Thresholds and leaves as the runtime has them, without covers.
    """
    if admitted.operators != _TREE_GRAPH:
        return None
    graph = _graph(content)
    node = wire.fields(graph.all("node")[0], wire.NODE, at="node", n_max=limits.MODEL_NODES_MAX)
    attributes = read_attributes(node, "node")
    ids = _ints(attributes, "nodes_treeids")
    is_leaf = np.array([mode == b"LEAF" for mode in _texts(attributes, "nodes_modes")])
    position = np.arange(len(ids))
    is_first = np.append(True, np.diff(ids) != 0)
    start = np.maximum.accumulate(np.where(is_first, position, 0))
    value = np.zeros(len(ids))
    value[is_leaf] = _floats(attributes, "target_weights")
    offset = _floats(attributes, "base_values")

    def child(name: str) -> npt.NDArray[np.int32]:
        return np.where(is_leaf, -1, start + _ints(attributes, name)).astype(np.int32)

    return TreeEnsemble(
        n_features=admitted.n_features,
        feature=np.where(is_leaf, -1, _ints(attributes, "nodes_featureids")).astype(np.int32),
        threshold=np.where(is_leaf, 0.0, _floats(attributes, "nodes_values")),
        left=child("nodes_truenodeids"),
        right=child("nodes_falsenodeids"),
        value=value,
        roots=np.flatnonzero(is_first).astype(np.int32),
        offset=float(offset[0]) if len(offset) else 0.0,
    )


def read_linear(content: bytes, admitted: Admitted) -> Linear | None:
    """Read the coefficients of an admitted model; None when it is not a linear one of ours."""
    if admitted.operators != _LINEAR_GRAPH:
        return None
    found: dict[str, Float64Array] = {}
    for initializer in _graph(content).all("initializer"):
        tensor = wire.fields(initializer, wire.TENSOR, at="initializer", n_max=16)
        dtype = DTYPES[tensor.number("data_type")]
        array = np.frombuffer(tensor.bytes_of("raw_data"), dtype).astype(np.float64)
        found[tensor.text("name")] = array
    sizes = {name: len(found.get(name, ())) for name in _LINEAR_WEIGHTS}
    if set(found) != set(_LINEAR_WEIGHTS) or sizes != {
        **dict.fromkeys(_LINEAR_WEIGHTS, admitted.n_features),
        "intercept": 1,
    }:
        return None
    return Linear(
        coefficients=found["coefficients"],
        centre=found["centre"],
        scale=found["scale"],
        intercept=float(found["intercept"][0]),
    )


def _graph(content: bytes) -> wire.Message:
    n_max = limits.MODEL_NODES_MAX
    model = wire.fields(content, wire.MODEL, at="model", n_max=n_max)
    return wire.fields(model.bytes_of("graph"), wire.GRAPH, at="model.graph", n_max=n_max)


def _ints(attributes: Mapping[str, Attribute], name: str) -> Int64Array:
    return np.asarray(attributes[name], dtype=np.int64)


def _floats(attributes: Mapping[str, Attribute], name: str) -> Float64Array:
    return np.asarray(attributes.get(name, np.zeros(0)), dtype=np.float64)


def _texts(attributes: Mapping[str, Attribute], name: str) -> list[bytes]:
    texts = attributes[name]
    return texts if isinstance(texts, list) else []
