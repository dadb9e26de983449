"""One meaning, four stores: memory, disk, Redis, Redis Cluster; and the plain oracle beside them.

Streams are late, simultaneous, repeated, shuffled, cut anywhere and read again after a restart.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from itertools import count, pairwise
from pathlib import Path

import numpy as np
import pytest
from duckdb_oracle import Oracle
from feature_world import HOUR_MS, Payment, Verdict, batch_of, every_kind, payments, verdicts
from hypothesis import given, settings
from hypothesis import strategies as st
from naive_engine import NaiveEngine

from sentinel.contract import EventBatch
from sentinel.core.errors import ErrorCode, SentinelError
from sentinel.features import PRESENT, Engine, FeatureMatrix, compile_plan
from sentinel.features.stores.embedded import EmbeddedStore
from sentinel.features.stores.redis.store import RedisSettings, RedisStore
from sentinel.testing.memory_disk import MemoryDisk
from sentinel.testing.redis_cluster import RedisCluster
from sentinel.testing.redis_server import RedisServer

PLAN = compile_plan(every_kind())
ESTIMATED = {"n_merchants", "n_amounts"}
ROUNDED = {"tip_spread", "tip_sum", "tip_mean"}
NAMES = count()
Opener = Callable[[], Engine]


@pytest.fixture(scope="module")
def cluster() -> Iterator[RedisCluster]:
    with (
        tempfile.TemporaryDirectory(prefix="redis-") as folder,
        RedisCluster(Path(folder)) as nodes,
    ):
        yield nodes


@pytest.fixture(scope="module")
def urls(server: RedisServer, cluster: RedisCluster) -> dict[str, str]:
    return {"redis": server.url, "cluster": cluster.url}


def stores_of(urls: dict[str, str], rows_held_max: int) -> dict[str, Opener]:
    """Return how each store is opened, and opened again."""
    disk = MemoryDisk()
    name = f"conformance-{next(NAMES)}"
    places = {
        store: RedisSettings(url=url, name=name, deadline_ms=10_000, rows_held_max=rows_held_max)
        for store, url in urls.items()
    }
    memory = Engine(PLAN)
    return {
        "memory": lambda: memory,
        "embedded": lambda: EmbeddedStore(PLAN, Path("state"), disk=disk),
        "redis": lambda: RedisStore(PLAN, places["redis"]),
        "cluster": lambda: RedisStore(PLAN, places["cluster"]),
    }


def at(batch: EventBatch, schema: type, start: int, end: int) -> EventBatch:
    """Cut a batch out of a log, with its positions there."""
    part = batch_of(schema.schema, batch.values[:, start:end], batch.present[:, start:end])  # type: ignore[attr-defined]
    part.raw.positions[:] = np.arange(start, end)
    object.__setattr__(part.raw, "source", schema.__name__)
    return part


def steps_of(events: EventBatch, feedback: EventBatch, cuts: list[int]) -> list[EventBatch]:
    """Cut a stream; feedback goes between, in parts."""
    edges = [0, *sorted(min(cut, events.n_rows) for cut in cuts), events.n_rows]
    n_parts = len(edges) - 1
    parts: list[EventBatch] = []
    for k in range(n_parts):
        first, end = (feedback.n_rows * part // n_parts for part in (k, k + 1))
        parts.append(at(feedback, Verdict, first, end))
        parts.append(at(events, Payment, edges[k], edges[k + 1]))
    return parts


def feed(engine: Engine | NaiveEngine, batch: EventBatch) -> object:
    if batch.raw.source == "Verdict":
        return engine.learn(batch)
    return engine.advance(batch)


def bits(matrix: object) -> list[bytes]:
    assert isinstance(matrix, FeatureMatrix)
    return [
        part.tobytes()
        for part in (matrix.values, matrix.status, matrix.is_late, matrix.is_duplicate)
    ]


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    late_hours=st.sampled_from([0, 1, 3, 12]),
    duplicate_share=st.sampled_from([0.0, 0.2]),
    is_shuffled=st.booleans(),
    rows_held_max=st.sampled_from([1_000_000, 20]),
    cuts=st.lists(st.integers(0, 200), max_size=8),
)
def test_stores_agree_to_the_last_bit(
    urls: dict[str, str],
    seed: int,
    late_hours: int,
    duplicate_share: float,
    is_shuffled: bool,
    rows_held_max: int,
    cuts: list[int],
) -> None:
    """Vectors, marks and state digest, after every batch; Redis with a small cache, too."""
    events = payments(200, seed, late_ms=late_hours * HOUR_MS, duplicate_share=duplicate_share)
    if is_shuffled:
        order = np.random.default_rng(seed).permutation(events.n_rows)
        events = batch_of(Payment.schema, events.values[:, order], events.present[:, order])
    openers = stores_of(urls, rows_held_max)
    engines = {name: opener() for name, opener in openers.items()}
    for batch in steps_of(events, verdicts(events, seed), cuts):
        given_out = {name: feed(engine, batch) for name, engine in engines.items()}
        if batch.raw.source == "Payment":
            expected = bits(given_out["memory"])
            for name, answer in given_out.items():
                assert bits(answer) == expected, name
    digests = {name: engine.state_digest() for name, engine in engines.items()}
    assert len(set(digests.values())) == 1, digests
    close(engines)


def close(engines: dict[str, Engine]) -> None:
    for engine in engines.values():
        if isinstance(engine, EmbeddedStore | RedisStore):
            engine.close()


@pytest.mark.reliability("D9", t1=5, t2=50, t3=500)
def test_stores_opened_again_and_a_source_read_again_change_nothing(
    urls: dict[str, str], trials: Iterator[int]
) -> None:
    """After every batch each store is closed and opened, and the source goes back a little."""
    for seed in trials:
        opened_again(urls, seed)


def opened_again(urls: dict[str, str], seed: int) -> None:
    events = payments(160, seed, late_ms=2 * HOUR_MS, duplicate_share=0.1)
    steps = steps_of(events, verdicts(events, seed), [30, 70, 71, 120])
    openers = stores_of(urls, 1_000_000)
    memory = Engine(PLAN)
    told: list[object] = []
    for k, batch in enumerate(steps):
        told.append(feed(memory, batch))
        for name in ("embedded", "redis", "cluster"):
            engine = openers[name]()
            assert isinstance(engine, EmbeddedStore | RedisStore)
            for earlier in range(max(0, k - 3), k + 1):
                answer = feed(engine, steps[earlier])
                if earlier == k and told[k] is not None:
                    assert bits(answer) == bits(told[k]), (name, k)
            assert engine.state_digest() == memory.state_digest(), (name, k)
            engine.close()


@pytest.mark.reliability("B12", t1=1)
@pytest.mark.parametrize("name", ["embedded", "redis", "cluster"])
def test_hole_before_or_within_a_batch_stops_until_it_is_accepted(
    urls: dict[str, str], name: str
) -> None:
    """What stands before the hole in the same batch is not lost when the hole is passed."""
    events = payments(60, 3)
    store = stores_of(urls, 1_000_000)[name]()
    memory = Engine(PLAN)
    assert isinstance(store, EmbeddedStore | RedisStore)
    chosen = [np.arange(4, 10), np.r_[12:15, 17:20, 25:30], np.arange(31, 40)]
    ends = [[], [12, 17, 25], [31]]
    for positions, holes in zip(chosen, ends, strict=True):
        for n_accepted, end in enumerate(holes):
            with pytest.raises(SentinelError) as caught:
                store.advance(picked(events, positions))
            assert caught.value.code is ErrorCode.SOURCE_GAP
            assert caught.value.at == "Payment/0"
            assert caught.value.got == str(end), n_accepted
            store.accept_gap("Payment", 0, end)
        assert bits(store.advance(picked(events, positions))) == bits(
            memory.advance(picked(events, positions))
        )
        assert store.position("Payment") == positions[-1] + 1
    assert bits(store.advance(picked(events, chosen[1])))  # what is held has no hole
    assert store.state_digest() == memory.state_digest()
    store.close()


def picked(events: EventBatch, positions: np.ndarray[tuple[int], np.dtype[np.int64]]) -> EventBatch:
    part = batch_of(Payment.schema, events.values[:, positions], events.present[:, positions])
    part.raw.positions[:] = positions
    object.__setattr__(part.raw, "source", "Payment")
    return part


@pytest.mark.parametrize("seed", range(3))
def test_stores_say_what_the_plain_oracle_says(urls: dict[str, str], seed: int) -> None:
    """Status exactly, values to a float32's last digits, for every kind of feature."""
    events = payments(180, seed, late_ms=HOUR_MS, duplicate_share=0.1, span_ms=8 * HOUR_MS)
    engines = {name: opener() for name, opener in stores_of(urls, 1_000_000).items()}
    oracle = NaiveEngine(PLAN.features)
    for batch in steps_of(events, verdicts(events, seed), [60, 61, 130]):
        told = feed(oracle, batch)
        for name, engine in engines.items():
            answer = feed(engine, batch)
            if isinstance(answer, FeatureMatrix):
                assert isinstance(told, list)
                assert_as_told(answer, told, name)
    close(engines)


