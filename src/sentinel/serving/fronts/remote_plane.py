"""The plane of a front: asks the scoring process over a socket, many at a time.

What is in flight is bounded in works, rows and bytes. A work is settled once: by its answer, by its
deadline, or by the end of the connection; whatever comes later is dropped. Nothing is sent twice:
whether an event whose answer was lost has been decided, the scoring process knows, and says when it
is asked again.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import msgspec
import numpy as np
import numpy.typing as npt

from sentinel.core import limits
from sentinel.core.errors import ErrorCode, SentinelError
from sentinel.serving import bounds
from sentinel.serving.batching.attempt import attempt
from sentinel.serving.batching.batcher import BatcherState
from sentinel.serving.batching.queue_of_rows import OverloadedError, deadline_passed
from sentinel.serving.batching.work import Kind, Reply, Result, Work
from sentinel.serving.door_plane import Told
from sentinel.serving.fronts.link import Link
from sentinel.serving.fronts.wire import (
    Abandon,
    About,
    AskEvents,
    AskTensor,
    EventsAnswered,
    Failed,
    Find,
    FromFront,
    FromScoring,
    State,
    TensorAnswered,
    from_answer,
    from_wire,
)
from sentinel.serving.health import HealthReport
from sentinel.serving.plane import (
    Described,
    Limit,
    check_rows,
    feedback_unread,
)

_LOST = "the scoring process cannot be reached"
_NOBODY = State(
    is_live=True,
    is_started=False,
    is_ready=False,
    is_degraded=False,
    causes=(_LOST,),
    degraded_callers=(),
    n_rows=0,
    n_works=0,
)


@dataclass(slots=True)
class _Flight:
    """Something that was asked and is not answered yet."""

    work: Work
    told: Told | None
    n_bytes: int


class RemotePlane(Described):
    """A plane whose release is in another process; used by one loop.

    Attributes
    ----------
    is_draining : bool
        This front takes nothing new: it is not ready.
    """

    def __init__(self, about: About) -> None:
        self._about = about
        self._link: Link[FromScoring] | None = None
        self._state = _NOBODY
        self._heard_s = time.monotonic()
        self._flights: dict[int, _Flight] = {}
        self._numbers: dict[Work, int] = {}
        self._n_rows = self._n_bytes = self._number = 0
        self._on_change: list[Callable[[], None]] = []
        self._is_sweeping = False
        self.is_draining = False

    # --- the link ----------------------------------------------------------------------------

    def attach(self, link: Link[FromScoring], about: About) -> None:
        """Ask over this connection from now on."""
        self._link = link
        self._heard_s = time.monotonic()
        self._learn_about(about)

    def detach(self) -> None:
        """Answer whoever waits: the connection has ended."""
        self._link = None
        self._state = msgspec.structs.replace(_NOBODY, is_started=self._state.is_started)
        for number in list(self._flights):
            self._settle(number, _lost())

    def hear(self, message: FromScoring) -> None:
        """Take what the scoring process says."""
        if isinstance(message, State):
            self._state, self._heard_s = message, time.monotonic()
        elif isinstance(message, About):
            self._learn_about(message)
        elif isinstance(message, EventsAnswered | TensorAnswered):
            self._settle(message.id, from_answer(message))
        elif isinstance(message, Failed):
            self._settle(message.id, from_wire(message.error))
        else:
            self._tell(message.id, message.content)

    # --- scoring -----------------------------------------------------------------------------

    def score(self, events: Sequence[bytes], limit: Limit, reply: Reply) -> Work:
        """Decide events; as :meth:`sentinel.serving.plane.Plane.score`.

        Raises
        ------
        SentinelError
            ``request-invalid``, ``request-too-large``, ``overloaded``, ``deadline-passed``,
            ``draining``, ``scorer-closed``: then the reply is never called.
        """
        return self._ask_events(Kind.EVENTS, events, limit, reply)

    def score_canary(self, events: Sequence[bytes], limit: Limit, reply: Reply) -> Work:
        """Take known events the whole way beside the live state; as :meth:`score`."""
        return self._ask_events(Kind.CANARY, events, limit, reply)

    def learn(self, feedback: Sequence[bytes], limit: Limit, reply: Reply) -> Work:
        """Learn feedback events; as :meth:`score`."""
        check_rows(len(feedback))
        if not self._about.takes_feedback:
            raise feedback_unread(len(feedback))
        return self._ask_events(Kind.FEEDBACK, feedback, limit, reply)

    def infer(self, values: npt.NDArray[np.float32], limit: Limit, reply: Reply) -> Work:
        """Score rows of features; as :meth:`score`.

        Parameters
        ----------
        values : ndarray of float32, shape (n_rows, n_features), C order
            Finite.
        """
        work = _work(Kind.TENSOR, len(values), limit, reply)
        return self._ask_tensor(work, values, None, None)

    def explain(
        self,
        values: npt.NDArray[np.float32],
        limit: Limit,
        told: Told,
        *,
        request_id: str | None,
    ) -> Work:
        """Score rows of features, and tell why, as JSON; as :meth:`score`."""
        work = _work(Kind.TENSOR, len(values), limit, lambda _: None)
        return self._ask_tensor(work, values, told, request_id)

    def abandon(self, work: Work) -> None:
        """Forget a request whose caller went away."""
        number = self._numbers.get(work)
        if number is not None:
            self._take(number)
            if self._link is not None:
                self._link.say(Abandon(number))

    # --- looking up --------------------------------------------------------------------------

    def find_decision(self, event_id: str, told: Told) -> None:
        """Tell the decision of an event."""
        self._find("decision", event_id, told)

    def find_explanation(self, event_id: str, told: Told) -> None:
        """Tell why the decision of an event is what it is."""
        self._find("explanation", event_id, told)

    def find_release(self, told: Told) -> None:
        """Tell what runs, how it stands, and how it is."""
        self._find("release", "", told)

    # --- what is served ----------------------------------------------------------------------

    @property
    def model_name(self) -> str:
        """Name of the release."""
        return self._about.model_name

    @property
    def model_version(self) -> str:
        """Version of the release."""
        return self._about.model_version

    @property
    def n_features(self) -> int:
        """Columns of the model."""
        return self._about.n_features

    def document(self) -> bytes:
        """Return the OpenAPI document of the release."""
        return self._about.document

    def on_change(self, callback: Callable[[], None]) -> None:
        """Call this when another release is in service."""
        self._on_change.append(callback)

    # --- how it is ---------------------------------------------------------------------------

    def health(self) -> HealthReport:
        """Return how the scoring process said it is, while it says anything.

        A front is live while it answers: a scoring process that is gone is started again.
        """
        state = self._state
        own = []
        if self.is_draining:
            own.append("the server is stopping")
        silent_s = time.monotonic() - self._heard_s
        if self._link is not None and silent_s > bounds.FRONT_SILENCE_S:
            own.append(f"the scoring process has said nothing for {silent_s:.0f} s")
        return HealthReport(
            is_live=True,
            is_started=state.is_started,
            is_ready=state.is_ready and not own,
            is_degraded=state.is_degraded,
            causes=(*own, *state.causes),
            degraded_callers=state.degraded_callers,
        )

    def load(self) -> BatcherState:
        """Return what waits in the scoring process, as it last said."""
        state = self._state
        return BatcherState(
            n_rows=state.n_rows,
            n_works=state.n_works,
            busy_for_s=0.0,
            heartbeat_age_s=time.monotonic() - self._heard_s,
            is_alive=state.is_live,
            failure="",
            n_batches=0,
            n_rows_scored=0,
            n_late=0,
            n_refused={},
        )

    # --- private -----------------------------------------------------------------------------

    def _learn_about(self, about: About) -> None:
        if about == self._about:
            return
        self._about = about
        for callback in self._on_change:
            callback()

    def _ask_events(self, kind: Kind, events: Sequence[bytes], limit: Limit, reply: Reply) -> Work:
        check_rows(len(events))
        work = _work(kind, len(events), limit, reply)
        link = self._open(work, sum(map(len, events)))
        message = AskEvents(self._number, kind.value, work.tenant, _left_us(work), [*events])
        return self._send(link, message, work, None)

    def _ask_tensor(
        self,
        work: Work,
        values: npt.NDArray[np.float32],
        told: Told | None,
        request_id: str | None,
    ) -> Work:
        check_rows(work.n_rows)
        link = self._open(work, values.nbytes)
        message = AskTensor(
            self._number,
            work.tenant,
            _left_us(work),
            values.shape[1],
            np.ascontiguousarray(values, dtype=np.float32).tobytes(),
            told is not None,
            request_id,
        )
        return self._send(link, message, work, told)

    def _find(self, what: str, event_id: str, told: Told) -> None:
        limit = Limit.from_now("", limits.REQUEST_TIMEOUT_MS_DEFAULT / 1000)
        work = _work(Kind.FEEDBACK, 0, limit, lambda _: None)
        try:
            link = self._open(work, len(event_id))
        except SentinelError as error:
            told(error)
            return
        self._send(link, Find(self._number, what, event_id), work, told)

    def _open(self, work: Work, n_bytes: int) -> Link[FromScoring]:
        """Return the connection, if there is one and there is room; number what comes next."""
        if self._link is None or not self._link.is_open:
            raise _lost()
        if work.deadline_s <= time.monotonic():
            raise deadline_passed(work)
        if (
            len(self._flights) >= bounds.FRONT_WORKS_MAX
            or self._n_rows + work.n_rows > bounds.QUEUE_ROWS_MAX
            or self._n_bytes + n_bytes > bounds.FRONT_BYTES_MAX
        ):
            raise OverloadedError(
                expected="room on the way to the scoring process",
                got=f"{len(self._flights)} requests on it",
                retry_s=1.0,
            )
        self._number += 1
        return self._link

    def _send(
        self, link: Link[FromScoring], message: FromFront, work: Work, told: Told | None
    ) -> Work:
        number = self._number
        flight = _Flight(work, told, link.say(message))
        self._flights[number] = flight
        self._numbers[work] = number
        self._n_rows += work.n_rows
        self._n_bytes += flight.n_bytes
        if not self._is_sweeping:
            self._is_sweeping = True
            asyncio.get_running_loop().call_later(bounds.DEADLINE_SWEEP_S, self._sweep)
        return work

    def _take(self, number: int) -> _Flight | None:
        flight = self._flights.pop(number, None)
        if flight is not None:
            del self._numbers[flight.work]
            self._n_rows -= flight.work.n_rows
            self._n_bytes -= flight.n_bytes
            flight.work.is_settled = True
        return flight

    def _settle(self, number: int, result: Result) -> None:
        flight = self._take(number)
        if flight is None:
            return
        told, reply = flight.told, flight.work.reply
        # One reply that fails must not end the connection, and with it those of all others.
        if told is None:
            attempt(lambda: reply(result), at="reply")
        elif isinstance(result, SentinelError):
            attempt(lambda: told(result), at="reply")

    def _tell(self, number: int, content: bytes | None) -> None:
        flight = self._take(number)
        if flight is not None and flight.told is not None:
            told = flight.told
            attempt(lambda: told(content), at="reply")

    def _sweep(self) -> None:
        """Answer what is late; runs while anything is in flight."""
        now_s = time.monotonic()
        late = [
            (number, flight.work)
            for number, flight in self._flights.items()
            if now_s >= flight.work.deadline_s
        ]
        for number, work in late:
            self._settle(number, deadline_passed(work))
        self._is_sweeping = bool(self._flights)
        if self._flights:
            asyncio.get_running_loop().call_later(bounds.DEADLINE_SWEEP_S, self._sweep)


def _work(kind: Kind, n_rows: int, limit: Limit, reply: Reply) -> Work:
    return Work(
        kind=kind,
        n_rows=n_rows,
        tenant=limit.tenant,
        deadline_s=limit.at_s + limit.timeout_s,
        received_s=limit.at_s,
        reply=reply,
    )


def _left_us(work: Work) -> int:
    return max(1, round((work.deadline_s - time.monotonic()) * 1e6))


def _lost() -> SentinelError:
    return SentinelError(
        ErrorCode.SCORER_CLOSED,
        at="scoring process",
        expected="one that answers",
        got="one that ended; another one is being started",
    )
