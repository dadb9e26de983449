"""The command ``sentinel``: its commands, by the group they belong to."""

from __future__ import annotations

import sys
from typing import Annotated

try:
    import typer

    import sentinel
    from sentinel.cli import (
        breaker,
        config,
        contract,
        data,
        demo,
        explain,
        features,
        features_parity,
        features_replay,
        file_log,
        init,
        options,
        profiling,
        records,
        release,
        replay,
        serve,
        serving,
        simulate,
        status,
        store,
        stream,
        train,
    )
    from sentinel.cli.boundary import run_command
    from sentinel.cli.exits import ExitCode
    from sentinel.cli.output import write_line
except KeyboardInterrupt:
    # ExitCode.INTERRUPTED, which is not there yet.
    sys.exit(130)

app = typer.Typer(
    name="sentinel",
    help="From an event stream to a decision people can trust.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    epilog=options.examples(
        "sentinel demo                        the whole way, with an example",
        "sentinel init my-project             a small working project of your own",
        "sentinel replay RELEASE --help       what one command takes",
    ),
)


def _print_version(wanted: bool) -> None:
    if wanted:
        write_line(f"sentinel {sentinel.__version__}")
        raise typer.Exit(ExitCode.OK)


@app.callback()
def root(
    version: Annotated[
        bool,
        typer.Option(
            "--version", help="Print the version.", callback=_print_version, is_eager=True
        ),
    ] = False,
) -> None:
    """From an event stream to a decision people can trust."""


for command in (
    demo,
    simulate,
    data,
    contract,
    train,
    release,
    replay,
    serve,
    serving,
    breaker,
    profiling,
    status,
    store,
    features,
    features_parity,
    features_replay,
    stream,
    file_log,
    records,
    explain,
    config,
    init,
):
    command.register(app)


options.reflow(app)
options.leave_files_to_commands(app)


def main() -> None:
    """Run the command line of this process and exit with its code."""
    sys.exit(run_command(app, sys.argv[1:]))
