"""Admission: everything that is not known to be good is refused before a session exists."""

from __future__ import annotations

import random
import re
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from tests.release.conftest import good_candidate

from sentinel.core import limits
from sentinel.core.errors import ErrorCode, SentinelError
from sentinel.release.champion import Linear
from sentinel.release.export import to_onnx
from sentinel.release.operators import OPERATORS, admit
from sentinel.scoring.session import ModelSession

N = 3


def value(
    name: str, columns: object = 1, dtype: int = TensorProto.FLOAT, rows: object = "rows"
) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, dtype, [rows, columns])


def model(
    nodes: list[onnx.NodeProto],
    *weights: onnx.TensorProto,
    inputs: list[onnx.ValueInfoProto] | None = None,
    outputs: list[onnx.ValueInfoProto] | None = None,
) -> onnx.ModelProto:
    graph = helper.make_graph(
        nodes,
        "g",
        [value("features", N)] if inputs is None else inputs,
        [value("score")] if outputs is None else outputs,
        initializer=list(weights),
    )
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("ai.onnx.ml", 3)]
    made = helper.make_model(graph, opset_imports=opsets)
    made.ir_version = 8
    return made


def weight(name: str, array: object, dtype: type = np.float32) -> onnx.TensorProto:
    return numpy_helper.from_array(np.array(array, dtype=dtype), name)


def dense() -> onnx.ModelProto:
    """Make a linear model in three nodes: what good looks like."""
    nodes = [
        helper.make_node("MatMul", ["features", "w"], ["product"]),
        helper.make_node("Add", ["product", "b"], ["log_odds"]),
        helper.make_node("Sigmoid", ["log_odds"], ["score"]),
    ]
    return model(nodes, weight("w", [[1.0], [2.0], [3.0]]), weight("b", [0.5]))


def trees(**changes: object) -> onnx.ModelProto:
    """One tree of three nodes."""
    attributes: dict[str, object] = {
        "n_targets": 1,
        "aggregate_function": "SUM",
        "post_transform": "NONE",
        "nodes_treeids": [0, 0, 0],
        "nodes_nodeids": [0, 1, 2],
        "nodes_featureids": [1, 0, 0],
        "nodes_modes": ["BRANCH_LEQ", "LEAF", "LEAF"],
        "nodes_values": [0.5, 0.0, 0.0],
        "nodes_truenodeids": [1, 0, 0],
        "nodes_falsenodeids": [2, 0, 0],
        "target_treeids": [0, 0],
        "target_nodeids": [1, 2],
        "target_ids": [0, 0],
        "target_weights": [0.1, -0.1],
        **changes,
    }
    kept = {name: item for name, item in attributes.items() if item is not None}
    nodes = [
        helper.make_node(
            "TreeEnsembleRegressor", ["features"], ["log_odds"], domain="ai.onnx.ml", **kept
        ),
        helper.make_node("Sigmoid", ["log_odds"], ["score"]),
    ]
    return model(nodes)


def one_node(
    operator: str, inputs: list[str], *weights: onnx.TensorProto, **attributes: object
) -> onnx.ModelProto:
    domain = attributes.pop("domain", "")
    nodes = [
        helper.make_node(operator, inputs, ["x"], domain=domain, **attributes),
        helper.make_node("Sigmoid", ["x"], ["score"]),
    ]
    return model(nodes, *weights)


def refuse(content: bytes) -> SentinelError:
    with pytest.raises(SentinelError) as caught:
        admit(content, n_features=N)
    assert caught.value.code is ErrorCode.RELEASE_NOT_ADMITTED
    return caught.value


def changed(
    change: Callable[[onnx.ModelProto], object], base: Callable[[], onnx.ModelProto] = dense
) -> bytes:
    made = base()
    change(made)
    content: bytes = made.SerializeToString()
    return content


