"""What waits in the queue: the rows of one request, scored in one piece or in several."""

from __future__ import annotations

import enum
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from sentinel.core.errors import SentinelError
from sentinel.scoring import Outcome, Reason, ServedBy


class Kind(enum.Enum):
    """What is to be done with the rows."""

    EVENTS = 0
    TENSOR = 1
    CANARY = 2


@dataclass(frozen=True, slots=True)
class EventAnswers:
    """Answers to events, in their order.

    Attributes
    ----------
    lines : sequence of (bytes or SentinelError)
        For each event its decision as JSON without a line end, or why there is none.
    """

    lines: Sequence[bytes | SentinelError]


@dataclass(frozen=True, slots=True)
class TensorAnswers:
    """Answers to rows of features, in their order.

    Attributes
    ----------
    scores : ndarray of float32, shape (n,)
        0.0 where the outcome is ``HELD``: a door must not show it.
    outcomes, served_by, reasons : ndarray of uint8, shape (n,)
        Values of :class:`Outcome`, :class:`ServedBy`, :class:`Reason`.
    """

    scores: npt.NDArray[np.float32]
    outcomes: npt.NDArray[np.uint8]
    served_by: npt.NDArray[np.uint8]
    reasons: npt.NDArray[np.uint8]

    @property
    def is_held(self) -> bool:
        """Whether any row was answered by nobody."""
        return bool((self.outcomes == Outcome.HELD).any())

    def held_reason(self) -> str:
        """Say why the first held row is held."""
        row = int(np.argmax(self.outcomes == Outcome.HELD))
        return Reason(self.reasons[row]).name.lower().replace("_", "-")

    @property
    def n_fallback(self) -> int:
        """How many rows the fallback answered."""
        return int(np.count_nonzero(self.served_by == ServedBy.FALLBACK))


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
        Of kinds ``EVENTS`` and ``CANARY``.
    values : ndarray of float32, shape (n_rows, n_features), or None
        Of kind ``TENSOR``.
    n_rows : int
    tenant : str
        Whose it is: fairness is between tenants.
    deadline_s : float
        On the monotonic clock.
    reply : callable
        Told the result, once, in the thread of the door.
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
    n_taken: int = 0
    is_settled: bool = False
    parts: list[Answers] = field(default_factory=list)

    def result(self) -> Answers:
        """Put the answers of all pieces together."""
        if len(self.parts) == 1:
            return self.parts[0]
        if self.kind is not Kind.TENSOR:
            events = [part for part in self.parts if isinstance(part, EventAnswers)]
            return EventAnswers([line for part in events for line in part.lines])
        tensors = [part for part in self.parts if isinstance(part, TensorAnswers)]
        return TensorAnswers(
            np.concatenate([part.scores for part in tensors]),
            np.concatenate([part.outcomes for part in tensors]),
            np.concatenate([part.served_by for part in tensors]),
            np.concatenate([part.reasons for part in tensors]),
        )


@dataclass(frozen=True, slots=True)
class Piece:
    """Some rows of one request, in a batch: rows ``start`` to ``end`` of the work."""

    work: Work
    start: int
    end: int

    @property
    def n_rows(self) -> int:
        """How many."""
        return self.end - self.start
