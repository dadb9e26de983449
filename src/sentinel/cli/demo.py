"""``sentinel demo``: the whole way with an example, from a file of transactions to decisions."""

from __future__ import annotations

import enum
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

import sentinel
from sentinel.cli import config, options
from sentinel.cli.demo_page import (
    approval_panel,
    broken_events_table,
    closing_data,
    closing_page,
    heading,
)
from sentinel.cli.exits import ExitCode
from sentinel.cli.output import Output, pairs
from sentinel.cli.release import evaluation_table, gates_table, instant, now_ms
from sentinel.cli.replay import graceful, run_job
from sentinel.cli.session import SessionPlan, open_session
from sentinel.cli.train import build_shown, train_shown
from sentinel.core.errors import ErrorCode, SentinelError

if TYPE_CHECKING:
    from rich.console import RenderableType

    from sentinel.data import EventFolder
    from sentinel.release import BuiltRelease, Candidate, Pipeline

# In the demo's folder, so that nothing else is ever removed.
_MARKER = ".sentinel-demo"
_MADE_BY_EACH_RUN = ("release", "quarantine", "log", "decisions.ndjson", "trust.toml")
_DEMO_NOTICE = "NOT FOR PRODUCTION"


class Source(enum.StrEnum):
    """Where the transactions come from."""

    AUTO = "auto"
    HANDBOOK = "handbook"
    SIMULATOR = "simulator"


@dataclass(slots=True)
class Stopwatch:
    """How long each step took."""

    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        """Measure a step."""
        began = time.monotonic()
        yield
        self.seconds[name] = self.seconds.get(name, 0.0) + time.monotonic() - began


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(
        epilog=options.examples(
            "sentinel demo",
            "sentinel demo --source simulator --out /tmp/demo",
        ),
    )(demo)


def demo(
    *,
    source: Annotated[
        Source,
        typer.Option("--source", help="auto: the Handbook data where they are, else simulated."),
    ] = Source.AUTO,
    out: Annotated[Path, typer.Option("--out", help="Folder for all that is made.")] = Path("demo"),
    examples: Annotated[
        Path | None,
        typer.Option("--examples", help="Folder of the examples, where it is not found by itself."),
    ] = None,
    as_json: options.AsJson = False,
) -> ExitCode:
    """Go the whole way: data, contract, replay, training, release, gates, approval, decisions.

    The Handbook data are looked for in SENTINEL_DATA, else in ../shared/data; without them a world
    is simulated. Running it again is safe: only what the demo made is replaced.
    """
    from sentinel.release import Pipeline

    output, watch = Output(as_json=as_json), Stopwatch()
    chosen = _choose(source)
    pipeline_path = find_examples(examples) / _EXAMPLE[chosen] / "pipeline.py"
    folder = _own_folder(out / str(chosen))
    output.show(heading(1, "Data", _WHERE_FROM[chosen]))
    with watch.step("data"):
        data = _prepare(chosen, folder / "data", output)
    pipeline = Pipeline.load(pipeline_path)
    output.show(_data_facts(data, pipeline_path))
    output.show(heading(2, "Contract", "what is not exactly as declared is refused, and kept"))
    output.show(broken_events_table(pipeline.features.events, data.events))
    candidate, built = _train(pipeline, data, folder, output, watch)
    if built.failed:
        output.note("A gate failed, so there is nothing to approve: the demo ends here.")
        return ExitCode.GATE
    output.show(heading(5, "Approval", "three signed statements over the manifest's digest"))
    trust = _approve(folder, output)
    output.show(heading(6, "Replay", f"events from {instant(candidate.later.from_ms)} on, decided"))
    return _replay(candidate, data, folder, trust, output, watch)


_EXAMPLE = {Source.HANDBOOK: "handbook", Source.SIMULATOR: "card_fraud"}
_WHERE_FROM = {
    Source.HANDBOOK: "the published Handbook transactions (simulated by the book's authors)",
    Source.SIMULATOR: "no Handbook data here: a world of cards, merchants and fraud is simulated",
}


def find_examples(folder: Path | None) -> Path:
    """Find the examples: where told, beside the package in a checkout, or here.

    Raises
    ------
    SentinelError
        ``file-missing``.
    """
    checkout = Path(sentinel.__file__).resolve().parents[2] / "examples"
    places = [folder] if folder is not None else [checkout, Path("examples")]
    for place in places:
        if (place / "handbook" / "pipeline.py").is_file():
            return place
    raise SentinelError(
        ErrorCode.FILE_MISSING,
        at=str(places[0]),
        expected="the folder examples/ of Sentinel's repository",
        got="nothing",
        hint="Name it with --examples.",
    )


def _choose(source: Source) -> Source:
    if source is not Source.AUTO:
        return source
    from sentinel.data.handbook import handbook_is_there

    return Source.HANDBOOK if handbook_is_there() else Source.SIMULATOR


def _own_folder(folder: Path) -> Path:
    """Make the demo's folder, or clear away what an earlier run made in it.

    Raises
    ------
    SentinelError
        ``output-exists`` for a folder that is not the demo's.
    """
    marker = folder / _MARKER
    if folder.exists() and any(folder.iterdir()) and not marker.is_file():
        raise SentinelError(
            ErrorCode.OUTPUT_EXISTS,
            at=str(folder),
            expected="a new or empty folder, or one that the demo made",
            got="something else",
            hint="Name another with --out; nothing was changed.",
        )
    folder.mkdir(parents=True, exist_ok=True)
    marker.touch()
    for name in _MADE_BY_EACH_RUN:
        path = folder / name
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
    return folder


