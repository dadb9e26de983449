"""What may come over a socket: the rules of RFC 9110 and 9112, sizes, forms, names, smuggling."""

from __future__ import annotations

import gzip
import json
import random
import socket
import time
import zlib
from collections.abc import Iterator

import pytest
from serving_rig import MODEL, QUIET_S, Served, payment

from sentinel.serving import bounds
from sentinel.serving.doors import http_message

GET = b"GET /v2 HTTP/1.1\r\nhost: a\r\n"
POST = b"POST /v1/score HTTP/1.1\r\nhost: a\r\ncontent-type: application/json\r\n"
END = b"connection: close\r\n\r\n"
CHUNKED = POST + b"transfer-encoding: chunked\r\n"
EMPTY = b"{}"  # an event that the contract refuses: 422 says that the request arrived whole

# --- the rules ------------------------------------------------------------------------------------

# (rule, what is sent in pieces, the status of the answer)
RULES: list[tuple[str, list[bytes], int]] = [
    # RFC 9112, 2 and 3: messages and request lines
    ("a plain request", [GET + END], 200),
    ("a query", [b"GET /v2?a=b&c HTTP/1.1\r\nhost: a\r\n" + END], 200),
    ("the absolute form", [b"GET http://a/v2 HTTP/1.1\r\nhost: a\r\n" + END], 200),
    ("an empty line before it", [b"\r\n" + GET + END], 200),
    ("cut inside the method", [b"GE", b"T /v2 HTTP/1.1\r\nhost: a\r\n" + END], 200),
    ("cut inside the target", [b"GET /v", b"2 HTTP/1.1\r\nhost: a\r\n" + END], 200),
    ("cut inside the version", [b"GET /v2 HTT", b"P/1.1\r\nhost: a\r\n" + END], 200),
    ("cut inside the line end", [b"GET /v2 HTTP/1.1\r", b"\nhost: a\r\n" + END], 200),
    ("cut inside a name", [b"GET /v2 HTTP/1.1\r\nho", b"st: a\r\n" + END], 200),
    ("cut inside a value", [GET + b"x: 1", b"2\r\n" + END], 200),
    ("cut inside the last line end", [GET + END[:-1], END[-1:]], 200),
    ("one byte after the other", [bytes([byte]) for byte in GET + END], 200),
    ("no version", [b"GET /v2\r\n\r\n"], 400),
    ("another protocol", [b"GET /v2 HTTQ/1.1\r\nhost: a\r\n" + END], 400),
    ("a later version", [b"GET /v2 HTTP/2.0\r\nhost: a\r\n" + END], 400),
    ("a byte before it", [b"\x01" + GET + END], 400),
    ("a method with a control character", [b"G\x07T /v2 HTTP/1.1\r\nhost: a\r\n" + END], 400),
    # RFC 9112, 3.2 and 5; RFC 9110, 5: fields
    ("no host", [b"GET /v2 HTTP/1.1\r\n" + END], 400),
    ("two hosts", [GET + b"host: b\r\n" + END], 400),
    ("an empty value", [GET + b"x:\r\n" + END], 200),
    ("white space around a value", [GET + b"x: \t y \t\r\n" + END], 200),
    ("bytes above 127 in a value", [GET + b"x: \xc3\xa9\r\n" + END], 200),
    ("a space before the colon", [GET + b"x : y\r\n" + END], 400),
    ("a folded line", [GET + b"x: y\r\n z\r\n" + END], 400),
    ("a nul in a value", [GET + b"x: a\x00b\r\n" + END], 400),
    ("a line without a colon", [GET + b"nonsense\r\n" + END], 400),
    ("a control character in a name", [GET + b"x\x01y: z\r\n" + END], 400),
    # RFC 9112, 6 and 7: bodies
    ("a body with a length", [POST + b"content-length: 2\r\n" + END + EMPTY], 422),
    ("a body in pieces", [POST + b"content-length: 2\r\n" + END, b"{", b"}"], 422),
    ("a body in chunks", [CHUNKED + END + b"1\r\n{\r\n1\r\n}\r\n0\r\n\r\n"], 422),
    ("a negative length", [POST + b"content-length: -2\r\n" + END + EMPTY], 400),
    ("a length that is no number", [POST + b"content-length: two\r\n" + END + EMPTY], 400),
    ("a length of 2^64", [POST + b"content-length: 18446744073709551616\r\n" + END], 400),
]


