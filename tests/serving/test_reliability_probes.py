"""A thousand probes a second, at both ports: all are answered, and none of them costs a canary."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest
from process_rig import ServerProcess, server_process
from serving_rig import payment, payments, served

from sentinel.serving import bounds
from sentinel.testing.load_generator import LoadReport, Schedule, Traffic, put_load

RATE = 1_000
SECONDS = 2.0
CONNECTIONS = 20
_WAIT_S = 60.0
PATHS = (b"/v2/health/ready", b"/v2/health/live")


async def _probe_by(port: int, number: int, answers: Counter[int]) -> None:
    """One connection's share of the schedule: what is due is sent, and every answer is read."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    paths = itertools.cycle(PATHS)
    start_s = time.monotonic() + number / RATE
    for turn in range(int(RATE * SECONDS / CONNECTIONS)):
        await asyncio.sleep(start_s + turn * CONNECTIONS / RATE - time.monotonic())
        writer.write(b"GET %b HTTP/1.1\r\nhost: probe\r\n\r\n" % next(paths))
        head = await reader.readuntil(b"\r\n\r\n")
        answers[int(head[9:12])] += 1
        length = head.lower().partition(b"content-length: ")[2].split(b"\r\n")[0]
        await reader.readexactly(int(length))
    writer.close()
    await writer.wait_closed()


def _probe(ports: tuple[int, int]) -> Counter[int]:
    """Put the whole schedule, half of it at each port; count the answers by their status."""
    answers: Counter[int] = Counter()

    async def all_of_them() -> None:
        links = (_probe_by(ports[number % 2], number, answers) for number in range(CONNECTIONS))
        await asyncio.gather(*links)

    asyncio.run(asyncio.wait_for(all_of_them(), _WAIT_S))
    return answers


def _score(running: ServerProcess, trial: int) -> LoadReport:
    schedule = Schedule(rate=100, seconds=SECONDS, deadline_ms=5_000, connections_max=16)
    body = payments(f"probed-{trial}-")
    return put_load(Traffic(port=running.http_port, path="/v1/score", body=body), schedule)


@pytest.mark.reliability("F16", t1=1, t2=3, t3=10)
def test_a_thousand_probes_a_second_are_answered_and_ask_no_canary(
    tmp_path: Path, trials: Iterator[int]
) -> None:
    """Scoring goes on beside them; every batch is a caller's, or the canary's on its own clock."""
    with server_process(tmp_path) as running:
        process = psutil.Process(running.process.pid)
        ports = (running.http_port, running.metrics_port)
        for trial in trials:
            before, began_s = running.metrics(), time.monotonic()
            n_threads = process.num_threads()
            with ThreadPoolExecutor(1) as pool:
                scored = pool.submit(_score, running, trial)
                answers = _probe(ports)
            report = scored.result()
            after, took_s = running.metrics(), time.monotonic() - began_s
            # On a machine that is busy with more the canary may be late, and ready then says so.
            assert set(answers) <= {200, 503}
            assert sum(answers.values()) == RATE * SECONDS
            assert report.n_good == report.n_due
            grown = {name: after[name] - before.get(name, 0) for name in after}
            n_canaries = 2 + took_s / bounds.DOOR_CANARY_S
            assert grown["sentinel_batches_total"] <= report.n_due + n_canaries
            assert sum(n for name, n in grown.items() if _is_decision(name)) == report.n_due
            assert process.num_threads() < n_threads + CONNECTIONS / 2


def _is_decision(name: str) -> bool:
    return name.startswith("sentinel_decisions_total")


@pytest.mark.reliability("F16", t1=1, t2=3, t3=10)
def test_no_probe_waits_for_the_scoring_thread_nor_for_the_canary(
    tmp_path: Path, trials: Iterator[int]
) -> None:
    """While a batch is in the model for as long as they take, not one of them is late or lost."""
    with served(tmp_path) as running:
        running.wait_ready()
        for trial in trials:
            with running.scoring_held():
                n_batches = running.plane.load().n_batches
                answers = _probe((running.addresses.http_port, running.addresses.metrics_port))
                assert sum(answers.values()) == RATE * SECONDS
                assert running.plane.load().n_batches == n_batches
            running.wait_ready()
            assert running.score(payment(f"after-{trial}")).status == 200
