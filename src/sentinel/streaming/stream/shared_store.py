"""The engine in Redis, as a stream worker uses it."""

from __future__ import annotations

from collections.abc import Callable

from sentinel.contract import EventBatch
from sentinel.features.matrix import FeatureMatrix
from sentinel.features.stores.redis.store import RedisStore


class SharedStreamStore(RedisStore):
    """The engine in Redis, with a call when a batch has been applied or put off."""

    on_applied: Callable[[], None] | None = None

    def advance(self, events: EventBatch) -> FeatureMatrix:
        """Apply and commit; see :meth:`RedisStore.advance`."""
        matrix = super().advance(events)
        if self.on_applied is not None:
            self.on_applied()
        return matrix
