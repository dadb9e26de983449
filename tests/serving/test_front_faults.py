"""Processes that are killed, frozen, hang or fall again and again: the others serve meanwhile."""

from __future__ import annotations

import http.client
import itertools
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

import pytest
from fronts_rig import FRONT_SERVER, ends, is_running, log_lines, marker, parts
from process_rig import ServerProcess, server_process
from serving_rig import payment

from sentinel.monitoring.log_segments import read_metadata, segment_paths
from sentinel.serving.fronts.ports import hold_port
from sentinel.testing import wait_until

_NAMES = itertools.count()


class Callers:
    """Callers that score one event after another, and remember what each was told."""

    def __init__(self, running: ServerProcess, n: int) -> None:
        self._running = running
        self._is_ended = False
        self.statuses: list[int] = []
        self.lost = 0
        self.told: dict[str, bytes] = {}
        self.unanswered: list[str] = []
        self.refusals_without_retry_after = 0
        self._threads = [threading.Thread(target=self._call) for _ in range(n)]

    def __enter__(self) -> Callers:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._is_ended = True
        for thread in self._threads:
            thread.join()

    def _call(self) -> None:
        while not self._is_ended:
            name = f"caller-{next(_NAMES)}"
            link = http.client.HTTPConnection("127.0.0.1", self._running.http_port, timeout=30)
            try:
                link.request(
                    "POST", "/v1/score", payment(name), {"content-type": "application/json"}
                )
                response = link.getresponse()
                body = response.read()
            except (OSError, http.client.HTTPException):
                self.lost += 1
                self.unanswered.append(name)
                time.sleep(0.02)
                continue
            finally:
                link.close()
            self.statuses.append(response.status)
            if response.status == 200:
                assert json.loads(body)["event_id"] == name
                self.told[name] = body
            else:
                self.unanswered.append(name)
                self.refusals_without_retry_after += response.headers.get("retry-after") is None
                time.sleep(0.02)

    def n_good(self) -> int:
        return self.statuses.count(200)


def _replaced(running: ServerProcess, part: str, pid: int) -> int:
    wait_until(lambda: parts(running).get(part, pid) != pid)
    return parts(running)[part]


@pytest.mark.reliability("F13", t1=2, t2=20, t3=100)
def test_a_front_that_is_killed_or_frozen_is_replaced_while_others_serve(
    tmp_path: Path, trials: Iterator[int]
) -> None:
    for trial in trials:
        folder = tmp_path / str(trial)
        folder.mkdir()
        with server_process(folder, "--fronts", "2") as running, Callers(running, 4) as callers:
            wait_until(lambda c=callers: c.n_good() > 20)
            wait_until(lambda r=running: {"front-1", "front-2"} <= parts(r).keys())
            pid = parts(running)["front-1"]
            os.kill(pid, signal.SIGKILL)
            n_good = callers.n_good()
            # The others go on before it is back.
            wait_until(lambda c=callers, n=n_good: c.n_good() > n + 20)
            _replaced(running, "front-1", pid)
            assert marker(folder, "front-1")["reason"] == "signal"
            assert "SIGKILL" in str(marker(folder, "front-1")["sentence"])

            pid = parts(running)["front-2"]
            os.kill(pid, signal.SIGSTOP)
            wait_until(lambda p=pid: not is_running(p))
            _replaced(running, "front-2", pid)
            assert marker(folder, "front-2")["reason"] == "frozen"
            assert set(callers.statuses) <= {200, 503}
            name = 'sentinel_process_restarts_total{part="front",reason="frozen"}'
            wait_until(lambda r=running, n=name: r.metrics().get(n) == 1)


