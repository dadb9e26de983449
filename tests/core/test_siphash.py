"""SipHash-2-4 agrees with its authors, at every length and alignment."""

from __future__ import annotations

import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sentinel.core.siphash import siphash, siphash_rows

# Aumasson, Bernstein: test vectors of SipHash-2-4 with 64 bits of output, key 00 01 … 0f,
# message 00 01 … of length 0, 1, 2 …; eight bytes each, little end first.
VECTORS = (
    "310e0edd47db6f72", "fd67dc93c539f874", "5a4fa9d909806c0d", "2d7efbd796666785",
    "b7877127e09427cf", "8da699cd64557618", "cee3fe586e46c9cb", "37d1018bf50002ab",
    "6224939a79f5f593", "b0e4a90bdf82009e", "f3b9dd94c5bb5d7a", "a7ad6b22462fb3f4",
    "fbe50e86bc8f1e75", "903d84c02756ea14", "eef27a8e90ca23f7", "e545be4961ca29a1",
)  # fmt: skip
MASK = (1 << 64) - 1


def _rotate(word: int, n_bits: int) -> int:
    return (word << n_bits | word >> (64 - n_bits)) & MASK


def _plain(message: bytes) -> int:
    """SipHash-2-4 in plain Python, from section 2 of the paper."""
    k0, k1 = struct.unpack("<QQ", bytes(range(16)))
    v = [
        k0 ^ 0x736F6D6570736575,
        k1 ^ 0x646F72616E646F6D,
        k0 ^ 0x6C7967656E657261,
        k1 ^ 0x7465646279746573,
    ]

    def compress(n_rounds: int) -> None:
        for _ in range(n_rounds):
            v[0] = (v[0] + v[1]) & MASK
            v[2] = (v[2] + v[3]) & MASK
            v[1] = _rotate(v[1], 13) ^ v[0]
            v[3] = _rotate(v[3], 16) ^ v[2]
            v[0] = _rotate(v[0], 32)
            v[2] = (v[2] + v[1]) & MASK
            v[0] = (v[0] + v[3]) & MASK
            v[1] = _rotate(v[1], 17) ^ v[2]
            v[3] = _rotate(v[3], 21) ^ v[0]
            v[2] = _rotate(v[2], 32)

    padding = bytes(-(len(message) + 1) % 8)
    for (word,) in struct.iter_unpack("<Q", message + padding + bytes([len(message) % 256])):
        v[3] ^= word
        compress(2)
        v[0] ^= word
    v[2] ^= 0xFF
    compress(4)
    return v[0] ^ v[1] ^ v[2] ^ v[3]


def _native(message: bytes, *, before: int = 0, after: int = 0) -> int:
    content = np.frombuffer(bytearray(before) + message + bytearray(after), dtype=np.uint8)
    return int(siphash(content, before, before + len(message)))


@pytest.mark.parametrize("length", range(len(VECTORS)))
def test_the_vectors_of_the_authors_hold(length: int) -> None:
    """For the kernel, and for the plain one that judges it below."""
    message = bytes(range(length))
    expected = int.from_bytes(bytes.fromhex(VECTORS[length]), "little")
    assert _plain(message) == expected
    assert _native(message) == expected


@given(message=st.binary(max_size=300), before=st.integers(0, 9), after=st.integers(0, 9))
def test_any_message_anywhere_in_a_buffer_has_its_hash(
    message: bytes, before: int, after: int
) -> None:
    """Neither what stands before nor what stands after takes part."""
    assert _native(message, before=before, after=after) == _plain(message)


def test_a_length_over_255_is_taken_by_its_last_byte() -> None:
    """As the paper has it."""
    for length in (255, 256, 257, 511, 1000):
        assert _native(bytes(length)) == _plain(bytes(length))


@pytest.mark.parametrize("shape", [(0, 8), (5, 1), (7, 8), (3, 129)])
def test_rows_are_hashed_one_by_one(shape: tuple[int, int]) -> None:
    """A matrix gives the hash of each row."""
    content = np.random.default_rng(1).integers(0, 256, shape).astype(np.uint8)
    assert siphash_rows(content).tolist() == [_plain(row.tobytes()) for row in content]
