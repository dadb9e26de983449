"""All faults of one refused event, for people: the contract a second time, in plain Python.

It is written independently of the native decoder, on the scanner of the standard library, and
tests hold the two to the same verdict. The steps:

1. The event as bytes: size, emptiness, byte order mark, UTF-8.
2. The event as text: nesting (:func:`_too_deep_at`), then JSON. Tokens of numbers stay text.
3. Every value: infinity, lone surrogates, duplicate keys.
4. Every field: there, not null, of its type, within its rules.
"""

from __future__ import annotations

import datetime as dt
import decimal
import json
import math
import re

import msgspec

from sentinel.contract.codes import REFUSAL_CODES, RefusalCode
from sentinel.contract.refusal import Fault
from sentinel.contract.schema import ContractSchema, Field, FieldKind, FieldRole, TimeUnit
from sentinel.core import limits
from sentinel.core.errors import shorten

_SPACE = b" \t\n\r"
_SURROGATE = re.compile("[\ud800-\udfff]")
_PLAIN_KEY = re.compile(r"[A-Za-z_@$][A-Za-z0-9_@$]{0,63}")
_STRING_OR_BRACKET = re.compile(r'"(?:[^"\\]|\\.)*"?|[\[\]{}]', re.DOTALL)
_TIME = re.compile(
    r"(\d{4})-(\d\d)-(\d\d)[Tt](\d\d):(\d\d):(\d\d)(?:\.(\d{1,9}))?([Zz]|[+-]\d\d:\d\d)",
    re.ASCII,
)
_EPOCH_DAY = dt.date(1970, 1, 1).toordinal()
_DAY_MS, _HOUR_MS, _MINUTE_MS = 86_400_000, 3_600_000, 60_000


class _Number(msgspec.Struct, frozen=True, gc=False):
    """A number as it is written; ``NaN`` and infinities included."""

    token: str
    is_float: bool

    @property
    def is_finite(self) -> bool:
        return not self.is_float or math.isfinite(float(self.token))


class _Object(msgspec.Struct, frozen=True):
    """An object as it is written, duplicate keys included."""

    pairs: list[tuple[str, object]]


# Where a value stands: what is around it, and the key or index in there. Written out only for a
# fault, for an event may hold thousands of values.
_Place = tuple["_Place | None", str | int]


class _Findings:
    """The faults of an event; of each code no more than a refusal may list."""

    def __init__(self) -> None:
        self._faults: dict[RefusalCode, list[Fault]] = {code: [] for code in REFUSAL_CODES}

    def add(self, code: RefusalCode, place: _Place | None, expected: str, got: object) -> None:
        """Note a fault; ``got`` is a value, or a text to be shown as it is."""
        faults = self._faults[code]
        if len(faults) < limits.FAULTS_PER_EVENT_MAX:
            faults.append(Fault(code, _path(place), expected, _shown(got)))

    def sorted(self) -> tuple[Fault, ...]:
        """Return the faults by precedence, then as they stand in the event."""
        return tuple(fault for faults in self._faults.values() for fault in faults)


class _Said(msgspec.Struct, frozen=True):
    """Something to be said of a value in place of the value."""

    text: str


# How the messages of the standard library's decoder begin, and what would have been right there.
_WHERE_JSON_ENDS = (
    ("Expecting value", "a value"),
    ("Expecting property name", "a key in double quotes"),
    ("Expecting ':'", "a colon"),
    ("Expecting ','", "a comma, or the end of the object or array"),
    ("Illegal trailing comma", "no comma before the end"),
    ("Unterminated string", "a string that ends"),
    ("Invalid control character", "no control character in a string"),
    ("Invalid \\", "an escape of JSON"),
    ("Extra data", "nothing behind the event"),
)
_DECODER = json.JSONDecoder(
    object_pairs_hook=_Object,
    parse_int=lambda token: _Number(token, False),
    parse_float=lambda token: _Number(token, True),
    parse_constant=lambda token: _Number(token, True),
)


