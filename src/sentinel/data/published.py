"""Published data sets: where they lie, what is in them, and errors that name what is wrong.

The sets are not part of Sentinel. ``docs/data.md`` says how to get each.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from sentinel.contract.batch import BoolArray, Int64Array
from sentinel.core import limits
from sentinel.core.errors import ErrorCode, SentinelError
from sentinel.core.hashing import sha256_file

if TYPE_CHECKING:
    import pyarrow as pa

Progress = Callable[[int, int], None]

_ENVIRONMENT = "SENTINEL_DATA"
_SUFFIXES = (".parquet", ".csv")
_HINT = "docs/data.md says how to get it; name its folder in SENTINEL_DATA."


def data_folder() -> Path:
    """Name the folder of the published sets: ``SENTINEL_DATA``, else one beside the repository."""
    named = os.environ.get(_ENVIRONMENT, "")
    if named:
        return Path(named)
    return Path(__file__).resolve().parents[4] / "shared" / "data"


def find(name: str, source: Path | None) -> tuple[Path, ...]:
    """Find the files of a data set.

    Parameters
    ----------
    name : str
        File name without suffix in :func:`data_folder`.
    source : Path or None
        Where a user has it: a Parquet or CSV file, or a folder of them, taken in the order of
        their names.

    Raises
    ------
    SentinelError
        ``dataset-missing``.
    """
    if source is None:
        places = [data_folder() / f"{name}{suffix}" for suffix in _SUFFIXES]
        found = [place for place in places if place.is_file()][:1]
        return _found(found, places[0])
    if source.is_dir():
        inside = [path for path in sorted(source.iterdir()) if path.suffix in _SUFFIXES]
        return _found(inside, source)
    return _found([source] if source.is_file() else [], source)


def _found(paths: list[Path], place: Path) -> tuple[Path, ...]:
    if not 0 < len(paths) <= limits.DATASET_FILES_MAX:
        raise SentinelError(
            ErrorCode.DATASET_MISSING,
            at=str(place),
            expected=f"1 to {limits.DATASET_FILES_MAX} Parquet or CSV files",
            got=f"{len(paths)} files" if paths else "nothing",
            hint=_HINT,
        )
    return tuple(paths)


def is_there(name: str) -> bool:
    """Whether a data set lies in :func:`data_folder`."""
    return any((data_folder() / f"{name}{suffix}").is_file() for suffix in _SUFFIXES)


def identity_of(paths: Sequence[Path]) -> list[dict[str, object]]:
    """Name the content of files: what a cache of them is made from."""
    return [{"name": path.name, "sha256": sha256_file(path)} for path in paths]


@dataclass(frozen=True, slots=True)
class Column:
    """A column that is looked for.

    Attributes
    ----------
    name : str
    kind : str
        ``integer``, ``money`` (to cents), ``time`` (to milliseconds), ``day`` or ``text``.
    minimum, maximum : int
        Inclusive; of the int64 that it becomes.
    is_nullable : bool
    """

    name: str
    kind: str
    minimum: int = 0
    maximum: int = (1 << 62) - 1
    is_nullable: bool = False


@dataclass(frozen=True, slots=True)
class Table:
    """Columns of a data set.

    Attributes
    ----------
    numbers : dict of str to ndarray of int64, shape (n_rows,)
        Every column; of text, the index into ``texts``. 0 where null.
    present : dict of str to ndarray of bool, shape (n_rows,)
    texts : dict of str to list of str
    """

    numbers: dict[str, Int64Array]
    present: dict[str, BoolArray]
    texts: dict[str, list[str]]


def read_table(paths: Sequence[Path], columns: Sequence[Column]) -> Table:
    """Read and check columns of one or more files, one after the other.

    Raises
    ------
    SentinelError
        ``dataset-damaged``, ``dataset-columns``, ``dataset-value``, each naming file and column.
    """
    import pyarrow as pa

    tables = [_read_file(path, columns) for path in paths]
    place = str(paths[0] if len(paths) == 1 else paths[0].parent)
    n_rows = sum(table.num_rows for table in tables)
    if n_rows > limits.DATASET_ROWS_MAX:
        raise _damaged(place, f"at most {limits.DATASET_ROWS_MAX} rows", n_rows)
    whole = pa.concat_tables(tables)
    numbers: dict[str, Int64Array] = {}
    present: dict[str, BoolArray] = {}
    texts: dict[str, list[str]] = {}
    for column in columns:
        at = f"{place}, column {column.name}"
        array = whole.column(column.name).combine_chunks()
        present[column.name] = _presence(array, column, at)
        if column.kind == "text":
            coded = array.dictionary_encode()
            texts[column.name] = coded.dictionary.to_pylist()
            array = coded.indices
        numbers[column.name] = _numbers(array, column, at)
    return Table(numbers, present, texts)


# --- one file -----------------------------------------------------------------------------------


def _read_file(path: Path, columns: Sequence[Column]) -> pa.Table:
    import pyarrow as pa

    try:
        table = _read_csv(path) if path.suffix == ".csv" else _read_parquet(path, columns)
        # Arrow trusts what it reads; offsets and texts are checked before anything uses them.
        table.validate(full=True)
    except (pa.ArrowException, OSError, ValueError, MemoryError, OverflowError) as error:
        raise _damaged(str(path), "a whole Parquet or CSV file", _first_line(error)) from error
    missing = [column.name for column in columns if column.name not in table.column_names]
    if missing:
        raise SentinelError(
            ErrorCode.DATASET_COLUMNS,
            at=str(path),
            expected=f"the columns {', '.join(column.name for column in columns)}",
            got=f"none of the name {', '.join(missing)}",
        )
    return pa.table(
        {column.name: _converted(path, column, table.column(column.name)) for column in columns}
    )


def _read_parquet(path: Path, columns: Sequence[Column]) -> pa.Table:
    import pyarrow.parquet as pq

    with pq.ParquetFile(path, page_checksum_verification=True) as file:
        # A footer can claim anything: hold it against the bound before anything is read.
        n_rows = file.metadata.num_rows
        if not 0 <= n_rows <= limits.DATASET_ROWS_MAX:
            raise ValueError(f"{n_rows} rows")
        names = set(file.schema_arrow.names)
        return file.read([column.name for column in columns if column.name in names])


def _read_csv(path: Path) -> pa.Table:
    from pyarrow import csv

    if path.stat().st_size > limits.DATASET_CSV_BYTES_MAX:
        raise ValueError(f"more than {limits.DATASET_CSV_BYTES_MAX} bytes")
    return csv.read_csv(path)


def _converted(path: Path, column: Column, array: pa.ChunkedArray) -> pa.ChunkedArray:
    """Turn a column into the one type that its kind has here."""
    import pyarrow as pa

    to_type = {
        "integer": pa.int64(),
        "money": pa.int64(),
        "time": pa.timestamp("ms"),
        "day": pa.date32(),
        "text": pa.string(),
    }[column.kind]
    try:
        if column.kind == "money":
            return _cents(array)
        return array.cast(to_type)
    except (pa.ArrowException, ValueError) as error:
        raise SentinelError(
            ErrorCode.DATASET_COLUMNS,
            at=f"{path}, column {column.name}",
            expected=f"values that are {column.kind}",
            got=f"{array.type}: {_first_line(error)}",
        ) from error


def _cents(array: pa.ChunkedArray) -> pa.ChunkedArray:
    """Turn amounts into whole cents: exact where they are decimals, checked where they are floats.

    A float that lies within a millionth of a cent of whole cents is that number with the noise
    of binary fractions; anything else has digits that money does not have.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    if pa.types.is_floating(array.type):
        values = pc.multiply(array.cast(pa.float64()), 100.0)
        whole = pc.round(values)
        noise = pc.max(pc.abs(pc.subtract(values, whole))).as_py()
        if noise is not None and not noise < limits.DATASET_CENT_NOISE_MAX:
            raise ValueError(f"an amount that is {noise} away from whole cents")
        return whole.cast(pa.int64())
    # Wide enough for any int64: a column of whole amounts may come as integers.
    exact = array.cast(pa.decimal128(21, 2))
    return pc.multiply(exact, pa.scalar(100, pa.decimal128(3, 0))).cast(pa.int64())


