"""What a store keeps in Redis, damaged there: refused by name, never taken for features."""

from __future__ import annotations

from collections.abc import Callable
from itertools import count

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from redis_rig import (
    PLAN,
    close_all,
    closed_later,
    feed,
    log_of,
    read_hashed,
    undisturbed,
)

from sentinel.contract import EventBatch
from sentinel.core.errors import ErrorCode, SentinelError
from sentinel.features.stores.redis.intent import Intent, Part, decode_intent
from sentinel.features.stores.redis.reader import FeatureReader
from sentinel.features.stores.redis.seal import (
    seal_rows,
    sealed,
    sum_of_ids,
    unseal_rows,
    unsealed,
)
from sentinel.features.stores.redis.store import OnLoss, RedisSettings, RedisStore
from sentinel.testing.redis_server import RedisServer

NAMES = count()
WORDS = st.integers(-(1 << 63), (1 << 63) - 1)


@given(st.lists(WORDS, min_size=3, max_size=200), st.data())
def test_any_changed_word_of_a_row_breaks_its_seal(words: list[int], data: st.DataObject) -> None:
    entity = data.draw(st.integers(0, 15))
    row = np.array([words], dtype=np.int64)
    row[0, 1] = entity
    whole, keys = row.copy(), row[:, 0].copy()
    seal_rows(row, entity)
    assert (np.delete(row, 1, axis=1) == np.delete(whole, 1, axis=1)).all()
    changed = row.copy()
    place = data.draw(st.integers(0, len(words) - 1))
    changed[0, place] ^= data.draw(WORDS.filter(bool))
    assert not unseal_rows(changed, entity, keys)
    assert not unseal_rows(row.copy(), (entity + 1) % 16, keys)
    assert not unseal_rows(row.copy(), entity, keys + 1)
    assert unseal_rows(row, entity, keys)
    assert (row == whole).all()


@given(st.binary(max_size=300), st.data())
def test_any_changed_byte_of_a_text_breaks_its_seal(content: bytes, data: st.DataObject) -> None:
    whole = sealed(content)
    assert unsealed(whole, "text") == content
    damaged = bytearray(whole)
    damaged[data.draw(st.integers(0, len(whole) - 1))] ^= data.draw(st.integers(1, 255))
    for other in (bytes(damaged), whole[:-1], b""):
        with pytest.raises(SentinelError) as caught:
            unsealed(other, "text")
        assert caught.value.code is ErrorCode.STATE_CORRUPT
        assert "text" in caught.value.at


@given(st.lists(WORDS), st.data())
def test_sums_of_ids_are_the_same_in_parts_and_in_any_order(
    ids: list[int], data: st.DataObject
) -> None:
    cut = data.draw(st.integers(0, len(ids)))
    whole = np.array(ids, dtype=np.int64)
    mixed = np.array(data.draw(st.permutations(ids)), dtype=np.int64)
    assert sum_of_ids(whole) == sum_of_ids(mixed[cut:], sum_of_ids(mixed[:cut]))
    if any(ids):
        kept = np.where(np.arange(len(ids)) == int(np.flatnonzero(whole)[0]), 0, whole)
        assert sum_of_ids(kept) != sum_of_ids(whole)


@pytest.fixture
def settings(server: RedisServer) -> RedisSettings:
    return RedisSettings(url=server.url, name=f"seal-{next(NAMES)}", deadline_ms=10_000)


def opened(settings: RedisSettings) -> RedisStore:
    return closed_later(RedisStore(PLAN, settings, n_dedupe_min=64))


def key_of(settings: RedisSettings, name: str) -> bytes:
    return f"sentinel:{{{settings.name}}}:{name}".encode()


def row_of(store: RedisStore) -> bytes:
    (found,) = store.link.call([("KEYS", b"*" + store.settings.name.encode() + b"}:r:*")])
    assert isinstance(found, list)
    return min(key for key in found if isinstance(key, bytes))


def zeros(store: RedisStore, key: bytes, at: int, n: int) -> None:
    store.link.call([("SETRANGE", key, at, bytes(n))])


def damaged_field(store: RedisStore, key: bytes, name: str) -> None:
    (content,) = store.link.call([("HGET", key, name)])
    assert isinstance(content, bytes)
    store.link.call([("HSET", key, name, content[:-9] + bytes(1) + content[-8:])])


def damaged_feedback(store: RedisStore, key: bytes) -> None:
    (page,) = store.link.call([("ZRANGE", key, 0, 0)])
    assert isinstance(page, list)
    (member,) = (each for each in page if isinstance(each, bytes))
    changed = member[:20] + bytes([member[20] ^ 1]) + member[21:]
    store.link.call([("ZREM", key, member), ("ZADD", key, 1, changed)])


Damage = Callable[[RedisStore, RedisSettings], object]
DAMAGES: dict[str, Damage] = {
    "rows": lambda store, _: zeros(store, row_of(store), 64, 64),
    "head": lambda store, own: damaged_field(store, key_of(own, "head"), "state"),
    "head, turns": lambda store, own: store.link.call(
        [("HSET", key_of(own, "head"), "turn", "77")]
    ),
    "head or positions": lambda store, own: store.link.call(
        [("HSET", key_of(own, "positions"), "0/Payment", b"\0\0\0")]
    ),
    "ids, older": lambda store, own: zeros(store, key_of(own, "ids:0"), 8, 16),
    "ids, newer": lambda store, own: zeros(store, key_of(own, "ids:1"), 8, 16),
    "ids, of feedback": lambda store, own: zeros(store, key_of(own, "fids:0"), 8, 16),
    "pending": lambda store, own: damaged_feedback(store, key_of(own, "pending")),
}


