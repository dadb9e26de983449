"""Drift of features and predictions, with a stated budget of false alarms.

1. Events are counted into a window (:mod:`sentinel.monitoring.sketch`). It closes when it holds
   at least ``window_events_min`` events *and* has lasted ``window_s_min`` seconds: so there are at
   most ``86400 / window_s_min`` windows a day, whatever the load, and none says anything about
   too few events.
2. A closed window is held against the reference once, feature by feature: Pearson's two-sample
   statistic, divided by the design effect that the reference has measured, gives a probability.
3. **Budget.** In ``false_alarm_days`` days there are at most
   ``T = days * 86400 / window_s_min * (n_features + 1)`` tests. An alarm needs a probability
   below ``1 / T``; by the union bound the expected number of false alarms in those days is at
   most one, however the features hang together.
4. **Size.** With many events every difference is significant, so an alarm also needs a
   Jensen-Shannon distance of at least ``distance_min``.
5. **Verdict.** Values that went missing, stale, not finite or constant, or that are the old ones
   times a unit (100, 1000, 60 …), are a broken *pipeline*; anything else is the *population*.
"""

from __future__ import annotations

import enum
import math
from dataclasses import dataclass
from typing import Self

import numpy as np
import numpy.typing as npt

from sentinel.core import limits
from sentinel.core.configuration import Configuration
from sentinel.monitoring.divergence import chi_square_tail, homogeneity, jensen_shannon
from sentinel.monitoring.reference import Reference
from sentinel.monitoring.sketch import (
    DEFAULTED_SLOT,
    N_BINS,
    NOT_FINITE_SLOT,
    STALE_SLOT,
    Float32Array,
    Sketch,
    magnitudes,
)

# Name of the scores among the features of a report.
PREDICTION = "prediction"

# What one unit is of another: cents, thousands, minutes, hours, days in seconds, kilo and mega.
UNIT_FACTORS = (10.0, 60.0, 100.0, 1000.0, 3600.0, 86_400.0, 1_000_000.0)
# Tolerance of a unit change in doublings, and in the ratio of the spreads.
_UNIT_TOLERANCE = 0.2
_UNIT_SPREAD_TOLERANCE = 0.25
# A share that rose by less than this is no broken pipeline.
_SHARE_RISE_MIN = 0.05


class Verdict(enum.StrEnum):
    """Who has to act."""

    PIPELINE = "pipeline"  # what computes the feature broke: an engineer
    POPULATION = "population"  # the world moved: whoever owns the model


class Cause(enum.StrEnum):
    """What an alarm looks like; all but ``DISTRIBUTION`` point at the pipeline."""

    NOT_FINITE = "not-finite"
    STALE = "stale"
    DEFAULTED = "defaulted"
    CONSTANT = "constant"
    UNIT = "unit"
    DISTRIBUTION = "distribution"


@dataclass(frozen=True, slots=True)
class DriftSettings:
    """The numbers of the rule.

    Attributes
    ----------
    false_alarm_days : float
        Days in which at most one false alarm is expected.
    window_events_min : int
    window_s_min : float
        Seconds.
    distance_min : float, in [0, 1]
    """

    false_alarm_days: float = limits.DRIFT_FALSE_ALARM_DAYS
    window_events_min: int = limits.DRIFT_WINDOW_EVENTS_MIN
    window_s_min: float = limits.DRIFT_WINDOW_S_MIN
    distance_min: float = limits.DRIFT_DISTANCE_MIN

    @classmethod
    def from_configuration(cls, configuration: Configuration) -> Self:
        """Take the numbers of this deployment."""
        return cls(
            false_alarm_days=configuration.drift_false_alarm_days,
            window_events_min=configuration.drift_window_events,
            window_s_min=configuration.drift_window_s,
        )

    def probability_max(self, n_features: int) -> float:
        """Return the probability below which one test is an alarm."""
        n_windows = max(1.0, self.false_alarm_days * 86_400 / self.window_s_min)
        return 1.0 / (n_windows * (n_features + 1))


