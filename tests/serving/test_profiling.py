"""A profile puts every request's time into stages that add up, and says who is slow and why."""

from __future__ import annotations

import gc
import json
import threading
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import pytest
from serving_rig import Served, payment, served

from sentinel.cli.boundary import run_command
from sentinel.cli.exits import ExitCode, exit_code_of
from sentinel.cli.main import app
from sentinel.core.errors import ErrorCode, SentinelError
from sentinel.serving import bounds
from sentinel.serving.batching.work import Kind, Piece, Work
from sentinel.serving.profiling import Recorder, read_seconds

PATH = "/v1/operate/profile"


@pytest.mark.parametrize(
    "query",
    [b"seconds=0", b"seconds=-1", b"seconds=61", b"seconds=nan", b"seconds=x", b"seconds=",
     b"seconds=1&seconds=2", b"second=1", b"seconds=1&more=1", b"\xff=1"],
)  # fmt: skip
def test_a_query_that_asks_for_something_else_is_refused(query: bytes) -> None:
    """One number of seconds, within the bound, and nothing beside it."""
    with pytest.raises(SentinelError) as error:
        read_seconds(query)
    assert error.value.code is ErrorCode.REQUEST_INVALID
    assert error.value.at == "query"


def _get(server: Served, target: str) -> tuple[int, dict[str, Any]]:
    link = HTTPConnection("127.0.0.1", server.addresses.metrics_port, timeout=30)
    try:
        link.request("GET", target)
        response = link.getresponse()
        return response.status, json.loads(response.read())
    finally:
        link.close()


def test_stages_of_a_live_server_add_up_to_its_requests(server: Served) -> None:
    """Every request that was answered meanwhile is in it; shares are of the whole."""
    server.wait_ready()
    found: dict[str, Any] = {}

    def ask() -> None:
        status, answer = _get(server, f"{PATH}?seconds=10")
        found.update(answer, status=status)

    n_callbacks = len(gc.callbacks)
    asker = threading.Thread(target=ask)
    asker.start()
    # The collector is listened to last.
    server.wait_until(lambda: len(gc.callbacks) > n_callbacks)
    gc.collect()
    for _ in range(40):
        assert server.score(payment()).status == 200
    asker.join()
    assert found["status"] == 200
    assert found["requests"] >= 40
    assert found["batches"] >= 1
    assert 0 < found["p50_ms"] <= found["p99_ms"] <= found["p99.9_ms"]
    stages = {"decode", "features", "model", "sanity", "encode", "answer"}
    assert stages <= {each["stage"] for each in found["all"]["stages"]}
    # The slowest may be one of the canary's, whose features are timed with its queue.
    for part in (found["all"], found["slowest"]):
        assert [each["stage"] for each in part["stages"]][:2] == ["parse", "queue"]
        assert sum(each["share"] for each in part["stages"]) == pytest.approx(1.0, abs=0.01)
        whole_ms = sum(each["ms"] for each in part["stages"])
        assert whole_ms == pytest.approx(part["mean_ms"], rel=0.02)
    assert found["slowest"]["mean_ms"] >= found["all"]["mean_ms"]
    assert found["interpreter_lock"]["looks"] > 10
    assert found["collector"]["collections"]["old"] >= 1


def test_one_profile_at_a_time(server: Served) -> None:
    """The second is told so; the first is not disturbed, and a third may follow."""
    server.wait_ready()
    statuses: list[int] = []
    first = threading.Thread(target=lambda: statuses.append(_get(server, f"{PATH}?seconds=5")[0]))
    first.start()
    server.wait_until(lambda: server.plane.batcher._recorder is not None)
    status, answer = _get(server, f"{PATH}?seconds=1")
    first.join()
    assert (status, answer["code"]) == (429, "overloaded")
    assert "profile: expected one at a time, got another, for " in answer["error"]
    assert statuses == [200]
    status, answer = _get(server, f"{PATH}?seconds=0.2")
    assert status == 200
    assert _get(server, f"{PATH}?seconds=99")[1]["code"] == "request-invalid"


def test_a_profile_ends_when_who_asked_for_it_is_gone(server: Served) -> None:
    """Otherwise it would keep the next one waiting for a minute."""
    server.wait_ready()
    link = HTTPConnection("127.0.0.1", server.addresses.metrics_port, timeout=30)
    link.request("GET", f"{PATH}?seconds=60")
    server.wait_until(lambda: server.plane.batcher._recorder is not None)
    link.close()
    server.wait_until(lambda: server.plane.batcher._recorder is None, wait_s=30)