def test_there_are_as_many_rules_as_are_promised() -> None:
    assert len(RULES) == 33


@pytest.mark.reliability("F1")
@pytest.mark.parametrize(
    ("pieces", "status"), [rule[1:] for rule in RULES], ids=[r[0] for r in RULES]
)
def test_the_rules_of_http_hold_at_the_door(
    server: Served, pieces: list[bytes], status: int
) -> None:
    answers = _talk(server, pieces)
    assert [answer[0] for answer in answers] == [status]
    if status == 400:
        assert answers[0][1]["code"] == "request-invalid"


# --- one in, one out ------------------------------------------------------------------------------

INSIDE = b"GET /v2/health/live HTTP/1.1\r\nhost: smuggled\r\n\r\n"
# What two readers could understand in two ways; behind each stands a request that must not be seen.
SMUGGLED = {
    "length and chunks": CHUNKED + b"content-length: 4\r\n\r\n0\r\n\r\n" + INSIDE,
    "two lengths": POST + b"content-length: 0\r\ncontent-length: 4\r\n\r\n" + INSIDE,
    "a list of lengths": POST + b"content-length: 0, 4\r\n\r\n" + INSIDE,
    "a length with a sign": POST + b"content-length: +4\r\n\r\n" + INSIDE,
    "a length in hexadecimal": POST + b"content-length: 0x4\r\n\r\n" + INSIDE,
    "a length with a space inside": POST + b"content-length: 4 4\r\n\r\n" + INSIDE,
    "chunked twice": POST + b"transfer-encoding: chunked, chunked\r\n\r\n0\r\n\r\n" + INSIDE,
    "chunked is not last": POST + b"transfer-encoding: chunked, gzip\r\n\r\n0\r\n\r\n" + INSIDE,
    "another coding": POST + b"transfer-encoding: xchunked\r\n\r\n0\r\n\r\n" + INSIDE,
    "a coding behind a tab": POST + b"transfer-encoding:\tchunked\x0b\r\n\r\n0\r\n\r\n" + INSIDE,
    "a name with a space": POST + b"transfer-encoding : chunked\r\n\r\n0\r\n\r\n" + INSIDE,
    "a folded coding": POST + b"transfer-encoding:\r\n chunked\r\n\r\n0\r\n\r\n" + INSIDE,
    "a folded first line": b"GET /v2 HTTP/1.1\r\n host: a\r\n\r\n" + INSIDE,
    "a bare carriage return": GET + b"x: y\rcontent-length: 4\r\n\r\n" + INSIDE,
    "a nul in a name": POST + b"content-\x00length: 4\r\n\r\n" + INSIDE,
    "a chunk without an end": CHUNKED + b"\r\n2\r\n{}0\r\n\r\n" + INSIDE,
    "a negative chunk": CHUNKED + b"\r\n-2\r\n{}\r\n0\r\n\r\n" + INSIDE,
    "a chunk of 2^64": CHUNKED + b"\r\n10000000000000002\r\n{}\r\n0\r\n\r\n" + INSIDE,
    "a chunk with a prefix": CHUNKED + b"\r\n0x2\r\n{}\r\n0\r\n\r\n" + INSIDE,
    "chunks in HTTP/1.0": CHUNKED.replace(b"1.1", b"1.0") + b"\r\n0\r\n\r\n" + INSIDE,
    "an upgrade": GET + b"connection: upgrade\r\nupgrade: h2c\r\n\r\n" + INSIDE,
    "HTTP/0.9": b"GET /v2\r\n" + INSIDE,
    "HTTP/2 without a word": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + INSIDE,
    "a tunnel": b"CONNECT a:80 HTTP/1.1\r\nhost: a\r\n\r\n" + INSIDE,
}


@pytest.mark.reliability("F9")
@pytest.mark.parametrize("sent", SMUGGLED.values(), ids=SMUGGLED)
def test_what_two_readers_would_understand_differently_ends_the_connection(
    server: Served, sent: bytes
) -> None:
    answers = _talk(server, [sent])
    assert [answer[0] for answer in answers] in ([400], [413])


