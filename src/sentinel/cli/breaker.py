"""``sentinel breaker``: whether the champion of a running server may answer, and who decided it."""

from __future__ import annotations

from typing import Annotated

import typer

from sentinel.cli import options, remote
from sentinel.cli.exits import ExitCode
from sentinel.cli.output import Output, pairs
from sentinel.cli.remote import Remote
from sentinel.cli.serving import operations_table

group = typer.Typer(
    no_args_is_help=True, help="Look at the breaker of a running server, act on it."
)


def register(app: typer.Typer) -> None:
    """Add the group."""
    app.add_typer(group, name="breaker")


@group.command(epilog=options.examples('sentinel breaker trip --because "scores look wrong"'))
def trip(
    *,
    because: Annotated[str, typer.Option("--because", help="Why; it is kept and logged.")],
    url: remote.Url = remote.URL,
    token_file: remote.TokenFile = None,
    by: remote.By = None,
    as_json: options.AsJson = False,
) -> ExitCode:
    """Shut the champion off now; the fallback answers until somebody resets the breaker.

    Nothing of this is kept when the server ends: a new process asks the canary, and nobody else.
    """
    found = Remote(url, token_file).act("breaker/trip", by=by, because=because)
    return _done(found, Output(as_json=as_json))


def _done(found: dict[str, object], output: Output) -> ExitCode:
    """Show how it is after what was asked for was done."""
    _show(found, output)
    return ExitCode.OK


def _show(found: dict[str, object], output: Output) -> ExitCode:
    output.document(found)
    names = ("release", "state", "meaning", "cause", "canary", "canary_failures")
    rows = {name.replace("_", " "): found[name] for name in names if found[name] != ""}
    output.show(pairs("Breaker", rows), operations_table(found["operations"]))
    return ExitCode.OK if found["state"] == "closed" else ExitCode.DEGRADED


group.command(
    "show",
    help="Show the state in words, its cause, the canary, and what people did.\n\n"
    "Exit code 7 while the champion does not answer.",
    epilog=options.examples("sentinel breaker show", "sentinel breaker show --json"),
)(remote.reading("breaker", _show))
group.command(
    "reset",
    help="Let a champion that was shut off be probed again; it answers when its canary is right."
    "\n\nOnly a latched breaker can be reset, and only by a person, whose name is kept. An open "
    "one closes by itself.",
    epilog=options.examples('sentinel breaker reset --because "the input is repaired"'),
)(remote.acting("breaker/reset", _done))
