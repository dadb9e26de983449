"""Aggregates as an algebra: ``empty``, ``update``, ``merge`` and, for exact ones, ``subtract``.

An aggregate keeps its partial result in a few int64 words (a float64 by its bits). One function
of each kind serves every aggregate, told apart by its opcode, so that one compiled kernel works
for every feature set. For partial results ``a``, ``b``, ``c`` of the same aggregate:

* ``merge(empty, a) = a``, ``merge(a, b) = merge(b, a)``, ``merge`` is associative: bit for bit
  for all but ``SUM_FLOAT`` and ``MOMENTS_FLOAT``, for those within rounding;
* ``update(a, v) = merge(a, update(empty, v))``, within the same bounds;
* where :data:`IS_LINEAR`, ``subtract(merge(a, b), b) = a`` bit for bit.

Sources
-------
Variance of integers: ``n Σv² - (Σv)²`` in 128 bits, exact, therefore without cancellation.
Variance of floats: Chan, Golub, LeVeque, "Updating formulae and a pairwise algorithm for
computing sample variances", Stanford CS-79-773, 1979.
Distinct count: the hashes themselves, sorted, up to 16: exact. From there on Flajolet, Fusy,
Gandouet, Meunier, "HyperLogLog", AofA 2007, in the same words: 256 registers of four bits, with
linear counting below 2.5 × 256. Standard error at most 6.5 %.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from sentinel.core.native import native_lean, native_lean_inline

Int64Array = npt.NDArray[np.int64]
Float64Array = npt.NDArray[np.float64]

COUNT = 0
SUM_INT = 1
SQUARES_INT = 2
SUM_FLOAT = 3
MOMENTS_FLOAT = 4
MINIMUM_INT = 5
MAXIMUM_INT = 6
MINIMUM_FLOAT = 7
MAXIMUM_FLOAT = 8
DISTINCT = 9
LAST = 10
POSITION = 11

# Words of each aggregate's partial result.
WORDS = (1, 1, 2, 1, 3, 1, 1, 1, 1, 17, 3, 4)
# Whether a partial result can be taken out of a total again, exactly.
IS_LINEAR = (True, True, True, *([False] * 9))
# Whether the aggregate reads its column as float64.
IS_FLOAT = (False, False, False, True, True, False, False, True, True, False, False, True)

INT64_MIN = -(1 << 63)
INT64_MAX = (1 << 63) - 1

DISTINCT_REGISTERS = 256
_REGISTER_WORDS = 16
_RANK_MAX = 15
_ALPHA = 0.7213 / (1.0 + 1.079 / DISTINCT_REGISTERS)
# Word 16 of a sketch: how many hashes it holds, up to 16; after that 2^16 times the sum of
# 2^(15 - rank) over all registers, which is 256 or more, and how many registers are zero.
_SUM_UNIT = 1 << 16
_EMPTY_REGISTERS = DISTINCT_REGISTERS * (1 << _RANK_MAX) * _SUM_UNIT + DISTINCT_REGISTERS
_LOW_32 = (1 << 32) - 1
_LOW_NIBBLES = np.uint64(0x0F0F0F0F0F0F0F0F)
_HIGH_BITS = np.uint64(0x8080808080808080)

EARTH_RADIUS_KM = 6371.0088


def empty(opcode: int) -> Int64Array:
    """Return the partial result of no event at all.

    Returns
    -------
    ndarray of int64, shape (WORDS[opcode],)
    """
    words = np.zeros(WORDS[opcode], dtype=np.int64)
    if opcode == MINIMUM_INT:
        words[0] = INT64_MAX
    elif opcode == MAXIMUM_INT:
        words[0] = INT64_MIN
    elif opcode == MINIMUM_FLOAT:
        words.view(np.float64)[0] = np.inf
    elif opcode == MAXIMUM_FLOAT:
        words.view(np.float64)[0] = -np.inf
    elif opcode in {LAST, POSITION}:
        words[0] = INT64_MIN
        words[1] = INT64_MIN
    return words


@native_lean_inline
def mix(word: int) -> np.uint64:
    """Spread the bits of a key (the finalizer of SplitMix64)."""
    z = np.uint64(word) + np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


@native_lean_inline
def _raise_register(words: Int64Array, at: int, key: int | np.int64) -> None:
    """Raise one register to the rank of a hash, and keep the sum over registers in step."""
    h = np.uint64(key)
    register = np.int64(h & np.uint64(DISTINCT_REGISTERS - 1))
    rest = h >> np.uint64(8)
    rank = 1
    while rank < _RANK_MAX and rest & np.uint64(1) == np.uint64(0):
        rest = rest >> np.uint64(1)
        rank += 1
    shift = np.int64(4 * (register & 15))
    word = at + (register >> 4)
    old = (words[word] >> shift) & 15
    if rank > old:
        words[word] = np.int64(words[word] ^ ((old ^ rank) << shift))
        words[at + 16] += ((1 << (15 - rank)) - (1 << (15 - old))) * _SUM_UNIT
        if old == 0:
            words[at + 16] -= 1


@native_lean_inline
def _sixteen(words: Int64Array, at: int) -> tuple[int, ...]:
    """Copy the sixteen words of a sketch out of the arena."""
    return (
        words[at],
        words[at + 1],
        words[at + 2],
        words[at + 3],
        words[at + 4],
        words[at + 5],
        words[at + 6],
        words[at + 7],
        words[at + 8],
        words[at + 9],
        words[at + 10],
        words[at + 11],
        words[at + 12],
        words[at + 13],
        words[at + 14],
        words[at + 15],
    )


@native_lean
def _distinct_add(words: Int64Array, at: int, key: int | np.int64) -> None:
    """Take a hash into a sketch: among the sorted ones, or, from the 17th on, into registers."""
    n = words[at + 16]
    if n > _REGISTER_WORDS:
        _raise_register(words, at, key)
        return
    place = 0
    while place < n and words[at + place] < key:
        place += 1
    if place < n and words[at + place] == key:
        return
    if n < _REGISTER_WORDS:
        for i in range(n, place, -1):
            words[at + i] = words[at + i - 1]
        words[at + place] = key
        words[at + 16] = n + 1
        return
    hashes = _sixteen(words, at)
    for i in range(_REGISTER_WORDS):
        words[at + i] = 0
    words[at + 16] = _EMPTY_REGISTERS
    for kept in hashes:
        _raise_register(words, at, kept)
    _raise_register(words, at, key)


@native_lean_inline
def _larger_bytes(a: np.uint64, b: np.uint64) -> np.uint64:
    """Take the larger of each of eight bytes below 128."""
    is_larger = (((a | _HIGH_BITS) - b) & _HIGH_BITS) >> np.uint64(7)
    mask = is_larger * np.uint64(0xFF)
    return (a & mask) | (b & ~mask)


@native_lean
def _distinct_merge(words: Int64Array, at: int, other: int) -> None:
    """Unite two sketches: add hashes, or take the larger of each register."""
    n, n_other = words[at + 16], words[other + 16]
    if n_other <= _REGISTER_WORDS:
        for i in range(n_other):
            _distinct_add(words, at, words[other + i])
        return
    if n <= _REGISTER_WORDS:
        hashes = _sixteen(words, at)
        for i in range(_REGISTER_WORDS + 1):
            words[at + i] = words[other + i]
        for i in range(_REGISTER_WORDS):
            if i < n:
                _raise_register(words, at, hashes[i])
        return
    for i in range(_REGISTER_WORDS):
        a = np.uint64(words[at + i])
        b = np.uint64(words[other + i])
        low = _larger_bytes(a & _LOW_NIBBLES, b & _LOW_NIBBLES)
        high = _larger_bytes((a >> np.uint64(4)) & _LOW_NIBBLES, (b >> np.uint64(4)) & _LOW_NIBBLES)
        words[at + i] = np.int64(low | (high << np.uint64(4)))
    total = np.int64(0)
    n_zero = np.int64(0)
    for i in range(_REGISTER_WORDS):
        word = np.uint64(words[at + i])
        for _ in range(16):
            rank = word & np.uint64(15)
            total += 1 << (15 - np.int64(rank))
            n_zero += rank == np.uint64(0)
            word = word >> np.uint64(4)
    words[at + 16] = total * _SUM_UNIT + n_zero


@native_lean_inline
def distinct_finish(words: Int64Array, at: int) -> float:
    """Return the distinct count: exact up to 16, then estimated and rounded to a whole number."""
    packed = words[at + 16]
    if packed <= _REGISTER_WORDS:
        return float(packed)
    n_zero = packed & (_SUM_UNIT - 1)
    total = (packed >> 16) / 32768.0
    estimate = _ALPHA * DISTINCT_REGISTERS * DISTINCT_REGISTERS / total
    if estimate <= 2.5 * DISTINCT_REGISTERS and n_zero > 0:
        estimate = DISTINCT_REGISTERS * math.log(DISTINCT_REGISTERS / n_zero)
    whole: float = math.floor(estimate + 0.5)
    return whole


@native_lean_inline
def update(
    opcode: int, words: Int64Array, floats: Float64Array, at: int, value: int, real: float
) -> None:
    """Take one value into the partial result at ``words[at:]``; O(1).

    ``floats`` is the same memory as ``words``. ``value`` is the int64 of the value and ``real``
    the float64 of its bits; ``LAST`` and ``POSITION`` have :func:`update_last`.
    """
    if opcode == COUNT:
        words[at] += 1
    elif opcode == SUM_INT:
        words[at] += value
    elif opcode == SQUARES_INT:
        square = value * value
        words[at] += square & _LOW_32
        words[at + 1] += square >> 32
    elif opcode == SUM_FLOAT:
        floats[at] += real
    elif opcode == MOMENTS_FLOAT:
        words[at] += 1
        delta = real - floats[at + 1]
        floats[at + 1] += delta / words[at]
        floats[at + 2] += delta * (real - floats[at + 1])
    elif opcode == MINIMUM_INT:
        words[at] = min(words[at], value)
    elif opcode == MAXIMUM_INT:
        words[at] = max(words[at], value)
    elif opcode == MINIMUM_FLOAT:
        floats[at] = min(floats[at], real)
    elif opcode == MAXIMUM_FLOAT:
        floats[at] = max(floats[at], real)
    elif opcode == DISTINCT:
        _distinct_add(words, at, np.int64(mix(value)))


@native_lean_inline
def is_later(words: Int64Array, at: int, time: int, tie: int) -> bool:
    """Whether ``(time, tie)`` comes after what is kept at ``words[at:]``."""
    kept_time: int = words[at]
    return time > kept_time or (time == kept_time and tie > int(words[at + 1]))


@native_lean_inline
def _moments_merge(words: Int64Array, floats: Float64Array, at: int, other: int) -> None:
    """Merge (n, mean, M2) by Chan's formula."""
    n_b = words[other]
    if n_b == 0:
        return
    if words[at] == 0:
        for i in range(3):
            words[at + i] = words[other + i]
        return
    n = words[at] + n_b
    delta = floats[other + 1] - floats[at + 1]
    floats[at + 2] += floats[other + 2] + delta * delta * (words[at] / n) * n_b
    floats[at + 1] += delta * n_b / n
    words[at] = n


