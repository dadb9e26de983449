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
import socket
from contextlib import AsyncExitStack

from sentinel.serving.doors.doorway import Doorway
from sentinel.serving.doors.http_routes import HttpRoutes
from sentinel.serving.fronts.control import Job, ParentLine, Started
from sentinel.serving.fronts.link import Link
from sentinel.serving.fronts.ports import socket_path
from sentinel.serving.fronts.remote_plane import RemotePlane
from sentinel.serving.fronts.wire import FROM_SCORING, About, Counted, FromScoring, Hello

_LOG = logging.getLogger("sentinel.serving.fronts")
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
        self._job = job
        self._control = control
        self._rest = rest
        self._doorway = Doorway(job.settings, job.own)
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
        self._doorway.watch_signals()
        # Without a parent the end is at once: nobody would start the others again.
        parent = ParentLine(lambda: True, self._doorway.stop_now)
        await parent.open(self._control, self._rest)
        self._about = loop.create_future()
        async with AsyncExitStack() as stack:
            connecting = asyncio.ensure_future(self._stay_connected())
            stack.callback(connecting.cancel)
            stopping = asyncio.ensure_future(self._doorway.stopping.wait())
            stack.callback(stopping.cancel)
            await asyncio.wait((self._about, stopping), return_when=asyncio.FIRST_COMPLETED)
            if self._about.done():
                await self._serve(self._about.result(), parent, stack)

    # --- private -----------------------------------------------------------------------------

    async def _serve(self, plane: RemotePlane, parent: ParentLine, stack: AsyncExitStack) -> None:
        doorway = self._doorway
        routes = HttpRoutes(plane, doorway.access, timeout_ms=self._job.settings.timeout_ms)
        doors = await doorway.open(stack, plane, routes, is_shared=True)
        sweeping = asyncio.ensure_future(doorway.sweep(doors.sweep, lambda: self._count(routes)))
        stack.callback(sweeping.cancel)
        self._is_open = True
        self._greet()
        parent.say(Started())
        await doorway.stopping.wait()
        plane.is_draining = True
        await doorway.drain(doors)
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


def _same(link: Link[FromScoring]) -> Link[FromScoring]:
    return link
