"""How a contract's fields are declared: one class a kind, as attributes of a `Contract`."""

from __future__ import annotations

import abc
import decimal
from typing import TYPE_CHECKING

from sentinel.contract.schema import (
    INT64_MAX,
    INT64_MIN,
    Field,
    FieldKind,
    FieldRole,
    TimeUnit,
    contract_error,
)
from sentinel.core import limits

if TYPE_CHECKING:
    from sentinel.contract.contract import Contract


class Declaration(abc.ABC):
    """A field as it is declared; read from the class, it is the :class:`Field`.

    Parameters
    ----------
    nullable : bool
        Whether ``null`` is allowed.
    required : bool
        Whether the key must be there.
    name : str, optional
        The JSON key, where it is not the name of the attribute.
    """

    def __init__(self, *, nullable: bool = False, required: bool = True, name: str = "") -> None:
        self.nullable = nullable
        self.required = required
        self.name = name

    def __set_name__(self, owner: type, attribute: str) -> None:
        self.name = self.name or attribute

    def __get__(self, instance: object, owner: type[Contract]) -> Field:
        return owner.schema.field(self.name)

    @abc.abstractmethod
    def build(self, contract: str) -> Field:
        """Make the field of a contract."""


class Text(Declaration):
    """Free text; the column holds its SipHash.

    Parameters
    ----------
    bytes_max : int
        Longest value in UTF-8 bytes.
    nullable, required, name
        See :class:`Declaration`.
    """

    role = FieldRole.VALUE

    def __init__(
        self,
        *,
        bytes_max: int = limits.TEXT_BYTES_DEFAULT,
        nullable: bool = False,
        required: bool = True,
        name: str = "",
    ) -> None:
        super().__init__(nullable=nullable, required=required, name=name)
        self.bytes_max = bytes_max

    def build(self, contract: str) -> Field:
        """Make the field of a contract."""
        return Field(
            name=self.name,
            contract=contract,
            kind=FieldKind.TEXT,
            role=self.role,
            nullable=self.nullable,
            required=self.required,
            bytes_max=self.bytes_max,
        )


class EventId(Text):
    """The name of the event, unique within its source: text of 1 to ``bytes_max`` bytes."""

    role = FieldRole.EVENT_ID

    def __init__(self, *, bytes_max: int = limits.KEY_BYTES_DEFAULT, name: str = "") -> None:
        super().__init__(bytes_max=bytes_max, name=name)


class Key(Text):
    """The name of an entity (a card, a merchant): text of at least one byte, or an integer.

    Parameters
    ----------
    integer : bool
        Whether the key is a JSON integer (any int64) instead of text.
    bytes_max, nullable, required, name
        See :class:`Text`.
    """

    role = FieldRole.KEY

    def __init__(
        self,
        *,
        integer: bool = False,
        bytes_max: int = limits.KEY_BYTES_DEFAULT,
        nullable: bool = False,
        required: bool = True,
        name: str = "",
    ) -> None:
        super().__init__(bytes_max=bytes_max, nullable=nullable, required=required, name=name)
        self.integer = integer

    def build(self, contract: str) -> Field:
        """Make the field of a contract."""
        if not self.integer:
            return super().build(contract)
        return Field(
            name=self.name,
            contract=contract,
            kind=FieldKind.INTEGER,
            role=self.role,
            nullable=self.nullable,
            required=self.required,
            minimum=INT64_MIN,
            maximum=INT64_MAX,
        )


class Integer(Declaration):
    """A JSON integer within bounds; any float, ``1.0`` included, is refused.

    Parameters
    ----------
    minimum, maximum : int
        Inclusive; the int64 range by default.
    nullable, required, name
        See :class:`Declaration`.
    """

    def __init__(
        self,
        *,
        minimum: int = INT64_MIN,
        maximum: int = INT64_MAX,
        nullable: bool = False,
        required: bool = True,
        name: str = "",
    ) -> None:
        super().__init__(nullable=nullable, required=required, name=name)
        self.minimum = minimum
        self.maximum = maximum

    def build(self, contract: str) -> Field:
        """Make the field of a contract."""
        return Field(
            name=self.name,
            contract=contract,
            kind=FieldKind.INTEGER,
            nullable=self.nullable,
            required=self.required,
            minimum=self.minimum,
            maximum=self.maximum,
        )


class Decimal(Declaration):
    """An exact quantity, such as money: an integer of minor units inside.

    Parameters
    ----------
    scale : int
        Digits after the point, 0 to 9. More digits are refused, never rounded.
    minimum, maximum : int, float, str or decimal.Decimal, optional
        Inclusive, in major units, with no more digits than the scale; ±2^53 minor units by
        default.
    nullable, required, name
        See :class:`Declaration`.
    """

    def __init__(
        self,
        *,
        scale: int,
        minimum: float | str | decimal.Decimal | None = None,
        maximum: float | str | decimal.Decimal | None = None,
        nullable: bool = False,
        required: bool = True,
        name: str = "",
    ) -> None:
        super().__init__(nullable=nullable, required=required, name=name)
        self.scale = scale
        self.minimum = minimum
        self.maximum = maximum

    def build(self, contract: str) -> Field:
        """Make the field of a contract."""
        low, high = -limits.DECIMAL_MINOR_MAX, limits.DECIMAL_MINOR_MAX
        return Field(
            name=self.name,
            contract=contract,
            kind=FieldKind.DECIMAL,
            nullable=self.nullable,
            required=self.required,
            minimum=low if self.minimum is None else self._minor(self.minimum, contract),
            maximum=high if self.maximum is None else self._minor(self.maximum, contract),
            scale=self.scale,
        )

    def _minor(self, bound: float | str | decimal.Decimal, contract: str) -> int:
        place = f"{contract}.{self.name}"
        try:
            minor = decimal.Decimal(str(bound)).scaleb(self.scale)
            whole = int(minor)
        except (ArithmeticError, ValueError, TypeError) as error:
            raise contract_error(place, "a bound that is a finite number", bound) from error
        if whole != minor:
            expected = f"a bound with at most {self.scale} digits after the point"
            raise contract_error(place, expected, bound)
        return whole


