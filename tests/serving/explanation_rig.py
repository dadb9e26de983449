"""Decisions of a real release as records, for desks and explainers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from tests.release.conftest import BUILDER, NOW_MS, good_candidate, matrix

from sentinel.monitoring.log_records import LogRecords
from sentinel.release import LoadedRelease, build_release, load_release
from sentinel.scoring import Outcome, ServedBy
from sentinel.scoring.session import ModelSession


def explained_release(folder: Path) -> LoadedRelease:
    """Build a release that carries what explanations need."""
    build_release(good_candidate(), folder, created_at_ms=NOW_MS, builder=BUILDER)
    return load_release(folder, None, now_ms=NOW_MS, allow_unapproved=True)


def records_of(
    loaded: LoadedRelease, n: int, *, outcome: Outcome = Outcome.DECLINE, first: int = 0
) -> LogRecords:
    """Decisions ``e<first>`` and on, scored by the release's own champion."""
    values = np.ascontiguousarray(matrix().values[first : first + n])
    ids = [f"e{number}".encode() for number in range(first, first + n)]
    ends = np.cumsum([len(each) for each in ids])
    served = ServedBy.NONE if outcome is Outcome.HELD else ServedBy.CHAMPION
    scores = ModelSession(loaded.parts.champion, n_features=values.shape[1]).run(values)
    return LogRecords(
        id_content=np.frombuffer(b"".join(ids), dtype=np.uint8),
        id_spans=np.stack([np.append(0, ends[:-1]), ends], axis=1).astype(np.int64),
        event_time_ms=np.zeros(n, dtype=np.int64),
        decided_at_ms=np.zeros(n, dtype=np.int64),
        score=scores.astype(np.float64),
        is_held=np.full(n, outcome is Outcome.HELD),
        outcome=np.full(n, outcome, dtype=np.uint8),
        served_by=np.full(n, served, dtype=np.uint8),
        reason=np.zeros(n, dtype=np.uint8),
        features=values,
        feature_status=matrix().status[first : first + n],
        feature_hash=np.zeros(n, dtype=np.uint64),
        source="requests",
        partition=0,
        positions=np.arange(n, dtype=np.int64),
    )
