"""``sentinel init``: a small working project of the user's own."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import sys
from importlib import resources
from pathlib import Path
from string import Template
from typing import Annotated

import typer

from sentinel.cli import options
from sentinel.cli.contract import load_schema
from sentinel.cli.output import Output, pairs, write_line
from sentinel.core.errors import ErrorCode, SentinelError
from sentinel.core.files import write_atomically

# Where each file of the project comes from. Names with a leading dot are written here only: they
# would be left out of a built package; and Python with blanks to fill in is no Python yet.
PROJECT_FILES = {
    "README.md": "README.md",
    "Makefile": "Makefile",
    "pipeline.py": "pipeline.py.txt",
    "sentinel.toml": "sentinel.toml",
    "tests/test_pipeline.py": "test_pipeline.py.txt",
    ".github/workflows/check.yml": "check.yml",
    ".gitignore": "gitignore",
}
# Made from the pipeline: the contract as it was last reviewed.
CONTRACT_FILE = "contract.json"
_NAME = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")
_NAME_CHARACTERS_MAX = 40


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(
        epilog=options.examples(
            "sentinel init card-watch",
            "cd card-watch && make check       simulate, train, build, verify, replay",
        ),
    )(init)


def init(
    name: Annotated[
        str,
        typer.Argument(metavar="NAME", help="Name of the project: card-watch."),
    ],
    folder: Annotated[
        Path, typer.Option("--in", help="Folder to make the project folder in.")
    ] = Path(),
    as_json: options.AsJson = False,
) -> None:
    """Write a small working project: pipeline, configuration, tests, workflow.

    Nothing that exists is overwritten.
    """
    output = Output(as_json=as_json)
    project = folder / check_name(name)
    if not folder.is_dir():
        raise SentinelError(
            ErrorCode.USAGE_INVALID,
            at="--in",
            expected="a folder that exists",
            got=str(folder),
        )
    written = write_project(project, name)
    following = next_command(project)
    output.document({"project": str(project), "files": written, "next": following})
    output.show(
        pairs(f"{project}/", dict.fromkeys(written, "")),
        "Next:",
    )
    # Not folded: this is to be copied.
    if not as_json:
        write_line(f"  {following}")


def check_name(name: str) -> str:
    """Refuse a name that would not do as a folder and as the name of a pipeline.

    Raises
    ------
    SentinelError
        ``usage-invalid``.

    Examples
    --------
    >>> check_name("card-watch")
    'card-watch'
    """
    if len(name) > _NAME_CHARACTERS_MAX or not _NAME.fullmatch(name):
        raise SentinelError(
            ErrorCode.USAGE_INVALID,
            at="NAME",
            expected="lower-case letters, digits and single hyphens, at most 40, a letter first",
            got=name,
        )
    return name


def next_command(project: Path) -> str:
    """Say what to run next, with the Python that runs this where ``python3`` is another."""
    found = shutil.which("python3")
    is_found = found is not None and Path(found).parent == Path(sys.executable).parent
    python = "" if is_found else f" PYTHON={shlex.quote(sys.executable)}"
    return f"cd {shlex.quote(str(project))} && make check{python}"


def write_project(project: Path, name: str) -> list[str]:
    """Write every file of the project into a folder that is new or empty.

    Raises
    ------
    SentinelError
        ``output-exists`` when anything stands there; ``file-unwritable``.
    """
    if project.is_symlink() or (project.exists() and not _is_empty_folder(project)):
        raise SentinelError(
            ErrorCode.OUTPUT_EXISTS,
            at=str(project),
            expected="a new or empty folder",
            got="something that stands there already",
            hint="Choose another name; nothing was changed.",
        )
    templates = resources.files("sentinel.cli").joinpath("templates")
    for target, source in PROJECT_FILES.items():
        text = templates.joinpath(source).read_text(encoding="utf-8")
        path = project / target
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, Template(text).substitute(name=name).encode())
    schema = load_schema(project / "pipeline.py", feedback=False)
    write_atomically(project / CONTRACT_FILE, json.dumps(schema.to_data()).encode() + b"\n")
    return [*PROJECT_FILES, CONTRACT_FILE]


def _is_empty_folder(path: Path) -> bool:
    return path.is_dir() and not any(path.iterdir())
