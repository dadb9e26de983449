"""Rows that end in a chosen leaf, or stand exactly on a threshold.

A tree's node is reached by the rows of a box: going left at ``x_j <= t`` bounds feature ``j`` from
above by ``d(t)``, going right bounds it from below by the next float32 number (``d`` as in
:mod:`sentinel.release.export`). A given row moved into that box ends there and keeps everything
that the path does not ask about.

1. :func:`leaf_rows`: rows that end in given leaves, so that the canary can watch leaves which no
   row of normal traffic reaches.
2. :func:`edge_rows`: rows on both sides of thresholds, where an export that rounds wrongly differs.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from sentinel.release.champion import TreeEnsemble
from sentinel.release.export import round_down

Float32Array = npt.NDArray[np.float32]

EDGES_DEFAULT = 256


def parents(trees: TreeEnsemble) -> npt.NDArray[np.int64]:
    """Find each node's parent; -1 for roots."""
    result = np.full(trees.n_nodes, -1, dtype=np.int64)
    inner = np.flatnonzero(trees.feature >= 0)
    result[trees.left[inner]] = inner
    result[trees.right[inner]] = inner
    return result


def leaf_rows(
    trees: TreeEnsemble, nodes: npt.NDArray[np.int64], base: Float32Array
) -> Float32Array:
    """Move rows into the boxes of nodes; O(n_nodes * depth).

    Parameters
    ----------
    trees : TreeEnsemble
    nodes : ndarray of int64, shape (n,)
        Nodes to reach.
    base : ndarray of float32, shape (n_rows, n_features)
        Rows to start from, taken in turn; at least one.

    Returns
    -------
    ndarray of float32, shape (n_reached, n_features)
        Nodes whose box holds no float32 number are left out.
    """
    parent, edge = parents(trees), round_down(trees.threshold)
    found = []
    for index, node in enumerate(nodes.tolist()):
        low, high = _box(trees, parent, edge, node)
        if (low <= high).all():
            found.append(np.clip(base[index % len(base)], low, high))
    return np.array(found, dtype=np.float32).reshape(len(found), trees.n_features)


def edge_rows(
    trees: TreeEnsemble, base: Float32Array, *, n_nodes_max: int = EDGES_DEFAULT
) -> Float32Array:
    """Make rows on a threshold and just above it, for nodes spread over the whole ensemble.

    Returns
    -------
    ndarray of float32, shape (n, n_features), n at most ``2 * n_nodes_max``
    """
    parent, edge = parents(trees), round_down(trees.threshold)
    inner = np.flatnonzero(trees.feature >= 0)
    spread = np.linspace(0, max(0, len(inner) - 1), n_nodes_max).astype(np.int64)
    chosen = inner[np.unique(spread)] if len(inner) else inner
    found = []
    for index, node in enumerate(chosen.tolist()):
        low, high = _box(trees, parent, edge, node)
        j = trees.feature[node]
        for value in (edge[node], np.nextafter(edge[node], np.float32(np.inf))):
            if (low <= high).all() and low[j] <= value <= high[j]:
                row = np.clip(base[index % len(base)], low, high)
                row[j] = value
                found.append(row)
    return np.array(found, dtype=np.float32).reshape(len(found), trees.n_features)


def _box(
    trees: TreeEnsemble, parent: npt.NDArray[np.int64], edge: Float32Array, node: int
) -> tuple[Float32Array, Float32Array]:
    largest = np.finfo(np.float32).max
    low = np.full(trees.n_features, -largest, dtype=np.float32)
    high = np.full(trees.n_features, largest, dtype=np.float32)
    child = node
    while (above := int(parent[child])) >= 0:
        j = trees.feature[above]
        if trees.left[above] == child:
            high[j] = min(high[j], edge[above])
        else:
            low[j] = max(low[j], np.nextafter(edge[above], np.float32(np.inf)))
        child = above
    return low, high
