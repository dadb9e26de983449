"""Fit the champion: gradient-boosted trees (LightGBM), as neutral trees, reproducibly.

1. Fit on the ``fit`` part; after each round take the average precision on ``validation``; stop
   when it has not risen for a while. A loss that is not finite ends the run.
2. Fit again on both parts with the best number of rounds, so that the newest labels teach too.
3. Read the trees out of the library. Inputs are float32, thresholds and leaves float64, compared
   and summed in the same order, so the neutral trees answer what the library answers, to the
   last bit; that is checked here and not left to hope.

Source: Ke et al., *LightGBM: A Highly Efficient Gradient Boosting Decision Tree*, NeurIPS 2017.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
import numpy.typing as npt

from sentinel.core.errors import ErrorCode, SentinelError
from sentinel.release.champion import TreeEnsemble, sigmoid
from sentinel.training.extras import require
from sentinel.training.rows import LabelledRows
from sentinel.training.settings import ModelSettings

if TYPE_CHECKING:
    from lightgbm import Booster
    from lightgbm.callback import CallbackEnv

Float32Array = npt.NDArray[np.float32]
Float64Array = npt.NDArray[np.float64]
# What a run is doing, how far it is, how far it goes at most.
OnProgress: TypeAlias = Callable[[str, int, int], None]

_EQUALITY_ROWS = 2_000


def no_progress(stage: str, done: int, total: int) -> None:
    """Show nothing."""


@dataclass(frozen=True, slots=True)
class BoostedFit:
    """A fitted champion.

    Attributes
    ----------
    trees : TreeEnsemble
    validation_scores : ndarray of float64, shape (n_validation,)
        Scores of the validation rows by the trees that had not seen them.
    n_rounds : int
        Trees kept.
    booster : Booster
        The library's own model: the yardstick of parity.
    """

    trees: TreeEnsemble
    validation_scores: Float64Array
    n_rounds: int
    booster: Booster

    def scores(self, values: Float32Array) -> Float64Array:
        """Score rows with the library that fitted the trees."""
        return sigmoid(_raw_scores(self.booster, values))


def fit_boosted(
    fit: LabelledRows,
    validation: LabelledRows,
    settings: ModelSettings,
    *,
    on_progress: OnProgress = no_progress,
) -> BoostedFit:
    """Fit boosted trees; the same rows and settings give the same trees, bit by bit.

    Parameters
    ----------
    fit, validation : LabelledRows
        Parts of the training part, the second one later.
    settings : ModelSettings
    on_progress : callable
        Called after each round.

    Returns
    -------
    BoostedFit

    Raises
    ------
    SentinelError
        ``extra-missing``, ``training-one-class``, ``training-not-finite``.
    """
    fit.check("fit")
    validation.check("validation")
    first = _boost(
        fit, settings, n_rounds=settings.n_rounds_max, validation=validation, show=on_progress
    )
    n_rounds = max(1, first.best_iteration)
    validation_scores = sigmoid(_raw_scores(first, validation.values, n_rounds=n_rounds))
    booster = first
    if settings.refit:
        whole = fit.joined(validation)
        booster = _boost(whole, settings, n_rounds=n_rounds, validation=None, show=on_progress)
    trees = read_trees(booster, n_rounds=n_rounds, n_features=len(fit.names))
    # The library would go on using all its rounds: what is handed on has the best ones only.
    if booster.current_iteration() > n_rounds:
        booster = _shortened(booster, n_rounds)
    _check_equal(trees, booster, validation.values[:_EQUALITY_ROWS])
    return BoostedFit(trees, validation_scores, n_rounds, booster)


def parameters(settings: ModelSettings) -> dict[str, str | int | float | bool]:
    """Say the settings in the library's words; all that makes a run repeatable is here."""
    return {
        "objective": "binary",
        "metric": "average_precision,binary_logloss",
        "first_metric_only": True,
        "learning_rate": settings.learning_rate,
        "num_leaves": settings.n_leaves,
        "min_data_in_leaf": settings.rows_per_leaf_min,
        "feature_fraction": settings.feature_share,
        "bagging_fraction": settings.row_share,
        "bagging_freq": 1 if settings.row_share < 1 else 0,
        "lambda_l2": settings.l2,
        "use_missing": False,
        "seed": settings.seed,
        "deterministic": True,
        "force_row_wise": True,
        "num_threads": settings.n_threads,
        "verbosity": -1,
    }


def _boost(
    rows: LabelledRows,
    settings: ModelSettings,
    *,
    n_rounds: int,
    validation: LabelledRows | None,
    show: OnProgress,
) -> Booster:
    library = require("lightgbm")
    stage = "fit" if validation is not None else "refit"
    options = parameters(settings)
    data = library.Dataset(
        rows.values, rows.is_positive.astype(np.float32), params=options, free_raw_data=True
    )
    callbacks: list[Callable[[CallbackEnv], None]] = [_watch(stage, n_rounds, show)]
    sets = []
    if validation is not None:
        sets.append(
            library.Dataset(
                validation.values, validation.is_positive.astype(np.float32), reference=data
            )
        )
        callbacks.append(
            library.early_stopping(
                settings.stop_after_rounds, first_metric_only=True, verbose=False
            )
        )
    booster: Booster = library.train(
        options, data, num_boost_round=n_rounds, valid_sets=sets, callbacks=callbacks
    )
    return booster


