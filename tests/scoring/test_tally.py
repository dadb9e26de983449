"""One native pass counts what NumPy counts column by column."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from sentinel.features.matrix import DEFAULTED, STALE
from sentinel.scoring.decision import Outcome, Reason, ServedBy
from sentinel.scoring.guards import Answer
from sentinel.scoring.tally import outcomes, tally_of


@pytest.mark.parametrize("n_rows", [0, 1, 7, 500])
@pytest.mark.parametrize("seed", range(3))
def test_a_tally_is_what_the_columns_hold(n_rows: int, seed: int) -> None:
    """Duplicates count nowhere but among the late ones of the whole batch."""
    rng = np.random.default_rng([seed, n_rows])
    batch = SimpleNamespace(
        is_decided=rng.random(n_rows) < 0.8,
        is_late=rng.random(n_rows) < 0.3,
        outcome=rng.integers(0, len(Outcome), n_rows).astype(np.uint8),
        served_by=rng.integers(0, len(ServedBy), n_rows).astype(np.uint8),
        reason=rng.integers(0, len(Reason), n_rows).astype(np.uint8),
        feature_status=rng.integers(0, 3, (n_rows, 5)).astype(np.uint8),
    )
    found = tally_of(batch)  # type: ignore[arg-type]
    decided = batch.is_decided
    pairs = batch.outcome[decided].astype(np.int64) * len(ServedBy) + batch.served_by[decided]
    n_pairs = len(Outcome) * len(ServedBy)
    assert found.n_decided == decided.sum()
    assert found.n_late == batch.is_late.sum()
    assert found.n_late_decided == (batch.is_late & decided).sum()
    assert found.n_defaulted == (batch.feature_status == DEFAULTED).sum()
    assert found.n_stale == (batch.feature_status == STALE).sum()
    assert found.pairs == np.bincount(pairs, minlength=n_pairs).tolist()
    assert found.reasons == np.bincount(batch.reason[decided], minlength=len(Reason)).tolist()
    assert found.n_held == (batch.outcome[decided] == Outcome.HELD).sum()


def test_an_outcome_is_above_a_threshold_and_held_where_nobody_answered() -> None:
    """Each of the two who may answer has thresholds of its own; equal is not above."""
    answer = Answer(
        scores=np.array([0.1, 0.5, 0.6, 0.95, 0.6, 0.0]),
        served_by=np.array([0, 0, 0, 0, 1, 2], dtype=np.uint8),
        reasons=np.zeros(6, dtype=np.uint8),
    )
    thresholds = np.array([[0.5, 0.9], [0.2, 0.5]])
    assert outcomes(answer, thresholds).tolist() == [
        Outcome.APPROVE,
        Outcome.APPROVE,
        Outcome.REVIEW,
        Outcome.DECLINE,
        Outcome.DECLINE,
        Outcome.HELD,
    ]
