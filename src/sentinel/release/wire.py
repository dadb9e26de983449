"""A small reader of ONNX's wire format that cannot be surprised.

Protocol Buffers (encoding specification, protobuf.dev) write a message as a row of fields: a tag
``number << 3 | kind`` as a varint, then a varint (kind 0), 8 bytes (1), a length and that many
bytes (2), or 4 bytes (5). General parsers skip what they do not know, merge what comes twice and
recurse as deep as the input asks. This one reads a closed list of messages with a closed list of
fields each; it does not recurse beyond that list; everything else is refused. So what is admitted
has one reading, here and in the runtime.

1. :func:`fields` splits one message, checks each tag against the message's table, and refuses a
   field that may stand once and stands twice.
2. Repeated numbers of tree attributes come in tens of thousands: they are split by NumPy.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from sentinel.core import limits
from sentinel.core.errors import ErrorCode, SentinelError

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5
_VARINT_BYTES_MAX = 10
_INT64_BITS = 64


class Field(NamedTuple):
    """One field that a message may have: its name, its kind on the wire, whether it repeats."""

    name: str
    kind: int
    repeats: bool = False


Table = Mapping[int, Field]

# The messages of onnx.proto (IR 8 to 10), without what is never admitted: functions, training,
# subgraphs, sparse and external tensors, string tensors, quantisation annotations, devices.
ENTRY: Table = {1: Field("key", BYTES), 2: Field("value", BYTES)}
OPSET: Table = {1: Field("domain", BYTES), 2: Field("version", VARINT)}
MODEL: Table = {
    1: Field("ir_version", VARINT),
    2: Field("producer_name", BYTES),
    3: Field("producer_version", BYTES),
    4: Field("domain", BYTES),
    5: Field("model_version", VARINT),
    6: Field("doc_string", BYTES),
    7: Field("graph", BYTES),
    8: Field("opset_import", BYTES, repeats=True),
    14: Field("metadata_props", BYTES, repeats=True),
}
GRAPH: Table = {
    1: Field("node", BYTES, repeats=True),
    2: Field("name", BYTES),
    5: Field("initializer", BYTES, repeats=True),
    10: Field("doc_string", BYTES),
    11: Field("input", BYTES, repeats=True),
    12: Field("output", BYTES, repeats=True),
}
NODE: Table = {
    1: Field("input", BYTES, repeats=True),
    2: Field("output", BYTES, repeats=True),
    3: Field("name", BYTES),
    4: Field("op_type", BYTES),
    5: Field("attribute", BYTES, repeats=True),
    6: Field("doc_string", BYTES),
    7: Field("domain", BYTES),
}
ATTRIBUTE: Table = {
    1: Field("name", BYTES),
    2: Field("f", FIXED32),
    3: Field("i", VARINT),
    4: Field("s", BYTES),
    7: Field("floats", FIXED32, repeats=True),
    8: Field("ints", VARINT, repeats=True),
    9: Field("strings", BYTES, repeats=True),
    13: Field("doc_string", BYTES),
    20: Field("type", VARINT),
}
TENSOR: Table = {
    1: Field("dims", VARINT, repeats=True),
    2: Field("data_type", VARINT),
    8: Field("name", BYTES),
    9: Field("raw_data", BYTES),
    12: Field("doc_string", BYTES),
}
VALUE: Table = {1: Field("name", BYTES), 2: Field("type", BYTES), 3: Field("doc_string", BYTES)}
TYPE: Table = {1: Field("tensor_type", BYTES)}
TENSOR_TYPE: Table = {1: Field("elem_type", VARINT), 2: Field("shape", BYTES)}
SHAPE: Table = {1: Field("dim", BYTES, repeats=True)}
DIM: Table = {1: Field("dim_value", VARINT), 2: Field("dim_param", BYTES)}


class Message:
    """The fields of one message, by name.

    Parameters
    ----------
    at : str
        Place, for errors.
    """

    __slots__ = ("at", "numbers", "parts")

    def __init__(self, at: str) -> None:
        self.at = at
        self.numbers: dict[str, list[int]] = {}
        self.parts: dict[str, list[bytes]] = {}

    def number(self, name: str, default: int = 0) -> int:
        """Return a single integer."""
        found = self.numbers.get(name)
        return found[0] if found else default

    def bytes_of(self, name: str) -> bytes:
        """Return a single piece of bytes; empty where there is none."""
        found = self.parts.get(name)
        return found[0] if found else b""

    def text(self, name: str) -> str:
        """Return a single text: ASCII, bounded."""
        return plain_text(self.bytes_of(name), at=f"{self.at}.{name}")

    def has(self, name: str) -> bool:
        """Whether the field stands there."""
        return name in self.parts or name in self.numbers

    def all(self, name: str) -> list[bytes]:
        """Return the pieces of a repeated field."""
        return self.parts.get(name, [])


def plain_text(content: bytes, *, at: str) -> str:
    """Read a name: printable ASCII of bounded length."""
    if len(content) > limits.MODEL_TEXT_BYTES_MAX:
        raise refuse(at, f"at most {limits.MODEL_TEXT_BYTES_MAX} bytes of text", len(content))
    if not all(0x20 <= byte < 0x7F for byte in content):
        raise refuse(at, "printable ASCII", content)
    return content.decode("ascii")


def fields(content: bytes, table: Table, *, at: str, n_max: int) -> Message:
    """Split one message into its fields; linear in its size.

    Parameters
    ----------
    content : bytes
        The message.
    table : mapping of int to Field
        Fields that may stand in it.
    at : str
        Place, for errors.
    n_max : int
        Most fields that it may have.

    Raises
    ------
    SentinelError
        ``release-not-admitted`` for an unknown field, another wire kind, a repeated single
        field, a length past the end, a varint that is not minimal.
    """
    message = Message(at)
    position, end, n_fields = 0, len(content), 0
    while position < end:
        tag, position = _varint(content, position, at)
        field = table.get(tag >> 3)
        if field is None or field.kind != tag & 7:
            raise refuse(at, "a field of the allow-list", f"field {tag >> 3} of kind {tag & 7}")
        n_fields += 1
        if n_fields > n_max:
            raise refuse(at, f"at most {n_max} fields", "more")
        if field.kind == VARINT:
            number, position = _varint(content, position, at)
            numbers = message.numbers.setdefault(field.name, [])
            numbers.append(_signed(number))
            n_same = len(numbers)
        else:
            length = 4 if field.kind == FIXED32 else 8
            if field.kind == BYTES:
                length, position = _varint(content, position, at)
            if length > end - position:
                raise refuse(at, f"{end - position} bytes or fewer", length)
            parts = message.parts.setdefault(field.name, [])
            parts.append(content[position : position + length])
            position += length
            n_same = len(parts)
        if n_same > 1 and not field.repeats:
            raise refuse(at, f"{field.name} once", "twice")
    return message


def attribute_rows(content: bytes, *, at: str) -> tuple[Message, npt.NDArray[np.generic] | None]:
    """Split an attribute whose rows of numbers are long.

    The writers of ONNX put the repeated field in one piece between ``name`` and ``type``. The
    piece is cut out and split by NumPy; the rest goes through :func:`fields`.

    Returns
    -------
    message : Message
        Everything but the long row.
    row : ndarray of int64 or float32, or None
        The row, where there is one of numbers.
    """
    start, tag = _row_start(content, at)
    if tag not in (_FLOATS_TAG, _INTS_TAG):
        n_max = limits.MODEL_NODES_MAX + 8
        return fields(content, ATTRIBUTE, at=at, n_max=n_max), None
    row: npt.NDArray[np.generic]
    if tag == _FLOATS_TAG:
        row, length = _float_row(content, start)
    else:
        row, length = _int_row(content, start, at)
    rest = fields(content[:start] + content[start + length :], ATTRIBUTE, at=at, n_max=8)
    for name in ("floats", "ints", "strings", "f", "i", "s"):
        if rest.has(name):
            raise refuse(at, "one row in one piece", f"{name} beside it")
    return rest, row


_FLOATS_TAG = 7 << 3 | FIXED32
_INTS_TAG = 8 << 3 | VARINT


def _row_start(content: bytes, at: str) -> tuple[int, int]:
    """Step over the attribute's name; return where the next field starts and its tag."""
    if not content or content[0] != (1 << 3 | BYTES):
        raise refuse(at, "an attribute that starts with its name", content[:1])
    length, position = _varint(content, 1, at)
    position += length
    return position, content[position] if position < len(content) else -1