def external(entries: dict[str, str]) -> bytes:
    def change(made: onnx.ModelProto) -> None:
        tensor = made.graph.initializer[0]
        tensor.ClearField("raw_data")
        tensor.data_location = TensorProto.EXTERNAL
        for key, item in entries.items():
            tensor.external_data.add(key=key, value=item)

    return changed(change)


def subgraph() -> onnx.GraphProto:
    return helper.make_graph([], "inner", [], [value("inner_out")])


def deep_if(depth: int) -> onnx.ModelProto:
    body = helper.make_graph(
        [helper.make_node("Constant", [], ["o"], value_float=1.0)], "leaf", [], [value("o")]
    )
    for _ in range(depth):
        node = helper.make_node("If", ["c"], ["o"], then_branch=body, else_branch=body)
        body = helper.make_graph([node], "b", [], [value("o")])
    return model([helper.make_node("If", ["c"], ["score"], then_branch=body, else_branch=body)])


def nested_message(depth: int) -> bytes:
    """Nest a message in a message, as deep as a recursive parser would follow."""
    body = b""
    for _ in range(depth):
        body = b"\x32" + varint(len(body)) + body
    return dense().SerializeToString() + b"\x3a" + varint(len(body)) + body


def varint(number: int) -> bytes:
    parts = bytearray()
    while number > 127:
        parts.append(number & 127 | 128)
        number >>= 7
    return bytes([*parts, number])


