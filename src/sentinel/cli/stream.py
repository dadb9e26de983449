"""``sentinel stream``: carry a topic through a release, effects once."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sentinel.cli import config, options
from sentinel.cli.exits import ExitCode
from sentinel.cli.output import Advance, Output, pairs
from sentinel.cli.pace import Pace
from sentinel.cli.release import load
from sentinel.cli.replay import graceful
from sentinel.core import limits
from sentinel.core.errors import ErrorCode, SentinelError, without_password
from sentinel.core.threads import require_threads, threads_of_blas

if TYPE_CHECKING:
    from sentinel.core.configuration import Configuration
    from sentinel.monitoring import Metrics
    from sentinel.release import LoadedRelease
    from sentinel.scoring import Scorer
    from sentinel.streaming import DecisionValve
    from sentinel.streaming.kafka.settings import KafkaSettings
    from sentinel.streaming.stream.job import StreamJob
    from sentinel.streaming.stream.worker import StreamReport, StreamWorker

_PORT_MAX = 65_535


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(
        epilog=options.examples(
            "sentinel stream my-release --trust trust.toml --bootstrap kafka:9092 "
            "--events payments --decisions decisions --quarantine refused "
            "--group sentinel --store embedded:state",
            "sentinel stream ... --feedback verdicts --log decision-log --metrics-port 9464",
            "sentinel stream my-release --trust trust.toml --source file-log:topics "
            "--events payments --decisions decisions --quarantine refused --store embedded:state",
            "sentinel stream ... --set security.protocol=SASL_SSL --set sasl.password=@password",
        ),
    )(stream)


def stream(  # noqa: PLR0913 -- one parameter a flag
    folder: options.ReleaseFolder,
    *,
    bootstrap: Annotated[
        str | None, typer.Option("--bootstrap", help="Brokers of Kafka, HOST:PORT,….")
    ] = None,
    source: Annotated[
        str | None,
        typer.Option(
            "--source", metavar="file-log:FOLDER", help="A log of files instead of Kafka."
        ),
    ] = None,
    events: Annotated[str, typer.Option("--events", help="Topic of events.")],
    decisions: Annotated[str, typer.Option("--decisions", help="Topic for decisions.")],
    quarantine: Annotated[str, typer.Option("--quarantine", help="Topic for refused events.")],
    group: Annotated[str, typer.Option("--group", help="Consumer group.")] = "sentinel",
    transactional_id: Annotated[
        str | None,
        typer.Option(
            "--transactional-id",
            metavar="NAME",
            help="Outputs and positions become visible together, in transactions of Kafka: a name "
            "of this worker alone, the same at every start.",
        ),
    ] = None,
    store: options.Store = None,
    feedback: Annotated[
        str | None, typer.Option("--feedback", help="Topic of feedback (late labels).")
    ] = None,
    partition_key: Annotated[
        str | None,
        typer.Option(
            "--partition-key",
            metavar="FIELD",
            help="The field that the topic is partitioned by, and the key of every entity: "
            "several workers may then share the topic and the store.",
        ),
    ] = None,
    durability: options.DurabilityClass = None,
    log: Annotated[
        Path | None,
        typer.Option("--log", help="Folder of a decision log, beside the topic of decisions."),
    ] = None,
    accept_gap: Annotated[
        bool,
        typer.Option("--accept-gap", help="Go on where the topic has lost events."),
    ] = False,
    assignments: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="NAME=VALUE",
            help=r"A property of the Kafka client; VALUE may be @FILE. Adds to \[kafka] of "
            "sentinel.toml.",
        ),
    ] = None,
    metrics_port: Annotated[
        int | None,
        typer.Option(
            "--metrics-port", min=1, max=_PORT_MAX, help="Serve metrics on 127.0.0.1:PORT."
        ),
    ] = None,
    batch_events: Annotated[
        int | None, typer.Option("--batch-events", help="Events that are scored together at most.")
    ] = None,
    trust: options.TrustFile = None,
    unapproved: options.Unapproved = False,
    config_file: options.ConfigFile = None,
    as_json: options.AsJson = False,
) -> ExitCode:
    """Read events from a topic and write decisions to another until it is told to stop.

    The position lives in the store: start it again after whatever happened, and nothing is
    lost or counted twice. SIGTERM and Ctrl-C end it after the batch that it is in: outputs are
    flushed, a snapshot is taken, the group is left.
    """
    of_kafka = {"--set": bool(assignments), "--transactional-id": transactional_id is not None}
    place = _source(bootstrap, source, [name for name, is_given in of_kafka.items() if is_given])
    n_kafka = limits.THREADS_KAFKA if place is None else 0
    require_threads(limits.THREADS_FILES + n_kafka + threads_of_blas(), at="sentinel stream")
    from sentinel.features.stores.choice import StoreKind
    from sentinel.features.stores.embedded import Durability
    from sentinel.monitoring import DriftSettings
    from sentinel.streaming.stream.job import StreamJob

    configuration = config.load({"batch_events": batch_events, "store": store}, file=config_file)
    settings, chosen = configuration.value, config.store_of(configuration, durability)
    if not chosen.is_kept:
        raise SentinelError(
            ErrorCode.USAGE_INVALID,
            at="--store",
            expected="embedded:FOLDER or redis://…: the position in the topic outlives the process",
            got=chosen.shown,
        )
    is_redis = chosen.kind is StoreKind.REDIS
    job = StreamJob(
        events=events,
        feedback=feedback,
        decisions=decisions,
        quarantine=quarantine,
        state=Path(settings.worker_folder) if is_redis else chosen.folder,
        store=chosen if is_redis else None,
        durability=Durability(chosen.durability),
        partition_key=partition_key,
        accept_gap=accept_gap,
        n_events_batch=settings.batch_events,
        drift=DriftSettings.from_configuration(settings),
    )
    output = Output(as_json=as_json)
    plan = _Plan(
        release=folder,
        source=place,
        job=job,
        kafka=None
        if place is not None
        else replace(
            _kafka(bootstrap, group, assignments, config_file), transactional_id=transactional_id
        ),
        log=log,
        trust=trust,
        unapproved=unapproved,
        port=metrics_port,
    )
    with _opened(plan, settings) as (worker, loaded), graceful() as stop:
        release = f"{loaded.manifest.label}, {loaded.standing}"
        shown = without_password(bootstrap or source or "")
        output.note(
            f"{release}: reading {events} from {shown}; Ctrl-C or SIGTERM ends it in good order."
        )
        with output.progress(f"streaming {events}", total=None) as advance:
            told = _teller(worker, advance) if output.is_watched else None
            report = worker.run(stop, on_turn=told)
    output.document(report_data(report, loaded))
    output.show(pairs("Stream", _facts(report, loaded)))
    return ExitCode.OK


@dataclass(frozen=True, slots=True, kw_only=True)
class _Plan:
    """What is to be opened."""

    release: Path
    source: Path | None
    job: StreamJob
    kafka: KafkaSettings | None
    log: Path | None
    trust: Path | None
    unapproved: bool
    port: int | None


def _teller(worker: StreamWorker, advance: Advance) -> Callable[[], None]:
    """Tell people who watch, a few times a second: the ends of partitions are looked up for it."""
    pace = Pace()

    def tell() -> None:
        now_s = time.monotonic()
        if pace.is_due(now_s):
            n_read = worker.n_events_read()
            advance(n_read, pace.note(now_s, n_read, worker.n_events_behind()))

    return tell


def _source(bootstrap: str | None, source: str | None, of_kafka: list[str]) -> Path | None:
    """Return the folder of a log of files; None for Kafka, whose own flags are named."""
    kind, _, folder = (source or "").partition(":")
    is_file_log = kind == "file-log" and bool(folder)
    if (bootstrap is None) == (source is None) or (source is not None and not is_file_log):
        raise SentinelError(
            ErrorCode.USAGE_INVALID,
            at="--source" if source is not None else "--bootstrap",
            expected="--bootstrap HOST:PORT,… or --source file-log:FOLDER",
            got="both"
            if bootstrap and is_file_log
            else without_password(source or "") or "neither",
        )
    if is_file_log and of_kafka:
        raise SentinelError(
            ErrorCode.USAGE_INVALID,
            at=of_kafka[0],
            expected="--bootstrap: this is for Kafka",
            got=f"--source {source}",
        )
    return Path(folder) if is_file_log else None


def _kafka(
    bootstrap: str | None, group: str, assignments: list[str] | None, config_file: Path | None
) -> KafkaSettings:
    from sentinel.core.configuration import load_table
    from sentinel.streaming.kafka.settings import KafkaSettings, client_settings

    table = load_table("kafka", os.environ, folder=Path(), file=config_file)
    client = client_settings(table, tuple(assignments or ()))
    return KafkaSettings(bootstrap=bootstrap or "", group=group, client=client)


@contextmanager
def _opened(plan: _Plan, settings: Configuration) -> Iterator[tuple[StreamWorker, LoadedRelease]]:
    """Verify and load the release, and put the worker together."""
    from sentinel.monitoring import Metrics
    from sentinel.release.decision_log import open_decision_log
    from sentinel.streaming import DecisionValve

    loaded = load(plan.release, plan.trust, allow_unapproved=plan.unapproved)
    with ExitStack() as stack:
        metrics = Metrics()
        if plan.port is not None:
            stack.enter_context(_served(metrics, plan.port))
        decisions = DecisionValve() if plan.log is not None else None
        worker, scorer = _worker(plan, loaded, metrics, decisions)
        stack.callback(worker.close)
        stack.callback(scorer.close)
        if plan.log is not None and decisions is not None:
            log = open_decision_log(
                plan.log,
                loaded,
                execution_provider=scorer.execution_provider,
                configuration=settings,
            )
            decisions.attach(stack.enter_context(log))
        yield worker, loaded


def _worker(
    plan: _Plan, loaded: LoadedRelease, metrics: Metrics, decisions: DecisionValve | None
) -> tuple[StreamWorker, Scorer]:
    if plan.kafka is not None:
        from sentinel.streaming.kafka.worker import open_worker

        return open_worker(loaded, plan.kafka, plan.job, metrics=metrics, log=decisions)
    from sentinel.streaming.file_log.worker import open_file_log_worker

    folder = plan.source if plan.source is not None else Path()
    return open_file_log_worker(loaded, folder, plan.job, metrics=metrics, log=decisions)


@contextmanager
def _served(metrics: Metrics, port: int) -> Iterator[None]:
    """Answer scrapes on the loopback interface."""
    from prometheus_client import start_http_server

    try:
        server, thread = start_http_server(port, addr="127.0.0.1", registry=metrics.registry)
    except OSError as error:
        raise SentinelError(
            ErrorCode.USAGE_INVALID,
            at=f"--metrics-port {port}",
            expected="a free port",
            got=error.strerror or error,
        ) from error
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _facts(report: StreamReport, loaded: LoadedRelease) -> dict[str, object]:
    """Give what a run came to for people."""
    facts = report_data(report, loaded)
    facts["troubles"] = "\n".join(report.causes) or "none"
    facts["positions"] = "\n".join(f"{name}: {at:,}" for name, at in report.positions.items())
    return facts


def report_data(report: StreamReport, loaded: LoadedRelease) -> dict[str, object]:
    """Give what a run came to as plain data."""
    counts = report.counts
    return {
        "release": loaded.manifest.label,
        "standing": str(loaded.standing),
        "troubles": list(report.causes),
        "read": counts.read,
        "decided": counts.decided,
        "held": counts.held,
        "quarantined": counts.quarantined,
        "deduplicated": counts.deduplicated,
        "late": counts.late,
        "feedback_read": counts.feedback_read,
        "decisions_sent": report.n_decisions,
        "quarantine_sent": report.n_refusals,
        "poison": report.n_poison,
        "gap": report.n_gap,
        "holes": report.n_holes,
        "positions": report.positions,
    }