def explain(
    schema: ContractSchema, content: bytes, *, n_bytes: int, received_at_ms: int | None
) -> tuple[Fault, ...]:
    """List all faults of an event.

    Parameters
    ----------
    schema : ContractSchema
    content : bytes
        The event, or its head where it is over ``EVENT_BYTES_MAX``.
    n_bytes : int
        How long the event was.
    received_at_ms : int or None
        When it was received, where that is known.

    Returns
    -------
    tuple of Fault
        By precedence, then as they stand in the event, at most ``FAULTS_PER_EVENT_MAX`` of each
        code; empty for an event without a fault.

    Examples
    --------
    >>> from sentinel.contract import Contract, EventId, EventTime
    >>> class Ping(Contract, name="ping", version="1"):
    ...     ping_id = EventId()
    ...     at = EventTime()
    >>> for fault in explain(Ping.schema, b'{"at":1.5,"x":1}', n_bytes=16, received_at_ms=None):
    ...     print(fault.code, fault.path, fault.got)
    unknown_field $.x 1
    missing_field $.ping_id nothing
    wrong_type $.at 1.5
    """
    read = _read(content, n_bytes)
    if isinstance(read, Fault):
        return (read,)
    findings = _Findings()
    _find_in_value(read, None, findings)
    _find_in_event(schema, read, received_at_ms, findings)
    return findings.sorted()


def _read(content: bytes, n_bytes: int) -> object:
    """Return the event as values, or the one fault that keeps it from being read."""
    if n_bytes > limits.EVENT_BYTES_MAX:
        expected = f"at most {limits.EVENT_BYTES_MAX} bytes"
        return Fault(RefusalCode.BODY_TOO_LARGE, "$", expected, f"{n_bytes} bytes")
    if not content.strip(_SPACE):
        return Fault(RefusalCode.EMPTY_EVENT, "$", "a JSON object", f"{n_bytes} bytes of nothing")
    if content.startswith(b"\xef\xbb\xbf"):
        return Fault(RefusalCode.BYTE_ORDER_MARK, "$", "no byte order mark", "EF BB BF")
    try:
        text = content.strip(_SPACE).decode()
    except UnicodeDecodeError as error:
        got = f"{error.object[error.start : error.end].hex(' ')} at byte {error.start}"
        return Fault(RefusalCode.INVALID_UTF8, "$", "UTF-8", got)
    return _parse(text)


def _parse(text: str) -> object:
    deep = _too_deep_at(text)
    try:
        return _DECODER.decode(text if deep < 0 else text[: deep + 1])
    except json.JSONDecodeError as error:
        if 0 <= deep < error.pos:
            expected = f"at most {limits.EVENT_DEPTH_MAX} levels"
            return Fault(RefusalCode.TOO_DEEP, "$", expected, f"more at character {deep}")
        near = shorten(text[error.pos : error.pos + 20], n_characters_max=20) or "the end"
        got = f"{near} at character {error.pos}"
        return Fault(RefusalCode.MALFORMED_JSON, "$", _expected_by(error.msg), got)


def _expected_by(message: str) -> str:
    """Say what would have been right, after what the JSON decoder says of a fault."""
    known = (expected for start, expected in _WHERE_JSON_ENDS if message.startswith(start))
    return next(known, "well-formed JSON")


def _too_deep_at(text: str) -> int:
    """Return where the first bracket over the depth limit opens; -1 where none does."""
    depth = 0
    for match in _STRING_OR_BRACKET.finditer(text):
        bracket = match[0]
        if bracket in {"[", "{"}:
            depth += 1
            if depth > limits.EVENT_DEPTH_MAX:
                return match.start()
        elif bracket in {"]", "}"}:
            depth -= 1
    return -1


def _path(place: _Place | None) -> str:
    steps: list[str] = []
    while place is not None:
        place, step = place
        if isinstance(step, int):
            steps.append(f"[{step}]")
        else:
            steps.append(f".{step}" if _PLAIN_KEY.fullmatch(step) else f'["{shorten(step)}"]')
    return shorten(
        "$" + "".join(reversed(steps)), n_characters_max=limits.ERROR_PLACE_CHARACTERS_MAX
    )


def _has_surrogate(text: str) -> bool:
    return _SURROGATE.search(text) is not None


