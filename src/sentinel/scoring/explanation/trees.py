"""Exact Shapley values of tree ensembles, path-dependent, by quadrature on every path.

What is computed
----------------
For a set ``S`` of features that are known, ``f(S)`` walks a tree: where a node asks for a feature
of ``S`` the row decides, elsewhere both children are taken in the proportion of their covers (the
training rows that came by). The Shapley value of feature ``j`` is its mean contribution over all
orders of becoming known; the values add up to the row's log-odds less their base, exactly.

How
---
1. A leaf's part of ``f(S)`` is a product over the features of its path, each merged over all its
   nodes on the path: ``o_i`` (1 where the row satisfies all of them, else 0) for features of
   ``S``, the cover share ``z_i`` for others.
2. The Shapley weight ``|S|! (d - 1 - |S|)! / d!`` is the integral of
   ``t^|S| (1 - t)^(d - 1 - |S|)`` over [0, 1]. So the sum over all subsets is

       phi_j = value * (o_j - z_j) * integral of the product over i != j of (t o_i + (1 - t) z_i).

3. That is a polynomial of degree ``d - 1`` in ``t``: Gauss-Legendre quadrature with ``d / 2``
   points gives it exactly, up to rounding. All terms are products of numbers in [0, 1]: nothing
   cancels.
4. Leaves share their paths. One walk down a tree keeps the product at each point, one walk up
   sums leaves: O(nodes * points) a row instead of O(leaves * depth^2).

An edge that no training row came by has cover share 1/2 with its sibling: a convention for models
whose covers were counted on other rows than they were fitted to.

Sources: Lundberg et al., "From local explanations to global understanding with explainable AI for
trees", Nature Machine Intelligence 2, 2020 (path-dependent values); Yu et al., "Linear TreeShap",
NeurIPS 2022 (one walk down and up, edges of the same feature); the integral is the Beta function.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from sentinel.core.errors import ErrorCode, SentinelError
from sentinel.scoring.explanation import tree_kernel as kernel

Float32Array = npt.NDArray[np.float32]
Float64Array = npt.NDArray[np.float64]
Int32Array = npt.NDArray[np.int32]
Int64Array = npt.NDArray[np.int64]

# Rows that go through a tree together: it stays in the nearest cache, and so do their sums.
_ROWS_TOGETHER = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class ExplainedTrees:
    """Trees with covers: what is explained.

    Attributes
    ----------
    n_features : int
    feature : ndarray of int32, shape (n_nodes,)
        -1 for a leaf. Nodes of one tree stand together, children after their parent.
    threshold : ndarray of float64, shape (n_nodes,)
        ``x <= threshold`` goes left.
    left, right : ndarray of int32, shape (n_nodes,)
    value : ndarray of float64, shape (n_nodes,)
        What a leaf adds to the log-odds.
    roots : ndarray of int32, shape (n_trees,)
    offset : float
    leaf_cover : ndarray of float64, shape (n_leaves,)
        Training rows of each leaf, in the order of the nodes; 0 or more.
    """

    n_features: int
    feature: Int32Array
    threshold: Float64Array
    left: Int32Array
    right: Int32Array
    value: Float64Array
    roots: Int32Array
    offset: float
    leaf_cover: Float64Array


class TreeExplainer:
    """Exact Shapley values of one ensemble; used by one thread.

    Parameters
    ----------
    trees : ExplainedTrees

    Attributes
    ----------
    base : float
        Log-odds when no feature is known.
    n_points_max : int
        Quadrature points of the tree that needs most.

    Raises
    ------
    SentinelError
        ``explanation-invalid`` for covers that do not fit the trees.

    Examples
    --------
    >>> one = np.array
    >>> stump = ExplainedTrees(
    ...     n_features=1, feature=one([0, -1, -1], np.int32), threshold=one([0.5, 0.0, 0.0]),
    ...     left=one([1, -1, -1], np.int32), right=one([2, -1, -1], np.int32),
    ...     value=one([0.0, -1.0, 1.0]), roots=one([0], np.int32), offset=0.0,
    ...     leaf_cover=one([3.0, 1.0]))
    >>> explainer = TreeExplainer(stump)
    >>> explainer.base
    -0.5
    >>> explainer.explain(np.array([[1.0]], dtype=np.float32))
    array([[1.5]])
    """

    def __init__(self, trees: ExplainedTrees) -> None:
        self.n_features = trees.n_features
        paths = _Paths(trees)
        self.base = trees.offset + float(trees.value @ paths.reach)
        self._nodes, self._numbers = paths.nodes, paths.numbers
        self._trees, self._rules = paths.rules()
        self.n_points_max = self._rules[0].shape[1] * kernel.LANES
        self._inverse = self._inverses()
        size = int(self._trees[:, kernel.LENGTH].max())
        shape = (size, *self._rules[0].shape[1:])
        self._down, self._up = np.zeros(shape), np.zeros(shape)
        self._hot = np.zeros(size, dtype=np.bool_)

    def explain(self, values: Float32Array) -> Float64Array:
        """Explain rows.

        Parameters
        ----------
        values : ndarray of float32, shape (n_rows, n_features), C order
            Finite.

        Returns
        -------
        ndarray of float64, shape (n_rows, n_features)
            Log-odds; a row's values and the base add up to its log-odds.
        """
        sums = np.zeros((len(values), self.n_features, kernel.LANES))
        for at in range(0, len(values), _ROWS_TOGETHER):
            kernel.explain_rows(
                values[at : at + _ROWS_TOGETHER],
                self._trees,
                self._nodes,
                self._numbers,
                self._inverse,
                *self._rules,
                self._down,
                self._up,
                self._hot,
                sums[at : at + _ROWS_TOGETHER],
            )
        result: Float64Array = sums.sum(axis=2)
        return result

    def _inverses(self) -> Float64Array:
        """Tabulate ``1 / (t + (1 - t) z)`` of every edge at the points of its tree."""
        points = self._rules[0]
        result = np.ones((len(self._nodes), *points.shape[1:]))
        for first, length, _, rule in self._trees.tolist():
            edges = slice(first + 1, first + length)
            z = self._numbers[edges, kernel.SHARE][:, None, None]
            result[edges] = 1.0 / (points[rule] + (1.0 - points[rule]) * z)
        return result


class _Paths:
    """What the kernel is driven by, from one walk down every tree."""

    def __init__(self, trees: ExplainedTrees) -> None:
        self.trees = trees
        n_nodes = len(trees.feature)
        cover = _covers(trees)
        self.nodes = np.zeros((n_nodes, kernel.N_NODE_COLUMNS), dtype=np.int32)
        self.numbers = np.zeros((n_nodes, kernel.N_NUMBER_COLUMNS))
        self.reach = np.zeros(n_nodes)
        # Different features on the path to each node.
        self.n_merged = np.zeros(n_nodes, dtype=np.int64)
        self.numbers[:, kernel.VALUE] = trees.value
        self.numbers[:, kernel.SHARE] = 1.0
        ends = np.append(trees.roots[1:], n_nodes)
        for root, end in zip(trees.roots.tolist(), ends.tolist(), strict=True):
            self.reach[root] = 1.0
            for node in range(root, end):
                if trees.feature[node] >= 0:
                    self._split(root, node, cover)

    def rules(self) -> tuple[Int64Array, tuple[Float64Array, Float64Array, Float64Array]]:
        """Return the trees' table, and for each number of blocks points, weights, 1 / (1 - t)."""
        trees = self.trees
        ends = np.append(trees.roots[1:], len(trees.feature))
        widest = np.maximum.reduceat(self.n_merged, trees.roots)
        # n points are exact up to degree 2 n - 1; a path of d features has degree d - 1.
        blocks = np.maximum(1, -(-widest // (2 * kernel.LANES)))
        kinds, rule = np.unique(blocks, return_inverse=True)
        table = np.stack([trees.roots, ends - trees.roots, blocks, rule], axis=1).astype(np.int64)
        shape = (len(kinds), int(kinds.max()), kernel.LANES)
        points, weights = np.full(shape, 0.5), np.zeros(shape)
        for number, n_blocks in enumerate(kinds.tolist()):
            t, w = np.polynomial.legendre.leggauss(n_blocks * kernel.LANES)
            points[number, :n_blocks] = ((t + 1) / 2).reshape(n_blocks, kernel.LANES)
            weights[number, :n_blocks] = (w / 2).reshape(n_blocks, kernel.LANES)
        return table, (points, weights, 1.0 / (1.0 - points))

    def _split(self, root: int, node: int, cover: Float64Array) -> None:
        trees, nodes, numbers = self.trees, self.nodes, self.numbers
        feature = int(trees.feature[node])
        above = self._above(root, node, feature)
        children = (int(trees.left[node]), int(trees.right[node]))
        for child in children:
            part = cover[child] / cover[node] if cover[node] > 0 else 0.5
            is_leaf = trees.feature[child] < 0
            flags = kernel.IS_LEFT if child == children[0] else 0
            flags |= kernel.IS_LEAF if is_leaf else 0
            flags |= kernel.IS_FIRST_UP if child == max(children) else 0
            nodes[child] = (node - root, feature, above - root if above >= 0 else -1, flags)
            numbers[child, kernel.THRESHOLD] = trees.threshold[node]
            numbers[child, kernel.SHARE] = part * (
                numbers[above, kernel.SHARE] if above >= 0 else 1.0
            )
            numbers[child, kernel.RATIO] = part
            self.reach[child] = self.reach[node] * part
            self.n_merged[child] = self.n_merged[node] + (above < 0)

    def _above(self, root: int, node: int, feature: int) -> int:
        """Find the last edge on the path to a node that asks for a feature; -1 for none."""
        while node != root:
            if self.nodes[node, kernel.FEATURE] == feature:
                return node
            node = root + int(self.nodes[node, kernel.PARENT])
        return -1


def _covers(trees: ExplainedTrees) -> Float64Array:
    """Sum the covers of leaves to their parents."""
    is_leaf = trees.feature < 0
    n_leaves = int(is_leaf.sum())
    cover = trees.leaf_cover
    if cover.shape != (n_leaves,) or not (np.isfinite(cover) & (cover >= 0)).all():
        raise SentinelError(
            ErrorCode.EXPLANATION_INVALID,
            at="explanation.leaf_cover",
            expected=f"{n_leaves} counts",
            got=f"{len(cover)} numbers",
        )
    result = np.zeros(len(trees.feature))
    result[is_leaf] = cover
    for node in np.flatnonzero(~is_leaf)[::-1].tolist():
        result[node] = result[trees.left[node]] + result[trees.right[node]]
    return result
