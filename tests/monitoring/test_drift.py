"""Drift is found, named for what it is, and seldom cried for nothing."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from sentinel.core.configuration import Configuration
from sentinel.monitoring import DriftMonitor, DriftReport, DriftSettings, Reference
from sentinel.monitoring.drift import PREDICTION, Cause, Verdict, compare
from sentinel.monitoring.sketch import Sketch

NAMES = ("amount", "count", "flag", "normal", "constant")
Rows = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]


def _rows(n: int, rng: np.random.Generator) -> Rows:
    features = np.stack(
        [
            np.round(rng.lognormal(3, 1, n), 2),
            rng.poisson(2, n),
            rng.random(n) < 0.1,
            rng.normal(size=n),
            np.full(n, 1.0),
        ],
        axis=1,
    ).astype(np.float32)
    status = (rng.random(features.shape) < 0.03).astype(np.uint8)
    return features, status, rng.beta(0.3, 8, n), np.zeros(n, dtype=np.bool_)


@pytest.fixture(scope="module")
def reference() -> Reference:
    """Return the reference of a stationary stream."""
    features, status, scores, _ = _rows(30_000, np.random.default_rng(0))
    return Reference.build(NAMES, features=features, status=status, scores=scores)


def _window(reference: Reference, rows: Rows) -> DriftReport:
    monitor = DriftMonitor(reference, DriftSettings(window_s_min=1))
    empty = tuple(part[:0] for part in rows)
    assert monitor.update(*empty, now_s=0) is None
    report = monitor.update(*rows, now_s=1)
    assert report is not None
    return report


def _nothing(rows: Rows) -> Rows:
    return rows


def _changed(column: int, change: Callable[[np.ndarray], np.ndarray]) -> Callable[[Rows], Rows]:
    def apply(rows: Rows) -> Rows:
        features = rows[0].copy()
        features[:, column] = change(features[:, column])
        return features, *rows[1:]

    return apply


def _status(column: int, code: int, share: float) -> Callable[[Rows], Rows]:
    def apply(rows: Rows) -> Rows:
        status = rows[1].copy()
        status[: int(share * len(status)), column] = code
        return rows[0], status, *rows[2:]

    return apply


PLANTED: dict[str, tuple[Callable[[Rows], Rows], str, Cause]] = {
    "times 100": (_changed(0, lambda x: x * 100), "amount", Cause.UNIT),
    "times 1000": (_changed(0, lambda x: x * 1000), "amount", Cause.UNIT),
    "over 100": (_changed(0, lambda x: x / 100), "amount", Cause.UNIT),
    "seconds for minutes": (_changed(0, lambda x: x * 60), "amount", Cause.UNIT),
    "NaN": (_changed(3, lambda x: np.where(np.arange(len(x)) % 10, x, np.nan)), "normal",
            Cause.NOT_FINITE),
    "all NaN": (_changed(3, lambda x: np.full_like(x, np.nan)), "normal", Cause.NOT_FINITE),
    "infinite": (_changed(0, lambda x: np.full_like(x, np.inf)), "amount", Cause.NOT_FINITE),
    "stuck": (_changed(3, lambda x: np.full_like(x, 0.25)), "normal", Cause.CONSTANT),
    "one class": (_changed(2, np.zeros_like), "flag", Cause.CONSTANT),
    "constant moves": (_changed(4, lambda x: x + 1), "constant", Cause.DISTRIBUTION),
    "stale": (_status(1, 2, 0.3), "count", Cause.STALE),
    "all stale": (_status(1, 2, 1.0), "count", Cause.STALE),
    "defaults": (_status(1, 1, 0.4), "count", Cause.DEFAULTED),
    "mean moves": (_changed(3, lambda x: x + 0.5), "normal", Cause.DISTRIBUTION),
    "spread grows": (_changed(3, lambda x: x * 2), "normal", Cause.DISTRIBUTION),
    "more flags": (
        _changed(2, lambda x: (np.arange(len(x)) % 3 == 0).astype(np.float32)),
        "flag",
        Cause.DISTRIBUTION,
    ),
    "amounts rise": (_changed(0, lambda x: x * 1.6), "amount", Cause.DISTRIBUTION),
}  # fmt: skip


@pytest.mark.parametrize("kind", PLANTED)
def test_a_planted_shift_is_found_and_named(reference: Reference, kind: str) -> None:
    """The feature, only that one, and who has to act."""
    change, name, cause = PLANTED[kind]
    report = _window(reference, change(_rows(4000, np.random.default_rng(1))))
    assert [(alarm.name, alarm.cause) for alarm in report.alarms] == [(name, cause)]
    alarm = report.alarms[0]
    is_population = cause is Cause.DISTRIBUTION
    assert alarm.verdict is (Verdict.POPULATION if is_population else Verdict.PIPELINE)
    assert report.feature_scores[name] == alarm.distance > 0.1
    assert alarm.detail
    assert report.prediction_score < 0.05


def test_drift_of_the_scores_is_found(reference: Reference) -> None:
    """A model that suddenly sees fraud everywhere."""
    features, status, scores, held = _rows(4000, np.random.default_rng(2))
    report = _window(reference, (features, status, scores**0.5, held))
    assert [(alarm.name, alarm.verdict) for alarm in report.alarms] == [
        (PREDICTION, Verdict.POPULATION)
    ]
    assert 0.15 < report.prediction_score <= 1.0


def test_scores_of_one_value_are_found(reference: Reference) -> None:
    """A champion that always says the same."""
    features, status, scores, held = _rows(4000, np.random.default_rng(2))
    report = _window(reference, (features, status, np.full_like(scores, 0.02), held))
    assert [alarm.name for alarm in report.alarms] == [PREDICTION]


def test_a_window_without_any_score_says_nothing_about_scores(reference: Reference) -> None:
    """All held: no number is made up."""
    features, status, scores, held = _rows(4000, np.random.default_rng(2))
    report = _window(reference, (features, status, scores, ~held))
    assert report.alarms == ()
    assert report.prediction_score == 0.0


def test_a_window_needs_its_minimum_of_events_and_of_time(reference: Reference) -> None:
    """Few events say nothing, and a flood is not tested more often."""
    monitor = DriftMonitor(reference, DriftSettings(window_events_min=1000, window_s_min=60))
    rng = np.random.default_rng(3)
    assert monitor.update(*_rows(999, rng), now_s=100) is None
    assert monitor.update(*_rows(0, rng), now_s=1000) is None
    report = monitor.update(*_rows(1, rng), now_s=1001)
    assert report is not None
    assert (report.n_events, report.from_s, report.to_s) == (1000, 100, 1001)
    assert monitor.update(*_rows(50_000, rng), now_s=1060) is None
    assert monitor.latest is report


def test_a_clock_that_steps_back_does_not_close_or_reopen_a_window(reference: Reference) -> None:
    """Time only goes on."""
    monitor = DriftMonitor(reference, DriftSettings(window_s_min=60))
    rng = np.random.default_rng(3)
    assert monitor.update(*_rows(2000, rng), now_s=1000) is None
    assert monitor.update(*_rows(2000, rng), now_s=0) is None
    report = monitor.update(*_rows(2000, rng), now_s=1060)
    assert report is not None
    assert (report.from_s, report.to_s, report.n_events) == (1000, 1060, 6000)


def test_false_alarms_stay_within_the_budget(reference: Reference) -> None:
    """1,500 stationary windows at a budget that allows 15 alarms: at most twice that.

    Without the floor on the distance, so that the probability alone is judged.
    """
    rng = np.random.default_rng(4)
    n_windows = 1500
    # One alarm allowed in a hundred windows.
    settings = DriftSettings(false_alarm_days=100 * 60 / 86_400, window_s_min=60, distance_min=0.0)
    n_alarms = 0
    for _ in range(n_windows):
        sketch = Sketch.empty(len(NAMES))
        sketch.update(reference.edges, *_rows(1000, rng))
        n_alarms += len(compare(reference, sketch, settings).alarms)
    assert n_alarms <= 2 * n_windows / 100


def test_nights_raise_no_alarm_when_the_reference_knew_them() -> None:
    """A daily rhythm in the reference widens what is normal; the same stream stays calm."""

    def day(rng: np.random.Generator) -> Rows:
        features, status, scores, held = _rows(24_000, rng)
        hour = np.arange(24_000) // 1000
        features[:, 0] *= (1 + 0.5 * np.sin(hour / 24 * 2 * np.pi)).astype(np.float32)
        return features, status, scores, held

    features, status, scores, _ = day(np.random.default_rng(5))
    knowing = Reference.build(NAMES, features=features, status=status, scores=scores)
    rows = day(np.random.default_rng(6))
    settings = DriftSettings()
    n_alarms = 0
    for hour in range(24):
        part = slice(hour * 1000, hour * 1000 + 1000)
        sketch = Sketch.empty(len(NAMES))
        sketch.update(knowing.edges, *(column[part] for column in rows))
        n_alarms += len(compare(knowing, sketch, settings).alarms)
    assert n_alarms == 0
    broken = (rows[0] * np.float32(100), *rows[1:])
    sketch = Sketch.empty(len(NAMES))
    sketch.update(knowing.edges, *broken)
    assert "amount" in {alarm.name for alarm in compare(knowing, sketch, settings).alarms}


def test_a_difference_too_small_to_matter_raises_no_alarm(reference: Reference) -> None:
    """With a million events every difference is significant; only large ones wake anybody."""
    features, status, scores, held = _rows(300_000, np.random.default_rng(8))
    features[:, 3] += 0.03
    report = _window(reference, (features, status, scores, held))
    assert report.alarms == ()


def test_merged_windows_give_the_report_of_one(reference: Reference) -> None:
    """Three replicas, one answer, to the last bit."""
    rows = _rows(6000, np.random.default_rng(9))
    whole = Sketch.empty(len(NAMES))
    whole.update(reference.edges, *rows)
    merged = Sketch.empty(len(NAMES))
    for replica in range(3):
        part = Sketch.empty(len(NAMES))
        part.update(reference.edges, *(column[replica::3] for column in rows))
        merged = merged.merge(part)
    settings = DriftSettings()
    assert compare(reference, merged, settings) == compare(reference, whole, settings)


def test_the_budget_is_the_one_that_is_stated() -> None:
    """30 days of windows of ten minutes over 32 features and the scores: one in 142,560."""
    probability = DriftSettings(false_alarm_days=30, window_s_min=600).probability_max(32)
    assert 1 / probability == pytest.approx(30 * 144 * 33)


def test_the_numbers_come_from_the_configuration() -> None:
    """Each setting of drift reaches its place."""
    configuration = Configuration(
        drift_false_alarm_days=7.0, drift_window_events=500, drift_window_s=60.0
    )
    settings = DriftSettings.from_configuration(configuration)
    assert (settings.false_alarm_days, settings.window_events_min, settings.window_s_min) == (
        7.0,
        500,
        60.0,
    )
