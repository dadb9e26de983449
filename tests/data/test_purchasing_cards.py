"""Real purchases go out as they are; what breaks the contract is refused with its reason."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from sentinel.contract import Decoder
from sentinel.data import EventFile
from sentinel.data.event_folder import EventFolder
from sentinel.data.purchasing_cards import (
    CardPurchase,
    prepare_purchasing_cards,
    purchasing_cards_are_there,
)


def _decode(folder: EventFolder) -> tuple[int, Counter[str], dict[int, str]]:
    decoder = Decoder(CardPurchase.schema)
    n_rows, codes, by_position = 0, Counter[str](), {}
    for batch in EventFile(folder.events).batches():
        decoded = decoder.decode(batch)
        n_rows += decoded.events.n_rows
        for refusal in decoded.refusals:
            codes[str(refusal.code)] += 1
            by_position[refusal.position] = str(refusal.code)
    return n_rows, codes, by_position


def test_dirty_rows_are_refused_each_with_its_reason_and_the_rest_flows(
    purchasing_file: Path, tmp_path: Path
) -> None:
    folder = prepare_purchasing_cards(tmp_path / "out", source=purchasing_file)
    n_rows, _, refused = _decode(folder)
    assert refused == {
        1: "unknown_category",
        2: "unknown_category",
        3: "out_of_bounds",
        4: "unknown_category",
        5: "out_of_bounds",
    }
    assert n_rows == 35
    assert (folder.feedback, folder.scenarios) == (None, None)


def test_values_go_out_as_they_came(purchasing_file: Path, tmp_path: Path) -> None:
    folder = prepare_purchasing_cards(tmp_path / "out", source=purchasing_file)
    lines = folder.events.read_bytes().splitlines()
    nothing, dirty = json.loads(lines[0]), json.loads(lines[1])
    assert nothing["merchant_number"] is None
    assert nothing["state"] is None
    assert nothing["zip_code"] is None
    assert nothing["merchant"] == 'SHOP "A", TOWN'
    assert dirty["state"] == "042"
    assert b'"amount":3102000.00' in lines[5]
    assert nothing["occurred_at"] == 1_262_304_000_000


def test_rows_of_a_day_keep_the_order_of_the_source(purchasing_file: Path, tmp_path: Path) -> None:
    table = pq.read_table(purchasing_file)
    pq.write_table(table.take(list(reversed(range(table.num_rows)))), purchasing_file)
    folder = prepare_purchasing_cards(tmp_path / "out", source=purchasing_file)
    ids = [json.loads(line)["purchase_id"] for line in folder.events.read_bytes().splitlines()]
    assert ids == [str(i) for i in range(40)]


def test_a_second_run_finds_what_the_first_made(purchasing_file: Path, tmp_path: Path) -> None:
    first = prepare_purchasing_cards(tmp_path / "out", source=purchasing_file)
    again = prepare_purchasing_cards(tmp_path / "out", source=purchasing_file)
    assert (first.was_there, again.was_there) == (False, True)


@pytest.mark.data
@pytest.mark.skipif(
    not purchasing_cards_are_there(),
    reason="the purchasing cards are not in SENTINEL_DATA; their twin ran",
)
def test_the_published_set_is_refused_only_where_it_is_dirty(tmp_path: Path) -> None:
    folder = prepare_purchasing_cards(tmp_path / "out")
    n_rows, codes, _ = _decode(folder)
    assert folder.n_events == 95_076
    assert n_rows + sum(codes.values()) == folder.n_events
    assert codes == {"unknown_category": 182, "out_of_bounds": 84}