CRAFTED: dict[str, Callable[[], bytes | onnx.ModelProto]] = {
    "external data beside": lambda: external({"location": "weights.bin"}),
    "external data above": lambda: external({"location": "../weights.bin"}),
    "external data absolute": lambda: external({"location": "/etc/passwd"}),
    "external data, huge offset": lambda: external({"location": "w", "offset": str(1 << 62)}),
    "external data, no location": lambda: external({}),
    "external data beside raw data": lambda: changed(
        lambda m: m.graph.initializer[0].external_data.add(key="location", value="w")
    ),
    "external data location only": lambda: changed(
        lambda m: setattr(m.graph.initializer[0], "data_location", TensorProto.EXTERNAL)
    ),
    "endless loop": lambda: one_node("Loop", ["features"], body=subgraph()),
    "scan": lambda: one_node("Scan", ["features"], body=subgraph(), num_scan_inputs=1),
    "branches 12 deep": lambda: deep_if(12),
    "100,000 nodes": lambda: model(
        [helper.make_node("Identity", ["features"], [f"x{i}"]) for i in range(100_000)]
    ),
    "one node too many": lambda: model(
        [
            helper.make_node("Relu", ["features" if i == 0 else f"x{i - 1}"], [f"x{i}"])
            for i in range(limits.MODEL_GRAPH_NODES_MAX + 1)
        ]
    ),
    "message 20,000 deep": lambda: nested_message(20_000),
    "huge constant": lambda: one_node("ConstantOfShape", ["features"]),
    "expand": lambda: one_node("Expand", ["features", "s"], weight("s", [1], np.int64)),
    "tile": lambda: one_node("Tile", ["features", "s"], weight("s", [1], np.int64)),
    "gather out of range": lambda: one_node(
        "Gather", ["features", "i"], weight("i", [99], np.int64)
    ),
    "reshape": lambda: one_node("Reshape", ["features", "s"], weight("s", [-1], np.int64)),
    "random numbers": lambda: one_node("RandomNormalLike", ["features"]),
    "NaN maker": lambda: one_node("Log", ["features"]),
    "negative dimension": lambda: changed(lambda m: m.graph.initializer[0].dims.__setitem__(0, -1)),
    "overflowing dimension": lambda: changed(
        lambda m: m.graph.initializer[0].dims.__setitem__(0, 1 << 62)
    ),
    "dimensions whose product wraps": lambda: changed(
        lambda m: m.graph.initializer[0].dims.__setitem__(slice(None), [1 << 32, 1 << 32])
    ),
    "zero dimension": lambda: changed(lambda m: m.graph.initializer[0].dims.__setitem__(0, 0)),
    "weights of another length": lambda: changed(
        lambda m: setattr(m.graph.initializer[0], "raw_data", b"\0" * 8)
    ),
    "string tensor": lambda: changed(
        lambda m: m.graph.initializer.append(
            helper.make_tensor("t", TensorProto.STRING, [1], [b"x"])
        )
    ),
    "integer tensor": lambda: changed(
        lambda m: m.graph.initializer.append(weight("t", [1], np.int64))
    ),
    "half tensor": lambda: changed(
        lambda m: m.graph.initializer.append(weight("t", [1], np.float16))
    ),
    "three dimensions": lambda: changed(
        lambda m: m.graph.initializer.append(weight("t", [[[1.0]]]))
    ),
    "NaN weight": lambda: changed(
        lambda m: setattr(m.graph.initializer[1], "raw_data", struct.pack("<f", float("nan")))
    ),
    "infinite weight": lambda: changed(
        lambda m: setattr(m.graph.initializer[1], "raw_data", struct.pack("<f", float("inf")))
    ),
    "sparse tensor": lambda: changed(lambda m: m.graph.sparse_initializer.add()),
    "quantisation annotation": lambda: changed(lambda m: m.graph.quantization_annotation.add()),
    "value info": lambda: changed(lambda m: m.graph.value_info.append(value("product"))),
    "function": lambda: changed(lambda m: m.functions.add(name="f", domain="d")),
    "training": lambda: changed(lambda m: m.training_info.add()),
    "unknown domain": lambda: one_node("Sigmoid", ["features"], domain="com.example"),
    "runtime's own domain": lambda: one_node("FusedGemm", ["features"], domain="com.microsoft"),
    "custom domain imported": lambda: changed(
        lambda m: m.opset_import.append(helper.make_opsetid("com.example", 1))
    ),
    "opset 99": lambda: changed(lambda m: setattr(m.opset_import[0], "version", 99)),
    "negative opset": lambda: changed(lambda m: setattr(m.opset_import[0], "version", -1)),
    "opset of another time": lambda: changed(lambda m: setattr(m.opset_import[0], "version", 6)),
    "opset twice": lambda: changed(lambda m: m.opset_import.append(helper.make_opsetid("", 16))),
    "no opset": lambda: changed(lambda m: m.ClearField("opset_import")),
    "IR 99": lambda: changed(lambda m: setattr(m, "ir_version", 99)),
    "no IR": lambda: changed(lambda m: m.ClearField("ir_version")),
    "no graph": lambda: changed(lambda m: m.ClearField("graph")),
    "two inputs": lambda: changed(lambda m: m.graph.input.append(value("more", 1))),
    "no input": lambda: changed(lambda m: m.graph.ClearField("input")),
    "input of another name": lambda: changed(lambda m: setattr(m.graph.input[0], "name", "x")),
    "input of another width": lambda: model(
        [helper.make_node("Sigmoid", ["features"], ["score"])], inputs=[value("features", 4)]
    ),
    "input of doubles": lambda: model(
        [helper.make_node("Sigmoid", ["features"], ["score"])],
        inputs=[value("features", N, TensorProto.DOUBLE)],
    ),
    "input of a fixed batch": lambda: model(
        [helper.make_node("Sigmoid", ["features"], ["score"])],
        inputs=[value("features", N, rows=8)],
    ),
    "input of any width": lambda: model(
        [helper.make_node("Sigmoid", ["features"], ["score"])], inputs=[value("features", "w")]
    ),
    "sequence input": lambda: changed(
        lambda m: m.graph.input[0].type.sequence_type.elem_type.tensor_type.__setattr__(
            "elem_type", 1
        )
    ),
    "two outputs": lambda: changed(lambda m: m.graph.output.append(value("product"))),
    "output of another name": lambda: changed(
        lambda m: setattr(m.graph.output[0], "name", "product")
    ),
    "output that nothing makes": lambda: changed(lambda m: m.graph.node.pop()),
    "output of two columns": lambda: model([helper.make_node("Identity", ["features"], ["score"])]),
    "output of strings": lambda: changed(
        lambda m: setattr(m.graph.output[0].type.tensor_type, "elem_type", 8)
    ),
    "cycle": lambda: changed(lambda m: m.graph.node[0].input.__setitem__(0, "score")),
    "output made twice": lambda: changed(
        lambda m: m.graph.node[1].output.__setitem__(0, "product")
    ),
    "input overwritten": lambda: changed(
        lambda m: m.graph.node[0].output.__setitem__(0, "features")
    ),
    "two outputs of a node": lambda: changed(lambda m: m.graph.node[0].output.append("y")),
    "unnamed output": lambda: changed(lambda m: m.graph.node[0].output.__setitem__(0, "")),
    "weights that do not fit": lambda: one_node(
        "MatMul", ["features", "w"], weight("w", [[1.0], [2.0]])
    ),
    "weights of another type": lambda: one_node(
        "MatMul", ["features", "w"], weight("w", [[1.0]] * 3, np.float64)
    ),
    "weights times weights": lambda: one_node("Mul", ["w", "w"], weight("w", [1.0])),
    "rows spread by weights": lambda: one_node(
        "Add", ["features", "w"], weight("w", np.ones((1000, 3)))
    ),
    "too wide": lambda: one_node(
        "MatMul", ["features", "w"], weight("w", np.ones((3, limits.MODEL_WIDTH_MAX + 1)))
    ),
    "unknown attribute": lambda: one_node("Sigmoid", ["features"], alpha=1.0),
    "attribute with a graph": lambda: one_node("Sigmoid", ["features"], body=subgraph()),
    "attribute with a tensor": lambda: one_node("Sigmoid", ["features"], t=weight("t", [1.0])),
    "cast to text": lambda: one_node("Cast", ["features"], to=TensorProto.STRING),
    "name of 300 letters": lambda: changed(lambda m: setattr(m.graph.node[0], "name", "n" * 300)),
    "name with a control character": lambda: changed(
        lambda m: setattr(m.graph.node[0], "name", "a\x1b[2J")
    ),
    "doc string of a megabyte": lambda: changed(
        lambda m: setattr(m, "doc_string", "d" * (1 << 20))
    ),
    "a thousand metadata entries": lambda: changed(
        lambda m: helper.set_model_props(m, {f"k{i}": "v" for i in range(1000)})
    ),
    "empty": lambda: b"",
    "zeros": lambda: b"\0" * 64,
    "pickle": lambda: b"\x80\x04\x95\x10\x00\x00\x00\x00\x00\x00\x00.",
    "text": lambda: b"import os",
    "cut": lambda: dense().SerializeToString()[:-3],
    "graph twice": lambda: dense().SerializeToString() * 2,
    "endless varint": lambda: b"\x08" + b"\xff" * 20,
    "varint longer than needed": lambda: b"\x08\x88\x00" + dense().SerializeToString()[2:],
    "length past the end": lambda: b"\x3a\xff\xff\xff\xff\x0f",
    "group": lambda: dense().SerializeToString() + b"\x0b\x0c",
    "unknown field": lambda: dense().SerializeToString() + b"\xf8\x07\x01",
}

