"""``sentinel train``: from two logs to a release that has been through its gates."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sentinel.cli import options
from sentinel.cli.exits import ExitCode
from sentinel.cli.output import Output, pairs
from sentinel.cli.release import evaluation_table, gates_table, now_ms
from sentinel.cli.replay import first_decided
from sentinel.core.clock import instant
from sentinel.core.errors import ErrorCode, SentinelError

if TYPE_CHECKING:
    from sentinel.monitoring.feature_parity import ParityReport
    from sentinel.release import BuiltRelease, Candidate, Pipeline, SigningKey
    from sentinel.training.split import TimeSplit

# Stages of training, in order, with the share of the time that each takes, about.
_STAGES = {"verdicts": 0.1, "replay": 0.2, "fit": 0.4, "refit": 0.2, "time travel": 0.1}


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(
        epilog=options.examples(
            "sentinel train pipeline.py --events e.ndjson --feedback f.ndjson --out my-release",
            "sentinel train pipeline.py --events e.ndjson --feedback f.ndjson --out releases/1.1.0 "
            "--key builder.key --version 1.1.0",
            "sentinel train pipeline.py --events e.ndjson --feedback f.ndjson --out week "
            "--train-from 2018-07-25 --cut 2018-08-08 --until 2018-08-15",
        ),
    )(train)


def train(  # noqa: PLR0913 -- one parameter a flag
    pipeline: Annotated[
        Path, typer.Argument(metavar="PIPELINE", help="Python file that defines one Pipeline.")
    ],
    *,
    events: options.EventsPath,
    feedback: Annotated[
        Path, typer.Option("--feedback", help="Feedback (late labels), one JSON object a line.")
    ],
    out: Annotated[
        Path | None, typer.Option("--out", help="The release folder to make; it is new.")
    ] = None,
    candidate_file: Annotated[
        Path | None,
        typer.Option(
            "--candidate", help="Write the candidate there, for `sentinel release build`."
        ),
    ] = None,
    key: Annotated[
        Path | None,
        typer.Option("--key", help="Builder's key. Without its signature nobody can approve."),
    ] = None,
    version: Annotated[
        str | None, typer.Option("--version", help="Version, instead of the pipeline's.")
    ] = None,
    train_from: Annotated[
        str | None, typer.Option("--train-from", help="First event time to train on.")
    ] = None,
    cut: Annotated[
        str | None,
        typer.Option(
            "--cut",
            help="When the model is trained: labels known later do not exist. By default the last "
            "fifth of the log judges.",
        ),
    ] = None,
    until: Annotated[
        str | None, typer.Option("--until", help="End of the part that judges.")
    ] = None,
    as_json: options.AsJson = False,
) -> ExitCode:
    """Replay both logs, fit champion and fallback, judge them on later events, build the release.

    Features come from the kernel that serves; labels are known when they arrive and not before.
    The release goes through every gate. Exit code 6 when one fails: it can then be looked at, and
    never approved.
    """
    from sentinel.release import Pipeline, load_key

    _check_places(out, candidate_file)
    declared = _versioned(Pipeline.load(pipeline), version)
    builder = None if key is None else load_key(key)
    output = Output(as_json=as_json)
    split = _split(declared, train_from, cut, until)
    candidate = train_shown(declared, events, feedback, output, split=split)
    if candidate_file is not None:
        from sentinel.cli.candidate_file import write_candidate

        write_candidate(candidate, candidate_file)
    if out is None:
        output.document({"candidate": str(candidate_file), **_metrics(candidate)})
        output.show(
            evaluation_table(_metrics(candidate)["metrics"]),
            f"Candidate written. Next: sentinel release build {candidate_file} --out FOLDER",
        )
        return ExitCode.OK
    ended = show_built(candidate, build_shown(candidate, out, builder, output), output)
    if builder is None:
        output.note(
            "Built without --key: nobody can approve this release, so it runs with --unapproved "
            "only. To have it approved, make a key (sentinel release key FILE --person NAME "
            "--role build) and train again with --key FILE."
        )
    else:
        output.note(
            f"Next: sentinel release approve {out} --role data --key FILE (docs/release.md)"
        )
    return ended


def show_built(candidate: Candidate, built: BuiltRelease, output: Output) -> ExitCode:
    """Show what was built; a failed gate is an exit code of its own."""
    later = candidate.later
    output.document(
        {
            "folder": str(built.folder),
            "release": built.manifest.label,
            "digest": built.manifest.digest,
            "failed_gates": list(built.failed),
            "n_rows": dict(candidate.provenance.n_rows),
            **_metrics(candidate),
        }
    )
    rows = candidate.provenance.n_rows
    output.show(
        pairs(
            f"Built {built.manifest.label} in {built.folder}",
            {
                "digest": built.manifest.digest,
                "trained until": instant(later.trained_until_ms),
                "judged on": f"{instant(later.from_ms)} to {instant(later.until_ms)}",
                "rows": ", ".join(f"{part} {n:,}" for part, n in rows.items()),
            },
        ),
        evaluation_table(_metrics(candidate)["metrics"]),
        gates_table(built.gates),
    )
    return ExitCode.GATE if built.failed else ExitCode.OK


def _metrics(candidate: Candidate) -> dict[str, dict[str, dict[str, float]]]:
    return {"metrics": {name: dict(each) for name, each in candidate.later.metrics.items()}}


def train_shown(
    pipeline: Pipeline,
    events: Path,
    feedback: Path,
    output: Output,
    *,
    split: TimeSplit | None = None,
) -> Candidate:
    """Train with a progress bar over all stages."""
    from sentinel.training.train import train as fit

    before: dict[str, float] = {}
    passed = 0.0
    for stage, share in _STAGES.items():
        before[stage] = passed
        passed += share
    with output.progress("training", total=1) as advance:
        furthest = 0.0

        def progress(stage: str, done: int, total: int) -> None:
            nonlocal furthest
            share = _STAGES.get(stage, 0.0) * done / max(total, 1)
            furthest = max(furthest, before.get(stage, 0.0) + share)
            advance(furthest, stage)

        return fit(pipeline, events, feedback, split=split, on_progress=progress)


def build_shown(
    candidate: Candidate,
    out: Path,
    builder: SigningKey | None,
    output: Output,
    *,
    served: ParityReport | None = None,
) -> BuiltRelease:
    """Build the release folder, which takes the gates' time."""
    from sentinel.release import build_release

    with output.progress("building, gates", total=1):
        return build_release(candidate, out, created_at_ms=now_ms(), builder=builder, served=served)