@pytest.mark.reliability("F9", t1=20, t2=500)
def test_pipelined_requests_are_answered_once_each_in_their_order(
    server: Served, trials: Iterator[int]
) -> None:
    for seed in trials:
        chance = random.Random(seed)
        ids = [f"pipe-{seed}-{number}" for number in range(chance.randint(2, 20))]
        sent = b"".join(_scored(payment(name)) for name in ids[:-1])
        sent += _scored(payment(ids[-1]), closes=True)
        cuts = sorted(chance.sample(range(1, len(sent)), 5))
        pieces = [sent[a:b] for a, b in zip([0, *cuts], [*cuts, len(sent)], strict=True)]
        answers = _talk(server, pieces)
        assert [answer[1].get("event_id") for answer in answers] == ids


@pytest.mark.reliability("F9")
@pytest.mark.parametrize(
    ("length", "wait_s", "allowed"), [(1, QUIET_S, [[422], [422, 400]]), (500, 0.5, [[]])]
)
def test_a_length_that_lies_ends_with_its_connection(
    server: Served, length: int, wait_s: float, allowed: list[list[int]]
) -> None:
    """Too short: the rest is no request. Too long: the client hangs up before the end."""
    sent = POST + b"content-length: %d\r\n\r\n" % length + payment("lying")
    answers = _talk(server, [sent], wait_s=wait_s)
    assert [answer[0] for answer in answers] in allowed


# --- bodies ---------------------------------------------------------------------------------------

BOMB = gzip.compress(bytes(20_000_000))


@pytest.mark.reliability("F3")
@pytest.mark.parametrize(
    "coding", [b"gzip", b"deflate", b"zstd", b"br", b"gzip, gzip", b"nonsense"]
)
def test_a_compressed_body_is_not_taken_whatever_is_inside(server: Served, coding: bytes) -> None:
    content = zlib.compress(bytes(20_000_000)) if coding == b"deflate" else BOMB
    head = POST + b"content-encoding: %b\r\ncontent-length: %d\r\n" % (coding, len(content))
    answers = _talk(server, [head + END, content])
    assert (answers[0][0], answers[0][1]["code"]) == (415, "content-unsupported")


@pytest.mark.reliability("F3")
@pytest.mark.parametrize("n_over", [1, 1 << 20, 1 << 40])
def test_a_body_over_the_limit_is_refused_by_its_length_before_it_is_sent(
    server: Served, n_over: int
) -> None:
    n_bytes = bounds.REQUEST_BODY_BYTES_MAX + n_over
    answers = _talk(server, [POST + b"content-length: %d\r\n\r\n" % n_bytes])
    assert (answers[0][0], answers[0][1]["code"]) == (413, "request-too-large")


# --- anything at all ------------------------------------------------------------------------------

TARGETS = [
    b"/", b"/v1/score/", b"/V1/SCORE", b"/v1//score", b"/./v1/score", b"/v1/%2e%2e/etc/passwd",
    b"/../../etc/passwd", b"/v1/score%00", b"/%2576%31", b"/v2/models/..", b"/" + b"a" * 8_000,
    b"/v2/models/%ff%fe", b"*", b"/v1/score;x=y", b"/v1/decisions/", b"/v2?" + b"&" * 4_000,
]  # fmt: skip
METHODS = [b"GET", b"PUT", b"DELETE", b"PATCH", b"OPTIONS", b"TRACE", b"POST", b"HEAD", b"MKCOL"]
TYPES = [
    b"", b"text/html", b"application/json; charset=utf-16", b"application/xml", b"json", b"\xff",
    b"application/json, text/plain", b"multipart/form-data; boundary=x", b"application/json",
]  # fmt: skip
BODIES = [
    b"", b"{", b"null", b"[]", b'"a"', b"\xff\xfe\x00", b"[" * 5_000, b"{}" * 100, b"NaN",
    b'{"amount": NaN}', b"\n" * 1_000, b'{"inputs": []}', b"0" * 10_000, b"\x00" * 100,
]  # fmt: skip


