"""Reading JSON numbers natively: exactly, or not at all.

A number is read as ``magnitude * 10**point`` with up to 19 significant digits in 64 bits.

Integers and decimals take the magnitude as it is. Floats are correctly rounded (to nearest, ties
to even) in one of three ways:

1. ``magnitude <= 2^53`` and ``|point| <= 22``: one exact product or quotient of two exact
   float64 (Clinger, "How to read floating point numbers accurately", PLDI 1990).
2. Otherwise up to 19 digits: the product of the magnitude and a 128-bit power of five
   (Lemire, "Number parsing at a gigabyte per second", Software: Practice and Experience 51(8),
   2021; Mushtak and Lemire, 2023, on why it never fails for long).
3. The few that are left (more digits, subnormals): the caller asks Python's ``float()``.
"""

from __future__ import annotations

import numpy as np

from sentinel.core.native import native, native_inline
from sentinel.core.words import (
    as_int,
    bits_of_float,
    byte_at,
    float_of_bits,
    high_product,
    leading_zeros,
)

IS_NEGATIVE = 1
IS_FLOAT = 2
# Digits that always fit in 64 bits.
DIGITS_MAX = 19
# Exponents are cut here: further out than 64 kB of digits can bring back.
_EXPONENT_MAX = 10_000_000

_POWERS = np.array([10.0**power for power in range(23)])
_EXACT = np.uint64(1 << 53)
_TEN = np.uint64(10)

# What rounds to infinity: half-way between the largest float64 and 2^1024, and all above.
_OVERFLOW_DIGITS = np.array([int(digit) for digit in str((1 << 1024) - (1 << 970))], dtype=np.int64)
_OVERFLOW_LEAD = len(_OVERFLOW_DIGITS) - 1


def _power_of_five(power: int) -> int:
    """Return the upper 128 bits of 5**power, rounded as the algorithm wants it."""
    if power >= 0:
        value: int = 5**power
        shift = value.bit_length() - 128
        return value >> shift if shift > 0 else value << -shift
    divisor: int = 5**-power
    n_bits = (divisor - 1).bit_length()
    if power >= -27:
        return (1 << (n_bits + 127)) // divisor + 1
    value = (1 << (2 * n_bits + 128)) // divisor + 1
    return value >> (value.bit_length() - 128)


_POWER_MIN, _POWER_MAX = -342, 308
_FIVES = [_power_of_five(power) for power in range(_POWER_MIN, _POWER_MAX + 1)]
_FIVES_HIGH = np.array([value >> 64 for value in _FIVES], dtype=np.uint64)
_FIVES_LOW = np.array([value & (1 << 64) - 1 for value in _FIVES], dtype=np.uint64)

_ALL = np.uint64(0xFFFFFFFFFFFFFFFF)
_LOW_9 = np.uint64(0x1FF)
_ZERO, _ONE, _TWO, _THREE = np.uint64(0), np.uint64(1), np.uint64(2), np.uint64(3)
_SIGN = -(1 << 63)
_HIDDEN = np.uint64(1 << 52)


@native_inline
def _read_digits(
    address: int, position: int, end: int, magnitude: np.uint64
) -> tuple[int, np.uint64]:
    while position < end:
        digit = byte_at(address, position) - 48
        if digit < 0 or digit > 9:
            break
        magnitude = magnitude * _TEN + np.uint64(digit)
        position += 1
    return position, magnitude


@native_inline
def read_number(address: int, start: int, end: int) -> tuple[int, int, np.uint64, int, int]:
    """Read the number token at ``start`` by the grammar of RFC 8259, section 6.

    Returns
    -------
    position : int
        Where the token ends; -1 where it is malformed.
    flags : int
        ``IS_NEGATIVE``, ``IS_FLOAT`` (it has a point or an exponent).
    magnitude : uint64
        All digits as one integer; meaningless where ``n_significant > DIGITS_MAX``.
    point : int
        The value is ``magnitude * 10**point``.
    n_significant : int
        Digits from the first that is not zero (0 to about 19: exact; above: true count).
    """
    position = start
    flags = 0
    if byte_at(address, position) == ord("-"):
        flags = IS_NEGATIVE
        position += 1
    first = position
    position, magnitude = _read_digits(address, position, end, _ZERO)
    n_digits = position - first
    if n_digits == 0 or (n_digits > 1 and byte_at(address, first) == 48):
        return -1, flags, magnitude, 0, 0
    if position == end:
        return position, flags, magnitude, 0, n_digits
    byte = byte_at(address, position)
    if byte != ord(".") and byte | 32 != ord("e"):
        return position, flags, magnitude, 0, n_digits
    flags |= IS_FLOAT
    point = 0
    if byte == ord("."):
        fraction = position + 1
        position, magnitude = _read_digits(address, fraction, end, magnitude)
        point = fraction - position
        if point == 0:
            return -1, flags, magnitude, 0, 0
        n_digits -= point
    if position < end and byte_at(address, position) | 32 == ord("e"):
        position, exponent = _read_exponent(address, position + 1, end)
        point += exponent
    if n_digits > DIGITS_MAX:
        n_digits -= _count_leading_zeros(address, first, end)
    return position, flags, magnitude, point, n_digits