TREES: dict[str, dict[str, object]] = {
    "cycle to itself": {"nodes_truenodeids": [0, 0, 0]},
    "cycle upwards": {
        "nodes_modes": ["BRANCH_LEQ", "BRANCH_LEQ", "LEAF"],
        "nodes_falsenodeids": [2, 2, 0],
        "target_treeids": [0],
        "target_nodeids": [2],
        "target_ids": [0],
        "target_weights": [0.1],
    },
    "one child twice": {"nodes_falsenodeids": [1, 0, 0]},
    "child out of range": {"nodes_falsenodeids": [9, 0, 0]},
    "child of a leaf": {"nodes_truenodeids": [1, 2, 0]},
    "feature out of range": {"nodes_featureids": [3, 0, 0]},
    "negative feature": {"nodes_featureids": [-1, 0, 0]},
    "huge feature": {"nodes_featureids": [1 << 40, 0, 0]},
    "NaN threshold": {"nodes_values": [float("nan"), 0.0, 0.0]},
    "infinite leaf": {"target_weights": [float("inf"), 0.0]},
    "infinite offset": {"base_values": [float("inf")]},
    "two offsets": {"base_values": [0.0, 0.0]},
    "another comparison": {"nodes_modes": ["BRANCH_LT", "LEAF", "LEAF"]},
    "unknown comparison": {"nodes_modes": ["x" * 300, "LEAF", "LEAF"]},
    "fewer modes": {"nodes_modes": ["BRANCH_LEQ", "LEAF"]},
    "fewer values": {"nodes_values": [0.5, 0.0]},
    "fewer votes": {"target_weights": [0.1]},
    "vote for a branch": {"target_nodeids": [0, 2]},
    "vote twice": {"target_nodeids": [1, 1]},
    "vote of another tree": {"target_treeids": [0, 1]},
    "vote for another target": {"target_ids": [0, 1]},
    "two targets": {"n_targets": 2},
    "maximum of trees": {"aggregate_function": "MAX"},
    "softmax": {"post_transform": "SOFTMAX"},
    "ids not in order": {"nodes_nodeids": [0, 2, 1]},
    "ids from 1": {"nodes_nodeids": [1, 2, 3]},
    "trees not in order": {"nodes_treeids": [1, 1, 1]},
    "trees mixed": {"nodes_treeids": [0, 1, 0]},
    "unknown attribute": {"nodes_hitrates": [1.0, 1.0, 1.0]},
    "doubles as tensor": {"nodes_values_as_tensor": weight("t", [0.5, 0.0, 0.0], np.float64)},
    "no values": {"nodes_values": None},
    "no modes": {"nodes_modes": None},
    "no votes": {
        "target_weights": None,
        "target_ids": None,
        "target_nodeids": None,
        "target_treeids": None,
    },
    "integers as floats": {"nodes_featureids": [1.0, 0.0, 0.0]},
}


