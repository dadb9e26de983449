"""`sentinel decisions`, `quarantine` and `release list`: nothing there is no empty page."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from sentinel.cli.exits import ExitCode
from sentinel.contract import Quarantine
from sentinel.monitoring import DecisionLog, LogContext, LogRecords, LogSettings
from sentinel.monitoring.log_block import to_arrow
from sentinel.monitoring.log_records import feature_hashes
from sentinel.monitoring.log_spill import write_spilled

Run = Callable[..., subprocess.CompletedProcess[str]]
CONTEXT = LogContext(
    release="cards 2.5.0",
    release_digest="d" * 64,
    environment_digest="e" * 64,
    execution_provider="CPUExecutionProvider",
    thresholds={"review": 0.5, "decline": 0.9},
    feature_names=("amount", "n_card_1h"),
    contract_hash="c" * 64,
    outcomes=("approve", "review", "decline", "held"),
    served_by=("champion", "fallback", "none"),
    reasons=("ok", "breaker-open"),
)


def records(n: int) -> LogRecords:
    """Make decisions; every fourth is held."""
    ids = [f"t{i:011d}" for i in range(n)]
    features = np.arange(2 * n, dtype=np.float32).reshape(n, 2)
    is_held = np.arange(n) % 4 == 3
    return LogRecords(
        id_content=np.frombuffer("".join(ids).encode(), dtype=np.uint8),
        id_spans=np.stack([12 * np.arange(n), 12 * np.arange(1, n + 1)], axis=1),
        event_time_ms=1_700_000_000_123 + 1000 * np.arange(n),
        decided_at_ms=np.full(n, 1_800_000_000_000),
        score=np.where(is_held, 0.0, 0.123456789),
        is_held=is_held,
        outcome=np.where(is_held, 3, 0).astype(np.uint8),
        served_by=np.where(is_held, 2, 0).astype(np.uint8),
        reason=is_held.astype(np.uint8),
        features=features,
        feature_status=np.ones((n, 2), dtype=np.uint8),
        feature_hash=feature_hashes(features),
        source="cards.ndjson",
        partition=0,
        positions=np.arange(n),
    )


@pytest.fixture
def log(tmp_path: Path) -> Path:
    """Write a decision log of eight records."""
    folder = tmp_path / "log"
    with DecisionLog(folder, CONTEXT, LogSettings()) as opened:
        opened.append(records(8))
    return folder


def test_a_record_is_data_that_other_files_can_be_held_against(run: Run, log: Path) -> None:
    ended = run("decisions", str(log), "--json", "--limit", "3")
    assert ended.returncode == ExitCode.OK, ended.stderr
    document = json.loads(ended.stdout)
    assert (document["found"], document["spilled"], len(document["decisions"])) == (8, 0, 3)
    first = document["decisions"][0]
    assert first["feature_status"] == [1, 1]
    assert first["feature_hash"] == f"{int(feature_hashes(records(1).features)[0]):016x}"
    assert len(first["record_hash"]) == 16
    assert int(first["record_hash"], 16) > 0


def test_numbers_and_times_stand_on_one_line(run: Run, log: Path) -> None:
    page = run("decisions", str(log)).stdout
    assert "2023-11-14 22:13:20  " in page
    assert "0.123457" in page
    assert sum("t0000000000" in line for line in page.splitlines()) == 8


def test_an_outcome_that_does_not_exist_is_refused(run: Run, log: Path) -> None:
    ended = run("decisions", str(log), "--outcome", "nope")
    assert ended.returncode == ExitCode.USAGE
    assert "approve, review, decline or held, got nope" in ended.stderr
    held = json.loads(run("decisions", str(log), "--outcome", "held", "--json").stdout)
    assert held["found"] == 2


def test_a_log_without_segments_is_empty_and_says_what_is_spilled(run: Run, tmp_path: Path) -> None:
    folder = tmp_path / "log"
    DecisionLog(folder, CONTEXT, LogSettings()).close()
    ended = run("decisions", "log", "--json")
    assert ended.returncode == ExitCode.OK, ended.stderr
    assert json.loads(ended.stdout) == {"found": 0, "spilled": 0, "decisions": []}
    assert "without a segment" in " ".join(ended.stderr.split())
    batch = to_arrow(records(5), CONTEXT)
    write_spilled(folder / "spill", batch, CONTEXT, number=1, n_bytes_max=1 << 20)
    ended = run("decisions", "log", "--json")
    assert json.loads(ended.stdout) == {"found": 0, "spilled": 5, "decisions": []}
    assert "5 more decisions are spilled" in " ".join(ended.stderr.split())
    assert run("decisions", "log").returncode == ExitCode.OK


@pytest.mark.parametrize("command", ["decisions", "quarantine"])
def test_a_folder_of_something_else_is_refused(run: Run, tmp_path: Path, command: str) -> None:
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "letter.txt").write_text("dear")
    ended = run(command, "own")
    assert ended.returncode not in {ExitCode.OK, ExitCode.INTERNAL}
    assert ended.stderr.startswith("sentinel: file-missing: own: expected the folder of a ")


def test_a_quarantine_that_refused_nothing_is_empty(run: Run, tmp_path: Path) -> None:
    Quarantine(tmp_path / "q").close()
    ended = run("quarantine", "q", "--json")
    assert ended.returncode == ExitCode.OK, ended.stderr
    assert json.loads(ended.stdout) == {"refused": {}, "first": []}


def test_releases_are_listed_where_there_is_a_folder(run: Run, tmp_path: Path) -> None:
    ended = run("release", "list", "nope")
    assert ended.stderr.startswith("sentinel: file-missing: nope: ")
    broken = tmp_path / "releases" / "1.0.0"
    broken.mkdir(parents=True)
    for name in ("manifest.json", "model.onnx"):
        (broken / name).write_text("{}")
    listed = json.loads(run("release", "list", "releases", "--json").stdout)["releases"]
    assert [listed[0][name] for name in ("release", "built", "gates")] == [None, None, None]
    assert "–" in run("release", "list", "releases").stdout


def test_releases_some_levels_below_are_listed_and_hidden_folders_passed(
    run: Run, tmp_path: Path
) -> None:
    """A link back up is no endless way."""
    for place in ("a/b/c/release", ".cache/release", "a/1/2/3/4/5/too-deep"):
        (tmp_path / place).mkdir(parents=True)
        (tmp_path / place / "manifest.json").touch()
        (tmp_path / place / "model.onnx").touch()
    (tmp_path / "a" / "up").symlink_to(tmp_path)
    told = run("release", "list", ".", "--json")
    assert told.returncode == ExitCode.OK, told.stderr
    assert [each["folder"] for each in json.loads(told.stdout)["releases"]] == ["a/b/c/release"]
