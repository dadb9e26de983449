"""Trees are fitted reproducibly, and read out of the library without losing a bit."""

from __future__ import annotations

import numpy as np
import pytest

from sentinel.core.errors import ErrorCode, SentinelError
from sentinel.training.boosted import fit_boosted, parameters
from sentinel.training.rows import LabelledRows
from sentinel.training.settings import ModelSettings

SETTINGS = ModelSettings(n_rounds_max=40, stop_after_rounds=10, n_leaves=7)


def rows(n_rows: int = 3_000, seed: int = 1) -> LabelledRows:
    random = np.random.default_rng(seed)
    values = random.normal(size=(n_rows, 4)).astype(np.float32)
    values[:, 3] = random.integers(0, 3, n_rows)
    raw = 2 * values[:, 0] * (values[:, 3] == 1) + (values[:, 1] > 1) * 2 - 3
    return LabelledRows(
        names=("a", "b", "c", "d"),
        values=values,
        is_positive=random.random(n_rows) < 1 / (1 + np.exp(-raw)),
    )


@pytest.mark.parametrize("part", ["fit", "validation"])
def test_a_part_with_one_class_is_named(part: str) -> None:
    parts = {"fit": rows(seed=1), "validation": rows(seed=2)}
    parts[part].is_positive[:] = False
    with pytest.raises(SentinelError) as caught:
        fit_boosted(parts["fit"], parts["validation"], SETTINGS)
    assert caught.value.code is ErrorCode.TRAINING_ONE_CLASS
    assert caught.value.at == part


def test_a_feature_that_is_no_number_stops_the_fit_by_name() -> None:
    bad = rows(seed=2)
    bad.values[3, 2] = np.nan
    with pytest.raises(SentinelError) as caught:
        fit_boosted(rows(), bad, SETTINGS)
    assert caught.value.code is ErrorCode.TRAINING_NOT_FINITE
    assert caught.value.at == "validation: c"


def test_a_loss_that_is_no_number_stops_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leaves grow without bound when nothing holds the steps: the loss is the first to say so."""
    import lightgbm

    real = lightgbm.train

    def diverging(*arguments: object, **options: object) -> object:
        def nan_loss(scores: object, data: object) -> tuple[str, float, bool]:
            return "loss", float("nan"), False

        return real(*arguments, **options, feval=nan_loss)

    monkeypatch.setattr(lightgbm, "train", diverging)
    with pytest.raises(SentinelError) as caught:
        fit_boosted(rows(seed=1), rows(seed=2), SETTINGS)
    assert caught.value.code is ErrorCode.TRAINING_NOT_FINITE
    assert caught.value.at == "fit: round 1: loss"


@pytest.mark.parametrize("refit", [True, False])
def test_the_trees_answer_what_the_library_answers_to_the_last_bit(refit: bool) -> None:
    settings = ModelSettings(n_rounds_max=40, stop_after_rounds=10, n_leaves=7, refit=refit)
    fitted = fit_boosted(rows(seed=1), rows(seed=2), settings)
    fresh = rows(seed=3).values
    edges = np.array(
        [[0, 0, 0, 0], [-0.0, 1e-38, -1e-38, 1e-45], [3e38, -3e38, 1, 2]], dtype=np.float32
    )
    for values in (fresh, edges):
        np.testing.assert_array_equal(fitted.trees.scores(values), fitted.scores(values))
    assert fitted.trees.n_trees == fitted.n_rounds


def test_thresholds_fall_between_float32_neighbours() -> None:
    """A value on either side of a threshold, one float32 step apart, takes its own side."""
    fitted = fit_boosted(rows(seed=1), rows(seed=2), SETTINGS)
    branch = np.flatnonzero(fitted.trees.feature >= 0)
    values = np.zeros((2 * len(branch), 4), dtype=np.float32)
    for place, node in enumerate(branch):
        near = np.float32(fitted.trees.threshold[node])
        column = fitted.trees.feature[node]
        values[2 * place, column] = near
        values[2 * place + 1, column] = np.nextafter(near, np.float32(np.inf))
    np.testing.assert_array_equal(fitted.trees.scores(values), fitted.scores(values))


def test_the_same_seed_gives_the_same_trees_whatever_the_threads() -> None:
    fits = [
        fit_boosted(rows(seed=1), rows(seed=2), ModelSettings.of({**BASE, "n_threads": n_threads}))
        for n_threads in (1, 2, 2)
    ]
    for other in fits[1:]:
        np.testing.assert_array_equal(fits[0].trees.value, other.trees.value)
        np.testing.assert_array_equal(fits[0].trees.threshold, other.trees.threshold)


BASE = {"n_rounds_max": 40, "stop_after_rounds": 10, "n_leaves": 7}


def test_another_seed_gives_other_trees() -> None:
    first, second = (
        fit_boosted(rows(seed=1), rows(seed=2), ModelSettings.of({**BASE, "seed": seed}))
        for seed in (1, 2)
    )
    assert not np.array_equal(first.trees.value[:50], second.trees.value[:50])


def test_each_round_is_shown() -> None:
    seen: list[tuple[str, int, int]] = []
    fitted = fit_boosted(
        rows(seed=1),
        rows(seed=2),
        SETTINGS,
        on_progress=lambda stage, done, total: seen.append((stage, done, total)),
    )
    assert [done for stage, done, _ in seen if stage == "refit"] == list(
        range(1, fitted.n_rounds + 1)
    )
    assert all(total <= SETTINGS.n_rounds_max for _, _, total in seen)


def test_an_interrupt_between_two_rounds_ends_the_run() -> None:
    def interrupt(stage: str, done: int, total: int) -> None:
        if done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit_boosted(rows(seed=1), rows(seed=2), SETTINGS, on_progress=interrupt)


def test_all_that_makes_a_run_repeatable_is_asked_of_the_library() -> None:
    asked = parameters(ModelSettings(seed=5))
    assert asked["deterministic"]
    assert asked["force_row_wise"]
    assert asked["seed"] == 5
    assert not asked["use_missing"]
