"""Tables: every name and category is found, however many, long and alike."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sentinel.contract import (
    Category,
    Contract,
    ContractSchema,
    Decoder,
    EventId,
    EventTime,
    Integer,
    RawBatch,
    RefusalCode,
)
from sentinel.contract.tables import OWNER, build_tables
from sentinel.core import limits

NAMES = ["n" * length for length in range(1, 65)] + [f"{i:02d}" + "m" * 40 for i in range(62)]
VALUES = [f"value {i}" for i in range(limits.CATEGORIES_MAX)]


class Large(Contract, name="large", version="1"):
    """As many fields as there may be, with names that are prefixes of each other."""

    id = EventId()
    at = EventTime()
    for _name in NAMES:
        vars()[f"f_{_name}"] = Integer(name=_name)
    del _name


class Choosy(Contract, name="choosy", version="1"):
    """As many categories as there may be, twice."""

    id = EventId()
    at = EventTime()
    first = Category(*VALUES)
    second = Category(*reversed(VALUES))


HEAD = {"id": "e", "at": 1_700_000_000_000}


@pytest.mark.parametrize("seed", range(6))
def test_every_name_of_a_large_contract_is_found_in_any_order(seed: int) -> None:
    assert len(Large.schema.fields) == limits.CONTRACT_FIELDS_MAX
    order = np.random.default_rng(seed).permutation(len(NAMES))
    pairs = {NAMES[i]: int(i) for i in (order if seed else range(len(NAMES)))}
    content = json.dumps({**HEAD, **pairs}).encode()
    events = Decoder(Large.schema).decode(RawBatch.from_events([content, content])).events
    assert events.n_rows == 2
    for index, name in enumerate(NAMES):
        assert events.column(name).tolist() == [index, index]


@given(name=st.text(alphabet="nm01", min_size=1, max_size=70))
def test_a_name_that_is_not_there_is_unknown(name: str) -> None:
    content = json.dumps({**HEAD, **dict.fromkeys(NAMES, 1), name: 1}).encode()
    decoded = Decoder(Large.schema).decode(RawBatch.from_events([content]))
    codes = [refusal.code for refusal in decoded.refusals]
    assert codes == ([] if name in NAMES else [RefusalCode.UNKNOWN_FIELD])


def test_every_category_has_its_index_in_its_own_field() -> None:
    events = [json.dumps({**HEAD, "first": v, "second": v}).encode() for v in VALUES]
    columns = Decoder(Choosy.schema).decode(RawBatch.from_events(events)).events
    assert columns.column("first").tolist() == list(range(len(VALUES)))
    assert columns.column("second").tolist() == list(range(len(VALUES)))[::-1]


@pytest.mark.parametrize("value", ["", "value", "value 1024", "value 1 ", "VALUE 1", "value\x001"])
def test_what_is_nearly_a_category_is_none(value: str) -> None:
    content = json.dumps({**HEAD, "first": value, "second": "value 1"}).encode()
    (refusal,) = Decoder(Choosy.schema).decode(RawBatch.from_events([content])).refusals
    assert refusal.code is RefusalCode.UNKNOWN_CATEGORY


def test_lookup_tables_are_at_most_half_full(schema: ContractSchema) -> None:
    for contract in (schema, Large.schema, Choosy.schema):
        slots = build_tables(contract).slots
        assert 2 * np.count_nonzero(slots[:, OWNER] >= 0) <= len(slots)


def test_equal_contracts_have_equal_tables(schema: ContractSchema) -> None:
    again = ContractSchema.from_json(schema.to_json())
    for ours, theirs in zip(build_tables(schema), build_tables(again), strict=True):
        assert ours.tobytes() == theirs.tobytes()
