"""Features: replay and live batches, three entities with three windows each, 32 features.

Rivals for the same 27 window features: Python dictionaries of deques, one event at a time, as a
hand-written service does it; and DuckDB's window functions over the whole log, on one thread.
Neither knows late events, repeated ids or feedback. Limit: nothing but copying the columns.
"""

from __future__ import annotations

import collections
import resource
import statistics
import time
from collections.abc import Callable

import duckdb
import numpy as np

from sentinel.contract import (
    Boolean,
    Contract,
    Decimal,
    EventBatch,
    EventId,
    EventTime,
    Float,
    Key,
    RawBatch,
)
from sentinel.features import (
    Count,
    Engine,
    Entity,
    Feature,
    FeatureSet,
    HourOfDay,
    Mean,
    Sum,
    TimeSince,
    Value,
    Velocity,
    compile_plan,
)

N_EVENTS = 1_000_000
N_RIVAL = 50_000
N_ROUNDS = 5
LIVE_EVENTS = 1000
DAY_MS = 86_400_000
WINDOWS = {"1h": 3_600_000, "24h": DAY_MS, "7d": 7 * DAY_MS}


class Payment(Contract, name="payment", version="1"):
    """The reference event."""

    payment_id = EventId(bytes_max=36)
    paid_at = EventTime(unit="ms")
    card_id = Key(bytes_max=32)
    merchant_id = Key(bytes_max=32)
    device_id = Key(bytes_max=32)
    amount = Decimal(scale=2, minimum=0, maximum=100_000)
    latitude = Float(minimum=-90, maximum=90)
    longitude = Float(minimum=-180, maximum=180)
    is_vpn = Boolean()


ENTITIES = {"card_id": 50_000, "merchant_id": 10_000, "device_id": 60_000}


def feature_set() -> FeatureSet:
    """Declare the reference features."""
    features: list[Feature] = [
        Value("amount", of=Payment.amount),
        Value("is_vpn", of=Payment.is_vpn),
        HourOfDay("hour"),
    ]
    entities = {name: Entity(name, key=Payment.schema.field(name)) for name in ENTITIES}
    for name, entity in entities.items():
        for over in WINDOWS:
            features += [
                Count(f"{name}_n_{over}", by=entity, over=over),
                Sum(f"{name}_sum_{over}", of=Payment.amount, by=entity, over=over),
                Mean(f"{name}_mean_{over}", of=Payment.amount, by=entity, over=over),
            ]
    card = entities["card_id"]
    features.append(TimeSince("since", by=card))
    features.append(
        Velocity("geo_velocity", latitude=Payment.latitude, longitude=Payment.longitude, by=card)
    )
    return FeatureSet("reference", version="1", events=Payment, features=features)


def draw(n_events: int, *, spread: float, seed: int = 1) -> np.ndarray:
    """Draw a month of payments, in order; the busiest entities by a power law."""
    rng = np.random.default_rng(seed)
    columns = [
        rng.integers(1, 2**62, n_events),
        1_700_000_000_000 + np.sort(rng.integers(0, 30 * DAY_MS, n_events)),
    ]
    for n_keys in ENTITIES.values():
        keys = (rng.random(n_events) ** spread * n_keys).astype(np.int64)
        columns.append(keys * 2_654_435_761 + 11)
    columns += [
        rng.integers(100, 50_000, n_events),
        rng.uniform(-60, 60, n_events).view(np.int64),
        rng.uniform(-180, 180, n_events).view(np.int64),
        rng.integers(0, 2, n_events),
    ]
    return np.stack(columns)


def batch_of(values: np.ndarray) -> EventBatch:
    """Make a decoded batch."""
    n_rows = values.shape[1]
    nothing = np.zeros(n_rows, dtype=np.int64)
    raw = RawBatch(np.zeros(0, dtype=np.uint8), nothing, nothing, "memory", 0, np.arange(n_rows))
    return EventBatch(
        names=tuple(field.name for field in Payment.schema.fields),
        values=np.ascontiguousarray(values),
        present=np.ones(values.shape, dtype=np.bool_),
        rows=np.arange(n_rows),
        raw=raw,
        text_fields=(),
        text_spans=np.zeros((0, n_rows, 2), dtype=np.int64),
        text_content=np.zeros(0, dtype=np.uint8),
    )