def test_what_is_written_here_is_admitted_and_opens() -> None:
    """The crafted models differ from these by one thing each."""
    for made in (dense(), trees(), trees(base_values=[0.5])):
        content = made.SerializeToString()
        admit(content, n_features=N)
        session = ModelSession(content, n_features=N)
        assert session.run(np.zeros((5, N), np.float32)).shape == (5,)


@pytest.mark.parametrize("what", CRAFTED)
def test_a_crafted_model_is_refused_before_a_session_exists(what: str) -> None:
    made = CRAFTED[what]()
    refuse(made if isinstance(made, bytes) else made.SerializeToString())


@pytest.mark.parametrize("what", TREES)
def test_attributes_that_are_no_trees_are_refused(what: str) -> None:
    error = refuse(trees(**TREES[what]).SerializeToString())
    assert error.at.startswith("model.graph.node[0]")


def chain(depth: int) -> onnx.ModelProto:
    """Make a tree that leans: a branch, a leaf, a branch, a leaf."""
    n_nodes = 2 * depth + 1
    is_branch = [i % 2 == 0 and i < 2 * depth for i in range(n_nodes)]
    leaves = [i for i in range(n_nodes) if not is_branch[i]]
    return trees(
        nodes_treeids=[0] * n_nodes,
        nodes_nodeids=list(range(n_nodes)),
        nodes_featureids=[0] * n_nodes,
        nodes_modes=["BRANCH_LEQ" if branch else "LEAF" for branch in is_branch],
        nodes_values=[0.5] * n_nodes,
        nodes_truenodeids=[i + 1 if branch else 0 for i, branch in enumerate(is_branch)],
        nodes_falsenodeids=[i + 2 if branch else 0 for i, branch in enumerate(is_branch)],
        target_treeids=[0] * len(leaves),
        target_nodeids=leaves,
        target_ids=[0] * len(leaves),
        target_weights=[0.1] * len(leaves),
    )


