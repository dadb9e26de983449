"""One process that is watched: its start, its beats, its end."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Sequence

import msgspec

from sentinel.core import limits
from sentinel.core.errors import SentinelError
from sentinel.serving import bounds
from sentinel.serving.fronts.control import (
    Job,
    Refused,
    Restarts,
    Started,
    line,
    read_from_part,
)
from sentinel.serving.fronts.restarts import Ended, Reason, memory_kills, reason_of
from sentinel.serving.fronts.wire import from_wire


class Part:
    """One life of a process.

    Parameters
    ----------
    name : str
        ``scoring`` or ``front-1`` …
    job : Job
    program : sequence of str
        What is run, with the descriptor of its line behind it.
    on_started : callable
        Told when it has started.

    Attributes
    ----------
    started : Started or None
    refused : SentinelError or None
        What it said when it could not go on.
    """

    def __init__(
        self,
        name: str,
        job: Job,
        program: Sequence[str],
        on_started: Callable[[Started], None],
    ) -> None:
        self.name = name
        self.started: Started | None = None
        self.refused: SentinelError | None = None
        self._on_started = on_started
        self._n_oom = memory_kills()
        self._killed_as: Reason | None = None
        ours, theirs = socket.socketpair()
        self._link = ours
        descriptors = (theirs.fileno(), job.listener, job.run_folder)
        with theirs:
            self._process = subprocess.Popen(  # noqa: S603 -- our own program
                [*program, str(theirs.fileno())],
                pass_fds=descriptors,
                stdin=subprocess.DEVNULL,
                # A Ctrl-C of the terminal is the supervisor's to hear.
                start_new_session=True,
            )
        self._began_s = self._beat_s = time.monotonic()
        self._job = job
        self._writer: asyncio.StreamWriter | None = None

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    async def live(self) -> Ended:
        """Watch it until it ends, and say why."""
        loop = asyncio.get_running_loop()
        handle = os.pidfd_open(self.pid)
        ended = asyncio.Event()
        loop.add_reader(handle, ended.set)
        reader, writer = await asyncio.open_unix_connection(
            sock=self._link, limit=bounds.PART_LINE_BYTES_MAX
        )
        self._writer = writer
        writer.write(line(self._job))
        listening = asyncio.ensure_future(self._listen(reader))
        try:
            await self._watch(ended)
            # What it said at last is read before it is judged.
            await asyncio.wait((listening,), timeout=limits.HEARTBEAT_S)
        finally:
            loop.remove_reader(handle)
            os.close(handle)
            listening.cancel()
            writer.close()
            self.kill(None)
            self._process.wait()
        return self._ended()

    def tell(self, restarts: Restarts) -> None:
        """Tell it how often parts were started again."""
        if self.started is not None and self._writer is not None:
            self._writer.write(line(restarts))

    def terminate(self) -> None:
        """Ask it to end."""
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)

    def renew(self) -> None:
        """Let it read certificates and tokens again; one that starts has just read them."""
        if self.started is not None and self._process.poll() is None:
            self._process.send_signal(signal.SIGHUP)

    def kill(self, reason: Reason | None) -> None:
        """End it now, also when it is stopped."""
        if self._process.poll() is None:
            self._killed_as = self._killed_as or reason
            self._process.kill()

    # --- private -----------------------------------------------------------------------------

    async def _watch(self, ended: asyncio.Event) -> None:
        """Wait for the end, and bring it about where nothing beats any more."""
        looked_s = time.monotonic()
        while not ended.is_set():
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(ended.wait(), bounds.BEAT_LOOK_S)
            now_s = time.monotonic()
            if now_s - looked_s > limits.HEARTBEAT_S:
                # It was us who slept: what was said meanwhile has not been heard yet.
                self._beat_s = now_s
            looked_s = now_s
            if self.started is None:
                if now_s - self._began_s > bounds.PART_START_S_MAX:
                    self.kill(Reason.SLOW_START)
            elif now_s - self._beat_s > bounds.BEAT_AGE_S_MAX:
                self.kill(Reason.FROZEN)

    async def _listen(self, reader: asyncio.StreamReader) -> None:
        with contextlib.suppress(ConnectionError, ValueError, msgspec.MsgspecError):
            while content := await reader.readline():
                message = read_from_part(content)
                self._beat_s = time.monotonic()
                if isinstance(message, Started):
                    self.started = message
                    self._on_started(message)
                elif isinstance(message, Refused):
                    self.refused = from_wire(message.error)

    def _ended(self) -> Ended:
        status = self._process.returncode
        reason = reason_of(
            status,
            was_killed=self._killed_as,
            has_refused=self.refused is not None,
            n_oom=memory_kills() - self._n_oom,
        )
        return Ended(
            part=self.name,
            pid=self.pid,
            reason=reason,
            status=status,
            lived_s=time.monotonic() - self._began_s,
            cause="" if self.refused is None else str(self.refused),
        )
