"""What tests of the store in Redis share: one log, fed to a store and to an engine in memory."""

from __future__ import annotations

import time
from typing import TypeVar

import feature_world
import numpy as np
import numpy.typing as npt
import pytest
from feature_world import every_kind

from sentinel.contract import EventBatch
from sentinel.core.errors import ErrorCode, SentinelError
from sentinel.features import Engine, FeatureMatrix, compile_plan
from sentinel.features.stores.redis.reader import EntityFeatures, FeatureReader
from sentinel.features.stores.redis.store import RedisStore

PLAN = compile_plan(every_kind())
BATCH = 20
WAIT_S_MAX = 30.0
_OPEN: list[RedisStore | FeatureReader] = []
Opened = TypeVar("Opened", RedisStore, FeatureReader)


def closed_later(opened: Opened) -> Opened:
    """Close it behind the test."""
    _OPEN.append(opened)
    return opened


def close_all() -> None:
    while _OPEN:
        _OPEN.pop().close()


def log_of(seed: int, n_events: int) -> list[EventBatch]:
    return feature_world.log_of(seed, n_events, batch=BATCH)


def feed(engine: Engine, batch: EventBatch) -> FeatureMatrix | None:
    if batch.raw.source == "Verdict":
        engine.learn(batch)
        return None
    return engine.advance(batch)


def bits(matrix: FeatureMatrix | None) -> list[bytes]:
    if matrix is None:
        return []
    parts = (matrix.values, matrix.status, matrix.is_late, matrix.is_duplicate)
    return [part.tobytes() for part in parts]


def undisturbed(log: list[EventBatch]) -> tuple[str, list[list[bytes]]]:
    engine = Engine(PLAN)
    answers = [bits(feed(engine, batch)) for batch in log]
    return engine.state_digest(), answers


def feed_until_taken(store: RedisStore, batch: EventBatch) -> FeatureMatrix | None:
    """Do what a worker does that holds: give the same batch again until it is taken."""
    deadline = time.monotonic() + WAIT_S_MAX
    while True:
        try:
            return feed(store, batch)
        except SentinelError as error:
            if error.code is not ErrorCode.STORE_UNREACHABLE or time.monotonic() > deadline:
                raise
            time.sleep(0.01)


def read_hashed(
    reader: FeatureReader, entity: str, hashed: npt.NDArray[np.int64], at_ms: int
) -> EntityFeatures:
    """Ask by hash: the small world has no texts."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(FeatureReader, "_hashed", lambda *_: np.ascontiguousarray(hashed))
        return reader.read(entity, ["x"] * len(hashed), at_ms)