class Float(Declaration):
    """A finite float64, correctly rounded; JSON integers up to 2^53 are accepted.

    Parameters
    ----------
    minimum, maximum : float
        Inclusive; every finite value by default.
    nullable, required, name
        See :class:`Declaration`.
    """

    def __init__(
        self,
        *,
        minimum: float = -1.7976931348623157e308,
        maximum: float = 1.7976931348623157e308,
        nullable: bool = False,
        required: bool = True,
        name: str = "",
    ) -> None:
        super().__init__(nullable=nullable, required=required, name=name)
        self.minimum = minimum
        self.maximum = maximum

    def build(self, contract: str) -> Field:
        """Make the field of a contract."""
        return Field(
            name=self.name,
            contract=contract,
            kind=FieldKind.FLOAT,
            nullable=self.nullable,
            required=self.required,
            minimum=self._bound(self.minimum, contract),
            maximum=self._bound(self.maximum, contract),
        )

    def _bound(self, bound: float, contract: str) -> float:
        try:
            return float(bound)
        except (TypeError, ValueError, OverflowError) as error:
            place = f"{contract}.{self.name}"
            raise contract_error(place, "a bound that is a finite number", bound) from error


class Boolean(Declaration):
    """``true`` or ``false``; nothing else is turned into one."""

    def build(self, contract: str) -> Field:
        """Make the field of a contract."""
        return Field(
            name=self.name,
            contract=contract,
            kind=FieldKind.BOOLEAN,
            nullable=self.nullable,
            required=self.required,
        )


class Category(Declaration):
    """One of a closed list of texts; the column holds the index in the order declared.

    Parameters
    ----------
    *values : str
        1 to 1,024 different texts of 1 to 128 UTF-8 bytes.
    nullable, required, name
        See :class:`Declaration`.
    """

    def __init__(
        self, *values: str, nullable: bool = False, required: bool = True, name: str = ""
    ) -> None:
        super().__init__(nullable=nullable, required=required, name=name)
        self.values = values

    def build(self, contract: str) -> Field:
        """Make the field of a contract."""
        return Field(
            name=self.name,
            contract=contract,
            kind=FieldKind.CATEGORY,
            nullable=self.nullable,
            required=self.required,
            values=self.values,
        )


class Timestamp(Declaration):
    """An instant; milliseconds since the epoch inside.

    Parameters
    ----------
    unit : str
        How it is written: ``"ms"`` or ``"s"`` for integers, ``"rfc3339"`` for text.
    minimum_ms, maximum_ms : int
        Inclusive, milliseconds since the epoch; 2000-01-01 to 2100-01-01 by default.
    nullable, required, name
        See :class:`Declaration`.
    """

    role = FieldRole.VALUE
    skew_ms_max = 0

    def __init__(
        self,
        *,
        unit: str = "ms",
        minimum_ms: int = limits.TIME_DEFAULT_MIN_MS,
        maximum_ms: int = limits.TIME_DEFAULT_MAX_MS,
        nullable: bool = False,
        required: bool = True,
        name: str = "",
    ) -> None:
        super().__init__(nullable=nullable, required=required, name=name)
        self.unit = unit
        self.minimum_ms = minimum_ms
        self.maximum_ms = maximum_ms

    def build(self, contract: str) -> Field:
        """Make the field of a contract."""
        known = [str(unit) for unit in TimeUnit if unit]
        if self.unit not in known:
            raise contract_error(f"{contract}.{self.name}", f"a unit of {known}", self.unit)
        return Field(
            name=self.name,
            contract=contract,
            kind=FieldKind.TIME,
            role=self.role,
            nullable=self.nullable,
            required=self.required,
            minimum=self.minimum_ms,
            maximum=self.maximum_ms,
            unit=TimeUnit(self.unit),
            skew_ms_max=self.skew_ms_max,
        )


class EventTime(Timestamp):
    """When the event happened; held against the receiving clock where one is known.

    Parameters
    ----------
    unit, minimum_ms, maximum_ms, name
        See :class:`Timestamp`.
    skew_ms_max : int
        Furthest from the receiving clock, either way; 5 minutes by default.
    """

    role = FieldRole.EVENT_TIME

    def __init__(
        self,
        *,
        unit: str = "ms",
        minimum_ms: int = limits.TIME_DEFAULT_MIN_MS,
        maximum_ms: int = limits.TIME_DEFAULT_MAX_MS,
        skew_ms_max: int = limits.EVENT_TIME_SKEW_MS_MAX,
        name: str = "",
    ) -> None:
        super().__init__(unit=unit, minimum_ms=minimum_ms, maximum_ms=maximum_ms, name=name)
        self.skew_ms_max = skew_ms_max