def _watch(stage: str, n_rounds: int, show: OnProgress) -> Callable[[CallbackEnv], None]:
    """After each round: show it, and stop the run when its loss is no number."""

    def after_round(state: CallbackEnv) -> None:
        for result in state.evaluation_result_list or ():
            if not np.isfinite(result[2]):
                raise SentinelError(
                    ErrorCode.TRAINING_NOT_FINITE,
                    at=f"{stage}: round {state.iteration + 1}: {result[1]}",
                    expected="a finite number",
                    got=result[2],
                    hint="Nothing was saved.",
                )
        show(stage, state.iteration + 1, n_rounds)

    return after_round


def _raw_scores(
    booster: Booster, values: Float32Array, n_rounds: int | None = None
) -> Float64Array:
    raw: Float64Array = np.asarray(
        booster.predict(values, raw_score=True, num_iteration=n_rounds), dtype=np.float64
    )
    return raw


def _shortened(booster: Booster, n_rounds: int) -> Booster:
    library = require("lightgbm")
    short: Booster = library.Booster(model_str=booster.model_to_string(num_iteration=n_rounds))
    return short


def read_trees(booster: Booster, *, n_rounds: int, n_features: int) -> TreeEnsemble:
    """Read the trees of a booster as neutral data; O(nodes).

    Parameters
    ----------
    booster : Booster
        Of a binary objective, numeric features only, missing values not used.
    n_rounds : int
        Trees read.
    n_features : int

    Returns
    -------
    TreeEnsemble

    Raises
    ------
    SentinelError
        ``training-not-finite`` for a leaf or threshold that is no number.
    """
    nodes = _Nodes()
    for tree in booster.dump_model(num_iteration=n_rounds)["tree_info"]:
        nodes.add_tree(tree["tree_structure"])
    trees = nodes.ensemble(n_features)
    if not (np.isfinite(trees.value).all() and np.isfinite(trees.threshold).all()):
        raise SentinelError(
            ErrorCode.TRAINING_NOT_FINITE,
            at="champion",
            expected="finite leaves and thresholds",
            got="one that is not",
            hint="Nothing was saved.",
        )
    trees.check()
    return trees


class _Nodes:
    """Nodes of all trees, one after the other, children after their parent."""

    def __init__(self) -> None:
        self.feature: list[int] = []
        self.threshold: list[float] = []
        self.left: list[int] = []
        self.right: list[int] = []
        self.value: list[float] = []
        self.leaf_cover: list[float] = []
        self.roots: list[int] = []

    def add_tree(self, structure: dict[str, object]) -> None:
        self.roots.append(len(self.feature))
        # Each entry: the node's data, and where its place is to be written (side, parent).
        waiting: list[tuple[dict[str, object], list[int] | None, int]] = [(structure, None, -1)]
        while waiting:
            node, side, parent = waiting.pop()
            place = self._add(node)
            if side is not None:
                side[parent] = place
            for name, child_side in (("right_child", self.right), ("left_child", self.left)):
                child = node.get(name)
                if isinstance(child, dict):
                    waiting.append((child, child_side, place))

    def _add(self, node: dict[str, object]) -> int:
        is_leaf = "split_feature" not in node
        self.feature.append(-1 if is_leaf else int(str(node["split_feature"])))
        self.threshold.append(0.0 if is_leaf else float(str(node["threshold"])))
        self.value.append(float(str(node["leaf_value"])) if is_leaf else 0.0)
        self.left.append(-1)
        self.right.append(-1)
        if is_leaf:
            # A tree without a split has no count of its own; its one leaf weighs nothing anyway.
            self.leaf_cover.append(float(str(node.get("leaf_count", 1))))
        return len(self.feature) - 1

    def ensemble(self, n_features: int) -> TreeEnsemble:
        return TreeEnsemble(
            n_features=n_features,
            feature=np.array(self.feature, dtype=np.int32),
            threshold=np.array(self.threshold, dtype=np.float64),
            left=np.array(self.left, dtype=np.int32),
            right=np.array(self.right, dtype=np.int32),
            value=np.array(self.value, dtype=np.float64),
            roots=np.array(self.roots, dtype=np.int32),
            leaf_cover=np.array(self.leaf_cover, dtype=np.float64),
        )


def _check_equal(trees: TreeEnsemble, booster: Booster, values: Float32Array) -> None:
    """Hold the trees read against the library, on rows of the log."""
    expected, actual = _raw_scores(booster, values), trees.raw_scores(values)
    if not np.array_equal(expected, actual):
        raise SentinelError(
            ErrorCode.RELEASE_MODEL_INVALID,
            at="champion",
            expected="trees that answer what the library answers",
            got=f"a difference of {np.abs(expected - actual).max()} in log-odds",
        )
