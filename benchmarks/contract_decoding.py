"""Decoding events: ours, with columns and every check, beside those who check less.

The rivals decode one event at a time into one object; the columns that a model needs are not in
their time, nor are duplicate keys, bounds, hashes of keys and time skew, which msgspec and json do
not check. (msgspec is faster with its bounds than without: a value of a closed list is a shared
object.) All runs are interleaved; medians of the time that the thread had a processor, so that a
busy machine disturbs little.
"""

from __future__ import annotations

import json
import random
import statistics
import time
import uuid
from collections.abc import Callable
from typing import Annotated, Literal

import msgspec
import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from sentinel.contract import (
    Boolean,
    Category,
    Contract,
    Decimal,
    Decoder,
    EventId,
    EventTime,
    Float,
    Integer,
    Key,
    RawBatch,
    Text,
)

N_EVENTS = 4096
N_ROUNDS = 25
GOAL_US = 1.0
NOW_MS = 1_700_000_000_000

Currency = Literal["EUR", "USD", "GBP", "CHF"]
Country = Literal["CH", "DE", "FR", "US"]
Channel = Literal["chip", "online", "contactless"]


class Transaction(Contract, name="benchmark", version="1"):
    """A card transaction of 14 fields."""

    transaction_id = EventId(bytes_max=36)
    occurred_at = EventTime(unit="ms")
    card_id = Key(bytes_max=32)
    merchant_id = Key(bytes_max=32)
    amount = Decimal(scale=2, minimum=0, maximum=100_000)
    currency = Category("EUR", "USD", "GBP", "CHF")
    latitude = Float(minimum=-90, maximum=90)
    longitude = Float(minimum=-180, maximum=180)
    country = Category("CH", "DE", "FR", "US")
    is_vpn_proxy = Boolean()
    channel = Category("chip", "online", "contactless")
    device_id = Key(bytes_max=32, nullable=True)
    merchant_category = Integer(minimum=0, maximum=9999)
    entry = Text(bytes_max=64)


class MsgspecTransaction(msgspec.Struct, forbid_unknown_fields=True):
    """The same types, with the bounds that msgspec can check."""

    transaction_id: Annotated[str, msgspec.Meta(min_length=1, max_length=36)]
    occurred_at: int
    card_id: Annotated[str, msgspec.Meta(min_length=1, max_length=32)]
    merchant_id: Annotated[str, msgspec.Meta(min_length=1, max_length=32)]
    amount: Annotated[float, msgspec.Meta(ge=0, le=100_000)]
    currency: Currency
    latitude: Annotated[float, msgspec.Meta(ge=-90, le=90)]
    longitude: Annotated[float, msgspec.Meta(ge=-180, le=180)]
    country: Country
    is_vpn_proxy: bool
    channel: Channel
    device_id: str | None
    merchant_category: Annotated[int, msgspec.Meta(ge=0, le=9999)]
    entry: str


class MsgspecBare(msgspec.Struct):
    """The same types, without a bound: the least that can be done."""

    transaction_id: str
    occurred_at: int
    card_id: str
    merchant_id: str
    amount: float
    currency: str
    latitude: float
    longitude: float
    country: str
    is_vpn_proxy: bool
    channel: str
    device_id: str | None
    merchant_category: int
    entry: str


class PydanticTransaction(BaseModel):
    """The same types and bounds, strict."""

    model_config = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)

    transaction_id: str = Field(min_length=1, max_length=36)
    occurred_at: int
    card_id: str = Field(min_length=1, max_length=32)
    merchant_id: str = Field(min_length=1, max_length=32)
    amount: float = Field(ge=0, le=100_000)
    currency: Currency
    latitude: float = Field(ge=-90, le=90)
    longitude: float = Field(ge=-180, le=180)
    country: Country
    is_vpn_proxy: bool
    channel: Channel
    device_id: str | None
    merchant_category: int = Field(ge=0, le=9999)
    entry: str