@native_lean_inline
def merge(opcode: int, words: Int64Array, floats: Float64Array, at: int, other: int) -> None:
    """Merge the partial result at ``words[other:]`` into the one at ``words[at:]``."""
    if opcode in (COUNT, SUM_INT):
        words[at] += words[other]
    elif opcode == SQUARES_INT:
        words[at] += words[other]
        words[at + 1] += words[other + 1]
    elif opcode == SUM_FLOAT:
        floats[at] += floats[other]
    elif opcode == MOMENTS_FLOAT:
        _moments_merge(words, floats, at, other)
    elif opcode == MINIMUM_INT:
        words[at] = min(words[at], words[other])
    elif opcode == MAXIMUM_INT:
        words[at] = max(words[at], words[other])
    elif opcode == MINIMUM_FLOAT:
        floats[at] = min(floats[at], floats[other])
    elif opcode == MAXIMUM_FLOAT:
        floats[at] = max(floats[at], floats[other])
    elif opcode == DISTINCT:
        _distinct_merge(words, at, other)
    elif is_later(words, at, words[other], words[other + 1]):  # LAST, POSITION
        for i in range(3 if opcode == LAST else 4):
            words[at + i] = words[other + i]


@native_lean_inline
def subtract(opcode: int, words: Int64Array, at: int, other: int) -> None:
    """Take the partial result at ``words[other:]`` out of the total at ``words[at:]`` again."""
    words[at] -= words[other]
    if opcode == SQUARES_INT:
        words[at + 1] -= words[other + 1]


