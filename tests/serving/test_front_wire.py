"""Frames between fronts and the scoring process: what goes in comes out, and nothing else does."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sentinel.contract import Fault, Refusal
from sentinel.contract.codes import RefusalCode
from sentinel.core.errors import ErrorCode, SentinelError
from sentinel.serving import bounds
from sentinel.serving.batching.queue_of_rows import OverloadedError
from sentinel.serving.batching.scoring_worker import EventRefusedError
from sentinel.serving.batching.work import EventAnswers, TensorAnswers
from sentinel.serving.doors.http_message import error_data
from sentinel.serving.fronts.wire import (
    FROM_FRONT,
    FROM_SCORING,
    AskEvents,
    EventsAnswered,
    FrameReader,
    TensorAnswered,
    frame,
    from_answer,
    from_wire,
    to_answer,
    to_wire,
)

_TEXT = st.text(max_size=40)
_REFUSED = st.builds(
    lambda codes, path, got: EventRefusedError(
        Refusal(
            codes[0], tuple(Fault(code, path, "a number", got) for code in codes),
            "requests", 0, 7, b"{}", n_bytes=2,
        )
    ),
    st.lists(st.sampled_from(list(RefusalCode)), min_size=1, max_size=4),
    _TEXT, _TEXT,
)  # fmt: skip
_ERRORS = st.one_of(
    st.builds(SentinelError, st.sampled_from(list(ErrorCode)), at=_TEXT, expected=_TEXT, got=_TEXT),
    st.builds(OverloadedError, expected=_TEXT, got=_TEXT, retry_s=st.floats(0, 100)),
    _REFUSED,
)


def through(error: SentinelError) -> SentinelError:
    wire = msgspec.msgpack.decode(msgspec.msgpack.encode(to_wire(error)), type=type(to_wire(error)))
    return from_wire(wire)


@given(_ERRORS)
def test_an_error_tells_a_caller_the_same_on_the_other_side(error: SentinelError) -> None:
    found = through(error)
    assert type(found) is type(error)
    assert error_data(found) == error_data(error)
    if isinstance(error, OverloadedError):
        assert isinstance(found, OverloadedError)
        assert found.retry_s == error.retry_s


@given(st.lists(st.one_of(st.binary(min_size=1, max_size=50), _ERRORS), max_size=20))
def test_answers_to_events_keep_their_places(lines: list[bytes | SentinelError]) -> None:
    answers = EventAnswers(lines, (("payments@1.2.0", len(lines)),))
    sent = FROM_SCORING.decode(frame(to_answer(9, answers))[4:])
    assert isinstance(sent, EventsAnswered)
    found = from_answer(sent)
    assert isinstance(found, EventAnswers)
    assert (sent.id, found.served) == (9, answers.served)
    for line, before in zip(found.lines, lines, strict=True):
        assert line == before or str(line) == str(before)


@given(
    st.lists(
        st.tuples(st.floats(0, 1, width=32), st.integers(0, 3), st.integers(0, 2)), max_size=30
    )
)
def test_answers_to_rows_are_equal_to_the_last_bit(rows: list[tuple[float, int, int]]) -> None:
    answers = TensorAnswers(
        [row[0] for row in rows], [row[1] for row in rows], [row[2] for row in rows],
        [row[1] for row in rows], "1.2.0",
    )  # fmt: skip
    sent = FROM_SCORING.decode(frame(to_answer(1, answers))[4:])
    assert isinstance(sent, TensorAnswered)
    assert from_answer(sent) == answers


@given(st.lists(st.binary(max_size=30), max_size=8), st.integers(1, 17))
def test_frames_come_out_whole_however_they_were_cut(events: list[bytes], step: int) -> None:
    messages = [AskEvents(number, 0, "a", 1_000, [event]) for number, event in enumerate(events)]
    content = b"".join(frame(message) for message in messages)
    reader = FrameReader()
    found = [
        FROM_FRONT.decode(each)
        for start in range(0, len(content), step)
        for each in reader.feed(content[start : start + step])
    ]
    assert found == messages


def test_a_frame_beyond_the_bound_is_refused_before_it_is_read() -> None:
    length = (bounds.FRONT_FRAME_BYTES_MAX + 1).to_bytes(4, "big")
    with pytest.raises(SentinelError) as refused:
        list(FrameReader().feed(length))
    assert (refused.value.code, refused.value.at) == (ErrorCode.REQUEST_TOO_LARGE, "frame")


@given(st.binary(max_size=60))
def test_bytes_that_are_no_message_are_no_message(content: bytes) -> None:
    """Whatever comes: a message of the table, or one error; never code."""
    try:
        FROM_FRONT.decode(content)
    except msgspec.MsgspecError:
        return
