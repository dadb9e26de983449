"""One server process: its threads, its listeners, its start and its end.

* the *main loop*: HTTP and gRPC doors; it only reads, queues and writes;
* the *scoring thread*: the scorer and nothing else (:mod:`sentinel.serving.batching.batcher`);
* the *operations loop*, a thread: metrics and health on a port of their own, which answer however
  busy the doors are;
* the *door canary*, a thread: asks the door and tells :class:`Health`.

The end (SIGTERM, SIGINT): readiness turns false; after a notice the doors take no new connection;
what is in flight is answered; the scoring thread scores what waits; state and log are closed. A
second signal skips the notice.
"""

from __future__ import annotations

import asyncio
import gc
import signal
import sys
import threading
import time
from collections.abc import Callable
from contextlib import AsyncExitStack, ExitStack
from dataclasses import dataclass

import uvloop

from sentinel.core import limits
from sentinel.core.configuration import Configuration
from sentinel.monitoring import Health as HealthWord
from sentinel.release import LoadedRelease
from sentinel.serving.allocator import keep_heap_small
from sentinel.serving.batching.batcher import Batcher
from sentinel.serving.batching.decision_memory import DecisionMemory
from sentinel.serving.batching.scoring_worker import ScoringWorker
from sentinel.serving.door_canary import DoorCanary, Finding, OwnDoor
from sentinel.serving.doors.access import Access
from sentinel.serving.doors.grpc_door import GrpcDoor
from sentinel.serving.doors.http_connection import HttpDoor
from sentinel.serving.doors.http_routes import HttpRoutes
from sentinel.serving.doors.listening import listen
from sentinel.serving.doors.operator_routes import OperatorRoutes
from sentinel.serving.doors.renewal import Renewal
from sentinel.serving.doors.tls import OwnClient, Tls
from sentinel.serving.health import Health
from sentinel.serving.opening import Opened, open_parts
from sentinel.serving.operations import Operations
from sentinel.serving.plane import Plane
from sentinel.serving.releases.release_source import ReleaseSource
from sentinel.serving.releases.swap import Swap
from sentinel.serving.releases.working_release import WorkingRelease
from sentinel.serving.settings import ServerSettings

_SWEEP_S = 1.0
_REHEARSAL = ("a rehearsal: event times are not held against the clock",)


@dataclass(frozen=True, slots=True)
class Addresses:
    """Where a server listens."""

    host: str
    http_port: int
    grpc_port: int
    metrics_port: int


def serve(
    loaded: LoadedRelease,
    settings: ServerSettings,
    configuration: Configuration,
    *,
    source: ReleaseSource | None = None,
    on_started: Callable[[Addresses, Plane], None] | None = None,
) -> None:
    """Serve until a signal ends it; call it in the main thread.

    Parameters
    ----------
    loaded : LoadedRelease
    settings : ServerSettings
    configuration : Configuration
    source : ReleaseSource, optional
        Where releases stand that may take over.
    on_started : callable, optional
        Told the addresses once the doors are open.

    Raises
    ------
    SentinelError
        ``address-unusable``, ``tokens-invalid``, and what opening the parts raises.
    """
    keep_heap_small()
    with ExitStack() as stack:
        opened = open_parts(loaded, settings, configuration, stack)
        server = Server(opened, settings, source=source)
        # What is loaded by now lives as long as the process: the collector need not look at it
        # again, which took tens of milliseconds in the middle of serving. The second time it learns
        # that nothing else is old: or it would let garbage in circles lie until there is a quarter
        # as much of it as of what is loaded.
        gc.collect()
        gc.freeze()
        gc.collect()
        # Thousands of requests under way are no garbage; looking at them took a sixth of the time.
        gc.set_threshold(limits.COLLECTOR_OBJECTS_MIN)
        sys.setswitchinterval(limits.INTERPRETER_SWITCH_S)
        uvloop.run(server.run(on_started))