OF_CARD = {"key": "card_id", "hop_ms": HOUR_MS // 12, "tiles": 12}
SQL: dict[str, tuple[str, dict[str, object]]] = {
    "n": ("count(p.seq)", OF_CARD),
    "n_ever": ("count(p.seq)", {"key": "card_id"}),
    "amount_sum": ("sum(p.amount) / 100", OF_CARD),
    "amount_most": ("max(p.amount) / 100", OF_CARD),
    "vpn_share": ("avg(p.is_vpn)", {**OF_CARD, "key": "device_id"}),
    "n_fraud": ("sum(p.is_fraud)", {"key": "card_id", "feed": "verdicts"}),
}


@pytest.mark.parametrize("late_hours", [0, 2])
def test_stores_say_what_duckdb_says(urls: dict[str, str], late_hours: int) -> None:
    """The definitions as SQL, exact to the bit of a float32; events repeated, late, null."""
    events = payments(200, 3, late_ms=late_hours * HOUR_MS, duplicate_share=0.1)
    feedback = verdicts(events, 3)
    keys = ("card_id", "merchant_id", "device_id")
    oracle = Oracle(events, feedback, Payment.schema, Verdict.schema, keys)
    engines = {name: opener() for name, opener in stores_of(urls, 1_000_000).items()}
    # The oracle knows all feedback from the start: what is not yet known is not seen.
    steps = [at(feedback, Verdict, 0, feedback.n_rows)]
    edges = [*range(0, events.n_rows, 50), events.n_rows]
    steps += [at(events, Payment, first, end) for first, end in pairwise(edges)]
    for name, engine in engines.items():
        answers = [part for part in (feed(engine, s) for s in steps) if part is not None]
        matrices = [part for part in answers if isinstance(part, FeatureMatrix)]
        once = ~np.concatenate([part.is_duplicate for part in matrices])
        values = np.concatenate([part.values for part in matrices])[once]
        status = np.concatenate([part.status for part in matrices])[once]
        for feature, (expression, where) in SQL.items():
            told = oracle.ask(expression, **where)  # type: ignore[arg-type]
            column = PLAN.names.index(feature)
            is_there = status[:, column] == PRESENT
            np.testing.assert_array_equal(is_there, ~np.ma.getmaskarray(told), f"{name} {feature}")
            expected = told.data[is_there].astype(np.float32)
            np.testing.assert_array_equal(values[is_there, column], expected, f"{name} {feature}")
    close(engines)


def assert_as_told(
    matrix: FeatureMatrix, told: list[list[tuple[float, int]] | None], store: str
) -> None:
    for i, answers in enumerate(told):
        assert matrix.is_duplicate[i] == (answers is None)
        for f, name in enumerate(matrix.names):
            if answers is None:
                continue
            value, status = answers[f]
            assert matrix.status[i, f] == status, (store, i, name)
            relative = 0.2 if name in ESTIMATED and value > 16 else 3e-7
            absolute = 1e-6 if name in ROUNDED else 1e-9
            expected = pytest.approx(value, rel=relative, abs=absolute)
            assert matrix.values[i, f] == expected, (store, i, name)