def _find_in_value(value: object, place: _Place | None, findings: _Findings) -> None:
    """Find what no event may hold anywhere; recursion is bounded by the depth limit."""
    if isinstance(value, str):
        if _has_surrogate(value):
            expected = "text without lone surrogates"
            findings.add(RefusalCode.LONE_SURROGATE, place, expected, value)
    elif isinstance(value, _Number):
        if not value.is_finite:
            findings.add(RefusalCode.NON_FINITE, place, "a finite number", value)
    elif isinstance(value, list):
        for index, item in enumerate(value):
            _find_in_value(item, (place, index), findings)
    elif isinstance(value, _Object):
        seen: set[str] = set()
        for key, item in value.pairs:
            if _has_surrogate(key):
                expected = "a key without lone surrogates"
                findings.add(RefusalCode.LONE_SURROGATE, place, expected, key)
            if key in seen:
                said = _Said("a second")
                findings.add(RefusalCode.DUPLICATE_KEY, (place, key), "each key once", said)
            seen.add(key)
            _find_in_value(item, (place, key), findings)


def _find_in_event(
    schema: ContractSchema, event: object, received_at_ms: int | None, findings: _Findings
) -> None:
    """Find what the contract does not allow; of duplicate keys the first value counts."""
    if not isinstance(event, _Object):
        findings.add(RefusalCode.NOT_AN_OBJECT, None, "a JSON object", event)
        return
    values = dict(reversed(event.pairs))
    known = {field.name for field in schema.fields}
    for key, value in event.pairs:
        if key not in known:
            expected = "only fields of the contract"
            findings.add(RefusalCode.UNKNOWN_FIELD, (None, key), expected, value)
    for field in schema.fields:
        place = (None, field.name)
        if field.name in values:
            value = values[field.name]
            code = _judge(field, value, received_at_ms)
            if code is not None:
                findings.add(code, place, _expected(field, code), value)
        elif field.required:
            expected = field.expectation()
            findings.add(RefusalCode.MISSING_FIELD, place, expected, _Said("nothing"))


def _expected(field: Field, code: RefusalCode) -> str:
    if code is RefusalCode.TIME_SKEW:
        return f"at most {field.skew_ms_max} ms from the receiving clock"
    if code is RefusalCode.INEXACT_INTEGER:
        return f"an integer of at most {limits.FLOAT_EXACT_INTEGER_MAX} for a float"
    return field.expectation()


def _shown(value: object) -> str:
    if isinstance(value, _Said):
        return value.text
    if isinstance(value, _Number):
        return shorten(value.token)
    if isinstance(value, str):
        return f'"{shorten(value)}"'
    if isinstance(value, _Object):
        return f"an object of {len(value.pairs)} keys"
    if isinstance(value, list):
        return f"an array of {len(value)} items"
    return "null" if value is None else str(value).lower()


def _judge(field: Field, value: object, received_at_ms: int | None) -> RefusalCode | None:
    """Return the first thing that is wrong with the value of a field."""
    if value is None:
        return None if field.nullable else RefusalCode.NULL_NOT_ALLOWED
    if isinstance(value, _Number):
        return _judge_number(field, value, received_at_ms) if value.is_finite else None
    if isinstance(value, str):
        return _judge_text(field, value, received_at_ms)
    if isinstance(value, bool) and field.kind is FieldKind.BOOLEAN:
        return None
    return RefusalCode.WRONG_TYPE


def _judge_text(field: Field, value: str, received_at_ms: int | None) -> RefusalCode | None:
    if field.kind is FieldKind.TEXT:
        n_bytes = len(value.encode("utf-8", "surrogatepass"))
        if n_bytes == 0 and field.role is not FieldRole.VALUE:
            return RefusalCode.EMPTY_TEXT
        return RefusalCode.TEXT_TOO_LONG if n_bytes > field.bytes_max else None
    if field.kind is FieldKind.CATEGORY:
        return None if value in field.values else RefusalCode.UNKNOWN_CATEGORY
    if field.unit is TimeUnit.RFC3339:
        time_ms = _time_ms(value)
        if time_ms is None:
            return RefusalCode.MALFORMED_TIME
        return _judge_time(field, time_ms, received_at_ms)
    return RefusalCode.WRONG_TYPE


