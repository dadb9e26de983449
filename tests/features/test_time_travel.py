"""Leakage is caught wherever it is planted, and honest features pass."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from feature_world import (
    HOUR_MS,
    START_MS,
    Payment,
    Verdict,
    batch_of,
    every_kind,
    payments,
    split,
    verdicts,
)

from sentinel.contract import EventBatch
from sentinel.features import (
    Engine,
    FeatureMatrix,
    advance_log,
    compile_plan,
    time_travel,
    time_travel_of,
)
from sentinel.features.time_travel import sample_rows

PLAN = compile_plan(every_kind())


def replayed(events: EventBatch, feedback: EventBatch) -> FeatureMatrix:
    """Replay, duplicates left out."""
    [(_, matrix)] = advance_log(Engine(PLAN), [events], [feedback])
    once = ~matrix.is_duplicate
    return dataclasses.replace(
        matrix,
        values=matrix.values[once],
        status=matrix.status[once],
        is_late=matrix.is_late[once],
        is_duplicate=matrix.is_duplicate[once],
    )


def honest(events: EventBatch, feedback: EventBatch) -> FeatureMatrix:
    [(_, matrix)] = advance_log(Engine(PLAN), [events], [feedback])
    return matrix


@pytest.mark.parametrize("seed", range(3))
def test_honest_vectors_pass(seed: int) -> None:
    """Late, repeated and simultaneous events, feedback in the middle: nothing differs."""
    events = payments(600, seed, late_ms=2 * HOUR_MS, duplicate_share=0.1)
    feedback = verdicts(events, seed)
    report = time_travel(
        PLAN,
        split(events, Payment.schema, [100, 101, 400]),
        split(feedback, Verdict.schema, [30, 200]),
        replayed(events, feedback),
        n_samples=100,
        seed=seed,
    )
    assert (report.n_checked, report.n_different) == (100, 0)


def test_feedback_that_is_used_before_its_time_is_caught() -> None:
    """Verdicts dated back to their payments: the features that read them differ."""
    events = payments(600, 1)
    feedback = verdicts(events, 1)
    values = feedback.values.copy()
    values[1] = START_MS
    leaking = replayed(events, batch_of(Verdict.schema, values))
    report = time_travel(PLAN, [events], [feedback], leaking, n_samples=60)
    assert report.n_different > 0
    assert "fraud_share" in report.features
    assert set(report.features) <= {"fraud_share", "n_fraud", "n_verdicts", "since_fraud"}
    assert "when the log ends with that event" in report.detail


def test_a_statistic_over_the_whole_log_is_caught() -> None:
    """Standardised with the mean of all events, later ones too: every vector differs."""

    def leaking(events: EventBatch, feedback: EventBatch) -> FeatureMatrix:
        matrix = honest(events, feedback)
        return dataclasses.replace(matrix, values=matrix.values - matrix.values.mean(axis=0))

    events = payments(200, 2)
    feedback = verdicts(events, 2)
    schemas = {"event_schema": Payment.schema, "feedback_schema": Verdict.schema}
    found = time_travel_of(leaking, events, feedback, **schemas)
    assert found.n_different >= 15
    assert "amount" in found.features
    assert time_travel_of(honest, events, feedback, **schemas).n_different == 0


def test_an_encoding_fitted_on_what_comes_later_is_caught() -> None:
    """Shares of a category counted over the whole log know the future."""

    def leaking(events: EventBatch, feedback: EventBatch) -> FeatureMatrix:
        matrix = honest(events, feedback)
        codes = events.column("channel")
        shares = np.bincount(codes, minlength=3) / len(codes)
        values = matrix.values.copy()
        values[:, matrix.names.index("channel")] = shares[codes]
        return dataclasses.replace(matrix, values=values)

    events = payments(200, 4)
    report = time_travel_of(
        leaking,
        events,
        verdicts(events, 4),
        event_schema=Payment.schema,
        feedback_schema=Verdict.schema,
    )
    assert report.features == ("channel",)


def test_a_status_alone_is_a_difference() -> None:
    """A default that is passed off as a value is found."""
    events = payments(100, 5)
    feedback = verdicts(events, 5)
    matrix = replayed(events, feedback)
    status = matrix.status.copy()
    status[-1, PLAN.names.index("n")] ^= 1
    report = time_travel(
        PLAN, [events], [feedback], dataclasses.replace(matrix, status=status), n_samples=5
    )
    assert (report.n_different, report.features) == (1, ("n",))


def test_of_an_empty_log_nothing_is_checked() -> None:
    """It proves nothing: whoever judges asks how many were checked."""
    events = payments(0, 1)
    feedback = verdicts(events, 1)
    report = time_travel(PLAN, [events], [feedback], replayed(events, feedback))
    assert (report.n_checked, report.n_different) == (0, 0)


def test_samples_are_reproducible_and_hold_the_last_row() -> None:
    """The same seed draws the same rows."""
    rows = sample_rows(1000, n_samples=50, seed=3)
    assert rows.tolist() == sample_rows(1000, n_samples=50, seed=3).tolist()
    assert rows[-1] == 999
    assert len(rows) == 50
    assert sample_rows(1, n_samples=50, seed=3).tolist() == [0]
    assert sample_rows(0, n_samples=50, seed=3).tolist() == []
