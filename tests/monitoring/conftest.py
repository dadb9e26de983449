"""Decisions to log, seeded."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from sentinel.monitoring import LogContext, LogRecords
from sentinel.monitoring.log_records import feature_hashes

# The oracles of ``tests/oracle`` can be imported by name.
sys.path.insert(0, str(Path(__file__).parent.parent / "oracle"))

N_FEATURES = 5


@pytest.fixture
def context() -> LogContext:
    """Return what all records of a test share."""
    return LogContext(
        release="cards 2.5.0",
        release_digest="d" * 64,
        environment_digest="e" * 64,
        execution_provider="CPUExecutionProvider",
        thresholds={"review": 0.5, "decline": 0.9},
        feature_names=tuple(f"feature_{i}" for i in range(N_FEATURES)),
        contract_hash="c" * 64,
        outcomes=("approve", "review", "decline", "held"),
        served_by=("champion", "fallback", "none"),
        reasons=("ok", "breaker-open"),
    )


@pytest.fixture
def make_records() -> Callable[..., LogRecords]:
    """Return a maker of decisions, by number of the first and how many."""

    def make(n: int, *, first: int = 0, seed: int = 0) -> LogRecords:
        rng = np.random.default_rng([seed, first])
        ids = [f"event-{first + i}" for i in range(n)]
        content = np.frombuffer(" ".join(ids).encode() or b" ", dtype=np.uint8)
        lengths = np.array([len(text) for text in ids], dtype=np.int64)
        ends = np.cumsum(lengths + 1) - 1
        features = rng.normal(size=(n, N_FEATURES)).astype(np.float32)
        is_held = rng.random(n) < 0.1
        return LogRecords(
            id_content=content,
            id_spans=np.stack([ends - lengths, ends], axis=1),
            event_time_ms=1_700_000_000_000 + np.arange(first, first + n) * 1000,
            decided_at_ms=np.full(n, 1_800_000_000_000),
            score=np.where(is_held, 0.0, rng.random(n)),
            is_held=is_held,
            outcome=np.where(is_held, 3, rng.integers(0, 3, n)).astype(np.uint8),
            served_by=np.where(is_held, 2, 0).astype(np.uint8),
            reason=is_held.astype(np.uint8),
            features=features,
            feature_status=rng.integers(0, 3, (n, N_FEATURES)).astype(np.uint8),
            feature_hash=feature_hashes(features),
            source="cards.ndjson",
            partition=0,
            positions=np.arange(first, first + n),
        )

    return make