@native_lean_inline
def _product(a: np.uint64, b: np.uint64) -> tuple[np.uint64, np.uint64]:
    """Multiply to 128 bits: the high and the low word."""
    half = np.uint64(32)
    low_half = np.uint64(0xFFFFFFFF)
    a_low, a_high = a & low_half, a >> half
    b_low, b_high = b & low_half, b >> half
    low = a_low * b_low
    middle = a_high * b_low + (low >> half)
    middle_2 = a_low * b_high + (middle & low_half)
    high = a_high * b_high + (middle >> half) + (middle_2 >> half)
    return high, (middle_2 << half) | (low & low_half)


@native_lean_inline
def deviation_finish(n: int, total: int, squares_low: int, squares_high: int) -> float:
    """Sample standard deviation of integers from exact sums; for ``n`` of 2 or more.

    ``n Σv² - (Σv)²`` is formed in 128 bits without rounding. The compile-time bounds (values
    below 2^31, fewer than 2^31 of them) keep each factor within its words.
    """
    carry = squares_low >> 32
    low = np.uint64(squares_low & _LOW_32)
    middle = np.uint64(squares_high + carry)
    first_high, first_low = _product(np.uint64(n), (middle << np.uint64(32)) | low)
    _, top_low = _product(np.uint64(n), middle >> np.uint64(32))
    first_high = first_high + top_low
    magnitude = np.uint64(abs(total))
    second_high, second_low = _product(magnitude, magnitude)
    low_word = first_low - second_low
    high_word = first_high - second_high
    if first_low < second_low:
        high_word = high_word - np.uint64(1)
    spread = float(high_word) * 18446744073709551616.0 + float(low_word)
    return math.sqrt(spread / (float(n) * float(n - 1)))


@native_lean_inline
def distance_km(
    latitude_a: float, longitude_a: float, latitude_b: float, longitude_b: float
) -> float:
    """Great-circle distance by the haversine formula, degrees in, kilometres out."""
    phi_a = math.radians(latitude_a)
    phi_b = math.radians(latitude_b)
    d_phi = math.sin((phi_b - phi_a) / 2.0)
    d_lambda = math.sin(math.radians(longitude_b - longitude_a) / 2.0)
    h = d_phi * d_phi + math.cos(phi_a) * math.cos(phi_b) * d_lambda * d_lambda
    return 2.0 * EARTH_RADIUS_KM * math.asin(math.sqrt(min(1.0, h)))
