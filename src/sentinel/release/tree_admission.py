"""What makes the attributes of ONNX's ``TreeEnsembleRegressor`` an ensemble of trees.

The runtime follows node ids without asking: a cycle never ends, a deep chain ends its stack, an id
out of range reads foreign memory or is refused late. Here, before it sees anything:

1. only known attributes, all rows of one table equally long;
2. the nodes of each tree stand together, numbered 0, 1, 2 ..., trees numbered 0, 1, 2 ...;
3. children come after their parent, in the same tree, and each node but the first has one parent:
   so it is a tree, every walk ends, and its depth is bounded;
4. each leaf has one vote, each vote belongs to a leaf, every number is finite.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from sentinel.core import limits
from sentinel.release.wire import refuse

Int64Array = npt.NDArray[np.int64]

_NODE_INTS = (
    "nodes_treeids",
    "nodes_nodeids",
    "nodes_featureids",
    "nodes_truenodeids",
    "nodes_falsenodeids",
)
_VOTE_INTS = ("target_treeids", "target_nodeids", "target_ids")
_ALLOWED = {
    *_NODE_INTS,
    *_VOTE_INTS,
    "aggregate_function",
    "base_values",
    "n_targets",
    "nodes_modes",
    "nodes_values",
    "post_transform",
    "target_weights",
}


def check_trees(attributes: Mapping[str, object], *, n_features: int, at: str) -> None:
    """Refuse attributes that are not an ensemble of trees for one score.

    Raises
    ------
    SentinelError
        ``release-not-admitted`` at the attribute that is wrong.
    """
    for name in sorted(attributes.keys() - _ALLOWED):
        raise refuse(f"{at}.{name}", "an attribute of the allow-list", name)
    expected = {"aggregate_function": b"SUM", "post_transform": b"NONE", "n_targets": 1}
    for name, value in expected.items():
        if attributes.get(name, value) != value:
            raise refuse(f"{at}.{name}", str(value), attributes[name])
    if len(_floats(attributes, "base_values", at)) > 1:
        raise refuse(f"{at}.base_values", "one offset", "several")
    nodes = {name: _ints(attributes, name, at) for name in _NODE_INTS}
    values = _floats(attributes, "nodes_values", at)
    is_leaf = _is_leaf(attributes, at)
    n_nodes = len(nodes["nodes_treeids"])
    if not 1 <= n_nodes <= limits.MODEL_NODES_MAX:
        raise refuse(at, f"1 to {limits.MODEL_NODES_MAX} nodes", n_nodes)
    lengths = {name: len(row) for name, row in nodes.items()}
    lengths |= {"nodes_values": len(values), "nodes_modes": len(is_leaf)}
    for name, length in lengths.items():
        if length != n_nodes:
            raise refuse(f"{at}.{name}", f"{n_nodes} entries", length)
    features = nodes["nodes_featureids"]
    if (features >= n_features).any():
        raise refuse(f"{at}.nodes_featureids", f"0 to {n_features - 1}", features.max())
    starts = _tree_starts(nodes["nodes_treeids"], nodes["nodes_nodeids"], at)
    left = starts + nodes["nodes_truenodeids"]
    right = starts + nodes["nodes_falsenodeids"]
    _check_children(nodes["nodes_treeids"], starts, left, right, is_leaf, at)
    _check_depth(left, right, is_leaf, at)
    _check_votes(attributes, nodes["nodes_treeids"], nodes["nodes_nodeids"], is_leaf, at)


def _ints(attributes: Mapping[str, object], name: str, at: str) -> Int64Array:
    row = attributes.get(name)
    if not isinstance(row, np.ndarray) or row.dtype != np.int64:
        raise refuse(f"{at}.{name}", "a row of integers", type(row).__name__)
    return row


def _floats(attributes: Mapping[str, object], name: str, at: str) -> npt.NDArray[np.float32]:
    row = attributes.get(name, np.zeros(0, np.float32))
    if not isinstance(row, np.ndarray) or row.dtype != np.float32:
        raise refuse(f"{at}.{name}", "a row of float32 numbers", type(row).__name__)
    if not np.isfinite(row).all():
        raise refuse(f"{at}.{name}", "finite numbers", "NaN or infinity")
    return row


def _is_leaf(attributes: Mapping[str, object], at: str) -> npt.NDArray[np.bool_]:
    modes = attributes.get("nodes_modes")
    if not isinstance(modes, list) or set(modes) - {b"LEAF", b"BRANCH_LEQ"}:
        raise refuse(f"{at}.nodes_modes", "LEAF and BRANCH_LEQ", "something else")
    return np.fromiter((mode == b"LEAF" for mode in modes), dtype=np.bool_, count=len(modes))


def _tree_starts(trees: Int64Array, ids: Int64Array, at: str) -> Int64Array:
    """Return, for each node, the position of its tree's first node."""
    position = np.arange(len(trees))
    is_first = np.append(True, np.diff(trees) != 0)
    if trees[0] != 0 or not np.isin(np.diff(trees), (0, 1)).all():
        raise refuse(f"{at}.nodes_treeids", "trees 0, 1, 2 ... one after another", "another order")
    if trees[-1] >= limits.MODEL_TREES_MAX:
        raise refuse(f"{at}.nodes_treeids", f"at most {limits.MODEL_TREES_MAX} trees", trees[-1])
    starts: Int64Array = np.maximum.accumulate(np.where(is_first, position, 0))
    if (ids != position - starts).any():
        raise refuse(f"{at}.nodes_nodeids", "0, 1, 2 ... in each tree", "another order")
    return starts


