"""`sentinel features replay`: a real command, real processes, the bits of one engine."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from tests.cli.conftest import wait_for

from sentinel.cli.exits import ExitCode
from sentinel.data import EventFile
from sentinel.features import replay
from sentinel.release import load_release

Run = Callable[..., subprocess.CompletedProcess[str]]
GOLDEN = Path(__file__).parent.parent / "golden" / "releases" / "format-1"
RELEASE = GOLDEN / "payments-1.2.0"
EVENTS = GOLDEN / "events.ndjson"


@pytest.mark.parametrize("n_processes", [1, 2])
def test_the_table_has_the_bits_of_one_engine(run: Run, tmp_path: Path, n_processes: int) -> None:
    """Two files in order, refused and repeated lines among them."""
    lines = EVENTS.read_bytes().splitlines()
    first, second = tmp_path / "a.ndjson", tmp_path / "b.ndjson"
    first.write_bytes(b"\n".join([*lines[:70], b"{", lines[3], b""]) + b"\n")
    second.write_bytes(b"\n".join(lines[70:]) + b"\n")
    told = run(
        "features", "replay", str(RELEASE), "--unapproved", "--events", "a.ndjson",
        "--events", "b.ndjson", "--out", "f.parquet", "--processes", str(n_processes), "--json",
    )  # fmt: skip
    assert told.returncode == ExitCode.OK, told.stderr
    document = json.loads(told.stdout)
    assert document["rows"] == len(lines)
    assert (document["refused"], document["duplicates"]) == (1, 1)
    plan = load_release(RELEASE, None, now_ms=0, allow_unapproved=True).parts.plan
    wanted = replay(plan, EventFile(EVENTS).batches())
    table = pq.read_table(tmp_path / "f.parquet")
    assert table.schema.metadata[b"sentinel.feature_set_identity"].decode() == plan.identity
    vectors = np.stack([c.to_numpy() for c in table["features"].combine_chunks().flatten()], axis=1)
    assert vectors.tobytes() == wanted.matrix.values.tobytes()
    assert b"".join(table["feature_status"].to_pylist()) == wanted.matrix.status.tobytes()
    assert table["event_id"].to_pylist() == [f"p{i}" for i in range(len(lines))]
    assert table["position"].to_pylist() == [*range(70), *range(73, len(lines) + 3)]


def test_a_history_without_a_good_event_is_not_called_done(run: Run, tmp_path: Path) -> None:
    """Zero bytes are refused before the work; all refused is told by the exit code."""
    base = ("features", "replay", str(RELEASE), "--unapproved", "--out", "f.parquet")
    (tmp_path / "empty.ndjson").touch()
    told = run(*base, "--events", "empty.ndjson", "--feedback", "empty.ndjson")
    assert told.returncode == ExitCode.INPUT
    assert "source-empty: empty.ndjson" in told.stderr
    assert not (tmp_path / "f.parquet").exists()
    (tmp_path / "other.ndjson").write_text('{"verdict_id": "v1"}\n')
    told = run(*base, "--events", "other.ndjson", "--feedback", "empty.ndjson", "--json")
    assert told.returncode == ExitCode.DEGRADED, told.stderr
    assert json.loads(told.stdout)["rows"] == 0


def test_what_stands_there_is_kept(run: Run, tmp_path: Path) -> None:
    """Neither another file nor an input is written over."""
    (tmp_path / "f.parquet").write_text("mine")
    base = ("features", "replay", str(RELEASE), "--unapproved", "--events", str(EVENTS))
    told = run(*base, "--out", "f.parquet")
    assert told.returncode == ExitCode.USAGE
    assert "output-exists: f.parquet" in told.stderr
    assert (tmp_path / "f.parquet").read_text() == "mine"
    told = run(*base, "--out", ".", "--force")
    assert told.returncode == ExitCode.USAGE
    assert "output-exists: .: expected a file to write, got a folder" in told.stderr
    assert "--force" not in told.stderr
    told = run(*base, "--out", "nowhere/f.parquet")
    assert told.returncode == ExitCode.FILE
    assert "file-unwritable: nowhere/f.parquet" in told.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["f.parquet"]


def test_an_encoding_that_is_not_fitted_is_named(run: Run, tmp_path: Path) -> None:
    """A pipeline that fits one has no vectors before training."""
    pipeline = Path(__file__).parent.parent.parent / "examples" / "card_fraud" / "pipeline.py"
    told = run("features", "replay", str(pipeline), "--events", str(EVENTS), "--out", "f.parquet")
    assert told.returncode == ExitCode.INPUT
    assert "feature-unfitted" in told.stderr


def test_ctrl_c_leaves_no_process_and_no_file(tmp_path: Path) -> None:
    """A real SIGINT to the whole group, as a terminal sends it, in the middle of the work."""
    lines = EVENTS.read_bytes().splitlines()
    with (tmp_path / "e.ndjson").open("wb") as file:
        for i in range(1500):
            for line in lines:
                file.write(line.replace(b'"p', b'"q%d-' % i, 1) + b"\n")
    command = [
        sys.executable, "-m", "sentinel.cli", "features", "replay", str(RELEASE), "--unapproved",
        "--events", "e.ndjson", "--out", "f.parquet", "--processes", "2",
    ]  # fmt: skip
    with subprocess.Popen(
        command, cwd=tmp_path, stderr=subprocess.PIPE, text=True, start_new_session=True
    ) as running:
        wait_for(running, lambda: any(tmp_path.glob(".f.parquet*")))
        os.killpg(running.pid, signal.SIGINT)
        _, stderr = running.communicate(timeout=60)
    assert running.returncode == ExitCode.INTERRUPTED, stderr
    assert "interrupted" in stderr
    assert [path.name for path in tmp_path.iterdir()] == ["e.ndjson"]
    assert not [pid for pid in Path("/proc").glob("[0-9]*") if works_in(pid, tmp_path)]


def works_in(process: Path, folder: Path) -> bool:
    try:
        return (process / "cwd").readlink() == folder
    except OSError:
        return False
