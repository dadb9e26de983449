"""The Handbook becomes events without a trace of the label, and verdicts a week later."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest

from sentinel.contract import Contract, Decoder
from sentinel.core.errors import ErrorCode, SentinelError
from sentinel.data import EventFile, read_scenarios
from sentinel.data.handbook import (
    SCENARIOS,
    HandbookTransaction,
    HandbookVerdict,
    handbook_is_there,
    prepare_handbook,
)

WEEK_MS = 7 * 86_400_000


def _objects(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_bytes().splitlines()]


def _n_accepted(contract: type[Contract], path: Path) -> int:
    decoder = Decoder(contract.schema)
    n_rows = 0
    for batch in EventFile(path).batches():
        decoded = decoder.decode(batch)
        assert decoded.refusals == ()
        n_rows += decoded.events.n_rows
    return n_rows


def _with(path: Path, name: str, values: pa.Array) -> None:
    table = pq.read_table(path)
    at = table.column_names.index(name)
    pq.write_table(table.set_column(at, name, values), path)


def test_rows_become_events_that_keep_the_contract(handbook_file: Path, tmp_path: Path) -> None:
    folder = prepare_handbook(tmp_path / "out", source=handbook_file)
    assert folder.feedback is not None
    assert _n_accepted(HandbookTransaction, folder.events) == folder.n_events == 300
    assert _n_accepted(HandbookVerdict, folder.feedback) == folder.n_feedback == 300
    first = folder.events.read_bytes().splitlines()[4]
    assert first == (
        b'{"transaction_id":"4","occurred_at":1522542031000,"customer_id":5,"terminal_id":5,'
        b'"amount":220.05}'
    )


def test_events_carry_nothing_of_the_label(handbook_file: Path, tmp_path: Path) -> None:
    folder = prepare_handbook(tmp_path / "out", source=handbook_file)
    assert set(_objects(folder.events)[0]) == {
        "transaction_id",
        "occurred_at",
        "customer_id",
        "terminal_id",
        "amount",
    }
    assert folder.scenarios is not None
    scenarios = read_scenarios(folder.scenarios)
    assert scenarios["4"] == "amount_over_220"
    assert scenarios["6"] == "compromised_terminal"
    assert scenarios["8"] == "compromised_customer"
    assert "5" not in scenarios
    assert len(scenarios) == folder.n_frauds == 90
    assert SCENARIOS[0] == "genuine"


@pytest.mark.parametrize("delay_days", [0, 7, 30])
def test_each_transaction_has_one_verdict_known_later(
    handbook_file: Path, tmp_path: Path, delay_days: int
) -> None:
    folder = prepare_handbook(tmp_path / "out", source=handbook_file, delay_days=delay_days)
    assert folder.feedback is not None
    events, verdicts = _objects(folder.events), _objects(folder.feedback)
    for event, verdict in zip(events, verdicts, strict=True):
        assert verdict["transaction_id"] == event["transaction_id"]
        assert verdict["terminal_id"] == event["terminal_id"]
        delay = int(str(verdict["known_at"])) - int(str(event["occurred_at"]))
        assert delay == delay_days * WEEK_MS // 7
    assert sum(bool(verdict["is_fraud"]) for verdict in verdicts) == folder.n_frauds


@pytest.mark.parametrize("delay_days", [-1, 366])
def test_a_delay_out_of_range_is_the_callers_mistake(tmp_path: Path, delay_days: int) -> None:
    with pytest.raises(ValueError, match="delay_days"):
        prepare_handbook(tmp_path, delay_days=delay_days)


def test_daily_files_and_csv_give_the_same_bytes_as_one_parquet_file(
    handbook_file: Path, tmp_path: Path
) -> None:
    whole = prepare_handbook(tmp_path / "whole", source=handbook_file)
    table = pq.read_table(handbook_file)
    daily = tmp_path / "daily"
    daily.mkdir()
    # The pickles of the authors hold amounts as floats and keys as Python integers.
    amounts = table.column("TX_AMOUNT").cast(pa.float64())
    table = table.set_column(table.column_names.index("TX_AMOUNT"), "TX_AMOUNT", amounts)
    pq.write_table(table.slice(0, 100), daily / "2018-04-01.parquet")
    pyarrow.csv.write_csv(table.slice(100), daily / "2018-04-02.csv")
    parts = prepare_handbook(tmp_path / "parts", source=daily)
    assert parts.events.read_bytes() == whole.events.read_bytes()
    assert parts.feedback is not None
    assert whole.feedback is not None
    assert parts.feedback.read_bytes() == whole.feedback.read_bytes()


def test_rows_out_of_order_are_put_in_order_of_time(handbook_file: Path, tmp_path: Path) -> None:
    whole = prepare_handbook(tmp_path / "whole", source=handbook_file)
    table = pq.read_table(handbook_file)
    pq.write_table(table.take(list(reversed(range(300)))), handbook_file)
    turned = prepare_handbook(tmp_path / "turned", source=handbook_file)
    assert turned.events.read_bytes() == whole.events.read_bytes()


def test_a_second_run_finds_what_the_first_made_and_a_changed_file_makes_it_anew(
    handbook_file: Path, tmp_path: Path
) -> None:
    calls: list[tuple[int, int]] = []
    progress = lambda done, total: calls.append((done, total))  # noqa: E731 -- one line
    first = prepare_handbook(tmp_path / "out", source=handbook_file, progress=progress)
    again = prepare_handbook(tmp_path / "out", source=handbook_file, progress=progress)
    assert (first.was_there, again.was_there, calls) == (False, True, [(300, 300)])
    pq.write_table(pq.read_table(handbook_file).slice(0, 10), handbook_file)
    changed = prepare_handbook(tmp_path / "out", source=handbook_file)
    assert (changed.was_there, changed.n_events) == (False, 10)


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("TRANSACTION_ID", pa.array([*range(299), 0])),
        ("TX_FRAUD", pa.array([2] * 300)),
        ("TX_FRAUD_SCENARIO", pa.array([4] * 300)),
        ("TX_FRAUD_SCENARIO", pa.array([0] * 300)),
        ("TX_AMOUNT", pa.array([-1.0] * 300)),
        ("CUSTOMER_ID", pa.array([None] * 300, pa.int32())),
    ],
)
def test_a_value_that_the_book_cannot_contain_is_named(
    handbook_file: Path, tmp_path: Path, name: str, values: pa.Array
) -> None:
    _with(handbook_file, name, values)
    with pytest.raises(SentinelError) as caught:
        prepare_handbook(tmp_path / "out", source=handbook_file)
    assert caught.value.code is ErrorCode.DATASET_VALUE
    assert caught.value.at.endswith(f"column {name}")
    assert not (tmp_path / "out").exists()


def test_a_file_without_the_scenario_is_refused(handbook_file: Path, tmp_path: Path) -> None:
    pq.write_table(pq.read_table(handbook_file).drop_columns(["TX_FRAUD_SCENARIO"]), handbook_file)
    with pytest.raises(SentinelError) as caught:
        prepare_handbook(tmp_path / "out", source=handbook_file)
    assert caught.value.code is ErrorCode.DATASET_COLUMNS
    assert caught.value.at == str(handbook_file)


@pytest.mark.data
@pytest.mark.skipif(
    not handbook_is_there(), reason="the Handbook is not in SENTINEL_DATA; its twin ran"
)
def test_the_published_set_keeps_the_contract_whole(tmp_path: Path) -> None:
    folder = prepare_handbook(tmp_path / "out")
    assert folder.feedback is not None
    assert folder.n_events == _n_accepted(HandbookTransaction, folder.events)
    assert folder.n_events == _n_accepted(HandbookVerdict, folder.feedback)
    assert (folder.n_events, folder.n_frauds) == (1_466_282, 12_134)
