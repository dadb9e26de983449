"""What a replay and its processes say to each other: a line of JSON and some bytes, framed.

Nothing that is sent is code: a feature set travels as its data, feedback as columns.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from typing import IO

import numpy as np

from sentinel.contract import ContractSchema
from sentinel.core import limits
from sentinel.core.errors import ErrorCode, SentinelError
from sentinel.features.history.partition import Learned, batch_of

_HEAD = struct.Struct("<II")
_ERROR_PARTS = ("code", "at", "expected", "got", "hint")


def send(stream: IO[bytes], message: Mapping[str, object], content: bytes = b"") -> None:
    """Write one message."""
    head = json.dumps(message).encode()
    stream.write(_HEAD.pack(len(head), len(content)))
    stream.write(head)
    stream.write(content)
    stream.flush()


def receive(stream: IO[bytes]) -> tuple[dict[str, object], bytes] | None:
    """Read one message; None where the other side has gone."""
    first = stream.read(_HEAD.size)
    if len(first) < _HEAD.size:
        return None
    n_head, n_content = _HEAD.unpack(first)
    if max(n_head, n_content) > limits.REPLAY_MESSAGE_BYTES_MAX:
        return None
    head, content = stream.read(n_head), stream.read(n_content)
    if len(head) < n_head or len(content) < n_content:
        return None
    return json.loads(head), content


def pack_learned(learned: tuple[Learned, ...]) -> tuple[list[list[int]], bytes]:
    """Write feedback as a list of (row, number) and the bytes of its columns."""
    sizes, parts = [], []
    for each in learned:
        sizes.append([each.at, each.batch.n_rows])
        parts += [each.batch.values.tobytes(), each.batch.present.tobytes()]
        parts.append(each.known_at_ms.tobytes())
    return sizes, b"".join(parts)


def unpack_learned(
    schema: ContractSchema, sizes: list[list[int]], content: bytes
) -> tuple[Learned, ...]:
    """Read what :func:`pack_learned` wrote."""
    found, at, n_fields = [], 0, len(schema.fields)
    for row, n_rows in sizes:
        count = n_fields * n_rows
        values = np.frombuffer(content, np.int64, count, at).reshape(n_fields, n_rows)
        at += 8 * count
        present = np.frombuffer(content, np.bool_, count, at).reshape(n_fields, n_rows)
        at += count
        known = np.frombuffer(content, np.int64, n_rows, at)
        at += 8 * n_rows
        batch = batch_of(schema, values, present, received_at_ms=known)
        found.append(Learned(at=row, batch=batch, known_at_ms=known))
    return tuple(found)


def pack_error(error: SentinelError) -> dict[str, object]:
    """Write an error as data."""
    return {"error": {part: str(getattr(error, part)) for part in _ERROR_PARTS}}


def unpack_error(data: Mapping[str, str]) -> SentinelError:
    """Read an error back."""
    return SentinelError(
        ErrorCode(data["code"]),
        at=data["at"],
        expected=data["expected"],
        got=data["got"],
        hint=data["hint"],
    )
