"""The durable store: what durability costs, how fast it starts, and whether its memory is flat.

1. Resident memory over 50 million events of a bounded key space, with churn.
2. Hot keys: one entity with half of all events, and 10,000 merchants of one card.
3. A start with 1,000,000 entities: from a snapshot, and from the log.
4. The whole event path (raw JSON in, guarded decisions out, everything on) over three engines in
   interleaved runs: in memory, embedded of class ``process``, embedded of class ``power``. Limit: a
   bare log of the same raw bytes, one ``write`` a batch, with and without ``fdatasync``.
"""

from __future__ import annotations

import os
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from _reference import make_data, make_release
from replay_features import DAY_MS, ENTITIES, Payment, batch_of, draw, feature_set

from sentinel.cli.session import SessionPlan, open_session
from sentinel.contract import EventBatch, RawBatch
from sentinel.core.configuration import Configuration
from sentinel.data import EventFile
from sentinel.features import Count, Engine, Entity, FeatureSet, Mean, Sum, compile_plan
from sentinel.features.stores.embedded import Durability, EmbeddedStore
from sentinel.release import LoadedRelease
from sentinel.scoring import Sinks

N_BATCH = 2048
N_RUNS = 5
FLOOR, GOAL = 64_000, 100_000
N_ENTITIES = 1_000_000
N_MEMORY = 50_000_000
N_HOT = 400_000
# What the stream of the design runs at.
LIVE_RATE = 50_000
Opener = Callable[[Path], Engine]


def main() -> None:
    """Measure one thing after the other."""
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    folder = Path(tempfile.mkdtemp(prefix="embedded-store-"))
    try:
        # Memory first: what the others leave to the process is not in its baseline.
        measure_memory()
        measure_hot_keys()
        measure_start(folder)
        measure_path(folder)
    finally:
        shutil.rmtree(folder)


# --- the event path ------------------------------------------------------------------------------


def measure_path(folder: Path) -> None:
    """Score the same bytes over each engine, in turns."""
    events, feedback = make_data(folder / "data")
    release = make_release(folder, events, feedback)
    batches = list(EventFile(events).batches(n_events=N_BATCH))[-100:]
    n_events = sum(batch.n_events for batch in batches)
    plan = release.parts.plan
    openers: dict[str, Opener] = {
        "in memory": lambda _: Engine(plan),
        "embedded, class process": lambda at: EmbeddedStore(plan, at),
        "embedded, class power": lambda at: EmbeddedStore(plan, at, durability=Durability.POWER),
    }
    spent: dict[str, list[tuple[float, float]]] = {}
    for run in range(N_RUNS):
        for name, opener in openers.items():
            at = folder / f"state-{run}"
            spent.setdefault(name, []).append(score(folder, release, batches, opener(at)))
            shutil.rmtree(at, ignore_errors=True)
        for name, syncs in (("bare log", False), ("bare log, synced", True)):
            spent.setdefault(name, []).append(bare_log(folder / "raw", batches, syncs=syncs))
    report_path(n_events, spent)


def score(
    folder: Path, release: LoadedRelease, batches: list[RawBatch], engine: Engine
) -> tuple[float, float]:
    """Return processor and wall seconds of scoring, decision log and quarantine included."""
    plan = SessionPlan(
        folder=folder / "release",
        trust=None,
        allow_unapproved=True,
        quarantine=folder / "quarantine",
        log=folder / "log",
    )
    with open_session(plan, Configuration()) as session:
        sinks = Sinks(refusals=session.quarantine, decisions=session.log, metrics=session.metrics)
        scorer = release.open_scorer(sinks, engine=engine)
        started = time.process_time(), time.perf_counter()
        for batch in batches:
            scorer.score(batch)
        if session.log is not None:
            session.log.flush()
        ended = time.process_time() - started[0], time.perf_counter() - started[1]
    for name in ("quarantine", "log"):
        shutil.rmtree(folder / name, ignore_errors=True)
    if isinstance(engine, EmbeddedStore):
        engine.close(with_snapshot=False)
    return ended


def bare_log(path: Path, batches: list[RawBatch], *, syncs: bool) -> tuple[float, float]:
    """Return processor and wall seconds of writing the raw bytes."""
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    started = time.process_time(), time.perf_counter()
    for batch in batches:
        os.write(handle, batch.content)
        if syncs:
            os.fdatasync(handle)
    ended = time.process_time() - started[0], time.perf_counter() - started[1]
    os.close(handle)
    return ended


