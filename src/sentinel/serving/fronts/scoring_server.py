"""The scoring process: everything of a server but its doors, which fronts hold.

Release, state, batcher, swap, decision log, metrics and what operators do are as in a server of one
process. Its canary goes through the shared port, so through a front, and back.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable
from contextlib import AsyncExitStack

from sentinel.core.errors import ErrorCode, SentinelError
from sentinel.serving import bounds
from sentinel.serving.doors.http_routes import HttpRoutes
from sentinel.serving.fronts.control import Job, ParentLine, Refused, Restarts, Started
from sentinel.serving.fronts.hub import Hub
from sentinel.serving.fronts.wire import to_wire
from sentinel.serving.opening import Opened
from sentinel.serving.operations import Operations
from sentinel.serving.plane import Plane
from sentinel.serving.releases.release_source import ReleaseSource
from sentinel.serving.releases.swap import Swap
from sentinel.serving.server import Addresses, Server

_LOG = logging.getLogger("sentinel.serving.fronts")


class ScoringServer(Server):
    """One scoring process, from its start to its end.

    Parameters
    ----------
    opened : Opened
    job : Job
    control : socket
        The line to the parent.
    rest : bytes
        What came behind the job.
    source : ReleaseSource, optional
        Where releases stand that may take over.
    """

    def __init__(
        self,
        opened: Opened,
        job: Job,
        control: socket.socket,
        rest: bytes,
        *,
        source: ReleaseSource | None,
    ) -> None:
        super().__init__(opened, job.settings, source=source, own=job.own)
        self._job = job
        self._control = control
        self._rest = rest
        self._restarts: list[tuple[str, str, int]] = []

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
            canary = self._canary(plane, swap, settings.http_port)
            swap.on_switch = canary.hurry
            hub = Hub(plane, routes, canary.hurry)
            stack.callback(hub.close)
            plane.metrics.before_scrape(lambda: self._show(hub))
            metrics_port = operations.start(settings.host, settings.metrics_port)
            await hub.start(socket.socket(fileno=self._job.listener))
            doorway.watch_signals()
            parent = ParentLine(lambda: self._is_well(plane, parent), doorway.stop_now, self._note)
            await parent.open(self._control, self._rest)
            stack.callback(asyncio.ensure_future(doorway.sweep(self._health.beat)).cancel)
            canary.start()
            stack.callback(canary.stop)
            addresses = Addresses(
                settings.host, settings.http_port, settings.grpc_port, metrics_port
            )
            if on_started is not None:
                on_started(addresses, plane)
            loaded = plane.loaded
            parent.say(Started(metrics_port, loaded.manifest.label, str(loaded.standing)))
            await doorway.stopping.wait()
            self._health.is_draining = True

    # --- private -----------------------------------------------------------------------------

    def _is_well(self, plane: Plane, parent: ParentLine) -> bool:
        """Whether this process still does its work; one that never will again ends itself."""
        report = plane.health()
        if not report.is_live and not self._doorway.stopping.is_set():
            cause = report.causes[0]
            error = SentinelError(
                ErrorCode.SCORER_CLOSED, at="scoring process", expected="one that scores", got=cause
            )
            _LOG.error("this process cannot score any more", extra={"cause": cause})
            parent.say(Refused(to_wire(error)))
            self._doorway.stop_now()
        return plane.load().busy_for_s < bounds.BATCH_HANGS_S

    def _note(self, restarts: Restarts) -> None:
        self._restarts = restarts.counts

    def _show(self, hub: Hub) -> None:
        metrics = self._opened.metrics
        metrics.put("sentinel_fronts", hub.n_fronts)
        for part, reason, n in self._restarts:
            metrics.advance("sentinel_process_restarts_total", n, part=part, reason=reason)
