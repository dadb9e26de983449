"""Every line is strict JSON, and says what was decided."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from typing import Any, cast

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sentinel.contract.batch import EventBatch, RawBatch
from sentinel.scoring import encoding
from sentinel.scoring.decision import DecisionBatch, Outcome, Reason, ServedBy, code_names
from sentinel.scoring.encoding import encode, write_number

TINY = float(np.finfo(np.float32).tiny)


def decisions(
    ids: list[str],
    scores: list[float],
    *,
    outcome: int = Outcome.APPROVE,
    is_decided: list[bool] | None = None,
) -> DecisionBatch:
    n = len(ids)
    raw = RawBatch.from_events([text.encode() for text in ids])
    events = EventBatch(
        names=("id",),
        values=np.zeros((1, n), np.int64),
        present=np.ones((1, n), np.bool_),
        rows=np.arange(n),
        raw=raw,
        text_fields=("id",),
        text_spans=np.stack([raw.starts, raw.ends], axis=1)[None],
        text_content=raw.content,
    )
    return DecisionBatch(
        events=events,
        is_decided=np.array([True] * n if is_decided is None else is_decided, np.bool_),
        score=np.array(scores, np.float64),
        outcome=np.full(n, outcome, np.uint8),
        served_by=np.full(n, ServedBy.CHAMPION, np.uint8),
        reason=np.full(n, Reason.OK, np.uint8),
        features=np.zeros((n, 1), np.float32),
        feature_status=np.zeros((n, 1), np.uint8),
        feature_hash=np.arange(n).astype(np.uint64),
        is_late=np.zeros(n, np.bool_),
    )


def strict(line: bytes) -> dict[str, object]:
    """Parse as the standard asks: NaN and infinity are no JSON."""

    def refuse(name: str) -> object:
        raise ValueError(name)

    value: dict[str, object] = json.loads(line, parse_constant=refuse)
    return value


def written(value: float) -> str:
    buffer = np.zeros(32, np.uint8)
    end = write_number(buffer, 0, value)
    assert end <= 16
    return buffer[:end].tobytes().decode()


@given(st.floats(min_value=TINY, max_value=1.0, width=32) | st.sampled_from([0.0, TINY, 0.1, 1e-5]))
@settings(max_examples=1_000, deadline=None)
def test_a_score_reads_back_as_the_same_float32(value: float) -> None:
    text = written(float(np.float32(value)))
    assert np.float32(strict(text.encode())) == np.float32(value)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0.0"),
        (1.0, "1.0"),
        (0.5, "0.5"),
        (0.25, "0.25"),
        (float(np.float32(0.1)), "0.100000001"),
        (float(np.float32(0.9999999)), "0.999999881"),
        (1.52587890625e-05, "0.0000152587891"),
        (9.5367431640625e-07, "9.53674316e-07"),
        (TINY, "1.17549435e-38"),
        (math.nan, "0.0"),
        (math.inf, "1.0"),
        (-math.inf, "0.0"),
        (-0.0, "0.0"),
    ],
)
def test_numbers_look_like_this(value: float, text: str) -> None:
    assert written(value) == text


@given(st.lists(st.text(min_size=1, max_size=20)))
@settings(deadline=None)
def test_any_event_id_comes_back_on_one_line(ids: list[str]) -> None:
    safe = [text.encode("utf-8", "replace").decode() for text in ids]
    content = encode(decisions(safe, [0.5] * len(safe)), event_id="id")
    lines = content.split(b"\n")
    assert lines.pop() == b""
    assert [strict(line)["event_id"] for line in lines] == safe


@pytest.mark.parametrize("value", [0.0, 0.5, math.nan, math.inf])
def test_a_held_decision_has_null_and_never_a_number(value: float) -> None:
    batch = decisions(["a"], [value], outcome=Outcome.HELD)
    line = encode(batch, event_id="id")
    assert strict(line) == {
        "event_id": "a",
        "score": None,
        "outcome": "held",
        "served_by": "champion",
        "reason": "ok",
        "feature_hash": "0" * 16,
    }


def test_every_code_has_its_name() -> None:
    for codes, field in ((Outcome, "outcome"), (ServedBy, "served_by"), (Reason, "reason")):
        for code, name in zip(sorted(codes), code_names(codes), strict=True):
            batch = decisions(["a"], [0.5])
            getattr(batch, field)[:] = code
            assert strict(encode(batch, event_id="id"))[field] == name


def test_duplicates_have_no_line() -> None:
    batch = decisions(["a", "b", "c"], [0.1, 0.2, 0.3], is_decided=[True, False, True])
    lines = encode(batch, event_id="id").splitlines()
    assert [strict(line)["event_id"] for line in lines] == ["a", "c"]


def test_no_decisions_are_no_bytes() -> None:
    assert encode(decisions([], []), event_id="id") == b""


def test_no_batch_needs_the_kernel_to_be_compiled_anew() -> None:
    """Ids with escapes stand in memory of their own, which may be written: no other type."""
    for is_writable in (True, False):
        batch = decisions(["a"], [0.5])
        content = batch.events.text_content.copy()
        content.flags.writeable = is_writable
        encode(replace(batch, events=replace(batch.events, text_content=content)), event_id="id")
    assert len(cast("Any", encoding._write_lines).signatures) == 1
