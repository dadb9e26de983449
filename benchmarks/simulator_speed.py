"""How fast the simulator writes and the reader of event files reads, on one core.

Each figure is the median of interleaved runs, with its limit or rival beside it: what the same
bytes cost when they are only copied, and what a plain Python loop does.
"""

from __future__ import annotations

import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from sentinel.data import EventFile
from sentinel.data.simulator import Simulation

N_RUNS = 5
FLOOR_EVENTS_A_S = 200_000


def seconds(action: Callable[[], object]) -> float:
    """Time one call."""
    start = time.perf_counter()
    action()
    return time.perf_counter() - start


def read_in_batches(path: Path) -> int:
    """Read with the event file."""
    return sum(batch.n_events for batch in EventFile(path).batches())


def read_in_a_loop(path: Path) -> int:
    """Read as a script would: one bytes object a line."""
    n_events = 0
    with path.open("rb") as file:
        for line in file:
            n_events += bool(line.strip())
    return n_events


def copy(path: Path, to: Path) -> None:
    """Read and write the bytes, nothing else: the limit."""
    with path.open("rb") as source, to.open("wb") as target:
        while block := source.read(1 << 20):
            target.write(block)
        os.fsync(target.fileno())


def dump_in_a_loop(rows: list[dict[str, object]]) -> int:
    """Write lines with the standard library: the rival."""
    return sum(len(json.dumps(row, separators=(",", ":")).encode()) + 1 for row in rows)


def main() -> None:
    """Print the table."""
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    simulation = Simulation(
        seed=1, n_cards=20_000, n_merchants=4_000, days=20, events_per_day=20_000
    )
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        written = simulation.write(folder / "first")
        n = written.n_events
        n_bytes = written.events.stat().st_size
        lines = written.events.read_bytes().splitlines()[:50_000]
        rows = [json.loads(line) for line in lines]
        actions: dict[str, Callable[[], object]] = {
            "simulate, columns only": lambda: sum(
                hour.transactions.shape[1] for hour in simulation.hours()
            ),
            "simulate, lines in memory": lambda: sum(
                batch.n_events for batch in simulation.batches()
            ),
            "simulate, a folder with verdicts, on disk": lambda: simulation.write(
                Path(tempfile.mkdtemp(dir=folder))
            ),
            "limit: copy those events, on disk": lambda: copy(written.events, folder / "copy"),
            "rival: lines with json.dumps, rows ready": lambda: dump_in_a_loop(rows),
            "read an event file in batches": lambda: read_in_batches(written.events),
            "rival: read it line by line": lambda: read_in_a_loop(written.events),
        }
        n_of = dict.fromkeys(actions, n)
        n_of["rival: lines with json.dumps, rows ready"] = len(rows)
        times: dict[str, list[float]] = {what: [] for what in actions}
        for _ in range(N_RUNS):
            for what, action in actions.items():
                times[what].append(seconds(action))
    print(f"{n:,} transactions of {n_bytes / n:.0f} bytes, {N_RUNS} interleaved runs, one core.")
    print()
    print("| what | events/s | µs an event |")
    print("| --- | ---: | ---: |")
    for what, taken in times.items():
        rate = n_of[what] / statistics.median(taken)
        print(f"| {what} | {rate:,.0f} | {1e6 / rate:.3f} |")
    written_rate = n / statistics.median(times["simulate, a folder with verdicts, on disk"])
    verdict = "holds" if written_rate >= FLOOR_EVENTS_A_S else "FAILS"
    print()
    print(f"Floor for a folder with verdicts: {FLOOR_EVENTS_A_S:,} events/s: {verdict}.")


if __name__ == "__main__":
    main()