def report_path(n_events: int, spent: dict[str, list[tuple[float, float]]]) -> None:
    """Print the table of the event path."""
    print(f"Whole event path, {n_events:,} events in batches of {N_BATCH}, one core, "
          f"median of {N_RUNS} in turns")  # fmt: skip
    print(f"{'':26} {'events/s, processor':>20} {'events/s, wall':>15} {'of in memory':>13}")
    base = 0.0
    for name, runs in spent.items():
        processor, wall = (n_events / statistics.median(part) for part in zip(*runs, strict=True))
        base = base or processor
        print(f"{name:26} {processor:20,.0f} {wall:15,.0f} {processor / base:12.2f}x")
    print(f"floor {FLOOR:,}, goal {GOAL:,} events/s; at most 20 % under in memory")


# --- start ---------------------------------------------------------------------------------------


def many_entities(n_entities: int) -> list[EventBatch]:
    """Draw one event for each third of so many entities of three types."""
    rng = np.random.default_rng(4)
    n = n_entities // 3
    values = draw(n, spread=1.0)
    # Within four days: nobody is idle for long.
    values[1] = 1_700_000_000_000 + 1000 * np.arange(n)
    for at in range(2, 5):
        values[at] = rng.permutation(n) * 2_654_435_761 + 11
    return [numbered(values[:, a : a + 10_000], a) for a in range(0, n, 10_000)]


def numbered(values: np.ndarray, first: int) -> EventBatch:
    """Make a batch with its positions in the log."""
    batch = batch_of(values)
    batch.raw.positions[:] = np.arange(first, first + batch.n_rows)
    return batch


def timed(call: Callable[[], object]) -> tuple[float, float]:
    """Return wall and processor seconds of a call."""
    started = time.perf_counter(), time.process_time()
    call()
    return time.perf_counter() - started[0], time.process_time() - started[1]


def measure_start(folder: Path) -> None:
    """Start from a snapshot of a million entities, then from the log of as many events."""
    plan = compile_plan(feature_set())
    batches = many_entities(N_ENTITIES)
    at = folder / "million"
    store = EmbeddedStore(plan, at)
    live = timed(lambda: [store.advance(batch) for batch in batches])
    n_events, n_entities = sum(batch.n_rows for batch in batches), store.n_entities
    bytes_each = store.state_bytes / n_entities
    store.close(with_snapshot=False)
    opened: list[EmbeddedStore] = []
    from_log = timed(lambda: opened.append(EmbeddedStore(plan, at)))
    written = timed(opened[0].snapshot)
    opened[0].close()
    starts = []
    for _ in range(3):
        starts.append(timed(lambda: opened.append(EmbeddedStore(plan, at))))
        opened.pop().close()
    opened.clear()
    size = sum(path.stat().st_size for path in at.glob("*.state"))
    print(f"\n{n_entities:,} entities, {bytes_each:,.0f} bytes each with all spare room; "
          f"snapshot of {size / 1e6:,.0f} MB")  # fmt: skip
    print(f"{'':44} {'wall s':>7} {'processor s':>12}")
    rows = {
        "ready from the snapshot (limit 5 s)": min(starts),
        "snapshot written": written,
        f"live, {n_events:,} events, all entities new": live,
        "ready from the log of them alone": from_log,
    }
    for name, (wall, processor) in rows.items():
        print(f"{name:44} {wall:7.2f} {processor:12.2f}")
    rate = n_events / from_log[1]
    times = rate / LIVE_RATE
    print(f"log read at {rate:,.0f} events/s of processor: {times:.1f} times {LIVE_RATE:,} "
          f"events/s of a live stream (limit 2)")  # fmt: skip
    shutil.rmtree(at)


# --- hot keys ------------------------------------------------------------------------------------