def _check_places(out: Path | None, candidate: Path | None) -> None:
    """Say at once, and not after an hour of training, that there is no place for the result."""
    if out is None and candidate is None:
        raise SentinelError(
            ErrorCode.USAGE_INVALID,
            at="--out, --candidate",
            expected="a place for the release, for the candidate, or for both",
            got="none",
        )
    if out is not None:
        refuse_taken(out)


def refuse_taken(out: Path) -> None:
    """Refuse to build where something stands already.

    Raises
    ------
    SentinelError
        ``output-exists``.
    """
    if out.exists() or out.is_symlink():
        raise SentinelError(
            ErrorCode.OUTPUT_EXISTS,
            at=str(out),
            expected="a folder that does not exist yet",
            got="something that stands there already",
            hint="Releases never change: choose another place, or remove it.",
        )


def _versioned(pipeline: Pipeline, version: str | None) -> Pipeline:
    from dataclasses import replace

    return pipeline if version is None else replace(pipeline, version=version)


def _split(
    pipeline: Pipeline, train_from: str | None, cut: str | None, until: str | None
) -> TimeSplit | None:
    """Make the split that was asked for; None leaves it to training."""
    if train_from is None and cut is None and until is None:
        return None
    if cut is None or train_from is None or until is None:
        raise SentinelError(
            ErrorCode.USAGE_INVALID,
            at="--train-from, --cut, --until",
            expected="all three times, or none",
            got="some of them",
        )
    from sentinel.training.split import TimeSplit

    return TimeSplit(
        train_from_ms=_instant_ms(train_from, "--train-from"),
        cut_ms=_instant_ms(cut, "--cut"),
        until_ms=_instant_ms(until, "--until"),
        delay_ms=pipeline.label.delay_ms,
    )


def _instant_ms(text: str, flag: str) -> int:
    position, at_ms = first_decided(text)
    if at_ms is None:
        raise SentinelError(
            ErrorCode.USAGE_INVALID,
            at=flag,
            expected="a time such as 2018-08-01",
            got=position,
        )
    return at_ms
