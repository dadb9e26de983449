"""What the server and its explainer say to each other: frames of MessagePack over pipes.

A frame is its length, four bytes, little-endian, and that many bytes. The server asks, the
explainer tells; there is one question at a time.
"""

from __future__ import annotations

import contextlib
import os
import select
import struct
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import BinaryIO

import msgspec
import numpy as np
import numpy.typing as npt

from sentinel.core.errors import ErrorCode, SentinelError
from sentinel.scoring.explanation import ScoredRows
from sentinel.serving import bounds

_LENGTH = struct.Struct("<I")
# What a pipe holds, where the system lets it: the answer to a batch.
READ_BYTES = 1 << 20


class Ask(msgspec.Struct, frozen=True, array_like=True):
    """Rows of one release that are to be explained.

    Attributes
    ----------
    digest, folder : str
        Of the release that decided.
    event_ids : list of bytes
    values, status, score, outcome, served_by : bytes
        Columns, as :class:`~sentinel.scoring.explanation.ScoredRows` has them.
    """

    digest: str
    folder: str
    event_ids: list[bytes]
    values: bytes
    status: bytes
    score: bytes
    outcome: bytes
    served_by: bytes

    @classmethod
    def of(cls, digest: str, folder: str, event_ids: Sequence[bytes], rows: ScoredRows) -> Ask:
        """Put a question together."""
        return cls(
            digest=digest,
            folder=folder,
            event_ids=list(event_ids),
            values=rows.values.tobytes(),
            status=rows.status.tobytes(),
            score=rows.score.tobytes(),
            outcome=rows.outcome.tobytes(),
            served_by=rows.served_by.tobytes(),
        )

    def rows(self) -> ScoredRows:
        """Return the rows.

        Raises
        ------
        ValueError
            When the columns do not fit each other.
        """
        n = len(self.event_ids)

        def table(content: bytes, dtype: npt.DTypeLike) -> npt.NDArray[np.generic]:
            return np.frombuffer(content, dtype=dtype).reshape(n, -1)

        return ScoredRows(
            values=table(self.values, np.float32).astype(np.float32),
            status=table(self.status, np.uint8).astype(np.uint8),
            score=table(self.score, np.float64)[:, 0].astype(np.float64),
            outcome=table(self.outcome, np.uint8)[:, 0].astype(np.uint8),
            served_by=table(self.served_by, np.uint8)[:, 0].astype(np.uint8),
        )


class Told(msgspec.Struct, frozen=True, array_like=True):
    """What became of the rows.

    Attributes
    ----------
    answers : list of bytes
        Explanations as JSON; empty where there is none.
    absences : list of str
        Why there is none; empty where there is one.
    error : str
        Why the release cannot be explained at all; empty when it can.
    """

    answers: list[bytes]
    absences: list[str]
    error: str = ""


@dataclass(frozen=True, slots=True)
class Lost:
    """The other side did not answer.

    Attributes
    ----------
    why : str
    """

    why: str


def write_frame(pipe: BinaryIO, message: msgspec.Struct) -> None:
    """Write one message.

    Raises
    ------
    OSError
        When nobody reads.
    """
    content = msgspec.msgpack.encode(message)
    pipe.write(_LENGTH.pack(len(content)) + content)
    pipe.flush()


def read_frame(pipe: BinaryIO) -> bytes | None:
    """Wait for one message; None at the end."""
    head = pipe.read(_LENGTH.size)
    if len(head) < _LENGTH.size:
        return None
    return pipe.read(_checked(_LENGTH.unpack(head)[0]))


def write_frame_until(descriptor: int, message: msgspec.Struct, deadline_s: float) -> Lost | None:
    """Write one message, but wait no longer than that for a reader.

    Parameters
    ----------
    descriptor : int
        Of a pipe that does not block.
    message : Struct
    deadline_s : float
        On the monotonic clock.

    Raises
    ------
    OSError
        When nobody reads any more.
    """
    content = msgspec.msgpack.encode(message)
    left = memoryview(_LENGTH.pack(len(content)) + content)
    poll = select.poll()
    poll.register(descriptor, select.POLLOUT)
    while left:
        left_s = deadline_s - time.monotonic()
        if left_s <= 0 or not poll.poll(left_s * 1000):
            return Lost("it does not read")
        with contextlib.suppress(BlockingIOError):
            left = left[os.write(descriptor, left) :]
    return None


def read_frame_until(descriptor: int, deadline_s: float) -> bytes | Lost:
    """Wait for one message, but no longer than that.

    Parameters
    ----------
    descriptor : int
        Of a pipe that does not block.
    deadline_s : float
        On the monotonic clock.
    """
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    parts: list[bytes] = []
    n_found, n_wanted = 0, _LENGTH.size
    while n_found < n_wanted:
        left_s = deadline_s - time.monotonic()
        if left_s <= 0 or not poll.poll(left_s * 1000):
            return Lost("no answer in time")
        try:
            part = os.read(descriptor, READ_BYTES)
        except BlockingIOError:
            continue
        if not part:
            return Lost("it has ended")
        parts.append(part)
        n_found += len(part)
        if n_wanted == _LENGTH.size and n_found >= _LENGTH.size:
            parts = [b"".join(parts)]
            n_wanted += _checked(_LENGTH.unpack(parts[0][: _LENGTH.size])[0])
    return b"".join(parts)[_LENGTH.size :]


def _checked(n_bytes: int) -> int:
    if n_bytes > bounds.EXPLAINER_MESSAGE_BYTES_MAX:
        raise SentinelError(
            ErrorCode.INTERNAL,
            at="explainer",
            expected=f"at most {bounds.EXPLAINER_MESSAGE_BYTES_MAX} bytes",
            got=n_bytes,
        )
    return n_bytes
