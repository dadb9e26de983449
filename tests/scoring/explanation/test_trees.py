"""Exact Shapley values of trees, held against their definition and against LightGBM."""

from __future__ import annotations

import dataclasses

import lightgbm
import numpy as np
import pytest
from tests.scoring.explanation.tree_worlds import (
    expected_value,
    random_rows,
    random_trees,
    shapley_values,
)

from sentinel.core.errors import ErrorCode, SentinelError
from sentinel.scoring.explanation.trees import ExplainedTrees, TreeExplainer
from sentinel.training.boosted import read_trees


@pytest.mark.parametrize("covers", ["whole", "with_zeros"])
@pytest.mark.parametrize("seed", range(20))
def test_small_trees_have_the_values_of_the_definition(seed: int, covers: str) -> None:
    """Brute force over all subsets says the same."""
    trees = random_trees(seed, n_features=4, zero_covers=covers == "with_zeros")
    rows = random_rows(seed, n_rows=3, n_features=4)
    explainer = TreeExplainer(trees)
    found = explainer.explain(rows)
    for row, values in zip(rows, found, strict=True):
        assert np.allclose(values, shapley_values(trees, row), rtol=0, atol=1e-12)
    assert explainer.base == pytest.approx(expected_value(trees, rows[0], frozenset()), abs=1e-12)


@pytest.mark.parametrize("seed", range(5))
def test_a_feature_that_repeats_on_a_path_is_one_feature(seed: int) -> None:
    """With two features and many splits every path asks for a feature again and again."""
    trees = random_trees(seed, n_features=2, n_trees=1, n_splits=12)
    for row in random_rows(seed, n_rows=8, n_features=2):
        found = TreeExplainer(trees).explain(row[None])[0]
        assert np.allclose(found, shapley_values(trees, row), rtol=0, atol=1e-12)


def test_a_path_of_many_features_gets_the_points_it_needs() -> None:
    """A chain of 40 features: more points than one block, and the values still add up."""
    n = 40
    feature = np.array([k // 2 if k % 2 == 0 else -1 for k in range(2 * n)] + [-1], dtype=np.int32)
    inner = feature >= 0
    node = np.arange(len(feature), dtype=np.int32)
    trees = ExplainedTrees(
        n_features=n,
        feature=feature,
        threshold=np.where(inner, 0.5, 0.0),
        left=np.where(inner, node + 1, -1).astype(np.int32),
        right=np.where(inner, node + 2, -1).astype(np.int32),
        value=np.where(inner, 0.0, node * 0.1),
        roots=np.array([0], dtype=np.int32),
        offset=0.25,
        leaf_cover=np.arange(1.0, n + 2),
    )
    explainer = TreeExplainer(trees)
    assert explainer.n_points_max == 20
    rows = (np.random.default_rng(3).random((50, n)) < 0.95).astype(np.float32)
    expected = [expected_value(trees, row, frozenset(range(n))) for row in rows]
    found = explainer.explain(rows).sum(axis=1) + explainer.base
    assert np.allclose(found, expected, rtol=0, atol=1e-12)


def test_trees_without_a_split_have_a_base_and_nothing_else() -> None:
    """A tree that is one leaf."""
    trees = random_trees(1, n_features=3, n_splits=0)
    explainer = TreeExplainer(trees)
    assert not explainer.explain(random_rows(1, n_rows=2, n_features=3)).any()
    assert explainer.base == pytest.approx(trees.offset + trees.value.sum())


def test_a_row_is_explained_the_same_in_every_batch() -> None:
    """Bit for bit."""
    trees = random_trees(7, n_features=6, n_trees=8, n_splits=20)
    rows = random_rows(7, n_rows=20, n_features=6)
    explainer = TreeExplainer(trees)
    together = explainer.explain(rows)
    for row, expected in zip(rows, together, strict=True):
        assert np.array_equal(explainer.explain(row[None])[0], expected)


def test_a_boosted_model_has_the_contributions_that_lightgbm_gives() -> None:
    """The real thing: trees of 31 leaves, against ``pred_contrib``."""
    rng = np.random.default_rng(11)
    values = rng.lognormal(0, 1, (4_000, 12)).astype(np.float32)
    labels = values[:, 0] * values[:, 1] + values[:, 2] > 3
    options = {"objective": "binary", "num_leaves": 31, "verbosity": -1, "num_threads": 1}
    options |= {"use_missing": False, "deterministic": True}
    booster = lightgbm.train(options, lightgbm.Dataset(values, labels.astype(np.float32)), 40)
    trees = read_trees(booster, n_rounds=40, n_features=12)
    assert trees.leaf_cover is not None
    explained = ExplainedTrees(
        n_features=12,
        feature=trees.feature,
        threshold=trees.threshold,
        left=trees.left,
        right=trees.right,
        value=trees.value,
        roots=trees.roots,
        offset=trees.offset,
        leaf_cover=trees.leaf_cover,
    )
    explainer = TreeExplainer(explained)
    expected = np.asarray(booster.predict(values[:300], pred_contrib=True))
    assert np.allclose(explainer.explain(values[:300]), expected[:, :-1], rtol=0, atol=1e-11)
    assert explainer.base == pytest.approx(expected[0, -1], abs=1e-11)


@pytest.mark.parametrize(
    "cover", [[], [1.0], [1.0, -1.0, 1.0], [1.0, np.nan, 1.0]], ids=["none", "few", "minus", "nan"]
)
def test_covers_that_do_not_fit_the_trees_are_refused(cover: list[float]) -> None:
    """One count a leaf, none below zero."""
    trees = next(
        found
        for seed in range(100)
        if (found := random_trees(seed, n_features=2, n_trees=1)).leaf_cover.shape == (3,)
    )
    bad = dataclasses.replace(trees, leaf_cover=np.array(cover, dtype=np.float64))
    with pytest.raises(SentinelError) as caught:
        TreeExplainer(bad)
    assert caught.value.code is ErrorCode.EXPLANATION_INVALID
    assert caught.value.at == "explanation.leaf_cover"
