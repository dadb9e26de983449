r"""Reading JSON strings natively: eight bytes at a time, strict UTF-8, escapes resolved.

A string is read in two steps. :func:`scan_string` finds its closing quote and checks every
byte: control characters and wrong escapes are malformed, UTF-8 is well-formed by table 3-7 of
the Unicode Standard (no overlong forms, no surrogates, nothing over U+10FFFF). Only where there
was a backslash, :func:`resolve_escapes` writes the text out.

Eight bytes are looked at together (Mycroft's test for a zero byte, 1987): with ``w`` the word,
``(x - 0x01…01) & ~x & 0x80…80`` has its lowest set bit in the first byte of ``x`` that is zero,
with ``x = w ^ 0x22…22`` for the quote; the other tests are alike.
"""

from __future__ import annotations

import numpy as np

from sentinel.core.native import native, native_inline
from sentinel.core.words import byte_at, put_byte, trailing_zeros, word_at

QUOTE = ord('"')
BACKSLASH = ord("\\")

_SHORT_ESCAPES = (34, 92, 47, 98, 102, 110, 114, 116)  # " \ / b f n r t

_ONES = np.uint64(0x0101010101010101)
_HIGHS = np.uint64(0x8080808080808080)
_QUOTES = np.uint64(QUOTE * 0x0101010101010101)
_BACKSLASHES = np.uint64(BACKSLASH * 0x0101010101010101)
_SPACES = np.uint64(0x2020202020202020)
_ZERO = np.uint64(0)


@native_inline
def _special_bytes(word: np.uint64) -> np.uint64:
    """Mark the first byte that is a quote, a backslash, a control character or not ASCII."""
    quotes = word ^ _QUOTES
    backslashes = word ^ _BACKSLASHES
    zeros = ((quotes - _ONES) & ~quotes) | ((backslashes - _ONES) & ~backslashes)
    controls = (word - _SPACES) & ~word
    return (zeros | controls | word) & _HIGHS


@native_inline
def utf8_length(address: int, position: int, end: int) -> int:
    """Return the length of the multi-byte character at a byte of 128 or more; 0 where invalid."""
    first = byte_at(address, position)
    if first < 0xC2 or first > 0xF4 or position + 1 >= end:
        return 0
    second = byte_at(address, position + 1)
    if first < 0xE0:
        return 2 if second & 0xC0 == 0x80 else 0
    low, high = 0x80, 0xBF
    if first == 0xE0:
        low = 0xA0
    elif first == 0xED:
        high = 0x9F
    elif first == 0xF0:
        low = 0x90
    elif first == 0xF4:
        high = 0x8F
    length = 3 if first < 0xF0 else 4
    if second < low or second > high or position + length > end:
        return 0
    for i in range(2, length):
        if byte_at(address, position + i) & 0xC0 != 0x80:
            return 0
    return length


@native
def is_utf8(address: int, start: int, end: int) -> bool:
    """Tell whether bytes are well-formed UTF-8; linear."""
    position = start
    while position < end:
        if byte_at(address, position) < 0x80:
            position += 1
            continue
        length = utf8_length(address, position, end)
        if length == 0:
            return False
        position += length
    return True


@native_inline
def hexadecimal(byte: int) -> int:
    """Return the value of a hexadecimal digit; -1 for any other byte."""
    if 48 <= byte <= 57:
        return byte - 48
    letter = byte | 32
    return letter - 87 if 97 <= letter <= 102 else -1


@native_inline
def hexadecimal_4(address: int, position: int) -> int:
    """Return the value of four hexadecimal digits; negative where one is none."""
    value = 0
    for i in range(4):
        digit = hexadecimal(byte_at(address, position + i))
        if digit < 0:
            return -1
        value = value << 4 | digit
    return value


@native_inline
def _escape_length(address: int, position: int, end: int) -> int:
    """Return the length of the escape at a backslash, 2 or 6; 0 where there is none such."""
    if position + 1 >= end:
        return 0
    byte = byte_at(address, position + 1)
    if byte == ord("u"):
        return 6 if position + 6 <= end and hexadecimal_4(address, position + 2) >= 0 else 0
    return 2 if byte in _SHORT_ESCAPES else 0


@native
def scan_string(address: int, start: int, end: int) -> tuple[int, bool]:
    """Find the closing quote of a string and check all before it.

    Parameters
    ----------
    address, start, end : int
        The buffer, the byte after the opening quote, the end of the event.

    Returns
    -------
    close : int
        Position of the closing quote; -1 where the string is not well-formed.
    has_escapes : bool
    """
    position = start
    has_escapes = False
    while position < end:
        if position + 8 <= end:
            special = _special_bytes(word_at(address, position))
            if special == _ZERO:
                position += 8
                continue
            position += trailing_zeros(special) >> 3
        byte = byte_at(address, position)
        if byte == QUOTE:
            return position, has_escapes
        if byte == BACKSLASH:
            length = _escape_length(address, position, end)
            has_escapes = True
        elif byte >= 0x80:
            length = utf8_length(address, position, end)
        else:
            length = 1 if byte >= 32 else 0
        if length == 0:
            return -1, has_escapes
        position += length
    return -1, has_escapes


@native_inline
def _write_character(target: int, at: int, character: int) -> int:
    """Write one code point as UTF-8 (a lone surrogate like any other) and return where it ends."""
    if character < 0x80:
        put_byte(target, at, character)
        return at + 1
    if character < 0x800:
        put_byte(target, at, 0xC0 | character >> 6)
    else:
        if character < 0x10000:
            put_byte(target, at, 0xE0 | character >> 12)
        else:
            put_byte(target, at, 0xF0 | character >> 18)
            at += 1
            put_byte(target, at, 0x80 | character >> 12 & 0x3F)
        at += 1
        put_byte(target, at, 0x80 | character >> 6 & 0x3F)
    put_byte(target, at + 1, 0x80 | character & 0x3F)
    return at + 2


@native_inline
def _short_escape(byte: int) -> int:
    if byte == ord("b"):
        return 8
    if byte == ord("f"):
        return 12
    if byte == ord("n"):
        return 10
    if byte == ord("r"):
        return 13
    return 9 if byte == ord("t") else byte


@native
def resolve_escapes(address: int, start: int, close: int, target: int, at: int) -> tuple[int, bool]:
    """Write a checked string without its escapes.

    Parameters
    ----------
    address, start, close : int
        The buffer, the byte after the opening quote, the closing quote.
    target, at : int
        Where to write; there is room for ``close - start`` bytes: no escape is shorter than its
        text.

    Returns
    -------
    end : int
        Where the text ends, counted from ``target``.
    has_lone_surrogate : bool
    """
    position = start
    has_lone_surrogate = False
    while position < close:
        byte = byte_at(address, position)
        position += 1
        if byte != BACKSLASH:
            put_byte(target, at, byte)
            at += 1
            continue
        byte = byte_at(address, position)
        position += 1
        if byte != ord("u"):
            at = _write_character(target, at, _short_escape(byte))
            continue
        character = hexadecimal_4(address, position)
        position += 4
        if 0xD800 <= character <= 0xDBFF and position + 6 <= close:
            is_escape = byte_at(address, position) == BACKSLASH and byte_at(
                address, position + 1
            ) == ord("u")
            second = hexadecimal_4(address, position + 2) if is_escape else -1
            if 0xDC00 <= second <= 0xDFFF:
                character = 0x10000 + ((character & 0x3FF) << 10 | second & 0x3FF)
                position += 6
        has_lone_surrogate |= 0xD800 <= character <= 0xDFFF
        at = _write_character(target, at, character)
    return at, has_lone_surrogate
