"""A contract as data: the way there and back, its hash, and hostile data."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sentinel.contract import ContractSchema, Decoder, RawBatch
from sentinel.core import limits
from sentinel.core.errors import ErrorCode, SentinelError

JsonValue = dict[str, object]


def test_data_round_trips_to_the_same_contract_and_hash(schema: ContractSchema) -> None:
    for again in (
        ContractSchema.from_data(schema.to_data()),
        ContractSchema.from_json(schema.to_json()),
        ContractSchema.from_data(json.loads(json.dumps(schema.to_data()))),
    ):
        assert again == schema
        assert again.schema_hash == schema.schema_hash


def test_a_contract_from_data_decodes_to_the_same_columns(
    schema: ContractSchema, event: Callable[..., bytes]
) -> None:
    events = [event(), event(count="9"), event(note='"\\u00e9"'), b"{}", event(device='"d"')]
    raw = RawBatch.from_events(events)
    ours = Decoder(schema).decode(raw)
    theirs = Decoder(ContractSchema.from_json(schema.to_json())).decode(raw)
    assert ours.refusals == theirs.refusals
    assert ours.events.values.tobytes() == theirs.events.values.tobytes()
    assert ours.events.present.tobytes() == theirs.events.present.tobytes()
    assert ours.events.text_spans.tobytes() == theirs.events.text_spans.tobytes()


def test_every_rule_changes_the_hash(schema: ContractSchema) -> None:
    data = schema.to_data()
    hashes = {schema.schema_hash}
    n_changes = 1
    changes = {
        "name": "changed",
        "nullable": None,
        "required": None,
        "minimum": 0,
        "maximum": 1,
        "scale": 3,
        "bytes_max": 7,
        "values": ["other"],
        "unit": "s",
        "skew_ms_max": 1,
    }
    for index, item in enumerate(schema.to_data()["fields"]):  # type: ignore[arg-type,call-overload]
        for key, value in changes.items():
            is_fixed = item["role"] in {"event-id", "event-time"} and value is None
            if key not in item or is_fixed or (item["kind"] == "time" and key == "maximum"):
                continue
            changed = copy.deepcopy(data)
            field = changed["fields"][index]  # type: ignore[index]
            field[key] = not field[key] if value is None else value
            if field[key] == item[key]:
                continue
            if key in {"minimum", "maximum"} and not field["minimum"] <= field["maximum"]:
                continue
            hashes.add(ContractSchema.from_data(changed).schema_hash)
            n_changes += 1
    assert len(hashes) == n_changes > 40


HOSTILE: list[tuple[str, Callable[[JsonValue], object], str]] = [
    ("not an object", lambda _: [], "$"),
    ("null", lambda _: None, "$"),
    ("unknown key", lambda data: {**data, "code": "import os"}, "$"),
    ("unknown format", lambda data: {**data, "format": "sentinel-contract-9"}, "$.format"),
    ("missing name", lambda data: {k: v for k, v in data.items() if k != "name"}, "$"),
    ("name of a path", lambda data: {**data, "name": "../../etc"}, "contract name"),
    ("version as number", lambda data: {**data, "version": 1}, "$.version"),
    ("fields as text", lambda data: {**data, "fields": "x"}, "$.fields"),
    ("no fields", lambda data: {**data, "fields": []}, "wide"),
    ("a field twice", lambda data: {**data, "fields": data["fields"] * 2}, "wide"),
    ("too many fields", lambda data: {**data, "fields": data["fields"] * 100}, "wide"),
]


@pytest.mark.parametrize(
    ("spoil", "at"), [row[1:] for row in HOSTILE], ids=[row[0] for row in HOSTILE]
)
def test_hostile_data_is_refused_with_its_place(
    spoil: Callable[[JsonValue], object], at: str, schema: ContractSchema
) -> None:
    with pytest.raises(SentinelError) as caught:
        ContractSchema.from_data(spoil(schema.to_data()))
    assert caught.value.code is ErrorCode.CONTRACT_INVALID
    assert caught.value.at == at


HOSTILE_FIELDS: list[tuple[str, JsonValue, str]] = [
    ("unknown kind", {"kind": "pickle"}, "$.fields[0].kind"),
    ("unknown role", {"role": "root"}, "$.fields[0].role"),
    ("boolean as text", {"nullable": "no"}, "$.fields[0].nullable"),
    ("extra rule", {"scale": 2}, "wide.id"),
    ("event id that may be absent", {"required": False}, "wide.id"),
    ("event id as a float", {"kind": "float"}, "wide.id"),
    ("bytes over the limit", {"bytes_max": 10**9}, "wide.id"),
    ("bytes over int64", {"bytes_max": 10**30}, "wide.id"),
    ("name with control characters", {"name": "a\n\x1b[31m"}, "wide.a\\n\\x1b[31m"),
]


@pytest.mark.parametrize(
    ("change", "at"), [row[1:] for row in HOSTILE_FIELDS], ids=[row[0] for row in HOSTILE_FIELDS]
)
def test_a_hostile_field_is_refused_with_its_place(
    change: JsonValue, at: str, schema: ContractSchema
) -> None:
    data = schema.to_data()
    data["fields"][0].update(change)  # type: ignore[index]
    with pytest.raises(SentinelError) as caught:
        ContractSchema.from_data(data)
    assert caught.value.code is ErrorCode.CONTRACT_INVALID
    assert caught.value.at == at


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\xff",
        b"\xef\xbb\xbf{}",
        b'{"name":"a","name":"b"}',
        b'{"x":NaN}',
        b"[" * 200_000,
        b'{"x":' + b"9" * 10_000 + b"}",
        b" " * (limits.CONTRACT_FILE_BYTES_MAX + 1),
    ],
    ids=["empty", "bytes", "mark", "duplicate", "NaN", "deep", "digits", "large"],
)
def test_bytes_that_are_no_contract_are_refused(content: bytes) -> None:
    with pytest.raises(SentinelError) as caught:
        ContractSchema.from_json(content)
    assert caught.value.code is ErrorCode.CONTRACT_INVALID
    assert caught.value.at == "contract data"


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(["format", "name", "version", "fields", "kind", "role", "values"]),
            inner,
            max_size=5,
        )
    ),
    max_leaves=12,
)


@given(data=JSON)
def test_any_data_gives_a_contract_or_the_error(data: object) -> None:
    code = ErrorCode.CONTRACT_INVALID
    try:
        ContractSchema.from_data(data)
    except SentinelError as error:
        code = error.code
    assert code is ErrorCode.CONTRACT_INVALID


def test_json_schema_says_what_it_can(schema: ContractSchema) -> None:
    exported = json.loads(json.dumps(schema.json_schema()))
    assert exported["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    assert exported["additionalProperties"] is False
    assert schema.schema_hash in exported["$comment"]
    assert exported["required"] == [field.name for field in schema.fields if field.required]
    properties = exported["properties"]
    assert properties["count"]["type"] == "integer"
    assert (properties["count"]["minimum"], properties["count"]["maximum"]) == (-3, 7)
    assert properties["amount"]["maximum"] == 100_000
    assert properties["channel"]["enum"] == ["chip", "onliné", 'a"b', None]
    assert properties["device"]["type"] == ["string", "null"]
    assert properties["card"]["minLength"] == 1
    assert properties["told"]["format"] == "date-time"
    assert properties["seen"]["minimum"] == 946_684_800
