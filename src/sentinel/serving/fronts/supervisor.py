"""The supervisor: starts the scoring process and the fronts, and starts them again.

* It holds what must outlive each of them: the ports, the socket between them, the counts.
* A process that ends, or does not beat for ``BEAT_AGE_S_MAX``, is replaced after a pause that
  doubles (:mod:`sentinel.serving.fronts.restarts`); a marker on the disk and a line in the log say
  why it ended. One that cannot start in the first place ends the server, with its own sentence.
* SIGTERM: fronts first, so that what is in flight is answered; then the scoring process, which
  closes state and log. A second signal skips the notice.

It loads no release and answers nobody.
"""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import os
import random
import signal
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack

import msgspec

from sentinel.core.configuration import Configuration
from sentinel.core.errors import ErrorCode, SentinelError
from sentinel.serving import bounds
from sentinel.serving.doors.tls import OwnClient
from sentinel.serving.fronts.control import (
    FRONT,
    SCORING,
    STATUS_STATE_BEHIND,
    Job,
    Restarts,
    Served,
    Started,
)
from sentinel.serving.fronts.part import Part
from sentinel.serving.fronts.ports import hold_port, run_folder
from sentinel.serving.fronts.restarts import Ended, Reason, restart_pause_s, write_marker
from sentinel.serving.server import Addresses
from sentinel.serving.settings import ServerSettings

_LOG = logging.getLogger("sentinel.serving.fronts")
_PROGRAM = (sys.executable, "-m", "sentinel.serving.fronts.child")


Announce = Callable[[Addresses, str, str], None]
"""Told the addresses, the release's label and how it stands, once all doors are open."""


def supervise(
    served: Served,
    settings: ServerSettings,
    configuration: Configuration,
    *,
    on_started: Announce,
    program: Sequence[str] = _PROGRAM,
) -> bool:
    """Serve with several processes until a signal ends it; call it in the main thread.

    Parameters
    ----------
    served : Served
    settings : ServerSettings
        With at least one front.
    configuration : Configuration
    on_started : callable
    program : sequence of str
        What each process runs, before the descriptor of its line.

    Returns
    -------
    bool
        As :meth:`Supervisor.run`.

    Raises
    ------
    SentinelError
        ``address-unusable``, ``file-unwritable``; what the processes refuse to start with.
    """
    with ExitStack() as stack:
        folder, listener = stack.enter_context(run_folder(settings.run))
        http = stack.enter_context(hold_port(settings.host, settings.http_port))
        grpc = stack.enter_context(hold_port(settings.host, settings.grpc_port))
        settings = dataclasses.replace(
            settings, http_port=http.getsockname()[1], grpc_port=grpc.getsockname()[1]
        )
        job = Job(
            part=SCORING,
            number=0,
            parent=os.getpid(),
            served=served,
            settings=settings,
            configuration=configuration,
            own=OwnClient.make(),
            listener=listener.fileno(),
            run_folder=folder,
        )
        return asyncio.run(Supervisor(job, on_started, program).run())


