"""Options that several commands share, and the form of their help."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Literal

import typer
from typer.models import CommandInfo, ParameterInfo

AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document, nothing else.")]
EventsPath = Annotated[Path, typer.Option("--events", help="Events, one JSON object a line.")]
FeedbackPath = Annotated[
    Path | None,
    typer.Option("--feedback", help="Feedback (late labels), one JSON object a line."),
]
ReleaseFolder = Annotated[Path, typer.Argument(help="Folder of the release.", metavar="RELEASE")]
Unapproved = Annotated[
    bool,
    typer.Option(
        "--unapproved",
        help="Serve a release that lacks an approval; every page and metric then says so.",
    ),
]
TrustFile = Annotated[
    Path | None,
    typer.Option("--trust", help="Trust file: whose approvals count. See docs/release.md."),
]
Store = Annotated[
    str | None,
    typer.Option(
        "--store",
        metavar="STORE",
        help="Where feature state is: memory, embedded:FOLDER, redis://HOST:PORT, "
        "redis+cluster://HOST:PORT,…, or @FILE, which holds one of these; the setting store.",
    ),
]
DurabilityClass = Annotated[
    Literal["process", "power"] | None,
    typer.Option(
        "--durability",
        help="What an embedded store survives: process, a killed process (as without this flag); "
        "power, a power cut as well.",
    ),
]
Force = Annotated[
    bool, typer.Option("--force", help="Replace event files that stand there already.")
]
ConfigFile = Annotated[
    Path | None,
    typer.Option("--config", help="Settings to use instead of ./sentinel.toml."),
]


def reflow(app: typer.Typer) -> None:
    """Let help pages break the lines of a paragraph where the terminal ends, and only there."""
    for command in _commands(app):
        if not command.help:
            paragraphs = (inspect.getdoc(command.callback) or "").split("\n\n")
            command.help = "\n\n".join(" ".join(each.split()) for each in paragraphs)


def leave_files_to_commands(app: typer.Typer) -> None:
    """Let every command itself meet a file that it may not read.

    With typer's own look at it the command line were wrong, which it is not.
    """
    for command in _commands(app):
        if command.callback is None:
            continue
        evaluated = inspect.get_annotations(command.callback, eval_str=True)
        for annotation in evaluated.values():
            for parameter in getattr(annotation, "__metadata__", ()):
                if isinstance(parameter, ParameterInfo):
                    parameter.readable = False
        # What was written as text is evaluated only once: typer is to see these very objects.
        command.callback.__annotations__ = evaluated


def _commands(app: typer.Typer) -> Iterator[CommandInfo]:
    """Give every command, those of groups too."""
    yield from app.registered_commands
    for group in app.registered_groups:
        if group.typer_instance is not None:
            yield from _commands(group.typer_instance)


def examples(*lines: str) -> str:
    r"""Make the closing lines of a help page; brackets are text, not markup.

    Examples
    --------
    >>> examples("sentinel status my-release")
    'Examples:\n\n  sentinel status my-release'
    """
    return "\n".join(["Examples:", "", *(f"  {line}" for line in lines)]).replace("[", r"\[")
