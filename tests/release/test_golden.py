"""Releases of every format that ever was load, and score what they scored on the day."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from sentinel.contract import RawBatch, Refusal
from sentinel.monitoring.log_records import LogRecords
from sentinel.monitoring.metrics import Metrics
from sentinel.release import LoadedRelease, Standing, Trust, load_release
from sentinel.release.reproduction import open_path
from sentinel.scoring.decision import Outcome, ServedBy
from sentinel.scoring.parts import Sinks
from sentinel.scoring.replay_clock import ReplayClock
from sentinel.scoring.sanity import differs

RELEASES = Path(__file__).parent.parent / "golden" / "releases"
FORMATS = sorted(path.name for path in RELEASES.iterdir() if path.is_dir())


class Kept:
    """Keep what arrives: refused events or decisions."""

    def __init__(self) -> None:
        self.refusals: list[Refusal] = []
        self.records: list[LogRecords] = []

    def put(self, refusals: tuple[Refusal, ...]) -> None:
        self.refusals.extend(refusals)

    def append(self, records: LogRecords) -> None:
        self.records.append(records)


def expected_of(name: str) -> dict[str, object]:
    read: dict[str, object] = json.loads((RELEASES / name / "expected.json").read_bytes())
    return read


def load(name: str) -> LoadedRelease:
    folder = next(path for path in (RELEASES / name).iterdir() if path.is_dir())
    trust = Trust.load(RELEASES / name / "trust.toml")
    return load_release(folder, trust, now_ms=int(str(expected_of(name)["now_ms"])))


def events_of(name: str) -> RawBatch:
    return RawBatch.from_events((RELEASES / name / "events.ndjson").read_bytes().splitlines())


def test_there_is_a_release_of_every_format() -> None:
    assert FORMATS == ["format-1"]


@pytest.mark.parametrize("name", FORMATS)
def test_an_old_release_is_still_verified_and_approved(name: str) -> None:
    loaded = load(name)
    assert loaded.standing is Standing.APPROVED
    assert loaded.digest == expected_of(name)["digest"]
    assert loaded.gates.failed == ()


@pytest.mark.parametrize("name", FORMATS)
def test_an_old_release_still_scores_the_same_numbers(name: str) -> None:
    """Features to the last bit; scores within the canary's own tolerance."""
    loaded, expected = load(name), expected_of(name)
    path = open_path(
        features=loaded.parts.plan.features.to_data(),
        model=loaded.parts.champion,
        fallback=loaded.parts.fallback.to_data(),
        policy=loaded.parts.policy.to_data(),
    )
    assert loaded.parts.canary.check(path).passed
    vectors = path.features(path.decode(events_of(name))).values
    assert np.array_equal(vectors, np.array(expected["vectors"], np.float32))
    for scores, recorded in (
        (path.champion(vectors), expected["scores"]),
        (path.fallback.scores(vectors).astype(np.float32), expected["fallback_scores"]),
    ):
        tolerance = loaded.parts.canary.tolerance
        assert not differs(scores, np.array(recorded, np.float32), tolerance).any()


@pytest.mark.parametrize("name", FORMATS)
def test_an_old_release_still_decides(name: str) -> None:
    """Through the one door: raw events in, decisions out, none by anybody but the champion."""
    loaded, kept = load(name), Kept()
    metrics = Metrics(with_process=False)
    sinks = Sinks(refusals=kept, decisions=kept, metrics=metrics)
    scorer = loaded.open_scorer(sinks, clock=ReplayClock())
    batch = scorer.score(events_of(name))
    scorer.close()
    scores = np.array(expected_of(name)["scores"], np.float32)
    assert not differs(batch.score.astype(np.float32), scores, 1e-4).any()
    assert (batch.served_by == ServedBy.CHAMPION).all()
    assert set(np.unique(batch.outcome)) <= {Outcome.APPROVE, Outcome.REVIEW, Outcome.DECLINE}
    assert (len(kept.refusals), sum(len(r.score) for r in kept.records)) == (0, batch.n_rows)


WITHOUT_TRAINING = """
import sys
for name in ("onnx", "lightgbm", "sklearn", "scipy", "onnxmltools", "skl2onnx"):
    sys.modules[name] = None
import json
import subprocess
import sys
from pathlib import Path
from sentinel.release import Trust, load_release
from sentinel.scoring.session import ModelSession
folder = Path(sys.argv[1])
now_ms = json.loads((folder / "expected.json").read_bytes())["now_ms"]
release = next(path for path in folder.iterdir() if path.is_dir())
loaded = load_release(release, Trust.load(folder / "trust.toml"), now_ms=now_ms)
session = ModelSession(loaded.parts.champion, n_features=loaded.admitted.n_features)
print(len(session.run(loaded.parts.canary.event_vectors)))
"""


def test_a_release_loads_without_any_library_of_training() -> None:
    """What serving installs is enough: onnx, LightGBM and scikit-learn are not there."""
    command = [sys.executable, "-c", WITHOUT_TRAINING, RELEASES / "format-1"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.strip()) == (0, "64"), done.stderr
