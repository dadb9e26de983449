"""The log of files, and `sentinel stream` on it: how fast it is, how fast a lag is caught up.

The limit of reading is the same bytes read from the same files and nothing done with them; of
appending, the same bytes written to one file. The rival is a file of JSON lines read line by line,
as a hand-written replay does. A lag is caught up by one worker on one core; beside it the same with
every second event garbage, and with nothing but garbage. Every run is a process of its own.
"""

from __future__ import annotations

import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import kafka_worker

N_RUNS = 3
N_PARTITIONS = 8
N_APPEND = 2_000
LIVE_RATE = 50_000
SECONDS_MAX = 600
KINDS = {
    "bytes": "the same bytes, written to one file",
    "append": "append",
    "raw": "the same files read, nothing done (limit)",
    "lines": "JSON lines, one at a time (rival)",
    "read": "read in batches",
}
WORK = {
    "clean": "catching up",
    "half": "every second one garbage",
    "garbage": "nothing but garbage",
}


def main() -> None:
    """Build a release and the events, then measure in turns."""
    if len(sys.argv) > 1:
        print(json.dumps(work(json.loads(sys.argv[1]))))
        return
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        lines = kafka_worker.at_full_rate(kafka_worker.make_release(folder))
        write_lines(folder, lines)
        rates: dict[str, list[float]] = {kind: [] for kind in KINDS}
        caught: dict[str, list[tuple[float, float]]] = {kind: [] for kind in WORK}
        for run in range(N_RUNS):
            for kind in KINDS:
                spent = measure(folder, kind, run)
                rates[kind].append(len(lines) / spent["busy"])
            for kind in WORK:
                spent = measure(folder, kind, run)
                caught[kind].append((len(lines) / spent["busy"], spent["grown"]))
        report(len(lines), rates, caught)


def write_lines(folder: Path, lines: list[tuple[bytes, bytes, int]]) -> None:
    """Keep the events as JSON lines, and as logs of each kind."""
    with (folder / "events.ndjson").open("wb") as file:
        file.writelines(line + b"\n" for line, _, _ in lines)
    for kind in WORK:
        append(folder / kind, lines, kind)


def append(folder: Path, lines: list[tuple[bytes, bytes, int]], kind: str) -> None:
    """Make a log: an event goes to the partition of its card."""
    from sentinel.streaming.file_log.log import FileLogWriter, create_topic

    create_topic(folder, "events", N_PARTITIONS)
    create_topic(folder, "decisions", N_PARTITIONS)
    create_topic(folder, "quarantine", 1)
    writer = FileLogWriter(folder, "events")
    held: list[list[tuple[bytes, bytes, int]]] = [[] for _ in range(N_PARTITIONS)]
    for number, (line, key, at_ms) in enumerate(lines):
        is_garbage = kind == "garbage" or (kind == "half" and number % 2)
        value = b"<html>" + line if is_garbage else line
        here = held[hash_of(key) % N_PARTITIONS]
        here.append((value, key, at_ms))
        if len(here) == N_APPEND:
            flush(writer, held, here)
    for here in held:
        flush(writer, held, here)
    writer.close()


def hash_of(key: bytes) -> int:
    """Place a key, the same in every process."""
    return sum(key) * 2654435761 >> 7


def flush(writer: object, held: list[list[tuple[bytes, bytes, int]]], here: list) -> None:
    """Append what is held of one partition."""
    if here:
        writer.append(
            next(p for p, each in enumerate(held) if each is here),
            [value for value, _, _ in here],
            keys=[key for _, key, _ in here],
            times_ms=[at_ms for _, _, at_ms in here],
        )
        here.clear()


