"""Small random trees, and the definition of their Shapley values, by all subsets."""

from __future__ import annotations

import itertools
import math

import numpy as np

from sentinel.scoring.explanation.trees import ExplainedTrees


def random_trees(
    seed: int, *, n_features: int, n_trees: int = 2, n_splits: int = 6, zero_covers: bool = False
) -> ExplainedTrees:
    """Grow trees by splitting random leaves; children stand in random order after their parent."""
    rng = np.random.default_rng(seed)
    feature: list[int] = []
    left: list[int] = []
    right: list[int] = []
    roots = []
    for _ in range(n_trees):
        roots.append(len(feature))
        leaves = [_add(feature, left, right)]
        for _ in range(int(rng.integers(0, n_splits + 1))):
            node = leaves.pop(int(rng.integers(len(leaves))))
            feature[node] = int(rng.integers(n_features))
            pair = [_add(feature, left, right), _add(feature, left, right)]
            leaves += pair
            rng.shuffle(pair)
            left[node], right[node] = pair
    n_nodes = len(feature)
    is_leaf = np.array(feature) < 0
    cover = rng.integers(0 if zero_covers else 1, 4 if zero_covers else 50, int(is_leaf.sum()))
    return ExplainedTrees(
        n_features=n_features,
        feature=np.array(feature, dtype=np.int32),
        threshold=np.where(is_leaf, 0.0, rng.integers(0, 4, n_nodes) + 0.5),
        left=np.array(left, dtype=np.int32),
        right=np.array(right, dtype=np.int32),
        value=np.where(is_leaf, rng.normal(0, 2, n_nodes), 0.0),
        roots=np.array(roots, dtype=np.int32),
        offset=float(rng.normal()),
        leaf_cover=cover.astype(np.float64),
    )


def random_rows(seed: int, *, n_rows: int, n_features: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 5, (n_rows, n_features)).astype(np.float32)


def expected_value(trees: ExplainedTrees, row: np.ndarray, known: frozenset[int]) -> float:
    """Walk the trees: known features by the row, others by cover."""
    cover = np.zeros(len(trees.feature))
    cover[trees.feature < 0] = trees.leaf_cover
    for node in np.flatnonzero(trees.feature >= 0)[::-1]:
        cover[node] = cover[trees.left[node]] + cover[trees.right[node]]

    def walk(node: int) -> float:
        j = int(trees.feature[node])
        if j < 0:
            return float(trees.value[node])
        left, right = int(trees.left[node]), int(trees.right[node])
        if j in known:
            return walk(left if row[j] <= trees.threshold[node] else right)
        share = cover[left] / cover[node] if cover[node] > 0 else 0.5
        return share * walk(left) + (1 - share) * walk(right)

    return trees.offset + sum(walk(int(root)) for root in trees.roots)


def shapley_values(trees: ExplainedTrees, row: np.ndarray) -> np.ndarray:
    """Shapley values by their definition: every feature, every subset of the others."""
    n = trees.n_features
    result = np.zeros(n)
    for j in range(n):
        others = [i for i in range(n) if i != j]
        for size in range(n):
            weight = math.factorial(size) * math.factorial(n - 1 - size) / math.factorial(n)
            for chosen in itertools.combinations(others, size):
                known = frozenset(chosen)
                with_j = expected_value(trees, row, known | {j})
                result[j] += weight * (with_j - expected_value(trees, row, known))
    return result


def _add(feature: list[int], left: list[int], right: list[int]) -> int:
    feature.append(-1)
    left.append(-1)
    right.append(-1)
    return len(feature) - 1
