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
    E_WORDS,
    W_AT,
    W_ENTITY,
    W_FEED,
    W_HOP,
    Feed,
    Vectors,
)
from sentinel.features.plan import FeaturePlan
from sentinel.features.stores.redis.address import is_cluster
from sentinel.features.stores.redis.cache import RowCache
from sentinel.features.stores.redis.cluster_link import ClusterLink
from sentinel.features.stores.redis.link import RedisLink
from sentinel.features.stores.redis.script import Keys
from sentinel.features.stores.redis.seal import corrupt
from sentinel.features.stores.redis.shards import Shards
from sentinel.features.stores.redis.wire import (
    MORE,
    STRANGE,
    Found,
    Where,
    ask_for,
    hash_texts_in,
    read_places,
    take_rows,
)

Int64Array = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]


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


@dataclass(frozen=True, slots=True)
class _Room:
    """Arrays for a read of so many keys, used again for the next."""

    feed: Feed
    out: Vectors
    is_known: BoolArray


@dataclass(frozen=True, slots=True)
class _Kind:
    """An entity type, as reads need it."""

    number: int
    field: str
    is_text: bool
    column: int
    n_words: int
    item: npt.NDArray[np.uint8]
    marks: Int64Array
    columns: npt.NDArray[np.intp]
    names: tuple[str, ...]
    rooms: dict[int, _Room]

    def room(self, n: int, plan: FeaturePlan) -> _Room:
        """Return arrays for ``n`` keys."""
        if n not in self.rooms:
            if len(self.rooms) >= limits.STORE_READ_ROOMS_MAX:
                self.rooms.clear()
            self.rooms[n] = _room_for(n, self, plan)
        return self.rooms[n]


def _kind_of(plan: FeaturePlan, keys: Keys, number: int, name: str) -> _Kind:
    field = plan.features.entities[number].key
    windows = plan.tables.windows
    is_own = (windows[:, W_ENTITY] == number) & (windows[:, W_HOP] > 0)
    columns = [
        column
        for column, feature in enumerate(plan.features.features)
        if isinstance(feature, EntityFeature)
        and not isinstance(feature, Distance | Velocity)
        and feature.by.name == name
    ]
    return _Kind(
        number=number,
        field=field.name,
        is_text=field.kind is FieldKind.TEXT,
        column=int(plan.tables.entities[number, E_KEY]),
        n_words=int(plan.tables.entities[number, E_WORDS]),
        item=np.frombuffer(b"$%d\r\n%b" % (len(keys.rows) + 9, keys.rows), dtype=np.uint8),
        marks=np.ascontiguousarray(windows[is_own & (windows[:, W_FEED] == 0)][:, W_AT]),
        columns=np.array(columns, dtype=np.intp),
        names=tuple(plan.names[column] for column in columns),
        rooms={},
    )


