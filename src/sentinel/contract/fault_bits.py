"""The refusal codes as bits, for the kernels: bit ``i`` is the ``i``-th code by precedence."""

from __future__ import annotations

from sentinel.contract.codes import REFUSAL_CODES, RefusalCode


def bit_of(code: RefusalCode) -> int:
    """Return the bit of a code."""
    return 1 << REFUSAL_CODES.index(code)


BODY_TOO_LARGE = bit_of(RefusalCode.BODY_TOO_LARGE)
EMPTY_EVENT = bit_of(RefusalCode.EMPTY_EVENT)
BYTE_ORDER_MARK = bit_of(RefusalCode.BYTE_ORDER_MARK)
INVALID_UTF8 = bit_of(RefusalCode.INVALID_UTF8)
MALFORMED_JSON = bit_of(RefusalCode.MALFORMED_JSON)
TOO_DEEP = bit_of(RefusalCode.TOO_DEEP)
NON_FINITE = bit_of(RefusalCode.NON_FINITE)
LONE_SURROGATE = bit_of(RefusalCode.LONE_SURROGATE)
NOT_AN_OBJECT = bit_of(RefusalCode.NOT_AN_OBJECT)
DUPLICATE_KEY = bit_of(RefusalCode.DUPLICATE_KEY)
UNKNOWN_FIELD = bit_of(RefusalCode.UNKNOWN_FIELD)
MISSING_FIELD = bit_of(RefusalCode.MISSING_FIELD)
NULL_NOT_ALLOWED = bit_of(RefusalCode.NULL_NOT_ALLOWED)
WRONG_TYPE = bit_of(RefusalCode.WRONG_TYPE)
INEXACT_INTEGER = bit_of(RefusalCode.INEXACT_INTEGER)
TOO_PRECISE = bit_of(RefusalCode.TOO_PRECISE)
EMPTY_TEXT = bit_of(RefusalCode.EMPTY_TEXT)
TEXT_TOO_LONG = bit_of(RefusalCode.TEXT_TOO_LONG)
UNKNOWN_CATEGORY = bit_of(RefusalCode.UNKNOWN_CATEGORY)
MALFORMED_TIME = bit_of(RefusalCode.MALFORMED_TIME)
OUT_OF_BOUNDS = bit_of(RefusalCode.OUT_OF_BOUNDS)
TIME_OUT_OF_BOUNDS = bit_of(RefusalCode.TIME_OUT_OF_BOUNDS)
TIME_SKEW = bit_of(RefusalCode.TIME_SKEW)
