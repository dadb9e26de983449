"""Front workers: what they cost and give on this machine, and how much memory each of them takes.

The same load as ``one_row_requests`` (one row of features; closed), against a server
with 0, 1 and 2 fronts, in turns, beside the *limit* (a bare protocol with the model inline).
Servers and load share all cores: that is what a small machine has. *Server us* is the processor
time of all processes of a server together, a request.

Memory is PSS (Linux): what a process has alone, and its share of what several have. *Weights in*
counts the processes that have the model's runtime mapped at all.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
from _reference import make_data, make_release
from one_row_requests import (
    RUN_S,
    WARM_S,
    Found,
    Load,
    load_of,
    measure,
    print_table,
    processor_s,
    running,
    wait_for,
)

CONCURRENCIES = (16, 64)
FRONTS = (0, 1, 2)
MEMORY_FRONTS = (0, 1, 2, 4)
N_RUNS = 3


@contextmanager
def server(release: Path, n_fronts: int) -> Iterator[tuple[int, list[int]]]:
    """Run a server by its command; give its HTTP port and the ids of its processes."""
    with tempfile.TemporaryDirectory() as folder:
        process = subprocess.Popen(
            [
                *(sys.executable, "-m", "sentinel.cli", "serve", str(release), "--unapproved"),
                *("--json", "--http-port", "0", "--grpc-port", "0", "--metrics-port", "0"),
                *("--log", "decisions", "--fronts", str(n_fronts)),
            ],
            cwd=folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env={**os.environ, "SENTINEL_SERVE_DRAIN_NOTICE_S": "0"},
        )
        try:
            line = process.stdout.readline() if process.stdout else ""
            port = int(json.loads(line)["http_port"])
            wait_for(port, path="/v2/health/ready")
            pids = [process.pid, *(child.pid for child in psutil.Process(process.pid).children())]
            yield port, pids
        finally:
            process.terminate()
            process.wait(60)


def run(load: Load, port: int, concurrency: int, pids: list[int]) -> Found:
    """Return requests a second, p50 and p99 in ms, and processor time of all a request in us."""
    before_s = sum(map(processor_s, pids))
    rate, p50, p99, _ = measure(load, port, concurrency, pids[0])
    used_s = sum(map(processor_s, pids)) - before_s
    return rate, p50, p99, used_s / (rate * (WARM_S + RUN_S)) * 1e6


def pss_mb(pid: int) -> float:
    """Return the proportional set size of a process."""
    text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    return next(int(line.split()[1]) for line in text.splitlines() if line.startswith("Pss:")) / 1e3


def has_runtime(pid: int) -> bool:
    """Whether a process has the model's runtime mapped."""
    return "onnxruntime_pybind" in Path(f"/proc/{pid}/maps").read_text()


def main() -> None:
    """Build a release, measure in turns, then weigh."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        loaded = make_release(folder, *make_data(folder / "data", days=9))
        release = folder / "release"
        found: dict[tuple[str, int], list[Found]] = {}
        for number in range(N_RUNS):
            port = 18_400 + number
            with running("limit", loaded, port) as pid:
                for concurrency in CONCURRENCIES:
                    seen = run(load_of(loaded), port, concurrency, [pid])
                    found.setdefault(("limit", concurrency), []).append(seen)
            for n_fronts in FRONTS:
                with server(release, n_fronts) as (port, pids):
                    for concurrency in CONCURRENCIES:
                        seen = run(load_of(loaded), port, concurrency, pids)
                        found.setdefault((f"{n_fronts} fronts", concurrency), []).append(seen)
        report(found)
        sys.stdout.flush()
        weigh(release)


def report(found: dict[tuple[str, int], list[Found]]) -> None:
    """Print what was measured."""
    print(f"One row a request; server and load on {os.cpu_count()} cores; medians of {N_RUNS}.\n")
    print_table(found)


def weigh(release: Path) -> None:
    """Print the memory of servers with more and more fronts."""
    print("\n| fronts | processes | weights in | scoring MB | a front MB | watching MB | all MB |")
    print("| ---: | ---: | ---: | ---: | ---: | ---: | ---: |")
    for n_fronts in MEMORY_FRONTS:
        with server(release, n_fronts) as (_, pids):
            weighed = {pid: pss_mb(pid) for pid in pids}
            scoring = [pid for pid in pids if has_runtime(pid)]
            fronts = [mb for pid, mb in weighed.items() if pid not in {pids[0], *scoring}]
            print(
                f"| {n_fronts} | {len(pids)} | {len(scoring)} | {weighed[scoring[0]]:.0f} "
                f"| {statistics.mean(fronts) if fronts else 0:.0f} "
                f"| {weighed[pids[0]] if n_fronts else 0:.0f} | {sum(weighed.values()):.0f} |"
            )


if __name__ == "__main__":
    main()
