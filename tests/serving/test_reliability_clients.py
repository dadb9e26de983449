"""Clients that are slow, that go away, that have no time: the others notice nothing."""

from __future__ import annotations

import contextlib
import itertools
import json
import random
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest
from serving_rig import Served, payment, served

from sentinel.serving import bounds

POST = b"POST /v1/score HTTP/1.1\r\nhost: a\r\ncontent-type: application/json\r\n"
# How a slow client begins, and what it then sends a byte of now and then.
SLOW = {
    "nothing": (b"", b""),
    "half a head": (b"GET /v2 HTTP/1.1\r\nhost: a\r\nx: ", b"y"),
    "a head that never ends": (b"GET /v2 HTTP/1.1\r\nhost: a\r\n", b"z: 1\r\n"),
    "half a body": (POST + b"content-length: 1000\r\n\r\n{", b" "),
    "a chunk that never ends": (POST + b"transfer-encoding: chunked\r\n\r\nff\r\n", b" "),
}
DEADLINES = (
    "REQUEST_HEAD_S_MAX",
    "REQUEST_BODY_S_MAX",
    "CONNECTION_IDLE_S_MAX",
    "ANSWER_UNREAD_S_MAX",
)


def _event(name: str) -> bytes:
    body = payment(name)
    return POST + b"content-length: %d\r\n\r\n" % len(body) + body


@pytest.mark.reliability("F2", t1=200, t2=2_000, t3=5_000)
def test_slow_clients_are_let_go_and_honest_ones_notice_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, trials: Iterator[int]
) -> None:
    """Deadlines are a second here; a byte now and then moves none of them."""
    for name in DEADLINES:
        monkeypatch.setattr(bounds, name, 1.0)
    with served(tmp_path) as running, contextlib.ExitStack() as stack:
        running.wait_ready()
        address = ("127.0.0.1", running.addresses.http_port)
        slow: list[tuple[socket.socket, bytes]] = []
        kinds = itertools.cycle(SLOW.values())
        for _ in trials:
            link = stack.enter_context(socket.create_connection(address, timeout=30))
            start, drop = next(kinds)
            link.sendall(start)
            slow.append((link, drop))
        for number in range(30):
            answer = running.score(payment(f"honest-{number}"))
            assert (answer.status, answer.json()["event_id"]) == (200, f"honest-{number}")
            for link, drop in slow:
                with contextlib.suppress(OSError):
                    link.send(drop)
            time.sleep(0.02)
        for link, _ in slow:
            found = _read_all(link)
            assert found[:12] in {b"", b"HTTP/1.1 408"}, found
        running.wait_ready()


@pytest.mark.reliability("F2", t1=2, t2=10, t3=100)
def test_a_client_that_asks_and_never_reads_is_stopped_and_let_go(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, trials: Iterator[int]
) -> None:
    """What it is owed is bounded: nothing more is taken from it while its answers are unread."""
    monkeypatch.setattr(bounds, "ANSWER_UNREAD_S_MAX", 1.0)
    with served(tmp_path) as running:
        running.wait_ready()
        before = psutil.Process().memory_info().rss
        for _ in trials:
            address = ("127.0.0.1", running.addresses.http_port)
            with socket.create_connection(address, timeout=0.5) as link:
                n_sent = _ask_until_it_stops(link, b"GET /openapi.json HTTP/1.1\r\nhost: a\r\n\r\n")
                assert n_sent < 20_000_000, "it reads on and on"
                running.wait_until(lambda link=link: _is_reset(link))  # type: ignore[misc]
        assert psutil.Process().memory_info().rss - before < 64 << 20
        running.wait_ready()


def _ask_until_it_stops(link: socket.socket, request: bytes) -> int:
    block, n_sent = request * 500, 0
    with contextlib.suppress(TimeoutError, ConnectionError):
        while n_sent < 20_000_000:
            n_sent += link.send(block)
    return n_sent


