"""More than the server can do: what is answered past capacity, how late, when it is whole again.

The server has one core, the load the other; the release is that of the event path (200 trees of
31 leaves, all guards on), a request is one event. The capacity is measured in the same run, by a
closed load. Then the load is open: on a fixed schedule, latency from the instant a request was
due, a deadline of a quarter of a second, so that no more than a quarter of a second of the capacity
fits in the queue; 4,096 connections, two fifths more than that. What finds none free
within 50 ms was never sent: a client of HTTP/1.1 cannot do more, and the table says how many those
were. Whoever is refused tries again after ``Retry-After`` (polite) or at once (rude); meanwhile its
connection is used for others.
"""

from __future__ import annotations

import asyncio
import http.client
import json
import multiprocessing
import os
import socket
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
import psutil
from _reference import make_data, make_release
from one_row_requests import wait_for

from sentinel.core.configuration import Configuration
from sentinel.data.simulator import Simulation
from sentinel.release import LoadedRelease
from sentinel.serving import ServerSettings, serve
from sentinel.testing.load_generator import (
    LoadReport,
    Schedule,
    Traffic,
    put_load,
    put_load_async,
    put_load_by_processes,
    saturate,
)

FLOORS = {2: 0.70, 5: 0.60, 10: 0.55}
GOAL = 0.90
LEG_S = 5.0
DEADLINE_MS = 250
CONNECTIONS = 4_096
N_PROCESSES = 2
PORT = 18_290
METRICS_PORT = 18_291
N_IDLE = 10_000
COLUMNS = (
    "load",
    "clients",
    "goodput",
    "p50 ms",
    "p99 ms",
    "refusals",
    "us an answer",
    "never sent",
    "whole after s",
    "operations, worst ms",
    "memory MB",
)


class Server:
    """The server, in a process of its own on the first core."""

    def __init__(self, loaded: LoadedRelease) -> None:
        self.pid = os.fork()
        if self.pid == 0:
            os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
            with tempfile.TemporaryDirectory() as temporary:
                settings = ServerSettings(
                    http_port=PORT,
                    grpc_port=0,
                    metrics_port=METRICS_PORT,
                    quarantine=Path(temporary) / "quarantine",
                    log=Path(temporary) / "decisions",
                    drain_notice_s=0.0,
                )
                serve(loaded, settings, Configuration())
            os._exit(0)
        self.process = psutil.Process(self.pid)
        wait_for(METRICS_PORT, path="/v2/health/ready")

    def memory_mb(self) -> float:
        """Memory that is resident now."""
        return float(self.process.memory_info().rss) / 2**20

    def processor_s(self) -> float:
        """Processor time so far."""
        times = self.process.cpu_times()
        return float(times.user + times.system)

    def stop(self) -> None:
        """End it and wait."""
        self.process.terminate()
        os.waitpid(self.pid, 0)


class Watch:
    """A process that asks the operations port ten times a second, on any core."""

    def __init__(self) -> None:
        context = multiprocessing.get_context("fork")
        self._link, link = context.Pipe()
        self._process = context.Process(target=_ask, args=(link,))
        self.ms: list[float] = []

    def __enter__(self) -> Watch:
        self._process.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._link.send(None)
        self.ms = self._link.recv()
        self._process.join()


def _ask(link: Connection) -> None:
    """Keep how long the answers took, until told to stop."""
    os.sched_setaffinity(0, range(os.cpu_count() or 1))
    found = []
    while not link.poll(0.1):
        for path in ("/v2/health/ready", "/metrics"):
            started_s = time.perf_counter()
            asked = http.client.HTTPConnection("127.0.0.1", METRICS_PORT, timeout=5)
            try:
                asked.request("GET", path)
                asked.getresponse().read()
            except OSError:
                started_s -= 5.0  # no answer is as late as the longest wait
            finally:
                asked.close()
            found.append((time.perf_counter() - started_s) * 1e3)
    link.send(found)


_numbers = iter(range(0, 10**12, 10**8))


def events(card: str = "") -> Callable[[int], bytes]:
    """Make events, each with an id of its own; ``*`` in a card is that id too."""
    first = next(_numbers)
    world = Simulation(seed=3, n_cards=200, n_merchants=50, days=2, events_per_day=500)
    document = json.loads(next(world.batches(1)).event_bytes(0))
    document |= {"occurred_at": int(time.time() * 1000), "transaction_id": "NUMBER"}
    document["card_id"] = card.replace("*", "NUMBER") or document["card_id"]
    parts = json.dumps(document).encode().split(b"NUMBER")
    return lambda number: (b"%012d" % (first + number)).join(parts)


def lines(n_rows: int) -> Callable[[int], bytes]:
    one = events()
    return lambda number: b"\n".join(one(number * n_rows + row) for row in range(n_rows)) + b"\n"


def traffic(body: Callable[[int], bytes], **more: str) -> Traffic:
    return Traffic(port=PORT, path="/v1/score", body=body, **more)


def capacity(seconds: float = 4.0) -> float:
    """Measure requests a second in a closed loop on 64 connections."""
    return saturate(traffic(events()), connections=64, seconds=seconds).n_good / seconds


def whole_after_s(report: LoadReport, schedule: Schedule) -> float:
    """Say after how many seconds every tenth of a second has its share of good answers."""
    bins = np.bincount((np.array(report.good_at_s) * 10).astype(int), minlength=int(LEG_S * 10))
    low = np.flatnonzero(bins[: int(schedule.seconds * 10)] < 0.8 * schedule.rate / 10)
    return float(low[-1] + 1) / 10 if len(low) else 0.0