@native_inline
def _read_exponent(address: int, start: int, end: int) -> tuple[int, int]:
    position = start
    sign = 1
    if position < end:
        byte = byte_at(address, position)
        if byte == ord("-") or byte == ord("+"):
            sign = -1 if byte == ord("-") else 1
            position += 1
    first = position
    exponent = 0
    while position < end:
        digit = byte_at(address, position) - 48
        if digit < 0 or digit > 9:
            break
        exponent = min(exponent * 10 + digit, _EXPONENT_MAX)
        position += 1
    return (position if position > first else -1), sign * exponent


@native_inline
def _count_leading_zeros(address: int, first: int, end: int) -> int:
    n_zeros = 0
    for position in range(first, end):
        byte = byte_at(address, position)
        if byte == 48:
            n_zeros += 1
        elif byte != ord("."):
            break
    return n_zeros


@native
def overflows(address: int, start: int, end: int) -> bool:
    """Tell whether a well-formed token whose first digit stands for 10**308 rounds to infinity.

    The digits are compared with those of the exact half-way value; linear in the token.
    """
    position = start
    index = 0
    while position < end and index < len(_OVERFLOW_DIGITS):
        byte = byte_at(address, position)
        position += 1
        if byte | 32 == ord("e"):
            break
        digit = byte - 48
        if digit < 0 or digit > 9 or (digit == 0 and index == 0):
            continue
        if digit != _OVERFLOW_DIGITS[index]:
            return bool(digit > _OVERFLOW_DIGITS[index])
        index += 1
    n_rest = 0
    for rest in range(index, len(_OVERFLOW_DIGITS)):
        n_rest += _OVERFLOW_DIGITS[rest]
    return n_rest == 0


@native_inline
def is_finite(
    address: int, start: int, end: int, magnitude: np.uint64, point: int, n_significant: int
) -> bool:
    """Tell whether a token with a point or an exponent is finite as a float64.

    ``n_significant`` may count leading zeros while it is at most ``DIGITS_MAX``; then the
    magnitude is exact and tells the true number.
    """
    if n_significant <= DIGITS_MAX:
        if magnitude == _ZERO or point + n_significant <= _OVERFLOW_LEAD:
            return True
        n_significant = 0
        rest = magnitude
        while rest != _ZERO:
            rest //= _TEN
            n_significant += 1
    lead = point + n_significant - 1
    if n_significant == 0 or lead < _OVERFLOW_LEAD:
        return True
    return lead == _OVERFLOW_LEAD and not overflows(address, start, end)


@native_inline
def to_float(flags: int, magnitude: np.uint64, point: int) -> tuple[bool, int]:
    """Round ``±magnitude * 10**point`` to the bits of the nearest float64.

    Returns
    -------
    is_exact : bool
        False where the caller must ask Python; the bits then mean nothing.
    bits : int
    """
    sign = _SIGN if flags & IS_NEGATIVE else 0
    if magnitude <= _EXACT and -22 <= point <= 22:
        value = float(as_int(magnitude))
        value = value / _POWERS[-point] if point < 0 else value * _POWERS[point]
        return True, bits_of_float(value) | sign
    if magnitude == _ZERO:
        return True, sign
    is_exact, bits = _multiply(magnitude, point)
    return is_exact, bits | sign


@native
def _multiply(magnitude: np.uint64, point: int) -> tuple[bool, int]:
    """Round by the 128-bit product; see step 2 of the module."""
    if point < _POWER_MIN or point > _POWER_MAX:
        return False, 0
    n_zeros = leading_zeros(magnitude)
    word = magnitude << np.uint64(n_zeros)
    index = point - _POWER_MIN
    high = high_product(word, _FIVES_HIGH[index])
    low = word * _FIVES_HIGH[index]
    if high & _LOW_9 == _LOW_9:
        more = high_product(word, _FIVES_LOW[index])
        low = low + more
        if more > low:
            high = high + _ONE
    if low == _ALL and (point < -27 or point > 55):
        return False, 0
    upper = as_int(high >> np.uint64(63))
    shift = np.uint64(upper + 9)
    mantissa = high >> shift
    exponent = (((152170 + 65536) * point) >> 16) + 63 + upper - n_zeros + 1023
    if exponent <= 0:
        return False, 0
    is_halfway = low <= _ONE and -4 <= point <= 23 and mantissa & _THREE == _ONE
    if is_halfway and mantissa << shift == high:
        mantissa = mantissa & ~_ONE
    mantissa = (mantissa + (mantissa & _ONE)) >> _ONE
    if mantissa >= _HIDDEN << _ONE:
        mantissa = _HIDDEN
        exponent += 1
    if exponent >= 0x7FF:
        return False, 0
    return True, as_int(mantissa & ~_HIDDEN) | exponent << 52


__all__ = [
    "DIGITS_MAX",
    "IS_FLOAT",
    "IS_NEGATIVE",
    "float_of_bits",
    "is_finite",
    "overflows",
    "read_number",
    "to_float",
]
