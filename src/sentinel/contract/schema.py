"""A contract as data: fields, their rules, their hash, and the way to JSON and back.

Every rule about what a contract may say stands here once; a contract declared as a class and
one read from ``contract.json`` pass the same checks.
"""

from __future__ import annotations

import enum
import functools
import json
import math
import re
from dataclasses import dataclass

import msgspec

from sentinel.core import limits
from sentinel.core.errors import ErrorCode, SentinelError
from sentinel.core.hashing import canonical_json, sha256_of

FORMAT = "sentinel-contract-1"
INT64_MIN, INT64_MAX = -(1 << 63), (1 << 63) - 1

_NAME = re.compile(r"[A-Za-z0-9_@$][A-Za-z0-9_@$.:-]*")
_CONTRACT_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")


class FieldKind(enum.StrEnum):
    """What a value is; fixes what its int64 column holds (:class:`EventBatch`)."""

    TEXT = "text"
    INTEGER = "integer"
    DECIMAL = "decimal"
    FLOAT = "float"
    BOOLEAN = "boolean"
    CATEGORY = "category"
    TIME = "time"


class FieldRole(enum.StrEnum):
    """What a field is for."""

    VALUE = "value"
    KEY = "key"
    EVENT_ID = "event-id"
    EVENT_TIME = "event-time"


class TimeUnit(enum.StrEnum):
    """How an instant is written: integer milliseconds or seconds, or RFC 3339 text."""

    NONE = ""
    MILLISECONDS = "ms"
    SECONDS = "s"
    RFC3339 = "rfc3339"


@dataclass(frozen=True, slots=True, kw_only=True)
class Field:
    """One field of a contract.

    Attributes
    ----------
    name : str
        The key in the JSON object.
    kind : FieldKind
    role : FieldRole
    contract : str
        Name of the contract it belongs to, so that a feature knows which feed it reads.
    nullable : bool
        Whether ``null`` is allowed.
    required : bool
        Whether the key must be there.
    minimum, maximum : int, float or None
        Inclusive bounds in the units of the column: integers; minor units for a decimal;
        float64 for a float; milliseconds since the epoch for a time. None for other kinds.
    scale : int
        Digits after the point of a decimal, 0 to 9.
    bytes_max : int
        Longest text in UTF-8 bytes.
    values : tuple of str
        The values of a category; the column holds the index.
    unit : TimeUnit
        How an instant is written.
    skew_ms_max : int
        Event time only: furthest from the receiving clock, either way.
    """

    name: str
    kind: FieldKind
    role: FieldRole = FieldRole.VALUE
    contract: str = ""
    nullable: bool = False
    required: bool = True
    minimum: int | float | None = None
    maximum: int | float | None = None
    scale: int = 0
    bytes_max: int = 0
    values: tuple[str, ...] = ()
    unit: TimeUnit = TimeUnit.NONE
    skew_ms_max: int = 0

    def __post_init__(self) -> None:
        _check_field(self)

    @property
    def place(self) -> str:
        """Where the field stands, for messages."""
        return f"{self.contract}.{self.name}" if self.contract else self.name

    def expectation(self) -> str:
        """Say what a value must be, for people."""
        return _expectation(self) + (" or null" if self.nullable else "")

    def to_data(self) -> dict[str, object]:
        """Return the field as plain data; only what applies to its kind."""
        data: dict[str, object] = {
            "name": self.name,
            "kind": str(self.kind),
            "role": str(self.role),
            "nullable": self.nullable,
            "required": self.required,
        }
        data.update({key: _plain(getattr(self, key)) for key in _KIND_RULES[self.kind]})
        if self.role is FieldRole.EVENT_TIME:
            data["skew_ms_max"] = self.skew_ms_max
        return data


