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
        "sentinel serving status",
        "sentinel serving status --url http://127.0.0.1:8082 --token-file operator.token --json",
    )
)
def status(
    url: remote.Url = remote.URL,
    token_file: remote.TokenFile = None,
    as_json: options.AsJson = False,
) -> ExitCode:
    """Show what is in service, kept for the way back and staged, and who did what.

    Exit code 7 when a release was taken back.
    """
    return _show(Remote(url, token_file).read("releases"), as_json=as_json)


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
    code = _show(found, as_json=as_json)
    return code if found["place"] == "staged" else ExitCode.RELEASE


@group.command(
    epilog=options.examples(
        'sentinel serving switch --because "approved on Monday"',
    )
)
def switch(
    *,
    because: remote.Because = "",
    url: remote.Url = remote.URL,
    token_file: remote.TokenFile = None,
    by: remote.By = None,
    as_json: options.AsJson = False,
) -> ExitCode:
    """Let the staged release take over, between two batches; the other one is kept.

    For ten minutes a wrong canary gives the service back to the kept one, once, by itself.
    """
    found = Remote(url, token_file).act("releases/switch", by=by, because=because)
    return _show(found, as_json=as_json)


@group.command(epilog=options.examples('sentinel serving rollback --because "too many declines"'))
def rollback(
    *,
    because: remote.Because = "",
    url: remote.Url = remote.URL,
    token_file: remote.TokenFile = None,
    by: remote.By = None,
    as_json: options.AsJson = False,
) -> ExitCode:
    """Let the kept release take over again; it was never unloaded."""
    found = Remote(url, token_file).act("releases/rollback", by=by, because=because)
    return _show(found, as_json=as_json)


@group.command(epilog=options.examples("sentinel serving drop"))
def drop(
    *,
    because: remote.Because = "",
    url: remote.Url = remote.URL,
    token_file: remote.TokenFile = None,
    by: remote.By = None,
    as_json: options.AsJson = False,
) -> ExitCode:
    """Forget the staged release."""
    found = Remote(url, token_file).act("releases/drop", by=by, because=because)
    return _show(found, as_json=as_json)


@shadow_group.command(
    epilog=options.examples('sentinel serving shadow start --because "before the switch"')
)
def start(
    *,
    because: remote.Because = "",
    url: remote.Url = remote.URL,
    token_file: remote.TokenFile = None,
    by: remote.By = None,
    as_json: options.AsJson = False,
) -> ExitCode:
    """Let the staged release score live rows, beside the one in service; it answers nobody."""
    found = Remote(url, token_file).act("shadow/start", by=by, because=because)
    return show_report(found, Output(as_json=as_json))


@shadow_group.command(epilog=options.examples("sentinel serving shadow stop"))
def stop(
    *,
    because: remote.Because = "",
    url: remote.Url = remote.URL,
    token_file: remote.TokenFile = None,
    by: remote.By = None,
    as_json: options.AsJson = False,
) -> ExitCode:
    """Let it score no more; the report stays until another challenger begins."""
    found = Remote(url, token_file).act("shadow/stop", by=by, because=because)
    return show_report(found, Output(as_json=as_json))


@shadow_group.command(
    epilog=options.examples(
        "sentinel serving shadow report",
        "sentinel serving shadow report --json",
    )
)
def report(
    url: remote.Url = remote.URL,
    token_file: remote.TokenFile = None,
    as_json: options.AsJson = False,
) -> ExitCode:
    """Compare the challenger with the release in service on the rows that both have scored.

    Intervals are of 95 % and take rows as independent. Exit code 7 when rows were skipped, or
    failed.
    """
    found = Remote(url, token_file).read("shadow")
    return show_report(found, Output(as_json=as_json))


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


def _show(found: dict[str, object], *, as_json: bool) -> ExitCode:
    output = Output(as_json=as_json)
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
