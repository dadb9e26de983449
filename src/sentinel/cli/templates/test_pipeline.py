"""What must hold before anybody looks at a release of $name."""

import json
import subprocess
from pathlib import Path

import pytest

PROJECT = Path(__file__).parent.parent
BUILD = PROJECT / "build"
PIPELINE = PROJECT / "pipeline.py"
EVENTS = BUILD / "data" / "events.ndjson"
FEEDBACK = BUILD / "data" / "feedback.ndjson"
BAD_EVENT = {"transaction_id": "t1", "amount": "12.50"}


def sentinel(*arguments: object, exit_code: int = 0) -> dict:
    """Run a command of Sentinel and return the document that it prints."""
    ended = subprocess.run(
        ["sentinel", *map(str, arguments), "--json"], capture_output=True, text=True, check=False
    )
    assert ended.returncode == exit_code, ended.stderr
    return json.loads(ended.stdout)


@pytest.fixture(scope="session", autouse=True)
def data() -> None:
    """Simulate a small world; put your own events here."""
    small = ("--days", 40, "--events-per-day", 500, "--cards", 200, "--merchants", 200)
    sentinel("simulate", "--out", EVENTS.parent, *small)


@pytest.fixture(scope="session")
def release() -> Path:
    """Train and build."""
    folder = BUILD / "release"
    subprocess.run(["rm", "-rf", str(folder)], check=True)
    sources = ("--events", EVENTS, "--feedback", FEEDBACK)
    sentinel("train", PIPELINE, *sources, "--out", folder)
    return folder


def test_data_every_event_is_accepted() -> None:
    document = sentinel("contract", "check", PIPELINE, "--events", EVENTS)
    assert document["accepted"] == document["read"] > 0


def test_data_every_verdict_is_accepted() -> None:
    document = sentinel("contract", "check", PIPELINE, "--feedback", "--events", FEEDBACK)
    assert document["accepted"] == document["read"] > 0


def test_data_what_is_broken_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "bad.ndjson"
    path.write_text(json.dumps(BAD_EVENT) + "\n" + '{"amount": NaN}\n')
    document = sentinel("contract", "check", PIPELINE, "--events", path, exit_code=4)
    assert document["accepted"] == 0


def test_schema_is_the_reviewed_one() -> None:
    """A change of the contract is a change of `contract.json`, which somebody has to look at."""
    reviewed = json.loads((PROJECT / "contract.json").read_text())
    assert sentinel("contract", "show", PIPELINE) == reviewed


def test_export_passes_every_gate(release: Path) -> None:
    document = sentinel("release", "show", release)
    assert all(gate["passed"] for gate in document["gates"])


def test_export_decides_the_same_twice(release: Path, tmp_path: Path) -> None:
    decisions = []
    for name in ("first", "second"):
        path = tmp_path / name
        sources = ("--events", EVENTS, "--feedback", FEEDBACK)
        counts = sentinel("replay", release, "--unapproved", *sources, "--decisions", path)
        assert counts["read"] == counts["decided"] + counts["held"] + counts["quarantined"]
        decisions.append(path.read_bytes())
    assert decisions[0] == decisions[1] != b""