def _judge_number(field: Field, value: _Number, received_at_ms: int | None) -> RefusalCode | None:
    if field.kind is FieldKind.FLOAT:
        return _judge_float(field, value)
    if field.kind is FieldKind.DECIMAL:
        return _judge_decimal(field, value)
    if field.kind not in {FieldKind.INTEGER, FieldKind.TIME} or field.unit is TimeUnit.RFC3339:
        return RefusalCode.WRONG_TYPE
    if value.is_float:
        return RefusalCode.WRONG_TYPE
    is_time = field.kind is FieldKind.TIME
    whole = int(value.token) if len(value.token) <= 20 else None
    if is_time and whole is not None:
        factor = 1000 if field.unit is TimeUnit.SECONDS else 1
        return _judge_time(field, whole * factor, received_at_ms)
    if whole is not None and _in_bounds(field, whole):
        return None
    return RefusalCode.TIME_OUT_OF_BOUNDS if is_time else RefusalCode.OUT_OF_BOUNDS


def _judge_float(field: Field, value: _Number) -> RefusalCode | None:
    if not value.is_float:
        exact = len(value.token) <= 20 and abs(int(value.token)) <= limits.FLOAT_EXACT_INTEGER_MAX
        if not exact:
            return RefusalCode.INEXACT_INTEGER
    return None if _in_bounds(field, float(value.token)) else RefusalCode.OUT_OF_BOUNDS


def _judge_decimal(field: Field, value: _Number) -> RefusalCode | None:
    mantissa, _, exponent = value.token.lower().partition("e")
    _, _, fraction = mantissa.partition(".")
    n_digits = len(fraction) - (_small(exponent) if exponent else 0)
    if n_digits > field.scale:
        return RefusalCode.TOO_PRECISE
    digits = mantissa.replace(".", "").replace("-", "").lstrip("0")
    shift = field.scale - n_digits
    if not digits:
        return None if _in_bounds(field, 0) else RefusalCode.OUT_OF_BOUNDS
    if len(digits) + shift > 20:
        return RefusalCode.OUT_OF_BOUNDS
    minor = int(decimal.Decimal(mantissa.replace(".", "")).scaleb(shift))
    return None if _in_bounds(field, minor) else RefusalCode.OUT_OF_BOUNDS


def _small(exponent: str) -> int:
    """Return an exponent, cut where no number of an event's length can bring it back."""
    sign = -1 if exponent.startswith("-") else 1
    digits = exponent.lstrip("+-").lstrip("0") or "0"
    return sign * (int(digits) if len(digits) <= 7 else 10_000_000)


def _in_bounds(field: Field, value: float) -> bool:
    low, high = field.minimum, field.maximum
    return low is not None and high is not None and low <= value <= high


def _judge_time(field: Field, time_ms: int, received_at_ms: int | None) -> RefusalCode | None:
    if not _in_bounds(field, time_ms):
        return RefusalCode.TIME_OUT_OF_BOUNDS
    if field.role is not FieldRole.EVENT_TIME or received_at_ms is None:
        return None
    is_near = abs(time_ms - received_at_ms) <= field.skew_ms_max
    return None if is_near else RefusalCode.TIME_SKEW


def _time_ms(text: str) -> int | None:
    """Read an RFC 3339 instant; None where it is none."""
    match = _TIME.fullmatch(text)
    if match is None:
        return None
    year, month, day, hour, minute, second = (int(match[i]) for i in range(1, 7))
    try:
        days = dt.date(year, month, day).toordinal() - _EPOCH_DAY
    except ValueError:
        return None
    offset_ms = 0
    if match[8] not in {"Z", "z"}:
        offset_hour, offset_minute = int(match[8][1:3]), int(match[8][4:6])
        if offset_hour > 23 or offset_minute > 59:
            return None
        offset_ms = offset_hour * _HOUR_MS + offset_minute * _MINUTE_MS
        offset_ms = -offset_ms if match[8].startswith("-") else offset_ms
    if hour > 23 or minute > 59 or second > 60:
        return None
    whole_minute = days * _DAY_MS + hour * _HOUR_MS + minute * _MINUTE_MS - offset_ms
    if second == 60 and whole_minute % _DAY_MS != _DAY_MS - _MINUTE_MS:
        return None
    fraction_ms = int((match[7] or "0").ljust(3, "0")[:3])
    return whole_minute + second * 1000 + fraction_ms
