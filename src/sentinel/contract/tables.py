"""A contract as tables of numbers, so that one compiled kernel serves every contract.

``rules`` has a row a field and a column for each thing the kernel must know of it. Names and
category values are found by SipHash in open-addressing tables of at most half load, and compared
byte by byte. The guess of the next field compares a whole name in 8-byte words.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from sentinel.contract.batch import Int64Array
from sentinel.contract.schema import ContractSchema, Field, FieldKind, FieldRole, TimeUnit
from sentinel.core.siphash import siphash

# What the kernel does with a value: the columns' kinds, with time split by how it is written.
# Those from TEXT on are JSON strings.
INTEGER, DECIMAL, FLOAT, BOOLEAN, TIME_MS, TIME_S, TEXT, CATEGORY, TIME_TEXT = range(9)

# Columns of ``rules``.
(
    KIND,
    NULLABLE,
    REQUIRED,
    MINIMUM,
    MAXIMUM,
    SCALE,
    BYTES_MIN,
    BYTES_MAX,
    TEXT_ROW,
    SKEW,
    NAME_BYTES,
    NAME_WORDS,
    NAME_MASK,
    N_COLUMNS,
) = range(14)

# Words of a name of 64 bytes and its closing quote.
N_NAME_WORDS = 9
# Columns of the lookup tables: owner (-1: empty slot), index, start and end in ``literals``.
OWNER, INDEX, START, END, N_SLOT_COLUMNS = range(5)
# Owner of the field names in the lookup table; fields own their category values.
NAMES = 0
# Spreads the slots of different owners.
OWNER_FACTOR = np.uint64(0x9E3779B97F4A7C15)

_KINDS = {
    FieldKind.TEXT: TEXT,
    FieldKind.INTEGER: INTEGER,
    FieldKind.DECIMAL: DECIMAL,
    FieldKind.FLOAT: FLOAT,
    FieldKind.BOOLEAN: BOOLEAN,
    FieldKind.CATEGORY: CATEGORY,
}
_TIME_KINDS = {
    TimeUnit.MILLISECONDS: TIME_MS,
    TimeUnit.SECONDS: TIME_S,
    TimeUnit.RFC3339: TIME_TEXT,
}


class Tables(NamedTuple):
    """What the kernel knows of a contract.

    Attributes
    ----------
    rules : ndarray of int64, shape (n_fields, N_COLUMNS)
        Bounds of floats as the bits of the float64.
    names : ndarray of uint64, shape (n_fields, N_NAME_WORDS)
        Each name with its closing quote, padded with zero bytes.
    slots : ndarray of int64, shape (n_slots, N_SLOT_COLUMNS)
        Lookup of names (owner 0) and of category values (owner field + 1).
    literals : ndarray of uint8
        The bytes that ``slots`` refers to.
    """

    rules: Int64Array
    names: npt.NDArray[np.uint64]
    slots: Int64Array
    literals: npt.NDArray[np.uint8]


def text_fields_of(schema: ContractSchema) -> tuple[str, ...]:
    """Return the names of the fields whose bytes are kept, in the order of their rows."""
    return tuple(field.name for field in schema.fields if field.kind is FieldKind.TEXT)


def build_tables(schema: ContractSchema) -> Tables:
    """Compile a contract; linear in its size."""
    text_fields = text_fields_of(schema)
    rules = np.zeros((len(schema.fields), N_COLUMNS), dtype=np.int64)
    names = np.zeros((len(schema.fields), N_NAME_WORDS), dtype=np.uint64)
    entries: list[tuple[int, int, bytes]] = []
    for index, field in enumerate(schema.fields):
        rules[index] = _rules_of(field)
        if field.name in text_fields:
            rules[index, TEXT_ROW] = text_fields.index(field.name)
        quoted = field.name.encode() + b'"'
        names[index] = np.frombuffer(quoted.ljust(8 * N_NAME_WORDS, b"\0"), dtype="<u8")
        entries.append((NAMES, index, field.name.encode()))
        entries.extend(
            (index + 1, position, value.encode()) for position, value in enumerate(field.values)
        )
    slots, literals = _lookup_of(entries)
    return Tables(rules=rules, names=names, slots=slots, literals=literals)


def _rules_of(field: Field) -> Int64Array:
    row = np.zeros(N_COLUMNS, dtype=np.int64)
    row[KIND] = _TIME_KINDS[field.unit] if field.kind is FieldKind.TIME else _KINDS[field.kind]
    row[NULLABLE] = field.nullable
    row[REQUIRED] = field.required
    if field.kind is FieldKind.FLOAT:
        bounds = np.array([field.minimum, field.maximum], dtype=np.float64)
        row[MINIMUM], row[MAXIMUM] = bounds.view(np.int64)
    elif field.minimum is not None and field.maximum is not None:
        row[MINIMUM], row[MAXIMUM] = field.minimum, field.maximum
    row[SCALE] = field.scale
    row[BYTES_MIN] = 0 if field.role is FieldRole.VALUE else 1
    row[BYTES_MAX] = field.bytes_max
    row[SKEW] = field.skew_ms_max if field.role is FieldRole.EVENT_TIME else -1
    n_bytes = len(field.name) + 1
    row[NAME_BYTES] = n_bytes
    row[NAME_WORDS] = (n_bytes + 7) // 8
    n_last = (n_bytes - 1) % 8 + 1
    row[NAME_MASK] = np.uint64((1 << 8 * n_last) - 1).view(np.int64)
    return row


def _lookup_of(entries: list[tuple[int, int, bytes]]) -> tuple[Int64Array, npt.NDArray[np.uint8]]:
    n_slots = 1 << (2 * len(entries)).bit_length()
    slots = np.full((n_slots, N_SLOT_COLUMNS), -1, dtype=np.int64)
    literals = np.frombuffer(b"".join(content for _, _, content in entries), dtype=np.uint8)
    start = 0
    for owner, index, content in entries:
        end = start + len(content)
        digest = int(siphash(literals, start, end)) ^ (owner * int(OWNER_FACTOR) & (1 << 64) - 1)
        slot = digest & (n_slots - 1)
        while slots[slot, OWNER] >= 0:
            slot = (slot + 1) & (n_slots - 1)
        slots[slot] = owner, index, start, end
        start = end
    return slots, literals
