"""Declaring a contract: what stands, and what is refused with its place."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from sentinel.contract import (
    Boolean,
    Category,
    Contract,
    Decimal,
    EventId,
    EventTime,
    Field,
    FieldKind,
    FieldRole,
    Float,
    Integer,
    Key,
    Text,
    Timestamp,
)
from sentinel.contract.fields import Declaration
from sentinel.core import limits
from sentinel.core.errors import ErrorCode, SentinelError


def declare(**attributes: object) -> type[Contract]:
    """Declare a contract with an event id and an event time unless they are given."""
    base: dict[str, object] = {"event_id": EventId(), "at": EventTime()}
    chosen = {key: value for key, value in {**base, **attributes}.items() if value is not None}
    return type("Declared", (Contract,), dict(chosen), name="declared", version="1")


def test_an_attribute_is_its_field_and_knows_its_contract() -> None:
    contract = declare(amount=Decimal(scale=2, minimum=0, maximum="99.99"))
    field = contract.amount  # type: ignore[attr-defined]
    assert isinstance(field, Field)
    assert (field.name, field.contract, field.maximum) == ("amount", "declared", 9999)
    assert contract.schema.field("amount") is field


def test_roles_are_found() -> None:
    schema = declare(card=Key(), no=Key(integer=True)).schema
    assert schema.event_id.role is FieldRole.EVENT_ID
    assert schema.event_time.name == "at"
    assert [field.name for field in schema.keys] == ["card", "no"]
    assert schema.field("no").kind is FieldKind.INTEGER


def test_a_contract_may_extend_another_under_its_own_name() -> None:
    class First(Contract, name="first", version="1"):
        event_id = EventId()
        at = EventTime()

    class Second(First, name="second", version="2"):
        more = Boolean()

    assert [field.name for field in Second.schema.fields] == ["event_id", "at", "more"]
    assert Second.at.contract == "second"
    assert First.at.contract == "first"


def test_a_json_key_may_differ_from_the_attribute() -> None:
    contract = declare(class_=Text(name="class"))
    assert contract.class_.name == "class"  # type: ignore[attr-defined]


def test_a_contract_is_not_instantiated() -> None:
    with pytest.raises(TypeError, match="Declared is a description"):
        declare()()


FAULTY: list[tuple[str, dict[str, object], str, str]] = [
    ("two event ids", {"other": EventId()}, "declared", "one event-id field"),
    ("no event id", {"event_id": None}, "declared", "one event-id field"),
    ("no event time", {"at": None}, "declared", "one event-time field"),
    ("two event times", {"other": EventTime()}, "declared", "one event-time field"),
    ("same name twice", {"x": Text(name="event_id")}, "declared", "field names that differ"),
    ("bounds crossed", {"x": Integer(minimum=2, maximum=1)}, "declared.x", "not over the maximum"),
    ("integer over int64", {"x": Integer(maximum=1 << 63)}, "declared.x", "maximum"),
    ("float bound for an integer", {"x": Integer(minimum=1.5)}, "declared.x", "minimum"),
    ("infinite bound", {"x": Float(maximum=float("inf"))}, "declared.x", "maximum"),
    ("NaN bound", {"x": Float(minimum=float("nan"))}, "declared.x", "minimum"),
    ("a word as bound", {"x": Float(minimum="low")}, "declared.x", "finite number"),
    ("bound finer than the scale", {"x": Decimal(scale=2, minimum="0.001")}, "declared.x", "2 dig"),
    ("bound that is no number", {"x": Decimal(scale=2, minimum="x")}, "declared.x", "finite"),
    ("infinite decimal bound", {"x": Decimal(scale=2, minimum="inf")}, "declared.x", "finite"),
    ("decimal over 2^53", {"x": Decimal(scale=2, maximum=1 << 53)}, "declared.x", "maximum"),
    ("scale too fine", {"x": Decimal(scale=10)}, "declared.x", "a scale of 0 to 9"),
    ("negative scale", {"x": Decimal(scale=-1)}, "declared.x", "a scale of 0 to 9"),
    ("no categories", {"x": Category()}, "declared.x", "1 to 1024 category values"),
    ("repeated category", {"x": Category("a", "a")}, "declared.x", "that differ"),
    ("empty category", {"x": Category("a", "")}, "declared.x", "UTF-8 bytes"),
    ("category that is no text", {"x": Category("a", 1)}, "declared.x", "UTF-8 bytes"),
    ("surrogate category", {"x": Category("\ud800")}, "declared.x", "UTF-8 bytes"),
    ("no bytes", {"x": Text(bytes_max=0)}, "declared.x", "bytes_max"),
    ("too many bytes", {"x": Text(bytes_max=1 << 20)}, "declared.x", "bytes_max"),
    ("bytes that are no integer", {"x": Key(bytes_max="9")}, "declared.x", "bytes_max"),
    ("unknown unit", {"x": Timestamp(unit="us")}, "declared.x", "a unit of"),
    ("negative skew", {"at": EventTime(skew_ms_max=-1)}, "declared.at", "skew_ms_max"),
    ("nullable that is no boolean", {"x": Boolean(nullable=1)}, "declared.x", "nullable"),
    ("name with a space", {"x": Text(name="a b")}, "declared.a b", "a field name"),
    ("name too long", {"x": Text(name="a" * 65)}, "declared.aaa", "a field name"),
    ("class instead of a field", {"x": Decimal}, "Declared.x", "a field such as"),
    ("a plain value", {"x": 3}, "Declared.x", "a field such as"),
    ("a field called schema", {"schema": Text()}, "Declared.schema", "another attribute name"),
    (
        "too many fields",
        {f"x{i}": Boolean() for i in range(limits.CONTRACT_FIELDS_MAX)},
        "declared",
        "at most 128 fields",
    ),
]


@pytest.mark.parametrize(
    ("attributes", "at", "expected"), [row[1:] for row in FAULTY], ids=[row[0] for row in FAULTY]
)
def test_a_declaration_that_cannot_stand_is_refused_with_its_place(
    attributes: dict[str, object], at: str, expected: str
) -> None:
    with pytest.raises(SentinelError) as caught:
        declare(**attributes)
    assert caught.value.code is ErrorCode.CONTRACT_INVALID
    assert caught.value.at.startswith(at)
    assert expected in caught.value.expected


@pytest.mark.parametrize(
    ("name", "version"), [("", "1"), ("a", ""), ("a b", "1"), ("a", "../1"), ("a" * 65, "1")]
)
def test_name_and_version_are_plain_words(name: str, version: str) -> None:
    attributes: dict[str, object] = {"event_id": EventId(), "at": EventTime()}
    with pytest.raises(SentinelError) as caught:
        type("Declared", (Contract,), attributes, name=name, version=version)
    assert caught.value.code is ErrorCode.CONTRACT_INVALID
    assert caught.value.at in {"Declared", "contract name", "contract version"}


def test_an_unknown_field_is_named_with_those_that_exist() -> None:
    with pytest.raises(SentinelError) as caught:
        declare(card=Key()).schema.field("crad")
    assert caught.value.code is ErrorCode.CONTRACT_INVALID
    assert caught.value.at == "declared"
    assert "card" in caught.value.expected


def test_every_declaration_takes_null_absence_and_a_name() -> None:
    builders: list[Callable[..., Declaration]] = [
        Text,
        Key,
        Integer,
        Float,
        Boolean,
        Timestamp,
        lambda **common: Decimal(scale=2, **common),
        lambda **common: Category("a", **common),
        lambda **common: Key(integer=True, **common),
    ]
    for build in builders:
        contract = declare(x=build(nullable=True, required=False, name="y"))
        field = contract.schema.field("y")
        assert (field.nullable, field.required) == (True, False)
