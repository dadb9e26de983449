"""A load on an HTTP server: on a fixed schedule, by clients with deadlines and retries.

The load is *open*: try ``i`` is due at ``start + i / rate`` whether or not the server has answered
the ones before it, and its latency counts from then, so a server that stalls cannot slow down the
clock that it is measured with (coordinated omission). A due try takes a free connection, or opens
one up to a bound; a try that finds none in time was never sent, and counts as such.

Polite clients wait for what ``Retry-After`` says, and try at most twice more. Rude ones try again
at once. Each try is told the time it has left, as a proxy would, in whole hundredths of a second.

:func:`saturate` is the closed load that finds a capacity: each connection asks when it is answered.
:func:`put_load_by_processes` shares one schedule out, for more than one process can send.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
import json
import multiprocessing
import time
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, field, fields, replace
from multiprocessing.connection import Connection
from typing import cast

import uvloop

_TICK_S = 0.001
_SWEEP_S = 0.05
# How long after its deadline a client hangs up: sooner, and a slow machine would measure how fast
# connections are opened.
_PATIENCE_S = 1.0
_REFUSED = frozenset({429, 503})
_RETRY_S_MAX = 30
_TOLD_MS = 10
_HEADS_MAX = 1_024
_NUMBERS_APART = 10_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Traffic:
    """What is sent, and where to.

    Attributes
    ----------
    port : int
        On 127.0.0.1.
    path : str
    body : callable
        Takes the number of a request, 0 or more; returns its body.
    content_type : str
    token : str
        Bearer token; empty: none is sent.
    source : str
        Address that connections come from, in 127.0.0.0/8.
    """

    port: int
    path: str
    body: Callable[[int], bytes]
    content_type: str = "application/json"
    token: str = ""
    source: str = "127.0.0.1"

    def write(self, number: int, *, timeout_ms: int) -> bytes:
        """Write a whole request."""
        body = self.body(number)
        return self.head(len(body), timeout_ms) + body

    def head(self, n_body: int, timeout_ms: int) -> bytes:
        """Write what stands before a body of so many bytes."""
        head = (
            f"POST {self.path} HTTP/1.1\r\nhost: load\r\ncontent-type: {self.content_type}\r\n"
            f"content-length: {n_body}\r\nsentinel-timeout-ms: {timeout_ms}\r\n"
        )
        if self.token:
            head += f"authorization: Bearer {self.token}\r\n"
        return head.encode() + b"\r\n"


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule:
    """How much, how long, by which kind of client.

    Attributes
    ----------
    rate : float
        Requests a second, retries not counted.
    seconds : float
    deadline_ms : int
        Of each try, from the instant it was due.
    retries_max : int
    is_rude : bool
        Tries again at once, whatever ``Retry-After`` says.
    connections_max : int
    connection_wait_ms : int or None
        How long a try waits for a free connection; None: until its deadline, which sends those
        first that have no time left.
    is_connected_first : bool
        All connections stand before the first request is due.
    """

    rate: float
    seconds: float
    deadline_ms: int = 1_000
    retries_max: int = 2
    is_rude: bool = False
    connections_max: int = 256
    connection_wait_ms: int | None = None
    is_connected_first: bool = False


@dataclass(slots=True)
class LoadReport:
    """What came of a schedule.

    ``n_good + n_late + n_refused + n_failed + n_lost + n_unsent = n_due`` always.

    Attributes
    ----------
    n_due : int
        Requests of the schedule.
    n_good : int
        Answered 200 by the deadline.
    n_late : int
        Answered 200 after it, or ``deadline-passed``.
    n_refused : int
        Given up after 429 or 503.
    n_failed : int
        Answered with anything else.
    n_lost : int
        The connection ended, or the client hung up, before an answer.
    n_unsent : int
        No connection was free in time.
    n_tries : int
        Sent, retries included.
    by_status : Counter of int
        Answers, those to retries included.
    ill_formed : list of str
        Refusals that are not as they must be: the first ten.
    retry_after : Counter of int
        What refusals said.
    latencies_s : list of float
        Of admitted requests (status 200), from the instant the try was due.
    good_at_s : list of float
        When good answers came, from the start.
    """

    n_due: int = 0
    n_good: int = 0
    n_late: int = 0
    n_refused: int = 0
    n_failed: int = 0
    n_lost: int = 0
    n_unsent: int = 0
    n_tries: int = 0
    by_status: Counter[int] = field(default_factory=Counter)
    ill_formed: list[str] = field(default_factory=list)
    retry_after: Counter[int] = field(default_factory=Counter)
    latencies_s: list[float] = field(default_factory=list)
    good_at_s: list[float] = field(default_factory=list)

    @property
    def is_balanced(self) -> bool:
        """Whether every request has exactly one end."""
        ends = self.n_good + self.n_late + self.n_refused + self.n_failed
        return ends + self.n_lost + self.n_unsent == self.n_due

    def add(self, other: LoadReport) -> None:
        """Add what came of another part of the same schedule."""
        for name in _COUNTS:
            setattr(self, name, getattr(self, name) + getattr(other, name))

    def latency_s(self, share: float) -> float:
        """Return a quantile of the admitted requests' latencies; 0.0 where there are none."""
        ranked = sorted(self.latencies_s)
        return ranked[min(len(ranked) - 1, int(share * len(ranked)))] if ranked else 0.0


