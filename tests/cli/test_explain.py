"""`sentinel explain`, in a process of its own over a real log."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from tests.serving.explanation_rig import explained_release, records_of

from sentinel.core.configuration import Configuration
from sentinel.release import LoadedRelease
from sentinel.release.decision_log import open_decision_log
from sentinel.scoring import Outcome


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> LoadedRelease:
    return explained_release(tmp_path_factory.mktemp("releases") / "payments")


@pytest.fixture(scope="module")
def log(loaded: LoadedRelease, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("log") / "decisions"
    opened = open_decision_log(
        folder, loaded, execution_provider="CPUExecutionProvider", configuration=Configuration()
    )
    with opened as written:
        written.append(records_of(loaded, 30))
        written.append(records_of(loaded, 1, first=30, outcome=Outcome.HELD))
    return folder


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "sentinel.cli", "explain", *arguments],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_a_logged_decision_is_explained_with_its_release(log: Path, loaded: LoadedRelease) -> None:
    """In words for people, as one document for scripts."""
    shown = run(str(log), "e7", "--release", str(loaded.folder))
    assert shown.returncode == 0, shown.stderr
    assert "Why e7 is decline" in shown.stdout
    found = run(str(log), "e7", "--release", str(loaded.folder), "--json")
    document = json.loads(found.stdout)
    assert document["event_id"] == "e7"
    assert document["method"] == "exact-trees"
    assert abs(document["residual"]) < 1e-4
    for reason in document["reasons"]:
        assert reason["words"] in " ".join(shown.stdout.replace("│", " ").split())


@pytest.mark.parametrize(
    ("event_id", "code", "words"),
    [
        ("nobody", "decision-unknown", "a decision of this event"),
        ("e30", "explanation-unavailable", "nobody answered it"),
    ],
)
def test_what_cannot_be_explained_is_named(
    log: Path, loaded: LoadedRelease, event_id: str, code: str, words: str
) -> None:
    """Not there, or held."""
    found = run(str(log), event_id, "--release", str(loaded.folder))
    assert found.returncode != 0
    assert code in found.stderr
    assert words in " ".join(found.stderr.split())


def test_another_release_does_not_explain_the_decision(log: Path, loaded: LoadedRelease) -> None:
    """By digest."""
    golden = Path(__file__).parents[1] / "golden" / "releases" / "format-1" / "payments-1.2.0"
    found = run(str(log), "e7", "--release", str(golden))
    assert found.returncode != 0
    assert "explanation-unavailable" in found.stderr
    assert loaded.digest[:16] in " ".join(found.stderr.split())
