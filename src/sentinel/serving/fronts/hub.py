"""The scoring process's side of the fronts: what they ask goes to the plane, and comes back.

Works are numbered by each front; an answer goes back on the connection it came by, under the number
it came with, so no answer can reach another front. A front whose connection ends has abandoned all
of its works. Every change of state, and at least one word a second, goes to every front.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from sentinel.core import limits
from sentinel.core.errors import ErrorCode, SentinelError
from sentinel.serving import bounds
from sentinel.serving.batching.attempt import attempt
from sentinel.serving.batching.work import Kind, Reply, Result, Work
from sentinel.serving.doors.http_routes import HttpRoutes
from sentinel.serving.fronts.link import Link
from sentinel.serving.fronts.wire import (
    FROM_FRONT,
    Abandon,
    About,
    AskEvents,
    AskTensor,
    Counted,
    Failed,
    Find,
    Found,
    FromFront,
    Hello,
    State,
    to_answer,
    to_wire,
)
from sentinel.serving.plane import Limit, Plane

_LOG = logging.getLogger("sentinel.serving.fronts")


@dataclass(slots=True)
class _Front:
    """One front that is connected."""

    number: int = -1
    works: dict[int, Work] = field(default_factory=dict)


class Hub:
    """All fronts of one scoring process; used in its loop.

    Parameters
    ----------
    plane : Plane
    counts : HttpRoutes
        Where the fronts' counts are added up.
    on_open : callable
        Called when the doors of a front are open.
    """

    def __init__(self, plane: Plane, counts: HttpRoutes, on_open: Callable[[], None]) -> None:
        self._plane = plane
        self._counts = counts
        self._on_open = on_open
        self._fronts: dict[Link[FromFront], _Front] = {}
        self._server: asyncio.Server | None = None
        self._teller: asyncio.Task[None] | None = None
        self._said: State | None = None
        plane.on_change(self._introduce_again)

    @property
    def n_fronts(self) -> int:
        """Fronts that are connected."""
        return len(self._fronts)

    async def start(self, listener: socket.socket) -> None:
        """Take fronts from a listening socket."""
        loop = asyncio.get_running_loop()
        self._server = await loop.create_unix_server(self._link, sock=listener)
        self._teller = asyncio.ensure_future(self._tell_state())

    def close(self) -> None:
        """End every connection."""
        if self._teller is not None:
            self._teller.cancel()
        if self._server is not None:
            self._server.close()
        for link in list(self._fronts):
            link.close()

    # --- private -----------------------------------------------------------------------------

    def _link(self) -> Link[FromFront]:
        return Link(FROM_FRONT, self._hear, self._lost)

    def _lost(self, link: Link[FromFront]) -> None:
        front = self._fronts.pop(link, None)
        if front is None:
            return
        for work in list(front.works.values()):
            self._plane.abandon(work)
        _LOG.warning("a front has gone", extra={"front": front.number, "n": len(front.works)})

    def _hear(self, link: Link[FromFront], message: FromFront) -> None:
        front = self._fronts.get(link)
        if front is None:
            front = self._fronts[link] = _Front()
            link.say(_about(self._plane))
            link.say(_state(self._plane))
        if isinstance(message, AskEvents):
            self._answer(link, front, message.id, lambda reply: self._ask(message, reply))
        elif isinstance(message, AskTensor):
            self._hear_tensor(link, front, message)
        elif isinstance(message, Abandon):
            work = front.works.pop(message.id, None)
            if work is not None:
                self._plane.abandon(work)
        elif isinstance(message, Find):
            self._find(link, message)
        elif isinstance(message, Counted):
            self._count(message)
        else:
            self._greet(front, message)

    def _greet(self, front: _Front, message: Hello) -> None:
        front.number = message.number
        if message.is_open:
            self._on_open()

    def _ask(self, message: AskEvents, reply: Reply) -> Work:
        limit = Limit.from_now(message.tenant, message.left_us / 1e6)
        kind = Kind(message.kind)
        if kind is Kind.CANARY:
            return self._plane.score_canary(message.events, limit, reply)
        if kind is Kind.FEEDBACK:
            return self._plane.learn(message.events, limit, reply)
        return self._plane.score(message.events, limit, reply)

    def _hear_tensor(self, link: Link[FromFront], front: _Front, message: AskTensor) -> None:
        limit = Limit.from_now(message.tenant, message.left_us / 1e6)
        plane, number = self._plane, message.id
        if message.n_features != plane.n_features:
            link.say(Failed(number, to_wire(_other_width(plane.n_features, message.n_features))))
            return
        values = np.frombuffer(message.values, dtype=np.float32).reshape(-1, message.n_features)
        if not message.why:
            self._answer(link, front, number, lambda reply: plane.infer(values, limit, reply))
            return

        def told(found: bytes | SentinelError | None) -> None:
            front.works.pop(number, None)
            _tell(link, number, found)

        work = attempt(
            lambda: plane.explain(values, limit, told, request_id=message.request_id), at="explain"
        )
        if isinstance(work, SentinelError):
            link.say(Failed(number, to_wire(work)))
        elif not work.is_settled:
            front.works[number] = work

    def _answer(
        self,
        link: Link[FromFront],
        front: _Front,
        number: int,
        submit: Callable[[Reply], Work],
    ) -> None:
        def reply(result: Result) -> None:
            front.works.pop(number, None)
            if isinstance(result, SentinelError):
                link.say(Failed(number, to_wire(result)))
            else:
                link.say(to_answer(number, result))

        work = attempt(lambda: submit(reply), at="front")
        if isinstance(work, SentinelError):
            link.say(Failed(number, to_wire(work)))
        elif not work.is_settled:
            front.works[number] = work

    def _find(self, link: Link[FromFront], message: Find) -> None:
        plane, number = self._plane, message.id

        def told(found: bytes | SentinelError | None) -> None:
            _tell(link, number, found)

        if message.what == "decision":
            plane.find_decision(message.event_id, told)
        elif message.what == "explanation":
            plane.find_explanation(message.event_id, told)
        else:
            plane.find_release(told)

    def _count(self, message: Counted) -> None:
        """Add what a front has counted to what all of them have."""
        counts = self._counts.n_by_status
        for status, n in message.by_status.items():
            counts[status] = counts.get(status, 0) + n
        self._counts.seconds.add(message.seconds, message.total_s)

    def _introduce_again(self) -> None:
        about = _about(self._plane)
        for link in self._fronts:
            link.say(about)

    async def _tell_state(self) -> None:
        age_s = 0.0
        while True:
            await asyncio.sleep(bounds.FRONT_STATE_S)
            age_s += bounds.FRONT_STATE_S
            state = _state(self._plane)
            if state != self._said or age_s >= limits.HEARTBEAT_S:
                self._said, age_s = state, 0.0
                for link in self._fronts:
                    link.say(state)


def _tell(link: Link[FromFront], number: int, found: bytes | SentinelError | None) -> None:
    if isinstance(found, SentinelError):
        link.say(Failed(number, to_wire(found)))
    else:
        link.say(Found(number, found))


def _about(plane: Plane) -> About:
    return About(
        model_name=plane.model_name,
        model_version=plane.model_version,
        n_features=plane.n_features,
        takes_feedback=plane.loaded.parts.plan.features.feedback is not None,
        document=plane.document(),
    )


def _state(plane: Plane) -> State:
    report, load = plane.health(), plane.load()
    return State(
        is_live=report.is_live,
        is_started=report.is_started,
        is_ready=report.is_ready,
        is_degraded=report.is_degraded,
        causes=report.causes,
        degraded_callers=report.degraded_callers,
        n_rows=load.n_rows,
        n_works=load.n_works,
    )


def _other_width(expected: int, got: int) -> SentinelError:
    return SentinelError(
        ErrorCode.TENSOR_INVALID,
        at="features",
        expected=f"rows of {expected}, as the release in service has them",
        got=got,
    )