def dictionaries(values: np.ndarray) -> None:
    """Keep a deque of (time, amount) for each entity and window, with running sums."""
    names = [field.name for field in Payment.schema.fields]
    columns = values.tolist()
    times, amounts = columns[names.index("paid_at")], columns[names.index("amount")]
    state: dict[tuple[str, int, int], tuple[collections.deque[tuple[int, int]], list[int]]] = {}
    vectors = []
    for i, now in enumerate(times):
        vector: list[float] = []
        for name in ENTITIES:
            key = columns[names.index(name)][i]
            for length in WINDOWS.values():
                held = state.get((name, key, length))
                if held is None:
                    held = state[name, key, length] = (collections.deque(), [0])
                events, total = held
                while events and events[0][0] <= now - length:
                    total[0] -= events.popleft()[1]
                n = len(events)
                vector += [n, total[0] / 100, total[0] / n / 100 if n else 0.0]
                events.append((now, amounts[i]))
                total[0] += amounts[i]
        vectors.append(vector)
    np.array(vectors, dtype=np.float32)


def sql(values: np.ndarray) -> None:
    """Ask DuckDB for the same, with one named window for each entity and length."""
    db = duckdb.connect(":memory:", config={"threads": 1})
    names = [field.name for field in Payment.schema.fields]
    events = {name: values[i] for i, name in enumerate(names)}
    db.register("events", events)
    selected, windows = [], []
    for name in ENTITIES:
        for over, length in WINDOWS.items():
            window = f"w_{name}_{over}"
            # Events of the same millisecond count for each other here: not read-then-apply.
            windows.append(
                f"{window} AS (PARTITION BY {name} ORDER BY paid_at RANGE BETWEEN "
                f"{length} PRECEDING AND CURRENT ROW EXCLUDE CURRENT ROW)"
            )
            for call in ("count(*)", "sum(amount) / 100", "avg(amount) / 100"):
                at = call.index(")") + 1
                selected.append(f"{call[:at]} OVER {window}{call[at:]}")
    query = f"SELECT {', '.join(selected)} FROM events WINDOW {', '.join(windows)}"  # noqa: S608
    db.execute(query).fetchnumpy()


def rate(run: Callable[[], None], n_events: int) -> float:
    """Measure events a second of processor time: what others do on the machine counts less."""
    start = time.process_time()
    run()
    return n_events / (time.process_time() - start)


def main() -> None:
    """Measure in turns, and print medians."""
    plan = compile_plan(feature_set())
    Engine(plan).advance(batch_of(draw(100, spread=1.0)))
    streams = {"even": draw(N_EVENTS, spread=1.0), "busy few": draw(N_EVENTS, spread=3.0)}
    whole = {name: batch_of(values) for name, values in streams.items()}
    live = [
        batch_of(streams["even"][:, at : at + LIVE_EVENTS])
        for at in range(0, N_EVENTS, LIVE_EVENTS)
    ]
    few = streams["even"][:, :N_RIVAL]
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    engines: list[Engine] = []

    def replay(batches: list[EventBatch]) -> None:
        engine = Engine(plan)
        for batch in batches:
            engine.advance(batch)
        engines[:] = [engine]

    def copy() -> None:
        for values in streams.values():
            values.copy()

    runs: dict[str, tuple[Callable[[], None], int]] = {
        "replay, entities drawn evenly": (lambda: replay([whole["even"]]), N_EVENTS),
        "replay, a busy few": (lambda: replay([whole["busy few"]]), N_EVENTS),
        f"live, batches of {LIVE_EVENTS}": (lambda: replay(live), N_EVENTS),
        "dictionaries of deques": (lambda: dictionaries(few), N_RIVAL),
        "DuckDB window functions": (lambda: sql(few), N_RIVAL),
        "limit: columns copied": (copy, 2 * N_EVENTS),
    }
    found: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(N_ROUNDS):
        for name, (run, n_events) in runs.items():
            found[name].append(rate(run, n_events))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(f"{len(plan.names)} features, {N_EVENTS:,} events, {engines[0].n_entities:,} entities")
    print()
    print("| what | events/s (median) | best | µs an event |")
    print("| --- | --- | --- | --- |")
    for name, rates in found.items():
        median = statistics.median(rates)
        print(f"| {name} | {median:,.0f} | {max(rates):,.0f} | {1e6 / median:.2f} |")
    print()
    print("Floor of the design: 500,000 events/s in replay; goal: 1,500,000.")
    rows = ", ".join(f"{name} {n_bytes:,}" for name, n_bytes in plan.entity_bytes.items())
    print(f"Bytes of a row: {rows}; the index adds 32 to 64.")
    engine = engines[0]
    print(
        f"State with all its spare room: {engine.state_bytes / 1e6:,.0f} MB, "
        f"{engine.state_bytes / engine.n_entities:,.0f} bytes an entity "
        f"(remembered event ids included)."
    )
    print(f"Peak memory over the input: {(peak - before) / 1024:,.0f} MB.")


if __name__ == "__main__":
    main()
