"""The way of an event, opened from the files of a release alone: for recording and checking.

Nothing of training is used, no object of the candidate: what a release answers follows from its
files, and only from them.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from sentinel.contract import Decoder, EventBatch, RawBatch
from sentinel.features import Engine, FeatureMatrix, FeatureSet, compile_plan
from sentinel.release.champion import TreeEnsemble
from sentinel.release.edges import leaf_rows
from sentinel.scoring.canary import Canary, CanaryPath, CanaryReport, choose_canary_rows
from sentinel.scoring.fallback import LinearFallback
from sentinel.scoring.policy import Policy
from sentinel.scoring.session import ModelSession

Float32Array = npt.NDArray[np.float32]

# Vectors that travel with a release beside the canary's events: a check stays near 5 ms.
VECTORS_MAX = 1_024
# Rows of normal traffic that the vectors are chosen from.
_ROWS_LOOKED_AT = 8_192


def open_path(*, features: object, model: bytes, fallback: object, policy: object) -> CanaryPath:
    """Open the way of an event from the plain data of a release.

    Parameters
    ----------
    features, fallback, policy : object
        Contents of ``features.json``, ``fallback.json``, ``policy.json``.
    model : bytes
        ONNX, admitted.

    Raises
    ------
    SentinelError
        What the parts raise for data that is none of theirs.
    """
    feature_set = FeatureSet.from_data(features)
    plan = compile_plan(feature_set)
    decoder = Decoder(feature_set.events)
    session = ModelSession(model, n_features=len(feature_set.names))

    def decode(raw: RawBatch) -> EventBatch:
        return decoder.decode(raw).events

    def advance(events: EventBatch) -> FeatureMatrix:
        return Engine(plan).advance(events)

    def champion(values: Float32Array) -> Float32Array:
        return np.asarray(session.run(values), dtype=np.float32)

    return CanaryPath(
        decode=decode,
        features=advance,
        champion=champion,
        fallback=LinearFallback.from_data(fallback),
        outputs=Policy.from_data(policy).outputs,
    )


def reproduce(
    canary: Canary, *, features: object, model: bytes, fallback: object, policy: object
) -> CanaryReport:
    """Ask a canary's questions of the files of a release; the first difference ends it."""
    path = open_path(features=features, model=model, fallback=fallback, policy=policy)
    return canary.check(path)


def canary_vectors(champion: object, rows: Float32Array) -> Float32Array:
    """Choose vectors that see as much of the champion as possible.

    Of trees: rows of normal traffic that reach most leaves, then rows moved into the leaves that
    none of them reaches. Of other models: rows spread over normal traffic.

    Parameters
    ----------
    champion : TreeEnsemble or another model
    rows : ndarray of float32, shape (n_rows, n_features)
        Normal traffic.

    Returns
    -------
    ndarray of float32, shape (n_vectors, n_features), n_vectors at most ``VECTORS_MAX``
    """
    finite = rows[np.isfinite(rows).all(axis=1)]
    step = max(1, len(finite) // _ROWS_LOOKED_AT)
    base = np.ascontiguousarray(finite[::step][:_ROWS_LOOKED_AT])
    if not isinstance(champion, TreeEnsemble) or not len(base):
        spread = np.linspace(0, len(base) - 1, min(len(base), VECTORS_MAX)).astype(np.int64)
        return base[np.unique(spread)]
    reached = np.zeros(champion.n_nodes, dtype=np.bool_)
    reached[np.unique(champion.leaves(base))] = True
    unseen = np.flatnonzero((champion.feature < 0) & ~reached)
    pool = np.concatenate([base, leaf_rows(champion, unseen, base)])
    return pool[choose_canary_rows(champion.leaves(pool), n_rows_max=VECTORS_MAX)]
