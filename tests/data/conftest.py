"""Small twins of the published data sets, with their columns, types and quirks."""

from __future__ import annotations

import datetime as dt
import decimal
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest


def handbook_table(n_rows: int = 300) -> pa.Table:
    """Rows like those of the Handbook, frauds of each scenario among them."""
    start = dt.datetime(2018, 4, 1, 0, 0, 31)  # noqa: DTZ001 -- the source has no zone
    scenario = [(0, 0, 0, 0, 1, 0, 2, 0, 3, 0)[i % 10] for i in range(n_rows)]
    cents = [22_001 + i if kind == 1 else (i * 7919) % 22_000 for i, kind in enumerate(scenario)]
    columns = {
        "TRANSACTION_ID": pa.array(range(n_rows), pa.int32()),
        "TX_DATETIME": pa.array(
            [start + dt.timedelta(seconds=600 * (i // 2)) for i in range(n_rows)],
            pa.timestamp("ms"),
        ),
        "CUSTOMER_ID": pa.array([i * 31 % 17 for i in range(n_rows)], pa.int32()),
        "TERMINAL_ID": pa.array([i * 7 % 23 for i in range(n_rows)], pa.int32()),
        "TX_AMOUNT": pa.array(
            [decimal.Decimal(cent).scaleb(-2) for cent in cents], pa.decimal128(9, 2)
        ),
        "TX_TIME_SECONDS": pa.array([31 + 600 * (i // 2) for i in range(n_rows)], pa.int32()),
        "TX_TIME_DAYS": pa.array([i // 288 for i in range(n_rows)], pa.int16()),
        "TX_FRAUD": pa.array([int(kind > 0) for kind in scenario], pa.int8()),
        "TX_FRAUD_SCENARIO": pa.array(scenario, pa.int8()),
    }
    return pa.table(columns)


def purchasing_table(n_rows: int = 40) -> pa.Table:
    """Rows like those of the purchasing cards: one with each kind of dirt, then plain ones."""
    plain = (
        5142110002,
        dt.date(2010, 1, 1),
        "4063000739898",
        'SHOP "A", TOWN',
        "IL",
        60061,
        "P",
        "12.50",
    )
    dirt: list[dict[int, object]] = [
        {2: None, 4: None, 5: None},
        {4: "042"},
        {4: "US"},
        {5: 7},
        {6: "Y"},
        {7: "3102000.00"},
        {2: "870340006NOT0"},
        {2: "0"},
        {3: '"Name deleted"'},
        {4: "ON", 5: None},
    ]
    rows = [
        [dirty.get(i, value) for i, value in enumerate(plain)]
        for dirty in [*dirt, *({} for _ in range(n_rows - len(dirt)))]
    ]
    names = ("CARDNUM", "DATE", "MERCHNUM", "MERCHDESCRIPTION", "MERCHSTATE", "MERCHZIP")
    names = (*names, "TRANSTYPE", "AMOUNT")
    types = (pa.int64(), pa.date32(), pa.string(), pa.string(), pa.string(), pa.int32())
    columns = {
        name: pa.array([row[i] for row in rows], kind)
        for i, (name, kind) in enumerate(zip(names, (*types, pa.string()), strict=False))
    }
    columns["AMOUNT"] = pa.array(
        [decimal.Decimal(str(row[7])) for row in rows], pa.decimal128(11, 2)
    )
    return pa.table({"SRC_ROW": pa.array(range(n_rows), pa.int32()), **columns})


@pytest.fixture
def handbook_file(tmp_path: Path) -> Path:
    """Write a small Handbook as Parquet."""
    path = tmp_path / "source" / "handbook.parquet"
    path.parent.mkdir()
    pq.write_table(handbook_table(), path)
    return path


@pytest.fixture
def purchasing_file(tmp_path: Path) -> Path:
    """Write small purchasing cards as Parquet."""
    path = tmp_path / "source" / "cards.parquet"
    path.parent.mkdir()
    pq.write_table(purchasing_table(), path)
    return path
