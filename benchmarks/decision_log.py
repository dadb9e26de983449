"""Logging decisions: ours, counted, chained, synced, beside those who promise less.

Limit: pyarrow writing the same columns to memory, with the same compression; no counts, no chain,
no file. Rivals: pyarrow as one would write it (rows of a fixed-size list of floats, defaults), and
one JSON line a decision through standard ``logging``. One core for all; times are processor time,
which a shared machine disturbs less; interleaved rounds, medians.
"""

from __future__ import annotations

import json
import logging
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from sentinel.monitoring import (
    DecisionLog,
    DriftMonitor,
    DriftSettings,
    LogContext,
    LogRecords,
    LogSettings,
    Reference,
    verify_chain,
)
from sentinel.monitoring.log_block import to_arrow
from sentinel.monitoring.log_records import feature_hashes
from sentinel.monitoring.log_segments import find_head

N_FEATURES = 32
N_EVENTS = 4096
N_BATCHES = 48
N_ROUNDS = 9
N_LINES = 8192
GOAL_LOG_US = 1.0
GOAL_DRIFT_US = 0.3


def context() -> LogContext:
    """Return what all records share."""
    return LogContext(
        release="benchmark 1",
        release_digest="d" * 64,
        environment_digest="e" * 64,
        execution_provider="CPUExecutionProvider",
        thresholds={"review_above": 0.5, "decline_above": 0.9},
        feature_names=tuple(f"feature_{i}" for i in range(N_FEATURES)),
        contract_hash="c" * 64,
        outcomes=("approve", "review", "decline", "held"),
        served_by=("champion", "fallback", "none"),
        reasons=("ok", "breaker-open"),
    )


def features(rng: np.random.Generator, n: int) -> np.ndarray:
    """Return vectors as a fraud model has them: amounts, counts, flags, scores."""
    columns = []
    for i in range(N_FEATURES):
        if i % 4 == 0:
            columns.append(np.round(rng.lognormal(3, 1, n), 2))
        elif i % 4 == 1:
            columns.append(rng.poisson(2, n))
        elif i % 4 == 2:
            columns.append(rng.random(n) < 0.1)
        else:
            columns.append(rng.normal(size=n))
    return np.stack(columns, axis=1).astype(np.float32)


