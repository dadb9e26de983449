"""``sentinel features replay``: the feature vectors of a history, on all cores, as Parquet."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sentinel.cli import options
from sentinel.cli.exits import ExitCode
from sentinel.cli.features import group
from sentinel.cli.output import Advance, Output, number, pairs
from sentinel.cli.release import load
from sentinel.cli.replay import require_folder_of
from sentinel.core import limits
from sentinel.core.errors import ErrorCode, SentinelError

if TYPE_CHECKING:
    import pyarrow.parquet as pq

    from sentinel.contract import RawBatch
    from sentinel.data import EventFile
    from sentinel.features import EngineCounts, FeatureSet
    from sentinel.features.history.parallel import ParallelReplay
    from sentinel.features.history.serial import SerialReplay

    Run = ParallelReplay | SerialReplay

# Events that are decoded and resolved together; feedback is handed out between batches.
_BATCH_EVENTS = 16_384
# Fast, and half the size: feature columns repeat much.
_COMPRESSION, _COMPRESSION_LEVEL = "zstd", 1

EventFiles = Annotated[
    list[Path],
    typer.Option("--events", help="Events, one JSON object a line; repeatable, in order."),
]
FeedbackFiles = Annotated[
    list[Path] | None,
    typer.Option("--feedback", help="Feedback (late labels) in order of time; repeatable."),
]


def register(app: typer.Typer) -> None:
    """Add the command to the group that stands already."""
    del app
    group.command(
        epilog=options.examples(
            "sentinel features replay my-release --unapproved --events e.ndjson --out f.parquet",
            "sentinel features replay pipeline.py --events 2025.ndjson.zst --events 2026.ndjson "
            "--feedback verdicts.ndjson --out f.parquet --processes 8",
        ),
    )(replay)


def replay(  # noqa: PLR0913 -- one parameter a flag
    source: Annotated[
        Path,
        typer.Argument(
            metavar="RELEASE", help="The release whose feature set it is, or a pipeline's .py."
        ),
    ],
    *,
    events: EventFiles,
    out: Annotated[Path, typer.Option("--out", help="The Parquet file to make.")],
    feedback: FeedbackFiles = None,
    processes: Annotated[
        int | None,
        typer.Option(
            "--processes",
            min=1,
            max=limits.REPLAY_PROCESSES_MAX,
            help="Processes that compute; one a usable core, where not given.",
        ),
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Replace the file, if it is there.")
    ] = False,
    trust: options.TrustFile = None,
    unapproved: options.Unapproved = False,
    as_json: options.AsJson = False,
) -> ExitCode:
    """Compute the feature vector of every event of a history, as the scorer would have got it.

    The log is cut by entity and replayed on all cores through the kernel that serves; the vectors
    are those of one process, to the last bit. Events that the contract refuses and repeated ones
    are counted and left out. The file is there whole, or not at all.
    """
    from sentinel.data import EventFile
    from sentinel.data.event_file import refuse_empty
    from sentinel.features import compile_plan
    from sentinel.features.history.parallel import ParallelReplay
    from sentinel.features.history.serial import SerialReplay
    from sentinel.hardware import read_machine

    inputs = [*events, *(feedback or [])]
    for path in events:
        refuse_empty(path)
    _check_place(out, inputs, may_exist=force)
    features = feature_set_of(source, trust, allow_unapproved=unapproved)
    files = [EventFile(path) for path in events]
    known = [EventFile(path) for path in feedback or []]
    plan = compile_plan(features)
    n_processes = processes or read_machine().n_threads
    run: Run = SerialReplay(plan, in_one(files), in_one(known))
    if n_processes > 1:
        run = ParallelReplay(plan, in_one(files), in_one(known), n_processes=n_processes)
    output = Output(as_json=as_json)
    n_bytes = sum(path.stat().st_size for path in events if path.is_file())
    with output.progress(f"replaying {events[0].name}", total=n_bytes) as advance:
        n_rows = _write(run, features, out, files, advance)
    _show(output, out, n_rows, run)
    return ExitCode.DEGRADED if run.n_refused and not n_rows else ExitCode.OK


def feature_set_of(source: Path, trust: Path | None, *, allow_unapproved: bool) -> FeatureSet:
    """Read the feature set of a release, or of a pipeline that fits nothing.

    Raises
    ------
    SentinelError
        What loading raises.
    """
    from sentinel.release import Pipeline

    if source.suffix == ".py":
        return Pipeline.load(source).features
    loaded = load(source, trust, allow_unapproved=allow_unapproved)
    return loaded.parts.plan.features


def in_one(files: Sequence[EventFile], *, first_position: int = 0) -> Iterator[RawBatch]:
    """Read files one after the other; positions count on over all of them.

    The first file is read from ``first_position`` on.
    """
    import dataclasses

    n_before, first = 0, first_position
    for file in files:
        for batch in file.batches(_BATCH_EVENTS, first_position=first):
            yield dataclasses.replace(batch, positions=batch.positions + n_before)
        n_before += file.progress.n_lines
        first = 0


def _write(
    run: Run,
    features: FeatureSet,
    out: Path,
    files: Sequence[EventFile],
    advance: Advance,
) -> int:
    """Write the rounds as they come; return how many rows there are."""
    from sentinel.features.history.table import feature_schema, to_table

    schema = feature_schema(features, {"sentinel.source": ", ".join(f.source for f in files)})
    n_rows = 0
    with _parquet(out, schema) as writer, closing(run.rounds()) as rounds:
        for rows in rounds:
            writer.write_table(to_table(rows, schema))
            n_rows += rows.n_rows
            done = sum(file.progress.n_bytes_read for file in files)
            advance(done, f"{n_rows:,} events")
    return n_rows


@contextmanager
def _parquet(out: Path, schema: object) -> Iterator[pq.ParquetWriter]:
    """Write a file beside its place, and put it there when it is whole."""
    import pyarrow.parquet as pq

    from sentinel.core.files import sync_folder, unwritable

    unfinished = out.with_name(f".{out.name}.{os.getpid()}.partial")
    try:
        with pq.ParquetWriter(
            unfinished,
            schema,
            compression=_COMPRESSION,
            compression_level=_COMPRESSION_LEVEL,
            use_dictionary=False,
        ) as writer:
            yield writer
        with unfinished.open("rb") as file:
            os.fsync(file.fileno())
        unfinished.replace(out)
        sync_folder(out.parent)
    except OSError as error:
        raise unwritable(out, error) from error
    finally:
        unfinished.unlink(missing_ok=True)


def _check_place(out: Path, inputs: Sequence[Path], *, may_exist: bool) -> None:
    """Say before the work that there is no place for its result."""
    is_input = any(path.exists() and out.exists() and path.samefile(out) for path in inputs)
    if out.is_dir():
        raise SentinelError(
            ErrorCode.OUTPUT_EXISTS,
            at=str(out),
            expected="a file to write",
            got="a folder",
            hint="Name a file in it.",
        )
    if is_input or ((out.exists() or out.is_symlink()) and not may_exist):
        raise SentinelError(
            ErrorCode.OUTPUT_EXISTS,
            at=str(out),
            expected="no such file yet",
            got="a file that is being read" if is_input else "something that stands there already",
            hint="Name another" + ("." if is_input else ", or replace it with --force."),
        )
    require_folder_of(out)


def _show(output: Output, out: Path, n_rows: int, run: Run) -> None:
    counts = run.counts()
    n_bytes = out.stat().st_size
    output.document(
        {
            "out": str(out),
            "rows": n_rows,
            "bytes": n_bytes,
            "processes": run.n_processes,
            "refused": run.n_refused,
            "feedback_refused": run.n_feedback_refused,
            **counts_data(counts),
        }
    )
    output.show(
        pairs(
            f"Feature vectors in {out}",
            {
                "rows": number(n_rows),
                "repeated, left out": number(counts.duplicates),
                "refused, left out": number(run.n_refused),
                "late": number(counts.late_events),
                "feedback": number(counts.feedback),
                "size": f"{n_bytes / 1e6:,.1f} MB",
                "processes": number(run.n_processes),
            },
        )
    )
    if run.n_refused:
        output.note(f"{run.n_refused:,} events were refused; `sentinel contract check` says why.")
    if not n_rows:
        output.note("No event was accepted: the file has no row.")


def counts_data(counts: EngineCounts) -> dict[str, int]:
    """Give the counts of a replay as data."""
    return {
        "events": counts.events,
        "duplicates": counts.duplicates,
        "late_events": counts.late_events,
        "feedback": counts.feedback,
        "feedback_duplicates": counts.feedback_duplicates,
        "late_feedback": counts.late_feedback,
    }
