"""Features read by entity key from Redis: one entity, and a hundred, beside the bare read.

Limit: the same connection fetching the same rows by one bare ``MGET``, and nothing done with them;
in turns with the read, so that both meet the same machine. Rival: Feast over Redis, measured
once on a machine of this kind, beside its own bare pipelined read with the usual client.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
from replay_features import batch_of, draw, feature_set

from sentinel.features import compile_plan
from sentinel.features.stores.redis.link import RedisLink
from sentinel.features.stores.redis.reader import FeatureReader, hash_texts
from sentinel.features.stores.redis.script import Keys
from sentinel.features.stores.redis.store import RedisSettings, RedisStore
from sentinel.testing.redis_server import RedisServer

N_ENTITIES = 5_000
N_READS = 5_000
N_WARM = 200
SIZES = (1, 100)
# Medians and 99th percentiles in microseconds: Feast's bare read, Feast.
FEAST = {1: (127, 194, 341, 469), 100: (1310, 1810, 6120, 9420)}


def timed(call: Callable[[], object]) -> float:
    """Measure one call in microseconds."""
    start = time.perf_counter()
    call()
    return 1e6 * (time.perf_counter() - start)


def measure(
    reader: FeatureReader, link: RedisLink, keys: Keys, texts: list[str], n_keys: int, at_ms: int
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Time reads of features, and of the same rows bare, in turns."""
    rng = np.random.default_rng(n_keys)
    own, bare = [], []
    for _ in range(N_READS):
        asked = [texts[i] for i in rng.integers(0, len(texts), n_keys)]
        names = keys.row_keys(0, hash_texts(asked))
        bare.append(timed(lambda n=names: link.call([("MGET", *n)])))  # type: ignore[misc]
        own.append(timed(lambda a=asked: reader.read("card_id", a, at_ms)))  # type: ignore[misc]
    return np.array(own[N_WARM:]), np.array(bare[N_WARM:])


def main() -> None:
    """Measure, and print medians and 99th percentiles."""
    cores = sorted(os.sched_getaffinity(0))
    plan = compile_plan(feature_set())
    folder = Path(tempfile.mkdtemp(prefix="redis-"))
    os.sched_setaffinity(0, cores[-1:])
    with RedisServer(folder) as server:
        os.sched_setaffinity(0, cores[:1])
        texts = [f"card-{i:08d}" for i in range(N_ENTITIES)]
        values = draw(len(texts), spread=1.0)
        values[2] = hash_texts(texts)
        store = RedisStore(plan, RedisSettings(url=server.url, name="reads", deadline_ms=30_000))
        store.advance(batch_of(values))
        store.close()
        reader = FeatureReader(plan, url=server.url, name="reads", deadline_ms=30_000)
        link = RedisLink(server.url, deadline_ms=30_000)
        at_ms = int(values[1].max()) + 1
        found = {n: measure(reader, link, Keys("reads", ""), texts, n, at_ms) for n in SIZES}
        reader.close()
        link.close()
    shutil.rmtree(folder)
    row_bytes = plan.entity_bytes["card_id"]
    print(f"{N_READS:,} reads each; {row_bytes} bytes a row; microseconds")
    print()
    print("| read | bare: median | p99 | features: median | p99 | median against bare | p99 |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for n, (own, bare) in found.items():
        a, b = np.median(bare), np.percentile(bare, 99)
        c, d = np.median(own), np.percentile(own, 99)
        ratios = f"{c / a:.2f} | {d / b:.2f} |"
        print(f"| {n} entities | {a:,.0f} | {b:,.0f} | {c:,.0f} | {d:,.0f} | {ratios}")
        a, b, c, d = FEAST[n]
        print(f"| rival: Feast, {n} | {a:,} | {b:,} | {c:,} | {d:,} | {c / a:.2f} | {d / b:.2f} |")
    print()
    print("Goal of the design: p99 within 1.3 times a bare pipelined read of the same bytes.")


if __name__ == "__main__":
    main()
