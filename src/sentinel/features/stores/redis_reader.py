"""Features by entity key, for others than the scorer: read from Redis, never written.

A value is what the next event of the entity at that time would read, to the last bit: the rows
are read in one round trip, and the kernel that serves reads the features from them. Feedback that
waits is in them once an event has reached its known-at.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from sentinel.contract import FieldKind
from sentinel.core import limits
from sentinel.core.clock import Clock
from sentinel.core.errors import ErrorCode, SentinelError
from sentinel.core.siphash import siphash_rows
from sentinel.features.definitions import Distance, EntityFeature, Velocity
from sentinel.features.layout import (
    E_KEY,
    NEVER,
    W_AT,
    W_ENTITY,
    W_FEED,
    W_HOP,
    Feed,
    Vectors,
)
from sentinel.features.plan import FeaturePlan
from sentinel.features.stores.redis_address import is_cluster
from sentinel.features.stores.redis_cache import RowCache
from sentinel.features.stores.redis_cluster_link import ClusterLink
from sentinel.features.stores.redis_link import RedisLink
from sentinel.features.stores.redis_script import Keys
from sentinel.features.stores.redis_shards import Shards

Int64Array = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class EntityFeatures:
    """Features of entities, in the order of the keys asked for.

    Attributes
    ----------
    names : tuple of str
        The features of the entity's type, but for those that need an event (distance, velocity);
        column order.
    values : ndarray of float32, shape (n_keys, n_features)
    status : ndarray of uint8, shape (n_keys, n_features)
        ``PRESENT``, ``DEFAULTED`` or ``STALE``.
    is_known : ndarray of bool, shape (n_keys,)
        Whether there is state of the entity.
    age_ms_max : ndarray of int64, shape (n_keys,)
        The entity's latest event is at most so old: it is known to one tile of the finest window.
        -1 where there is no state, or no window over events.
    """

    names: tuple[str, ...]
    values: npt.NDArray[np.float32]
    status: npt.NDArray[np.uint8]
    is_known: npt.NDArray[np.bool_]
    age_ms_max: Int64Array


class FeatureReader:
    """Read features by entity key from the store of a feature set.

    Parameters
    ----------
    plan : FeaturePlan
    url, name : str
        Of the store; see :class:`RedisSettings`.
    deadline_ms : float
        Of a read; each row adds ``STORE_ROW_MS``.
    clock : Clock, optional

    Raises
    ------
    SentinelError
        ``state-missing``, ``state-of-another-feature-set``, ``store-unreachable``,
        ``store-denied``.
    """

    def __init__(
        self,
        plan: FeaturePlan,
        *,
        url: str,
        name: str,
        deadline_ms: float = limits.STORE_DEADLINE_MS,
        clock: Clock | None = None,
    ) -> None:
        self.plan = plan
        self._keys = Keys(name, "")
        self._cache = RowCache(plan)
        self.link: RedisLink | ClusterLink
        self._shards: Shards | None = None
        if is_cluster(url):
            self.link = ClusterLink(url, name.encode(), deadline_ms=deadline_ms, clock=clock)
            self._shards = Shards(self.link, self._keys, [], self._cache.n_words)
        else:
            self.link = RedisLink(url, deadline_ms=deadline_ms, clock=clock)
        self._kinds = {e.name: number for number, e in enumerate(plan.features.entities)}
        is_open = False
        try:
            self._check_head()
            is_open = True
        finally:
            if not is_open:
                self.link.close()

    def read(self, entity: str, keys: Sequence[str] | Sequence[int], at_ms: int) -> EntityFeatures:
        """Read the features of some entities of one type as of a time.

        Parameters
        ----------
        entity : str
            Name of the entity type.
        keys : sequence of str or of int
            As they stand in events; at most ``STORE_KEYS_READ_MAX``.
        at_ms : int
            Milliseconds since the epoch.

        Raises
        ------
        SentinelError
            ``entity-keys-invalid``; ``store-unreachable``, ``store-denied``, ``store-refused``.
        """
        number = self._number_of(entity)
        hashed = self._hashed(number, keys)
        values = self._rows_of(number, hashed)
        # A key may be asked for twice: its row is held once.
        _, first = np.unique(hashed, return_index=True)
        is_known = np.array([value is not None for value in values], dtype=np.bool_)
        self._cache.drop_rows()
        self._cache.hold(number, hashed[first], [values[i] for i in first])
        ages = self._ages(number, values, at_ms)
        vectors = self._read_rows(number, hashed, at_ms)
        columns = self._columns(entity)
        return EntityFeatures(
            names=tuple(self.plan.names[column] for column in columns),
            values=vectors.values[:, columns],
            status=vectors.status[:, columns],
            is_known=is_known,
            age_ms_max=ages,
        )

    def close(self) -> None:
        """Close the connection."""
        self.link.close()

    def _check_head(self) -> None:
        (reply,) = self.link.call([("HGET", self._keys.head, "identity")])
        if not isinstance(reply, bytes):
            raise SentinelError(
                ErrorCode.STATE_MISSING,
                at=f"{self.link.address.shown}, store {self._keys.name}",
                expected="a store",
                got="nothing",
            )
        if reply.decode() != self.plan.identity:
            raise SentinelError(
                ErrorCode.STATE_OF_ANOTHER_FEATURE_SET,
                at=f"{self.link.address.shown}, store {self._keys.name}",
                expected=f"state of feature set {self.plan.identity[:12]}",
                got=f"feature set {reply.decode()[:12]}",
            )

    def _rows_of(self, number: int, hashed: Int64Array) -> list[bytes | None]:
        """Read rows, in one round trip."""
        if self._shards is not None:
            wanted = [np.empty(0, dtype=np.int64)] * number + [hashed]
            return self._shards.peek(wanted)[number]
        (reply,) = self.link.call(
            [("MGET", *self._keys.row_keys(number, hashed))], n_rows=len(hashed)
        )
        found = reply if isinstance(reply, list) else []
        return [value if isinstance(value, bytes) else None for value in found]

    def _number_of(self, entity: str) -> int:
        if entity not in self._kinds:
            raise SentinelError(
                ErrorCode.ENTITY_KEYS_INVALID,
                at="entity",
                expected=f"one of {', '.join(self._kinds)}",
                got=entity,
            )
        return self._kinds[entity]

    def _hashed(self, number: int, keys: Sequence[str] | Sequence[int]) -> Int64Array:
        if not 1 <= len(keys) <= limits.STORE_KEYS_READ_MAX:
            raise SentinelError(
                ErrorCode.ENTITY_KEYS_INVALID,
                at="keys",
                expected=f"1 to {limits.STORE_KEYS_READ_MAX} keys",
                got=len(keys),
            )
        field = self.plan.features.entities[number].key
        is_text = field.kind is FieldKind.TEXT
        if any(isinstance(key, str) is not is_text for key in keys):
            raise SentinelError(
                ErrorCode.ENTITY_KEYS_INVALID,
                at=f"keys of {field.name}",
                expected="texts" if is_text else "integers",
                got=keys[0],
            )
        return hash_texts([str(key) for key in keys]) if is_text else np.array(keys, np.int64)

    def _read_rows(self, number: int, hashed: Int64Array, at_ms: int) -> Vectors:
        plan, n = self.plan, len(hashed)
        n_fields = len(plan.features.events.fields)
        column = plan.tables.entities[number, E_KEY]
        values = np.zeros((n_fields, n), dtype=np.int64)
        present = np.zeros((n_fields, n), dtype=np.bool_)
        values[column], present[column] = hashed, True
        times = np.full(n, at_ms, dtype=np.int64)
        out = Vectors(
            values=np.empty((n, len(plan.names)), dtype=np.float32),
            status=np.empty((n, len(plan.names)), dtype=np.uint8),
            is_late=np.zeros(n, dtype=np.bool_),
            is_duplicate=np.zeros(n, dtype=np.bool_),
            rows=np.empty((n, len(plan.tables.entities)), dtype=np.int64),
        )
        feed = Feed(values, values.view(np.float64), present, times)
        self._cache.read(number, feed, out)
        return out

    def _ages(self, number: int, values: list[bytes | None], at_ms: int) -> Int64Array:
        """Say how old the latest event is at most: from where the newest tile begins."""
        windows = self.plan.tables.windows
        is_own = (windows[:, W_ENTITY] == number) & (windows[:, W_HOP] > 0)
        places = windows[is_own & (windows[:, W_FEED] == 0)][:, W_AT]
        ages = np.full(len(values), -1, dtype=np.int64)
        if len(places):
            for i, value in enumerate(values):
                if value is not None:
                    latest = int(np.frombuffer(value, dtype=np.int64)[places].max())
                    ages[i] = at_ms - latest if latest != NEVER else -1
        return ages

    def _columns(self, entity: str) -> list[int]:
        return [
            column
            for column, feature in enumerate(self.plan.features.features)
            if isinstance(feature, EntityFeature)
            and not isinstance(feature, Distance | Velocity)
            and feature.by.name == entity
        ]


def hash_texts(texts: list[str]) -> Int64Array:
    """Hash keys as the contract does; those of one length together."""
    contents = [text.encode() for text in texts]
    lengths = np.array([len(content) for content in contents])
    hashed = np.empty(len(contents), dtype=np.int64)
    for length in np.unique(lengths):
        chosen = np.flatnonzero(lengths == length)
        content = b"".join(contents[i] for i in chosen)
        rows = np.frombuffer(content, dtype=np.uint8).reshape(len(chosen), int(length))
        hashed[chosen] = siphash_rows(np.ascontiguousarray(rows)).view(np.int64)
    return hashed