class Server:
    """One server, from its start to its end.

    Parameters
    ----------
    opened : Opened
    settings : ServerSettings
    source : ReleaseSource, optional
        Where releases stand that may take over.
    own : OwnClient, optional
        How the server comes through its own door; None: a new way.
    """

    def __init__(
        self,
        opened: Opened,
        settings: ServerSettings,
        *,
        source: ReleaseSource | None = None,
        own: OwnClient | None = None,
    ) -> None:
        self._opened = opened
        self._settings = settings
        self._source = source
        self.swap: Swap | None = None
        self.routes: HttpRoutes | None = None
        self.operator: OperatorRoutes | None = None
        self._access = Access({}) if settings.tokens is None else Access.read(settings.tokens)
        self._own = own or OwnClient.make()
        self._tls = Tls.of(settings, self._own)
        self._renewal = Renewal()
        if self._tls is not None:
            self._renewal.watch("TLS", self._tls.paths, self._tls.renew)
        if settings.tokens is not None:
            tokens = settings.tokens
            self._renewal.watch(
                "tokens", (tokens,), lambda: self._access.replace(Access.read(tokens))
            )
        self._health = Health()
        self._stop = asyncio.Event()
        self._is_hurried = False

    async def run(self, on_started: Callable[[Addresses, Plane], None] | None = None) -> None:
        """Open the doors, serve, and end in order.

        Raises
        ------
        SentinelError
            ``address-unusable``.
        """
        loop = asyncio.get_running_loop()
        memory = DecisionMemory()
        release = WorkingRelease.of(self._opened.loaded, self._opened.scorer)
        worker = ScoringWorker(
            release,
            memory,
            is_prompt=self._opened.is_prompt,
            is_rehearsal=self._settings.is_rehearsal,
        )
        self._opened.metrics.watch_stage("encode", worker.encode_seconds)
        batcher = Batcher(worker, loop)
        plane = Plane(
            release,
            batcher,
            memory=memory,
            health=self._health,
            metrics=self._opened.metrics,
            explanations=self._opened.explanations,
        )
        self.swap = Swap(self._opened, plane, worker, loop, source=self._source)
        timeout_ms, gate = self._settings.timeout_ms, batcher.gate
        self.routes = routes = HttpRoutes(plane, self._access, timeout_ms=timeout_ms, gate=gate)
        self.operator = operator = OperatorRoutes(plane, self.swap, self._access)
        operations = Operations(plane, routes, operator)
        calls = GrpcDoor(plane, self._access, timeout_ms=timeout_ms, gate=gate)
        try:
            await self._serve(
                plane,
                self.swap,
                HttpDoor(routes, open_stream=routes.open_stream),
                calls,
                operations,
                on_started,
            )
        finally:
            self.swap.close()
            batcher.stop(wait_s_max=limits.DRAIN_S_MAX)
            operations.stop()

    def stop(self) -> None:
        """Begin the end; the second call hurries it."""
        self._is_hurried = self._stop.is_set()
        self._stop.set()

    def renew(self) -> None:
        """Read certificates and tokens again; in the thread of the door."""
        self._renewal.now()

    # --- private -----------------------------------------------------------------------------

    async def _serve(
        self,
        plane: Plane,
        swap: Swap,
        door: HttpDoor,
        calls: GrpcDoor,
        operations: Operations,
        on_started: Callable[[Addresses, Plane], None] | None,
    ) -> None:
        settings = self._settings
        async with AsyncExitStack() as stack:
            tls = self._tls
            context = None if tls is None else tls.context
            listener = await listen(door, settings.host, settings.http_port, tls=context)
            stack.callback(listener.close)
            grpc_port = await calls.start(settings, tls)
            stack.push_async_callback(calls.stop, grace_s=0.0)
            metrics_port = operations.start(settings.host, settings.metrics_port)
            port = listener.sockets[0].getsockname()[1]
            self._watch_signals()
            sweeper = asyncio.ensure_future(self._sweep(door))
            stack.callback(sweeper.cancel)
            canary = self._canary(plane, swap, port)
            swap.on_switch = canary.hurry
            canary.start()
            stack.callback(canary.stop)
            if on_started is not None:
                on_started(Addresses(settings.host, port, grpc_port, metrics_port), plane)
            await self._stop.wait()
            await self._drain(listener, door, calls)

    def _watch_signals(self) -> None:
        if threading.current_thread() is threading.main_thread():
            loop = asyncio.get_running_loop()
            for number in (signal.SIGTERM, signal.SIGINT):
                loop.add_signal_handler(number, self.stop)
            loop.add_signal_handler(signal.SIGHUP, self.renew)

    def _canary(self, plane: Plane, swap: Swap, port: int) -> DoorCanary:
        self._access.add_own(self._own.token)
        host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(self._settings.host, self._settings.host)  # noqa: S104 -- compared, not bound
        every_s = self._settings.canary_s
        always = _REHEARSAL if self._settings.is_rehearsal else ()

        def tell(finding: Finding) -> None:
            if finding.is_champion_wrong and finding.label == plane.current.label:
                scorer = plane.current.scorer
                plane.batcher.call(lambda: _check(scorer.check_canary))
            swap.judge(finding)
            plane.look(always + finding.degraded + swap.causes + self._renewal.causes)
            self._health.door_checked(finding.cause)
            plane.metrics.record_health(_word(plane))

        return DoorCanary(
            OwnDoor(
                host=host,
                port=port,
                token=self._own.token,
                tls=None if self._tls is None else self._tls.client_context,
            ),
            lambda: (plane.current.label, plane.canary),
            folders=self._opened.folders,
            tell=tell,
            every_s=lambda: min(every_s, limits.SWAP_CHECK_S) if swap.is_watching else every_s,
        )

    async def _sweep(self, door: HttpDoor) -> None:
        while True:
            self._health.beat()
            door.sweep()
            self._renewal.tick()
            await asyncio.sleep(_SWEEP_S)

    async def _drain(self, listener: asyncio.Server, door: HttpDoor, calls: GrpcDoor) -> None:
        self._health.is_draining = True
        notice_until_s = time.monotonic() + self._settings.drain_notice_s
        while not self._is_hurried and time.monotonic() < notice_until_s:
            await asyncio.sleep(0.02)
        listener.close()
        door.drain()
        await calls.stop(grace_s=limits.REQUEST_TIMEOUT_MS_DEFAULT / 1000)
        await door.end(wait_s_max=limits.DRAIN_S_MAX)


def _check(check: Callable[[], object]) -> None:
    check()


def _word(plane: Plane) -> HealthWord:
    report = plane.health()
    if not report.is_ready:
        return HealthWord.DOWN
    return HealthWord.DEGRADED if report.is_degraded else HealthWord.HEALTHY