@pytest.fixture
def log() -> list[EventBatch]:
    return log_of(3, 400)


@pytest.mark.reliability("D4", "D6", t1=1, t2=1, t3=1)
@pytest.mark.parametrize("name", DAMAGES)
def test_what_is_damaged_in_redis_is_refused_by_name(
    settings: RedisSettings, log: list[EventBatch], name: str
) -> None:
    store = opened(settings)
    for batch in log:
        feed(store, batch)
    digest = store.state_digest()
    assert opened(settings).state_digest() == digest
    DAMAGES[name](store, settings)
    with pytest.raises(SentinelError) as caught:
        opened(settings).state_digest()
    assert caught.value.code is ErrorCode.STATE_CORRUPT
    assert name.partition(",")[0] in caught.value.at
    assert "replay" in caught.value.hint


def test_a_list_of_changes_that_is_damaged_is_only_not_used(
    settings: RedisSettings, log: list[EventBatch]
) -> None:
    """It says which rows to read again; without it all are."""
    first, second = opened(settings), opened(settings)
    for number, batch in enumerate(log):
        feed((first, second)[number % 2], batch)
        first.link.call([("LSET", key_of(settings, "changes"), -1, bytes(40))])
    first.tend()
    assert first.state_digest() == second.state_digest() == undisturbed(log)[0]


def test_answers_that_are_damaged_are_not_given_again(
    settings: RedisSettings, log: list[EventBatch]
) -> None:
    store = opened(settings)
    events = [batch for batch in log if batch.raw.source == "Payment"]
    for batch in events:
        feed(store, batch)
    key = key_of(settings, "answers:0/Payment")
    (last,) = store.link.call([("LINDEX", key, -1)])
    assert isinstance(last, bytes)
    store.link.call([("LSET", key, -1, last[:20] + bytes([last[20] ^ 1]) + last[21:])])
    again = opened(settings)
    with pytest.raises(SentinelError) as caught:
        feed(again, events[-1])
    assert caught.value.code is ErrorCode.STATE_CORRUPT
    assert "answers" in caught.value.at


def test_a_damaged_row_is_a_loss_of_the_store_not_an_end_of_serving(
    server: RedisServer, log: list[EventBatch]
) -> None:
    """Defaults that say they are stale, and the fault by name; never the row's values."""
    settings = RedisSettings(
        url=server.url, name=f"seal-{next(NAMES)}", deadline_ms=10_000,
        on_loss=OnLoss.DEFAULTS, is_fenced=False,
    )  # fmt: skip
    store = opened(settings)
    events = [batch for batch in log if batch.raw.source == "Payment"]
    for batch in events[:-1]:
        feed(store, batch)
    (keys,) = store.link.call([("KEYS", b"*" + settings.name.encode() + b"}:r:*")])
    assert isinstance(keys, list)
    close_all()
    store = opened(settings)
    for key in keys:
        zeros(store, key if isinstance(key, bytes) else b"", 64, 64)
    matrix = feed(store, events[-1])
    assert matrix is not None
    own = feed(closed_later(RedisStore(PLAN, settings, n_dedupe_min=64)), events[-1])
    assert own is not None
    assert (matrix.status == own.status).all()
    assert "state-corrupt" in store.trouble
    assert store.store_counts.stale_events == events[-1].n_rows


def test_a_damaged_row_is_not_read_as_features(
    settings: RedisSettings, log: list[EventBatch]
) -> None:
    store = opened(settings)
    for batch in log:
        feed(store, batch)
    payments = [batch for batch in log if batch.raw.source == "Payment"]
    cards = np.unique(np.concatenate([each.column("card_id") for each in payments]))
    reader = closed_later(
        FeatureReader(PLAN, url=settings.url, name=settings.name, deadline_ms=10_000)
    )
    assert read_hashed(reader, "card", cards, at_ms=0).is_known.all()
    (keys,) = store.link.call([("KEYS", b"*" + settings.name.encode() + b"}:r:*")])
    assert isinstance(keys, list)
    for key in keys:
        zeros(store, key if isinstance(key, bytes) else b"", 64, 64)
    with pytest.raises(SentinelError) as caught:
        read_hashed(reader, "card", cards, at_ms=0)
    assert caught.value.code is ErrorCode.STATE_CORRUPT


@given(st.data())
def test_an_intent_that_is_damaged_is_refused_or_its_rows_are(data: st.DataObject) -> None:
    """Its own words have a checksum, and the rows that travel in it have seals."""
    rows = np.arange(3 * 5, dtype=np.int64).reshape(3, 5)
    keys = rows[:, 0].copy()
    rows[:, 1] = 1
    seal_rows(rows, 1)
    entities = np.ones(3, dtype=np.uint8)
    part = Part(7, 2, entities, keys, [row.tobytes() for row in rows])
    whole = Intent(3, [part]).encode()
    n_words = np.array([9, 5], dtype=np.int64)
    (back,) = decode_intent(whole, n_words).parts
    assert back.values == part.values
    damaged = bytearray(whole)
    damaged[data.draw(st.integers(0, len(whole) - 1))] ^= data.draw(st.integers(1, 255))
    try:
        found = decode_intent(bytes(damaged), n_words)
    except SentinelError as error:
        is_noticed = error.code is ErrorCode.STATE_CORRUPT
    else:
        values = np.frombuffer(b"".join(found.parts[0].values), dtype=np.int64)
        is_noticed = not unseal_rows(values.reshape(3, 5).copy(), 1, keys)
    assert is_noticed
