"""What fronts and the scoring process say to each other, and how it is written.

A frame is four bytes of length, most significant first, and so many bytes of MessagePack: an array
whose first element says which message it is (msgspec, tagged arrays). Events and decisions travel
as the bytes they are. Nothing that is read can name code. Times travel as *time left*.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

import msgspec
import numpy as np

from sentinel.contract import Fault, Refusal
from sentinel.contract.codes import RefusalCode
from sentinel.core.errors import ErrorCode, SentinelError
from sentinel.serving import bounds
from sentinel.serving.batching.queue_of_rows import OverloadedError
from sentinel.serving.batching.scoring_worker import SOURCE, EventRefusedError
from sentinel.serving.batching.work import Answers, EventAnswers, Kind, TensorAnswers

_LENGTH = struct.Struct(">I")


class _Message(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """A message; its tag is the first element of its array."""


# --- from a front --------------------------------------------------------------------------------


class Hello(_Message, frozen=True, tag=0):
    """The first word of a front: which one it is, and whether its doors are open."""

    number: int
    is_open: bool


class AskEvents(_Message, frozen=True, tag=1):
    """Events to decide, to learn, or to take beside the state: ``kind`` is a :class:`Kind`."""

    id: int
    kind: int
    tenant: str
    left_us: int
    events: list[bytes]


class AskTensor(_Message, frozen=True, tag=2):
    """Rows of features: float32, C order; with ``why`` to be explained, too."""

    id: int
    tenant: str
    left_us: int
    n_features: int
    values: bytes
    why: bool = False
    request_id: str | None = None


class Abandon(_Message, frozen=True, tag=3):
    """Nobody waits for this one any more."""

    id: int


class Find(_Message, frozen=True, tag=4):
    """Look something up: ``decision``, ``explanation`` or ``release``."""

    id: int
    what: str
    event_id: str


class Counted(_Message, frozen=True, tag=5):
    """What a front has counted since it last said so."""

    by_status: dict[int, int]
    seconds: list[tuple[int, int]]
    total_s: float


# --- from the scoring process --------------------------------------------------------------------


class About(_Message, frozen=True, tag=16):
    """What is served; said first, and again when another release takes over."""

    model_name: str
    model_version: str
    n_features: int
    takes_feedback: bool
    document: bytes


class State(_Message, frozen=True, tag=17):
    """How the scoring process is."""

    is_live: bool
    is_started: bool
    is_ready: bool
    is_degraded: bool
    causes: tuple[str, ...]
    degraded_callers: tuple[str, ...]
    n_rows: int
    n_works: int


class WireError(_Message, frozen=True, tag=18):
    """An error as data: what :class:`SentinelError` holds, and what two of its kinds add."""

    code: str
    at: str
    expected: str
    got: str
    hint: str = ""
    retry_s: float | None = None
    refusal: str | None = None
    faults: tuple[tuple[str, str, str, str], ...] = ()


class EventsAnswered(_Message, frozen=True, tag=19):
    """Answers to events: an empty line stands for an error, which stands in ``errors``."""

    id: int
    lines: list[bytes]
    errors: list[tuple[int, WireError]]
    served: tuple[tuple[str, int], ...]


class TensorAnswered(_Message, frozen=True, tag=20):
    """Answers to rows of features: float32 scores, then one byte a row each."""

    id: int
    scores: bytes
    outcomes: bytes
    served_by: bytes
    reasons: bytes
    version: str


class Failed(_Message, frozen=True, tag=21):
    """There is no answer, and why."""

    id: int
    error: WireError


class Found(_Message, frozen=True, tag=22):
    """What was looked up; None: it is on its way."""

    id: int
    content: bytes | None


FromFront = Hello | AskEvents | AskTensor | Abandon | Find | Counted
FromScoring = About | State | EventsAnswered | TensorAnswered | Failed | Found
Message = FromFront | FromScoring

_ENCODER = msgspec.msgpack.Encoder()
FROM_FRONT: msgspec.msgpack.Decoder[FromFront] = msgspec.msgpack.Decoder(FromFront)
FROM_SCORING: msgspec.msgpack.Decoder[FromScoring] = msgspec.msgpack.Decoder(FromScoring)


def frame(message: Message) -> bytes:
    """Write a message with its length before it."""
    content = _ENCODER.encode(message)
    return _LENGTH.pack(len(content)) + content


class FrameReader:
    r"""Cuts what comes into frames, each bounded.

    Examples
    --------
    >>> reader = FrameReader()
    >>> [bytes(content) for content in reader.feed(bytes([0, 0, 0, 2, 7]))]
    []
    >>> [bytes(content) for content in reader.feed(bytes([8]))]
    [b'\x07\x08']
    """

    def __init__(self) -> None:
        self._left = b""

    def feed(self, data: bytes) -> Iterator[memoryview]:
        """Return the frames that are whole now.

        Raises
        ------
        SentinelError
            ``request-too-large`` for a frame beyond ``FRONT_FRAME_BYTES_MAX``.
        """
        content = memoryview(self._left + data if self._left else data)
        at, n_bytes = 0, len(content)
        while n_bytes - at >= _LENGTH.size:
            (length,) = _LENGTH.unpack_from(content, at)
            if length > bounds.FRONT_FRAME_BYTES_MAX:
                raise SentinelError(
                    ErrorCode.REQUEST_TOO_LARGE,
                    at="frame",
                    expected=f"at most {bounds.FRONT_FRAME_BYTES_MAX} bytes",
                    got=length,
                )
            end = at + _LENGTH.size + length
            if end > n_bytes:
                break
            yield content[at + _LENGTH.size : end]
            at = end
        self._left = bytes(content[at:])


def to_wire(error: SentinelError) -> WireError:
    """Write an error as data."""
    refusal = error.refusal if isinstance(error, EventRefusedError) else None
    return WireError(
        code=str(error.code),
        at=error.at,
        expected=error.expected,
        got=error.got,
        hint=error.hint,
        retry_s=error.retry_s if isinstance(error, OverloadedError) else None,
        refusal=None if refusal is None else str(refusal.code),
        faults=()
        if refusal is None
        else tuple((str(f.code), f.path, f.expected, f.got) for f in refusal.faults),
    )


def from_wire(wire: WireError) -> SentinelError:
    """Make the error of its data; the same in every word a caller may see.

    Raises
    ------
    ValueError
        For a code that there is not.
    """
    if wire.refusal is not None:
        faults = tuple(
            Fault(RefusalCode(code), path, expected, got)
            for code, path, expected, got in wire.faults
        )
        return EventRefusedError(
            Refusal(RefusalCode(wire.refusal), faults, SOURCE, 0, 0, b"", n_bytes=0)
        )
    if wire.retry_s is not None:
        return OverloadedError(expected=wire.expected, got=wire.got, retry_s=wire.retry_s)
    return SentinelError(
        ErrorCode(wire.code), at=wire.at, expected=wire.expected, got=wire.got, hint=wire.hint
    )


def to_answer(number: int, answers: Answers) -> EventsAnswered | TensorAnswered:
    """Write answers."""
    if isinstance(answers, TensorAnswers):
        return TensorAnswered(
            id=number,
            scores=np.array(answers.scores, dtype=np.float32).tobytes(),
            outcomes=bytes(answers.outcomes),
            served_by=bytes(answers.served_by),
            reasons=bytes(answers.reasons),
            version=answers.version,
        )
    lines: list[bytes] = []
    errors: list[tuple[int, WireError]] = []
    for place, line in enumerate(answers.lines):
        if isinstance(line, SentinelError):
            errors.append((place, to_wire(line)))
            lines.append(b"")
        else:
            lines.append(line)
    return EventsAnswered(number, lines, errors, answers.served)


def from_answer(message: EventsAnswered | TensorAnswered) -> Answers:
    """Read answers.

    Raises
    ------
    ValueError
        For what is none.
    """
    if isinstance(message, TensorAnswered):
        return TensorAnswers(
            scores=np.frombuffer(message.scores, dtype=np.float32).tolist(),
            outcomes=list(message.outcomes),
            served_by=list(message.served_by),
            reasons=list(message.reasons),
            version=message.version,
        )
    lines: list[bytes | SentinelError] = list(message.lines)
    for place, error in message.errors:
        lines[place] = from_wire(error)
    return EventAnswers(lines, message.served)


__all__ = [
    "FROM_FRONT",
    "FROM_SCORING",
    "Abandon",
    "About",
    "AskEvents",
    "AskTensor",
    "Counted",
    "EventsAnswered",
    "Failed",
    "Find",
    "Found",
    "FrameReader",
    "FromFront",
    "FromScoring",
    "Hello",
    "Kind",
    "Message",
    "State",
    "TensorAnswered",
    "WireError",
    "frame",
    "from_answer",
    "from_wire",
    "to_answer",
    "to_wire",
]
