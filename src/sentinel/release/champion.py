"""Models as neutral data: what training hands over, whatever library fitted it.

Inputs are always float32 and finite. A tree ensemble decides ``x <= threshold`` with a float64
threshold, and its score is ``sigmoid(offset + sum of the leaves reached)``. A linear model
standardises first: its score is ``sigmoid(intercept + sum of coefficient * (x - centre) / scale)``.
Both have a plain NumPy evaluation here, which is slow and exact: the yardstick of the parity gate.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from sentinel.core import limits
from sentinel.core.errors import ErrorCode, SentinelError

Float64Array = npt.NDArray[np.float64]
Float32Array = npt.NDArray[np.float32]
Int32Array = npt.NDArray[np.int32]


def sigmoid(raw: Float64Array) -> Float64Array:
    """Map log-odds to a probability without overflow.

    Examples
    --------
    >>> float(sigmoid(np.array([0.0]))[0])
    0.5
    """
    small = np.exp(-np.abs(raw))
    result: Float64Array = np.where(raw >= 0, 1.0, small) / (1.0 + small)
    return result


@dataclass(frozen=True, slots=True, kw_only=True)
class TreeEnsemble:
    """Boosted trees for one probability, as arrays over all nodes of all trees.

    Node ids are positions in the arrays. The nodes of one tree stand together, its root first,
    and children come after their parent: a walk always ends.

    Attributes
    ----------
    n_features : int
        Columns of the input.
    feature : ndarray of int32, shape (n_nodes,)
        Column that the node looks at; -1 for a leaf.
    threshold : ndarray of float64, shape (n_nodes,)
        ``x <= threshold`` goes left; 0.0 for a leaf.
    left, right : ndarray of int32, shape (n_nodes,)
        Children; -1 for a leaf.
    value : ndarray of float64, shape (n_nodes,)
        What a leaf adds to the log-odds; 0.0 for a branch.
    roots : ndarray of int32, shape (n_trees,)
        First node of each tree, ascending, the first one 0.
    offset : float
        Log-odds before any tree.
    leaf_cover : ndarray of float64, shape (n_leaves,), or None
        How many training rows ended in each leaf, in the order of the nodes; what explanations
        weigh by. None: they are counted on the reference rows when a release is built.
    """

    n_features: int
    feature: Int32Array
    threshold: Float64Array
    left: Int32Array
    right: Int32Array
    value: Float64Array
    roots: Int32Array
    offset: float = 0.0
    leaf_cover: Float64Array | None = None

    @property
    def n_nodes(self) -> int:
        """Nodes of all trees together."""
        return len(self.feature)

    @property
    def n_trees(self) -> int:
        """How many trees."""
        return len(self.roots)

    def check(self) -> None:
        """Refuse arrays that are not trees.

        Raises
        ------
        SentinelError
            ``release-model-invalid`` with the first thing that is wrong.
        """
        _check_shapes(self)
        _check_structure(self)

    def raw_scores(self, inputs: Float32Array) -> Float64Array:
        """Evaluate to log-odds in float64, all rows at a time; O(n_rows * n_trees * depth).

        Parameters
        ----------
        inputs : ndarray of float32, shape (n_rows, n_features)
            Finite values.

        Returns
        -------
        ndarray of float64, shape (n_rows,)
        """
        total = np.full(len(inputs), self.offset, dtype=np.float64)
        for root in self.roots:
            total += self.value[self._leaves_of(int(root), inputs)]
        return total

    def leaves(self, inputs: Float32Array) -> npt.NDArray[np.int64]:
        """Find the leaf of each tree in which each row ends; shape (n_rows, n_trees), node ids."""
        return np.stack([self._leaves_of(int(root), inputs) for root in self.roots], axis=1)

    def _leaves_of(self, root: int, inputs: Float32Array) -> npt.NDArray[np.int64]:
        node = np.full(len(inputs), root, dtype=np.int64)
        rows = np.arange(len(inputs))
        while len(rows):
            here = node[rows]
            inner = self.feature[here] >= 0
            rows, here = rows[inner], here[inner]
            goes_left = inputs[rows, self.feature[here]].astype(np.float64) <= self.threshold[here]
            node[rows] = np.where(goes_left, self.left[here], self.right[here])
        return node

    def scores(self, inputs: Float32Array) -> Float64Array:
        """Evaluate to probabilities; see :meth:`raw_scores`."""
        return sigmoid(self.raw_scores(inputs))


@dataclass(frozen=True, slots=True, kw_only=True)
class Linear:
    """A logistic regression over standardised features.

    Attributes
    ----------
    coefficients, centre, scale : ndarray of float64, shape (n_features,)
        ``scale`` is above 0.
    intercept : float
    """

    coefficients: Float64Array
    centre: Float64Array
    scale: Float64Array
    intercept: float

    @property
    def n_features(self) -> int:
        """Columns of the input."""
        return len(self.coefficients)

    def check(self) -> None:
        """Refuse arrays that are not a linear model.

        Raises
        ------
        SentinelError
            ``release-model-invalid`` with the first thing that is wrong.
        """
        shape = (self.n_features,)
        for name in ("coefficients", "centre", "scale"):
            array: Float64Array = getattr(self, name)
            if array.shape != shape or array.dtype != np.float64:
                raise _invalid(f"linear.{name}", f"float64 of shape {shape}", array)
        if self.n_features == 0:
            raise _invalid("linear.coefficients", "at least one feature", self.coefficients)
        if not (self.scale > 0).all():
            raise _invalid("linear.scale", "numbers above 0", self.scale.min())

    def raw_scores(self, inputs: Float32Array) -> Float64Array:
        """Evaluate to log-odds in float64; shape (n_rows,)."""
        standard = (inputs.astype(np.float64) - self.centre) / self.scale
        result: Float64Array = standard @ self.coefficients + self.intercept
        return result

    def scores(self, inputs: Float32Array) -> Float64Array:
        """Evaluate to probabilities; shape (n_rows,)."""
        return sigmoid(self.raw_scores(inputs))


@dataclass(frozen=True, slots=True, kw_only=True)
class OnnxModel:
    """A model that arrives as ONNX already; judged like every other by operators and parity.

    Attributes
    ----------
    content : bytes
        One input ``features`` float32 [N, n_features], one output ``score`` float32 [N, 1].
    n_features : int
        Columns of the input.
    """

    content: bytes
    n_features: int


Champion = TreeEnsemble | Linear | OnnxModel


def _check_shapes(trees: TreeEnsemble) -> None:
    expected = {
        "feature": np.int32,
        "threshold": np.float64,
        "left": np.int32,
        "right": np.int32,
        "value": np.float64,
        "roots": np.int32,
    }
    for name, dtype in expected.items():
        array = getattr(trees, name)
        if array.dtype != dtype or array.ndim != 1:
            raise _invalid(f"trees.{name}", f"{np.dtype(dtype)} of one dimension", array.dtype)
        if name != "roots" and len(array) != trees.n_nodes:
            raise _invalid(f"trees.{name}", f"{trees.n_nodes} nodes", len(array))
    cover = trees.leaf_cover
    n_leaves = int((trees.feature == -1).sum())
    if cover is not None and (
        cover.dtype != np.float64 or cover.shape != (n_leaves,) or not (cover >= 0).all()
    ):
        raise _invalid("trees.leaf_cover", f"{n_leaves} counts of float64", cover.shape)
    if not 1 <= trees.n_trees <= limits.MODEL_TREES_MAX:
        raise _invalid("trees.roots", f"1 to {limits.MODEL_TREES_MAX} trees", trees.n_trees)
    if not 1 <= trees.n_features <= limits.FEATURES_MAX:
        raise _invalid("trees.n_features", f"1 to {limits.FEATURES_MAX}", trees.n_features)
    if trees.n_nodes > limits.MODEL_NODES_MAX:
        raise _invalid("trees", f"at most {limits.MODEL_NODES_MAX} nodes", trees.n_nodes)


def _check_structure(trees: TreeEnsemble) -> None:
    roots = trees.roots
    if roots[0] != 0 or (np.diff(roots) <= 0).any() or roots[-1] >= trees.n_nodes:
        raise _invalid("trees.roots", "ascending first nodes, the first one 0", roots[:4])
    node = np.arange(trees.n_nodes)
    is_leaf = trees.feature == -1
    if ((trees.feature < -1) | (trees.feature >= trees.n_features)).any():
        raise _invalid("trees.feature", f"-1 to {trees.n_features - 1}", trees.feature.max())
    tree_of = np.searchsorted(roots, node, side="right") - 1
    end_of = np.append(roots[1:], trees.n_nodes)[tree_of]
    for name in ("left", "right"):
        child = getattr(trees, name)
        good = np.where(is_leaf, child == -1, (child > node) & (child < end_of))
        if not good.all():
            raise _invalid(
                f"trees.{name}",
                "children after their parent in the same tree, -1 for a leaf",
                f"{child[~good][0]} at node {node[~good][0]}",
            )
    parents = np.bincount(
        np.concatenate([trees.left[~is_leaf], trees.right[~is_leaf]]), minlength=trees.n_nodes
    )
    parents[roots] += 1
    if (parents != 1).any():
        raise _invalid("trees", "exactly one parent a node", f"node {np.argmax(parents != 1)}")


def _invalid(at: str, expected: str, got: object) -> SentinelError:
    return SentinelError(ErrorCode.RELEASE_MODEL_INVALID, at=at, expected=expected, got=got)
