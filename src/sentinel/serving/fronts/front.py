"""A front: the doors, and nothing that knows a model.

It connects to the scoring process, learns what is served, opens its doors at the shared ports and
translates. When the scoring process ends, its doors stay open: it answers 503, is not ready, and
connects again; the socket's listener belongs to the supervisor, so a connection waits there for the
next scoring process.
"""

from __future__ import annotations

import asyncio
import functools
import logging
import signal
import socket
import time
from contextlib import AsyncExitStack

from sentinel.core import limits
from sentinel.serving.doors.access import Access
from sentinel.serving.doors.grpc_door import GrpcDoor
from sentinel.serving.doors.http_connection import HttpDoor
from sentinel.serving.doors.http_routes import HttpRoutes
from sentinel.serving.doors.listening import listen
from sentinel.serving.doors.renewal import Renewal
from sentinel.serving.doors.tls import Tls
from sentinel.serving.fronts.control import Job, ParentLine, Started
from sentinel.serving.fronts.link import Link
from sentinel.serving.fronts.ports import socket_path
from sentinel.serving.fronts.remote_plane import RemotePlane
from sentinel.serving.fronts.wire import FROM_SCORING, About, Counted, FromScoring, Hello

_LOG = logging.getLogger("sentinel.serving.fronts")
_SWEEP_S = 1.0
_AGAIN_S = 0.1


