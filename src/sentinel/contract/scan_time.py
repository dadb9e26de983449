"""Reading RFC 3339 instants natively: ``2024-02-29T23:59:59.123+01:00``.

The offset is required. A fraction has 1 to 9 digits; what is finer than a millisecond is cut
off (floor). A leap second (``:60``) is taken where it can stand, in the last minute of a UTC day,
and is the first second of the next day, as POSIX time has it.

Source: RFC 3339, sections 5.6 and 5.7; days by Hinnant's ``days_from_civil`` ("chrono-compatible
low-level date algorithms").
"""

from __future__ import annotations

from sentinel.core.native import native, native_inline
from sentinel.core.words import byte_at

MALFORMED = -(1 << 62)
_MINUTE_MS = 60_000
_DAY_MS = 86_400_000


@native_inline
def _digits(address: int, position: int, n_digits: int) -> int:
    """Return the value of exactly so many digits; negative where one is none."""
    value = 0
    for i in range(n_digits):
        digit = byte_at(address, position + i) - 48
        if digit < 0 or digit > 9:
            return -1
        value = value * 10 + digit
    return value


@native_inline
def _days_in_month(year: int, month: int) -> int:
    if month == 2:
        return 29 if year % 4 == 0 and (year % 100 != 0 or year % 400 == 0) else 28
    return 30 if month in (4, 6, 9, 11) else 31


@native_inline
def _days_since_epoch(year: int, month: int, day: int) -> int:
    shifted = year - 1 if month <= 2 else year
    era = shifted // 400
    of_era = shifted - era * 400
    of_year = (153 * ((month + 9) % 12) + 2) // 5 + day - 1
    return era * 146_097 + of_era * 365 + of_era // 4 - of_era // 100 + of_year - 719_468


@native_inline
def _offset_ms(address: int, position: int, end: int) -> int:
    """Return the offset from UTC at the end of the text; ``MALFORMED`` where there is none."""
    if position >= end:
        return MALFORMED
    byte = byte_at(address, position)
    if byte | 32 == ord("z"):
        return 0 if position + 1 == end else MALFORMED
    if position + 6 != end or byte_at(address, position + 3) != ord(":"):
        return MALFORMED
    hours = _digits(address, position + 1, 2)
    minutes = _digits(address, position + 4, 2)
    if hours < 0 or hours > 23 or minutes < 0 or minutes > 59:
        return MALFORMED
    offset = (hours * 60 + minutes) * _MINUTE_MS
    if byte == ord("+"):
        return offset
    return -offset if byte == ord("-") else MALFORMED


@native
def read_time(address: int, start: int, end: int) -> int:
    """Return the instant in milliseconds since the epoch; ``MALFORMED`` where it is none."""
    if end - start < 20:
        return MALFORMED
    year = _digits(address, start, 4)
    month = _digits(address, start + 5, 2)
    day = _digits(address, start + 8, 2)
    hour = _digits(address, start + 11, 2)
    minute = _digits(address, start + 14, 2)
    second = _digits(address, start + 17, 2)
    if (
        byte_at(address, start + 4) != ord("-")
        or byte_at(address, start + 7) != ord("-")
        or byte_at(address, start + 10) | 32 != ord("t")
        or byte_at(address, start + 13) != ord(":")
        or byte_at(address, start + 16) != ord(":")
    ):
        return MALFORMED
    if year < 1 or min(hour, minute, second) < 0 or hour > 23 or minute > 59 or second > 60:
        return MALFORMED
    if month < 1 or month > 12 or day < 1 or day > _days_in_month(year, month):
        return MALFORMED
    position = start + 19
    fraction_ms = 0
    if byte_at(address, position) == ord("."):
        first = position + 1
        position = first
        while position < end and 48 <= byte_at(address, position) <= 57:
            if position - first < 3:
                fraction_ms = fraction_ms * 10 + byte_at(address, position) - 48
            position += 1
        n_digits = position - first
        if n_digits < 1 or n_digits > 9:
            return MALFORMED
        for _ in range(3 - n_digits):
            fraction_ms *= 10
    offset = _offset_ms(address, position, end)
    if offset == MALFORMED:
        return MALFORMED
    minutes_ms = _days_since_epoch(year, month, day) * _DAY_MS - offset
    minutes_ms += (hour * 60 + minute) * _MINUTE_MS
    if second == 60 and minutes_ms % _DAY_MS != _DAY_MS - _MINUTE_MS:
        return MALFORMED
    return minutes_ms + second * 1000 + fraction_ms
