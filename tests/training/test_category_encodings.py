"""Category encodings are fitted on the training part, and on nothing else."""

from __future__ import annotations

import dataclasses

import numpy as np

from sentinel.release import Pipeline
from sentinel.training.category_encodings import Categories, fit_encodings, smoothed_rates
from sentinel.training.history import History, default_split


def categories(pipeline: Pipeline, n_rows: int, seed: int = 1) -> Categories:
    (encoding,) = pipeline.features.unfitted
    random = np.random.default_rng(seed)
    return Categories(
        event_ids=np.arange(n_rows),
        times_ms=np.arange(n_rows),
        columns={encoding.of.name: random.integers(-1, len(encoding.of.values), n_rows)},
    )


def test_no_training_rows_give_finite_numbers() -> None:
    none = np.empty(0, dtype=np.int64)
    assert smoothed_rates(none, none.astype(bool), n_values=2) == [0.0, 0.0]


def test_a_category_that_was_never_seen_gets_the_rate_of_all() -> None:
    rates = smoothed_rates(np.array([0, 0]), np.array([True, False]), n_values=2)
    assert rates[1] == 0.5


def test_a_category_with_many_events_gets_its_own_rate() -> None:
    values = np.repeat([0, 1], 100_000)
    labels = np.arange(200_000) < 1_000
    first, second = smoothed_rates(values, labels, n_values=2)
    assert abs(first - 0.01) < 1e-4
    assert second < 1e-5


def test_what_lies_outside_the_training_part_changes_nothing(pipeline: Pipeline) -> None:
    given = categories(pipeline, 1_000)
    train = np.arange(500)
    labels = np.random.default_rng(2).random(1_000) < 0.2
    fitted = fit_encodings(pipeline.features, given, train, labels)
    (name,) = given.columns
    other = given.columns[name].copy()
    other[500:] = 0
    flipped = labels.copy()
    flipped[500:] ^= True
    again = fit_encodings(
        pipeline.features, dataclasses.replace(given, columns={name: other}), train, flipped
    )
    assert fitted.identity == again.identity
    flipped[:500] ^= True
    assert fit_encodings(pipeline.features, given, train, flipped).identity != fitted.identity


def test_fitting_keeps_the_features_and_their_order(pipeline: Pipeline, history: History) -> None:
    assert history.features.names == pipeline.features.names
    assert not history.features.unfitted
    (encoding,) = pipeline.features.unfitted
    column = history.features.names.index(encoding.name)
    assert len(np.unique(history.replayed.matrix.values[:, column])) > 3


def test_encodings_of_a_history_are_those_of_its_split(history: History) -> None:
    """Counted again by hand over the training part's own rows."""
    split = default_split(history.pipeline, history.replayed.times_ms)
    labels = history.labels(split.cut_ms)
    train = split.parts(history.replayed.times_ms, labels.known_at_ms).train
    (encoding,) = history.pipeline.features.unfitted
    column = history.replayed.matrix.values[train, history.features.names.index(encoding.name)]
    for number in np.unique(column):
        rows = train[column == number]
        n_frauds = labels.is_positive[rows].sum()
        prior = labels.is_positive[train].mean()
        expected = (n_frauds + 100 * prior) / (len(rows) + 100)
        assert number == np.float32(expected)