# Which attributes beside the common ones a kind has.
_KIND_RULES: dict[FieldKind, tuple[str, ...]] = {
    FieldKind.TEXT: ("bytes_max",),
    FieldKind.INTEGER: ("minimum", "maximum"),
    FieldKind.DECIMAL: ("minimum", "maximum", "scale"),
    FieldKind.FLOAT: ("minimum", "maximum"),
    FieldKind.BOOLEAN: (),
    FieldKind.CATEGORY: ("values",),
    FieldKind.TIME: ("minimum", "maximum", "unit"),
}
# What an attribute is where it does not apply.
_ABSENT: dict[str, object] = {
    "minimum": None,
    "maximum": None,
    "scale": 0,
    "bytes_max": 0,
    "values": (),
    "unit": TimeUnit.NONE,
}
# The kinds that each role may have.
_ROLE_KINDS: dict[FieldRole, tuple[FieldKind, ...]] = {
    FieldRole.VALUE: tuple(FieldKind),
    FieldRole.KEY: (FieldKind.TEXT, FieldKind.INTEGER),
    FieldRole.EVENT_ID: (FieldKind.TEXT,),
    FieldRole.EVENT_TIME: (FieldKind.TIME,),
}
# The widest bounds of each kind with bounds.
_WIDEST: dict[FieldKind, tuple[float, float]] = {
    FieldKind.INTEGER: (INT64_MIN, INT64_MAX),
    FieldKind.DECIMAL: (-limits.DECIMAL_MINOR_MAX, limits.DECIMAL_MINOR_MAX),
    FieldKind.FLOAT: (-1.7976931348623157e308, 1.7976931348623157e308),
    FieldKind.TIME: (-limits.TIME_MS_MAX, limits.TIME_MS_MAX),
}


def _plain(value: object) -> object:
    if isinstance(value, tuple):
        return list(value)
    return str(value) if isinstance(value, enum.StrEnum) else value


def contract_error(at: str, expected: str, got: object, hint: str = "") -> SentinelError:
    """Make the error for a contract that may not stand."""
    return SentinelError(ErrorCode.CONTRACT_INVALID, at=at, expected=expected, got=got, hint=hint)


def _require(holds: bool, at: str, expected: str, got: object, hint: str = "") -> None:
    if not holds:
        raise contract_error(at, expected, got, hint)


def _within(value: object, low: int, high: int) -> bool:
    return type(value) is int and low <= value <= high


def _check_field(field: Field) -> None:
    place = field.place
    _require(isinstance(field.name, str), place, "a field name that is text", field.name)
    for value, what in ((field.nullable, "nullable"), (field.required, "required")):
        _require(isinstance(value, bool), place, f"{what} to be true or false", value)
    n_bytes = len(field.name.encode("utf-8", "surrogatepass"))
    _require(
        bool(_NAME.fullmatch(field.name)) and n_bytes <= limits.FIELD_NAME_BYTES_MAX,
        place,
        f"a field name of 1 to {limits.FIELD_NAME_BYTES_MAX} letters, digits and _ @ $ . : -",
        field.name,
    )
    kinds = _ROLE_KINDS[field.role]
    _require(field.kind in kinds, place, f"kind {' or '.join(kinds)} for {field.role}", field.kind)
    for key, absent in _ABSENT.items():
        if key not in _KIND_RULES[field.kind]:
            got = getattr(field, key)
            _require(got == absent, place, f"no {key} for a field of kind {field.kind}", got)
    if field.role in {FieldRole.EVENT_ID, FieldRole.EVENT_TIME}:
        _require(
            field.required and not field.nullable,
            place,
            f"an {field.role} that is always there",
            "nullable or not required",
        )
    _check_rules(field, place)


def _check_rules(field: Field, place: str) -> None:
    if field.kind in _WIDEST:
        _check_bounds(field, place)
    if field.kind is FieldKind.TEXT:
        most = limits.TEXT_BYTES_MAX
        _require(
            _within(field.bytes_max, 1, most), place, f"bytes_max of 1 to {most}", field.bytes_max
        )
    if field.kind is FieldKind.DECIMAL:
        most = limits.DECIMAL_SCALE_MAX
        _require(_within(field.scale, 0, most), place, f"a scale of 0 to {most}", field.scale)
    if field.kind is FieldKind.TIME:
        _require(field.unit is not TimeUnit.NONE, place, "a unit: ms, s or rfc3339", "none")
    if field.kind is FieldKind.CATEGORY:
        _check_categories(field, place)
    if field.role is FieldRole.EVENT_TIME:
        most = limits.TIME_MS_MAX
        got = field.skew_ms_max
        _require(_within(got, 0, most), place, f"skew_ms_max of 0 to {most}", got)
    else:
        _require(field.skew_ms_max == 0, place, "skew_ms_max on the event time only", field.name)


