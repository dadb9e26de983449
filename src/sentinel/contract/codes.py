"""Why an event is refused: a closed list in order of precedence.

The first six are judged on the event as a whole and exclude each other: an event that cannot be
read has one fault. All others may stand side by side; the first in this order is *the* code of
the refusal, the one that is counted.
"""

from __future__ import annotations

import enum


class RefusalCode(enum.StrEnum):
    """Every reason to refuse an event, highest precedence first; ``docs/contract.md`` explains.

    The position in this list is also the bit that the native decoder sets.
    """

    # the event as a whole: exclusive, nothing else is looked at
    BODY_TOO_LARGE = "body_too_large"
    EMPTY_EVENT = "empty_event"
    BYTE_ORDER_MARK = "byte_order_mark"
    INVALID_UTF8 = "invalid_utf8"
    MALFORMED_JSON = "malformed_json"
    TOO_DEEP = "too_deep"
    # well-formed text that says what JSON, or an event, must not say
    NON_FINITE = "non_finite"
    LONE_SURROGATE = "lone_surrogate"
    NOT_AN_OBJECT = "not_an_object"
    DUPLICATE_KEY = "duplicate_key"
    # the event against its contract
    UNKNOWN_FIELD = "unknown_field"
    MISSING_FIELD = "missing_field"
    NULL_NOT_ALLOWED = "null_not_allowed"
    WRONG_TYPE = "wrong_type"
    INEXACT_INTEGER = "inexact_integer"
    TOO_PRECISE = "too_precise"
    EMPTY_TEXT = "empty_text"
    TEXT_TOO_LONG = "text_too_long"
    UNKNOWN_CATEGORY = "unknown_category"
    MALFORMED_TIME = "malformed_time"
    OUT_OF_BOUNDS = "out_of_bounds"
    TIME_OUT_OF_BOUNDS = "time_out_of_bounds"
    TIME_SKEW = "time_skew"
    # given by a worker, not by the decoder
    WRONG_PARTITION_KEY = "wrong_partition_key"
    POISON = "poison"


REFUSAL_CODES = tuple(RefusalCode)
"""The codes by precedence: index ``i`` is bit ``i`` of the native decoder's fault set."""


def codes_of(faults: int) -> tuple[RefusalCode, ...]:
    """List the codes of a fault set, highest precedence first.

    Examples
    --------
    >>> [str(code) for code in codes_of(0b101)]
    ['body_too_large', 'byte_order_mark']
    """
    return tuple(code for bit, code in enumerate(REFUSAL_CODES) if faults >> bit & 1)
