"""The kernel of tree explanations: one walk down and one walk up each tree, for each row.

See :mod:`sentinel.scoring.explanation.trees` for what is computed and why it is exact. *Edge*
``k`` is the one that leads to node ``k``. Products and sums are kept at the quadrature points,
four at a time, so that they are vectors of the machine.

Down, for nodes in order: ``hot[k]`` says whether the row satisfies edge ``k`` and every edge above
it that asks for the same feature; ``down[k]`` is the product of the factors of all features asked
for on the path to ``k``. The factor of a feature with cover share ``z`` is ``t + (1 - t) z`` where
the row satisfies it and ``(1 - t) z`` where it does not.

Up, for nodes in reverse: ``up[k]`` is the sum over the leaves below ``k`` of value times weight
times ``down``. Edge ``k`` gives its feature ``(o - z)`` times the integral of the product without
its own factor; where an edge above asks for the same feature, what that one will give for the
leaves below ``k`` is taken back, for there the factor is that of ``k``.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from sentinel.core.native import native_lean, native_lean_inline

Float32Array = npt.NDArray[np.float32]
Float64Array = npt.NDArray[np.float64]
Int32Array = npt.NDArray[np.int32]
Int64Array = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]

# Columns of ``nodes``: places inside the tree, but for the feature.
PARENT, FEATURE, ABOVE, FLAGS = 0, 1, 2, 3
N_NODE_COLUMNS = 4
IS_LEFT, IS_LEAF, IS_FIRST_UP = 1, 2, 4
# Columns of ``numbers``: the parent's threshold; the cover share of the edge's feature on the path
# to it, and that divided by the one above; the leaf's value.
THRESHOLD, SHARE, RATIO, VALUE = 0, 1, 2, 3
N_NUMBER_COLUMNS = 4
# Columns of ``trees``: first node, nodes, blocks of four points, which rule of points.
FIRST, LENGTH, BLOCKS, RULE = 0, 1, 2, 3
LANES = 4


@native_lean_inline
def _give(
    sums: Float64Array,
    up: Float64Array,
    k: int,
    n_blocks: int,
    table: Float64Array,
    at: int,
    gap: float,
) -> None:
    """Add ``gap * up * table`` to four running sums."""
    s0, s1, s2, s3 = sums[0], sums[1], sums[2], sums[3]
    for b in range(n_blocks):
        s0 += gap * (up[k, b, 0] * table[at, b, 0])
        s1 += gap * (up[k, b, 1] * table[at, b, 1])
        s2 += gap * (up[k, b, 2] * table[at, b, 2])
        s3 += gap * (up[k, b, 3] * table[at, b, 3])
    sums[0], sums[1], sums[2], sums[3] = s0, s1, s2, s3


@native_lean_inline
def _walk_down(  # noqa: PLR0913, PLR0917 -- a kernel takes columns
    row: Float32Array,
    tree: Int64Array,
    nodes: Int32Array,
    numbers: Float64Array,
    inverse: Float64Array,
    points: Float64Array,
    down: Float64Array,
    hot: BoolArray,
) -> None:
    first, n_blocks = tree[FIRST], tree[BLOCKS]
    for b in range(n_blocks):
        down[0, b, 0], down[0, b, 1], down[0, b, 2], down[0, b, 3] = 1.0, 1.0, 1.0, 1.0
    for k in range(1, tree[LENGTH]):
        node, number = nodes[first + k], numbers[first + k]
        p, a = node[PARENT], node[ABOVE]
        is_hot = (row[node[FEATURE]] <= number[THRESHOLD]) == ((node[FLAGS] & IS_LEFT) != 0)
        if a > 0 and not hot[a]:
            hot[k] = False
            ratio = number[RATIO]
            for b in range(n_blocks):
                d0, d1, d2, d3 = down[p, b, 0], down[p, b, 1], down[p, b, 2], down[p, b, 3]
                down[k, b, 0], down[k, b, 1] = d0 * ratio, d1 * ratio
                down[k, b, 2], down[k, b, 3] = d2 * ratio, d3 * ratio
            continue
        hot[k] = is_hot
        one, z = 1.0 if is_hot else 0.0, number[SHARE]
        # A node without an edge of its feature above it divides by the root's row: by one.
        over = first + max(a, 0)
        for b in range(n_blocks):
            t0, t1, t2, t3 = points[b, 0], points[b, 1], points[b, 2], points[b, 3]
            d0 = down[p, b, 0] * inverse[over, b, 0] * (one * t0 + (1.0 - t0) * z)
            d1 = down[p, b, 1] * inverse[over, b, 1] * (one * t1 + (1.0 - t1) * z)
            d2 = down[p, b, 2] * inverse[over, b, 2] * (one * t2 + (1.0 - t2) * z)
            d3 = down[p, b, 3] * inverse[over, b, 3] * (one * t3 + (1.0 - t3) * z)
            down[k, b, 0], down[k, b, 1], down[k, b, 2], down[k, b, 3] = d0, d1, d2, d3


@native_lean_inline
def _walk_up(  # noqa: PLR0913, PLR0917 -- a kernel takes columns
    sums: Float64Array,
    tree: Int64Array,
    nodes: Int32Array,
    numbers: Float64Array,
    inverse: Float64Array,
    weights: Float64Array,
    cold: Float64Array,
    down: Float64Array,
    up: Float64Array,
    hot: BoolArray,
) -> None:
    first, n_blocks = tree[FIRST], tree[BLOCKS]
    for k in range(tree[LENGTH] - 1, 0, -1):
        node, number = nodes[first + k], numbers[first + k]
        p, j, a = node[PARENT], node[FEATURE], node[ABOVE]
        if node[FLAGS] & IS_LEAF:
            v = number[VALUE]
            for b in range(n_blocks):
                d0, d1, d2, d3 = down[k, b, 0], down[k, b, 1], down[k, b, 2], down[k, b, 3]
                up[k, b, 0], up[k, b, 1] = d0 * (v * weights[b, 0]), d1 * (v * weights[b, 1])
                up[k, b, 2], up[k, b, 3] = d2 * (v * weights[b, 2]), d3 * (v * weights[b, 3])
        if hot[k]:
            _give(sums[j], up, k, n_blocks, inverse, first + k, 1.0 - number[SHARE])
        else:
            _give(sums[j], up, k, n_blocks, cold, 0, -1.0)
        if a > 0:
            if hot[a]:
                gap = numbers[first + a, SHARE] - 1.0
                _give(sums[j], up, k, n_blocks, inverse, first + a, gap)
            else:
                _give(sums[j], up, k, n_blocks, cold, 0, 1.0)
        if p == 0:
            continue
        u = 0.0 if node[FLAGS] & IS_FIRST_UP else 1.0
        for b in range(n_blocks):
            u0 = u * up[p, b, 0] + up[k, b, 0]
            u1 = u * up[p, b, 1] + up[k, b, 1]
            u2 = u * up[p, b, 2] + up[k, b, 2]
            u3 = u * up[p, b, 3] + up[k, b, 3]
            up[p, b, 0], up[p, b, 1], up[p, b, 2], up[p, b, 3] = u0, u1, u2, u3


@native_lean
def explain_rows(  # noqa: PLR0913, PLR0917 -- a kernel takes columns
    values: Float32Array,
    trees: Int64Array,
    nodes: Int32Array,
    numbers: Float64Array,
    inverse: Float64Array,
    points: Float64Array,
    weights: Float64Array,
    cold: Float64Array,
    down: Float64Array,
    up: Float64Array,
    hot: BoolArray,
    sums: Float64Array,
) -> None:
    """Add every tree's part to ``sums``; O(rows * nodes * points), nothing is allocated.

    Parameters
    ----------
    values : ndarray of float32, shape (n_rows, n_features)
    trees : ndarray of int64, shape (n_trees, 4)
    nodes : ndarray of int32, shape (n_nodes, 4)
    numbers : ndarray of float64, shape (n_nodes, 4)
    inverse : ndarray of float64, shape (n_nodes, n_blocks, 4)
        ``1 / (t + (1 - t) z)`` of each edge; ones for roots.
    points, weights, cold : ndarray of float64, shape (n_rules, n_blocks, 4)
        Quadrature of each rule; ``cold`` is ``1 / (1 - t)``.
    down, up : ndarray of float64, shape (n_nodes_of_largest_tree, n_blocks, 4)
        Room to work in; ``up`` is finite.
    hot : ndarray of bool, shape (n_nodes_of_largest_tree,)
        Room to work in.
    sums : ndarray of float64, shape (n_rows, n_features, 4)
        Added to.
    """
    for i in range(len(trees)):
        tree = trees[i]
        rule = tree[RULE]
        for r in range(len(values)):
            _walk_down(values[r], tree, nodes, numbers, inverse, points[rule], down, hot)
            _walk_up(
                sums[r],
                tree,
                nodes,
                numbers,
                inverse,
                weights[rule],
                cold[rule : rule + 1],
                down,
                up,
                hot,
            )
