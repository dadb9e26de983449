"""A folder that is missing, or that may not be read, ends every command in the same way."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from types import ModuleType

import pytest

from sentinel.cli.exits import ExitCode
from sentinel.release import create_key

_RUN_ALL = r"""
import json, sys
from sentinel.cli.boundary import run_command
from sentinel.cli.main import app
for line in json.loads(sys.argv[1]):
    code = int(run_command(app, line))
    print(f"\0{code}\0", end="", file=sys.stderr)
"""
_STREAM = ("--events", "e", "--decisions", "d", "--quarantine", "q", "--store", "embedded:new")
# {} is the folder; {release} one that can be read.
COMMANDS = [
    "replay {} --unapproved --events events.ndjson",
    "status {} --unapproved",
    "serve {} --unapproved",
    f"stream {{}} --unapproved --source file-log:topics {' '.join(_STREAM)}",
    "release show {}",
    "release verify {}",
    "release approve {} --role data --key approver.key",
    "release list {}",
    "store inspect {}",
    "store verify {}",
    "store compact {} --release {release} --unapproved",
    "features replay {} --events events.ndjson --out out.parquet --unapproved",
    "features parity --release {} --log {log} --events events.ndjson --unapproved",
    "features parity --release {release} --log {} --events events.ndjson --unapproved",
    "features get card c --store redis://127.0.0.1:1 --release {} --unapproved",
    "explain {} e1 --release {release}",
    "decisions {}",
    "quarantine {}",
    "file-log show {}",
    "file-log append {} --topic t --events events.ndjson",
    f"stream {{release}} --unapproved --source file-log:{{}} {' '.join(_STREAM)}",
    "features parity --release {release} --log {log} --events e --unapproved --state {}",
]
FOLDERS = ["missing", "shut"]


@pytest.fixture(scope="module")
def ended(
    release_kit: ModuleType,
    tmp_path_factory: pytest.TempPathFactory,
    python_as_anybody: Callable[..., subprocess.CompletedProcess[str]],
) -> dict[tuple[str, str], tuple[int, str]]:
    """Run all in one process that may not read everything; codes and errors come back."""
    place = tmp_path_factory.mktemp("shut")
    release_kit.build_release(
        release_kit.good_candidate(),
        place / "release",
        created_at_ms=release_kit.NOW_MS,
        builder=release_kit.BUILDER,
    )
    create_key(place / "approver.key", person="Ada")
    (place / "events.ndjson").write_bytes(b"\n".join(release_kit.raw_events()[:5]))
    (place / "log").mkdir()
    (place / "log" / "decisions-000000000000.parquet").touch()
    (place / "shut").mkdir(mode=0)
    asked = [(command, folder) for command in COMMANDS for folder in FOLDERS]
    lines = [
        command.format(folder, release="release", log="log").split() for command, folder in asked
    ]
    done = python_as_anybody("-c", _RUN_ALL, json.dumps(lines), cwd=place)
    told = done.stderr.split("\0")
    errors, codes = told[:-1:2], [int(code) for code in told[1::2]]
    return dict(zip(asked, zip(codes, errors, strict=True), strict=True))


@pytest.mark.parametrize("folder", FOLDERS)
@pytest.mark.parametrize("command", COMMANDS)
def test_a_folder_that_cannot_be_read_is_exit_code_8(
    ended: dict[tuple[str, str], tuple[int, str]], command: str, folder: str
) -> None:
    code, error = ended[command, folder]
    assert code == ExitCode.FILE, error
    assert f": {folder}" in error
