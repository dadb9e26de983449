"""``sentinel store``: look at a folder of durable feature state, check it, compact it."""

from __future__ import annotations

import datetime as dt
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sentinel.cli import options
from sentinel.cli.exits import ExitCode
from sentinel.cli.output import Output, pairs, table
from sentinel.cli.release import load
from sentinel.core.errors import ErrorCode, SentinelError

if TYPE_CHECKING:
    from rich.console import RenderableType

    from sentinel.features.stores.embedded.inspection import SnapshotReport, StoreReport
    from sentinel.features.stores.embedded.write_ahead_log import SegmentReport

group = typer.Typer(no_args_is_help=True, help="Look at durable feature state, check, compact.")

Folder = Annotated[Path, typer.Argument(metavar="FOLDER", help="Folder of the feature state.")]


def register(app: typer.Typer) -> None:
    """Add the group."""
    app.add_typer(group, name="store")


@group.command(
    epilog=options.examples("sentinel store inspect state", "sentinel store inspect state --json")
)
def inspect(folder: Folder, as_json: options.AsJson = False) -> ExitCode:
    """Show snapshots, log segments, entities, bytes an entity and source positions.

    Entities and positions are those of the newest snapshot. Exit code 4 when a file is damaged.
    """
    report = _look(folder)
    output = Output(as_json=as_json)
    output.document(_data(report))
    output.show(*_page(folder, report))
    if not any(not part.fault for part in report.snapshots):
        output.note("Without a whole snapshot: entities and positions are in the log alone.")
    return ExitCode.INPUT if report.faults else ExitCode.OK


@group.command(epilog=options.examples("sentinel store verify state"))
def verify(folder: Folder, as_json: options.AsJson = False) -> ExitCode:
    """Check every checksum of every snapshot and log record, and that no record is missing.

    Exit code 4 when one fails, or is missing behind the newest whole snapshot. An unfinished last
    record is what a crash leaves: the next start cuts it off by itself.
    """
    report = _look(folder)
    output = Output(as_json=as_json)
    output.document({"faults": list(report.faults), **_data(report)})
    if report.faults:
        output.show(table("Faults", ["what is wrong"], [(fault,) for fault in report.faults]))
        return ExitCode.INPUT
    n_files = len(report.snapshots) + len(report.segments)
    facts: dict[str, object] = {"files": n_files, "faults": "none"}
    if report.n_bytes_torn:
        facts["unfinished"] = (
            f"{report.n_bytes_torn:,} bytes of the log's end, as a crash leaves them"
        )
    output.show(pairs(str(folder), facts))
    return ExitCode.OK


@group.command(
    epilog=options.examples("sentinel store compact state --release my-release --unapproved")
)
def compact(
    folder: Folder,
    release: Annotated[
        Path, typer.Option("--release", help="The release whose feature set the state is of.")
    ],
    trust: options.TrustFile = None,
    unapproved: options.Unapproved = False,
    as_json: options.AsJson = False,
) -> None:
    """Bring the state up to date with its log, write one snapshot, drop what it covers."""
    from sentinel.features.stores.embedded import EmbeddedStore

    loaded = load(release, trust, allow_unapproved=unapproved)
    looked = _look(folder)
    _refuse_damage(folder, looked)
    before = _n_bytes(folder, looked)
    store = EmbeddedStore(loaded.parts.plan, folder)
    n_replayed = store.recovery.n_events
    store.snapshot()
    store.close()
    after = _n_bytes(folder, _look(folder))
    output = Output(as_json=as_json)
    facts = {"events taken from the log": n_replayed, "bytes before": before, "bytes after": after}
    output.document({key.replace(" ", "_"): value for key, value in facts.items()})
    output.show(pairs(str(folder), facts))


def _refuse_damage(folder: Path, report: StoreReport) -> None:
    """Refuse to write anew what would drop whole records behind a damaged one.

    Raises
    ------
    SentinelError
        ``state-corrupt``; nothing was changed.
    """
    faults = [part.fault for part in report.segments if part.fault]
    if faults:
        raise SentinelError(
            ErrorCode.STATE_CORRUPT,
            at=str(folder),
            expected="a log without damage",
            got=faults[0],
            hint="Restore the file, or move the state folder away and replay the source.",
        )


def _look(folder: Path) -> StoreReport:
    from sentinel.features.stores.embedded.inspection import look_at_store

    return look_at_store(folder)


def _n_bytes(folder: Path, report: StoreReport) -> int:
    names = [part.name for part in report.snapshots] + [part.name for part in report.segments]
    return sum((folder / name).stat().st_size for name in names if (folder / name).exists())


def _data(report: StoreReport) -> dict[str, object]:
    import msgspec

    return {
        "n_bytes_torn": report.n_bytes_torn,
        "snapshots": [msgspec.to_builtins(part) for part in report.snapshots],
        "segments": [msgspec.to_builtins(part) for part in report.segments],
    }


def _page(folder: Path, report: StoreReport) -> list[RenderableType]:
    page = []
    whole = [snapshot for snapshot in report.snapshots if not snapshot.fault]
    if whole:
        page.append(pairs(f"Feature state in {folder}", _facts(whole[0])))
    rows: list[tuple[object, ...]] = [
        (part.name, part.n_bytes, part.sequence, part.fault or "whole") for part in report.snapshots
    ]
    rows += [
        (part.name, part.n_bytes, f"{part.first}–{part.last}", _state(part))
        for part in report.segments
    ]
    page.append(table("Files", ["file", "bytes", "records", "state"], rows))
    return page


def _state(segment: SegmentReport) -> str:
    if segment.n_bytes_torn:
        return f"the next start cuts {segment.n_bytes_torn:,} bytes off its end"
    return segment.fault or "whole"


def _facts(snapshot: SnapshotReport) -> dict[str, object]:
    latest = dt.datetime.fromtimestamp(snapshot.now_ms / 1000, tz=dt.UTC)
    return {
        "feature set": snapshot.identity[:12],
        "entities": snapshot.n_entities,
        "rows": snapshot.n_rows,
        "bytes an entity": f"{snapshot.bytes_per_entity:,.0f}",
        "events": snapshot.n_events,
        "latest event": f"{latest:%Y-%m-%d %H:%M:%S} UTC" if snapshot.n_events else "none",
        **{f"next of {source}": position for source, position in snapshot.positions.items()},
    }
