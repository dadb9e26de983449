"""``sentinel replay``: carry a file of events through a release and say what became of it."""

from __future__ import annotations

import dataclasses
import datetime as dt
import signal
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated

import typer

from sentinel.cli import config, options
from sentinel.cli.boundary import TerminatedError
from sentinel.cli.exits import ExitCode
from sentinel.cli.output import Advance, Output, duration_ms, number, pairs, table
from sentinel.cli.session import Session, SessionPlan, open_session
from sentinel.cli.status import status_of, status_panel
from sentinel.core import limits
from sentinel.core.errors import ErrorCode, SentinelError
from sentinel.core.threads import require_threads, threads_of_blas

if TYPE_CHECKING:
    from rich.console import RenderableType

    from sentinel.monitoring import DriftReport
    from sentinel.scoring import Policy
    from sentinel.streaming import FileJob, FileProgress, FileReport, Watchers


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(
        epilog=options.examples(
            "sentinel replay my-release --trust trust.toml --events events.ndjson "
            "--feedback feedback.ndjson",
            "sentinel replay my-release --unapproved --events e.ndjson --decisions out.ndjson",
            "sentinel replay my-release --unapproved --events e.ndjson --from 2025-02-17",
            "sentinel replay my-release --unapproved --events e.ndjson --decisions out.ndjson "
            "--resume",
            "sentinel replay my-release --unapproved --events e.ndjson --store embedded:state "
            "--resume",
            "sentinel replay my-release --unapproved --events e.ndjson --store embedded:state "
            "--learn-only",
        ),
    )(replay)


def replay(  # noqa: PLR0913 -- one parameter a flag
    folder: options.ReleaseFolder,
    *,
    events: options.EventsPath,
    feedback: options.FeedbackPath = None,
    decisions: Annotated[
        Path | None,
        typer.Option("--decisions", help="Write decisions there, one JSON object a line."),
    ] = None,
    log: Annotated[
        Path | None,
        typer.Option("--log", help="Keep a decision log (Parquet) in this folder."),
    ] = None,
    quarantine: Annotated[
        Path | None,
        typer.Option("--quarantine", help="Folder for refused events; see quarantine_folder."),
    ] = None,
    first: Annotated[
        str,
        typer.Option(
            "--from",
            metavar="POSITION|TIME",
            help="First event to decide: a line number from 0, or an event time such as "
            "2025-02-17. Events before it are learned from, not decided.",
        ),
    ] = "0",
    force: Annotated[
        bool, typer.Option("--force", help="Replace the file of decisions when it exists.")
    ] = False,
    resume: Annotated[
        bool,
        typer.Option(
            "--resume",
            help="Continue an interrupted run; needs --decisions or a --store that is kept.",
        ),
    ] = False,
    store: options.Store = None,
    durability: options.DurabilityClass = None,
    learn_only: Annotated[
        bool,
        typer.Option(
            "--learn-only",
            help="Bring the --store up to --from, or to the end, and decide nothing.",
        ),
    ] = False,
    batch_events: Annotated[
        int | None, typer.Option("--batch-events", help="Events that are scored together.")
    ] = None,
    trust: options.TrustFile = None,
    unapproved: options.Unapproved = False,
    config_file: options.ConfigFile = None,
    as_json: options.AsJson = False,
) -> ExitCode:
    """Replay a file of events through a release, exactly as it would have decided live.

    Two runs give the same decisions, byte for byte. Ctrl-C ends it after the batch that it is in:
    what was written until then is good, and --resume continues there. At the end every event read
    is accounted for: decided, held, quarantined or deduplicated.
    """
    require_threads(limits.THREADS_FILES + threads_of_blas(), at="sentinel replay")
    from sentinel.contract.quarantine import next_segment

    configuration = config.load({"batch_events": batch_events, "store": store}, file=config_file)
    settings, chosen = configuration.value, config.store_of(configuration, durability)
    if resume and decisions is None and not chosen.is_kept:
        raise SentinelError(
            ErrorCode.USAGE_INVALID,
            at="--resume",
            expected="--decisions, the file that was being written, or a --store that is kept",
            got="neither",
        )
    if learn_only and (not chosen.is_kept or decisions is not None or log is not None):
        raise SentinelError(
            ErrorCode.USAGE_INVALID,
            at="--learn-only",
            expected="a --store that is kept, and neither --decisions nor --log",
            got="something to write decisions to" if chosen.is_kept else "no such store",
        )
    folders = (chosen.folder,) if chosen.kind == "embedded" else ()
    outputs = [each for each in (decisions, log, quarantine, *folders) if each is not None]
    refuse_overwriting(
        decisions, outputs, folder, inputs=(events, feedback), may_exist=force, resume=resume
    )
    is_appended = log is not None and not resume and log.is_dir() and any(log.iterdir())
    job = _job(events, feedback, decisions, first, settings.batch_events, resume)
    job = dataclasses.replace(job, is_learn_only=learn_only)
    plan = SessionPlan(
        folder=folder,
        trust=trust,
        allow_unapproved=unapproved,
        quarantine=quarantine or Path(settings.quarantine_folder),
        log=log,
        store=chosen,
    )
    output = Output(as_json=as_json)
    if is_appended:
        output.note(f"{log} holds a decision log already: this run's decisions are added to it.")
    is_kept_with_others = not resume and next_segment(plan.quarantine) > 0
    with open_session(plan, settings) as session, graceful() as stop:
        report = run_job(session, job, output, title=f"replaying {events.name}", stop=stop)
        found = troubles_of(report, session.loaded.parts.policy, is_learn_only=learn_only)
        status = status_of(session, found)
        output.document({**report_data(session, report), "troubles": found})
        output.show(*report_page(session, report), status_panel(status))
        is_kept_with_others &= session.quarantine.counts().kept > 0
    if is_kept_with_others:
        output.note(f"{plan.quarantine} held refused events already: those of this run are added.")
    for trouble in found:
        output.note(f"{events.name}: {trouble}.")
    for note in report.notes:
        output.note(f"{events.name}: {note}")
    if report.is_interrupted:
        how = (
            "the same command with --resume continues"
            if decisions or chosen.is_kept
            else "run it again"
        )
        output.note(f"Interrupted before line {report.next_position:,}; {how}.")
        return ExitCode.TERMINATED if stop.is_terminated else ExitCode.INTERRUPTED
    return ExitCode.OK if status.is_nominal else ExitCode.DEGRADED


