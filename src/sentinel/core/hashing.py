"""Canonical JSON and SHA-256: how everything that has an identity gets it.

Canonical JSON here is: UTF-8, keys sorted by code point, no white space, no NaN or infinity,
floats in Python's shortest round-trip form. It is the form of RFC 8785 for the values that
Sentinel writes (strings, booleans, null, integers, finite floats, lists, string-keyed objects).
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

_CHUNK_BYTES = 1 << 20


def canonical_json(value: object) -> bytes:
    """Encode plain data to its one canonical form.

    Raises
    ------
    ValueError
        For NaN and infinity: our own invariant, never input.

    Examples
    --------
    >>> canonical_json({"b": 1, "a": [1.5, None]})
    b'{"a":[1.5,null],"b":1}'
    """
    text = json.dumps(
        value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
    )
    return text.encode()


def sha256_hex(content: bytes | memoryview) -> str:
    """Hash bytes; 64 lower-case hexadecimal digits."""
    return hashlib.sha256(content).hexdigest()


def sha256_of(value: object) -> str:
    """Hash plain data by its canonical JSON."""
    return sha256_hex(canonical_json(value))


def sha256_file(path: Path) -> str:
    """Hash a file without holding it in memory; linear in its size."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()