def _is_reset(link: socket.socket) -> bool:
    try:
        link.send(b"G")
    except (ConnectionError, BrokenPipeError):
        return True
    except TimeoutError:
        return False
    return False


def _read_all(link: socket.socket) -> bytes:
    found = b""
    with contextlib.suppress(ConnectionError):
        while chunk := link.recv(65_536):
            found += chunk
    return found


@pytest.mark.reliability("F7", t1=500, t2=20_000, t3=200_000)
def test_a_client_that_goes_away_at_any_byte_crosses_no_answers(
    server: Served, trials: Iterator[int]
) -> None:
    """Cut inside the request, or inside the answer; others ask at the same time."""
    server.wait_ready()
    n_before = server.opened.scorer.counts().decided
    whole_sent: list[str] = []
    address = ("127.0.0.1", server.addresses.http_port)
    is_over = threading.Event()
    with ThreadPoolExecutor(3) as pool:
        honest = [pool.submit(_ask_until, server, number, is_over) for number in range(3)]
        for seed in trials:
            chance = random.Random(seed)
            whole = _event(f"cut-{seed}")
            is_request_cut = chance.random() < 0.5
            with socket.create_connection(address, timeout=10) as link:
                if chance.random() < 0.5:  # go with a reset, not in peace
                    link.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
                link.sendall(whole[: chance.randrange(len(whole))] if is_request_cut else whole)
                if not is_request_cut:
                    whole_sent.append(f"cut-{seed}")
                    link.recv(chance.randrange(1, 300))
        is_over.set()
        n_honest = sum(asked.result() for asked in honest)
    server.wait_until(lambda: server.plane.load().n_works == 0)
    # Who asks again is told what was decided; and nothing was decided twice, or from half a body.
    for name in whole_sent:
        answer = server.score(payment(name))
        found = (answer.status, answer.json().get("event_id"), answer.json().get("code"))
        assert found in {(200, name, None), (409, None, "event-repeated")}
    assert whole_sent
    assert server.opened.scorer.counts().decided - n_before == len(whole_sent) + n_honest


def _ask_until(server: Served, number: int, is_over: threading.Event) -> int:
    for n in itertools.count():
        name = f"honest-{number}-{n}"
        answer = server.score(payment(name))
        assert (answer.status, answer.json()["event_id"]) == (200, name)
        if is_over.is_set():
            return n + 1
    return 0


@pytest.mark.reliability("F8", t1=1_000, t2=20_000, t3=200_000)
def test_a_deadline_is_kept_or_refused_and_none_is_the_default(
    server: Served, trials: Iterator[int]
) -> None:
    server.wait_ready()
    address = ("127.0.0.1", server.addresses.http_port)
    with socket.create_connection(address, timeout=10) as link, link.makefile("rb") as reader:
        for seed in trials:
            chance = random.Random(seed)
            text = chance.choice([b"", b"0", b"-1", b"1", b"2", b"1000", b"99999999999", b"1.5"])
            body = payment(f"deadline-{seed}")
            head = POST + b"content-length: %d\r\n" % len(body)
            if text:
                head += b"sentinel-timeout-ms: %b\r\n" % text
            link.sendall(head + b"\r\n" + body)
            status, document = _read_answer(reader)
            if text in {b"0", b"-1", b"1.5"}:
                assert (status, document["code"]) == (400, "request-invalid")
            elif status != 200:
                assert text in {b"1", b"2", b"", b"1000"}
                assert document["code"] in {"deadline-passed", "overloaded"}
            else:
                assert document["event_id"] == f"deadline-{seed}"


def _read_answer(reader: object) -> tuple[int, dict[str, object]]:
    status = int(reader.readline()[9:12])  # type: ignore[attr-defined]
    n_bytes = 0
    while (line := reader.readline()) != b"\r\n":  # type: ignore[attr-defined]
        if line.startswith(b"content-length: "):
            n_bytes = int(line[16:])
    found: dict[str, object] = json.loads(reader.read(n_bytes))  # type: ignore[attr-defined]
    return status, found
