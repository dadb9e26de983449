"""``sentinel demo``: the whole way with an example, from a file of transactions to decisions."""

from __future__ import annotations

import enum
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

import sentinel
from sentinel.cli import config, options
from sentinel.cli.boundary import TerminatedError
from sentinel.cli.demo_folder import demo_folder
from sentinel.cli.demo_page import (
    approval_panel,
    broken_events_table,
    closing_data,
    closing_page,
    heading,
)
from sentinel.cli.demo_store import HELP, DemoStores, demo_stores
from sentinel.cli.exits import ExitCode
from sentinel.cli.output import Output, pairs
from sentinel.cli.release import evaluation_table, gates_table, now_ms
from sentinel.cli.replay import graceful, run_job
from sentinel.cli.session import SessionPlan, open_session
from sentinel.cli.train import build_shown, train_shown
from sentinel.core.clock import instant
from sentinel.core.errors import ErrorCode, SentinelError
from sentinel.core.files import write_atomically

if TYPE_CHECKING:
    from rich.console import RenderableType

    from sentinel.cli.demo_serve import LiveReport
    from sentinel.data import EventFolder
    from sentinel.features.stores.choice import StoreChoice
    from sentinel.release import BuiltRelease, Candidate, Pipeline
    from sentinel.streaming import FileJob, FileReport

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


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One run of the demo: where things go, and how they are shown.

    ``folder`` is where this run works, ``home`` where its results stand at the end.
    """

    home: Path
    folder: Path
    output: Output
    watch: Stopwatch
    store: str
    is_live: bool

    def head(self, step: int, title: str, about: str) -> None:
        """Begin a step."""
        n_steps = 8 if self.is_live else 7
        self.output.show(heading(f"{step}/{n_steps}", title, about))


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(
        epilog=options.examples(
            "sentinel demo",
            "sentinel demo --source simulator --out /tmp/demo",
            "sentinel demo --store redis",
            "sentinel demo --serve",
        ),
    )(demo)


def demo(
    *,
    source: Annotated[
        Source,
        typer.Option("--source", help="auto: the Handbook data where they are, else simulated."),
    ] = Source.AUTO,
    out: Annotated[Path, typer.Option("--out", help="Folder for all that is made.")] = Path("demo"),
    store: Annotated[str, typer.Option("--store", metavar="STORE", help=HELP)] = "memory",
    live: Annotated[
        bool,
        typer.Option(
            "--serve",
            help="Then serve the release, and send it the same stream over HTTP.",
        ),
    ] = False,
    examples: Annotated[
        Path | None,
        typer.Option("--examples", help="Folder of the examples, where it is not found by itself."),
    ] = None,
    as_json: options.AsJson = False,
) -> ExitCode:
    """Go the whole way: data, contract, replay, training, release, gates, approval, decisions.

    The Handbook data are looked for in SENTINEL_DATA, else in ../shared/data; without them a world
    is simulated. Running it again is safe: only what the demo made is replaced, at the end.
    """
    chosen = _choose(source)
    pipeline_path = find_examples(examples) / _EXAMPLE[chosen] / "pipeline.py"
    output = Output(as_json=as_json)
    with demo_folder(out / str(chosen)) as place:
        run = Run(
            home=place.home,
            folder=place.work,
            output=output,
            watch=Stopwatch(),
            store=store,
            is_live=live,
        )
        ended = _go(run, chosen, pipeline_path)
        if ended in {ExitCode.OK, ExitCode.GATE}:
            place.keep()
    return ended


def _go(run: Run, chosen: Source, pipeline_path: Path) -> ExitCode:
    """Go the whole way."""
    from sentinel.release import Pipeline

    output = run.output
    with demo_stores(run.store, run.folder) as stores:
        run.head(1, "Data", _WHERE_FROM[chosen])
        with run.watch.step("data"):
            data = _prepare(chosen, run.home / "data", output)
        pipeline = Pipeline.load(pipeline_path)
        output.show(_data_facts(data, pipeline_path))
        run.head(2, "Contract", "what is not exactly as declared is refused, and kept")
        output.show(broken_events_table(pipeline.features.events, data.events))
        candidate, built = _train(run, pipeline, data)
        if built.failed:
            output.note("A gate failed, so there is nothing to approve: the demo ends here.")
            return ExitCode.GATE
        run.head(5, "Approval", "three signed statements over the manifest's digest")
        _approve(run)
        run.head(6, "Replay", f"events from {instant(candidate.later.from_ms)} on, decided")
        return _replay(run, candidate, data, stores)


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


def _train(run: Run, pipeline: Pipeline, data: EventFolder) -> tuple[Candidate, BuiltRelease]:
    from sentinel.release import create_key, load_key

    folder, output, watch = run.folder, run.output, run.watch
    if data.feedback is None:
        raise AssertionError("both sources of the demo have labels")
    names = pipeline.features.names
    run.head(3, "Training", f"{len(names)} features, replayed by the kernel that serves")
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
    run.head(4, "Release", "code-free: ONNX, JSON, hashes; every gate is asked")
    key_path = run.home / "demo-builder.key"
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


def _approve(run: Run) -> None:
    """Sign data, weights and deployment with a demo key, and trust it, loudly."""
    from sentinel.release import Role, Terms, approve_release, create_key, load_key, trust_entry

    folder, output = run.folder, run.output
    path = run.home / "demo-approver.key"
    person = f"approver, {_DEMO_NOTICE}"
    key = load_key(path) if path.exists() else create_key(path, person=person, is_demo=True)
    builder = load_key(run.home / "demo-builder.key")
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


def _replay(run: Run, candidate: Candidate, data: EventFolder, stores: DemoStores) -> ExitCode:
    from sentinel.cli.demo_watch import DecisionWatch
    from sentinel.streaming import Watchers
    from sentinel.training.history import read_verdicts

    folder, output = run.folder, run.output
    settings = config.load().value
    job = _job(candidate, data, settings.batch_events)
    with open_session(_session(run, stores.choice("replay")), settings) as session:
        seen = DecisionWatch(session.loaded.events, session.loaded.parts.plan.names)
        watchers = Watchers(on_decisions=seen.see)
        with run.watch.step("replay"), graceful() as stop:
            job = replace(job, decisions=folder / "decisions.ndjson")
            report = run_job(session, job, output, title="replaying", stop=stop, watchers=watchers)
        if report.is_interrupted:
            output.note(
                f"Interrupted before line {report.next_position:,}: what an earlier demo made in "
                f"{run.home} stands."
            )
            return ExitCode.TERMINATED if stop.is_terminated else ExitCode.INTERRUPTED
        if data.feedback is None:
            raise AssertionError("both sources of the demo have labels")
        labels = seen.labels(read_verdicts(candidate.pipeline, data.feedback))
        live = _serve(run, candidate, data, stores, report) if run.is_live else None
        run.head(8 if run.is_live else 7, "What came of it", f"all in {run.home}")
        output.show(*closing_page(session, report, seen, labels, run.watch.seconds))
        closing = closing_data(session, report, seen, labels, run.watch.seconds)
        output.document(closing if live is None else {**closing, "live": live.to_data()})
    return ExitCode.OK


def _serve(
    run: Run,
    candidate: Candidate,
    data: EventFolder,
    stores: DemoStores,
    replayed: FileReport,
) -> LiveReport:
    """Bring a fresh state up to the first event, serve on it, and send the stream."""
    from sentinel.cli.demo_serve import live_page, running_server, stream_over_http

    folder, output = run.folder, run.output
    run.head(7, "Serve", "the same events, over HTTP to a server of its own process")
    settings = config.load().value
    job = replace(_job(candidate, data, settings.batch_events), is_learn_only=True)
    plan = _session(run, stores.choice("live"), log=None)
    with (
        run.watch.step("learning"),
        graceful() as stop,
        open_session(plan, settings) as session,
    ):
        learned = run_job(session, job, output, title="learning the history", stop=stop)
    if learned.is_interrupted:
        raise TerminatedError if stop.is_terminated else KeyboardInterrupt
    # The address may hold a password, which no command line shows.
    address = folder / "live-store"
    write_atomically(address, stores.address("live").encode(), mode=0o600)
    arguments = [
        "--trust",
        str(folder / "trust.toml"),
        "--store",
        f"@{address}",
        "--log",
        str(folder / "live-log"),
        "--rehearsal",
    ]
    with (
        run.watch.step("serve"),
        running_server(folder / "release", folder, arguments) as addresses,
        output.progress("streaming over HTTP", total=replayed.counts.read) as advance,
    ):
        live = stream_over_http(
            addresses.http_port,
            data,
            _time_names(candidate.pipeline),
            from_ms=candidate.later.from_ms,
            replayed=replayed,
            decisions=folder / "decisions.ndjson",
            advance=advance,
        )
    output.show(live_page(live, addresses))
    return live


def _time_names(pipeline: Pipeline) -> tuple[str, str]:
    features = pipeline.features
    known = features.events if features.feedback is None else features.feedback
    return features.events.event_time.name, known.event_time.name


def _session(run: Run, choice: StoreChoice, *, log: str | None = "log") -> SessionPlan:
    folder = run.folder
    return SessionPlan(
        folder=folder / "release",
        trust=folder / "trust.toml",
        allow_unapproved=False,
        quarantine=folder / "quarantine",
        log=None if log is None else folder / log,
        store=choice,
    )


def _job(candidate: Candidate, data: EventFolder, n_events_batch: int) -> FileJob:
    from sentinel.streaming import FileJob

    return FileJob(
        events=data.events,
        feedback=data.feedback,
        first_decided_ms=candidate.later.from_ms,
        n_events_batch=n_events_batch,
    )
