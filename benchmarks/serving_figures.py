"""What a server of events costs and keeps: latency under load, cold start, idle time.

One ``sentinel serve`` of the reference release in a process of its own on one core, everything on,
the load on the other:

* *saturation*: as many events a second as 64 closed connections get;
* *p99 at 80 %* of it: an open load on a fixed schedule, counted from when a request was due, so a
  server that stalls cannot hide it;
* *cold start*: from starting the command to a readiness probe that says yes;
* *idle*: processor time while nobody asks, the server's own canary and timers included.

Beside the wall clock stands the processor time that the server used: on a machine that others use
too, waiting for the core is most of what a slow request did.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from _reference import make_data, make_release
from one_row_requests import event_load, processor_s

from sentinel.testing.load_generator import Schedule, Traffic, put_load, saturate

N_STARTS, N_RUNS = 5, 3
SATURATE_S, LOAD_S, IDLE_S = 3.0, 5.0, 20.0
CONNECTIONS, SHARE = 64, 0.8
FLOOR_P99_MS, GOAL_P99_MS = 12.0, 5.0
FLOOR_START_S, GOAL_START_S = 5.0, 2.0
IDLE_SHARE_MAX = 0.005


@contextmanager
def running(release: Path, folder: Path) -> Iterator[tuple[int, int, float]]:
    """Run the command on the first core; give its process id, its port, and how long it took."""
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(cores)})
    started_s = time.perf_counter()
    process = subprocess.Popen(
        [
            *(sys.executable, "-m", "sentinel.cli", "serve", str(release), "--unapproved"),
            *("--http-port", "0", "--grpc-port", "0", "--metrics-port", "0", "--json"),
            *("--quarantine", str(folder / "quarantine"), "--log", str(folder / "log")),
        ],
        stdout=subprocess.PIPE,
        text=True,
    )
    os.sched_setaffinity(0, {max(cores)})
    try:
        first = process.stdout.readline() if process.stdout is not None else ""
        addresses = json.loads(first)
        wait_ready(addresses["metrics_port"])
        yield process.pid, addresses["http_port"], time.perf_counter() - started_s
    finally:
        process.terminate()
        process.wait()
        os.sched_setaffinity(0, cores)


def wait_ready(port: int) -> None:
    """Probe as an orchestrator does, only oftener."""
    for _ in range(3_000):
        link = http.client.HTTPConnection("127.0.0.1", port, timeout=1)
        with contextlib.suppress(OSError), contextlib.closing(link):
            link.request("GET", "/v2/health/ready")
            if link.getresponse().status == http.HTTPStatus.OK:
                return
        time.sleep(0.01)
    raise RuntimeError("the server did not get ready")


def main() -> None:
    """Build a release, then measure."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        make_release(folder, *make_data(folder / "data", days=9))
        release = folder / "release"
        with running(release, folder / "warm"):
            pass  # kernels are compiled once for a machine, and caches of files are warm
        starts = []
        for number in range(N_STARTS):
            with running(release, folder / f"start-{number}") as (pid, _, start_s):
                starts.append((start_s, processor_s(pid)))
        with running(release, folder / "idle") as (pid, _, _):
            time.sleep(2.0)
            used_s = processor_s(pid)
            time.sleep(IDLE_S)
            idle = (processor_s(pid) - used_s) / IDLE_S
        loads = [load(release, folder / f"load-{number}") for number in range(N_RUNS)]
    report(starts, idle, loads)


def load(release: Path, folder: Path) -> tuple[float, float, float, float, float]:
    """Saturate, then send a share of that; return rates, quantiles and the server's share."""
    events = event_load()
    first = int(time.time()) * 1_000
    with running(release, folder) as (pid, port, _):
        traffic = Traffic(port=port, path=events.path, body=events.body)
        saturate(traffic, connections=CONNECTIONS, seconds=1.0, first_number=first)
        full = saturate(
            traffic, connections=CONNECTIONS, seconds=SATURATE_S, first_number=first + 10**6
        )
        rate = full.n_good / SATURATE_S
        used_s = processor_s(pid)
        schedule = Schedule(rate=SHARE * rate, seconds=LOAD_S, connections_max=CONNECTIONS)
        found = put_load(traffic, schedule, first_number=first + 2 * 10**6)
        used = (processor_s(pid) - used_s) / LOAD_S
        if found.n_good < 0.99 * found.n_due:
            print(f"only {found.n_good} of {found.n_due} requests were answered in time")
        return rate, SHARE * rate, found.latency_s(0.5) * 1e3, found.latency_s(0.99) * 1e3, used


def report(
    starts: list[tuple[float, float]],
    idle: float,
    loads: list[tuple[float, float, float, float, float]],
) -> None:
    """Print the table."""
    saturation, rate, p50, p99, used = (
        statistics.median(part) for part in zip(*loads, strict=True)
    )
    start_s, start_used_s = (statistics.median(part) for part in zip(*starts, strict=True))
    print(f"| what | medians of {N_RUNS} or {N_STARTS} | floor | goal | |")
    print("| --- | ---: | ---: | ---: | --- |")
    print(f"| saturation, events/s at {CONNECTIONS} connections | {saturation:,.0f} | | | |")
    print(f"| p50 at {rate:,.0f} events/s ({SHARE:.0%}), ms | {p50:.2f} | | | |")
    verdict = judge(p99, FLOOR_P99_MS, GOAL_P99_MS)
    print(f"| p99 there, ms | {p99:.2f} | {FLOOR_P99_MS:g} | {GOAL_P99_MS:g} | {verdict} |")
    print(f"| share of its core used there | {used:.0%} | | | |")
    verdict = judge(start_s, FLOOR_START_S, GOAL_START_S)
    print(
        f"| cold start to ready, s | {start_s:.2f} | {FLOOR_START_S:g} | {GOAL_START_S:g} "
        f"| {verdict} |"
    )
    print(f"| processor time of a start, s | {start_used_s:.2f} | | | |")
    verdict = "kept" if idle <= IDLE_SHARE_MAX else "NOT kept"
    print(f"| idle, share of a core | {idle:.2%} | | {IDLE_SHARE_MAX:.1%} | {verdict} |")


def judge(found: float, floor: float, goal: float) -> str:
    """Say which of the two was met."""
    if found <= goal:
        return "goal met"
    return "floor met" if found <= floor else "BELOW THE FLOOR"


if __name__ == "__main__":
    main()