def _check_children(
    trees: Int64Array,
    starts: Int64Array,
    left: Int64Array,
    right: Int64Array,
    is_leaf: npt.NDArray[np.bool_],
    at: str,
) -> None:
    position, inner = np.arange(len(trees)), ~is_leaf
    for name, child in (("nodes_truenodeids", left), ("nodes_falsenodeids", right)):
        inside = (child > position) & (child < len(trees))
        same = trees[np.where(inside, child, 0)] == trees
        good = np.where(inner, inside & same, child == starts)
        if not good.all():
            where = int(np.argmin(good))
            raise refuse(f"{at}.{name}", "children after their parent, 0 at leaves", where)
    parents = np.bincount(np.concatenate([left[inner], right[inner]]), minlength=len(trees))
    parents[starts] = np.where(parents[starts] == 0, 1, 0)
    if (parents != 1).any():
        raise refuse(at, "exactly one parent a node", f"node {int(np.argmax(parents != 1))}")


def _check_depth(
    left: Int64Array, right: Int64Array, is_leaf: npt.NDArray[np.bool_], at: str
) -> None:
    level = np.flatnonzero(~is_leaf)
    is_child = np.zeros(len(is_leaf), dtype=np.bool_)
    is_child[left[level]] = is_child[right[level]] = True
    level = np.flatnonzero(~is_child & ~is_leaf)
    for _ in range(limits.MODEL_TREE_DEPTH_MAX):
        if len(level) == 0:
            return
        level = np.concatenate([left[level], right[level]])
        level = level[~is_leaf[level]]
    raise refuse(at, f"trees at most {limits.MODEL_TREE_DEPTH_MAX} deep", "a deeper one")


def _check_votes(
    attributes: Mapping[str, object],
    trees: Int64Array,
    ids: Int64Array,
    is_leaf: npt.NDArray[np.bool_],
    at: str,
) -> None:
    votes = {name: _ints(attributes, name, at) for name in _VOTE_INTS}
    weights = _floats(attributes, "target_weights", at)
    n_leaves = int(is_leaf.sum())
    lengths = {name: len(row) for name, row in votes.items()} | {"target_weights": len(weights)}
    for name, length in lengths.items():
        if length != n_leaves:
            raise refuse(f"{at}.{name}", f"one entry a leaf, {n_leaves}", length)
    if votes["target_ids"].any():
        raise refuse(f"{at}.target_ids", "0", votes["target_ids"].max())
    for name, expected in (("target_treeids", trees), ("target_nodeids", ids)):
        if (votes[name] != expected[is_leaf]).any():
            raise refuse(f"{at}.{name}", "each leaf once, in order", "others")
