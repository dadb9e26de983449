"""The engines of a stream worker: each says when a batch has been applied."""

from __future__ import annotations

from collections.abc import Callable

from sentinel.contract import EventBatch
from sentinel.features import Engine
from sentinel.features.matrix import FeatureMatrix
from sentinel.features.stores.embedded import EmbeddedStore
from sentinel.features.stores.redis.store import RedisStore


class _Telling(Engine):
    """An engine with a call when a batch has been applied, or put off."""

    on_applied: Callable[[], None] | None = None

    def advance(self, events: EventBatch) -> FeatureMatrix:
        """Apply and commit; see the engine behind it."""
        matrix = super().advance(events)
        if self.on_applied is not None:
            self.on_applied()
        return matrix


class StreamStore(_Telling, EmbeddedStore):
    """The durable engine of one folder."""


class SharedStreamStore(_Telling, RedisStore):
    """The engine in Redis."""
