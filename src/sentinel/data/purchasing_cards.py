"""Real purchasing-card transactions of 2010, unlabelled, as events with all their dirt.

Source: M. J. Nigrini, "Forensic Analytics", Wiley 2011, pp. 435-438, as published in the R
package benford.analysis. Real spending of a government entity of the United States. There is no
fraud label: never quote a detection metric on it.

Values go out as they came. The contract is what such a feed should keep; rows that break it (codes
for states that are none, ZIP codes that cannot be, an amount of millions) are refused, each with
its reason, and the rest flows. Days carry no time: all events of a day have its first instant, in
the order of the source, so windows shorter than a day mean nothing here.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from sentinel.contract import (
    Category,
    Contract,
    Decimal,
    EventId,
    EventTime,
    Integer,
    Key,
    Text,
)
from sentinel.contract.batch import BoolArray, Int64Array
from sentinel.data.event_folder import EventFolder, FolderWriter
from sentinel.data.json_lines import LineEncoder, LineField
from sentinel.data.published import (
    Column,
    Progress,
    Table,
    find,
    identity_of,
    is_there,
    read_table,
)

NAME = "real_purchasing_cards_2010"

_FORMAT = "sentinel-purchasing-cards-1"
_DAY_MS = 86_400_000
_ROWS_A_TURN = 1 << 16

# United States with territories and forces abroad, then the provinces of Canada.
_STATES = (
    *("AL", "AK", "AZ", "AR", "CA", "CO", "CT", "DE", "DC", "FL", "GA", "HI", "ID", "IL", "IN"),
    *("IA", "KS", "KY", "LA", "ME", "MD", "MA", "MI", "MN", "MS", "MO", "MT", "NE", "NV", "NH"),
    *("NJ", "NM", "NY", "NC", "ND", "OH", "OK", "OR", "PA", "RI", "SC", "SD", "TN", "TX", "UT"),
    *("VT", "VA", "WA", "WV", "WI", "WY", "AS", "GU", "MP", "PR", "VI", "AA", "AE", "AP"),
    *("AB", "BC", "MB", "NB", "NL", "NS", "NT", "NU", "ON", "PE", "PQ", "QC", "SK", "YT"),
)
_COLUMNS = (
    Column("SRC_ROW", "integer"),
    Column("DATE", "day"),
    Column("CARDNUM", "integer"),
    Column("MERCHNUM", "text", is_nullable=True),
    Column("MERCHDESCRIPTION", "text"),
    Column("MERCHSTATE", "text", is_nullable=True),
    Column("MERCHZIP", "integer", is_nullable=True),
    Column("TRANSTYPE", "text"),
    Column("AMOUNT", "money"),
)


class CardPurchase(Contract, name="purchasing-card-purchase", version="1"):
    """One purchase with a card of the entity."""

    purchase_id = EventId(bytes_max=20)
    occurred_at = EventTime(unit="ms")
    card_id = Key(integer=True)
    merchant_number = Key(bytes_max=20, nullable=True)
    merchant = Text(bytes_max=32)
    state = Category(*_STATES, nullable=True)
    # The least ZIP code in use is 00501; leading zeros are lost in the source.
    zip_code = Integer(minimum=501, maximum=99_999, nullable=True)
    purchase_type = Category("P", "A", "D")
    amount = Decimal(scale=2, minimum="0.01", maximum=100_000)


def purchasing_cards_are_there() -> bool:
    """Whether the set lies in the folder of published data."""
    return is_there(NAME)


def prepare_purchasing_cards(
    folder: Path,
    *,
    source: Path | None = None,
    overwrite: bool = True,
    progress: Progress | None = None,
) -> EventFolder:
    """Write the purchases as they are, in the order of the source; there is no feedback.

    Parameters
    ----------
    folder : Path
        Made where it is missing. A folder that was made from the same file is left as it is.
    source : Path, optional
        A Parquet or CSV file with the columns of ``docs/data.md``;
        ``real_purchasing_cards_2010`` in the data folder by default.
    overwrite : bool
        Whether files that stand there and differ may be replaced; else ``output-exists``.
    progress : callable, optional
        Called with the rows written and the rows in all.

    Returns
    -------
    EventFolder
        ``feedback`` and ``scenarios`` are None.

    Raises
    ------
    SentinelError
        ``dataset-missing``, ``dataset-damaged``, ``dataset-columns``, ``dataset-value``,
        ``file-unwritable``.
    """
    paths = find(NAME, source)
    made_from: dict[str, object] = {"format": _FORMAT, "files": identity_of(paths)}
    writer = FolderWriter(folder, made_from=made_from, overwrite=overwrite)
    done = writer.existing()
    if done is not None:
        return done
    table = read_table(paths, _COLUMNS)
    values, present = _ordered(table)
    encoder = _encoder(table)
    n_rows = values.shape[1]
    with writer:
        for first in range(0, max(n_rows, 1), _ROWS_A_TURN):
            rows = slice(first, first + _ROWS_A_TURN)
            writer.add_events(encoder.encode(values[:, rows], present[:, rows]))
            if progress is not None:
                progress(min(rows.stop, n_rows), n_rows)
        return writer.finish()


def _ordered(table: Table) -> tuple[Int64Array, BoolArray]:
    """Return values and presence in the order of ``_COLUMNS``, rows by day and source row."""
    values = np.stack([table.numbers[column.name] for column in _COLUMNS])
    present = np.stack([table.present[column.name] for column in _COLUMNS])
    order = np.lexsort((values[0], values[1]))
    values[1] *= _DAY_MS
    return np.ascontiguousarray(values[:, order]), np.ascontiguousarray(present[:, order])


def _encoder(table: Table) -> LineEncoder:
    return LineEncoder(
        [
            LineField.key("purchase_id", ""),
            LineField.integer("occurred_at"),
            LineField.integer("card_id"),
            LineField.text("merchant_number", table.texts["MERCHNUM"]),
            LineField.text("merchant", table.texts["MERCHDESCRIPTION"]),
            LineField.text("state", table.texts["MERCHSTATE"]),
            LineField.integer("zip_code"),
            LineField.text("purchase_type", table.texts["TRANSTYPE"]),
            LineField.fixed("amount", digits=2),
        ]
    )