class Front:
    """One front, from its start to its end.

    Parameters
    ----------
    job : Job
    control : socket
        The line to the parent.
    rest : bytes
        What came behind the job.

    Raises
    ------
    SentinelError
        ``tokens-invalid``, ``configuration-invalid``, and what reading files raises.
    """

    def __init__(self, job: Job, control: socket.socket, rest: bytes) -> None:
        settings = job.settings
        self._job = job
        self._control = control
        self._rest = rest
        self._access = Access({}) if settings.tokens is None else Access.read(settings.tokens)
        self._access.add_own(job.own.token)
        self._tls = Tls.of(settings, job.own)
        self._renewal = Renewal()
        if self._tls is not None:
            self._renewal.watch("TLS", self._tls.paths, self._tls.renew)
        if settings.tokens is not None:
            tokens = settings.tokens
            self._renewal.watch(
                "tokens", (tokens,), lambda: self._access.replace(Access.read(tokens))
            )
        self._stop = asyncio.Event()
        self._is_hurried = False
        self._is_open = False
        self._link: Link[FromScoring] | None = None
        self._plane: RemotePlane | None = None
        self._about: asyncio.Future[RemotePlane] | None = None
        self._said: tuple[dict[int, int], dict[int, int], float] = ({}, {}, 0.0)

    async def run(self) -> None:
        """Open the doors, translate, and end in order.

        Raises
        ------
        SentinelError
            ``address-unusable``.
        """
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._end)
        loop.add_signal_handler(signal.SIGHUP, self._renewal.now)
        parent = ParentLine(lambda: True, self._end_now)
        await parent.open(self._control, self._rest)
        self._about = loop.create_future()
        async with AsyncExitStack() as stack:
            connecting = asyncio.ensure_future(self._stay_connected())
            stack.callback(connecting.cancel)
            stopping = asyncio.ensure_future(self._stop.wait())
            stack.callback(stopping.cancel)
            await asyncio.wait((self._about, stopping), return_when=asyncio.FIRST_COMPLETED)
            if self._about.done():
                await self._serve(self._about.result(), parent, stack)

    # --- private -----------------------------------------------------------------------------

    async def _serve(self, plane: RemotePlane, parent: ParentLine, stack: AsyncExitStack) -> None:
        settings, tls = self._job.settings, self._tls
        routes = HttpRoutes(plane, self._access, timeout_ms=settings.timeout_ms)
        door = HttpDoor(routes, open_stream=routes.open_stream)
        calls = GrpcDoor(plane, self._access, timeout_ms=settings.timeout_ms)
        context = None if tls is None else tls.context
        listener = await listen(
            door, settings.host, settings.http_port, tls=context, is_shared=True
        )
        stack.callback(listener.close)
        await calls.start(settings, tls, is_shared=True)
        stack.push_async_callback(calls.stop, grace_s=0.0)
        sweeper = asyncio.ensure_future(self._sweep(door, routes))
        stack.callback(sweeper.cancel)
        self._is_open = True
        self._greet()
        parent.say(Started())
        await self._stop.wait()
        await self._drain(plane, listener, door, calls)
        self._count(routes)
        await asyncio.sleep(0)  # the counts are written at the end of a turn

    async def _stay_connected(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            ended = asyncio.Event()
            link = self._new_link(ended)
            try:
                path = socket_path(self._job.run_folder)
                await loop.create_unix_connection(functools.partial(_same, link), path)
            except OSError as error:
                _LOG.warning("no scoring process", extra={"cause": str(error)})
            else:
                self._link = link
                self._greet()
                await ended.wait()
                self._link = None
                if self._plane is not None:
                    self._plane.detach()
                _LOG.warning("the scoring process has gone", extra={"front": self._job.number})
            await asyncio.sleep(_AGAIN_S)

    def _new_link(self, ended: asyncio.Event) -> Link[FromScoring]:
        def lost(_: Link[FromScoring]) -> None:
            ended.set()

        return Link(FROM_SCORING, self._hear, lost)

    def _greet(self) -> None:
        if self._link is not None:
            self._link.say(Hello(self._job.number, self._is_open))

    def _hear(self, link: Link[FromScoring], message: FromScoring) -> None:
        plane = self._plane
        if plane is None:
            if isinstance(message, About) and self._about is not None:
                self._plane = plane = RemotePlane(message)
                plane.attach(link, message)
                self._about.set_result(plane)
        elif isinstance(message, About):
            plane.attach(link, message)
        else:
            plane.hear(message)

    async def _sweep(self, door: HttpDoor, routes: HttpRoutes) -> None:
        while True:
            door.sweep()
            self._renewal.tick()
            self._count(routes)
            await asyncio.sleep(_SWEEP_S)

    def _count(self, routes: HttpRoutes) -> None:
        """Say what was counted since the last time; what nobody hears is said the next time."""
        if self._link is None or not self._link.is_open:
            return
        statuses, places, total_s = self._said
        now_statuses, now_places = dict(routes.n_by_status), dict(routes.seconds.counted())
        now_total_s = routes.seconds.total_s
        by_status = {
            status: n - statuses.get(status, 0)
            for status, n in now_statuses.items()
            if n != statuses.get(status, 0)
        }
        if not by_status:
            return
        seconds = [
            (place, n - places.get(place, 0))
            for place, n in now_places.items()
            if n != places.get(place, 0)
        ]
        self._link.say(Counted(by_status, seconds, now_total_s - total_s))
        self._said = (now_statuses, now_places, now_total_s)

    def _end(self) -> None:
        self._is_hurried = self._stop.is_set()
        self._stop.set()

    def _end_now(self) -> None:
        """End at once: nobody would start the others again."""
        self._is_hurried = True
        self._stop.set()

    async def _drain(
        self, plane: RemotePlane, listener: asyncio.Server, door: HttpDoor, calls: GrpcDoor
    ) -> None:
        plane.is_draining = True
        notice_until_s = time.monotonic() + self._job.settings.drain_notice_s
        while not self._is_hurried and time.monotonic() < notice_until_s:
            await asyncio.sleep(0.02)
        listener.close()
        door.drain()
        await calls.stop(grace_s=limits.REQUEST_TIMEOUT_MS_DEFAULT / 1000)
        await door.end(wait_s_max=limits.DRAIN_S_MAX)


def _same(link: Link[FromScoring]) -> Link[FromScoring]:
    return link