def _float_row(content: bytes, start: int) -> tuple[npt.NDArray[np.float32], int]:
    cells = np.frombuffer(content, np.uint8, offset=start)
    cells = cells[: len(cells) // 5 * 5].reshape(-1, 5)
    is_tag = cells[:, 0] == _FLOATS_TAG
    n_cells = len(is_tag) if is_tag.all() else int(np.argmin(is_tag))
    row = np.ascontiguousarray(cells[:n_cells, 1:]).view("<f4").reshape(-1)
    return row.astype(np.float32), n_cells * 5


def _int_row(content: bytes, start: int, at: str) -> tuple[npt.NDArray[np.int64], int]:
    """Split ``tag varint tag varint ...``: every second varint is a value."""
    body = np.frombuffer(content, np.uint8, offset=start)
    ends = np.flatnonzero(body < 0x80)
    # A tag is one byte, so a tag's end is its start: one after the end before it.
    starts = np.concatenate([[0], ends[:-1] + 1])
    tags = ends[::2]
    is_tag = (starts[::2] == tags) & (body[tags] == _INTS_TAG)
    n_rows = len(is_tag) if is_tag.all() else int(np.argmin(is_tag))
    value_starts, value_ends = starts[1 : 2 * n_rows : 2], ends[1 : 2 * n_rows : 2]
    if n_rows == 0 or len(value_ends) != n_rows:
        raise refuse(at, "whole integers", "one that is cut")
    lengths = value_ends - value_starts + 1
    # Node ids, tree ids and feature ids are small and never negative.
    if lengths.max() > 4 or ((body[value_ends] == 0) & (lengths > 1)).any():
        raise refuse(at, "small integers in their shortest form", "others")
    row = np.zeros(n_rows, dtype=np.int64)
    for k in range(int(lengths.max())):
        has = lengths > k
        row[has] |= (body[value_starts[has] + k] & 0x7F).astype(np.int64) << (7 * k)
    return row, int(value_ends[-1]) + 1


def _varint(content: bytes, position: int, at: str) -> tuple[int, int]:
    result = shift = 0
    for position_here in range(position, min(position + _VARINT_BYTES_MAX, len(content))):
        byte = content[position_here]
        result |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            if (byte == 0 and shift > 7) or result >= 1 << _INT64_BITS:
                raise refuse(at, "integers in their shortest form", "a longer one")
            return result, position_here + 1
    raise refuse(at, "a whole integer", "a cut or endless one")


def _signed(number: int) -> int:
    return number - (1 << _INT64_BITS) if number >= 1 << (_INT64_BITS - 1) else number


def refuse(at: str, expected: str, got: object) -> SentinelError:
    """Make the error of a model that is not admitted."""
    return SentinelError(
        ErrorCode.RELEASE_NOT_ADMITTED,
        at=at,
        expected=expected,
        got=got,
        hint="Only models of the allow-list are opened (docs/release.md).",
    )