_COUNTS = tuple(each.name for each in fields(LoadReport))


@dataclass(slots=True, order=True)
class _Try:
    due_s: float
    number: int
    n_retries: int = 0


class _Link(asyncio.Protocol):
    """One connection with at most one request in flight."""

    __slots__ = ("_buffer", "_run", "asked", "is_closing", "transport")

    def __init__(self, run: _Run) -> None:
        self._run = run
        self._buffer = b""
        self.asked: _Try | None = None
        self.is_closing = False
        self.transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)
        self._run.joined(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self.is_closing = True
        self._run.left(self)

    def data_received(self, data: bytes) -> None:
        buffer = self._buffer + data if self._buffer else data
        end = buffer.find(b"\r\n\r\n")
        if end < 0:
            self._buffer = buffer
            return
        head = buffer[:end].lower()
        length = _value(head, b"content-length")
        if len(buffer) < end + 4 + int(length or 0):
            self._buffer = buffer
            return
        if self._buffer:
            self._buffer = b""
        if b"\r\nconnection: close" in head:
            self.is_closing = True
        self._run.answered(self, int(head[9:12]), head, buffer[end + 4 :])


class _Run:
    """One load, in one event loop."""

    def __init__(self, traffic: Traffic, schedule: Schedule, *, is_closed: bool) -> None:
        self.report = LoadReport()
        self._traffic = traffic
        self._schedule = schedule
        self._is_closed = is_closed
        self._deadline_s = schedule.deadline_ms / 1000
        wait_ms = schedule.connection_wait_ms
        self._wait_s = (schedule.deadline_ms if wait_ms is None else wait_ms) / 1000
        self._heads: dict[tuple[int, int], bytes] = {}
        self._numbers = itertools.count()
        self._links: set[_Link] = set()
        self._free: list[_Link] = []
        self._n_opening = 0
        # Tries that wait for a connection: retries, and those of a closed load; then those of the
        # schedule, which are a number until they are sent.
        self._waiting: deque[_Try] = deque()
        self._place = 0
        self._retries: list[_Try] = []
        self._start_s = 0.0

    async def run(self, *, first_number: int) -> LoadReport:
        self._numbers = itertools.count(first_number)
        if self._schedule.is_connected_first:
            await self._connect()
        self._start_s = time.monotonic()
        end_s = self._start_s + self._schedule.seconds
        swept_s = 0.0
        while True:
            now_s = time.monotonic()
            is_over = now_s >= end_s
            self._take_due(now_s)
            self._send_waiting(now_s)
            if now_s - swept_s >= _SWEEP_S:
                swept_s = now_s
                self._hang_up(now_s)
            if is_over and not self._n_in_the_air():
                break
            await asyncio.sleep(_TICK_S)
        for link in list(self._links):
            if link.transport is not None:
                link.transport.abort()
        await asyncio.sleep(0)
        return self.report

    # --- what links tell -----------------------------------------------------------------------

    def joined(self, link: _Link) -> None:
        self._n_opening -= 1
        self._links.add(link)
        self._free.append(link)
        self._send_waiting(time.monotonic())

    def left(self, link: _Link) -> None:
        self._links.discard(link)
        asked, link.asked = link.asked, None
        if asked is not None:
            self.report.n_lost += 1

    def answered(self, link: _Link, status: int, head: bytes, body: bytes) -> None:
        asked, link.asked = link.asked, None
        now_s = time.monotonic()
        if asked is None:
            self.report.ill_formed.append("an answer that nobody asked for")
            return
        self._judge(asked, status, head, body, now_s)
        if link.is_closing:
            return
        self._free.append(link)
        self._send_waiting(now_s)

    # --- private -------------------------------------------------------------------------------

    def _n_in_the_air(self) -> int:
        n_asked = sum(link.asked is not None for link in self._links)
        return n_asked + self._n_waiting() + len(self._retries)

    def _n_waiting(self) -> int:
        n_due = 0 if self._is_closed else self.report.n_due - self._place
        return len(self._waiting) + n_due

    def _take_due(self, now_s: float) -> None:
        elapsed_s = now_s - self._start_s
        if not self._is_closed:
            n_due = int(min(elapsed_s, self._schedule.seconds) * self._schedule.rate)
        elif elapsed_s < self._schedule.seconds:
            n_due = self.report.n_due + len(self._free) + self._n_room()
        else:
            n_due = self.report.n_due
        if self._is_closed:
            for _ in range(self.report.n_due, n_due):
                self._waiting.append(_Try(now_s, next(self._numbers)))
        self.report.n_due = max(self.report.n_due, n_due)
        while self._retries and self._retries[0].due_s <= now_s:
            self._waiting.append(heapq.heappop(self._retries))

    def _n_room(self) -> int:
        return self._schedule.connections_max - len(self._links) - self._n_opening

    def _send_waiting(self, now_s: float) -> None:
        if self._is_closed and not self._waiting and self._free:
            self._take_due(now_s)
        self._give_up(now_s)
        while self._free and self._n_waiting():
            link = self._free.pop()
            if not link.is_closing:
                self._send(link, self._next(), now_s)
        for _ in range(min(self._n_waiting() - self._n_opening, self._n_room())):
            self._n_opening += 1
            task = asyncio.ensure_future(self._open())
            task.add_done_callback(lambda done: done.cancelled() or done.exception())

    def _give_up(self, now_s: float) -> None:
        """Count what found no connection in time."""
        while self._waiting and now_s >= self._waiting[0].due_s + self._wait_s:
            self._waiting.popleft()
            self.report.n_unsent += 1
        if not self._is_closed:
            n_over = int((now_s - self._wait_s - self._start_s) * self._schedule.rate)
            n_more = max(0, min(n_over, self.report.n_due) - self._place)
            self._place += n_more
            self.report.n_unsent += n_more

    def _next(self) -> _Try:
        if self._waiting:
            return self._waiting.popleft()
        due_s = self._start_s + self._place / self._schedule.rate
        self._place += 1
        return _Try(due_s, next(self._numbers))

    async def _connect(self) -> None:
        """Open all connections, some at a time, as a backlog is bounded."""
        while self._n_room() > 0:
            n_more = min(self._n_room(), 128)
            self._n_opening += n_more
            await asyncio.gather(*(self._open() for _ in range(n_more)))

    async def _open(self) -> None:
        source = self._traffic.source
        try:
            await asyncio.get_running_loop().create_connection(
                lambda: _Link(self),
                "127.0.0.1",
                self._traffic.port,
                local_addr=None if source == "127.0.0.1" else (source, 0),
            )
        except OSError:
            self._n_opening -= 1

    def _send(self, link: _Link, asked: _Try, now_s: float) -> None:
        link.asked = asked
        self.report.n_tries += 1
        left_ms = int((asked.due_s + self._deadline_s - now_s) * 1000)
        left_ms = left_ms - left_ms % _TOLD_MS or max(1, left_ms)
        body = self._traffic.body(asked.number)
        head = self._heads.get((len(body), left_ms))
        if head is None:
            if len(self._heads) >= _HEADS_MAX:
                self._heads.clear()
            head = self._heads[len(body), left_ms] = self._traffic.head(len(body), left_ms)
        if link.transport is not None:
            link.transport.write(head + body)

    def _judge(self, asked: _Try, status: int, head: bytes, body: bytes, now_s: float) -> None:
        report = self.report
        report.by_status[status] += 1
        if status == 200:
            report.latencies_s.append(now_s - asked.due_s)
            if now_s <= asked.due_s + self._deadline_s:
                report.n_good += 1
                report.good_at_s.append(now_s - self._start_s)
            else:
                report.n_late += 1
        elif status in _REFUSED:
            self._refused(asked, head, body, now_s)
        elif status == 504:
            report.n_late += 1
        else:
            report.n_failed += 1

    def _refused(self, asked: _Try, head: bytes, body: bytes, now_s: float) -> None:
        retry_s, fault = judge_refusal(head, body)
        self.report.retry_after[retry_s] += 1
        if fault and len(self.report.ill_formed) < 10:
            self.report.ill_formed.append(fault)
        if asked.n_retries >= self._schedule.retries_max:
            self.report.n_refused += 1
            return
        due_s = now_s if self._schedule.is_rude else now_s + retry_s
        heapq.heappush(self._retries, _Try(due_s, asked.number, asked.n_retries + 1))

    def _hang_up(self, now_s: float) -> None:
        for link in list(self._links):
            asked = link.asked
            if asked is not None and now_s > asked.due_s + self._deadline_s + _PATIENCE_S:
                link.is_closing = True
                if link.transport is not None:
                    link.transport.abort()


def judge_refusal(head: bytes, body: bytes) -> tuple[int, str]:
    r"""Return what a refusal's ``Retry-After`` says, and what is wrong with the refusal.

    Parameters
    ----------
    head : bytes
        Status line and headers, in lower case.
    body : bytes

    Examples
    --------
    >>> body = b'{"error": "no room", "code": "overloaded"}'
    >>> judge_refusal(b"http/1.1 429 x\r\nretry-after: 2", body)
    (2, '')
    >>> judge_refusal(b"http/1.1 429 x", body)
    (1, 'no usable Retry-After')
    """
    text = _value(head, b"retry-after")
    is_usable = text is not None and text.isdigit() and 1 <= int(text) <= _RETRY_S_MAX
    retry_s = int(text) if is_usable and text is not None else 1
    fault = "" if is_usable else "no usable Retry-After"
    try:
        document = json.loads(body)
    except ValueError:
        return retry_s, "a body that is no JSON"
    if not isinstance(document, dict) or not {"error", "code"} <= set(document):
        fault = "a body without error and code"
    return retry_s, fault


def _value(head: bytes, name: bytes) -> bytes | None:
    """Find a header in a head in lower case."""
    at = head.find(b"\r\n" + name + b": ")
    if at < 0:
        return None
    start = at + len(name) + 4
    end = head.find(b"\r\n", start)
    return head[start:] if end < 0 else head[start:end]


def put_load(traffic: Traffic, schedule: Schedule, *, first_number: int = 0) -> LoadReport:
    """Send a schedule, and wait for the end of its last request.

    Parameters
    ----------
    traffic : Traffic
    schedule : Schedule
    first_number : int
        Number of the first request; each further one has the next.
    """
    return uvloop.run(_Run(traffic, schedule, is_closed=False).run(first_number=first_number))


def put_load_by_processes(traffic: Traffic, schedule: Schedule, *, n_processes: int) -> LoadReport:
    """Send a schedule by several processes, each an equal share of it.

    Parameters
    ----------
    traffic : Traffic
    schedule : Schedule
    n_processes : int
        Each has its own numbers of requests, ten million apart.
    """
    share = replace(
        schedule,
        rate=schedule.rate / n_processes,
        connections_max=schedule.connections_max // n_processes,
    )
    context = multiprocessing.get_context("fork")
    links, processes = [], []
    for number in range(n_processes):
        receiver, sender = context.Pipe(duplex=False)

        def work(number: int = number, sender: Connection = sender) -> None:
            sender.send(put_load(traffic, share, first_number=number * _NUMBERS_APART))

        process = context.Process(target=work)
        process.start()
        sender.close()
        links.append(receiver)
        processes.append(process)
    report = LoadReport()
    for link, process in zip(links, processes, strict=True):
        report.add(link.recv())
        process.join()
    return report


async def put_load_async(
    traffic: Traffic, schedule: Schedule, *, first_number: int = 0
) -> LoadReport:
    """Do as :func:`put_load` does, in a loop that runs: several at once."""
    return await _Run(traffic, schedule, is_closed=False).run(first_number=first_number)


def saturate(
    traffic: Traffic,
    *,
    connections: int,
    seconds: float,
    first_number: int = 0,
    deadline_ms: int = 1_000,
) -> LoadReport:
    """Ask on every connection again as soon as it is answered.

    The capacity is ``report.n_good / seconds``.
    """
    schedule = Schedule(
        rate=0.0,
        seconds=seconds,
        deadline_ms=deadline_ms,
        retries_max=0,
        connections_max=connections,
    )
    return uvloop.run(_Run(traffic, schedule, is_closed=True).run(first_number=first_number))