class Supervisor:
    """All processes of one server.

    Parameters
    ----------
    job : Job
        Of the scoring process; those of the fronts differ in part and number.
    on_started : callable
    program : sequence of str
    """

    def __init__(self, job: Job, on_started: Announce, program: Sequence[str]) -> None:
        self._job = job
        self._announce = on_started
        self._program = program
        self._parts: dict[str, Part] = {}
        self._started: dict[str, Started] = {}
        self._is_announced = False
        self._n_restarts: dict[tuple[str, str], int] = {}
        self._fault: SentinelError | None = None
        self._is_state_whole = True
        self._stop = asyncio.Event()
        self._stop_scoring = asyncio.Event()
        self._random = random.Random()  # noqa: S311 -- spreads starts, keeps no secret

    async def run(self) -> bool:
        """Keep all processes running until a signal, then end them in order.

        Returns
        -------
        bool
            Whether the state learned of every answer.

        Raises
        ------
        SentinelError
            What a process refuses to start with.
        """
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._end)
        loop.add_signal_handler(signal.SIGHUP, self._renew)
        fronts = [
            asyncio.ensure_future(self._keep(f"{FRONT}-{number}", number))
            for number in range(1, self._job.settings.n_fronts + 1)
        ]
        scoring = asyncio.ensure_future(self._keep(SCORING, 0))
        await asyncio.gather(*fronts)
        self._stop_scoring.set()
        await scoring
        if self._fault is not None:
            raise self._fault
        return self._is_state_whole

    # --- private -----------------------------------------------------------------------------

    async def _keep(self, name: str, number: int) -> None:
        """Start a process, again and again, until the server ends."""
        is_scoring = name == SCORING
        stop = self._stop_scoring if is_scoring else self._stop
        part = SCORING if is_scoring else FRONT
        n_in_row = 0
        while not stop.is_set():
            ended = await self._live(name, _of(self._job, part, number), stop)
            if stop.is_set():
                self._is_state_whole &= ended.status != STATUS_STATE_BEHIND
                return
            if name not in self._started:
                self._give_up(ended)
                return
            n_in_row = 1 if ended.lived_s >= bounds.PART_STEADY_S else n_in_row + 1
            pause_s = restart_pause_s(n_in_row, self._random.random())
            self._note(ended, part, pause_s=pause_s, n_in_row=n_in_row)
            await _sleep(stop, pause_s)

    async def _live(self, name: str, job: Job, stop: asyncio.Event) -> Ended:
        try:
            life = Part(name, job, self._program, lambda started: self._note_started(name, started))
        except OSError as error:
            # No process, memory or descriptor left: it may be there the next time.
            cause = error.strerror or type(error).__name__
            return Ended(
                part=name, pid=0, reason=Reason.REFUSED, status=0, lived_s=0.0, cause=cause
            )
        self._parts[name] = life
        watching = asyncio.ensure_future(life.live())
        stopping = asyncio.ensure_future(stop.wait())
        await asyncio.wait((watching, stopping), return_when=asyncio.FIRST_COMPLETED)
        stopping.cancel()
        if not watching.done():
            life.terminate()
            wait_s = self._job.settings.drain_notice_s + bounds.DRAIN_S_MAX + bounds.PART_END_S_MAX
            await asyncio.wait((watching,), timeout=wait_s)
            life.kill(None)
        return await watching

    def _note_started(self, name: str, started: Started) -> None:
        self._started[name] = started
        life = self._parts[name]
        _LOG.info("a process has started", extra={"part": name, "pid": life.pid})
        if name == SCORING:
            self._tell_counts()
        if not self._is_announced and len(self._started) == self._job.settings.n_fronts + 1:
            self._is_announced = True
            scoring, settings = self._started[SCORING], self._job.settings
            addresses = Addresses(
                settings.host, settings.http_port, settings.grpc_port, scoring.metrics_port
            )
            # A metrics port that was any free one stays what it was.
            self._job = _with_metrics_port(self._job, scoring.metrics_port)
            self._announce(addresses, scoring.label, scoring.standing)

    def _note(self, ended: Ended, part: str, *, pause_s: float, n_in_row: int) -> None:
        """Say in the log, on the disk and in the metrics why a process ended."""
        key = (part, str(ended.reason))
        self._n_restarts[key] = self._n_restarts.get(key, 0) + 1
        _LOG.error(
            "a process has ended",
            extra={
                "part": ended.part,
                "pid": ended.pid,
                "reason": str(ended.reason),
                "cause": ended.sentence,
                "next_start_after_s": round(pause_s, 3),
            },
        )
        try:
            write_marker(
                self._job.settings.run,
                ended,
                at_ms=time.time_ns() // 1_000_000,
                pause_s=pause_s,
                n_in_row=n_in_row,
            )
        except SentinelError as error:
            _LOG.error("no marker could be written", extra={"cause": str(error)})
        self._tell_counts()

    def _tell_counts(self) -> None:
        counts = [(part, reason, n) for (part, reason), n in self._n_restarts.items()]
        scoring = self._parts.get(SCORING)
        if scoring is not None and counts:
            scoring.tell(Restarts(counts))

    def _give_up(self, ended: Ended) -> None:
        """End the server: a process that has never started would not start the next time."""
        life = self._parts.get(ended.part)
        self._fault = (
            self._fault
            or (None if life is None else life.refused)
            or SentinelError(
                ErrorCode.SCORER_CLOSED,
                at=ended.part,
                expected="a process that starts",
                got=ended.sentence,
            )
        )
        self._stop.set()
        self._stop_scoring.set()

    def _end(self) -> None:
        """Begin the end; the second call hurries it."""
        if self._stop.is_set():
            for life in self._parts.values():
                if life.name != SCORING:
                    life.terminate()
        self._stop.set()

    def _renew(self) -> None:
        """Let every process read certificates and tokens again."""
        for life in self._parts.values():
            life.renew()


def _of(job: Job, part: str, number: int) -> Job:
    return msgspec.structs.replace(job, part=part, number=number)


def _with_metrics_port(job: Job, port: int) -> Job:
    return msgspec.structs.replace(
        job, settings=dataclasses.replace(job.settings, metrics_port=port)
    )


async def _sleep(stop: asyncio.Event, seconds: float) -> None:
    try:
        await asyncio.wait_for(stop.wait(), seconds)
    except TimeoutError:
        return
