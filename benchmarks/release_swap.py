"""What callers notice of a challenger, of staging and of a switch: nothing should be the answer.

The server has one core, the load the other; the releases are those of the event path (200 trees of
31 leaves, all guards on), a request is one event, the load is open at a fifth of the capacity. Legs
with and without a challenger are interleaved, so that both see the same machine.
"""

from __future__ import annotations

import dataclasses
import http.client
import json
import logging
import os
import statistics
import tempfile
import threading
import time
from pathlib import Path

import psutil
from _reference import ROOT, make_data, of_reference_size, open_release
from one_row_requests import event_load, wait_for

from sentinel.cli.release import now_ms
from sentinel.core.configuration import Configuration
from sentinel.release import LoadedRelease, Pipeline, build_release
from sentinel.serving import ReleaseSource, ServerSettings, serve
from sentinel.testing.load_generator import LoadReport, Schedule, Traffic, put_load, saturate
from sentinel.training import ModelSettings, train

PORT, METRICS_PORT = 18_390, 18_391
LEG_S, N_PAIRS, N_STAGES, N_SWITCHES = 4.0, 7, 5, 20
_first = iter(range(0, 10**12, 10**8))


def make_releases(folder: Path) -> None:
    """Build two releases that may follow one another."""
    pipeline = Pipeline.load(ROOT / "examples" / "card_fraud" / "pipeline.py")
    settings = ModelSettings(n_rounds_max=20, stop_after_rounds=20)
    candidate = of_reference_size(
        train(pipeline, *make_data(folder / "data", days=14), settings=settings)
    )
    for version in ("1.0.0", "1.1.0"):
        named = dataclasses.replace(candidate.pipeline, version=version)
        made = dataclasses.replace(candidate, pipeline=named)
        build_release(made, folder / "releases" / version, created_at_ms=now_ms())


def start(loaded: LoadedRelease, folder: Path) -> psutil.Process:
    """Serve in a process of its own on the first core."""
    pid = os.fork()
    if pid == 0:
        logging.getLogger("sentinel").setLevel(logging.ERROR)
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
        settings = ServerSettings(
            http_port=PORT,
            grpc_port=0,
            metrics_port=METRICS_PORT,
            quarantine=folder / "quarantine",
            log=folder / "decisions",
            drain_notice_s=0.0,
        )
        source = ReleaseSource(folder=folder / "releases", trust=None, allow_unapproved=True)
        serve(loaded, settings, Configuration(), source=source)
        os._exit(0)
    wait_for(METRICS_PORT, path="/v2/health/ready")
    return psutil.Process(pid)


def operate(what: str, **body: str) -> dict[str, object]:
    """Ask the server for something, as an operator."""
    link = http.client.HTTPConnection("127.0.0.1", METRICS_PORT, timeout=60)
    if body:
        content = json.dumps({"by": "benchmark", **body})
        link.request("POST", f"/v1/operate/{what}", content, {"content-type": "application/json"})
    else:
        link.request("GET", f"/v1/operate/{what}")
    answer: dict[str, object] = json.loads(link.getresponse().read())
    link.close()
    if "error" in answer:
        raise RuntimeError(str(answer["error"]))
    return answer


def stage(version: str) -> float:
    """Stage a release; return how long it took, in seconds."""
    began_s = time.perf_counter()
    operate("releases/stage", release=version)
    while operate("releases")["place"] == "staging":
        time.sleep(0.02)
    if operate("releases")["place"] != "staged":
        raise RuntimeError(str(operate("releases")["fault"]))
    return time.perf_counter() - began_s


def traffic() -> Traffic:
    """Make events, each with an id of its own."""
    load, first = event_load(), next(_first)
    before, after = load.bodies[0]
    return Traffic(
        port=PORT,
        path="/v1/score",
        body=lambda number: (b"%012d" % (first + number)).join((before, after)),
    )


def leg(process: psutil.Process, rate: float) -> tuple[LoadReport, float]:
    """Put one load on it; return the report and processor time an event, in microseconds."""
    before = process.cpu_times()
    report = put_load(traffic(), Schedule(rate=rate, seconds=LEG_S))
    after = process.cpu_times()
    used_s = after.user + after.system - before.user - before.system
    if report.n_good != report.n_due:
        print(f"({report.n_due - report.n_good} of {report.n_due} were not answered in time)")
    return report, used_s / report.n_due * 1e6


def row(name: str, legs: list[tuple[LoadReport, float]]) -> None:
    """Print the medians of some legs."""
    cells = [
        f"{statistics.median(report.latency_s(share) * 1e3 for report, _ in legs):.2f}"
        for share in (0.5, 0.99)
    ]
    worst = max(max(report.latencies_s) for report, _ in legs) * 1e3
    used_us = statistics.median(used for _, used in legs)
    lost = sum(report.n_due - report.n_good for report, _ in legs)
    print(f"| {name} | {cells[0]} | {cells[1]} | {worst:.0f} | {used_us:.0f} | {lost} |")


def meanwhile(act: object, process: psutil.Process, rate: float) -> tuple[LoadReport, float]:
    """Put a load on it while something is done."""
    thread = threading.Thread(target=act)  # type: ignore[arg-type]
    timer = threading.Timer(0.5, thread.start)
    timer.start()
    found = leg(process, rate)
    timer.join()
    thread.join()
    return found


def measure(process: psutil.Process) -> None:
    """Print the table."""
    rate = saturate(traffic(), connections=64, seconds=3.0).n_good / 3.0 / 5
    stage("1.1.0")
    plain, shadowed = [], []
    for _ in range(N_PAIRS):
        plain.append(leg(process, rate))
        operate("shadow/start", because="leg")
        shadowed.append(leg(process, rate))
        operate("shadow/stop", because="leg")
    report = operate("shadow")
    staging_s: list[float] = []
    staged = [
        meanwhile(lambda: staging_s.append(stage("1.1.0")), process, rate) for _ in range(N_STAGES)
    ]
    operate("releases/switch", because="leg")
    switch_ms: list[float] = []

    def change() -> None:
        for _ in range(N_SWITCHES):
            began_s = time.perf_counter()
            operate("releases/rollback", because="leg")
            switch_ms.append((time.perf_counter() - began_s) * 1e3)
            time.sleep(0.1)

    switched = [meanwhile(change, process, rate)]
    print(f"open load of {rate:,.0f} events/s, a fifth of the capacity; legs of {LEG_S:g} s\n")
    print("| | p50 ms | p99 ms | worst ms | us of processor an event | not in time |")
    print("| --- | ---: | ---: | ---: | ---: | ---: |")
    row("alone", plain)
    row("with a challenger", shadowed)
    row(f"while a release is staged ({N_STAGES} times)", staged)
    row(f"while releases are switched ({N_SWITCHES} times)", switched)
    print(f"\nstaging: {statistics.median(staging_s):.2f} s; ", end="")
    print(f"a switch, as an operator sees it: {statistics.median(switch_ms):.1f} ms; ", end="")
    print(f"challenger's rows in the last leg: {report['n_rows']:,}, skipped {report['n_skipped']}")


def main() -> None:
    """Build two releases, start the server, and measure."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        make_releases(folder)
        process = start(open_release(folder / "releases" / "1.0.0"), folder)
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
        try:
            saturate(traffic(), connections=64, seconds=1.0)
            measure(process)
        finally:
            process.terminate()
            os.waitpid(process.pid, 0)


if __name__ == "__main__":
    main()