def measure_hot_keys() -> None:
    """Time batches of a uniform stream and of ones with hot keys."""
    plan = compile_plan(feature_set())
    uniform = draw(N_HOT, spread=1.0)
    rng = np.random.default_rng(2)
    one_card, fan = uniform.copy(), uniform.copy()
    is_hot = rng.random(N_HOT) < 0.5
    one_card[2, is_hot] = 11
    fan[2, is_hot] = 11
    fan[3, is_hot] = rng.integers(0, 10_000, int(is_hot.sum())) * 2_654_435_761 + 11
    streams = {
        "uniform": uniform,
        "one card has half of all events": one_card,
        "that card at 10,000 merchants": fan,
    }
    found: dict[str, list[float]] = {name: [] for name in streams}
    for _ in range(3):
        for name, values in streams.items():
            engine = Engine(plan)
            for first in range(0, N_HOT, 500):
                batch = batch_of(values[:, first : first + 500])
                started = time.process_time()
                engine.advance(batch)
                # The first fifth makes the entities.
                if first > N_HOT // 5:
                    found[name].append((time.process_time() - started) / 500)
    print(
        f"\n{'hot keys, batches of 500':34} {'us/event, median':>17} {'p99':>7} {'of uniform':>11}"
    )
    base = 0.0
    for name, seconds in found.items():
        median, p99 = np.percentile(seconds, [50, 99]) * 1e6
        base = base or float(p99)
        print(f"{name:34} {median:9.2f} {p99:7.2f} {p99 / base:10.2f}x")
    print("limit: p99 at most 2 times that of the uniform stream")


# --- memory --------------------------------------------------------------------------------------


def windows_only() -> FeatureSet:
    """Declare windows of an hour and a day for three entities."""
    entities = [Entity(name, key=Payment.schema.field(name)) for name in ENTITIES]
    features = []
    for entity in entities:
        for over in ("1h", "24h"):
            features += [
                Count(f"{entity.name}_n_{over}", by=entity, over=over),
                Sum(f"{entity.name}_sum_{over}", of=Payment.amount, by=entity, over=over),
                Mean(f"{entity.name}_mean_{over}", of=Payment.amount, by=entity, over=over),
            ]
    return FeatureSet("windows", version="1", events=Payment, features=features)


def measure_memory() -> None:
    """Feed 50 million events, five a second for months; one card in twenty is never seen again."""
    engine = Engine(compile_plan(windows_only()))
    rng = np.random.default_rng(9)
    n_part, at_ms = 100_000, 1_700_000_000_000
    seen: list[tuple[int, float, int, int]] = []
    started = time.process_time()
    for part in range(N_MEMORY // n_part):
        values = draw(n_part, spread=1.0, seed=part)
        values[1] = at_ms + 200 * np.arange(part * n_part, (part + 1) * n_part)
        is_once = rng.random(n_part) < 0.05
        values[2, is_once] = rng.integers(1 << 40, 1 << 62, int(is_once.sum()))
        engine.advance(batch_of(values))
        if (part + 1) % (1_000_000 // n_part) == 0:
            row = ((part + 1) * n_part, resident_mb(), engine.n_entities, engine.n_rows)
            seen.append(row)
    spent = time.process_time() - started
    days = N_MEMORY * 0.2 / (DAY_MS / 1000)
    print(f"\n{N_MEMORY / 1e6:,.0f} million events of {days:,.0f} days, "
          f"{spent:,.0f} s of processor, drawing them included")  # fmt: skip
    print(f"{'events':>12} {'resident MB':>12} {'entities':>10} {'rows':>10}")
    step = max(1, len(seen) // 10)
    for row in seen[step - 1 :: step]:
        print(f"{row[0]:12,} {row[1]:12,.1f} {row[2]:10,} {row[3]:10,}")
    print(f"slope after the first tenth: {slope(seen[len(seen) // 10 :]):+.4f} bytes an event "
          f"(Theil-Sen; limit 0.01)")  # fmt: skip
    counts = engine.counts()
    print(f"entities forgotten: {counts.entities_forgotten:,}")


def resident_mb() -> float:
    """Return the resident memory of this process."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def slope(seen: list[tuple[int, float, int, int]]) -> float:
    """Return the median slope of all pairs, bytes an event."""
    n, mb = (np.array(part, dtype=float) for part in list(zip(*seen, strict=True))[:2])
    first, second = np.triu_indices(len(n), 1)
    return float(np.median((mb[second] - mb[first]) / (n[second] - n[first]))) * 1e6


if __name__ == "__main__":
    sys.exit(main())
