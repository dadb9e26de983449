"""Metrics, health and what operators do, on a port and a thread of their own.

They answer however busy the doors are. What changes the server is never on the doors' ports.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from concurrent.futures import Future

import uvloop

from sentinel.core.errors import ErrorCode, SentinelError
from sentinel.serving import bounds
from sentinel.serving.doors.access import Access
from sentinel.serving.doors.health_route import health_response
from sentinel.serving.doors.http_connection import HttpDoor
from sentinel.serving.doors.http_message import HttpRequest, HttpResponse, route_unknown
from sentinel.serving.doors.http_routes import HttpRoutes, probe
from sentinel.serving.doors.listening import listen
from sentinel.serving.doors.operator_routes import PREFIX, OperatorRoutes
from sentinel.serving.plane import Plane

_START_S_MAX = 10.0
_CONNECTIONS_MAX = 256
_SWEEP_S = 1.0
# Answers of probes, by whether it holds.
_LIVE = {holds: probe("live", holds) for holds in (True, False)}
_READY = {holds: probe("ready", holds) for holds in (True, False)}


class Operations:
    """The operations loop.

    Parameters
    ----------
    plane : Plane
    routes : HttpRoutes
        Whose counts are exported.
    operator : OperatorRoutes
        What changes the server.
    access : Access
    """

    def __init__(
        self, plane: Plane, routes: HttpRoutes, operator: OperatorRoutes, access: Access
    ) -> None:
        self._plane = plane
        self._operator = operator
        self._access = access
        self._routes = routes
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._stop = asyncio.Event()
        plane.metrics.watch_requests(routes.seconds)
        batcher = plane.batcher
        plane.metrics.watch_stage("parse", batcher.parse_seconds)
        plane.metrics.watch_stage("queue", batcher.queue_seconds)
        plane.metrics.watch_stage("answer", batcher.answer_seconds)
        plane.metrics.before_scrape(self._show)

    def start(self, host: str, port: int) -> int:
        """Listen; return the port.

        Raises
        ------
        SentinelError
            ``address-unusable``.
        """
        found: Future[int] = Future()
        self._thread = threading.Thread(
            target=lambda: uvloop.run(self._run(host, port, found)),
            name="operations",
            daemon=True,
        )
        self._thread.start()
        return found.result(_START_S_MAX)

    def stop(self) -> None:
        """End the loop."""
        if self._loop is not None and self._thread is not None and self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._stop.set)
            self._thread.join(bounds.DOOR_CANARY_WAIT_S)

    # --- private -----------------------------------------------------------------------------

    async def _run(self, host: str, port: int, found: Future[int]) -> None:
        self._loop = asyncio.get_running_loop()
        self._operator.attach(self._loop)
        door = HttpDoor(self._answer, connections_max=_CONNECTIONS_MAX)
        try:
            listener = await listen(door, host, port)
        except SentinelError as error:
            found.set_exception(error)
            return
        found.set_result(listener.sockets[0].getsockname()[1])
        while not self._stop.is_set():
            door.sweep()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stop.wait(), _SWEEP_S)
        door.drain()
        listener.close()
        self._operator.close()

    def _answer(self, request: HttpRequest) -> HttpResponse | None:
        if request.path.startswith(PREFIX):
            return self._operator(request)
        if request.method not in {b"GET", b"HEAD"}:
            raise SentinelError(
                ErrorCode.METHOD_UNSUPPORTED,
                at="request",
                expected="GET",
                got=request.method.decode("ascii", "replace"),
            )
        report = self._plane.health()
        if request.path == b"/v2/health/ready":
            return _READY[report.is_ready]
        if request.path == b"/v2/health/live":
            return _LIVE[report.is_live]
        if request.path == b"/metrics":
            accept = request.headers.get(b"accept", b"").decode("latin-1")
            text, content_type = self._plane.metrics.exposition(accept)
            return HttpResponse(200, text, content_type.encode())
        if request.path == b"/v1/health":
            return health_response(report, request, self._access)
        raise route_unknown()

    def _show(self) -> None:
        """Bring in what is counted elsewhere, at a scrape."""
        metrics, state = self._plane.metrics, self._plane.load()
        for status, n in list(self._routes.n_by_status.items()):
            metrics.advance("sentinel_responses_total", n, status=str(status))
        for code, n in state.n_refused.items():
            metrics.advance("sentinel_queue_refused_total", n, code=code)
        metrics.advance("sentinel_batches_total", state.n_batches)
        metrics.advance("sentinel_rows_scored_total", state.n_rows_scored)
        metrics.advance("sentinel_answers_late_total", state.n_late)
        metrics.put("sentinel_queue_rows", state.n_rows)
        metrics.put("sentinel_ready", float(self._plane.health().is_ready))