def test_trees_may_be_as_deep_as_the_bound_and_no_deeper() -> None:
    """The runtime builds trees by recursion; a bound keeps its stack."""
    content = chain(limits.MODEL_TREE_DEPTH_MAX - 1).SerializeToString()
    admit(content, n_features=N)
    ModelSession(content, n_features=N)
    refuse(chain(limits.MODEL_TREE_DEPTH_MAX + 1).SerializeToString())


def test_what_sentinel_writes_passes() -> None:
    candidate = good_candidate()
    content = to_onnx(candidate.champion)
    admitted = admit(content, n_features=candidate.champion.n_features)
    assert (admitted.n_trees, admitted.n_features) == (12, 5)
    linear = Linear(coefficients=np.ones(N), centre=np.zeros(N), scale=np.ones(N), intercept=0.0)
    assert admit(to_onnx(linear), n_features=N).operators[-1] == "Cast"


def test_every_allowed_operator_is_one_that_the_checker_knows() -> None:
    for name in OPERATORS:
        domain, _, operator = name.rpartition(".")
        assert onnx.defs.has(operator, domain)


def test_layers_of_a_small_network_pass() -> None:
    nodes = [
        helper.make_node("Gemm", ["features", "w1", "b1"], ["h"], transB=1),
        helper.make_node("Relu", ["h"], ["r"]),
        helper.make_node("Gemm", ["r", "w2"], ["o"], alpha=1.0),
        helper.make_node("Sigmoid", ["o"], ["score"]),
    ]
    made = model(
        nodes,
        weight("w1", np.ones((8, N))),
        weight("b1", np.ones(8)),
        weight("w2", np.ones((8, 1))),
    )
    assert admit(made.SerializeToString(), n_features=N).n_weights == 8 * N + 8 + 8


@pytest.mark.parametrize(
    "base", [dense, trees, lambda: onnx.load_from_string(to_onnx(good_candidate().champion))]
)
def test_changed_bytes_are_refused_or_stay_within_the_rules(
    base: Callable[[], onnx.ModelProto],
) -> None:
    """Mutated at random, a model is refused with the code, or opens and answers."""
    rng = random.Random(11)
    good = base().SerializeToString()
    n_features = N if base in (dense, trees) else 5
    n_admitted, codes = 0, set()
    for _ in range(300):
        content = bytearray(good)
        for _ in range(rng.randint(1, 3)):
            kind = rng.randrange(4)
            at = rng.randrange(len(content))
            if kind == 0:
                content[at] ^= 1 << rng.randrange(8)
            elif kind == 1:
                del content[at : at + rng.randint(1, 8)]
            elif kind == 2:
                content[at:at] = rng.randbytes(rng.randint(1, 8))
            else:
                content[at : at + 4] = content[: rng.randint(0, 8)]
        try:
            admit(bytes(content), n_features=n_features)
        except SentinelError as error:
            codes.add(error.code)
            continue
        n_admitted += 1
        session = ModelSession(bytes(content), n_features=n_features)
        assert session.run(np.ones((4, n_features), np.float32)).shape == (4,)
    assert n_admitted < 300
    assert codes == {ErrorCode.RELEASE_NOT_ADMITTED}


def test_serving_needs_no_onnx_package() -> None:
    """Admission is a reader of its own: the onnx package stays a matter of building."""
    package = Path(__file__).parent.parent.parent / "src" / "sentinel" / "release"
    for name in ("wire.py", "operators.py", "tree_admission.py", "load.py", "folder.py"):
        assert "import onnx" not in (package / name).read_text()


def test_the_documentation_lists_the_operators() -> None:
    text = (Path(__file__).parents[2] / "docs" / "release.md").read_text()
    (line,) = [line for line in text.splitlines() if line.startswith("| operators |")]
    assert re.findall(r"`([\w.]+)`", line) == list(OPERATORS)
