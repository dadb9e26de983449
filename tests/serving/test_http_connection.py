"""Connections that are hostile, slow, cut off or in a hurry."""

from __future__ import annotations

import json
import socket
import time
from pathlib import Path

import pytest
from serving_rig import Served, payment, served

from sentinel.serving import bounds
from sentinel.serving.doors.http_connection import HttpDoor

HEAD = b"POST /v1/score HTTP/1.1\r\nhost: a\r\ncontent-type: application/json\r\n"


def _error(answer: bytes) -> tuple[int, str]:
    """Read the status and the code of the first response."""
    head, _, rest = answer.partition(b"\r\n\r\n")
    n_bytes = int(head.lower().partition(b"content-length: ")[2].split(b"\r\n")[0])
    found: dict[str, str] = json.loads(rest[:n_bytes])
    return int(head.split(b" ", 2)[1]), found["code"]


@pytest.mark.parametrize(
    "request_bytes",
    [
        b"GET / HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.1\r\nhost: a\r\nhost: b\r\n\r\n",
        b"GET /\r\n\r\n",
        b"GET / HTTP/2.0\r\nhost: a\r\n\r\n",
        b"G\x00T / HTTP/1.1\r\nhost: a\r\n\r\n",
        b"GET / HTTP/1.1\r\nhost : a\r\n\r\n",
        b"GET / HTTP/1.1\r\nhost: a\r\nx: a\x00b\r\n\r\n",
        b"GET / HTTP/1.1\r\nhost: a\r\n folded: x\r\n\r\n",
        HEAD + b"content-length: 2\r\ncontent-length: 3\r\n\r\n{}",
        HEAD + b"content-length: 2\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
        HEAD + b"content-length: -1\r\n\r\n{}",
        HEAD + b"content-length: x\r\n\r\n{}",
        HEAD + b"transfer-encoding: chunked\r\n\r\nzz\r\n{}\r\n0\r\n\r\n",
        HEAD + b"transfer-encoding: gzip, chunked, identity\r\n\r\n0\r\n\r\n",
        b"GET / HTTP/1.1\r\nhost: a\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n",
        b"CONNECT a:1 HTTP/1.1\r\nhost: a\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    ],
)
def test_what_is_no_request_is_refused_and_the_connection_ends(
    server: Served, request_bytes: bytes
) -> None:
    answer = server.raw(request_bytes)
    assert _error(answer) == (400, "request-invalid")
    assert answer.count(b"HTTP/1.1 400 ") == 1
    assert b"connection: close\r\n" in answer


@pytest.mark.parametrize(
    ("cut", "at"),
    [(b"GET /v2 HTTP/1.1\r\nho", "head"), (HEAD + b"content-length: 1000\r\n\r\n{", "body")],
)
def test_who_sends_a_part_and_ends_is_told(server: Served, cut: bytes, at: str) -> None:
    answer = server.raw(cut, half_close=True)
    assert _error(answer) == (400, "request-invalid")
    assert f"{at}: expected all of it, got a part of it".encode() in answer
    assert server.raw(b"", half_close=True) == b""


@pytest.mark.parametrize(
    ("request_bytes", "expected"),
    [
        (b"garbage\r\n\r\n", "request: expected a request line of HTTP/1.1"),
        (b"\x16\x03\x01\x02\x00", "request: expected a request line of HTTP/1.1"),
        (b"GET \x01 HTTP/1.1\r\nhost: a\r\n\r\n", "request: expected a request line of HTTP/1.1"),
        (b"GET / HTTP/9.9\r\nhost: a\r\n\r\n", "head: expected a head of HTTP/1.1"),
        (b"GET / HTTP/1.1\r\nno header\r\n\r\n", "head: expected a head of HTTP/1.1"),
        (
            HEAD + b"transfer-encoding: chunked\r\n\r\nzz\r\n",
            "body: expected a body as its head says, of HTTP/1.1",
        ),
    ],
)
def test_what_is_no_http_is_answered_in_words_of_http(
    server: Served, request_bytes: bytes, expected: str
) -> None:
    """No name of the library that reads it."""
    answer = server.raw(request_bytes)
    assert _error(answer) == (400, "request-invalid")
    assert f"request-invalid: {expected}, got something else".encode() in answer


@pytest.mark.parametrize(
    "request_bytes",
    [
        HEAD + b"content-length: %d\r\n\r\n" % (bounds.REQUEST_BODY_BYTES_MAX + 1),
        HEAD + b"content-length: 99999999999999999\r\n\r\n",
        b"GET / HTTP/1.1\r\nhost: a\r\nx: " + b"y" * bounds.REQUEST_HEAD_BYTES_MAX + b"\r\n\r\n",
        b"GET / HTTP/1.1\r\nhost: a\r\nx: " + b"y" * bounds.REQUEST_HEAD_BYTES_MAX,
        b"GET /" + b"y" * bounds.REQUEST_HEAD_BYTES_MAX,
        b"GET / HTTP/1.1\r\nhost: a\r\n"
        + b"".join(b"x%d: y\r\n" % number for number in range(bounds.REQUEST_HEADERS_MAX))
        + b"\r\n",
    ],
)
def test_what_is_too_large_is_refused_before_it_is_read(
    server: Served, request_bytes: bytes
) -> None:
    assert _error(server.raw(request_bytes)) == (413, "request-too-large")


@pytest.mark.reliability("F3")
def test_a_body_in_chunks_is_refused_once_it_is_too_large(server: Served) -> None:
    block = b"%x\r\n" % (1 << 20) + b" " * (1 << 20) + b"\r\n"
    blocks = block * (bounds.REQUEST_BODY_BYTES_MAX // (1 << 20) + 1)
    answer = server.raw(HEAD + b"transfer-encoding: chunked\r\n\r\n" + blocks)
    assert _error(answer) == (413, "request-too-large")


def test_a_body_in_chunks_is_scored(server: Served) -> None:
    event = payment("t-chunks")
    chunks = b"".join(b"1\r\n%c\r\n" % byte for byte in event) + b"0\r\n\r\n"
    answer = server.raw(HEAD + b"transfer-encoding: chunked\r\nconnection: close\r\n\r\n" + chunks)
    assert b'"event_id":"t-chunks"' in answer


def test_requests_that_come_together_are_answered_in_their_order(server: Served) -> None:
    events = [payment(f"t-pipe-{number}") for number in range(8)]
    sent = b"".join(HEAD + b"content-length: %d\r\n\r\n" % len(e) + e for e in events)
    answer = server.raw(sent + b"GET /v2 HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n")
    places = [answer.index(b'"event_id":"t-pipe-%d"' % number) for number in range(8)]
    assert places == sorted(places)
    assert answer.count(b"HTTP/1.1 200 ") == 9


def test_a_fault_behind_a_good_request_does_not_take_its_answer(server: Served) -> None:
    event = payment("t-before")
    good = HEAD + b"content-length: %d\r\n\r\n" % len(event) + event
    answer = server.raw(good + b"nonsense\r\n\r\n")
    assert b'"event_id":"t-before"' in answer
    assert answer.count(b"HTTP/1.1 ") <= 2


def test_a_client_that_only_listens_any_more_gets_its_answer(server: Served) -> None:
    event = payment("t-half")
    sent = HEAD + b"content-length: %d\r\n\r\n" % len(event) + event
    assert b'"event_id":"t-half"' in server.raw(sent, half_close=True)


def test_a_request_cut_off_at_any_byte_harms_nobody(server: Served) -> None:
    event = payment("t-cut")
    whole = HEAD + b"content-length: %d\r\n\r\n" % len(event) + event
    for end in range(0, len(whole), 7):
        with socket.create_connection(("127.0.0.1", server.addresses.http_port)) as link:
            link.sendall(whole[:end])
    assert server.score(payment("t-after-cuts")).status == 200


def test_a_client_that_goes_away_before_its_answer_is_forgotten(server: Served) -> None:
    for number in range(50):
        event = payment(f"t-away-{number}")
        with socket.create_connection(("127.0.0.1", server.addresses.http_port)) as link:
            link.sendall(HEAD + b"content-length: %d\r\n\r\n" % len(event) + event)
    assert server.score(payment("t-after-away")).json()["event_id"] == "t-after-away"


def test_expecting_clients_are_told_to_go_on(server: Served) -> None:
    event = payment("t-expect")
    with socket.create_connection(("127.0.0.1", server.addresses.http_port), timeout=5) as link:
        link.sendall(HEAD + b"expect: 100-continue\r\ncontent-length: %d\r\n\r\n" % len(event))
        assert link.recv(1000) == b"HTTP/1.1 100 Continue\r\n\r\n"
        link.sendall(event)
        assert b"200 OK" in link.recv(10_000)


def test_head_requests_have_a_length_and_no_body(server: Served) -> None:
    answer = server.raw(b"HEAD /v2 HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n")
    head, _, body = answer.partition(b"\r\n\r\n")
    assert b"content-length: " in head
    assert body == b""


def test_slow_senders_are_told_and_let_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bounds, "REQUEST_HEAD_S_MAX", 0.3)
    monkeypatch.setattr(bounds, "REQUEST_BODY_S_MAX", 0.3)
    monkeypatch.setattr(bounds, "CONNECTION_IDLE_S_MAX", 0.3)
    with served(tmp_path) as running:
        address = ("127.0.0.1", running.addresses.http_port)
        for part in (b"GET / HT", HEAD + b"content-length: 9\r\n\r\n{"):
            assert _error(running.raw(part)) == (408, "request-too-slow")
        with socket.create_connection(address, timeout=5) as idle:
            assert idle.recv(10) == b""
        running.wait_ready()


def test_more_connections_than_there_is_room_for_are_refused(tmp_path: Path) -> None:
    with served(tmp_path, canary_s=60.0) as running:
        running.wait_ready()
        door = _door(running)
        running.wait_until(lambda: not door.connections)
        with socket.create_connection(("127.0.0.1", running.addresses.http_port)):
            running.wait_until(lambda: len(door.connections) == 1)
            door.connections_max = 1
            assert _error(running.raw(b"")) == (503, "server-full")


def _door(running: Served) -> HttpDoor:
    import gc

    from sentinel.serving.doors.http_routes import HttpRoutes

    (door,) = (
        found
        for found in gc.get_objects()
        if isinstance(found, HttpDoor)
        and isinstance(found.handler, HttpRoutes)
        and found.handler._plane is running.plane
    )
    return door


def test_a_head_that_came_before_is_known_and_its_next_body_is_read(server: Served) -> None:
    """Same bytes of the head, another body of that length: each has its own answer."""
    server.wait_ready()
    with socket.create_connection(("127.0.0.1", server.addresses.http_port), timeout=10) as link:
        found = []
        for number in range(10, 20):
            body = payment(f"known-{number}")
            link.sendall(HEAD + b"content-length: %d\r\n\r\n" % len(body) + body)
            found.append(_body(link)["event_id"])
    assert found == [f"known-{number}" for number in range(10, 20)]


def test_a_known_head_with_a_body_in_pieces_or_of_another_length_is_read_by_the_parser(
    server: Served,
) -> None:
    server.wait_ready()
    body = payment("pieces-0")
    head = HEAD + b"content-length: %d\r\n\r\n" % len(body)
    with socket.create_connection(("127.0.0.1", server.addresses.http_port), timeout=10) as link:
        link.sendall(head + body)
        assert _body(link)["event_id"] == "pieces-0"
        for piece in (head, payment("pieces-1")[:7], payment("pieces-1")[7:]):
            link.sendall(piece)
            time.sleep(0.05)
        assert _body(link)["event_id"] == "pieces-1"
        link.sendall(head + payment("pieces-2") + head + payment("pieces-3"))
        assert [_body(link)["event_id"] for _ in range(2)] == ["pieces-2", "pieces-3"]


def test_heads_that_differ_each_time_do_not_fill_the_memory(server: Served) -> None:
    server.wait_ready()
    with socket.create_connection(("127.0.0.1", server.addresses.http_port), timeout=10) as link:
        for number in range(bounds.HTTP_HEADS_KNOWN_MAX + 20):
            link.sendall(b"GET /v2 HTTP/1.1\r\nhost: a\r\ntraceparent: %d\r\n\r\n" % number)
            assert _body(link)["name"]
    door = _door(server)
    assert 0 < len(door.heads) <= bounds.HTTP_HEADS_KNOWN_MAX


def _body(link: socket.socket) -> dict[str, object]:
    """Read one response whole, byte by byte where it ends."""
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        head += link.recv(1)
    n_bytes = int(head.lower().partition(b"content-length: ")[2].split(b"\r\n")[0])
    content = b""
    while len(content) < n_bytes:
        content += link.recv(n_bytes - len(content))
    found: dict[str, object] = json.loads(content)
    return found
