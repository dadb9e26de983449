"""A log is replayed once, and its labels are asked for as of any instant."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from sentinel.contract import RawBatch
from sentinel.contract.decoder import Decoder
from sentinel.core.errors import ErrorCode, SentinelError
from sentinel.data import EventFolder
from sentinel.data.simulator.contracts import Verdict
from sentinel.features import Engine, FeatureSet, compile_plan
from sentinel.release import Label, Pipeline
from sentinel.training.history import (
    History,
    amount_field,
    card_field,
    raw_events,
    read_history,
)

DAY = 86_400_000


def test_a_log_of_refused_events_only_is_named(tmp_path: Path, pipeline: Pipeline) -> None:
    events, feedback = tmp_path / "events.ndjson", tmp_path / "feedback.ndjson"
    events.write_text('{"amount": "NaN"}\n')
    feedback.write_text('{"is_fraud": 1}\n')
    plain = [f for f in pipeline.features.features if f.kind != "category-encoding"]

    fitted = FeatureSet(
        "plain",
        version="1",
        events=pipeline.features.events,
        feedback=pipeline.features.feedback,
        features=plain,
    )

    with pytest.raises(SentinelError) as caught:
        read_history(replace(pipeline, features=fitted), events, feedback)
    assert caught.value.code is ErrorCode.TRAINING_SPLIT_EMPTY
    assert caught.value.at == str(feedback)
    assert caught.value.got.startswith("none, and 1 refused, the first as ")


def test_swapped_files_are_named_with_their_count_and_first_reason(
    pipeline: Pipeline, folder: EventFolder, tmp_path: Path
) -> None:
    assert folder.feedback is not None
    with pytest.raises(SentinelError) as caught:
        read_history(pipeline, folder.feedback, folder.events)
    assert caught.value.code is ErrorCode.TRAINING_SPLIT_EMPTY
    assert caught.value.at == str(folder.events)
    assert caught.value.got.startswith(f"none, and {folder.n_events} refused, the first as ")
    assert "swapped" in caught.value.hint
    garbage = tmp_path / "garbage.ndjson"
    garbage.write_text("not json\n" * 3)
    with pytest.raises(SentinelError) as caught:
        read_history(pipeline, garbage, folder.feedback)
    assert caught.value.at == str(garbage)
    assert caught.value.got.startswith("none, and 3 refused, the first as ")


def test_a_missing_log_is_named(tmp_path: Path, pipeline: Pipeline) -> None:
    with pytest.raises(SentinelError) as caught:
        read_history(pipeline, tmp_path / "events.ndjson", tmp_path / "feedback.ndjson")
    assert caught.value.code is ErrorCode.FILE_MISSING
    assert caught.value.at.endswith("feedback.ndjson")


def test_the_card_and_the_amount_come_from_the_contract(pipeline: Pipeline) -> None:
    assert card_field(pipeline) == "card_id"
    assert amount_field(pipeline.features.events) == "amount"


def test_amounts_are_major_units_of_the_events(history: History, logs: tuple[Path, Path]) -> None:
    amounts = [json.loads(line)["amount"] for line in logs[0].read_text().splitlines()]
    assert history.amounts is not None
    np.testing.assert_allclose(history.amounts, amounts)


def test_no_label_is_known_before_its_verdict(history: History, logs: tuple[Path, Path]) -> None:
    """Against the feed read line by line, at an instant in the middle."""
    instant = int(history.replayed.times_ms[0]) + 20 * DAY
    known = {
        verdict["transaction_id"]: verdict["is_fraud"]
        for verdict in map(json.loads, logs[1].read_text().splitlines())
        if verdict["known_at"] <= instant
    }
    ids = [json.loads(line)["transaction_id"] for line in logs[0].read_text().splitlines()]
    labels = history.labels(instant)
    assert labels.is_known.tolist() == [name in known for name in ids]
    assert labels.is_positive.tolist() == [known.get(name, False) for name in ids]


def test_silence_is_genuine_where_the_pipeline_says_so(history: History) -> None:

    label = Label(
        of=Verdict.is_fraud, event=Verdict.transaction_id, delay="7d", unlabelled="genuine"
    )
    silent = replace(
        history,
        pipeline=replace(history.pipeline, label=label),
        verdicts=replace(
            history.verdicts,
            events=history.verdicts.events[:0],
            is_positive=history.verdicts.is_positive[:0],
            known_at_ms=history.verdicts.known_at_ms[:0],
        ),
    )
    last = int(history.replayed.times_ms.max())
    labels = silent.labels(last)
    assert labels.n_assumed == int((history.replayed.times_ms <= last - 7 * DAY).sum())
    assert not labels.is_positive.any()


def test_single_events_are_read_back_whole(logs: tuple[Path, Path]) -> None:
    lines = logs[0].read_bytes().splitlines()
    wanted = np.array([20_000, 3, 0])
    assert raw_events(logs[0], wanted) == (lines[0], lines[3], lines[20_000])
    assert raw_events(logs[0], wanted[:0]) == ()


def test_vectors_are_what_the_live_engine_gives_event_by_event(
    history: History, logs: tuple[Path, Path]
) -> None:
    """The first events through a fresh engine, one at a time, to the last bit."""
    engine = Engine(compile_plan(history.features))
    decoder = Decoder(history.features.events)
    lines = logs[0].read_bytes().splitlines()[:200]
    for row, line in enumerate(lines):
        vector = engine.advance(decoder.decode(RawBatch.from_events([line])).events)
        np.testing.assert_array_equal(vector.values[0], history.replayed.matrix.values[row])
