"""What training hands over: everything a release is made of, and nothing of how it was fitted."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from sentinel.features.feature_set import FeatureSet
from sentinel.release.champion import Champion
from sentinel.release.pipeline import Pipeline
from sentinel.scoring.fallback import LinearFallback
from sentinel.scoring.policy import Policy

Float32Array = npt.NDArray[np.float32]
Float64Array = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class ParitySample:
    """What the trained model itself answered: the exported one must answer the same.

    Attributes
    ----------
    inputs : ndarray of float32, shape (n_rows, n_features)
        Rows of the later part, and of the edges (see ``docs/release.md``).
    scores : ndarray of float64, shape (n_rows,)
        The trained model's own probabilities, from the library that fitted it.
    """

    inputs: Float32Array
    scores: Float64Array


@dataclass(frozen=True, slots=True, kw_only=True)
class LaterPart:
    """Both models on events after all training data, labels known by now.

    The gate counts on these rows itself; ``metrics`` are for people.

    Attributes
    ----------
    labels : ndarray of bool, shape (n_rows,)
    champion_scores, fallback_scores : ndarray of float64, shape (n_rows,)
    from_ms, until_ms : int
        Event times covered, ``[from_ms, until_ms)``.
    trained_until_ms : int
        End of the training part; at most ``from_ms`` less the label delay.
    metrics : mapping of str to (mapping of str to float)
        ``{"champion": {"auc_roc": ...}, "fallback": {...}}``.
    """

    labels: npt.NDArray[np.bool_]
    champion_scores: Float64Array
    fallback_scores: Float64Array
    from_ms: int
    until_ms: int
    trained_until_ms: int
    metrics: Mapping[str, Mapping[str, float]]


@dataclass(frozen=True, slots=True, kw_only=True)
class ReferenceRows:
    """Rows that stand for normal traffic: the later part, scored by the champion.

    Attributes
    ----------
    values : ndarray of float32, shape (n_rows, n_features)
    scores : ndarray of float64, shape (n_rows,)
    status : ndarray of uint8, shape (n_rows, n_features)
        As in :class:`sentinel.features.matrix.FeatureMatrix`.
    """

    values: Float32Array
    scores: Float64Array
    status: npt.NDArray[np.uint8]


@dataclass(frozen=True, slots=True, kw_only=True)
class TimeTravel:
    """Result of the time-travel test (``features``).

    Attributes
    ----------
    n_checked : int
        Events whose log was cut just before them.
    n_different : int
        Events with any differing feature value.
    detail : str
        The first difference, for people; empty when there is none.
    """

    n_checked: int
    n_different: int
    detail: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Provenance:
    """Where a release comes from; all of it ends in the manifest.

    Attributes
    ----------
    git_commit : str
        40 hexadecimal digits, ``-dirty`` behind them where files were changed; empty when unknown.
    data_sha256 : str
        Hash of the event log and the feedback log together.
    environment_sha256 : str
        Digest from ``sentinel.environment``.
    seeds : mapping of str to int
    hyper_parameters : mapping of str to (str, int, float or bool)
    library_versions : mapping of str to str
    parents : tuple of str
        Digests of the releases that this one was made from.
    n_rows : mapping of str to int
        Rows by part: ``train``, ``later``, and what was left out.
    """

    git_commit: str
    data_sha256: str
    environment_sha256: str
    seeds: Mapping[str, int]
    hyper_parameters: Mapping[str, str | int | float | bool]
    library_versions: Mapping[str, str]
    parents: tuple[str, ...] = ()
    n_rows: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """All that a release is built and judged from.

    Attributes
    ----------
    pipeline : Pipeline
        What the user wrote.
    features : FeatureSet
        The pipeline's feature set, its encodings fitted on the training part only.
    policy : Policy
        The pipeline's policy with the thresholds that training chose, or as it was.
    champion : TreeEnsemble, Linear or OnnxModel
    fallback : LinearFallback
    parity : ParitySample
    later : LaterPart
    reference : ReferenceRows
    canary_events : tuple of bytes
        Raw events, in order, that travel with the release; scored from empty state.
    time_travel : TimeTravel
    null_counts : mapping of str to int
        Values that were defaulted for want of anything to compute from, by feature name, over
        the ``train`` rows.
    provenance : Provenance
    record : mapping of str to object
        The metadata record of the training rows
        (:class:`sentinel.features.record.FeatureSetRecord`) as plain data; empty without one.
    """

    pipeline: Pipeline
    features: FeatureSet
    policy: Policy
    champion: Champion
    fallback: LinearFallback
    parity: ParitySample
    later: LaterPart
    reference: ReferenceRows
    canary_events: tuple[bytes, ...]
    time_travel: TimeTravel
    null_counts: Mapping[str, int]
    provenance: Provenance
    record: Mapping[str, object] = field(default_factory=dict)
