"""The time-travel test passes honest vectors and finds a planted look into the future."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from sentinel.training.history import History
from sentinel.training.travel import travel_in_time


def test_replayed_vectors_know_nothing_of_the_future(history: History) -> None:
    travel = travel_in_time(history, n_events=40)
    assert (travel.n_checked, travel.n_different) == (40, 0)


def test_a_vector_that_holds_its_own_label_is_found(history: History) -> None:
    """The classic leak: a rate that counts the verdict on the event itself."""
    matrix = history.replayed.matrix
    column = matrix.names.index("fraud_rate_merchant_30d")
    labels = history.labels(history.known_until_ms).is_positive
    values = matrix.values.copy()
    values[:, column] = values[:, column] * np.float32(0.9) + labels * np.float32(0.1)
    leaking = replace(
        history, replayed=replace(history.replayed, matrix=replace(matrix, values=values))
    )
    travel = travel_in_time(leaking, n_events=400)
    assert travel.n_different > 0
    assert "fraud_rate_merchant_30d" in travel.detail
