"""One connection of HTTP/1.1 over an asyncio transport; httptools reads, this file judges.

What is judged here, before any route sees a request: the size of the head and of the body (by its
declared length before it is read, by what came where it is chunked), the time each may take, one
``Host``, the version, the form of the target, that one request is answered before the next begins.
A request that cannot be trusted ends its connection.

Clients begin their requests with the same bytes again and again. A head that was read and judged
once, whole and with nothing wrong, is known by its bytes: where the same come again at the start
of a message, with a body as long as they say, there is nothing left to parse.

Reference: RFC 9112.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable
from email.utils import formatdate
from functools import partial
from typing import cast

import httptools

from sentinel.core.errors import ErrorCode, SentinelError
from sentinel.serving import bounds
from sentinel.serving.batching.attempt import attempt
from sentinel.serving.doors.http_message import (
    HttpHead,
    HttpRequest,
    HttpResponse,
    error_response,
)
from sentinel.serving.doors.line_stream import LineStream
from sentinel.serving.doors.pace import Pace

Handler = Callable[[HttpRequest], HttpResponse | None]
OpensStreams = Callable[[HttpRequest], LineStream | None]
_NEVER = float("inf")
_LINGER_S = 1.0
_PIPELINED_MAX = 32
_TOKEN_ONCE = frozenset({b"host", b"authorization", b"content-type", b"content-encoding"})


class HttpDoor:
    """All connections of one listener.

    Parameters
    ----------
    handler : callable
        Takes a request; returns its response, or None and calls ``request.respond`` later.
    connections_max : int
    open_stream : callable, optional
        Asked when a head is read: returns who takes the body as it comes, or None.
    """

    def __init__(
        self,
        handler: Handler,
        *,
        connections_max: int = bounds.CONNECTIONS_MAX,
        open_stream: OpensStreams | None = None,
    ) -> None:
        self.handler = handler
        self.open_stream = open_stream
        self.connections: set[HttpConnection] = set()
        self.connections_max = connections_max
        self.is_draining = False
        # Heads that were judged, by their bytes.
        self.heads: dict[bytes, HttpHead] = {}
        self.pace = Pace()
        self.date = formatdate(usegmt=True).encode()

    def connection(self) -> HttpConnection:
        """Make the protocol of a new connection."""
        return HttpConnection(self)

    def sweep(self) -> None:
        """Close what is too slow; call it about once a second."""
        self.date = formatdate(usegmt=True).encode()
        now_s = time.monotonic()
        for connection in [each for each in self.connections if now_s > each.deadline_s]:
            connection.time_out()

    def drain(self) -> None:
        """Close idle connections; the others close with their answer."""
        self.is_draining = True
        for connection in list(self.connections):
            connection.drain()

    async def end(self, *, wait_s_max: float) -> None:
        """Wait for what is in work after :meth:`drain`, then end what is left."""
        end_s = time.monotonic() + wait_s_max
        while self.n_busy and time.monotonic() < end_s:
            await asyncio.sleep(0.01)
        for connection in list(self.connections):
            connection.abort()
        await asyncio.sleep(0)  # or connections would be ended after the loop

    @property
    def n_busy(self) -> int:
        """Connections with a request in work."""
        return sum(connection.is_busy for connection in self.connections)


class HttpConnection(asyncio.Protocol):
    """One connection."""

    __slots__ = (
        "_body",
        "_chunk",
        "_current",
        "_door",
        "_fault",
        "_head_bytes",
        "_headers",
        "_is_discarding",
        "_is_head_done",
        "_is_held",
        "_is_in_message",
        "_is_paused",
        "_is_stream_held",
        "_is_streaming",
        "_n_body",
        "_parser",
        "_peer",
        "_stream",
        "_transport",
        "_unread_s",
        "_url",
        "_waiting",
        "deadline_s",
    )

    def __init__(self, door: HttpDoor) -> None:
        self._door = door
        self._parser = httptools.HttpRequestParser(self)
        self._transport: asyncio.Transport | None = None
        self._peer = ""
        self._waiting: deque[tuple[HttpRequest, bool]] = deque()
        self._current: tuple[HttpRequest, bool] | None = None
        self._is_discarding = False
        self._is_paused = False
        self._is_held = False
        self._is_stream_held = False
        self._unread_s = 0.0
        self._fault: SentinelError | None = None
        self._stream: LineStream | None = None
        self.deadline_s = _NEVER
        self._reset()

    @property
    def is_busy(self) -> bool:
        """Whether a request is in work, or waits for its turn."""
        return self._current is not None or bool(self._waiting)

    # --- asyncio -----------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take a new connection, or say that there is no room."""
        self._transport = cast("asyncio.Transport", transport)
        address = transport.get_extra_info("peername")
        self._peer = str(address[0]) if isinstance(address, tuple) and address else "local"
        door = self._door
        door.connections.add(self)
        self.deadline_s = time.monotonic() + bounds.REQUEST_HEAD_S_MAX
        if len(door.connections) > door.connections_max:
            bound = f"at most {door.connections_max} connections"
            self._refuse(ErrorCode.SERVER_FULL, "server", bound, "one more")

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget everything; what is in work is abandoned."""
        self._door.connections.discard(self)
        current, self._current = self._current, None
        self._waiting.clear()
        if current is not None and current[0].on_abandon is not None:
            current[0].on_abandon()
        stream, self._stream = self._stream, None
        if stream is not None:
            stream.abandon()
        self._transport = None
        del self._parser  # which knows this connection: neither would go before the collector comes

    def data_received(self, data: bytes) -> None:
        """Feed the parser, and judge what it found."""
        if self._is_discarding:
            return
        if not self._is_in_message and not self._head_bytes:
            if self._take_known(data):
                return
            self._chunk = data
        if not self._is_head_done:
            self._head_bytes += len(data)
            if not self._is_in_message:
                self.deadline_s = time.monotonic() + bounds.REQUEST_HEAD_S_MAX
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            self._refuse(ErrorCode.REQUEST_INVALID, "request", "no upgrade", "one")
        except httptools.HttpParserError as error:
            if self._fault is None:
                at, expected = _meant(error, is_head_done=self._is_head_done)
                self._refuse(ErrorCode.REQUEST_INVALID, at, expected, "something else")
        if self._fault is not None and not self._is_discarding:
            self._end_with(self._fault)
        elif not self._is_head_done and self._head_bytes > bounds.REQUEST_HEAD_BYTES_MAX:
            bound = f"at most {bounds.REQUEST_HEAD_BYTES_MAX} bytes"
            self._refuse(ErrorCode.REQUEST_TOO_LARGE, "head", bound, f"{self._head_bytes} or more")

    def eof_received(self) -> bool:
        """Let a client that only writes no more have its answer."""
        if not self.is_busy:
            if self._is_in_message and not self._is_discarding:
                at = "body" if self._is_head_done else "head"
                self._refuse(ErrorCode.REQUEST_INVALID, at, "all of it", "a part of it")
            return False
        if self._current is not None and self._current[0].ends_with_client:
            return False
        if self._is_in_message:
            self._is_discarding = True
        if self._stream is not None and self._is_streaming:
            cut = SentinelError(
                ErrorCode.REQUEST_INVALID, at="body", expected="its last chunk", got="its end"
            )
            self._stream.fail(cut)
        return True

    def pause_writing(self) -> None:
        """Give a client that does not read a deadline."""
        self._is_paused = True
        self.deadline_s = time.monotonic() + bounds.ANSWER_UNREAD_S_MAX
        self._mind_stream()

    def resume_writing(self) -> None:
        """Go on with what waited meanwhile."""
        self._is_paused = False
        if self._stream is not None:
            self.hold_stream(self._is_stream_held)
        if self._current is None:
            self.deadline_s = time.monotonic() + bounds.CONNECTION_IDLE_S_MAX
            self._follow()

    # --- httptools ---------------------------------------------------------------------------

    def on_message_begin(self) -> None:
        """Start a request."""
        self._is_in_message = True

    def on_url(self, url: bytes) -> None:
        """Take a part of the target."""
        self._url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take a header."""
        headers = self._headers
        name = name.lower()
        if name in headers:
            if name in _TOKEN_ONCE:
                self._note(ErrorCode.REQUEST_INVALID, "head", f"one {name.decode()}", "two")
            value = headers[name] + b", " + value
        headers[name] = value
        if len(headers) > bounds.REQUEST_HEADERS_MAX:
            bound = f"at most {bounds.REQUEST_HEADERS_MAX} headers"
            self._note(ErrorCode.REQUEST_TOO_LARGE, "head", bound, "more")

    def on_headers_complete(self) -> None:
        """Judge the head."""
        self._is_head_done = True
        headers = self._headers
        n_bytes = len(self._url) + sum(map(len, headers)) + sum(map(len, headers.values()))
        if n_bytes > bounds.REQUEST_HEAD_BYTES_MAX:
            bound = f"at most {bounds.REQUEST_HEAD_BYTES_MAX} bytes"
            self._note(ErrorCode.REQUEST_TOO_LARGE, "head", bound, n_bytes)
        version = self._parser.get_http_version()
        if version == "1.1":
            if not headers.get(b"host"):
                self._note(ErrorCode.REQUEST_INVALID, "head", "a host", "none")
        elif version != "1.0":
            self._note(ErrorCode.REQUEST_INVALID, "request", "HTTP/1.1", "another version")
        elif b"transfer-encoding" in headers:
            self._note(ErrorCode.REQUEST_INVALID, "head", "a length in HTTP/1.0", "chunks")
        if self._parser.should_upgrade():
            self._note(ErrorCode.REQUEST_INVALID, "request", "no upgrade", "one")
        declared = headers.get(b"content-length")
        if declared is not None and int(declared) > bounds.REQUEST_BODY_BYTES_MAX:
            bound = f"at most {bounds.REQUEST_BODY_BYTES_MAX} bytes"
            self._note(ErrorCode.REQUEST_TOO_LARGE, "body", bound, declared.decode())
        if self._fault is not None:
            return
        if declared is not None or b"transfer-encoding" in headers:
            self.deadline_s = time.monotonic() + bounds.REQUEST_BODY_S_MAX
            if headers.get(b"expect", b"").lower() == b"100-continue" and self._transport:
                self._transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        if b"transfer-encoding" in headers and not self.is_busy and not self._is_paused:
            self._open_stream()

    def on_body(self, body: bytes) -> None:
        """Take a part of the body."""
        if self._is_streaming:
            self.deadline_s = time.monotonic() + bounds.REQUEST_BODY_S_MAX
            if self._stream is not None:
                self._stream.feed(body)
            return
        self._n_body += len(body)
        if self._n_body > bounds.REQUEST_BODY_BYTES_MAX:
            bound = f"at most {bounds.REQUEST_BODY_BYTES_MAX} bytes"
            self._note(ErrorCode.REQUEST_TOO_LARGE, "body", bound, "more")
            self._body.clear()
            return
        self._body.append(body)

    def on_message_complete(self) -> None:
        """Hand the request on, or let it wait for the one before it."""
        if self._is_streaming:
            self._reset()
            if self._stream is not None:
                self._stream.end()
            return
        if self._fault is not None:
            return
        path, query = _split(self._url)
        head = HttpHead(self._parser.get_method(), path, query, self._headers, self._n_body)
        body = self._body[0] if len(self._body) == 1 else b"".join(self._body)
        request = HttpRequest(head, body, self._peer, self._respond)
        keeps = self._parser.should_keep_alive()
        if keeps and self._chunk:
            self._remember(self._chunk, head)
        self._reset()
        if not self.is_busy and not self._is_paused:
            self._start(request, keeps)
            return
        # Another is in work, or the client does not read what it is owed: nothing more is done for
        # it, or its answers would fill the memory.
        self._waiting.append((request, keeps))
        if len(self._waiting) > _PIPELINED_MAX:
            self._note(ErrorCode.REQUEST_TOO_LARGE, "connection", f"{_PIPELINED_MAX} ahead", "more")
        elif self._transport is not None:
            self._transport.pause_reading()

    # --- heads that are known ----------------------------------------------------------------

    def _take_known(self, data: bytes) -> bool:
        """Take a whole request whose head was judged before; the parser stands between two."""
        if self._current is not None or self._waiting or self._is_paused:
            return False
        end = data.find(b"\r\n\r\n", 0, bounds.HTTP_HEAD_KNOWN_BYTES_MAX) + 4
        head = self._door.heads.get(data[:end])
        if head is None or len(data) != end + head.n_body:
            return False
        self._start(HttpRequest(head, data[end:], self._peer, self._respond), True)
        return True

    def _remember(self, chunk: bytes, head: HttpHead) -> None:
        """Keep a head that came with its whole message, and nothing else, in one chunk.

        The lengths tell: where the head ended elsewhere, or another message follows, they differ.
        """
        headers = head.headers
        if b"transfer-encoding" in headers or b"expect" in headers:
            return
        end = chunk.find(b"\r\n\r\n", 0, bounds.HTTP_HEAD_KNOWN_BYTES_MAX) + 4
        if len(chunk) != end + head.n_body or self._parser.get_http_version() != "1.1":
            return
        heads = self._door.heads
        if len(heads) >= bounds.HTTP_HEADS_KNOWN_MAX:
            heads.clear()
        heads[chunk[:end]] = head

    # --- streams -----------------------------------------------------------------------------

    def send(self, content: bytes) -> None:
        """Send a part of a stream's answer."""
        if self._transport is not None:
            self._transport.write(content)

    def hold_stream(self, is_held: bool) -> None:
        """Read nothing more of a stream's body, or read on; who is not read is not slow."""
        self._is_stream_held = is_held
        if not self._is_paused:
            body_s = _NEVER if is_held else bounds.REQUEST_BODY_S_MAX
            self.deadline_s = time.monotonic() + body_s
        self._mind_stream()

    def call_soon(self, call: Callable[[], None]) -> None:
        """Call back when the queue may have room again: a few batches later."""
        asyncio.get_running_loop().call_later(bounds.STREAM_RETRY_S, call)

    def end_stream(self, *, closes: bool) -> None:
        """Take the next request, or end: a stream has said all."""
        current, self._current = self._current, None
        self._stream = None
        self._is_stream_held = False
        if self._transport is None:
            return
        keeps = current is not None and current[1] and not closes and not self._door.is_draining
        self.deadline_s = time.monotonic() + bounds.CONNECTION_IDLE_S_MAX
        if not keeps:
            self._is_discarding = True
            self._transport.close()
            return
        self._transport.resume_reading()
        if not self._is_paused:
            self._follow()

    def _open_stream(self) -> None:
        """Let somebody take the body as it comes, where the door has somebody."""
        open_stream = self._door.open_stream
        if open_stream is None:
            return
        path, query = _split(self._url)
        head = HttpHead(self._parser.get_method(), path, query, self._headers)
        request = HttpRequest(head, b"", self._peer, self._respond)
        found = attempt(partial(open_stream, request), at="door")
        if isinstance(found, SentinelError):
            self._fault = found
        elif found is not None:
            self._current = (request, self._parser.should_keep_alive())
            self._stream, self._is_streaming = found, True
            found.begin(self)

    def _mind_stream(self) -> None:
        """Read a stream's body while its client reads, and not too much is under way."""
        if self._stream is None or self._transport is None:
            return
        if self._is_paused or self._is_stream_held:
            self._transport.pause_reading()
        else:
            self._transport.resume_reading()

    # --- the pace ----------------------------------------------------------------------------

    def hold(self) -> None:
        """Read nothing from now on."""
        if self._transport is not None:
            self._is_held = True
            self._transport.pause_reading()

    def let_go(self, unread_s: float) -> None:
        """Read on; what has come meanwhile may have waited for so long."""
        self._is_held = False
        self._unread_s = unread_s
        if self._transport is not None and not self._waiting:
            self._transport.resume_reading()

    def be_current(self) -> None:
        """Notice that what comes from now on has not waited."""
        self._unread_s = 0.0

    # --- answering ---------------------------------------------------------------------------

    def time_out(self) -> None:
        """End a connection whose time is over."""
        if self._transport is None:
            return
        if self._is_discarding or self._is_paused:
            self._transport.abort()
        elif self._is_in_message and not self._is_stream_held:
            bound = f"a request within {bounds.REQUEST_BODY_S_MAX:.0f} s"
            self._refuse(ErrorCode.REQUEST_TOO_SLOW, "request", bound, "a part of one")
        elif self._current is None:
            self._transport.close()

    def abort(self) -> None:
        """End it at once."""
        if self._transport is not None:
            self._transport.abort()

    def drain(self) -> None:
        """Close it now when it is idle; a stream ends behind what is under way."""
        if self._stream is not None:
            self._stream.fail(
                SentinelError(
                    ErrorCode.DRAINING,
                    at="server",
                    expected="one that takes requests",
                    got="one that is stopping",
                )
            )
        if not self.is_busy and not self._is_in_message and self._transport is not None:
            self._transport.close()

    def _start(self, request: HttpRequest, keeps: bool) -> None:
        self._current = (request, keeps)
        self.deadline_s = _NEVER
        request.unread_s = self._unread_s
        result = attempt(partial(self._door.handler, request), at="door")
        if isinstance(result, SentinelError):
            self._respond(error_response(result))
        elif result is not None:
            self._respond(result)

    def _respond(self, response: HttpResponse) -> None:
        if self._current is None or self._transport is None:
            return
        (request, keeps), self._current = self._current, None
        request.on_abandon = None  # or the request and its work would hold each other
        keeps = keeps and not response.closes and not self._door.is_draining
        if not keeps and not response.closes:
            response = _closing(response)
        now_s = time.monotonic()
        self.deadline_s = now_s + bounds.CONNECTION_IDLE_S_MAX
        is_head = request.head.method == b"HEAD"
        self._transport.write(response.encode(self._door.date, is_head=is_head))
        if not keeps:
            self._transport.close()
            return
        if response.is_paced:
            self._door.pace.refused(self, now_s)
        if not self._is_paused:
            self._follow()

    def _follow(self) -> None:
        """Take the next request that waits."""
        if self._transport is None:
            return
        if self._waiting:
            following = self._waiting.popleft()
            if not self._waiting and not self._is_held:
                self._transport.resume_reading()
            self._start(*following)
        elif self._is_discarding:
            self._transport.close()

    def _note(self, code: ErrorCode, at: str, expected: str, got: object) -> None:
        """Remember the first fault; the parser must not be left in the middle of a call."""
        if self._fault is None:
            self._fault = SentinelError(code, at=at, expected=expected, got=got)

    def _refuse(self, code: ErrorCode, at: str, expected: str, got: object) -> None:
        self._end_with(SentinelError(code, at=at, expected=expected, got=got))

    def _end_with(self, error: SentinelError) -> None:
        """Say why, then read for a while without looking: a reset would swallow the answer."""
        self._is_discarding = True
        self._fault = error
        if self._transport is None or self._transport.is_closing():
            return
        if self._stream is not None:
            self._stream.fail(error)
            return
        if self.is_busy:
            # The one before it is still owed its answer, which closes the connection.
            return
        response = error_response(error, closes=True)
        is_head = self._is_head_done and self._parser.get_method() == b"HEAD"
        self._transport.write(response.encode(self._door.date, is_head=is_head))
        self.deadline_s = time.monotonic() + _LINGER_S
        if self._transport.can_write_eof():
            self._transport.write_eof()

    def _reset(self) -> None:
        self._chunk = b""
        self._url: bytes = b""
        self._headers: dict[bytes, bytes] = {}
        self._body: list[bytes] = []
        self._n_body = 0
        self._head_bytes: int = 0
        self._is_head_done = False
        self._is_in_message = False
        self._is_streaming = False


def _meant(error: httptools.HttpParserError, *, is_head_done: bool) -> tuple[str, str]:
    """Say where the parser stopped, and what belongs there."""
    if isinstance(
        error, (httptools.HttpParserInvalidMethodError, httptools.HttpParserInvalidURLError)
    ):
        return "request", "a request line of HTTP/1.1"
    if is_head_done:
        return "body", "a body as its head says, of HTTP/1.1"
    return "head", "a head of HTTP/1.1"


def _split(url: bytes) -> tuple[bytes, bytes]:
    """Split a target in origin or absolute form into path and query, as they came."""
    if not url.startswith(b"/"):
        rest = url.partition(b"://")[2]
        slash = rest.find(b"/")
        url = rest[slash:] if slash >= 0 else url
    path, _, query = url.partition(b"?")
    return path, query


def _closing(response: HttpResponse) -> HttpResponse:
    return HttpResponse(
        response.status, response.body, response.content_type, response.headers, closes=True
    )
