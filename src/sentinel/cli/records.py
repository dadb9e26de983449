"""``sentinel decisions`` and ``sentinel quarantine``: look into what was kept."""

from __future__ import annotations

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

_COLUMNS = ("event_id", "event_time", "score", "outcome", "served_by", "reason", "position")

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

    _require_folder(folder)
    found = read_decisions(folder, event_ids=event_id or None, outcomes=outcome or None)
    output = Output(as_json=as_json)
    shown = found.slice(0, limit).to_pylist()
    output.document({"found": found.num_rows, "decisions": shown})
    rows = [["–" if row[name] is None else str(row[name]) for name in _COLUMNS] for row in shown]
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
    output.show(
        table(f"Refused events in {folder}", ["reason", "events"], counts.most_common()),
        table("The first of them", ["source", "position", "reason", "where", "event"], rows),
    )


def _require_folder(folder: Path) -> None:
    if not folder.is_dir():
        raise SentinelError(
            ErrorCode.FILE_MISSING, at=str(folder), expected="a folder", got="none there"
        )


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