def refuse_overwriting(
    decisions: Path | None,
    outputs: Sequence[Path],
    folder: Path,
    *,
    inputs: Sequence[Path | None],
    may_exist: bool,
    resume: bool,
) -> None:
    """Refuse to write over what this command did not make, or into the release.

    Raises
    ------
    SentinelError
        ``output-exists``, ``file-unwritable`` without the folder; nothing was changed.
    """
    release = folder.resolve()
    for output in outputs:
        if output.resolve().is_relative_to(release):
            raise _exists(output, "a place outside the release", "a path in the release's folder")
    if decisions is None:
        return
    require_folder_of(decisions)
    unfinished = decisions.with_name(decisions.name + ".partial")
    checkpoint = decisions.with_name(decisions.name + ".checkpoint.json")
    for written in (decisions, unfinished, checkpoint):
        if written.resolve().is_relative_to(release):
            raise _exists(written, "a place outside the release", "a path in the release's folder")
        if any(each is not None and _is_same(written, each) for each in inputs):
            raise _exists(decisions, "a file of its own", f"{written.name}, which is being read")
    is_there = decisions.is_file() or decisions.is_symlink()
    if not is_there or may_exist or (resume and checkpoint.is_file() and unfinished.is_file()):
        return
    raise _exists(
        decisions, "no such file yet", "a file", "Name another, or replace it with --force."
    )


def require_folder_of(path: Path) -> None:
    """Say before the work that a file has no folder to be written into.

    Raises
    ------
    SentinelError
        ``file-unwritable``.
    """
    if not path.parent.is_dir():
        raise SentinelError(
            ErrorCode.FILE_UNWRITABLE, at=str(path), expected="a folder that exists", got="none"
        )


def _is_same(one: Path, other: Path) -> bool:
    """Tell whether two paths are one file, by links of either kind too."""
    if one.exists() and other.exists():
        return one.samefile(other)
    return one.resolve() == other.resolve()


