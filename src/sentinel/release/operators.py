"""Admission: which ONNX bytes may become a session at all.

The runtime is never shown bytes that have not passed here. The question is not "is anything known
to be bad in it" (a deny-list can be walked around) but "is all of it known to be good":

1. :mod:`sentinel.release.wire` reads the bytes with a closed list of messages and fields.
2. Layout and operator-set versions, one input ``features`` and one output ``score``.
3. Each node is one operator of :data:`OPERATORS`, with known attributes.
4. Shapes are derived on the way: each intermediate result is rows of a known width. No operator
   of the list can make a result larger than its rows times ``MODEL_WIDTH_MAX``, so memory is
   bounded before anything runs; no loop, no branch, no file, no text.
5. Every weight is finite, every tree is a tree (:mod:`sentinel.release.tree_admission`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from sentinel.core import limits
from sentinel.release import wire
from sentinel.release.tree_admission import check_trees
from sentinel.release.wire import Message, refuse

INPUT_NAME = "features"
OUTPUT_NAME = "score"
IR_VERSIONS = range(8, 11)
# Operator sets and the versions read: those of opset 17 and what came just before it.
OPSETS: Mapping[str, range] = {"": range(13, 18), "ai.onnx.ml": range(3, 4)}

FLOAT, DOUBLE = 1, 11
DTYPES: Mapping[int, np.dtype[np.float32] | np.dtype[np.float64]] = {
    FLOAT: np.dtype(np.float32),
    DOUBLE: np.dtype(np.float64),
}
_TYPE_OF_ROW = {"floats": 6, "ints": 7, "strings": 8}
_TYPE_OF_ONE = {"f": 1, "i": 2, "s": 3}
_MESSAGE_FIELDS_MAX = 4_096

Attribute = int | float | bytes | list[bytes] | npt.NDArray[np.generic]


@dataclass(frozen=True, slots=True)
class Rows:
    """An intermediate result: any number of rows, ``width`` columns."""

    width: int
    dtype: int


@dataclass(frozen=True, slots=True)
class Constant:
    """A weight."""

    shape: tuple[int, ...]
    dtype: int

    @property
    def width(self) -> int:
        """Columns when it is spread over rows; 0 when it cannot be."""
        if len(self.shape) == 2 and self.shape[0] != 1:
            return 0
        return self.shape[-1] if self.shape else 1


Tensor = Rows | Constant


@dataclass(frozen=True, slots=True)
class Node:
    """One operator of the graph with what goes in."""

    at: str
    operator: str
    inputs: tuple[Tensor, ...]
    attributes: Mapping[str, Attribute]


@dataclass(frozen=True, slots=True)
class Admitted:
    """What is known of a model that passed.

    Attributes
    ----------
    n_features : int
    operators : tuple of str
        ``domain.Operator`` of each node, in order.
    n_trees : int
    n_weights : int
        Numbers in the model: initialisers, thresholds, leaves.
    """

    n_features: int
    operators: tuple[str, ...]
    n_trees: int
    n_weights: int


def admit(content: bytes, *, n_features: int) -> Admitted:
    """Decide whether ONNX bytes may be opened; linear in their size.

    Parameters
    ----------
    content : bytes
        A serialised ModelProto.
    n_features : int
        Columns that the feature set has.

    Raises
    ------
    SentinelError
        ``release-not-admitted`` at the first thing that is not on the list.
    """
    if not 0 < len(content) <= limits.MODEL_BYTES_MAX:
        raise refuse("model", f"1 to {limits.MODEL_BYTES_MAX} bytes", len(content))
    model = wire.fields(content, wire.MODEL, at="model", n_max=_MESSAGE_FIELDS_MAX)
    _check_model(model)
    graph = wire.fields(
        model.bytes_of("graph"), wire.GRAPH, at="model.graph", n_max=_MESSAGE_FIELDS_MAX
    )
    graph.text("name"), graph.text("doc_string")
    found = _value(graph, "input", INPUT_NAME)
    if found != (INPUT_NAME, FLOAT, n_features):
        raise refuse("model.graph.input", f"{INPUT_NAME}: float32 [rows, {n_features}]", found)
    tensors: dict[str, Tensor] = {INPUT_NAME: Rows(n_features, FLOAT)}
    n_weights = _read_weights(graph, tensors)
    operators, n_trees, n_tree_weights = _walk(graph, tensors)
    _check_output(graph, tensors)
    return Admitted(n_features, operators, n_trees, n_weights + n_tree_weights)


def _check_model(model: Message) -> None:
    ir_version = model.number("ir_version")
    if ir_version not in IR_VERSIONS:
        raise refuse("model.ir_version", f"{IR_VERSIONS[0]} to {IR_VERSIONS[-1]}", ir_version)
    for name in ("producer_name", "producer_version", "domain", "doc_string"):
        model.text(name)
    seen: set[str] = set()
    for content in model.all("opset_import"):
        opset = wire.fields(content, wire.OPSET, at="model.opset_import", n_max=2)
        domain, version = opset.text("domain"), opset.number("version")
        if domain in seen or domain not in OPSETS or version not in OPSETS[domain]:
            raise refuse("model.opset_import", "an operator set of the list", f"{domain} {version}")
        seen.add(domain)
    if "" not in seen:
        raise refuse("model.opset_import", "the default operator set", sorted(seen))
    if len(model.all("metadata_props")) > limits.MODEL_METADATA_MAX:
        raise refuse("model.metadata_props", f"at most {limits.MODEL_METADATA_MAX}", "more")
    for content in model.all("metadata_props"):
        entry = wire.fields(content, wire.ENTRY, at="model.metadata_props", n_max=2)
        entry.text("key"), entry.text("value")


def _value(graph: Message, name: str, expected: str) -> tuple[str, int, int]:
    """Read the one input or output as name, element type, columns."""
    at = f"model.graph.{name}"
    found = graph.all(name)
    if len(found) != 1:
        raise refuse(at, f"exactly one, {expected}", len(found))
    value = wire.fields(found[0], wire.VALUE, at=at, n_max=3)
    kind = wire.fields(value.bytes_of("type"), wire.TYPE, at=at, n_max=1)
    tensor = wire.fields(kind.bytes_of("tensor_type"), wire.TENSOR_TYPE, at=at, n_max=2)
    shape = wire.fields(tensor.bytes_of("shape"), wire.SHAPE, at=at, n_max=8)
    dims = [wire.fields(dim, wire.DIM, at=at, n_max=1) for dim in shape.all("dim")]
    if len(dims) != 2 or dims[0].has("dim_value") or not dims[1].has("dim_value"):
        raise refuse(at, "two dimensions, the first of any size", f"{len(dims)}")
    dims[0].text("dim_param")
    return value.text("name"), tensor.number("elem_type"), dims[1].number("dim_value")


def _read_weights(graph: Message, tensors: dict[str, Tensor]) -> int:
    n_weights = 0
    for index, content in enumerate(graph.all("initializer")):
        at = f"model.graph.initializer[{index}]"
        tensor = wire.fields(content, wire.TENSOR, at=at, n_max=16)
        name, dtype = tensor.text("name"), tensor.number("data_type")
        dims = tuple(tensor.numbers.get("dims", []))
        if dtype not in DTYPES:
            raise refuse(at, "float32 or float64", f"type {dtype}")
        raw = tensor.bytes_of("raw_data")
        if len(dims) > 2 or any(dim < 1 for dim in dims):
            raise refuse(at, "at most two dimensions, each at least 1", dims)
        if math.prod(dims) * DTYPES[dtype].itemsize != len(raw):
            raise refuse(at, f"{math.prod(dims)} numbers in raw_data", f"{len(raw)} bytes")
        if not np.isfinite(np.frombuffer(raw, DTYPES[dtype])).all():
            raise refuse(at, "finite weights", "NaN or infinity")
        _define(tensors, name, Constant(dims, dtype), at)
        n_weights += math.prod(dims)
    return n_weights


def _define(tensors: dict[str, Tensor], name: str, tensor: Tensor, at: str) -> None:
    if not name or name in tensors:
        raise refuse(at, "a name of its own", name or "none")
    if tensor.width > limits.MODEL_WIDTH_MAX and isinstance(tensor, Rows):
        raise refuse(at, f"at most {limits.MODEL_WIDTH_MAX} columns", tensor.width)
    tensors[name] = tensor


def _walk(graph: Message, tensors: dict[str, Tensor]) -> tuple[tuple[str, ...], int, int]:
    """Check the nodes in order; return operators, trees and numbers in trees."""
    nodes = graph.all("node")
    if not 1 <= len(nodes) <= limits.MODEL_GRAPH_NODES_MAX:
        raise refuse("model.graph", f"1 to {limits.MODEL_GRAPH_NODES_MAX} nodes", len(nodes))
    operators: list[str] = []
    n_trees = n_weights = 0
    for index, content in enumerate(nodes):
        at = f"model.graph.node[{index}]"
        parts = wire.fields(content, wire.NODE, at=at, n_max=_MESSAGE_FIELDS_MAX)
        operator = ".".join(filter(None, (parts.text("domain"), parts.text("op_type"))))
        if operator not in OPERATORS:
            raise refuse(at, "an operator of the allow-list", operator)
        parts.text("name"), parts.text("doc_string")
        attributes = read_attributes(parts, at)
        node = Node(at, operator, _inputs(parts, tensors, at), attributes)
        outputs = [wire.plain_text(name, at=at) for name in parts.all("output")]
        if len(outputs) != 1:
            raise refuse(at, "one output", len(outputs))
        _define(tensors, outputs[0], OPERATORS[operator](node), at)
        operators.append(operator)
        if operator == TREES:
            n_trees += len(np.unique(_row(attributes["nodes_treeids"])))
            n_weights += len(_row(attributes["nodes_values"]))
            n_weights += len(_row(attributes["target_weights"]))
    return tuple(operators), n_trees, n_weights


def _row(attribute: Attribute) -> npt.NDArray[np.generic]:
    return attribute if isinstance(attribute, np.ndarray) else np.zeros(0)


def _inputs(parts: Message, tensors: Mapping[str, Tensor], at: str) -> tuple[Tensor, ...]:
    names = [wire.plain_text(name, at=at) for name in parts.all("input")]
    for name in names:
        if name not in tensors:
            raise refuse(at, "inputs that stand before it", name)
    return tuple(tensors[name] for name in names)


def read_attributes(parts: Message, at: str) -> dict[str, Attribute]:
    """Read the attributes of one node, each once, each of its own type."""
    result: dict[str, Attribute] = {}
    for content in parts.all("attribute"):
        message, row = wire.attribute_rows(content, at=at)
        name = message.text("name")
        place = f"{at}.{name}"
        message.text("doc_string")
        if not name or name in result:
            raise refuse(at, "each attribute once", name)
        result[name] = _attribute(message, row, place)
    return result


def _attribute(message: Message, row: npt.NDArray[np.generic] | None, at: str) -> Attribute:
    kind = message.number("type")
    present = {name for name in (*_TYPE_OF_ONE, *_TYPE_OF_ROW) if message.has(name)}
    if row is not None:
        if kind != (6 if row.dtype == np.float32 else 7):
            raise refuse(at, "the type of its numbers", f"type {kind}")
        return row
    allowed = {name for name, type_ in {**_TYPE_OF_ONE, **_TYPE_OF_ROW}.items() if type_ == kind}
    if not allowed or present - allowed:
        raise refuse(at, "one value of its own type", f"type {kind} with {sorted(present)}")
    if kind == _TYPE_OF_ONE["f"]:
        value = float(np.frombuffer(message.bytes_of("f") or bytes(4), "<f4")[0])
        if not math.isfinite(value):
            raise refuse(at, "a finite number", value)
        return value
    if kind == _TYPE_OF_ONE["i"]:
        return message.number("i")
    if kind == _TYPE_OF_ONE["s"]:
        return message.bytes_of("s")
    if kind == _TYPE_OF_ROW["strings"]:
        return message.all("strings")
    return np.zeros(0, np.float32 if kind == _TYPE_OF_ROW["floats"] else np.int64)


def _check_output(graph: Message, tensors: Mapping[str, Tensor]) -> None:
    found = _value(graph, "output", OUTPUT_NAME)
    if found != (OUTPUT_NAME, FLOAT, 1):
        raise refuse("model.graph.output", f"{OUTPUT_NAME}: float32 [rows, 1]", found)
    if tensors.get(OUTPUT_NAME) != Rows(1, FLOAT):
        raise refuse("model.graph.output", "one float32 a row", tensors.get(OUTPUT_NAME))


# --- operators: each checks its inputs and attributes, and says what comes out -----------------


def _arity(node: Node, n_inputs: int, *, attributes: frozenset[str] = frozenset()) -> None:
    if len(node.inputs) != n_inputs:
        raise refuse(node.at, f"{n_inputs} inputs", len(node.inputs))
    if unknown := sorted(node.attributes.keys() - attributes):
        raise refuse(node.at, "attributes of the allow-list", unknown[0])


def _rows_at(node: Node, index: int) -> Rows:
    tensor = node.inputs[index]
    if not isinstance(tensor, Rows):
        raise refuse(node.at, f"rows at input {index}", tensor)
    return tensor


def _same(node: Node) -> Rows:
    _arity(node, 1)
    return _rows_at(node, 0)


def _elementwise(node: Node) -> Rows:
    _arity(node, 2)
    left, right = node.inputs
    rows = left if isinstance(left, Rows) else right
    other = right if rows is left else left
    if (
        not isinstance(rows, Rows)
        or rows.dtype != other.dtype
        or other.width not in {rows.width, 1}
    ):
        raise refuse(node.at, "rows, and rows or weights that fit them", f"{left}, {right}")
    return rows


def _cast(node: Node) -> Rows:
    _arity(node, 1, attributes=frozenset({"to"}))
    to = node.attributes.get("to")
    if to not in (FLOAT, DOUBLE):
        raise refuse(node.at, "float32 or float64", to)
    return Rows(_rows_at(node, 0).width, int(to))


def _matmul(node: Node) -> Rows:
    _arity(node, 2)
    rows, weight = _rows_at(node, 0), node.inputs[1]
    if not isinstance(weight, Constant) or len(weight.shape) != 2 or weight.dtype != rows.dtype:
        raise refuse(node.at, "weights of two dimensions", weight)
    if weight.shape[0] != rows.width:
        raise refuse(node.at, f"weights of {rows.width} rows", weight)
    return Rows(weight.shape[1], rows.dtype)


def _gemm(node: Node) -> Rows:
    allowed = frozenset({"alpha", "beta", "transA", "transB"})
    _arity(node, len(node.inputs) if len(node.inputs) in {2, 3} else 3, attributes=allowed)
    rows, weight = _rows_at(node, 0), node.inputs[1]
    if not isinstance(weight, Constant) or len(weight.shape) != 2 or weight.dtype != rows.dtype:
        raise refuse(node.at, "weights of two dimensions", weight)
    if node.attributes.get("transA", 0) != 0 or node.attributes.get("transB", 0) not in (0, 1):
        raise refuse(node.at, "transA 0, transB 0 or 1", "others")
    depth, width = weight.shape if not node.attributes.get("transB", 0) else weight.shape[::-1]
    if depth != rows.width:
        raise refuse(node.at, f"weights for {rows.width} columns", weight)
    if len(node.inputs) == 3:
        bias = node.inputs[2]
        if (
            not isinstance(bias, Constant)
            or bias.dtype != rows.dtype
            or bias.width not in {width, 1}
        ):
            raise refuse(node.at, f"a bias of {width} columns", bias)
    return Rows(width, rows.dtype)


def _trees(node: Node) -> Rows:
    if len(node.inputs) != 1 or _rows_at(node, 0).dtype != FLOAT:
        raise refuse(node.at, "one input of float32 rows", node.inputs)
    check_trees(node.attributes, n_features=_rows_at(node, 0).width, at=node.at)
    return Rows(1, FLOAT)


TREES = "ai.onnx.ml.TreeEnsembleRegressor"
OPERATORS: Mapping[str, Callable[[Node], Rows]] = {
    "Add": _elementwise,
    "Cast": _cast,
    "Div": _elementwise,
    "Gemm": _gemm,
    "Identity": _same,
    "MatMul": _matmul,
    "Mul": _elementwise,
    "Relu": _same,
    "Sigmoid": _same,
    "Sub": _elementwise,
    "Tanh": _same,
    TREES: _trees,
}
