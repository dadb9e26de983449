"""Whether a release can go on where another one stops, and how it is warmed before it does."""

from __future__ import annotations

import numpy as np

from sentinel.core.errors import ErrorCode, SentinelError
from sentinel.features import Engine
from sentinel.release import LoadedRelease
from sentinel.scoring.guards import Rows
from sentinel.serving import bounds
from sentinel.serving.releases.working_release import WorkingRelease

_OWN_STATE = (
    "Its state cannot be gone on with: replay the log into a new store and start a server of its "
    "own with it."
)


def keeps_state_of(loaded: LoadedRelease, engine: Engine) -> bool:
    """Whether a release reads and keeps the very state that an engine holds.

    In memory the numbers of encodings may differ: they are no state. A durable store names the
    whole feature set on the disk, so there they may not.
    """
    plan = loaded.parts.plan
    if plan.identity == engine.plan.identity:
        return True
    is_in_memory = type(engine) is Engine
    return is_in_memory and plan.features.state_identity == engine.plan.features.state_identity


def check_fits(loaded: LoadedRelease, current: LoadedRelease, engine: Engine) -> None:
    """Refuse a release that cannot go on where another one stops.

    Raises
    ------
    SentinelError
        ``stage-refused``: another name, the release that is in service, another feature set or
        contract, another policy of the decision log.
    """
    asked, now = loaded.manifest, current.manifest
    differences = (
        (asked.name != now.name, "name", now.name, asked.name, "Another model has its own server."),
        (
            loaded.digest == current.digest or asked.label == now.label,
            "release",
            "another release than the one in service",
            asked.label,
            "",
        ),
        (
            not keeps_state_of(loaded, engine),
            "features",
            f"the feature set in service, {current.parts.plan.identity[:16]}…",
            f"{loaded.parts.plan.identity[:16]}…",
            _OWN_STATE,
        ),
        (
            loaded.parts.policy.decision_log != current.parts.policy.decision_log,
            "policy.decision_log",
            current.parts.policy.decision_log,
            loaded.parts.policy.decision_log,
            "The log is opened once: restart the server with this release.",
        ),
    )
    for is_different, at, expected, got, hint in differences:
        if is_different:
            raise SentinelError(
                ErrorCode.STAGE_REFUSED,
                at=f"{asked.label}: {at}",
                expected=str(expected),
                got=str(got),
                hint=hint,
            )


def warm(release: WorkingRelease) -> None:
    """Score known rows in batches of many sizes, so that the first callers find nothing cold."""
    canary = release.loaded.parts.canary
    known = np.concatenate([canary.event_vectors, canary.vectors])
    for n_rows in (1, 16, bounds.SERVE_BATCH_ROWS_MAX, bounds.SERVE_BATCH_ROWS_MAX, 1):
        values = np.ascontiguousarray(np.resize(known, (n_rows, known.shape[1])))
        status = np.zeros(values.shape, dtype=np.uint8)
        # Each row is of its own entity: nothing of this belongs to one.
        release.scorer.champion.predict(Rows(values, status, np.arange(n_rows, dtype=np.int64)))