def _exists(
    at: Path, expected: str, got: str, hint: str = "Name another; nothing was changed."
) -> SentinelError:
    return SentinelError(ErrorCode.OUTPUT_EXISTS, at=str(at), expected=expected, got=got, hint=hint)


def troubles_of(report: FileReport, policy: Policy, *, is_learn_only: bool = False) -> list[str]:
    """Say what a run that ended well should not be taken for a good one because of."""
    counts = report.counts
    found = []
    n_refused = counts.quarantined + report.n_history_refused
    n_read = counts.read + report.n_history
    is_many = n_read >= policy.refused_events_min and (
        n_refused > policy.refused_share_max * n_read
    )
    if n_read and n_refused == n_read:
        found.append(f"all {n_read:,} events were refused")
    elif is_many:
        found.append(
            f"{n_refused:,} of {n_read:,} events were refused, more than the policy's share of "
            f"{policy.refused_share_max:g}"
        )
    if counts.feedback_read and counts.feedback_quarantined == counts.feedback_read:
        found.append(f"all {counts.feedback_read:,} feedback events were refused")
    if counts.held:
        found.append(f"{counts.held:,} decisions were held")
    is_over = not report.is_interrupted and not is_learn_only
    if report.n_history and not counts.read and is_over:
        found.append(
            f"nothing was decided: --from is beyond the end, after {report.n_history:,} events"
        )
    return found


def run_job(
    session: Session,
    job: FileJob,
    output: Output,
    *,
    title: str,
    stop: Stop,
    watchers: Watchers | None = None,
) -> FileReport:
    """Carry a file through a session, with a progress bar, until it ends or ``stop`` is set."""
    from dataclasses import replace

    from sentinel.streaming import FileWorker, Watchers

    n_bytes = job.events.stat().st_size if job.events.is_file() else 0
    with output.progress(title, total=n_bytes) as advance:
        shown = replace(watchers or Watchers(), on_progress=lambda done: _advance(advance, done))
        worker = FileWorker(session.scorer, job, valves=session.valves, watchers=shown, stop=stop)
        return worker.run()


def report_data(session: Session, report: FileReport) -> dict[str, object]:
    """Give what a run came to as plain data."""
    counts = report.counts
    drift = _latest_drift(session)
    return {
        "release": session.loaded.manifest.label,
        "standing": str(session.loaded.standing),
        "history": report.n_history,
        "read": counts.read,
        "decided": counts.decided,
        "held": counts.held,
        "quarantined": counts.quarantined,
        "deduplicated": counts.deduplicated,
        "late": counts.late,
        "feedback_read": counts.feedback_read,
        "feedback_quarantined": counts.feedback_quarantined,
        "feedback_refused": report.feedback_refused,
        "refused": report.refused,
        "outcomes": report.outcomes,
        "served_by": report.served_by,
        "reasons": report.reasons,
        "seconds": report.seconds,
        "events_per_s": report.events_per_s,
        "history_seconds": report.history_seconds,
        "p50_s": report.latency.quantile(0.5),
        "p99_s": report.latency.quantile(0.99),
        "stages": {stage.stage: stage.share for stage in session.scorer.timer.report()},
        "drift": None if drift is None else drift.prediction_score,
        "drift_alarms": [] if drift is None else [alarm.name for alarm in drift.alarms],
        "interrupted": report.is_interrupted,
        "next_position": report.next_position,
    }


def report_page(session: Session, report: FileReport) -> list[RenderableType]:
    """Show what a run came to."""
    counts = report.counts
    facts: dict[str, object] = {
        "release": f"{session.loaded.manifest.label}, {session.loaded.standing}",
    }
    if report.n_history:
        facts["history"] = f"{report.n_history:,} events learned from, not decided"
    facts |= {
        "read": counts.read,
        "decided": counts.decided,
        "held": counts.held,
        "quarantined": counts.quarantined,
        "deduplicated": counts.deduplicated,
        "feedback": f"{counts.feedback_read:,} read, {counts.feedback_quarantined:,} refused",
        "speed": speed_line(report),
        "latency": f"p50 {duration_ms(report.latency.quantile(0.5))}, "
        f"p99 {duration_ms(report.latency.quantile(0.99))} a batch",
        "stages": ", ".join(
            f"{stage.stage} {stage.share:.0%}" for stage in session.scorer.timer.report()
        ),
        "drift": drift_lines(_latest_drift(session)),
    }
    page = [pairs("Replay", facts), _decisions_table(report)]
    if report.refused:
        page.append(table("Refused", ["reason", "events"], list(report.refused.items())))
    if report.feedback_refused:
        rows = list(report.feedback_refused.items())
        page.append(table("Refused feedback", ["reason", "events"], rows))
    return page


