"""Published files are found, checked and named when something is wrong with them."""

from __future__ import annotations

import datetime as dt
import decimal
import random
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sentinel.core import limits
from sentinel.core.errors import ErrorCode, SentinelError
from sentinel.data.published import Column, data_folder, find, read_table

COLUMNS = (
    Column("id", "integer", maximum=999),
    Column("amount", "money", maximum=100_000),
    Column("time", "time"),
    Column("day", "day"),
    Column("text", "text", is_nullable=True),
)


def _table(**instead: pa.Array) -> pa.Table:
    columns = {
        "id": pa.array([1, 2, 3], pa.int32()),
        "amount": pa.array([decimal.Decimal("1.25"), decimal.Decimal("0.00"), decimal.Decimal(7)]),
        "time": pa.array([dt.datetime(2018, 4, 1, 0, 0, second) for second in (1, 2, 3)]),  # noqa: DTZ001 -- the source has no zone
        "day": pa.array([dt.date(2010, 1, day) for day in (1, 2, 3)]),
        "text": pa.array(["a", None, "b\u00e9"]),
    }
    return pa.table({**columns, **instead})


def _write(folder: Path, table: pa.Table, name: str = "set.parquet") -> Path:
    path = folder / name
    pq.write_table(table, path)
    return path


def _refused(path: Path, columns: tuple[Column, ...] = COLUMNS) -> SentinelError:
    with pytest.raises(SentinelError) as caught:
        read_table([path], columns)
    assert caught.value.at.startswith(str(path))
    return caught.value


# --- finding ----------------------------------------------------------------------------------


def test_a_set_that_is_not_there_is_an_error_with_a_way_to_get_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SENTINEL_DATA", str(tmp_path))
    with pytest.raises(SentinelError) as caught:
        find("some_set", None)
    assert caught.value.code is ErrorCode.DATASET_MISSING
    assert caught.value.at == str(tmp_path / "some_set.parquet")
    assert "docs/data.md" in caught.value.hint


@pytest.mark.parametrize("make_empty_folder", [True, False])
def test_a_source_without_files_is_missing(tmp_path: Path, make_empty_folder: bool) -> None:
    source = tmp_path / "mine"
    if make_empty_folder:
        source.mkdir()
        (source / "2018-04-01.pkl").write_bytes(b"never opened")
    with pytest.raises(SentinelError) as caught:
        find("some_set", source)
    assert caught.value.code is ErrorCode.DATASET_MISSING
    assert caught.value.at == str(source)


def test_the_data_folder_is_named_by_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SENTINEL_DATA", str(tmp_path))
    (tmp_path / "some_set.csv").write_text("a\n1\n")
    assert data_folder() == tmp_path
    assert find("some_set", None) == (tmp_path / "some_set.csv",)


def test_a_folder_of_daily_files_is_read_in_the_order_of_names(tmp_path: Path) -> None:
    _write(tmp_path, _table(id=pa.array([4, 5, 6])), "2018-04-02.parquet")
    _write(tmp_path, _table(), "2018-04-01.parquet")
    paths = find("some_set", tmp_path)
    assert read_table(paths, COLUMNS).numbers["id"].tolist() == [1, 2, 3, 4, 5, 6]


# --- reading ----------------------------------------------------------------------------------


def test_values_become_exact_integers(tmp_path: Path) -> None:
    table = read_table([_write(tmp_path, _table())], COLUMNS)
    assert table.numbers["amount"].tolist() == [125, 0, 700]
    assert table.numbers["time"].tolist() == [1522540801000, 1522540802000, 1522540803000]
    assert table.numbers["day"].tolist() == [14610, 14611, 14612]
    assert table.present["text"].tolist() == [True, False, True]
    texts = [table.texts["text"][i] for i in table.numbers["text"][[0, 2]]]
    assert texts == ["a", "b\u00e9"]


def test_a_csv_file_reads_as_the_parquet_file_does(tmp_path: Path) -> None:
    path = tmp_path / "set.csv"
    path.write_text(
        "id,amount,time,day,text,more\n"
        "1,1.25,2018-04-01 00:00:01,2010-01-01,a,x\n"
        "2,0.0,2018-04-01 00:00:02,2010-01-02,,x\n"
        "3,7,2018-04-01 00:00:03,2010-01-03,b\u00e9,x\n"
    )
    from_csv = read_table([path], COLUMNS[:-1])
    from_parquet = read_table([_write(tmp_path, _table())], COLUMNS[:-1])
    for column in COLUMNS[:-1]:
        numbers = from_csv.numbers[column.name].tolist()
        assert numbers == from_parquet.numbers[column.name].tolist()


def test_amounts_with_the_noise_of_binary_fractions_become_whole_cents(tmp_path: Path) -> None:
    noisy = [float(cents) / 500 * 5 for cents in (28615, 57716, 3)]
    table = read_table([_write(tmp_path, _table(amount=pa.array(noisy)))], COLUMNS)
    assert table.numbers["amount"].tolist() == [28615, 57716, 3]


@pytest.mark.parametrize("kind", [pa.int32(), pa.int64(), pa.decimal128(10, 0), pa.float32()])
def test_whole_amounts_may_come_without_digits_after_the_point(
    tmp_path: Path, kind: pa.DataType
) -> None:
    amounts = pa.array([12, 0, 7], pa.int32()).cast(kind, safe=False)
    table = read_table([_write(tmp_path, _table(amount=amounts))], COLUMNS)
    assert table.numbers["amount"].tolist() == [1200, 0, 700]


def test_integers_written_as_text_are_read(tmp_path: Path) -> None:
    table = read_table([_write(tmp_path, _table(id=pa.array(["1", "2", "3"])))], COLUMNS)
    assert table.numbers["id"].tolist() == [1, 2, 3]


