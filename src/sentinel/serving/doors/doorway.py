"""The way in of one process: who may come, TLS, what is renewed, when it ends; and both doors.

A server of one process and a front differ in what stands behind their doors, and in nothing here.
A scoring process behind fronts has a doorway, and opens no doors.
"""

from __future__ import annotations

import asyncio
import signal
import threading
import time
from collections.abc import Callable
from contextlib import AsyncExitStack

from sentinel.core import limits
from sentinel.serving import bounds
from sentinel.serving.batching.gate import Gate
from sentinel.serving.door_plane import DoorPlane
from sentinel.serving.doors.access import Access
from sentinel.serving.doors.grpc_door import GrpcDoor
from sentinel.serving.doors.http_connection import HttpDoor
from sentinel.serving.doors.http_routes import HttpRoutes
from sentinel.serving.doors.listening import listen
from sentinel.serving.doors.renewal import Renewal
from sentinel.serving.doors.tls import OwnClient, Tls
from sentinel.serving.settings import ServerSettings

_SWEEP_S = 1.0


class Doors:
    """Both doors, open.

    Attributes
    ----------
    http_port, grpc_port : int
    """

    def __init__(
        self, listener: asyncio.Server, http: HttpDoor, calls: GrpcDoor, grpc_port: int
    ) -> None:
        self._listener = listener
        self._http = http
        self._calls = calls
        self.http_port: int = listener.sockets[0].getsockname()[1]
        self.grpc_port = grpc_port

    def sweep(self) -> None:
        """Close what is too slow."""
        self._http.sweep()

    async def end(self) -> None:
        """Take nothing new, and answer what is in flight."""
        self._listener.close()
        self._http.drain()
        await self._calls.stop(grace_s=limits.REQUEST_TIMEOUT_MS_DEFAULT / 1000)
        await self._http.end(wait_s_max=bounds.DRAIN_S_MAX)


class Doorway:
    """What one process knows of who comes in, from its start to its end.

    Parameters
    ----------
    settings : ServerSettings
    own : OwnClient
        How the server comes through its own door.

    Raises
    ------
    SentinelError
        ``tokens-invalid``, ``configuration-invalid``, and what reading files raises.
    """

    def __init__(self, settings: ServerSettings, own: OwnClient) -> None:
        tokens = settings.tokens
        self.access = Access({}) if tokens is None else Access.read(tokens)
        self.access.add_own(own.token)
        self.tls = Tls.of(settings, own)
        self.renewal = Renewal()
        if self.tls is not None:
            self.renewal.watch("TLS", self.tls.paths, self.tls.renew)
        if tokens is not None:
            self.renewal.watch(
                "tokens", (tokens,), lambda: self.access.replace(Access.read(tokens))
            )
        self.stopping = asyncio.Event()  # set when the end begins
        self._is_hurried = False
        self._settings = settings

    async def open(
        self,
        stack: AsyncExitStack,
        plane: DoorPlane,
        routes: HttpRoutes,
        *,
        gate: Gate | None = None,
        is_shared: bool = False,
    ) -> Doors:
        """Open both doors.

        Raises
        ------
        SentinelError
            ``address-unusable``.
        """
        settings, tls = self._settings, self.tls
        door = HttpDoor(routes, open_stream=routes.open_stream)
        calls = GrpcDoor(plane, self.access, timeout_ms=settings.timeout_ms, gate=gate)
        context = None if tls is None else tls.context
        host, port = settings.host, settings.http_port
        listener = await listen(door, host, port, tls=context, is_shared=is_shared)
        stack.callback(listener.close)
        grpc_port = await calls.start(settings, tls, is_shared=is_shared)
        stack.push_async_callback(calls.stop, grace_s=0.0)
        return Doors(listener, door, calls, grpc_port)

    def watch_signals(self) -> None:
        """End on SIGTERM and SIGINT, renew on SIGHUP; only a main thread can hear of them."""
        if threading.current_thread() is threading.main_thread():
            loop = asyncio.get_running_loop()
            for number in (signal.SIGTERM, signal.SIGINT):
                loop.add_signal_handler(number, self.stop)
            loop.add_signal_handler(signal.SIGHUP, self.renewal.now)

    async def sweep(self, *also: Callable[[], None]) -> None:
        """Every second look at the files, and do something else."""
        while True:
            self.renewal.tick()
            for each in also:
                each()
            await asyncio.sleep(_SWEEP_S)

    def stop(self) -> None:
        """Begin the end; the second call hurries it."""
        self._is_hurried = self.stopping.is_set()
        self.stopping.set()

    def stop_now(self) -> None:
        """Begin the end, without a notice."""
        self._is_hurried = True
        self.stopping.set()

    async def drain(self, doors: Doors) -> None:
        """Take nothing new once the notice is over, and answer what is in flight."""
        notice_until_s = time.monotonic() + self._settings.drain_notice_s
        while not self._is_hurried and time.monotonic() < notice_until_s:
            await asyncio.sleep(0.02)
        await doors.end()