def measure(folder: Path, kind: str, run: int) -> dict[str, float]:
    """Let one process do one kind of work."""
    done = subprocess.run(
        [sys.executable, __file__, json.dumps({"folder": str(folder), "kind": kind, "run": run})],
        capture_output=True,
        text=True,
        timeout=SECONDS_MAX,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(done.stderr)
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def work(order: dict[str, object]) -> dict[str, float]:
    """Be one of them, in a process of its own, on one core."""
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    folder, kind, run = Path(str(order["folder"])), str(order["kind"]), int(str(order["run"]))
    if kind in WORK:
        return catch_up(folder, kind, run)
    kinds = {"bytes": in_bytes, "append": appended, "raw": raw, "lines": by_line, "read": read}
    return kinds[kind](folder, run)


def spent(began: float) -> dict[str, float]:
    """Say how much of the core it took."""
    return {"busy": time.process_time() - began}


def events_of(folder: Path) -> list[tuple[bytes, bytes, int]]:
    """Read the events back."""
    with (folder / "events.ndjson").open("rb") as file:
        return [(line.rstrip(), line[20:26], 0) for line in file]


def in_bytes(folder: Path, run: int) -> dict[str, float]:
    """Write the bytes of the events, in pieces as large as an append."""
    values = [line for line, _, _ in events_of(folder)]
    with (folder / f"bytes-{run}").open("wb", buffering=0) as file:
        began = time.process_time()
        for first in range(0, len(values), N_APPEND):
            file.write(b"".join(values[first : first + N_APPEND]))
        return spent(began)


def appended(folder: Path, run: int) -> dict[str, float]:
    """Append the events to one partition."""
    from sentinel.streaming.file_log.log import FileLogWriter, create_topic

    values = [line for line, _, _ in events_of(folder)]
    create_topic(folder / f"append-{run}", "t", 1)
    writer = FileLogWriter(folder / f"append-{run}", "t")
    began = time.process_time()
    for first in range(0, len(values), N_APPEND):
        writer.append(0, values[first : first + N_APPEND])
    return spent(began)


def raw(folder: Path, run: int) -> dict[str, float]:
    """Read the files of the log, and nothing else."""
    began = time.process_time()
    for path in sorted((folder / "clean" / "events").rglob("*.events")):
        with path.open("rb", buffering=0) as file:
            while file.read(4 << 20):
                pass
    return spent(began)


def by_line(folder: Path, run: int) -> dict[str, float]:
    """Read JSON lines into lists, as a loop by hand does."""
    began = time.process_time()
    with (folder / "events.ndjson").open("rb") as file:
        batch: list[bytes] = []
        for line in file:
            batch.append(line.rstrip())
            if len(batch) == kafka_worker.N_BATCH:
                batch.clear()
    return spent(began)


def read(folder: Path, run: int) -> dict[str, float]:
    """Read the log in batches."""
    from sentinel.streaming.file_log.reader import FileLog

    log = FileLog(folder / "clean", "events")
    began = time.process_time()
    log.add(dict.fromkeys(range(N_PARTITIONS), 0))
    while log.read(kafka_worker.N_BATCH, 0.0).batches:
        pass
    return spent(began)


def catch_up(folder: Path, kind: str, run: int) -> dict[str, float]:
    """Be `sentinel stream` behind a lag: contract, durable state, guards, outputs."""
    from sentinel.features.stores.embedded import Durability
    from sentinel.monitoring import Metrics
    from sentinel.streaming.file_log.worker import open_file_log_worker
    from sentinel.streaming.stream.job import Step, StreamJob

    loaded = kafka_worker.loaded({"release": str(folder / "release")})
    n_events = sum(1 for _ in (folder / "events.ndjson").open("rb"))
    stop = threading.Event()
    began: list[float] = []
    held: list[float] = []

    def on_step(step: Step) -> None:
        n_read = scorer.counts().read
        if step is Step.READ and not began:
            began.append(time.process_time())
        if not held and n_read > n_events // 5:
            held.append(resident())
        if step is Step.COMMITTED and n_read >= n_events:
            began.append(time.process_time())
            stop.set()

    job = StreamJob(
        events="events",
        decisions="decisions",
        quarantine="quarantine",
        state=folder / f"state-{kind}-{run}",
        durability=Durability.PROCESS,
        n_events_batch=8 * kafka_worker.N_BATCH,
    )
    worker, scorer = open_file_log_worker(
        loaded, folder / kind, job, metrics=Metrics(), on_step=on_step
    )
    report = worker.run(stop)
    if report.counts.read != n_events:
        raise RuntimeError(f"not everything was read: {report.counts}")
    return {"busy": began[1] - began[0], "grown": resident() - held[0]}


def resident() -> float:
    """Return the memory of this process, bytes."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return float(pages * resource.getpagesize())


def report(
    n_events: int, rates: dict[str, list[float]], caught: dict[str, list[tuple[float, float]]]
) -> None:
    """Print both tables."""
    print(f"{n_events:,} events, median of {N_RUNS} runs in turns, a second of one core")
    print(f"{'':42} {'events/s':>12}  least to most")
    for kind, found in rates.items():
        print(
            f"{KINDS[kind]:42} {statistics.median(found):12,.0f}  {min(found):,.0f} to "
            f"{max(found):,.0f}"
        )
    print(f"\nsentinel stream behind a lag; live is {LIVE_RATE:,} events/s, the floor")
    print(f"{'':28} {'events/s':>10} {'x live':>7} {'x clean':>8}  memory after a fifth of it")
    clean = statistics.median(rate for rate, _ in caught["clean"])
    for kind, pairs in caught.items():
        rate = statistics.median(r for r, _ in pairs)
        grown = statistics.median(g for _, g in pairs) / 2**20
        print(
            f"{WORK[kind]:28} {rate:10,.0f} {rate / LIVE_RATE:7.2f} {rate / clean:8.2f}  "
            f"{grown:+.0f} MiB"
        )
    verdict = "met" if clean >= 2 * LIVE_RATE else "BELOW"
    print(f"goal: caught up at twice the live rate: {verdict}")


if __name__ == "__main__":
    main()