@pytest.mark.reliability("F13", t1=2, t2=20, t3=100)
def test_a_scoring_process_that_is_killed_comes_back_with_its_state(
    tmp_path: Path, trials: Iterator[int]
) -> None:
    """Under load: 200, or 503 with when to come back; no event is ever decided twice."""
    for trial in trials:
        folder = tmp_path / str(trial)
        folder.mkdir()
        store = f"embedded:{folder / 'state'}"
        with server_process(folder, "--fronts", "2", "--store", store) as running:
            with Callers(running, 4) as callers:
                wait_until(lambda c=callers: c.n_good() > 50)
                pid = parts(running)["scoring"]
                os.kill(pid, signal.SIGKILL)
                wait_until(lambda c=callers: 503 in c.statuses)
                # Live stays true and ready does not, at the door.
                wait_until(lambda r=running: r.get("/v2/health/ready")[0] == 503)
                assert running.get("/v2/health/live")[0] == 200
                _replaced(running, "scoring", pid)
                n_good = callers.n_good()
                wait_until(lambda c=callers, n=n_good: c.n_good() > n + 20)
            assert set(callers.statuses) <= {200, 503, 504}
            assert callers.refusals_without_retry_after <= callers.statuses.count(504)
            assert callers.lost == 0
            assert marker(folder, "scoring")["reason"] == "signal"
            for name in [*list(callers.told)[:30], *callers.unanswered[:30]]:
                status, body = running.post(payment(name))
                code = json.loads(body).get("code")
                assert (status, code) in {(200, None), (409, "event-repeated")}, body
                if status == 200 and name in callers.told:
                    assert body == callers.told[name]


@pytest.mark.reliability("F13", t1=1, t2=10, t3=50)
def test_a_champion_that_hangs_in_native_code_is_found_by_its_missing_beat(
    tmp_path: Path, trials: Iterator[int]
) -> None:
    """It keeps the interpreter's lock: no thread of that process can say anything any more."""
    for trial in trials:
        folder = tmp_path / str(trial)
        folder.mkdir()
        with server_process(
            folder, "--fronts", "1", program=(FRONT_SERVER,), BREAK_A_PART="hang"
        ) as running:
            wait_until(lambda r=running: "scoring" in parts(r))
            pid = parts(running)["scoring"]
            (folder / "hang").touch()
            # Nobody answers it: its deadline is kept by the front.
            assert running.post(payment("into-the-hang"))[0] in {503, 504}
            wait_until(lambda p=pid: not is_running(p))
            assert running.get("/v2/health/live")[0] == 200
            _replaced(running, "scoring", pid)
            assert marker(folder, "scoring")["reason"] == "frozen"
            wait_until(lambda r=running: r.get("/v2/health/ready")[0] == 200)
            assert running.post(payment("after-the-hang"))[0] == 200


@pytest.mark.reliability("F13", t1=1, t2=3, t3=10)
def test_a_process_that_falls_again_and_again_waits_longer_each_time(
    tmp_path: Path, trials: Iterator[int]
) -> None:
    for trial in trials:
        folder = tmp_path / str(trial)
        folder.mkdir()
        with server_process(
            folder, "--fronts", "1", is_waited_for=False, program=(FRONT_SERVER,),
            BREAK_A_PART="crash",
        ) as running:  # fmt: skip
            wait_until(lambda r=running: len(ends(r)) >= 2)
            fell = ends(running)[:2]
            pauses = [float(str(line["next_start_after_s"])) for line in fell]
            assert all(2**n <= pause <= 2**n * 1.25 + 0.001 for n, pause in enumerate(pauses)), (
                pauses
            )
            assert {line["reason"] for line in fell} == {"exit"}
            assert "status 7" in str(fell[0]["cause"])
            starts = [
                _time(line)
                for line in log_lines(running)
                if line["message"] == "a process has started" and line["part"] == "scoring"
            ]
            # At most one start in a pause, whatever the clock of the log rounds.
            for fall, start, pause in zip(fell, starts[1:], pauses, strict=False):
                assert start - _time(fall) >= pause - 0.01
            wait_until(lambda f=folder: int(str(marker(f, "scoring")["restarts_in_row"])) >= 2)
            assert running.get("/v2/health/live")[0] == 200


