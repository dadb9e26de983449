"""RFC 3339 instants: what they are in milliseconds, and what is none."""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sentinel.contract import Decoder, RawBatch, RefusalCode

EventBuilder = Callable[..., bytes]

INSTANTS = [
    ("1970-01-01T00:00:00Z", 0),
    ("1969-12-31T23:59:59.999Z", -1),
    ("2024-02-29T12:00:00Z", 1_709_208_000_000),
    ("2000-02-29t12:00:00z", 951_825_600_000),
    ("2024-01-01T01:30:00+01:30", 1_704_067_200_000),
    ("2023-12-31T22:30:00-01:30", 1_704_067_200_000),
    ("2024-01-01T00:00:00-00:00", 1_704_067_200_000),
    ("2024-01-01T00:00:00.1Z", 1_704_067_200_100),
    ("2024-01-01T00:00:00.1239999Z", 1_704_067_200_123),
    ("2016-12-31T23:59:60Z", 1_483_228_800_000),
    ("2017-01-01T00:59:60.5+01:00", 1_483_228_800_500),
]

NO_INSTANTS = [
    "", "2024-01-01", "2024-01-01T00:00:00", "2024-01-01 00:00:00Z", "2024-1-1T00:00:00Z",
    "2023-02-29T00:00:00Z", "1900-02-29T00:00:00Z", "2024-04-31T00:00:00Z", "2024-13-01T00:00:00Z",
    "2024-00-01T00:00:00Z", "2024-01-00T00:00:00Z", "2024-01-01T24:00:00Z", "2024-01-01T00:60:00Z",
    "2024-01-01T00:00:61Z", "2024-01-01T00:00:60Z", "2024-01-01T23:59:60+01:00",
    "2024-01-01T00:00:00.Z", "2024-01-01T00:00:00.1234567890Z", "2024-01-01T00:00:00+24:00",
    "2024-01-01T00:00:00+00:60", "2024-01-01T00:00:00+0000", "2024-01-01T00:00:00+00:000",
    "2024-01-01T00:00:00ZZ", "0000-01-01T00:00:00Z", "20240-01-01T00:00:00Z",
    "２024-01-01T00:00:00Z", "2024-01-01T00:00:00Zé", "+024-01-01T00:00:00Z",
]  # fmt: skip


@pytest.mark.parametrize(("text", "expected"), INSTANTS)
def test_an_instant_is_milliseconds_since_the_epoch(
    text: str, expected: int, decoder: Decoder, event: EventBuilder
) -> None:
    decoded = decoder.decode(RawBatch.from_events([event(told=json.dumps(text))]))
    assert decoded.events.column("told").tolist() == [expected]


@pytest.mark.parametrize("text", NO_INSTANTS)
def test_what_is_no_instant_is_refused(
    text: str, event: EventBuilder, judge: Callable[..., tuple[RefusalCode, ...]]
) -> None:
    assert judge(event(told=json.dumps(text))) == (RefusalCode.MALFORMED_TIME,)


@given(
    moment=st.datetimes(
        min_value=dt.datetime(1, 1, 2),  # noqa: DTZ001 -- hypothesis adds the offset
        max_value=dt.datetime(2099, 12, 30),  # noqa: DTZ001 -- the same
        timezones=st.integers(-1439, 1439).map(
            lambda minutes: dt.timezone(dt.timedelta(minutes=minutes))
        ),
    )
)
def test_what_python_writes_is_read(
    moment: dt.datetime, decoder: Decoder, event: EventBuilder
) -> None:
    epoch = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
    expected = (moment - epoch) // dt.timedelta(milliseconds=1)
    if expected < -(10**14):
        return
    batch = RawBatch.from_events([event(told=json.dumps(moment.isoformat()))])
    assert decoder.decode(batch).events.column("told").tolist() == [expected]


def test_an_event_time_as_text_is_held_against_the_clock() -> None:
    import numpy as np

    from sentinel.contract import Contract, EventId, EventTime

    class Ping(Contract, name="ping", version="1"):
        ping_id = EventId()
        at = EventTime(unit="rfc3339", skew_ms_max=1000)

    events = [
        b'{"ping_id":"a","at":"2024-01-01T00:00:01Z"}',
        b'{"ping_id":"b","at":"2024-01-01T00:00:01.001Z"}',
    ]
    times = np.full(2, 1_704_067_200_000, dtype=np.int64)
    decoded = Decoder(Ping.schema).decode(RawBatch.from_events(events, received_at_ms=times))
    assert decoded.events.texts("ping_id") == ["a"]
    assert [refusal.code for refusal in decoded.refusals] == [RefusalCode.TIME_SKEW]