def make_events(source: random.Random, *, digits: int) -> list[bytes]:
    """Write events of about 340 bytes, coordinates with so many digits after the point."""
    return [
        json.dumps(
            {
                "transaction_id": str(uuid.UUID(int=source.getrandbits(128))),
                "occurred_at": NOW_MS + index,
                "card_id": f"card-{source.randrange(10**8):08d}",
                "merchant_id": f"m-{source.randrange(10**6)}",
                "amount": source.randrange(1, 10**6) / 100,
                "currency": source.choice(["EUR", "USD"]),
                "latitude": round(source.uniform(-90, 90), digits),
                "longitude": round(source.uniform(-180, 180), digits),
                "country": source.choice(["CH", "DE"]),
                "is_vpn_proxy": source.random() < 0.1,
                "channel": source.choice(["chip", "online"]),
                "device_id": f"dev-{source.randrange(10**9)}" if source.random() < 0.7 else None,
                "merchant_category": source.randrange(9999),
                "entry": "keyed",
            },
            separators=(",", ":"),
        ).encode()
        for index in range(N_EVENTS)
    ]


def one_by_one(decode: Callable[[bytes], object], events: list[bytes]) -> Callable[[], object]:
    """Decode each event by itself, as the rivals do."""
    return lambda: [decode(event) for event in events]


def in_batch(decoder: Decoder, events: list[bytes]) -> Callable[[], object]:
    """Decode all events as one batch."""
    times = np.full(len(events), NOW_MS, dtype=np.int64)
    raw = RawBatch.from_events(events, received_at_ms=times)
    return lambda: decoder.decode(raw)


def measure(runs: dict[str, Callable[[], object]]) -> dict[str, float]:
    """Return the median of microseconds an event, runs interleaved."""
    times: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(N_ROUNDS):
        for name, run in runs.items():
            started = time.thread_time()
            run()
            times[name].append((time.thread_time() - started) / N_EVENTS * 1e6)
    return {name: statistics.median(of_run[1:]) for name, of_run in times.items()}


def main() -> None:
    """Print the table."""
    source = random.Random(1)
    decoder = Decoder(Transaction.schema)
    good = make_events(source, digits=6)
    long_floats = make_events(source, digits=15)
    shuffled = [
        json.dumps(dict(source.sample(list(pairs), len(pairs)))).encode()
        for pairs in (json.loads(event).items() for event in good)
    ]
    half_bad = [event if i % 2 else event[:-9] for i, event in enumerate(good)]
    all_bad = [event.replace(b"keyed", b"\\ud800") for event in good]
    runs = {
        "ours, with columns and all checks": in_batch(decoder, good),
        "msgspec, bare types": one_by_one(msgspec.json.Decoder(MsgspecBare).decode, good),
        "msgspec, with its bounds": one_by_one(
            msgspec.json.Decoder(MsgspecTransaction).decode, good
        ),
        "json.loads, no check": one_by_one(json.loads, good),
        "Pydantic, strict": one_by_one(PydanticTransaction.model_validate_json, good),
        "ours, 15-digit coordinates": in_batch(decoder, long_floats),
        "ours, fields in random order": in_batch(decoder, shuffled),
        "ours, every second event bad": in_batch(decoder, half_bad),
        "ours, every event bad": in_batch(decoder, all_bad),
    }
    found = measure(runs)
    ours = found["ours, with columns and all checks"]
    n_bytes = sum(len(event) for event in good) // N_EVENTS
    n_fields = len(Transaction.schema.fields)
    print(f"{n_bytes} bytes an event, {n_fields} fields, batches of {N_EVENTS}\n")
    print("| decoder | µs an event | events/s | times ours |")
    print("| --- | ---: | ---: | ---: |")
    for name, micros in found.items():
        print(f"| {name} | {micros:.2f} | {1e6 / micros:,.0f} | {micros / ours:.1f} |")
    verdict = "within" if ours <= GOAL_US else "OVER"
    print(f"\nGoal: {GOAL_US:.1f} µs an event, columns included; {verdict} it.")
    garbage = ours / found["ours, every event bad"]
    print(f"A batch of nothing but bad events runs at {garbage:.0%} of the clean rate.")


if __name__ == "__main__":
    main()
