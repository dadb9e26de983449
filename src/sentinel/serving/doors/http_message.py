"""Requests and responses of HTTP/1.1, as data."""

from __future__ import annotations

import http
import itertools
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from sentinel.core.errors import ErrorCode, SentinelError
from sentinel.serving.batching.queue_of_rows import OverloadedError
from sentinel.serving.batching.scoring_worker import EventRefusedError
from sentinel.serving.doors.status_codes import HTTP_STATUS

JSON = b"application/json"
NDJSON = b"application/x-ndjson"
_PHRASES = {status.value: status.phrase.encode() for status in http.HTTPStatus}
_HEADS: dict[tuple[int, bytes], bytes] = {}
_REFUSALS: dict[int, HttpResponse] = {}
_RETRY_S_MIN, _RETRY_S_MAX = 1, 30
_SPREAD_S = itertools.cycle(range(3))
# Codes whose sentence is made for callers; all others could name files of this machine.
_FOR_CALLERS = frozenset(
    code for code, status in HTTP_STATUS.items() if status < 503 and status != 500
) | {ErrorCode.ANSWER_HELD, ErrorCode.DRAINING, ErrorCode.SERVER_FULL, ErrorCode.DEADLINE_PASSED}


@dataclass(slots=True, eq=False)
class HttpHead:
    """What stands before the body; requests that began with the same bytes share one.

    Attributes
    ----------
    method : bytes
    path, query : bytes
        As they came: nothing is decoded or normalised.
    headers : dict of bytes to bytes
        Names in lower case; values of a repeated name joined by a comma. Never changed.
    n_body : int
        Bytes of the body where its length was declared; 0 without.
    meaning : object
        What the handler made of it, for the next request that begins so.
    """

    method: bytes
    path: bytes
    query: bytes
    headers: dict[bytes, bytes]
    n_body: int = 0
    meaning: object = None


@dataclass(slots=True, eq=False)
class HttpRequest:
    """One request, whole.

    Attributes
    ----------
    head : HttpHead
    body : bytes
    peer : str
        Address of the other side.
    respond : callable
        Takes the response, once.
    on_abandon : callable or None
        Called when the client goes away before its response.
    unread_s : float
        How long it may have waited before it was read, because its connection was not.
    ends_with_client : bool
        A client that sends no more has gone away: nobody shall work long for nobody.
    """

    head: HttpHead
    body: bytes
    peer: str
    respond: Callable[[HttpResponse], None]
    on_abandon: Callable[[], None] | None = None
    unread_s: float = 0.0
    ends_with_client: bool = False

    @property
    def method(self) -> bytes:
        """Of the head."""
        return self.head.method

    @property
    def path(self) -> bytes:
        """Of the head."""
        return self.head.path

    @property
    def query(self) -> bytes:
        """Of the head."""
        return self.head.query

    @property
    def headers(self) -> dict[bytes, bytes]:
        """Of the head."""
        return self.head.headers


class HttpResponse(NamedTuple):
    """One response.

    Attributes
    ----------
    status : int
    body : bytes
    content_type : bytes
    headers : tuple of (bytes, bytes)
        Beside content type and length.
    closes : bool
        The connection ends with it.
    is_paced : bool
        There is no room: the connection is read again in its turn.
    """

    status: int
    body: bytes = b""
    content_type: bytes = JSON
    headers: tuple[tuple[bytes, bytes], ...] = ()
    closes: bool = False
    is_paced: bool = False

    def encode(self, date: bytes, *, is_head: bool = False) -> bytes:
        """Return the bytes of it."""
        status, body, content_type, headers, closes, _ = self
        key = (status, content_type if body else b"")
        start = _HEADS.get(key) or _HEADS.setdefault(key, _start(*key))
        further = b"".join([b"%b: %b\r\n" % header for header in headers]) if headers else b""
        if closes:
            further += b"connection: close\r\n"
        content = b"" if is_head else body
        return b"%b%d\r\ndate: %b\r\n%b\r\n%b" % (start, len(body), date, further, content)


