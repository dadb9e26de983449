"""``sentinel file-log``: make topics of a log of files, fill them, look at them."""

from __future__ import annotations

import datetime as dt
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sentinel.cli import options
from sentinel.cli.output import Output, pairs, table

if TYPE_CHECKING:
    from sentinel.streaming.file_log.inspection import PartitionReport

group = typer.Typer(
    no_args_is_help=True, help="Topics of a log of files: make, fill, look; see sentinel stream."
)

Folder = Annotated[Path, typer.Argument(metavar="FOLDER", help="Folder of the log of files.")]


def register(app: typer.Typer) -> None:
    """Add the group."""
    app.add_typer(group, name="file-log")


@group.command(
    epilog=options.examples("sentinel file-log create topics --topic payments --partitions 4")
)
def create(
    folder: Folder,
    topics: Annotated[list[str], typer.Option("--topic", help="Name; give it again for more.")],
    partitions: Annotated[int, typer.Option("--partitions", help="Of each topic.")] = 1,
    as_json: options.AsJson = False,
) -> None:
    """Make topics, none where one is refused; one that is there already is left as it is."""
    from sentinel.streaming.file_log.log import create_topic, partitions_of, refuse_topic

    for topic in topics:
        refuse_topic(topic, partitions)
    for topic in topics:
        create_topic(folder, topic, partitions)
    found = {topic: partitions_of(folder, topic) for topic in topics}
    output = Output(as_json=as_json)
    output.document({"partitions": found})
    output.show(table(str(folder), ["topic", "partitions"], list(found.items())))


@group.command(
    epilog=options.examples(
        "sentinel file-log append topics --topic payments --events events.ndjson --key card_id"
    )
)
def append(
    folder: Folder,
    topic: Annotated[str, typer.Option("--topic", help="Where the events go.")],
    events: options.EventsPath,
    key: Annotated[
        str,
        typer.Option(
            "--key",
            metavar="FIELD",
            help="The field whose value is the key: events of one key lie in one partition.",
        ),
    ] = "",
    as_json: options.AsJson = False,
) -> None:
    """Append a file of events to a topic, each line as it stands.

    Lines need not be good events: what the contract refuses, sentinel stream refuses. A fault of
    the file leaves the lines before it in the topic.
    """
    from sentinel.data.event_file import EventFile
    from sentinel.streaming.file_log.filling import fill_topic
    from sentinel.streaming.file_log.log import FileLogWriter

    with closing(FileLogWriter(folder, topic)) as writer:
        filled = fill_topic(writer, EventFile(events).batches(), key=key)
    output = Output(as_json=as_json)
    positions = {str(partition): at for partition, at in sorted(filled.next_positions.items())}
    output.document(
        {
            "events": filled.n_events,
            "without_key": filled.n_without_key if key else None,
            "next_positions": positions,
        }
    )
    facts: dict[str, object] = {"events": filled.n_events}
    if key:
        facts[f"without {key}"] = filled.n_without_key
    output.show(
        pairs(f"Appended to {topic}", facts),
        table("Partitions", ["partition", "next position"], list(positions.items())),
    )


@group.command(epilog=options.examples("sentinel file-log show topics", "… --topic payments"))
def show(
    folder: Folder,
    topic: Annotated[str | None, typer.Option("--topic", help="Of all, only this one.")] = None,
    as_json: options.AsJson = False,
) -> None:
    """Show the partitions of topics: positions, events, bytes, stamps of their first and last."""
    import msgspec

    from sentinel.streaming.file_log.inspection import look_at_file_log

    reports = look_at_file_log(folder, topic)
    output = Output(as_json=as_json)
    output.document({"partitions": [msgspec.to_builtins(report) for report in reports]})
    header = ["partition", "positions", "events", "bytes", "oldest and newest", "end"]
    rows = [
        (
            f"{report.topic}/{report.partition}",
            _positions(report),
            report.next_position - report.first_position,
            report.n_bytes,
            _times(report.oldest_ms, report.newest_ms),
            "torn" if report.is_torn else "whole",
        )
        for report in reports
    ]
    output.show(table(str(folder), header, rows))


def _positions(report: PartitionReport) -> str:
    """Show the first and the last position that is kept."""
    if report.next_position == report.first_position:
        return "–"
    return f"{report.first_position}-{report.next_position - 1}"


def _times(*stamps_ms: int | None) -> str:
    """Show stamps one above the other; those of an empty partition, or of a file, are unknown."""
    known = [stamp_ms / 1000 for stamp_ms in stamps_ms if stamp_ms is not None]
    shown = [f"{dt.datetime.fromtimestamp(at_s, tz=dt.UTC):%Y-%m-%d %H:%M:%S}" for at_s in known]
    return "\n".join(shown) or "unknown"