@dataclass(frozen=True, slots=True)
class DriftAlarm:
    """One feature, or the scores, that drifted.

    Attributes
    ----------
    name : str
        The feature, or :data:`PREDICTION`.
    distance : float, in [0, 1]
    probability : float
        Of a difference at least this large if nothing had changed.
    verdict : Verdict
    cause : Cause
    detail : str
        What was seen, in words.
    """

    name: str
    distance: float
    probability: float
    verdict: Verdict
    cause: Cause
    detail: str


@dataclass(frozen=True, slots=True)
class DriftReport:
    """One closed window.

    Attributes
    ----------
    n_events : int
    from_s, to_s : float
        When it opened and closed, on the clock that was passed in.
    prediction_score : float, in [0, 1]
        ``model_prediction_drift_score``.
    feature_scores : dict of str to float, in [0, 1]
    alarms : tuple of DriftAlarm
    """

    n_events: int
    from_s: float
    to_s: float
    prediction_score: float
    feature_scores: dict[str, float]
    alarms: tuple[DriftAlarm, ...]


class DriftMonitor:
    """Watch a stream against its reference.

    Parameters
    ----------
    reference : Reference
        Travels with the release.
    settings : DriftSettings, optional

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> rows = rng.normal(size=(4000, 1)).astype(np.float32)
    >>> status = np.zeros((4000, 1), dtype=np.uint8)
    >>> scores, held = rng.random(4000), np.zeros(4000, dtype=bool)
    >>> reference = Reference.build(("amount",), features=rows, status=status, scores=scores)
    >>> monitor = DriftMonitor(reference, DriftSettings(window_s_min=60))
    >>> monitor.update(rows * 100, status, scores, held, now_s=0.0) is None
    True
    >>> monitor.update(rows * 100, status, scores, held, now_s=60.0).alarms[0].detail
    'values are about 100 times those of the reference'
    """

    def __init__(self, reference: Reference, settings: DriftSettings | None = None) -> None:
        self._reference = reference
        self._settings = settings or DriftSettings()
        self._sketch = Sketch.empty(len(reference.feature_names))
        self._from_s = -math.inf
        self._now_s = -math.inf
        self._latest: DriftReport | None = None

    @property
    def latest(self) -> DriftReport | None:
        """The last closed window; None before the first."""
        return self._latest

    @property
    def sketch(self) -> Sketch:
        """What the open window holds so far; merge those of replicas and :func:`compare`."""
        return self._sketch

    def update(
        self,
        features: Float32Array,
        status: npt.NDArray[np.uint8],
        scores: npt.NDArray[np.float64],
        is_held: npt.NDArray[np.bool_],
        *,
        now_s: float,
    ) -> DriftReport | None:
        """Count one batch, and close the window when it is time.

        Parameters
        ----------
        features : ndarray of float32, shape (n, n_features)
        status : ndarray of uint8, shape (n, n_features)
        scores : ndarray of float64, shape (n,)
        is_held : ndarray of bool, shape (n,)
        now_s : float
            Seconds on any clock: the wall's when serving, event time in a replay. It may step
            back; the window does not.

        Returns
        -------
        DriftReport or None
            The window that this batch closed.
        """
        self._now_s = max(self._now_s, now_s)
        if self._from_s == -math.inf:
            self._from_s = self._now_s
        self._sketch.update(self._reference.edges, features, status, scores, is_held)
        is_long = self._now_s - self._from_s >= self._settings.window_s_min
        if not is_long or self._sketch.n_events < self._settings.window_events_min:
            return None
        report = compare(
            self._reference,
            self._sketch,
            self._settings,
            from_s=self._from_s,
            to_s=self._now_s,
        )
        self._sketch = Sketch.empty(len(self._reference.feature_names))
        self._from_s = self._now_s
        self._latest = report
        return report


