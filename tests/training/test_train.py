"""Two logs in, a candidate out: complete, repeatable, or nothing at all."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from sentinel.core.errors import ErrorCode, SentinelError
from sentinel.core.hashing import canonical_json, sha256_of
from sentinel.release import Candidate, Pipeline, build_release
from sentinel.training import TimeSplit, train


@pytest.fixture(scope="module")
def candidate(pipeline: Pipeline, logs: tuple[Path, Path]) -> Candidate:
    return train(pipeline, *logs)


def everything(candidate: Candidate) -> bytes:
    """All numbers of a candidate as bytes: arrays by their bits."""
    trees, later = candidate.champion, candidate.later
    arrays = [
        *(getattr(trees, name) for name in ("feature", "threshold", "left", "right", "value")),
        candidate.parity.inputs,
        candidate.parity.scores,
        candidate.reference.values,
        candidate.reference.scores,
        candidate.reference.status,
        later.labels,
        later.champion_scores,
        later.fallback_scores,
    ]
    provenance = replace(candidate.provenance, git_commit="")
    data = {
        "arrays": [array.tobytes().hex() for array in arrays],
        "canary": [event.decode() for event in candidate.canary_events],
        "fallback": candidate.fallback.to_data(),
        "features": candidate.features.to_data(),
        "metrics": {name: dict(numbers) for name, numbers in later.metrics.items()},
        "nulls": dict(candidate.null_counts),
        "policy": candidate.policy.to_data(),
        "provenance": repr(provenance),
        "travel": repr(candidate.time_travel),
    }
    return canonical_json(data)


def test_a_wrong_setting_stops_before_anything_is_read(pipeline: Pipeline, tmp_path: Path) -> None:
    wrong = replace(pipeline, model={"n_leafs": 3})
    with pytest.raises(SentinelError) as caught:
        train(wrong, tmp_path / "no-such-file", tmp_path / "no-such-file")
    assert caught.value.code is ErrorCode.TRAINING_SETTINGS_INVALID
    assert caught.value.at == "model.n_leafs"


def test_a_log_shorter_than_the_label_delay_is_refused(
    pipeline: Pipeline, logs: tuple[Path, Path], tmp_path: Path
) -> None:
    short = tmp_path / "events.ndjson"
    short.write_bytes(b"".join(logs[0].read_bytes().splitlines(keepends=True)[:1_000]))
    with pytest.raises(SentinelError) as caught:
        train(pipeline, short, logs[1])
    assert caught.value.code is ErrorCode.TRAINING_SPLIT_INVALID
    assert caught.value.at == "split.cut_ms"


def test_a_feed_that_never_says_fraud_is_refused(
    pipeline: Pipeline, logs: tuple[Path, Path], tmp_path: Path
) -> None:
    genuine = tmp_path / "feedback.ndjson"
    genuine.write_text(logs[1].read_text().replace('"is_fraud":true', '"is_fraud":false'))
    with pytest.raises(SentinelError) as caught:
        train(pipeline, logs[0], genuine)
    assert caught.value.code is ErrorCode.TRAINING_ONE_CLASS
    assert caught.value.at == "fit"


@pytest.mark.parametrize("stage", ["verdicts", "encodings", "replay", "fit", "refit"])
def test_an_interrupt_at_any_stage_leaves_nothing(
    pipeline: Pipeline, logs: tuple[Path, Path], tmp_path: Path, stage: str
) -> None:
    """Ctrl-C arrives where progress is shown; no file appears beside the logs."""
    before = sorted(logs[0].parent.iterdir())

    def interrupt(at: str, done: int, total: int) -> None:
        if at == stage:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(pipeline, *logs, on_progress=interrupt)
    assert sorted(logs[0].parent.iterdir()) == before


def test_the_same_seed_gives_the_same_candidate_to_the_last_byte(
    candidate: Candidate, pipeline: Pipeline, logs: tuple[Path, Path]
) -> None:
    assert everything(train(pipeline, *logs)) == everything(candidate)


def test_another_seed_is_another_candidate(
    candidate: Candidate, pipeline: Pipeline, logs: tuple[Path, Path]
) -> None:
    other = replace(pipeline, model={**pipeline.model, "seed": 2})
    assert everything(train(other, *logs)) != everything(candidate)


def test_a_candidate_becomes_a_release_that_passes_every_gate(
    candidate: Candidate, tmp_path: Path
) -> None:
    built = build_release(candidate, tmp_path / "release", created_at_ms=1)
    failed = [gate for gate in built.gates if not gate.passed]
    assert not failed


def test_shares_become_thresholds_on_traffic_that_taught_nothing(candidate: Candidate) -> None:
    assert candidate.policy.is_resolved
    assert candidate.policy.decline_share is not None
    assert candidate.policy.decline_share <= 0.01
    thresholds = candidate.policy.thresholds()
    assert (thresholds[:, 0] <= thresholds[:, 1]).all()


def test_canary_events_are_whole_events_of_the_log_in_order(
    candidate: Candidate, logs: tuple[Path, Path]
) -> None:
    lines = logs[0].read_bytes().splitlines()
    places = {line: place for place, line in enumerate(lines)}
    positions = [places[event] for event in candidate.canary_events]
    assert positions == sorted(set(positions))
    cards = [json.loads(event)["card_id"] for event in candidate.canary_events]
    assert len(set(cards)) < len(cards), "some cards come again, so that windows fill"


def test_provenance_says_where_it_all_came_from(
    candidate: Candidate, logs: tuple[Path, Path]
) -> None:
    provenance = candidate.provenance
    hashes = [hashlib.sha256(path.read_bytes()).hexdigest() for path in logs]
    assert provenance.data_sha256 == sha256_of(hashes)
    assert provenance.seeds == {"model": 1}
    assert provenance.hyper_parameters["n_leaves"] == 7
    assert provenance.library_versions["lightgbm"]
    assert len(provenance.environment_sha256) == 64
    assert provenance.n_rows["validation"] == provenance.n_rows["train"] // 4


def test_null_counts_speak_of_every_feature(candidate: Candidate) -> None:
    assert tuple(candidate.null_counts) == candidate.features.names
    assert candidate.null_counts["amount"] == 0
    assert candidate.null_counts["avg_amount_7d"] > 0


def test_a_split_of_the_users_own_is_kept(pipeline: Pipeline, logs: tuple[Path, Path]) -> None:
    first = json.loads(logs[0].read_bytes().splitlines()[0])["occurred_at"]
    day = 86_400_000
    split = TimeSplit(
        train_from_ms=first + 5 * day,
        cut_ms=first + 28 * day,
        until_ms=first + 32 * day,
        delay_ms=7 * day,
    )
    later = train(pipeline, *logs, split=split).later
    assert (later.from_ms, later.until_ms) == (split.cut_ms, split.until_ms)
    assert later.trained_until_ms == split.cut_ms - 7 * day
    assert np.isfinite(later.champion_scores).all()


def test_record_of_the_training_rows_travels_with_the_candidate_and_the_release(
    candidate: Candidate, tmp_path: Path
) -> None:
    record = candidate.record
    assert record["feature_set_version"] == candidate.features.version
    assert record["schema_hash"] == candidate.features.events.schema_hash
    assert record["row_count"] == candidate.provenance.n_rows["train"]
    assert record["validation_status"] == "passed"
    built = build_release(candidate, tmp_path / "release", created_at_ms=0)
    assert json.loads((built.folder / "feature_set.json").read_bytes()) == record
