"""``sentinel decisions`` and ``sentinel quarantine``: look into what was kept."""

from __future__ import annotations

import datetime as dt
from collections import Counter
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sentinel.cli import options
from sentinel.cli.output import Output, number, table
from sentinel.core.errors import ErrorCode, SentinelError

if TYPE_CHECKING:
    from sentinel.contract import QuarantineRecord

_COLUMNS = ("event_id", "event_time", "score", "outcome", "served_by", "reason")
_QUARANTINE_FILES = "refusals-*.jsonl"

Limit = Annotated[
    int, typer.Option("--limit", min=1, max=100_000, help="Records shown; all are counted.")
]


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command(
        epilog=options.examples(
            "sentinel decisions demo/handbook/log --outcome decline --limit 5",
            "sentinel decisions log --event-id t00000000042 --json",
        ),
    )(decisions)
    app.command(
        epilog=options.examples("sentinel quarantine quarantine --limit 3"),
    )(quarantine)


def decisions(
    folder: Annotated[Path, typer.Argument(metavar="LOG", help="Folder of the decision log.")],
    *,
    event_id: Annotated[
        list[str] | None, typer.Option("--event-id", help="Only this event; repeatable.")
    ] = None,
    outcome: Annotated[
        list[str] | None, typer.Option("--outcome", help="Only this outcome; repeatable.")
    ] = None,
    limit: Limit = 20,
    as_json: options.AsJson = False,
) -> None:
    """Show decisions of a decision log: what was decided, by whom, why, on which features."""
    from sentinel.monitoring import read_decisions

    _check_outcomes(outcome or [])
    n_spilled = check_log(folder)
    found = read_decisions(folder, event_ids=event_id or None, outcomes=outcome or None)
    output = Output(as_json=as_json)
    # A table without columns would give empty rows.
    shown = found.slice(0, limit).to_pylist() if found.num_columns else []
    document = {"found": found.num_rows, "spilled": n_spilled}
    output.document({**document, "decisions": [_decision(row) for row in shown]})
    if n_spilled:
        output.note(f"{n_spilled:,} more decisions are spilled: they wait for the log's writer.")
    if not found.num_columns:
        output.note(f"{folder}: a decision log without a segment: none has been written yet.")
    rows = [[_shown(row[name]) for name in _COLUMNS] for row in shown]
    output.show(table(f"{number(found.num_rows)} decisions in {folder}", _COLUMNS, rows))


def quarantine(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="Folder of the quarantine.")],
    *,
    limit: Limit = 20,
    as_json: options.AsJson = False,
) -> None:
    """Show refused events: why, where they came from, and what they were."""
    from sentinel.contract import read_quarantine

    _require_folder(folder)
    # The folder of a run that refused nothing is empty.
    if any(folder.iterdir()) and not any(folder.glob(_QUARANTINE_FILES)):
        raise _not_there(folder, "the folder of a quarantine, with its refusals-*.jsonl")
    counts: Counter[str] = Counter()
    records = read_quarantine(folder)
    shown = list(islice((each for each in records if each.code is not None), limit))
    counts.update(str(each.code) for each in shown)
    for each in records:
        if each.code is not None:
            counts[str(each.code)] += 1
        counts.update(each.sampled_out)
    output = Output(as_json=as_json)
    output.document({"refused": dict(counts), "first": [_record(each) for each in shown]})
    rows = [
        (each.source, number(each.position), str(each.code), _why(each), (each.text or "")[:120])
        for each in shown
    ]
    if not counts:
        output.note(f"{folder}: no event was refused.")
        return
    output.show(
        table(f"Refused events in {folder}", ["reason", "events"], counts.most_common()),
        table("The first of them", ["source", "position", "reason", "where", "event"], rows),
    )


def _require_folder(folder: Path) -> None:
    if not folder.is_dir():
        raise SentinelError(
            ErrorCode.FILE_MISSING, at=str(folder), expected="a folder", got="none there"
        )


def _not_there(folder: Path, expected: str) -> SentinelError:
    return SentinelError(
        ErrorCode.FILE_MISSING, at=str(folder), expected=expected, got="a folder without"
    )


def _check_outcomes(names: list[str]) -> None:
    from sentinel.scoring import Outcome

    known = [each.name.lower() for each in Outcome]
    for name in names:
        if name not in known:
            raise SentinelError(
                ErrorCode.USAGE_INVALID,
                at="--outcome",
                expected=f"{', '.join(known[:-1])} or {known[-1]}",
                got=name,
            )


def check_log(folder: Path) -> int:
    """Refuse a folder that is no decision log; count the records that are only spilled."""
    from sentinel.monitoring.decision_log import LEDGER_NAME
    from sentinel.monitoring.log_segments import SPILL_FOLDER, segment_paths
    from sentinel.monitoring.log_spill import list_spilled

    _require_folder(folder)
    if not (folder / LEDGER_NAME).is_file() and not segment_paths(folder):
        raise _not_there(folder, "the folder of a decision log")
    spill = folder / SPILL_FOLDER
    return sum(file.n_records for file in list_spilled(spill)) if spill.is_dir() else 0


def _decision(row: dict[str, object]) -> dict[str, object]:
    """Give a record as JSON can hold it; hashes as a file of decisions writes them."""
    status, raw = row["feature_status"], row["features_raw"]
    return {
        **row,
        "feature_hash": f"{row['feature_hash']:016x}",
        "record_hash": f"{row['record_hash']:016x}",
        "feature_status": list(status) if isinstance(status, bytes) else status,
        "features_raw": raw.hex() if isinstance(raw, bytes) else raw,
    }


def _shown(value: object) -> str:
    if value is None:
        return "–"
    if isinstance(value, dt.datetime):
        return value.astimezone(dt.UTC).isoformat(" ", "seconds").removesuffix("+00:00")
    return f"{value:.6f}" if isinstance(value, float) else str(value)


def _why(record: QuarantineRecord) -> str:
    fault = record.faults[0] if record.faults else None
    return f"{fault.path}: {fault.expected}" if fault is not None and fault.path else ""


def _record(record: QuarantineRecord) -> dict[str, object]:
    return {
        "code": str(record.code),
        "source": record.source,
        "partition": record.partition,
        "position": record.position,
        "faults": [
            {"code": str(each.code), "path": each.path, "expected": each.expected, "got": each.got}
            for each in record.faults
        ],
        "text": record.text,
        "base64": record.base64,
    }