def _prepare(source: Source, folder: Path, output: Output) -> EventFolder:
    with output.progress("preparing", total=1) as advance:

        def progress(done: int, total: int) -> None:
            advance(done / max(total, 1), f"{done:,} of {total:,}")

        if source is Source.HANDBOOK:
            from sentinel.data.handbook import prepare_handbook

            return prepare_handbook(folder, progress=progress)
        from sentinel.data.simulator import Simulation

        return Simulation().write(folder, progress=progress)


def _data_facts(data: EventFolder, pipeline: Path) -> RenderableType:
    return pairs(
        "",
        {
            "events": f"{data.n_events:,} in {data.events}",
            "verdicts": f"{data.n_feedback:,} in {data.feedback}, {data.n_frauds:,} frauds",
            "pipeline": str(pipeline),
        },
    )


def _train(
    pipeline: Pipeline, data: EventFolder, folder: Path, output: Output, watch: Stopwatch
) -> tuple[Candidate, BuiltRelease]:
    from sentinel.release import create_key, load_key

    if data.feedback is None:
        raise AssertionError("both sources of the demo have labels")
    names = pipeline.features.names
    output.show(
        heading(3, "Training", f"{len(names)} features, replayed by the kernel that serves")
    )
    with watch.step("training"):
        candidate = train_shown(pipeline, data.events, data.feedback, output)
    later = candidate.later
    rows = candidate.provenance.n_rows
    output.show(
        pairs(
            "",
            {
                "rows": ", ".join(f"{part} {n:,}" for part, n in rows.items()),
                "trained until": f"{instant(later.trained_until_ms)}, labels as known at the cut",
                "judged on": f"{instant(later.from_ms)} to {instant(later.until_ms)}",
            },
        ),
        evaluation_table({name: dict(metrics) for name, metrics in later.metrics.items()}),
    )
    output.show(heading(4, "Release", "code-free: ONNX, JSON, hashes; every gate is asked"))
    key_path = folder / "demo-builder.key"
    person = f"builder, {_DEMO_NOTICE}"
    builder = (
        load_key(key_path)
        if key_path.exists()
        else create_key(key_path, person=person, is_demo=True)
    )
    with watch.step("release"):
        built = build_shown(candidate, folder / "release", builder, output)
    output.show(gates_table(built.gates))
    return candidate, built


def _approve(folder: Path, output: Output) -> Path:
    """Sign data, weights and deployment with a demo key, and trust it, loudly."""
    from sentinel.core.files import write_atomically
    from sentinel.release import Role, Terms, approve_release, create_key, load_key, trust_entry

    path = folder / "demo-approver.key"
    person = f"approver, {_DEMO_NOTICE}"
    key = load_key(path) if path.exists() else create_key(path, person=person, is_demo=True)
    builder = load_key(folder / "demo-builder.key")
    roles = (Role.DATA, Role.WEIGHTS, Role.DEPLOY)
    for role in roles:
        approve_release(
            folder / "release", key, role=role, terms=Terms(issued_at_ms=now_ms(), note="demo")
        )
    trust = folder / "trust.toml"
    entries = [
        trust_entry(person=builder.person, key_id=builder.key_id, roles=(Role.BUILD,)),
        trust_entry(person=key.person, key_id=key.key_id, roles=roles),
    ]
    notice = f"# DEMO KEYS - {_DEMO_NOTICE}: anybody who has this folder can sign with them.\n"
    write_atomically(trust, (notice + "format = 1\n\n" + "\n".join(entries)).encode())
    output.show(approval_panel(key.person, [str(role) for role in roles]))
    return trust


def _replay(
    candidate: Candidate,
    data: EventFolder,
    folder: Path,
    trust: Path,
    output: Output,
    watch: Stopwatch,
) -> ExitCode:
    from sentinel.cli.demo_watch import DecisionWatch
    from sentinel.streaming import FileJob, Watchers
    from sentinel.training.history import read_verdicts

    settings = config.load().value
    plan = SessionPlan(
        folder=folder / "release",
        trust=trust,
        allow_unapproved=False,
        quarantine=folder / "quarantine",
        log=folder / "log",
    )
    with open_session(plan, settings) as session:
        seen = DecisionWatch(session.loaded.events, session.loaded.parts.plan.names)
        job = FileJob(
            events=data.events,
            feedback=data.feedback,
            decisions=folder / "decisions.ndjson",
            first_decided_ms=candidate.later.from_ms,
            n_events_batch=settings.batch_events,
        )
        watchers = Watchers(on_decisions=seen.see)
        with watch.step("replay"), graceful() as stop:
            report = run_job(session, job, output, title="replaying", stop=stop, watchers=watchers)
        if report.is_interrupted:
            output.note(f"Interrupted before line {report.next_position:,}.")
            return ExitCode.TERMINATED if stop.is_terminated else ExitCode.INTERRUPTED
        if data.feedback is None:
            raise AssertionError("both sources of the demo have labels")
        labels = seen.labels(read_verdicts(candidate.pipeline, data.feedback))
        output.show(heading(7, "What came of it", f"all in {folder}"))
        output.show(*closing_page(session, report, seen, labels, watch.seconds))
        output.document(closing_data(session, report, seen, labels, watch.seconds))
    return ExitCode.OK
