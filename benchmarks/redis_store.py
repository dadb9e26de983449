"""Features with their state in Redis: three entities an event, engine on one core, Redis beside it.

Limits: the same engine in memory; and Redis taking the same rows by bare, pipelined ``MSET``, which
keeps no order of writers, no positions and no ids. Rival: one event at a time, one round trip each.
"""

from __future__ import annotations

import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from replay_features import batch_of, draw, feature_set

from sentinel.contract import EventBatch
from sentinel.features import Engine, compile_plan
from sentinel.features.stores.redis.store import RedisSettings, RedisStore
from sentinel.testing.redis_server import RedisServer

N_EVENTS = 100_000
N_SINGLE = 2_000
N_ROUNDS = 3
BATCH = 1000


def cut(values: object, n_events: int, batch: int) -> list[EventBatch]:
    """Cut a stream into batches, with positions."""
    batches = []
    for at in range(0, n_events, batch):
        part = batch_of(values[:, at : at + batch])  # type: ignore[index]
        part.raw.positions[:] += at
        batches.append(part)
    return batches


def rate(run: Callable[[], None], n_events: int) -> float:
    """Measure events a second by the clock on the wall."""
    start = time.perf_counter()
    run()
    return n_events / (time.perf_counter() - start)


def main() -> None:
    """Measure in turns, and print medians."""
    cores = sorted(os.sched_getaffinity(0))
    plan = compile_plan(feature_set())
    streams = {"even": draw(N_EVENTS, spread=1.0), "busy few": draw(N_EVENTS, spread=3.0)}
    folder = Path(tempfile.mkdtemp(prefix="redis-"))
    found: dict[str, list[float]] = {}
    os.sched_setaffinity(0, cores[-1:])
    with RedisServer(folder) as server:
        os.sched_setaffinity(0, cores[:1])
        names = iter(range(1_000))

        def store(*, is_fenced: bool = True) -> RedisStore:
            name = f"bench-{next(names)}"
            return RedisStore(
                plan,
                RedisSettings(url=server.url, name=name, deadline_ms=30_000, is_fenced=is_fenced),
            )

        def feed(engine: Engine, batches: list[EventBatch]) -> None:
            for batch in batches:
                engine.advance(batch)

        def bare(rows: list[bytes]) -> None:
            link = store().link
            for at in range(0, len(rows), 3 * BATCH):
                part = rows[at : at + 3 * BATCH]
                words: list[bytes] = []
                for n, row in enumerate(part):
                    words += (b"bare%d" % n, row)
                link.call([("MSET", *words)])
            link.close()

        feed(Engine(plan), cut(streams["even"], 100, 100))
        for _ in range(N_ROUNDS):
            for name, values in streams.items():
                batches = cut(values, N_EVENTS, BATCH)
                engine = store()
                found.setdefault(f"Redis store, {name}, batches of {BATCH}", []).append(
                    rate(lambda e=engine, b=batches: feed(e, b), N_EVENTS)  # type: ignore[misc]
                )
                engine.erase()
                engine.close()
                found.setdefault(f"limit: in memory, {name}", []).append(
                    rate(lambda b=batches: feed(Engine(plan), b), N_EVENTS)  # type: ignore[misc]
                )
            single = cut(streams["even"], N_SINGLE, 1)
            engine = store()
            found.setdefault("rival: one event a round trip", []).append(
                rate(lambda e=engine, b=single: feed(e, b), N_SINGLE)  # type: ignore[misc]
            )
            engine.erase()
            engine.close()
            mean_row = sum(plan.entity_bytes.values()) // len(plan.entity_bytes)
            rows = [os.urandom(mean_row)] * (3 * N_EVENTS)
            found.setdefault("limit: bare MSET of three rows an event", []).append(
                rate(lambda r=rows: bare(r), N_EVENTS)  # type: ignore[misc]
            )
    shutil.rmtree(folder)
    print(f"{len(plan.names)} features, {N_EVENTS:,} events; bytes of a row: {plan.entity_bytes}")
    print()
    print("| what | events/s (median) | best |")
    print("| --- | --- | --- |")
    for name, rates in found.items():
        print(f"| {name} | {statistics.median(rates):,.0f} | {max(rates):,.0f} |")
    print()
    print("Floor of the design: 15,000 events/s; goal: 30,000.")


if __name__ == "__main__":
    main()