def test_nothing_is_recorded_when_nobody_asks(server: Served) -> None:
    """A profile that has ended leaves nothing behind in the path of requests."""
    server.wait_ready()
    n_callbacks = len(gc.callbacks)
    assert _get(server, f"{PATH}?seconds=0.1")[0] == 200
    assert len(gc.callbacks) == n_callbacks
    assert server.score(payment()).status == 200


def _work(at_s: float) -> Work:
    return Work(Kind.EVENTS, 1, "t", 1e9, lambda _: None, received_s=at_s, queued_s=at_s + 0.1)


def test_a_request_waits_for_all_of_its_batch_and_what_no_lap_named_is_encoding() -> None:
    """Two rows share a batch of one second, 0.7 s of it in known stages."""
    seconds = {"model": 5.0, "log": 1.0}
    recorder = Recorder(lambda: dict(seconds))
    works = [_work(10.0), _work(10.05)]
    seconds["model"] += 0.6
    seconds["log"] += 0.1
    recorder.scored([Piece(work, 0, 1) for work in works], 10.3, 11.3)
    for work in works:
        recorder.replied(work, 11.4)
    first, second = recorder.answered
    assert first.stages() == pytest.approx(
        {"parse": 0.1, "queue": 0.2, "model": 0.6, "log": 0.1, "encode": 0.3, "answer": 0.1}
    )
    assert sum(second.stages().values()) == pytest.approx(second.total_s) == pytest.approx(1.35)


def test_a_profile_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond the bound requests are counted and not kept."""
    monkeypatch.setattr(bounds, "PROFILE_REQUESTS_MAX", 3)
    recorder = Recorder(dict)
    works = [_work(float(i)) for i in range(5)]
    recorder.scored([Piece(work, 0, 1) for work in works], 5.0, 6.0)
    for work in works:
        recorder.replied(work, 7.0)
    assert (len(recorder.answered), recorder.n_beyond) == (3, 2)


def test_a_reply_to_a_request_of_before_is_no_part_of_it() -> None:
    """Its batch was not seen."""
    recorder = Recorder(dict)
    recorder.replied(_work(1.0), 2.0)
    assert recorder.answered == []


def test_stages_outside_the_scorer_are_metrics_too(tmp_path: Path) -> None:
    """Parse, queue, encode and answer stand beside the scorer's own stages."""
    with served(tmp_path) as own:
        own.wait_ready()
        assert own.score(payment()).status == 200
        text = _text(own)
    for stage in ("parse", "queue", "decode", "features", "model", "encode", "answer"):
        line = f'sentinel_stage_seconds_count{{stage="{stage}"}}'
        assert line in text
        assert float(text.split(line)[1].split()[0]) >= 1


def _text(server: Served) -> str:
    link = HTTPConnection("127.0.0.1", server.addresses.metrics_port, timeout=30)
    try:
        link.request("GET", "/metrics")
        return link.getresponse().read().decode()
    finally:
        link.close()


def test_the_command_shows_the_stages_and_gives_json(
    server: Served, capsys: pytest.CaptureFixture[str]
) -> None:
    """``sentinel profile`` asks the server while requests come, in tables and as a document."""
    server.wait_ready()
    is_done = threading.Event()

    def load() -> None:
        while not is_done.is_set():
            server.score(payment())

    loader = threading.Thread(target=load)
    loader.start()
    url = f"http://127.0.0.1:{server.addresses.metrics_port}"
    asked = ["profile", "--url", url, "--seconds", "0.5"]
    try:
        assert run_command(app, asked) is ExitCode.OK
        shown = capsys.readouterr().out
        assert run_command(app, [*asked, "--json"]) is ExitCode.OK
    finally:
        is_done.set()
        loader.join()
    for text in ("Where the time goes", "features", "(collector, within)"):
        assert text in shown
    document = json.loads(capsys.readouterr().out)
    assert document["requests"] > 0
    assert document["slowest"]["requests"] >= 1
    # A machine that is busy enough gives the looks no turn; then there is nothing to show of them.
    assert "interpreter lock" in shown or document["interpreter_lock"]["looks"] < 100


def test_the_command_says_when_there_is_no_server() -> None:
    """Nobody listens at port 1."""
    asked = ["profile", "--url", "http://127.0.0.1:1", "--seconds", "0.1"]
    assert run_command(app, asked) is exit_code_of(ErrorCode.SERVER_UNREACHABLE)