@pytest.mark.reliability("F13", t1=1, t2=20, t3=100)
def test_the_end_of_fronts_answers_what_they_took(tmp_path: Path, trials: Iterator[int]) -> None:
    """Unready first; whoever was decided was told so; no process is left."""
    for trial in trials:
        folder = tmp_path / str(trial)
        folder.mkdir()
        with server_process(
            folder, "--fronts", "2", "--log", str(folder / "log"),
            SENTINEL_SERVE_DRAIN_NOTICE_S="5",
        ) as running:  # fmt: skip
            wait_until(lambda r=running: len(parts(r)) == 3)
            pids = list(parts(running).values())
            answers: list[int] = []
            with Callers(running, 4) as callers:
                wait_until(lambda c=callers: c.n_good() > 20)
                running.process.send_signal(signal.SIGTERM)
                wait_until(lambda r=running: r.get("/v2/health/ready")[0] == 503)
                # Until the doors close, everybody is answered.
                assert callers.lost == 0
                n_good = callers.n_good()
                wait_until(lambda c=callers, n=n_good: c.n_good() > n or c.lost > 0)
                assert running.process.wait(90) == 0, running.stderr.read_text()
                answers += callers.statuses
            assert set(answers) <= {200, 503}
            assert not any(is_running(pid) for pid in pids)
            # A request whose connection was cut was not begun: the log holds what was told.
            segments = [read_metadata(path) for _, path in segment_paths(folder / "log")]
            assert sum(segment.n_records for segment in segments) == len(callers.told)


def test_the_end_of_the_supervisor_ends_all(tmp_path: Path) -> None:
    with server_process(tmp_path, "--fronts", "2") as running:
        wait_until(lambda: len(parts(running)) == 3)
        pids = list(parts(running).values())
        running.process.kill()
        wait_until(lambda: not any(is_running(pid) for pid in pids))


def test_a_release_that_cannot_be_served_ends_the_server_with_its_sentence(
    tmp_path: Path,
) -> None:
    program = (sys.executable, "-m", "sentinel.cli", "serve", str(tmp_path / "none"))
    done = subprocess.run(
        [*program, "--fronts", "1", "--http-port", "0", "--grpc-port", "0", "--metrics-port", "0"],
        cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode != 0
    assert "file-missing" in done.stderr or "release" in done.stderr, done.stderr


def test_a_run_folder_has_one_server(tmp_path: Path) -> None:
    with server_process(tmp_path, "--fronts", "1"):
        program = (sys.executable, "-m", "sentinel.cli", "serve", str(tmp_path / "none"))
        done = subprocess.run(
            [*program, "--fronts", "1"],
            cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False,
        )  # fmt: skip
        assert "address-unusable: run: expected a folder of this server alone" in done.stderr


def test_fronts_take_the_port_of_a_server_that_has_just_ended(tmp_path: Path) -> None:
    """Connections that it ended itself linger for a minute, and are in nobody's way."""
    folders = tmp_path / "alone", tmp_path / "fronts"
    for folder in folders:
        folder.mkdir()
    with server_process(folders[0]) as alone:
        link = http.client.HTTPConnection("127.0.0.1", alone.http_port, timeout=30)
        link.request("GET", "/v2")
        assert link.getresponse().read()
        alone.process.send_signal(signal.SIGTERM)
        assert alone.process.wait(60) == 0
        link.close()
    options = ("--fronts", "1", "--http-port", str(alone.http_port))
    environment = {"SENTINEL_SERVE_RUN_FOLDER": str(folders[1] / "run")}
    with server_process(folders[1], *options, **environment) as running:
        assert running.get("/v2")[0] == 200


def test_a_held_port_is_nobody_elses_while_no_front_listens() -> None:
    with hold_port("127.0.0.1", 0) as held:
        address = held.getsockname()
        with socket.create_server(address, reuse_port=True):
            pass  # a front that came and went
        with socket.socket() as other:
            other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            with pytest.raises(OSError, match="in use"):
                other.bind(address)


def _time(line: dict[str, object]) -> float:
    return datetime.fromisoformat(str(line["@timestamp"])).timestamp()