def _room_for(n: int, kind: _Kind, plan: FeaturePlan) -> _Room:
    n_fields, n_features = len(plan.features.events.fields), len(plan.names)
    values = np.zeros((n_fields, n), dtype=np.int64)
    present = np.zeros((n_fields, n), dtype=np.bool_)
    present[kind.column] = True
    out = Vectors(
        values=np.empty((n, n_features), dtype=np.float32),
        status=np.empty((n, n_features), dtype=np.uint8),
        is_late=np.zeros(n, dtype=np.bool_),
        is_duplicate=np.zeros(n, dtype=np.bool_),
        rows=np.empty((n, len(plan.tables.entities)), dtype=np.int64),
    )
    times = np.empty(n, dtype=np.int64)
    feed = Feed(values, values.view(np.float64), present, times)
    return _Room(feed, out, np.empty(n, dtype=np.bool_))


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
        self._kinds = {
            each.name: _kind_of(plan, self._keys, number, each.name)
            for number, each in enumerate(plan.features.entities)
        }
        self._buffer = bytearray()
        self._reply = np.frombuffer(self._buffer, dtype=np.uint8)
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
        kind = self._kind(entity)
        hashed = self._hashed(kind, keys)
        n = len(hashed)
        first = self._cache.room_behind_head(n * kind.n_words)
        room = kind.room(n, self._cache.plan)
        arena = self._cache.state.arena
        where = Where(first, kind.n_words, kind.number)
        if self._shards is not None:
            self._take_from_shards(kind, hashed, room.is_known, arena, first)
        elif isinstance(self.link, RedisLink):
            self._take(self.link, kind, hashed, room, where)
        feed, out = room.feed, room.out
        feed.values[kind.column] = hashed
        feed.times[:] = at_ms
        ages = np.empty(n, dtype=np.int64)
        found = Found(room.is_known, ages, kind.marks)
        read_places(self.plan.tables, self._cache.state, feed, out, self._cache.work, where, found)
        return EntityFeatures(
            names=kind.names,
            values=out.values.take(kind.columns, axis=1),
            status=out.status.take(kind.columns, axis=1),
            is_known=room.is_known.copy(),
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

    def _take(
        self,
        link: RedisLink,
        kind: _Kind,
        keys: Int64Array,
        room: _Room,
        where: Where,
    ) -> None:
        """Read rows into the arena, in one round trip, without an object for each."""
        arena, is_known = self._cache.state.arena, room.is_known
        head = b"*%d\r\n$4\r\nMGET\r\n" % (1 + len(keys))
        request = head + ask_for(kind.item, kind.number, keys).tobytes()
        n_bytes = 32 + len(keys) * (8 * kind.n_words + 32)
        if len(self._buffer) < n_bytes:
            self._buffer = bytearray(2 * n_bytes)
            self._reply = np.frombuffer(self._buffer, dtype=np.uint8)
        reply = self._reply
        found = MORE

        def is_whole(end: int) -> bool:
            nonlocal found
            found = take_rows(reply, end, arena, where, keys, is_known)
            return found != MORE

        link.call_raw(request, self._buffer, is_whole, n_rows=len(keys))
        if found == STRANGE:
            # An error, or rows of something else: asked once more, so that it is named.
            link.close()
            link.call([("MGET", *self._keys.row_keys(kind.number, keys))])
            raise corrupt("rows", "rows of their keys whose checksums hold", "another row")

    def _take_from_shards(
        self,
        kind: _Kind,
        keys: Int64Array,
        is_known: BoolArray,
        arena: Int64Array,
        first: int,
    ) -> None:
        """Read rows of a Cluster into the arena."""
        if self._shards is None:
            raise AssertionError("a Cluster has shards")
        wanted = [np.empty(0, dtype=np.int64)] * kind.number + [keys]
        values = self._shards.peek(wanted)[kind.number]
        rows = arena[first : first + len(keys) * kind.n_words].reshape(len(keys), kind.n_words)
        is_known[:] = [value is not None for value in values]
        rows[is_known] = self._cache.rows_from(kind.number, keys[is_known], values)

    def _kind(self, entity: str) -> _Kind:
        if entity not in self._kinds:
            raise SentinelError(
                ErrorCode.ENTITY_KEYS_INVALID,
                at="entity",
                expected=f"one of {', '.join(self._kinds)}",
                got=entity,
            )
        return self._kinds[entity]

    def _hashed(self, kind: _Kind, keys: Sequence[str] | Sequence[int]) -> Int64Array:
        if not 1 <= len(keys) <= limits.STORE_KEYS_READ_MAX:
            raise SentinelError(
                ErrorCode.ENTITY_KEYS_INVALID,
                at="keys",
                expected=f"1 to {limits.STORE_KEYS_READ_MAX} keys",
                got=len(keys),
            )
        if not kind.is_text:
            if any(isinstance(key, str) for key in keys):
                raise _wrong_keys(kind, keys)
            try:
                return np.array(keys, np.int64)
            except OverflowError as error:
                raise _wrong_keys(kind, keys) from error
        hashed = np.empty(len(keys), dtype=np.int64)
        try:
            content = "\0".join(keys).encode()  # type: ignore[arg-type]
        except TypeError as error:
            raise _wrong_keys(kind, keys) from error
        if hash_texts_in(np.frombuffer(content, dtype=np.uint8), hashed):
            return hashed
        return hash_texts([str(key) for key in keys])  # one of them holds a zero byte


def _wrong_keys(kind: _Kind, keys: Sequence[str] | Sequence[int]) -> SentinelError:
    return SentinelError(
        ErrorCode.ENTITY_KEYS_INVALID,
        at=f"keys of {kind.field}",
        expected="texts" if kind.is_text else "integers of 64 bits",
        got=keys[0],
    )


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
