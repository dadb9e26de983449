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
import sys
from collections.abc import Callable
from contextlib import AsyncExitStack, ExitStack
from dataclasses import dataclass

import uvloop

from sentinel.core.configuration import Configuration
from sentinel.monitoring import Health as HealthWord
from sentinel.release import LoadedRelease
from sentinel.serving import bounds
from sentinel.serving.allocator import keep_heap_small
from sentinel.serving.batching.batcher import Batcher
from sentinel.serving.batching.decision_memory import DecisionMemory
from sentinel.serving.batching.scoring_worker import ScoringWorker
from sentinel.serving.door_canary import DoorCanary, Finding, OwnDoor
from sentinel.serving.doors.doorway import Doorway
from sentinel.serving.doors.http_routes import HttpRoutes
from sentinel.serving.doors.operator_routes import OperatorRoutes
from sentinel.serving.doors.tls import OwnClient
from sentinel.serving.health import Health
from sentinel.serving.opening import Opened, open_parts
from sentinel.serving.operations import Operations
from sentinel.serving.plane import Plane
from sentinel.serving.releases.release_source import ReleaseSource
from sentinel.serving.releases.swap import Swap
from sentinel.serving.releases.working_release import WorkingRelease
from sentinel.serving.settings import ServerSettings

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
) -> int:
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

    Returns
    -------
    int
        As :meth:`Server.run`.

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
        gc.set_threshold(bounds.COLLECTOR_OBJECTS_MIN)
        sys.setswitchinterval(bounds.INTERPRETER_SWITCH_S)
        return uvloop.run(server.run(on_started))


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
        self._own = own or OwnClient.make()
        self._doorway = Doorway(settings, self._own)
        self._access = self._doorway.access
        self._health = Health()

    async def run(self, on_started: Callable[[Addresses, Plane], None] | None = None) -> int:
        """Open the doors, serve, and end in order.

        Returns
        -------
        int
            Answers that the state never learns of: its store was away until the end, or too long.

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
        operations = Operations(plane, routes, operator, self._access)
        try:
            await self._serve(plane, self.swap, routes, operations, on_started)
        finally:
            self.swap.close()
            is_idle = batcher.stop(wait_s_max=bounds.DRAIN_S_MAX)
            operations.stop()
        return self._opened.settle() if is_idle else 0

    def stop(self) -> None:
        """Begin the end; the second call hurries it."""
        self._doorway.stop()

    def renew(self) -> None:
        """Read certificates and tokens again; in the thread of the door."""
        self._doorway.renewal.now()

    # --- private -----------------------------------------------------------------------------

    async def _serve(
        self,
        plane: Plane,
        swap: Swap,
        routes: HttpRoutes,
        operations: Operations,
        on_started: Callable[[Addresses, Plane], None] | None,
    ) -> None:
        settings, doorway = self._settings, self._doorway
        async with AsyncExitStack() as stack:
            doors = await doorway.open(stack, plane, routes, gate=plane.batcher.gate)
            metrics_port = operations.start(settings.host, settings.metrics_port)
            doorway.watch_signals()
            sweeping = asyncio.ensure_future(doorway.sweep(doors.sweep, self._health.beat))
            stack.callback(sweeping.cancel)
            canary = self._canary(plane, swap, doors.http_port)
            swap.on_switch = canary.hurry
            canary.start()
            stack.callback(canary.stop)
            if on_started is not None:
                addresses = Addresses(settings.host, doors.http_port, doors.grpc_port, metrics_port)
                on_started(addresses, plane)
            await doorway.stopping.wait()
            self._health.is_draining = True
            await doorway.drain(doors)

    def _canary(self, plane: Plane, swap: Swap, port: int) -> DoorCanary:
        host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(self._settings.host, self._settings.host)  # noqa: S104 -- compared, not bound
        every_s = self._settings.canary_s
        always = _REHEARSAL if self._settings.is_rehearsal else ()
        tls = self._doorway.tls

        def tell(finding: Finding) -> None:
            if finding.is_champion_wrong and finding.label == plane.current.label:
                scorer = plane.current.scorer
                plane.batcher.call(lambda: _check(scorer.check_canary))
            swap.judge(finding)
            plane.look(always + finding.degraded + swap.causes + self._doorway.renewal.causes)
            self._health.door_checked(finding.cause)
            plane.metrics.record_health(_word(plane))

        return DoorCanary(
            OwnDoor(
                host=host,
                port=port,
                token=self._own.token,
                tls=None if tls is None else tls.client_context,
            ),
            lambda: (plane.current.label, plane.canary),
            folders=self._opened.folders,
            tell=tell,
            every_s=lambda: min(every_s, bounds.SWAP_CHECK_S) if swap.is_watching else every_s,
        )


def _check(check: Callable[[], object]) -> None:
    check()


def _word(plane: Plane) -> HealthWord:
    report = plane.health()
    if not report.is_ready:
        return HealthWord.DOWN
    return HealthWord.DEGRADED if report.is_degraded else HealthWord.HEALTHY
