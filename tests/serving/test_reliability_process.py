"""The process as a whole: ended, killed, frozen, without descriptors, without an address."""

from __future__ import annotations

import http.client
import json
import resource
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import psutil
import pytest
from process_rig import ServerProcess, freeze, server_process
from serving_rig import GOLDEN, payment, payments

from sentinel.monitoring.log_segments import read_metadata, segment_paths
from sentinel.testing import wait_until
from sentinel.testing.load_generator import LoadReport, Schedule, Traffic, put_load


def _put_while(running: ServerProcess, kind: str, act: object, *, seconds: float) -> LoadReport:
    """Put a load on it and do something in the middle; return what came of the load."""
    found: list[LoadReport] = []
    schedule = Schedule(
        rate=300,
        seconds=seconds,
        deadline_ms=9_000,
        retries_max=0,
        connections_max=16,
        connection_wait_ms=1_000,
    )
    traffic = Traffic(port=running.http_port, path="/v1/score", body=payments(kind))
    thread = threading.Thread(target=lambda: found.append(put_load(traffic, schedule)))
    thread.start()
    time.sleep(seconds / 3)
    act()  # type: ignore[operator]
    thread.join()
    assert found[0].is_balanced
    return found[0]


@pytest.mark.reliability("F12", t1=3, t2=50, t3=300)
def test_the_end_under_load_answers_what_it_took(tmp_path: Path, trials: Iterator[int]) -> None:
    """SIGTERM: whoever was decided was told so; a refusal says so; the process ends in order."""
    for trial in trials:
        folder = tmp_path / str(trial)
        folder.mkdir()
        with server_process(
            folder, "--log", str(folder / "log"), SENTINEL_SERVE_DRAIN_NOTICE_S="0.5"
        ) as running:
            statuses: list[int] = []

            is_hurried = trial % 2 == 1  # by a second signal

            def end(running: ServerProcess = running, n: int = 1 + is_hurried) -> None:
                for _ in range(n):
                    running.process.send_signal(signal.SIGTERM)
                while not statuses or statuses[-1] == 200:  # noqa: B023 -- called at once
                    statuses.append(running.status())  # noqa: B023
                    time.sleep(0.005)

            report = _put_while(running, f"term-{trial}-", end, seconds=1.5)
            assert report.n_good > 0
            assert set(report.by_status) <= {200, 503}
            assert report.n_failed == report.n_late == 0
            assert running.process.wait(20) == 0, running.stderr.read_text()
            assert is_hurried or 503 in statuses, "it was never unready while it answered"
            # A request that was sent while its connection was being closed was not begun: what the
            # log of decisions holds is what clients were told, to the unit.
            assert report.n_lost <= 16, report
            segments = [read_metadata(path) for _, path in segment_paths(folder / "log")]
            assert sum(segment.n_records for segment in segments) == report.by_status[200]


@pytest.mark.reliability("F12", t1=2, t2=10, t3=50)
def test_a_kill_loses_only_what_was_not_answered(tmp_path: Path, trials: Iterator[int]) -> None:
    """Killed while callers ask; what was answered before is decided, and is not decided anew."""
    for trial in trials:
        folder = tmp_path / str(trial)
        folder.mkdir()
        store = f"embedded:{folder / 'state'}"
        with server_process(folder, "--store", store) as running:
            told = _tell_until_killed(running, f"kill-{trial}")
        assert len(told) >= 20
        with server_process(folder, "--store", store) as running:
            # The first of its card knew nobody: were the state lost, another would be the first.
            for name, body in reversed(told.items()):
                status, found = running.post(payment(name))
                # Decided before the kill: the same answer, or that it was decided already.
                assert (status, json.loads(found).get("code")) in {
                    (409, "event-repeated"),
                    (200, None),
                }
                assert status == 409 or found == body, name


def _tell_until_killed(running: ServerProcess, prefix: str) -> dict[str, bytes]:
    """Ask by four callers, kill the server among them; return what each event was answered."""
    told: dict[str, bytes] = {}

    def ask(caller: int) -> None:
        for number in range(10_000):
            name = f"{prefix}-{caller}-{number}"
            try:
                status, body = running.post(payment(name))
            except (OSError, http.client.HTTPException):
                return
            assert status == 200
            told[name] = body

    with ThreadPoolExecutor(4) as pool:
        asked = [pool.submit(ask, caller) for caller in range(4)]
        wait_until(lambda: len(told) >= 20)
        running.process.kill()
        for each in asked:
            each.result()
    return told


