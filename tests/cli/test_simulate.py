"""`sentinel simulate` and `sentinel data prepare` never write over what they did not make."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from sentinel.cli.exits import ExitCode

Run = Callable[..., subprocess.CompletedProcess[str]]
SMALL = ("--days", "1", "--events-per-day", "50", "--cards", "20")


@pytest.mark.parametrize(
    "name", ["events.ndjson", "feedback.ndjson", "scenarios.ndjson", "manifest.json"]
)
def test_a_user_s_own_file_is_not_overwritten(run: Run, tmp_path: Path, name: str) -> None:
    own = tmp_path / "own"
    own.mkdir()
    (own / name).write_text("MINE\n")
    ended = run("simulate", "--out", "own", *SMALL)
    assert ended.returncode == ExitCode.USAGE
    assert ended.stderr.startswith(f"sentinel: output-exists: own/{name}: ")
    assert (own / name).read_text() == "MINE\n"
    assert [path.name for path in own.iterdir()] == [name]


def test_the_same_settings_use_it_again_and_others_need_force(run: Run, tmp_path: Path) -> None:
    first = run("simulate", "--out", "own", *SMALL, "--json")
    assert first.returncode == ExitCode.OK, first.stderr
    content = (tmp_path / "own" / "events.ndjson").read_bytes()
    again = run("simulate", "--out", "own", *SMALL, "--json")
    assert json.loads(again.stdout)["was_there"] is True
    other = run("simulate", "--out", "own", *SMALL, "--seed", "9")
    assert other.returncode == ExitCode.USAGE
    assert "--force" in other.stderr
    assert (tmp_path / "own" / "events.ndjson").read_bytes() == content
    forced = run("simulate", "--out", "own", *SMALL, "--seed", "9", "--force", "--json")
    assert forced.returncode == ExitCode.OK, forced.stderr
    assert (tmp_path / "own" / "events.ndjson").read_bytes() != content


def test_prepared_data_do_not_overwrite_either(run: Run, tmp_path: Path) -> None:
    (tmp_path / "source.csv").write_text(
        "TRANSACTION_ID,TX_DATETIME,CUSTOMER_ID,TERMINAL_ID,TX_AMOUNT,TX_FRAUD,TX_FRAUD_SCENARIO\n"
        "0,2018-04-01 00:00:31,596,3156,57.16,0,0\n"
    )
    (tmp_path / "events.ndjson").write_text("MINE\n")
    ended = run("data", "prepare", "handbook", "--from", "source.csv", "--out", ".")
    assert ended.returncode == ExitCode.USAGE, ended.stderr
    assert ended.stderr.startswith("sentinel: output-exists: events.ndjson: ")
    assert (tmp_path / "events.ndjson").read_text() == "MINE\n"
    forced = run("data", "prepare", "handbook", "--from", "source.csv", "--out", ".", "--force")
    assert forced.returncode == ExitCode.OK, forced.stderr
    assert (tmp_path / "events.ndjson").read_text() != "MINE\n"


@pytest.mark.parametrize("flag", ["--cards", "--merchants", "--events-per-day", "--seed"])
def test_an_error_names_the_flag(run: Run, flag: str) -> None:
    ended = run("simulate", "--out", "x", flag, "-1")
    assert ended.returncode != ExitCode.OK
    assert f": {flag}: " in ended.stderr