@pytest.mark.reliability("F4", t1=500, t2=20_000, t3=200_000)
def test_no_request_is_answered_with_more_than_its_own_fault(
    server: Served, trials: Iterator[int]
) -> None:
    """Any method, target, type and body: never a 5xx, never a path, a version or a stack."""
    for seed in trials:
        chance = random.Random(seed)
        method, target = chance.choice(METHODS), chance.choice(TARGETS)
        if chance.random() < 0.4:
            target = chance.choice([b"/v1/score", b"/v2/models/%b/infer" % MODEL.encode()])
        body = chance.choice(BODIES)
        head = b"%b %b HTTP/1.1\r\nhost: a\r\ncontent-type: %b\r\ncontent-length: %d\r\n" % (
            method, target, chance.choice(TYPES), len(body),
        )  # fmt: skip
        if chance.random() < 0.1:
            head += b"".join(b"h%d: x\r\n" % number for number in range(chance.choice([50, 100])))
        answers = _talk(server, [head + END + body])
        assert len(answers) == 1, (seed, answers)
        status, document = answers[0]
        assert status < 500, (seed, answers)
        if status >= 400 and method != b"HEAD":
            assert {"error", "code"} <= set(document), (seed, answers)
            _check_silent(str(document))


def _check_silent(text: str) -> None:
    for word in ("Traceback", 'File "', ".py", "/usr", "/home", "site-packages"):
        assert word not in text


NAMES = [
    b"..", b"%2e%2e", b"%2e%2e%2f%2e%2e%2fetc%2fpasswd", b"a" * 10_000, b"%00", b"payments%00",
    b"Payments", b"p%D0%B0yments", b"payments%20", b"%70ayments", b"payments;1.2.0", b"1.2.0",
]  # fmt: skip


@pytest.mark.reliability("F6")
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("after", [b"", b"/ready", b"/infer", b"/versions/1.2.0", b"/versions/.."])
def test_another_model_is_not_known_and_not_repeated(
    server: Served, name: bytes, after: bytes
) -> None:
    """Also no model by an encoded spelling: names are compared as they come."""
    method = b"POST" if after == b"/infer" else b"GET"
    head = b"%b /v2/models/%b%b HTTP/1.1\r\nhost: a\r\n" % (method, name, after)
    if method == b"POST":
        head += b"content-length: 0\r\n"
    status, document = _talk(server, [head + END])[0]
    assert status == 404
    assert document["code"] in {"model-unknown", "route-unknown"}
    assert name.decode() not in str(document)


# --- how it is asked ------------------------------------------------------------------------------


def _scored(event: bytes, *, closes: bool = False) -> bytes:
    end = END if closes else b"\r\n"
    return POST + b"content-length: %d\r\n" % len(event) + end + event


def _talk(
    server: Served, pieces: list[bytes], *, wait_s: float = QUIET_S
) -> list[tuple[int, dict[str, object]]]:
    """Send pieces, and read answers until the server ends the connection, or is quiet so long."""
    address = ("127.0.0.1", server.addresses.http_port)
    with socket.create_connection(address, timeout=wait_s) as link:
        link.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for number, piece in enumerate(pieces):
            if number:
                time.sleep(0.001)
            try:
                link.sendall(piece)
            except (BrokenPipeError, ConnectionResetError):
                break
        found = b""
        try:
            while chunk := link.recv(65_536):
                found += chunk
        except (TimeoutError, ConnectionResetError):
            pass
    return _answers(found, is_head=pieces[0].startswith(b"HEAD"))


def _answers(found: bytes, *, is_head: bool = False) -> list[tuple[int, dict[str, object]]]:
    answers: list[tuple[int, dict[str, object]]] = []
    while found:
        head, _, rest = found.partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 "), found[:100]
        n_bytes = 0 if is_head else int(head.partition(b"content-length: ")[2].split(b"\r\n")[0])
        body = rest[:n_bytes]
        document = json.loads(body) if body.startswith(b"{") else {}
        answers.append((int(head[9:12]), document))
        found = rest[n_bytes:]
    return answers


def test_the_reader_of_these_tests_reads_what_the_server_writes() -> None:
    response = http_message.json_response({"a": 1})
    assert _answers(response.encode(b"today") * 2) == [(200, {"a": 1})] * 2