def _check_bounds(field: Field, place: str) -> None:
    low, high = _WIDEST[field.kind]
    of_type = float if field.kind is FieldKind.FLOAT else int
    for value, name in ((field.minimum, "minimum"), (field.maximum, "maximum")):
        _require(
            type(value) is of_type and math.isfinite(value) and low <= value <= high,
            place,
            f"a {name} that is a finite {of_type.__name__} from {low} to {high}",
            value,
        )
    _require(
        field.minimum is not None and field.maximum is not None and field.minimum <= field.maximum,
        place,
        "a minimum that is not over the maximum",
        f"{field.minimum} and {field.maximum}",
    )


def _check_categories(field: Field, place: str) -> None:
    most = limits.CATEGORIES_MAX
    n_values = len(field.values)
    _require(1 <= n_values <= most, place, f"1 to {most} category values", n_values)
    _require(len(set(field.values)) == n_values, place, "category values that differ", "a repeat")
    for value in field.values:
        try:
            n_bytes = len(value.encode())
        except (UnicodeEncodeError, AttributeError):
            n_bytes = 0
        most = limits.CATEGORY_BYTES_MAX
        _require(1 <= n_bytes <= most, place, f"category values of 1 to {most} UTF-8 bytes", value)


def _expectation(field: Field) -> str:
    if field.kind is FieldKind.TEXT:
        least = 0 if field.role is FieldRole.VALUE else 1
        return f"text of {least} to {field.bytes_max} bytes"
    if field.kind is FieldKind.BOOLEAN:
        return "true or false"
    if field.kind is FieldKind.CATEGORY:
        shown = ", ".join(field.values[:8])
        return f"one of {shown}" + (", …" if len(field.values) > 8 else "")
    if field.kind is FieldKind.DECIMAL:
        unit = 10**field.scale
        low, high = ((bound or 0) / unit for bound in (field.minimum, field.maximum))
        digits = f"at most {field.scale} digits after the point"
        return f"a number with {digits}, {low:.{field.scale}f} to {high:.{field.scale}f}"
    if field.kind is FieldKind.TIME:
        form = {
            TimeUnit.MILLISECONDS: "integer milliseconds since 1970",
            TimeUnit.SECONDS: "integer seconds since 1970",
        }.get(field.unit, "RFC 3339 text with an offset")
        return f"{form}, {field.minimum} to {field.maximum} ms"
    noun = "an integer" if field.kind is FieldKind.INTEGER else "a number"
    return f"{noun} from {field.minimum} to {field.maximum}"


