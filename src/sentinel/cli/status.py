"""``sentinel status``: one look at a release on this machine."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from sentinel.cli import config, options
from sentinel.cli.exits import ExitCode
from sentinel.cli.output import Output, panel
from sentinel.cli.session import Session, SessionPlan, open_session

if TYPE_CHECKING:
    from rich.console import RenderableType

    from sentinel.monitoring import Status, Trouble


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(
        epilog=options.examples(
            "sentinel status my-release --trust trust.toml",
            "sentinel status my-release --unapproved --json",
        ),
    )(status)


def status(
    folder: options.ReleaseFolder,
    *,
    trust: options.TrustFile = None,
    unapproved: options.Unapproved = False,
    as_json: options.AsJson = False,
) -> ExitCode:
    """Verify a release, let it answer its canary here and now, and say how things are.

    Exit code 0 when nothing is wrong, 7 when something is.
    """
    with tempfile.TemporaryDirectory(prefix="sentinel-status-") as scratch:
        plan = SessionPlan(
            folder=folder,
            trust=trust,
            allow_unapproved=unapproved,
            quarantine=Path(scratch),
        )
        with open_session(plan, config.load().value) as session:
            session.scorer.check_canary()
            found = status_of(session)
            canary = str(session.scorer.status().canary.report)
    output = Output(as_json=as_json)
    output.document({**found.to_data(), "canary": canary})
    output.show(status_panel(found))
    return ExitCode.OK if found.is_nominal else ExitCode.DEGRADED


def status_of(session: Session, found: Iterable[str] = ()) -> Status:
    """Put the status block of a session together, with what its work has ``found`` to be wrong."""
    from sentinel.hardware import probe_accelerators
    from sentinel.monitoring import Trouble, build_status
    from sentinel.release import Standing

    scorer = session.scorer.status()
    release = session.loaded.manifest.label
    if session.loaded.standing is not Standing.APPROVED:
        release = f"{release}, {session.loaded.standing}"
    return build_status(
        release=release,
        p99_s=session.metrics.quantile("inference_latency_seconds", 0.99),
        drift_score=scorer.drift_score,
        troubles=[*_troubles(session), *map(Trouble, found)],
        accelerators=probe_accelerators(),
    )


def status_panel(found: Status) -> RenderableType:
    """Show the block, green when all is well; a long line goes on below its own beginning."""
    from rich.table import Table
    from rich.text import Text

    lines: list[RenderableType] = []
    for before, value in found.rows():
        hanging = Table.grid()
        hanging.add_column(no_wrap=True)
        hanging.add_column(overflow="fold")
        hanging.add_row(Text(before), Text(value))
        lines.append(hanging)
    style = "green" if found.is_nominal else "yellow"
    return panel("Status", *lines, style=style)


def _troubles(session: Session) -> list[Trouble]:
    from sentinel.monitoring import Severity, Trouble
    from sentinel.release import Standing

    scorer = session.scorer.status()
    troubles = []
    if session.loaded.standing is Standing.UNAPPROVED:
        troubles.append(Trouble(f"the release is {session.loaded.standing}", Severity.DEGRADED))
    troubles += [Trouble(cause) for cause in scorer.causes]
    if session.scorer.drift is not None and session.scorer.drift.latest is not None:
        alarms = session.scorer.drift.latest.alarms
        troubles += [
            Trouble(f"drift of {alarm.name} ({alarm.verdict}): {alarm.detail}") for alarm in alarms
        ]
    if session.log is not None and session.log.counts().last_error:
        troubles.append(Trouble(f"decision log: {session.log.counts().last_error}"))
    return troubles
