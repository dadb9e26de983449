"""`sentinel init` writes a project that works, and overwrites nothing."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from sentinel.cli.exits import ExitCode
from sentinel.cli.init import CONTRACT_FILE, PROJECT_FILES, write_project
from sentinel.core.errors import ErrorCode, SentinelError

Run = Callable[..., subprocess.CompletedProcess[str]]
TEMPLATES = Path(__file__).parent.parent.parent / "src" / "sentinel" / "cli" / "templates"


def test_every_template_is_used_once() -> None:
    assert sorted(PROJECT_FILES.values()) == sorted(path.name for path in TEMPLATES.iterdir())


def test_the_files_are_those_that_it_names(run: Run, tmp_path: Path) -> None:
    ended = run("init", "card-watch", "--json")
    assert ended.returncode == ExitCode.OK, ended.stderr
    project = tmp_path / "card-watch"
    found = sorted(
        path.relative_to(project).as_posix() for path in project.rglob("*") if path.is_file()
    )
    assert found == sorted(json.loads(ended.stdout)["files"])
    assert found == sorted([*PROJECT_FILES, CONTRACT_FILE])


def test_the_name_stands_where_it_should_and_no_blank_is_left(tmp_path: Path) -> None:
    write_project(tmp_path / "p", "card-watch")
    for name in PROJECT_FILES:
        text = (tmp_path / "p" / name).read_text()
        assert "$name" not in text
    assert 'name="card-watch"' in (tmp_path / "p" / "pipeline.py").read_text()


def test_the_workflow_checks_data_schema_and_export_on_each_push(tmp_path: Path) -> None:
    write_project(tmp_path / "p", "card-watch")
    workflow = yaml.safe_load((tmp_path / "p" / ".github/workflows/check.yml").read_text())
    steps = workflow["jobs"]["check"]["steps"]
    assert [step["name"] for step in steps if "name" in step] == [
        "Install",
        "Data",
        "Schema",
        "Export",
    ]
    assert "push" in (workflow.get("on") or workflow[True])
    makefile = (tmp_path / "p" / "Makefile").read_text()
    for target in ("data", "schema", "export"):
        assert f"\n{target}:" in makefile


@pytest.mark.parametrize("stands_there", ["folder", "file", "link"])
def test_nothing_that_exists_is_overwritten(tmp_path: Path, stands_there: str) -> None:
    project = tmp_path / "p"
    if stands_there == "folder":
        project.mkdir()
        (project / "own.txt").write_text("mine")
    elif stands_there == "file":
        project.write_text("mine")
    else:
        project.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(SentinelError) as caught:
        write_project(project, "p")
    assert caught.value.code is ErrorCode.OUTPUT_EXISTS
    assert caught.value.at == str(project)
    assert not (project / "pipeline.py").exists()


@pytest.mark.parametrize("name", ["", "Card", "a b", "../x", "-x", "x-", "a--b", "é", "x" * 41])
def test_a_name_that_would_not_do_is_refused(run: Run, tmp_path: Path, name: str) -> None:
    ended = run("init", "--", name)
    assert ended.returncode == ExitCode.USAGE
    assert ended.stderr.startswith("sentinel: usage-invalid: NAME: expected lower-case letters")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_does_not_exist_is_not_made(run: Run, tmp_path: Path) -> None:
    ended = run("init", "card-watch", "--in", "nowhere")
    assert ended.returncode == ExitCode.USAGE
    assert ended.stderr.startswith("sentinel: usage-invalid: --in: ")
    assert list(tmp_path.iterdir()) == []


def test_the_next_step_names_the_python_that_has_sentinel(run: Run) -> None:
    ended = run("init", "card-watch", "--json", PATH="/usr/bin:/bin")
    python = shlex.quote(sys.executable)
    assert json.loads(ended.stdout)["next"] == f"cd card-watch && make check PYTHON={python}"
    beside = f"{Path(sys.executable).parent}{os.pathsep}/usr/bin:/bin"
    ended = run("init", "other", "--json", PATH=beside)
    assert json.loads(ended.stdout)["next"] == "cd other && make check"


@pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")
def test_a_python_without_sentinel_is_told_in_one_sentence(tmp_path: Path) -> None:
    write_project(tmp_path / "p", "p")
    bare = tmp_path / "bare-python"
    bare.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -I -S "$@"\n')
    bare.chmod(0o755)
    ended = subprocess.run(
        ["make", "-s", "check", f"PYTHON={bare}"],
        cwd=tmp_path / "p",
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ended.returncode != 0
    assert "does not have Sentinel with what training needs" in ended.stdout
    assert "Traceback" not in ended.stdout + ended.stderr


def test_own_events_are_read_and_never_overwritten(tmp_path: Path) -> None:
    project = tmp_path / "p"
    write_project(project, "p")
    (project / "data").mkdir()
    (project / "data" / "events.ndjson").write_text("MINE\n")
    ended = subprocess.run(
        [
            *(sys.executable, "-B", "-m", "unittest", "discover", "-s", "tests"),
            *("-k", "test_data_every_event"),
        ],
        cwd=project,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ended.returncode != 0
    assert (project / "data" / "events.ndjson").read_text() == "MINE\n"
    assert not (project / "build").exists()


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")
def test_the_project_s_own_tests_pass_with_the_command_that_is_printed(
    run: Run, tmp_path: Path
) -> None:
    """Simulate, check the contract, train, build, gates, two equal replays: for real."""
    following = json.loads(run("init", "card-watch", "--json", PATH="/usr/bin:/bin").stdout)["next"]
    ended = subprocess.run(
        ["/bin/sh", "-c", following],
        cwd=tmp_path,
        env={**os.environ, "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert re.findall(r"Ran (\d) tests? in", ended.stderr) == ["3", "1", "2"]