def speed_line(report: FileReport) -> str:
    """Say how fast events were decided; where none was, how fast they were learned from."""
    if report.counts.read or not report.history_seconds:
        return f"{report.events_per_s:,.0f} events/s over {report.seconds:.1f} s"
    per_s = report.n_history / report.history_seconds
    return f"{per_s:,.0f} events/s over {report.history_seconds:.1f} s, learned from"


def _decisions_table(report: FileReport) -> RenderableType:
    total = max(sum(report.outcomes.values()), 1)
    rows: list[tuple[str, str, object, str]] = []
    for what, counted in (
        ("outcome", report.outcomes),
        ("served by", report.served_by),
        ("reason", report.reasons),
    ):
        rows += [(what, name, n, f"{n / total:.2%}") for name, n in counted.items()]
    return table("Decisions", ["", "", "events", "share"], rows)


def drift_lines(drift: DriftReport | None) -> str:
    """Say how far the last window was from the reference, then each alarm on a line of its own."""
    if drift is None:
        return "no window closed yet"
    alarms = [f"{alarm.name} ({alarm.verdict})" for alarm in drift.alarms]
    head = f"{drift.prediction_score:.3f} in the last window; alarms: {len(alarms) or 'none'}"
    return "\n".join([head, *alarms])


def _latest_drift(session: Session) -> DriftReport | None:
    return None if session.scorer.drift is None else session.scorer.drift.latest


def _job(
    events: Path,
    feedback: Path | None,
    decisions: Path | None,
    first: str,
    n_events_batch: int,
    resume: bool,
) -> FileJob:
    from sentinel.streaming import FileJob

    position, from_ms = first_decided(first)
    return FileJob(
        events=events,
        feedback=feedback,
        decisions=decisions,
        first_decided=position,
        first_decided_ms=from_ms,
        n_events_batch=n_events_batch,
        resume=resume,
    )


def first_decided(text: str) -> tuple[int, int | None]:
    """Read a line number, or an instant (UTC where it does not say).

    Raises
    ------
    SentinelError
        ``usage-invalid``.

    Examples
    --------
    >>> first_decided("1000"), first_decided("1970-01-02")
    ((1000, None), (0, 86400000))
    """
    if text.isascii() and text.isdecimal() and len(text) <= 15:
        return int(text), None
    try:
        moment = dt.datetime.fromisoformat(text)
        if moment.tzinfo is None:
            moment = moment.replace(tzinfo=dt.UTC)
        return 0, round(moment.timestamp() * 1000)
    except (ValueError, OverflowError) as error:
        raise SentinelError(
            ErrorCode.USAGE_INVALID,
            at="--from",
            expected="a line number, or a time such as 2025-02-17 or 2025-02-17T12:00:00Z",
            got=text,
        ) from error


class Stop(threading.Event):
    """Set when the work is to end after its batch."""

    is_terminated: bool = False


@contextmanager
def graceful() -> Iterator[Stop]:
    """Let the first Ctrl-C or SIGTERM end the work after its batch, and the second one at once."""
    stop = Stop()

    def on_signal(signal_number: int, frame: FrameType | None) -> None:
        is_terminated = signal_number == signal.SIGTERM
        if stop.is_set():
            raise TerminatedError if is_terminated else KeyboardInterrupt
        stop.is_terminated = is_terminated
        stop.set()

    before = {each: signal.signal(each, on_signal) for each in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)


def _advance(advance: Advance, done: FileProgress) -> None:
    note = f"{done.counts.read + done.n_history:,} events"
    advance(done.n_bytes_read, note)


def shown_share(part: int, whole: int) -> str:
    """Show a share of a count.

    Examples
    --------
    >>> shown_share(1, 4), shown_share(0, 0)
    ('25.0 %', '–')
    """
    return f"{number(100 * part / whole, digits=1)} %" if whole else "–"