def compare(
    reference: Reference,
    sketch: Sketch,
    settings: DriftSettings,
    *,
    from_s: float = 0.0,
    to_s: float = 0.0,
) -> DriftReport:
    """Hold one window against the reference; pure, O(features).

    Parameters
    ----------
    reference : Reference
    sketch : Sketch
        Of one process, or merged over replicas.
    settings : DriftSettings
    from_s, to_s : float
        Put into the report.
    """
    names = (*reference.feature_names, PREDICTION)
    probability_max = settings.probability_max(len(reference.feature_names))
    distances = []
    alarms = []
    for index, name in enumerate(names):
        own, kept = sketch.counts[index], reference.sketch.counts[index]
        n = int(own.sum())
        effect = 1.0 + max(0, n - 1) * float(reference.correlation[index])
        distance = jensen_shannon(own, kept, design_effect=effect)
        distances.append(distance)
        statistic, n_degrees = homogeneity(own, kept)
        probability = chi_square_tail(statistic / effect, n_degrees)
        is_enough = n >= settings.window_events_min
        if is_enough and probability < probability_max and distance >= settings.distance_min:
            cause, detail = _cause(reference, sketch, index)
            verdict = Verdict.POPULATION if cause is Cause.DISTRIBUTION else Verdict.PIPELINE
            alarms.append(DriftAlarm(name, distance, probability, verdict, cause, detail))
    return DriftReport(
        n_events=sketch.n_events,
        from_s=from_s,
        to_s=to_s,
        prediction_score=distances[-1],
        feature_scores=dict(zip(reference.feature_names, distances[:-1], strict=True)),
        alarms=tuple(alarms),
    )


def _cause(reference: Reference, sketch: Sketch, index: int) -> tuple[Cause, str]:
    """Say what a difference looks like; the first that fits."""
    own, kept = sketch.counts[index], reference.sketch.counts[index]
    shares, kept_shares = own / own.sum(), kept / kept.sum()
    for slot, cause, least in (
        (NOT_FINITE_SLOT, Cause.NOT_FINITE, 0.0),
        (STALE_SLOT, Cause.STALE, _SHARE_RISE_MIN),
        (DEFAULTED_SLOT, Cause.DEFAULTED, _SHARE_RISE_MIN),
    ):
        if shares[slot] - kept_shares[slot] > least:
            return (
                cause,
                f"{shares[slot]:.1%} are {cause}, {kept_shares[slot]:.1%} in the reference",
            )
    if index < len(sketch.extremes):
        low, high = sketch.extremes[index]
        kept_low, kept_high = reference.sketch.extremes[index]
        if low == high and kept_low < kept_high and own[:N_BINS].sum() > 1:
            return Cause.CONSTANT, f"every value is {low:g}"
        factor = _unit_factor(reference, sketch, index)
        if factor is not None:
            relation = f"{factor:g} times" if factor > 1 else f"1/{1 / factor:g} of"
            return Cause.UNIT, f"values are about {relation} those of the reference"
    return Cause.DISTRIBUTION, "the values are spread otherwise than in the reference"


def _unit_factor(reference: Reference, sketch: Sketch, index: int) -> float | None:
    """Find the unit change that explains a shift of the magnitude with an unchanged spread."""
    mean, spread = (part[index] for part in magnitudes(sketch))
    kept_mean, kept_spread = (part[index] for part in magnitudes(reference.sketch))
    if sketch.magnitude[index, 0] == 0 or reference.sketch.magnitude[index, 0] == 0:
        return None
    if abs(spread - kept_spread) > _UNIT_SPREAD_TOLERANCE * max(kept_spread, 0.5):
        return None
    shift = mean - kept_mean
    for factor in UNIT_FACTORS:
        if abs(abs(shift) - math.log2(factor)) <= _UNIT_TOLERANCE:
            return factor if shift > 0 else 1 / factor
    return None
