"""``sentinel features parity``: served feature values against a replay of the same events."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sentinel.cli import options
from sentinel.cli.exits import ExitCode
from sentinel.cli.features import group
from sentinel.cli.features_replay import EventFiles, FeedbackFiles, in_one
from sentinel.cli.output import Output, number, pairs, table
from sentinel.cli.records import check_log
from sentinel.cli.release import load
from sentinel.cli.replay import graceful
from sentinel.core import limits
from sentinel.core.errors import ErrorCode, SentinelError

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from sentinel.contract import RawBatch
    from sentinel.features import Engine, FeaturePlan, FeatureSet
    from sentinel.features.parity import FeatureDifference
    from sentinel.monitoring.feature_parity import LogParity, ParityReport
    from sentinel.monitoring.metrics import Metrics

    Int64Array = npt.NDArray[np.int64]

# How often a follower looks for new segments of the log, and writes its metrics.
_POLL_S = 0.5
# Batches that a reading thread may be ahead.
_BATCHES_AHEAD = 4
_BATCH_EVENTS = 4_096


def register(app: typer.Typer) -> None:
    """Add the command to the group that stands already."""
    del app
    group.command(
        epilog=options.examples(
            "sentinel features parity --release my-release --log log --events e.ndjson",
            "sentinel features parity --release my-release --log log --events e.ndjson "
            "--feedback f.ndjson --follow --metrics /var/lib/node-exporter/parity.prom",
        ),
    )(parity)


def parity(  # noqa: PLR0913 -- one parameter a flag
    *,
    release: Annotated[
        Path, typer.Option("--release", help="The release that served; its features are replayed.")
    ],
    log: Annotated[Path, typer.Option("--log", help="Folder of the decision log.")],
    events: EventFiles,
    feedback: FeedbackFiles = None,
    state: Annotated[
        Path | None,
        typer.Option(
            "--state", help="Begin with this copy of a state folder, at the event it stands at."
        ),
    ] = None,
    any_release: Annotated[
        bool,
        typer.Option(
            "--any-release", help="Compare decisions of other releases too, by feature name."
        ),
    ] = False,
    follow: Annotated[
        bool, typer.Option("--follow", help="Go on with what is added, until Ctrl-C or SIGTERM.")
    ] = False,
    metrics_file: Annotated[
        Path | None,
        typer.Option("--metrics", help="Keep metrics in this file, for Prometheus."),
    ] = None,
    trust: options.TrustFile = None,
    unapproved: options.Unapproved = False,
    as_json: options.AsJson = False,
) -> ExitCode:
    """Replay events through the engine and hold every served feature value against it.

    Values and their status must be equal to the last bit, and every decision's event must be there.
    The events begin where the state of the server began, or where --state stands. Exit code 6 for
    any difference.
    """
    from sentinel.features import Engine
    from sentinel.monitoring.feature_parity import LogParity
    from sentinel.monitoring.metrics import Metrics

    check_log(log)
    if follow and len(events) + len(feedback or []) > 1 + bool(feedback):
        raise SentinelError(
            ErrorCode.USAGE_INVALID,
            at="--follow",
            expected="one file of events, and one of feedback at most",
            got=f"{len(events)} and {len(feedback or [])}",
        )
    loaded = load(release, trust, allow_unapproved=unapproved)
    plan = loaded.parts.plan
    engine, first = (Engine(plan), 0) if state is None else _restored(plan, state)
    metrics = Metrics()
    found = LogParity(
        log,
        plan.names,
        release_digest=None if any_release else loaded.digest,
        metrics=metrics,
        n_waiting_max=limits.PARITY_WAITING_MAX if follow else 0,
    )
    output = Output(as_json=as_json)
    if follow:
        report = _follow(found, engine, events[0], feedback, first, metrics, metrics_file)
    else:
        report = _once(found, engine, events, feedback, first, output)
    _write_metrics(metrics, metrics_file)
    show(report, output)
    return ExitCode.OK if report.holds else ExitCode.GATE


def _restored(plan: FeaturePlan, folder: Path) -> tuple[Engine, int]:
    """Read state from a copy of a store's folder; it is left as it is."""
    import shutil
    import tempfile

    from sentinel.core.disk import SystemDisk
    from sentinel.features import Engine
    from sentinel.features.stores.embedded import EmbeddedStore
    from sentinel.features.stores.embedded.inspection import require_state

    require_state(folder, SystemDisk())
    with tempfile.TemporaryDirectory(prefix="sentinel-parity-") as own:
        copy = Path(own) / "state"
        shutil.copytree(folder, copy)
        store = EmbeddedStore(plan, copy)
        engine = Engine(plan)
        engine.restore(*store.capture())
        first = max(store.positions().values(), default=0)
        store.close(with_snapshot=False)
    return engine, first


def _once(
    found: LogParity,
    engine: Engine,
    events: list[Path],
    feedback: list[Path] | None,
    first: int,
    output: Output,
) -> ParityReport:
    """Compare two logs that are whole."""
    from sentinel.data import EventFile
    from sentinel.data.event_file import refuse_empty
    from sentinel.monitoring.feature_parity import check_parity

    for path in events:
        refuse_empty(path)
    files = [EventFile(path) for path in events]
    n_bytes = sum(path.stat().st_size for path in events if path.is_file())
    with output.progress("replaying", total=n_bytes) as advance:

        def on_batch() -> None:
            advance(sum(file.progress.n_bytes_read for file in files))

        return check_parity(
            found,
            engine,
            in_one(files, first_position=first),
            in_one([EventFile(path) for path in feedback or []]),
            on_batch=on_batch,
        )


