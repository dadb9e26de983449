"""What waits in the queue: the rows of one request, scored in one piece or in several."""

from __future__ import annotations

import enum
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import numpy.typing as npt

from sentinel.core.errors import SentinelError
from sentinel.scoring import Outcome, Reason, code_names

if TYPE_CHECKING:
    from sentinel.serving.releases.working_release import WorkingRelease

_HELD = int(Outcome.HELD)
_REASONS = code_names(Reason)


class Kind(enum.Enum):
    """What is to be done with the rows."""

    EVENTS = 0
    TENSOR = 1
    CANARY = 2
    FEEDBACK = 3


class EventAnswers(NamedTuple):
    """Answers to events, in their order.

    Attributes
    ----------
    lines : sequence of (bytes or SentinelError)
        For each event its decision as JSON without a line end, or why there is none.
    served : tuple of (str, int)
        Which release answered how many of them, in their order: one, but for a request that was
        cut in pieces when another release took over.
    """

    lines: Sequence[bytes | SentinelError]
    served: tuple[tuple[str, int], ...]


class TensorAnswers(NamedTuple):
    """Answers to rows of features, in their order; plain lists, made once for a whole batch.

    Attributes
    ----------
    scores : list of float
        float32 numbers; 0.0 where the outcome is ``HELD``: a door must not show it.
    outcomes, served_by, reasons : list of int
        Values of :class:`Outcome`, :class:`ServedBy`, :class:`Reason`.
    version : str
        Of the release that answered; one for the whole of a request.
    """

    scores: list[float]
    outcomes: list[int]
    served_by: list[int]
    reasons: list[int]
    version: str

    @property
    def is_held(self) -> bool:
        """Whether any row was answered by nobody."""
        return _HELD in self.outcomes

    def held_reason(self) -> str:
        """Say why the first held row is held."""
        return _REASONS[self.reasons[self.outcomes.index(_HELD)]]


Answers = EventAnswers | TensorAnswers
Result = Answers | SentinelError
Reply = Callable[[Result], None]


@dataclass(slots=True, eq=False)
class Work:
    """One request in the queue.

    Attributes
    ----------
    kind : Kind
    events : sequence of bytes
        Of all kinds but ``TENSOR``.
    values : ndarray of float32, shape (n_rows, n_features), or None
        Of kind ``TENSOR``.
    n_rows : int
    tenant : str
        Whose it is: fairness is between tenants.
    deadline_s : float
        On the monotonic clock.
    received_s, queued_s : float
        When the request was whole, and when it entered the queue; on the same clock.
    reply : callable
        Told the result, once, in the thread of the door; it may be before the work was handed
        out to who asked.
    release : WorkingRelease or None
        Who must answer: of kinds ``TENSOR`` and ``CANARY``. Events are answered by the release in
        service when their batch is formed.
    n_taken : int
        Rows that are in a batch already.
    is_settled : bool
        The door has answered (a deadline, a client that went away): nobody waits any more.
    """

    kind: Kind
    n_rows: int
    tenant: str
    deadline_s: float
    reply: Reply
    events: Sequence[bytes] = ()
    values: npt.NDArray[np.float32] | None = None
    release: WorkingRelease | None = None
    received_s: float = 0.0
    queued_s: float = 0.0
    n_taken: int = 0
    is_settled: bool = False
    parts: list[Answers] = field(default_factory=list)

    def result(self) -> Answers:
        """Put the answers of all pieces together."""
        if len(self.parts) == 1:
            return self.parts[0]
        if self.kind is not Kind.TENSOR:
            events = [part for part in self.parts if isinstance(part, EventAnswers)]
            return EventAnswers([line for part in events for line in part.lines], _served(events))
        tensors = [part for part in self.parts if isinstance(part, TensorAnswers)]
        whole = TensorAnswers([], [], [], [], tensors[0].version)
        for part in tensors:
            whole.scores.extend(part.scores)
            whole.outcomes.extend(part.outcomes)
            whole.served_by.extend(part.served_by)
            whole.reasons.extend(part.reasons)
        return whole


def _served(parts: Sequence[EventAnswers]) -> tuple[tuple[str, int], ...]:
    """Say who answered how many, in a row."""
    found: list[tuple[str, int]] = []
    for label, n in (pair for part in parts for pair in part.served):
        before = found.pop()[1] if found and found[-1][0] == label else 0
        found.append((label, before + n))
    return tuple(found)


class Piece(NamedTuple):
    """Some rows of one request, in a batch: rows ``start`` to ``end`` of the work."""

    work: Work
    start: int
    end: int

    @property
    def n_rows(self) -> int:
        """How many."""
        return self.end - self.start
