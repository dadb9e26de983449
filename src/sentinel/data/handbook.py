"""The simulated card transactions of the fraud detection Handbook, as events and verdicts.

Source: Le Borgne, Siblini, Lebichot, Bontempi, "Reproducible Machine Learning for Credit Card
Fraud Detection - Practical Handbook", Université Libre de Bruxelles, 2022. Output of the book's
simulator: no row is a real payment.

The column ``TX_FRAUD_SCENARIO`` decides the label, so it never becomes part of an event; it goes
to a side file for breaking results down. Labels become events of their own, a week later.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from sentinel.contract import Boolean, Contract, Decimal, EventId, EventTime, Key
from sentinel.contract.batch import Int64Array
from sentinel.core.errors import ErrorCode, SentinelError
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

NAME = "handbook_simulated_card_tx"
SCENARIOS = ("genuine", "amount_over_220", "compromised_terminal", "compromised_customer")
DELAY_DAYS_DEFAULT = 7

_FORMAT = "sentinel-handbook-1"
_DAY_MS = 86_400_000
_ROWS_A_TURN = 1 << 16
_COLUMNS = (
    Column("TRANSACTION_ID", "integer"),
    Column("TX_DATETIME", "time"),
    Column("CUSTOMER_ID", "integer"),
    Column("TERMINAL_ID", "integer"),
    Column("TX_AMOUNT", "money"),
    Column("TX_FRAUD", "integer", maximum=1),
    Column("TX_FRAUD_SCENARIO", "integer", maximum=len(SCENARIOS) - 1),
)


class HandbookTransaction(Contract, name="handbook-transaction", version="1"):
    """One payment of a customer at a terminal."""

    transaction_id = EventId(bytes_max=20)
    occurred_at = EventTime(unit="ms")
    customer_id = Key(integer=True)
    terminal_id = Key(integer=True)
    amount = Decimal(scale=2, minimum=0, maximum=100_000)


class HandbookVerdict(Contract, name="handbook-verdict", version="1"):
    """What became known of a payment, a week later."""

    verdict_id = EventId(bytes_max=21)
    known_at = EventTime(unit="ms")
    transaction_id = Key(bytes_max=20)
    customer_id = Key(integer=True)
    terminal_id = Key(integer=True)
    is_fraud = Boolean()


def handbook_is_there() -> bool:
    """Whether the set lies in the folder of published data."""
    return is_there(NAME)


def prepare_handbook(
    folder: Path,
    *,
    source: Path | None = None,
    delay_days: int = DELAY_DAYS_DEFAULT,
    overwrite: bool = True,
    progress: Progress | None = None,
) -> EventFolder:
    """Write the transactions, the verdicts on them, and the scenarios of the frauds.

    Parameters
    ----------
    folder : Path
        Made where it is missing. A folder that was made from the same file is left as it is.
    source : Path, optional
        A Parquet or CSV file with the published column names, or a folder of such files (one a
        day, as published); ``handbook_simulated_card_tx`` in the data folder by default.
    delay_days : int
        Days from a transaction to its verdict, 0 to 365; the book has 7.
    overwrite : bool
        Whether files that stand there and differ may be replaced; else ``output-exists``.
    progress : callable, optional
        Called with the rows written and the rows in all.

    Returns
    -------
    EventFolder

    Raises
    ------
    SentinelError
        ``dataset-missing``, ``dataset-damaged``, ``dataset-columns``, ``dataset-value``,
        ``file-unwritable``.
    ValueError
        For ``delay_days`` out of range.

    Notes
    -----
    Times carry no zone in the source and are taken as UTC. Amounts are exact cents.
    """
    if not 0 <= delay_days <= 365:
        raise ValueError("delay_days: expected 0 to 365")
    paths = find(NAME, source)
    made_from = {"format": _FORMAT, "files": identity_of(paths), "delay_days": delay_days}
    writer = FolderWriter(folder, made_from=made_from, overwrite=overwrite)
    done = writer.existing()
    if done is not None:
        return done
    columns = _ordered(read_table(paths, _COLUMNS), str(paths[0]))
    with writer:
        _write(writer, columns, delay_days * _DAY_MS, progress)
        return writer.finish()


def _ordered(table: Table, place: str) -> Int64Array:
    """Return the columns in the order of ``_COLUMNS``, rows by time and then by id."""
    columns = np.stack([table.numbers[column.name] for column in _COLUMNS])
    columns = np.ascontiguousarray(columns[:, np.lexsort((columns[0], columns[1]))])
    ids = np.sort(columns[0])
    if (ids[1:] == ids[:-1]).any():
        raise SentinelError(
            ErrorCode.DATASET_VALUE,
            at=f"{place}, column TRANSACTION_ID",
            expected="a different id in each row",
            got=f"{ids[1:][ids[1:] == ids[:-1]][0]} twice",
        )
    if ((columns[5] == 1) != (columns[6] > 0)).any():
        raise SentinelError(
            ErrorCode.DATASET_VALUE,
            at=f"{place}, column TX_FRAUD_SCENARIO",
            expected="a scenario for each fraud and for nothing else",
            got="rows where TX_FRAUD says otherwise",
        )
    return columns


def _write(
    writer: FolderWriter, columns: Int64Array, delay_ms: int, progress: Progress | None
) -> None:
    events, feedback, scenarios = _encoders()
    n_rows = columns.shape[1]
    for first in range(0, max(n_rows, 1), _ROWS_A_TURN):
        part = columns[:, first : first + _ROWS_A_TURN]
        number, time, customer, terminal, amount, is_fraud, scenario = part
        writer.add_events(events.encode(np.stack([number, time, customer, terminal, amount])))
        verdicts = [number, time + delay_ms, number, customer, terminal, is_fraud]
        writer.add_feedback(feedback.encode(np.stack(verdicts)))
        frauds = np.stack([number, scenario])[:, is_fraud == 1]
        writer.add_scenarios(scenarios.encode(frauds))
        if progress is not None:
            progress(min(first + _ROWS_A_TURN, n_rows), n_rows)


def _encoders() -> tuple[LineEncoder, LineEncoder, LineEncoder]:
    transaction_id = LineField.key("transaction_id", "")
    parties = (LineField.integer("customer_id"), LineField.integer("terminal_id"))
    amount = LineField.fixed("amount", digits=2)
    known_at = LineField.integer("known_at")
    verdict_id = LineField.key("verdict_id", "v")
    is_fraud = LineField.boolean("is_fraud")
    return (
        LineEncoder([transaction_id, LineField.integer("occurred_at"), *parties, amount]),
        LineEncoder([verdict_id, known_at, transaction_id, *parties, is_fraud]),
        LineEncoder([transaction_id, LineField.text("scenario", SCENARIOS)]),
    )
