"""Replay of a history from raw JSON on one and on more processes, equal to the last bit.

The features are those of ``replay_features``: three entities, 32 features. Rivals: DuckDB on two
threads, reading the same JSON and computing the 27 windowed features in SQL (without late events,
repeated ids or feedback); and the same replay on a local Spark of two threads, where PySpark is
installed. Wall time is what more processes are for; processor time is what they cost.
"""

from __future__ import annotations

import importlib.util
import os
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import duckdb
import numpy as np
from replay_features import ENTITIES, WINDOWS, draw, feature_set

from sentinel.data import EventFile
from sentinel.features import compile_plan, replay
from sentinel.features.history.on_spark import lines_on_spark, replay_on_spark
from sentinel.features.history.parallel import ParallelReplay, replay_parallel

N_EVENTS = 300_000
N_RIVAL = 10_000
N_ROUNDS = 3
BATCH_EVENTS = 16_384


def write_lines(values: np.ndarray, path: Path) -> None:
    """Write payments as JSON, one a line."""
    columns = values.tolist()
    latitude, longitude = values[6].view(np.float64).tolist(), values[7].view(np.float64).tolist()
    with path.open("w") as file:
        for i in range(values.shape[1]):
            file.write(
                f'{{"payment_id":"p{i}","paid_at":{columns[1][i]},"card_id":"c{columns[2][i]}",'
                f'"merchant_id":"m{columns[3][i]}","device_id":"d{columns[4][i]}",'
                f'"amount":{columns[5][i] / 100},"latitude":{latitude[i]:.6f},'
                f'"longitude":{longitude[i]:.6f},"is_vpn":{str(bool(columns[8][i])).lower()}}}\n'
            )


def sql(path: Path) -> None:
    """Read the JSON and ask for the windowed features."""
    db = duckdb.connect(":memory:", config={"threads": 2})
    selected, windows = [], []
    for name in ENTITIES:
        for over, length in WINDOWS.items():
            window = f"w_{name}_{over}"
            windows.append(
                f"{window} AS (PARTITION BY {name} ORDER BY paid_at RANGE BETWEEN "
                f"{length} PRECEDING AND CURRENT ROW EXCLUDE CURRENT ROW)"
            )
            selected += [f"{call} OVER {window}" for call in ("count(*)", "sum(amount)")]
            selected.append(f"avg(amount) OVER {window}")
    source = f"read_json('{path}', format = 'newline_delimited')"
    query = f"SELECT {', '.join(selected)} FROM {source} WINDOW {', '.join(windows)}"  # noqa: S608
    db.execute(query).fetchnumpy()


def spark_runner() -> Callable[[Path], None] | None:
    """Start a local Spark, if there is one."""
    if importlib.util.find_spec("pyspark") is None:
        return None
    from pyspark.sql import SparkSession

    os.environ.setdefault("PYSPARK_PYTHON", sys.executable)  # or workers have another Python

    session = (
        SparkSession.builder.master("local[2]")
        .config("spark.ui.enabled", "false")
        .config("spark.sql.shuffle.partitions", "2")
        .getOrCreate()
    )
    session.sparkContext.setLogLevel("ERROR")

    def run(path: Path) -> None:
        frame = replay_on_spark(feature_set(), lines_on_spark(session, str(path)), n_shards=2)
        frame.write.format("noop").mode("overwrite").save()  # type: ignore[attr-defined]

    return run


def measure(run: Callable[[], object]) -> tuple[float, float]:
    """Return seconds of wall time, and of processors, children included."""
    before = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    start = time.perf_counter()
    run()
    wall = time.perf_counter() - start
    after = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    used = sum(
        b.ru_utime + b.ru_stime - a.ru_utime - a.ru_stime
        for a, b in zip(before, after, strict=True)
    )
    return wall, used


def main() -> None:
    """Measure in turns, and print medians."""
    plan = compile_plan(feature_set())
    with tempfile.TemporaryDirectory() as folder:
        path, few = Path(folder) / "events.ndjson", Path(folder) / "few.ndjson"
        values = draw(N_EVENTS, spread=1.0)
        write_lines(values, path)
        write_lines(values[:, :N_RIVAL], few)

        def alone() -> object:
            return replay(plan, EventFile(path).batches(BATCH_EVENTS))

        def shared(n_processes: int, source: Path) -> object:
            batches = EventFile(source).batches(BATCH_EVENTS)
            return sum(
                rows.n_rows
                for rows in ParallelReplay(plan, batches, n_processes=n_processes).rounds()
            )

        batches = EventFile(few).batches(BATCH_EVENTS)
        found_few = replay_parallel(plan, batches, n_processes=2)
        wanted_few = replay(plan, EventFile(few).batches(BATCH_EVENTS))
        is_equal = found_few.matrix.values.tobytes() == wanted_few.matrix.values.tobytes()
        runs: dict[str, tuple[Callable[[], object], int]] = {
            "one engine, one process": (alone, N_EVENTS),
            "1 process and this one": (lambda: shared(1, path), N_EVENTS),
            "2 processes and this one": (lambda: shared(2, path), N_EVENTS),
            "starting 2 processes, few events": (lambda: shared(2, few), N_RIVAL),
            "DuckDB SQL, 2 threads, 27 of 32 features": (lambda: sql(few), N_RIVAL),
        }
        on_spark = spark_runner()
        if on_spark is not None:
            runs["Spark, local[2]"] = (lambda: on_spark(few), N_RIVAL)
        found: dict[str, list[tuple[float, float]]] = {name: [] for name in runs}
        for _ in range(N_ROUNDS):
            for name, (run, _) in runs.items():
                found[name].append(measure(run))
    print(f"{len(plan.names)} features, {N_EVENTS:,} events as JSON; rivals {N_RIVAL:,}")
    print(f"2 processes give the bits of one engine: {is_equal}")
    print()
    print("| what | events/s, wall (median) | best | processor time, us an event |")
    print("| --- | ---: | ---: | ---: |")
    for name, seconds in found.items():
        n = runs[name][1]
        wall = statistics.median(each[0] for each in seconds)
        best = min(each[0] for each in seconds)
        used = statistics.median(each[1] for each in seconds)
        print(f"| {name} | {n / wall:,.0f} | {n / best:,.0f} | {1e6 * used / n:.2f} |")
    if on_spark is None:
        print("Spark: not measured, PySpark is not installed here.")
    print()
    print(f"Load of the machine at the end: {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores.")
    print(
        "Starting a process takes about a second of imports: a short log is best replayed in one."
    )


if __name__ == "__main__":
    main()