@dataclass(slots=True)
class Counted:
    """Responses by status, since the start."""

    by_status: dict[int, int] = field(default_factory=dict)

    def add(self, status: int) -> None:
        """Count one."""
        self.by_status[status] = self.by_status.get(status, 0) + 1


def json_response(data: object, *, status: int = 200) -> HttpResponse:
    """Make a response of plain data; never NaN."""
    return HttpResponse(status, json.dumps(data, allow_nan=False).encode())


def error_response(error: SentinelError, *, closes: bool = False) -> HttpResponse:
    """Make the response that an error is."""
    status = HTTP_STATUS[error.code]
    if isinstance(error, OverloadedError) and error.expected.startswith("an answer within"):
        status = 503
    headers: tuple[tuple[bytes, bytes], ...] = ()
    if status in {429, 503}:
        headers = ((b"retry-after", str(retry_after_s(error)).encode()),)
    if status == 401:
        headers = ((b"www-authenticate", b"Bearer"),)
    if error.code is ErrorCode.METHOD_UNSUPPORTED:
        headers = ((b"allow", error.expected.encode()),)
    body = json.dumps(error_data(error), allow_nan=False).encode()
    is_paced = isinstance(error, OverloadedError)
    return HttpResponse(status, body, headers=headers, closes=closes, is_paced=is_paced)


def refusal(retry_s: float) -> HttpResponse:
    """Return the response for who waits longer than he has; made once for each ``Retry-After``."""
    after_s = _spread(retry_s)
    known = _REFUSALS.get(after_s)
    if known is None:
        error = OverloadedError(
            expected="an answer within the time the caller has",
            got="a longer wait",
            retry_s=retry_s,
        )
        headers = ((b"retry-after", b"%d" % after_s),)
        known = _REFUSALS[after_s] = error_response(error)._replace(headers=headers)
    return known


def route_unknown() -> SentinelError:
    """Say that a path is none; not which, because it may hold what is nobody else's business."""
    return SentinelError(
        ErrorCode.ROUTE_UNKNOWN,
        at="request",
        expected="a path of docs/serving.md",
        got="an unknown path",
    )


def error_data(error: SentinelError) -> dict[str, object]:
    """Return what a caller may know of an error."""
    code = str(error.code)
    if error.code not in _FOR_CALLERS:
        return {"error": f"{code}: the server cannot do this now.", "code": code}
    data: dict[str, object] = {"error": str(error), "code": code}
    if isinstance(error, EventRefusedError):
        data["refusal"] = str(error.refusal.code)
        data["faults"] = [
            {
                "code": str(fault.code),
                "path": fault.path,
                "expected": fault.expected,
                "got": fault.got,
            }
            for fault in error.refusal.faults
        ]
    return data


def retry_after_s(error: SentinelError) -> int:
    """Return the seconds until it is worth trying again, spread so that not all come at once."""
    wait_s = error.retry_s if isinstance(error, OverloadedError) else 1.0
    return _spread(wait_s)


def written_lines(lines: Sequence[bytes | SentinelError], *, first: int = 0) -> list[bytes]:
    """Write answers to lines: decisions as they are, errors with the number of their line."""
    return [
        json.dumps({"line": number, **error_data(line)}, allow_nan=False).encode()
        if isinstance(line, SentinelError)
        else line
        for number, line in enumerate(lines, first)
    ]


def streamed_head(status: int, content_type: bytes) -> bytes:
    """Write the head of a response whose body comes in chunks."""
    phrase = _PHRASES[status]
    head = b"HTTP/1.1 %d %b\r\ncontent-type: %b\r\ntransfer-encoding: chunked\r\n\r\n"
    return head % (status, phrase, content_type)


def chunk(content: bytes) -> bytes:
    """Write one chunk; never an empty one, which would be the last."""
    return b"%x\r\n%b\r\n" % (len(content), content)


def _spread(wait_s: float) -> int:
    return max(_RETRY_S_MIN, min(_RETRY_S_MAX, round(wait_s) + next(_SPREAD_S)))


def _start(status: int, content_type: bytes) -> bytes:
    kind = b"content-type: %b\r\n" % content_type if content_type else b""
    return b"HTTP/1.1 %d %b\r\n%bcontent-length: " % (status, _PHRASES[status], kind)