@pytest.mark.reliability("F13", t1=13, t2=40, t3=200)
def test_a_frozen_process_is_seen_from_outside_and_goes_on_where_it_was(
    tmp_path: Path, trials: Iterator[int]
) -> None:
    with server_process(tmp_path) as running:
        for trial in trials:
            freeze(running.process.pid)
            try:
                with socket.create_connection(("127.0.0.1", running.metrics_port)) as link:
                    link.settimeout(0.3)
                    link.sendall(b"GET /v2/health/live HTTP/1.1\r\nhost: a\r\n\r\n")
                    with pytest.raises(TimeoutError):
                        link.recv(1)
            finally:
                running.process.send_signal(signal.SIGCONT)
            running.wait_ready()
            status, body = running.post(payment(f"thawed-{trial}"))
            assert (status, json.loads(body)["event_id"]) == (200, f"thawed-{trial}")


@pytest.mark.reliability("F14")
def test_without_descriptors_it_refuses_and_does_not_spin(tmp_path: Path) -> None:
    """The limit falls to what is open and four more; then a hundred clients come and stay."""
    with server_process(tmp_path) as running:
        process = psutil.Process(running.process.pid)
        before = resource.prlimit(running.process.pid, resource.RLIMIT_NOFILE)
        bound = process.num_fds() + 4
        resource.prlimit(running.process.pid, resource.RLIMIT_NOFILE, (bound, before[1]))
        with ExitStack() as stack:
            for _ in range(100):
                address = ("127.0.0.1", running.http_port)
                stack.enter_context(socket.create_connection(address, timeout=5))
            used_s = process.cpu_times().user + process.cpu_times().system
            time.sleep(1.0)
            used_s = process.cpu_times().user + process.cpu_times().system - used_s
            assert used_s < 0.7, f"it spins: {used_s} s of processor time in a second"
            assert running.process.poll() is None
        resource.prlimit(running.process.pid, resource.RLIMIT_NOFILE, before)
        running.wait_ready()
        wait_until(lambda: running.post(payment("again"))[0] == 200)


@pytest.mark.reliability("F14")
def test_with_sixty_four_descriptors_it_starts_and_serves_or_says_why(tmp_path: Path) -> None:
    """A small limit from the start is no reason to hang."""

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))

    arguments = (
        *(sys.executable, "-m", "sentinel.cli", "serve", str(GOLDEN / "payments-1.2.0")),
        *("--unapproved", "--json", "--http-port", "0", "--grpc-port", "0", "--metrics-port", "0"),
        *("--quarantine", str(tmp_path / "q")),
    )
    process = subprocess.Popen(
        arguments,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=tmp_path,
        preexec_fn=limit,  # noqa: PLW1509 -- one thread here, and nothing but a limit
    )
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        if not line:
            _, errors = process.communicate(timeout=20)
            assert errors.startswith("sentinel: ")
            return
        port = int(json.loads(line)["http_port"])
        with ExitStack() as stack:
            for _ in range(80):
                stack.enter_context(socket.create_connection(("127.0.0.1", port), timeout=5))
        assert process.poll() is None
        process.terminate()
        assert process.wait(40) == 0
    finally:
        process.kill()
        process.communicate()


def _has_newer_addresses() -> bool:
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        return False
    return True


@pytest.mark.skipif(not _has_newer_addresses(), reason="needs the address ::1")
@pytest.mark.reliability("F14")
def test_it_listens_where_there_is_only_the_newer_address_family(tmp_path: Path) -> None:
    with server_process(tmp_path, "--host", "::1", is_waited_for=False) as running:
        with socket.create_connection(("::1", running.http_port), timeout=10) as link:
            link.sendall(b"GET /v2 HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n")
            assert link.recv(100).startswith(b"HTTP/1.1 200 ")

        def is_ready() -> bool:
            with socket.create_connection(("::1", running.metrics_port), timeout=10) as link:
                link.sendall(b"GET /v2/health/ready HTTP/1.1\r\nhost: a\r\n\r\n")
                return link.recv(100).startswith(b"HTTP/1.1 200 ")

        wait_until(is_ready)