def batch(rng: np.random.Generator, number: int) -> LogRecords:
    """Return the decisions of one batch, ids scattered in what could be raw events."""
    n = N_EVENTS
    ids = "".join(f"{number * n + i:036d}, and more" for i in range(n)).encode()
    starts = np.arange(n, dtype=np.int64) * (len(ids) // n)
    vectors = features(rng, n)
    is_held = rng.random(n) < 0.001
    return LogRecords(
        id_content=np.frombuffer(ids, dtype=np.uint8),
        id_spans=np.stack([starts, starts + 36], axis=1),
        event_time_ms=1_700_000_000_000 + np.arange(n) + number * n,
        decided_at_ms=np.full(n, 1_700_000_000_500 + number),
        score=rng.random(n),
        is_held=is_held,
        outcome=np.where(is_held, 3, 0).astype(np.uint8),
        served_by=np.zeros(n, dtype=np.uint8),
        reason=np.zeros(n, dtype=np.uint8),
        features=vectors,
        feature_status=(rng.random(vectors.shape) < 0.05).astype(np.uint8),
        feature_hash=feature_hashes(vectors),
        source="events.ndjson",
        partition=0,
        positions=np.arange(n) + number * n,
    )


def ours(batches: list[LogRecords]) -> None:
    """Append everything and close: segments on the disk, synced."""
    with (
        tempfile.TemporaryDirectory() as folder,
        DecisionLog(Path(folder), context(), LogSettings()) as log,
    ):
        for records in batches:
            log.append(records)


def raw_columns(batches: list[LogRecords]) -> None:
    """Encode the same columns, ready made, to memory: the limit."""
    for first in range(0, len(PREPARED), 16):
        table = pa.Table.from_batches(PREPARED[first : first + 16])
        pq.write_table(
            table,
            pa.BufferOutputStream(),
            compression="lz4",
            use_dictionary=["outcome", "served_by", "reason", "source"],
            write_statistics=False,
        )
    del batches


def raw_list(batches: list[LogRecords]) -> None:
    """Write what one writes first: the vector as a list, everything by default."""
    for first in range(0, len(batches), 16):
        tables = []
        for records, ready in zip(
            batches[first : first + 16], PREPARED[first : first + 16], strict=True
        ):
            flat = pa.array(records.features.ravel())
            vectors = pa.FixedSizeListArray.from_arrays(flat, N_FEATURES)
            columns = [ready.column(name) for name in ("event_id", "event_time", "score")]
            tables.append(
                pa.table([*columns, vectors], ["event_id", "event_time", "score", "features"])
            )
        with tempfile.TemporaryFile() as file:
            pq.write_table(pa.concat_tables(tables), file)


def json_lines(batches: list[LogRecords]) -> None:
    """Write one line a decision on standard logging, with the vector."""
    logger = logging.getLogger("benchmark")
    logger.propagate = False
    logger.setLevel("INFO")
    with tempfile.TemporaryDirectory() as folder:
        handler = logging.FileHandler(Path(folder) / "decisions.log")
        logger.addHandler(handler)
        for start in range(0, N_LINES, N_EVENTS):
            records = batches[start // N_EVENTS]
            rows = zip(
                range(N_EVENTS), records.score.tolist(), records.features.tolist(), strict=True
            )
            for i, score, vector in rows:
                line = {"event_id": i, "score": score, "outcome": "approve", "features": vector}
                logger.info("%s", json.dumps(line))
        logger.removeHandler(handler)
        handler.close()


def measure(job: Callable[[list[LogRecords]], None], batches: list[LogRecords], n: int) -> float:
    """Return microseconds of processor time an event."""
    before = time.process_time()
    job(batches)
    return (time.process_time() - before) / n * 1e6


def drift_us(rng: np.random.Generator, batches: list[LogRecords]) -> float:
    """Return microseconds an event of counting drift."""
    reference = Reference.build(
        context().feature_names,
        features=features(rng, 20_000),
        status=np.zeros((20_000, N_FEATURES), dtype=np.uint8),
        scores=rng.random(20_000),
    )
    monitor = DriftMonitor(reference, DriftSettings(window_s_min=1e9))
    times = []
    for _ in range(N_ROUNDS):
        before = time.process_time()
        for records in batches:
            monitor.update(
                records.features,
                records.feature_status,
                records.score,
                records.is_held,
                now_s=0.0,
            )
        times.append((time.process_time() - before) / (N_BATCHES * N_EVENTS) * 1e6)
    return statistics.median(times)


def reading(batches: list[LogRecords]) -> tuple[float, float]:
    """Return bytes a record, and microseconds of verifying one."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with DecisionLog(folder, context(), LogSettings()) as log:
            for records in batches:
                log.append(records)
        n_bytes = sum(path.stat().st_size for path in folder.glob("*.parquet"))
        before = time.process_time()
        report = verify_chain(folder)
        verify_us = (time.process_time() - before) / report.n_records * 1e6
        if report.first_bad is not None or find_head(folder)[0].n_records != report.n_records:
            raise AssertionError(report)
    return n_bytes / report.n_records, verify_us


def main() -> None:
    """Print the table."""
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    pa.set_cpu_count(1)
    pa.set_io_thread_count(1)
    rng = np.random.default_rng(0)
    batches = [batch(rng, number) for number in range(N_BATCHES)]
    PREPARED.extend(to_arrow(records, context()) for records in batches)
    n = N_BATCHES * N_EVENTS
    jobs = {
        "decision log (this)": (ours, n),
        "limit: same columns, encode only": (raw_columns, n),
        "pyarrow, list of floats, defaults": (raw_list, n),
        "JSON lines on logging": (json_lines, N_LINES),
    }
    times: dict[str, list[float]] = {name: [] for name in jobs}
    for name, (job, count) in jobs.items():
        measure(job, batches, count)
        del name
    for _ in range(N_ROUNDS):
        for name, (job, count) in jobs.items():
            times[name].append(measure(job, batches, count))
    mine = statistics.median(times["decision log (this)"])
    print(f"{N_FEATURES} features, batches of {N_EVENTS}, one core, {N_ROUNDS} rounds, medians")
    print(f"{'':36}{'µs/event':>10}{'events/s':>12}{'against this':>14}")
    for name, values in times.items():
        median = statistics.median(values)
        print(f"{name:36}{median:10.2f}{1e6 / median:12,.0f}{median / mine:13.2f}x")
    n_bytes, verify_us = reading(batches)
    print(f"goal of the log: {GOAL_LOG_US:.1f} µs: {'met' if mine <= GOAL_LOG_US else 'missed'}")
    print(f"bytes a record on the disk {n_bytes:.0f}; verifying one {verify_us:.2f} µs")
    drift = drift_us(rng, batches)
    verdict = "met" if drift <= GOAL_DRIFT_US else "missed"
    print(f"drift of {N_FEATURES} features and the score {drift:.2f} µs/event, ", end="")
    print(f"goal {GOAL_DRIFT_US:.1f}: {verdict}")


PREPARED: list[pa.RecordBatch] = []

if __name__ == "__main__":
    main()