def test_no_rows_are_no_error(tmp_path: Path) -> None:
    assert read_table([_write(tmp_path, _table().slice(0, 0))], COLUMNS).numbers["id"].size == 0


# --- what is wrong ----------------------------------------------------------------------------


def test_a_missing_column_is_named(tmp_path: Path) -> None:
    error = _refused(_write(tmp_path, _table().drop_columns(["amount", "day"])))
    assert error.code is ErrorCode.DATASET_COLUMNS
    assert error.got == "none of the name amount, day"


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("id", pa.array(["1", "x", "3"])),
        ("id", pa.array([1.5, 2.0, 3.0])),
        ("amount", pa.array(["a", "b", "c"])),
        ("amount", pa.array([decimal.Decimal("1.255")] * 3)),
        ("amount", pa.array([1.255, 1.0, 1.0])),
        ("amount", pa.array([1e300, 1.0, 1.0])),
        ("amount", pa.array([float("nan"), 1.0, 1.0])),
        ("amount", pa.array([float("inf"), 1.0, 1.0])),
        ("time", pa.array([[1], [2], [3]])),
        ("time", pa.array(["yesterday", "", ""])),
        ("day", pa.array([True, False, True])),
    ],
)
def test_a_column_of_another_kind_is_named(tmp_path: Path, name: str, values: pa.Array) -> None:
    error = _refused(_write(tmp_path, _table(**{name: values})))
    assert error.code is ErrorCode.DATASET_COLUMNS
    assert error.at.endswith(f"column {name}")


@pytest.mark.parametrize(
    ("name", "values", "got"),
    [
        ("id", pa.array([1, None, 3]), "1 nulls"),
        ("id", pa.array([1, -2, 3]), "-2 to 3"),
        ("id", pa.array([1, 2, 1000]), "1 to 1000"),
        ("amount", pa.array([-0.01, 0.0, 0.0]), "-1 to 0"),
        ("time", pa.array([None, None, dt.datetime(2018, 4, 1)]), "2 nulls"),  # noqa: DTZ001 -- as the source
    ],
)
def test_a_value_that_cannot_be_is_named(
    tmp_path: Path, name: str, values: pa.Array, got: str
) -> None:
    error = _refused(_write(tmp_path, _table(**{name: values})))
    assert error.code is ErrorCode.DATASET_VALUE
    assert (error.at.endswith(f"column {name}"), error.got) == (True, got)


@pytest.mark.parametrize("spelling", ["NaN", "nan", "NA", "null", "", "#N/A", "-NaN"])
def test_the_spellings_of_nothing_in_csv_are_nulls_and_refused(
    tmp_path: Path, spelling: str
) -> None:
    path = tmp_path / "set.csv"
    path.write_text(f"id,amount\n1,{spelling}\n2,1.00\n")
    error = _refused(path, COLUMNS[:2])
    assert error.code in {ErrorCode.DATASET_VALUE, ErrorCode.DATASET_COLUMNS}
    assert error.at.endswith("column amount")


@pytest.mark.parametrize("suffix", [".parquet", ".csv"])
@pytest.mark.parametrize(
    "content", [b"", b"\0" * 100, b"PAR1", b"PAR1" + bytes(50) + b"PAR1", b"a,b\n1\n", b"\xff\xfe"]
)
def test_a_file_that_is_something_else_is_named(
    tmp_path: Path, suffix: str, content: bytes
) -> None:
    path = tmp_path / f"set{suffix}"
    path.write_bytes(content)
    error = _refused(path)
    assert error.code in {ErrorCode.DATASET_DAMAGED, ErrorCode.DATASET_COLUMNS}


def test_text_that_is_not_utf8_is_named(tmp_path: Path) -> None:
    bad = pa.Array.from_buffers(
        pa.string(),
        3,
        [None, *pa.array([b"a", b"\xff\xfe", b"c"], pa.binary()).buffers()[1:]],
    )
    error = _refused(_write(tmp_path, _table(text=bad)))
    assert error.code is ErrorCode.DATASET_DAMAGED


def test_a_footer_that_claims_too_many_rows_is_refused_before_reading(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "DATASET_ROWS_MAX", 2)
    error = _refused(_write(tmp_path, _table()))
    assert error.code is ErrorCode.DATASET_DAMAGED
    assert error.got == "3 rows"


def test_a_parquet_file_cut_anywhere_is_named(tmp_path: Path) -> None:
    content = _write(tmp_path, _table()).read_bytes()
    path = tmp_path / "cut.parquet"
    for n_bytes in range(0, len(content), 37):
        path.write_bytes(content[:n_bytes])
        assert _refused(path).code is ErrorCode.DATASET_DAMAGED


@pytest.mark.parametrize("with_checksum", [True, False])
def test_flipped_bits_in_a_parquet_file_are_named_or_harmless(
    tmp_path: Path, with_checksum: bool
) -> None:
    whole = tmp_path / "whole.parquet"
    pq.write_table(_table(), whole, write_page_checksum=with_checksum, compression="zstd")
    content = whole.read_bytes()
    path = tmp_path / "flipped.parquet"
    draw = random.Random(11)
    refused = []
    for _ in range(300):
        flipped = bytearray(content)
        flipped[draw.randrange(len(flipped))] ^= 1 << draw.randrange(8)
        path.write_bytes(flipped)
        try:
            read_table([path], COLUMNS)
        except SentinelError as error:
            refused.append(error)
    assert len(refused) > 50
    assert all(error.at.startswith(str(path)) for error in refused)
    assert {error.code for error in refused} <= {
        ErrorCode.DATASET_DAMAGED,
        ErrorCode.DATASET_COLUMNS,
        ErrorCode.DATASET_VALUE,
    }