@dataclass(frozen=True)
class ContractSchema:
    """A contract as data.

    Attributes
    ----------
    name, version : str
        Identity for people; ``schema_hash`` is the identity for machines.
    fields : tuple of Field
        In the order of the columns.
    """

    name: str
    version: str
    fields: tuple[Field, ...]

    def __post_init__(self) -> None:
        for value, what in ((self.name, "name"), (self.version, "version")):
            _require(
                bool(_CONTRACT_NAME.fullmatch(value))
                and len(value) <= limits.CONTRACT_NAME_CHARACTERS_MAX,
                f"contract {what}",
                f"1 to {limits.CONTRACT_NAME_CHARACTERS_MAX} letters, digits and _ . -",
                value,
            )
        most = limits.CONTRACT_FIELDS_MAX
        n_fields = len(self.fields)
        _require(n_fields <= most, self.name, f"at most {most} fields", n_fields)
        names = [field.name for field in self.fields]
        for field in self.fields:
            _require(names.count(field.name) == 1, self.name, "field names that differ", field.name)
            _require(field.contract == self.name, field.place, f"contract {self.name}", field.name)
        for role in (FieldRole.EVENT_ID, FieldRole.EVENT_TIME):
            having = [field.name for field in self.fields if field.role is role]
            _require(len(having) == 1, self.name, f"one {role} field", having or "none")

    @functools.cached_property
    def event_id(self) -> Field:
        """The field that names an event."""
        return next(field for field in self.fields if field.role is FieldRole.EVENT_ID)

    @functools.cached_property
    def event_time(self) -> Field:
        """The field that says when it happened."""
        return next(field for field in self.fields if field.role is FieldRole.EVENT_TIME)

    @functools.cached_property
    def keys(self) -> tuple[Field, ...]:
        """The fields that name entities."""
        return tuple(field for field in self.fields if field.role is FieldRole.KEY)

    @functools.cached_property
    def schema_hash(self) -> str:
        """SHA-256 of the canonical JSON of :meth:`to_data`, 64 hexadecimal digits."""
        return sha256_of(self.to_data())

    def field(self, name: str) -> Field:
        """Return a field by its name.

        Raises
        ------
        SentinelError
            ``contract-invalid`` where the contract has no such field.
        """
        for field in self.fields:
            if field.name == name:
                return field
        known = ", ".join(field.name for field in self.fields)
        raise contract_error(self.name, f"one of its fields ({known})", name)

    def to_data(self) -> dict[str, object]:
        """Return the contract as plain data: what ``contract.json`` holds."""
        return {
            "format": FORMAT,
            "name": self.name,
            "version": self.version,
            "fields": [field.to_data() for field in self.fields],
        }

    def to_json(self) -> bytes:
        """Return the canonical JSON of :meth:`to_data`."""
        return canonical_json(self.to_data())

    @classmethod
    def from_data(cls, data: object) -> ContractSchema:
        """Build a contract from plain data that came from outside.

        Raises
        ------
        SentinelError
            ``contract-invalid`` with the place, for everything that is not as ``to_data`` says.
        """
        try:
            read = msgspec.convert(data, _ContractData, strict=True)
        except msgspec.ValidationError as error:
            place = str(error).partition(" - at `")[2].rstrip("`") or "$"
            expected = "contract data as to_data() writes it"
            raise contract_error(place, expected, error) from error
        except RecursionError as error:
            raise contract_error("$", "contract data that is not nested", "deep nesting") from error
        _require(read.format == FORMAT, "$.format", FORMAT, read.format)
        fields = tuple(_field_from(item, read.name) for item in read.fields)
        return cls(name=read.name, version=read.version, fields=fields)

    @classmethod
    def from_json(cls, content: bytes) -> ContractSchema:
        """Build a contract from the bytes of a ``contract.json``.

        Raises
        ------
        SentinelError
            ``contract-invalid`` for bytes that are too many, not JSON, or not a contract.
        """
        most = limits.CONTRACT_FILE_BYTES_MAX
        _require(len(content) <= most, "contract data", f"at most {most} bytes", len(content))
        try:
            data: object = json.loads(
                content.decode(), object_pairs_hook=_unique_pairs, parse_constant=_refuse_constant
            )
        except (ValueError, RecursionError) as error:
            raise contract_error("contract data", "strict JSON", error) from error
        return cls.from_data(data)

    def json_schema(self) -> dict[str, object]:
        """Return the contract as JSON Schema, draft 2020-12.

        Every accepted event is valid against it. The reverse does not hold: JSON Schema cannot
        say "no duplicate keys", "bytes, not characters" or "``1.0`` is no integer".
        """
        from sentinel.contract.json_schema import json_schema_of

        return json_schema_of(self)


class _FieldData(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    name: str
    kind: FieldKind
    role: FieldRole
    nullable: bool
    required: bool
    minimum: int | float | None = None
    maximum: int | float | None = None
    scale: int = 0
    bytes_max: int = 0
    values: list[str] = []
    unit: TimeUnit = TimeUnit.NONE
    skew_ms_max: int = 0


class _ContractData(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    format: str
    name: str
    version: str
    fields: list[_FieldData]


def _field_from(item: _FieldData, contract: str) -> Field:
    def bound(value: float | None) -> float | None:
        exact = limits.FLOAT_EXACT_INTEGER_MAX
        is_float = item.kind is FieldKind.FLOAT and value is not None
        return float(value or 0) if is_float and abs(value or 0) <= exact else value

    return Field(
        name=item.name,
        kind=item.kind,
        role=item.role,
        contract=contract,
        nullable=item.nullable,
        required=item.required,
        minimum=bound(item.minimum),
        maximum=bound(item.maximum),
        scale=item.scale,
        bytes_max=item.bytes_max,
        values=tuple(item.values),
        unit=item.unit,
        skew_ms_max=item.skew_ms_max,
    )


def _unique_pairs(pairs: list[tuple[str, object]]) -> dict[str, object]:
    unique = dict(pairs)
    if len(unique) != len(pairs):
        raise ValueError("a key that stands twice in one object")
    return unique


def _refuse_constant(token: str) -> object:
    raise ValueError(f"{token}, which is not JSON")