def legs(server: Server) -> None:
    """Print what came of loads below and past the capacity."""
    before_s = server.processor_s()
    peak = capacity()
    served_us = (server.processor_s() - before_s) / (4.0 * peak) * 1e6
    print(f"capacity: {peak:,.0f} events/s, {served_us:.0f} us of processor time an event")
    print(f"closed load, 64 connections; open loads of {LEG_S:g} s:\n")
    print(f"| {' | '.join(COLUMNS)} |\n| --- | --- |{' ---: |' * (len(COLUMNS) - 2)}")
    for kind, factors in (("polite", (0.8, 2, 5, 10, 0.5)), ("rude", (2, 10, 0.5))):
        for times in factors:
            leg(server, peak, times=times, is_rude=kind == "rude")
    floors = ", ".join(f"{floor:.2f} at {times}" for times, floor in FLOORS.items())
    print(
        f"\nfloors of polite load: {floors}; goal {GOAL:.2f}; "
        f"p99 of what was admitted: {DEADLINE_MS} ms;"
    )
    print("operations port: 200 ms; processor time is of all answers, refusals and the")
    print(f"opening of {CONNECTIONS:,} connections included\n")


def leg(server: Server, peak: float, *, times: float, is_rude: bool) -> None:
    """Put one load on it, and print a row."""
    schedule = Schedule(
        rate=times * peak,
        seconds=LEG_S,
        deadline_ms=DEADLINE_MS,
        is_rude=is_rude,
        retries_max=3 if is_rude else 2,
        connections_max=CONNECTIONS,
        connection_wait_ms=DEADLINE_MS // 5,
        is_connected_first=True,
    )
    before_s = server.processor_s()
    with Watch() as watch:
        report = put_load_by_processes(traffic(events()), schedule, n_processes=N_PROCESSES)
    used_us = (server.processor_s() - before_s) * 1e6
    goodput = report.n_good / LEG_S / peak
    note = " (below the floor)" if goodput < FLOORS.get(int(times), 0.0) else ""
    p99_ms = report.latency_s(0.99) * 1e3
    is_slow = times >= 1 and not is_rude and p99_ms > DEADLINE_MS
    whole = f"{whole_after_s(report, schedule):.1f}" if times < 1 else "-"
    n_refused = sum(report.by_status[status] for status in (429, 503))
    each_us = used_us / max(1, sum(report.by_status.values()))
    cells = (
        f"{times:g}",
        "rude" if is_rude else "polite",
        f"{goodput:.2f}{note}",
        f"{report.latency_s(0.5) * 1e3:.0f}",
        f"{p99_ms:.0f}{' (above the deadline)' if is_slow else ''}",
        f"{n_refused:,}",
        f"{each_us:.0f}",
        f"{report.n_unsent:,}",
        whole,
        f"{max(watch.ms):.0f}",
        f"{server.memory_mb():.0f}",
    )
    print(f"| {' | '.join(cells)} |", flush=True)


def idle(server: Server) -> None:
    """Print what idle connections cost."""
    before = server.memory_mb()
    with ExitStack() as stack:
        for _ in range(N_IDLE):
            stack.enter_context(socket.create_connection(("127.0.0.1", PORT), timeout=10))
        time.sleep(1.0)
        each = (server.memory_mb() - before) * 2**20 / N_IDLE
        report = saturate(traffic(events()), connections=100, seconds=4.0)
    rate = report.n_good / 4.0
    print(
        f"{N_IDLE:,} idle connections: {each:,.0f} bytes each (limit 20,000); "
        f"100 busy ones beside them: {rate:,.0f} events/s, "
        f"p99 {report.latency_s(0.99) * 1e3:.0f} ms"
    )


def neighbours() -> None:
    """Print small requests beside large ones, and quiet tenants beside a greedy one."""
    small = Schedule(rate=100, seconds=LEG_S)
    alone = put_load(traffic(events(), source="127.0.1.1"), small)

    async def together(n_rows: int, rate: float) -> tuple[LoadReport, LoadReport]:
        large = traffic(lines(n_rows), content_type="application/x-ndjson", source="127.0.0.9")
        one, other = await asyncio.gather(
            put_load_async(traffic(events(), source="127.0.1.1"), small),
            put_load_async(large, Schedule(rate=rate, seconds=LEG_S, retries_max=0)),
        )
        return one, other

    for name, n_rows, share in (
        ("batches of 4,096, half of their capacity", 4_096, 0.5),
        ("batches of 100, twice their capacity", 100, 2.0),
    ):
        wide = traffic(lines(n_rows), content_type="application/x-ndjson", source="127.0.0.9")
        most = saturate(wide, connections=8, seconds=3.0).n_good / 3.0
        beside, other = asyncio.run(together(n_rows, most * share))
        print(
            f"one event, 100/s: p99 {alone.latency_s(0.99) * 1e3:.1f} ms alone, "
            f"{beside.latency_s(0.99) * 1e3:.1f} ms beside {name} "
            f"({other.n_good / LEG_S * n_rows:,.0f} events/s); "
            f"{beside.n_good / beside.n_due:.1%} answered"
        )


def keys() -> None:
    """Print the rate of one hot card and of cards that are all new."""
    rates = {
        name: saturate(traffic(events(card)), connections=64, seconds=3.0).n_good / 3.0
        for name, card in (("one card", "hot"), ("every card new", "new-*"))
    }
    print("keys: " + ", ".join(f"{name} {rate:,.0f} events/s" for name, rate in rates.items()))


def main() -> None:
    """Build a release, start the server, and overload it."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        loaded = make_release(folder, *make_data(folder / "data"))
        server = Server(loaded)
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
        try:
            capacity(1.0)
            legs(server)
            neighbours()
            keys()
            idle(server)
        finally:
            server.stop()


if __name__ == "__main__":
    main()
