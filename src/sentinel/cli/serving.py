"""``sentinel serving``: releases of a running server that come, go, and are compared."""

from __future__ import annotations

import datetime as dt
import time
from typing import TYPE_CHECKING, Annotated

import typer

from sentinel.cli import options, remote
from sentinel.cli.exits import ExitCode
from sentinel.cli.output import Output, pairs, table
from sentinel.cli.remote import Remote
from sentinel.cli.shadow_page import show_report

if TYPE_CHECKING:
    from rich.console import RenderableType

group = typer.Typer(
    no_args_is_help=True, help="Stage, switch and roll back releases of a running server."
)

shadow_group = typer.Typer(
    no_args_is_help=True, help="Score live rows with a staged release that answers nobody."
)
group.add_typer(shadow_group, name="shadow")

_POLL_S = 0.1
_STAGE_S_MAX = 600.0

Release = Annotated[
    str,
    typer.Argument(
        metavar="RELEASE", help="Its place in the server's --releases: 1.3.0, payments/1.3.0."
    ),
]


def register(app: typer.Typer) -> None:
    """Add the group."""
    app.add_typer(group, name="serving")


@group.command(
    epilog=options.examples(
        'sentinel serving stage 1.3.0 --because "weekly training"',
    )
)
def stage(
    release: Release,
    *,
    because: remote.Because = "",
    url: remote.Url = remote.URL,
    token_file: remote.TokenFile = None,
    by: remote.By = None,
    as_json: options.AsJson = False,
) -> ExitCode:
    """Verify, load and warm a release beside the one in service, and ask its canary.

    Nothing of it answers anybody until `sentinel serving switch`. Exit code 5 when it cannot take
    over.
    """
    server = Remote(url, token_file)
    found = server.act("releases/stage", by=by, release=release, because=because)
    end_s = time.monotonic() + _STAGE_S_MAX
    while found["place"] == "staging" and time.monotonic() < end_s:
        time.sleep(_POLL_S)
        found = server.read("releases")
    code = _show(found, Output(as_json=as_json))
    return code if found["place"] == "staged" else ExitCode.RELEASE


def operations_table(found: object) -> RenderableType:
    """Show who did what, the latest last."""
    rows = [
        (
            dt.datetime.fromtimestamp(each["at_ms"] / 1000, dt.UTC).strftime("%Y-%m-%d %H:%M:%SZ"),
            each["who"],
            each["what"],
            each["release"],
            each["result"],
        )
        for each in (found if isinstance(found, list) else [])
    ]
    return table("Operations", ["when", "who", "what", "release", "result"], rows)


def _show(found: dict[str, object], output: Output) -> ExitCode:
    output.document(found)
    rows: dict[str, object] = {
        name.replace("_", " "): _words(found[name]) for name in ("in_service", "kept", "staged")
    }
    for name in ("staging", "fault", "taken_back"):
        if found[name]:
            rows[name.replace("_", " ")] = found[name]
    output.show(pairs("Releases", rows), operations_table(found["operations"]))
    return ExitCode.DEGRADED if found["taken_back"] else ExitCode.OK


def _words(release: object) -> str:
    if not isinstance(release, dict):
        return "–"
    words = f"{release['release']}, {release['standing']}, breaker {release['breaker']}"
    left_s = release.get("watched_for_s", 0)
    return f"{words}, watched for {left_s:.0f} s more" if left_s else words


group.command(
    "status",
    help="Show what is in service, kept for the way back and staged, and who did what.\n\n"
    "Exit code 7 when a release was taken back.",
    epilog=options.examples(
        "sentinel serving status",
        "sentinel serving status --url http://127.0.0.1:8082 --token-file operator.token --json",
    ),
)(remote.reading("releases", _show))
group.command(
    "switch",
    help="Let the staged release take over, between two batches; the other one is kept.\n\n"
    "For ten minutes a wrong canary gives the service back to the kept one, once, by itself.",
    epilog=options.examples('sentinel serving switch --because "approved on Monday"'),
)(remote.acting("releases/switch", _show))
group.command(
    "rollback",
    help="Let the kept release take over again; it was never unloaded.",
    epilog=options.examples('sentinel serving rollback --because "too many declines"'),
)(remote.acting("releases/rollback", _show))
group.command(
    "drop",
    help="Forget the staged release.",
    epilog=options.examples("sentinel serving drop"),
)(remote.acting("releases/drop", _show))
shadow_group.command(
    "start",
    help="Let the staged release score live rows, beside the one in service; it answers nobody.",
    epilog=options.examples('sentinel serving shadow start --because "before the switch"'),
)(remote.acting("shadow/start", show_report))
shadow_group.command(
    "stop",
    help="Let it score no more; the report stays until another challenger begins.",
    epilog=options.examples("sentinel serving shadow stop"),
)(remote.acting("shadow/stop", show_report))
shadow_group.command(
    "report",
    help="Compare the challenger with the release in service on the rows that both have scored."
    "\n\nIntervals are of 95 % and take rows as independent. Exit code 7 when rows were skipped, "
    "or failed.",
    epilog=options.examples(
        "sentinel serving shadow report",
        "sentinel serving shadow report --json",
    ),
)(remote.reading("shadow", show_report))