def _presence(array: pa.Array, column: Column, at: str) -> BoolArray:
    present: BoolArray = array.is_valid().to_numpy(zero_copy_only=False)
    n_null = len(present) - int(np.count_nonzero(present))
    if n_null and not column.is_nullable:
        raise _wrong_value(at, "no null", f"{n_null} nulls")
    return present


def _numbers(array: pa.Array, column: Column, at: str) -> Int64Array:
    import pyarrow as pa

    if column.kind == "day":
        array = array.cast(pa.int32())
    filled = array.cast(pa.int64()).fill_null(0)
    numbers: Int64Array = filled.to_numpy(zero_copy_only=False)
    if column.kind == "text" or not len(numbers):
        return numbers
    is_valid = array.is_valid().to_numpy(zero_copy_only=False)
    shown = numbers if is_valid.all() else numbers[is_valid]
    if len(shown) and not column.minimum <= shown.min() <= shown.max() <= column.maximum:
        got = f"{shown.min()} to {shown.max()}"
        raise _wrong_value(at, f"{column.minimum} to {column.maximum}", got)
    return numbers


def _first_line(error: BaseException) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]


def _damaged(at: str, expected: str, got: object) -> SentinelError:
    return SentinelError(
        ErrorCode.DATASET_DAMAGED, at=at, expected=expected, got=got, hint="Get the file again."
    )


def _wrong_value(at: str, expected: str, got: object) -> SentinelError:
    return SentinelError(ErrorCode.DATASET_VALUE, at=at, expected=expected, got=got)