def _follow(
    found: LogParity,
    engine: Engine,
    events: Path,
    feedback: list[Path] | None,
    first: int,
    metrics: Metrics,
    metrics_file: Path | None,
) -> ParityReport:
    """Compare as both logs grow.

    A batch is replayed when its decisions are in the log, for by then the server had learned what
    feedback it learned; or when they did not come in ``PARITY_LAG_S``.
    """
    from sentinel.contract.decoder import Decoder
    from sentinel.monitoring.feature_parity import decoded_events

    features = engine.plan.features
    decoder = Decoder(features.events)
    with graceful() as stop:
        tail = _Tail(events, first, stop)
        known = _Tail(feedback[0], 0, stop) if feedback and features.feedback else None
        for raw in tail.batches():
            batch = decoder.decode(raw).events
            ids = batch.column(features.events.event_id.name)
            _await_decisions(found, ids, stop)
            if known is not None and features.feedback is not None:
                for verdicts in decoded_events(features.feedback, known.there(engine)):
                    engine.learn(verdicts)
            found.take(ids, engine.advance(batch))
            _write_metrics(metrics, metrics_file)
        found.read_log()
        tail.end()
        if known is not None:
            known.end()
    return found.report()


def _await_decisions(found: LogParity, ids: Int64Array, stop: threading.Event) -> None:
    """Wait until the log has the last of some events."""
    until = time.monotonic() + limits.PARITY_LAG_S
    found.read_log()
    while len(ids) and not found.has(int(ids[-1])) and not stop.is_set():
        if time.monotonic() > until:
            return
        stop.wait(_POLL_S)
        found.read_log()


class _Tail:
    """A file that grows, read by a thread of its own; what is there can be had without waiting."""

    def __init__(self, path: Path, first: int, stop: threading.Event) -> None:
        self._queue: queue.Queue[RawBatch | BaseException | None] = queue.Queue(_BATCHES_AHEAD)
        self._stop = stop
        self._path = path
        self._first = first
        self._thread = threading.Thread(target=self._read, name=f"reads {path.name}", daemon=True)
        self._thread.start()

    def batches(self) -> Iterator[RawBatch]:
        """Yield batches as they come, until it is stopped."""
        while True:
            try:
                found = self._queue.get(timeout=_POLL_S)
            except queue.Empty:
                if self._stop.is_set() and not self._thread.is_alive():
                    return
                continue
            if found is None:
                return
            if isinstance(found, BaseException):
                raise found
            yield found

    def there(self, engine: Engine) -> Iterator[RawBatch]:
        """Yield what has come until now, as much of it as the engine may let wait."""
        while 2 * engine.n_feedback_pending < limits.FEEDBACK_PENDING_MAX:
            try:
                found = self._queue.get_nowait()
            except queue.Empty:
                return
            if found is None:
                return
            if isinstance(found, BaseException):
                raise found
            yield found

    def end(self) -> None:
        """Wait for the thread, which the stop has told to end."""
        while self._thread.is_alive():
            try:
                self._queue.get(timeout=0.05)
            except queue.Empty:
                continue

    def _read(self) -> None:
        from sentinel.data import EventFile

        try:
            batches = EventFile(self._path).batches(
                _BATCH_EVENTS, first_position=self._first, follow=True, stop=self._stop
            )
            for batch in batches:
                self._queue.put(batch)
        except SentinelError as error:
            self._queue.put(error)
        self._queue.put(None)


def served_parity(
    features: FeatureSet, log: Path | None, events: list[Path], feedback: list[Path], output: Output
) -> ParityReport:
    """Replay the events of a decision log through a feature set that may be a new one.

    Raises
    ------
    SentinelError
        ``usage-invalid`` for a log without events, or events without a log.
    """
    from sentinel.features import Engine, compile_plan
    from sentinel.monitoring.feature_parity import LogParity

    if log is None or not events:
        raise SentinelError(
            ErrorCode.USAGE_INVALID,
            at="--parity-log, --parity-events",
            expected="both",
            got="one of them",
        )
    check_log(log)
    found = LogParity(log, features.names)
    return _once(found, Engine(compile_plan(features)), events, feedback, 0, output)


def _write_metrics(metrics: Metrics, path: Path | None) -> None:
    from sentinel.core.files import write_atomically

    if path is not None:
        text, _ = metrics.exposition()
        write_atomically(path, text)


def show(report: ParityReport, output: Output) -> None:
    """Show a report."""
    output.document(report_data(report))
    output.show(
        pairs(
            "Feature parity holds" if report.holds else "Feature parity does not hold",
            {
                "decisions compared": number(report.n_compared),
                "of them different": number(report.n_different),
                "decisions without their event": number(report.n_not_replayed),
                "events without a decision": number(report.n_not_logged),
                "decisions of other releases": number(report.n_of_other_releases),
            },
        ),
        table(
            "",
            ["feature", "compared", "different", "first at event", "served", "computed"],
            [
                (each.feature, each.n_compared, each.n_different, *_first(each.first))
                for each in sorted(report.features, key=lambda each: -each.n_different)
            ],
        ),
    )
    if report.first_not_replayed:
        output.note(f"The first decision without its event is of {report.first_not_replayed}.")
    if not report.n_compared:
        output.note("Nothing was compared: is this the log of that release, with these events?")


def _first(first: FeatureDifference | None) -> tuple[str, str, str]:
    if first is None:
        return "", "", ""
    return (
        first.event_id,
        f"{first.served!r} {first.served_status}",
        f"{first.computed!r} {first.computed_status}",
    )


def report_data(report: ParityReport) -> dict[str, object]:
    """Give a report as data."""
    import dataclasses

    return {"holds": report.holds, **dataclasses.asdict(report)}
