"""Numbers: every float64 is the nearest one, whatever way it was found."""

from __future__ import annotations

import math
import random
import struct
from collections.abc import Callable

import pytest

from sentinel.contract import Decoder, RawBatch, RefusalCode

EventBuilder = Callable[..., bytes]

HALF_WAY_TO_INFINITY = (1 << 1024) - (1 << 970)

HARD = [
    "0.1", "0.30000000000000004", "123456789012345678901234567890.0", "9007199254740993.0",
    "9007199254740993e0", "9007199254740995.0", "900719925474099.3e1", "1e22", "1e23", "1e-22",
    "8.442911973260991817129021e-309", "2.2250738585072011e-308", "2.2250738585072014e-308",
    "4.9406564584124654e-324", "2.4703282292062327e-324", "2.4703282292062328e-324", "1e-400",
    "1.7976931348623157e308", "1.7976931348623158e308", "17976931348623157e292",
    "6929495644600919.5", "3.7455744005952583e15", "5e-324", "1.00000005960464477550",
    "9214843084008499.0", "7.2057594037927933e16", "36028797018963969e0", "1e-65", "-0.0", "-0",
    f"{HALF_WAY_TO_INFINITY - 1}.0", "0." + "0" * 400 + "1e400", "1" + "0" * 400 + "e-400",
    "0." + "1" * 800, "9" * 19 + "e-19", "9" * 20 + ".0e-20", "1e-342", "1e-343", "0e400",
]  # fmt: skip


def random_token(source: random.Random) -> str:
    """Return a number that is hard in one of several ways."""
    kind = source.randrange(6)
    if kind == 0:
        return repr(struct.unpack("<d", source.randbytes(8))[0])
    if kind == 1:
        return repr(source.uniform(-180, 180))
    if kind == 2:
        return f"{source.randrange(10 ** source.randrange(1, 20))}.{source.randrange(10**9)}"
    if kind == 3:
        return f"{source.randrange(1, 10 ** source.randrange(1, 20))}e{source.randrange(-345, 290)}"
    if kind == 4:  # half-way between two float64
        half = 2 * (source.getrandbits(52) | 1 << 52) + 1
        return f"{half << source.randrange(10)}.0"
    return f"0.{'0' * source.randrange(6)}{source.randrange(10**17)}e{source.randrange(300)}"


def assert_nearest(tokens: list[str], decoder: Decoder, event: EventBuilder) -> None:
    """Compare each token's column with Python's reading of it, bit by bit."""
    events = [event(wide=token) for token in tokens]
    decoded = decoder.decode(RawBatch.from_events(events))
    assert decoded.refusals == ()
    for token, value in zip(tokens, decoded.events.floats("wide"), strict=True):
        assert struct.pack("<d", value) == struct.pack("<d", float(token)), token


@pytest.mark.parametrize("token", HARD, ids=lambda token: token[:24])
def test_hard_numbers_are_correctly_rounded(
    token: str, decoder: Decoder, event: EventBuilder
) -> None:
    assert_nearest([token], decoder, event)


def test_random_numbers_are_correctly_rounded(decoder: Decoder, event: EventBuilder) -> None:
    source = random.Random(20)
    drawn = (random_token(source) for _ in range(20_000))
    tokens = [token for token in drawn if token[-1] != "n" and math.isfinite(float(token))]
    assert len(tokens) > 15_000
    assert_nearest([t if set(t) & set(".e") else t + ".0" for t in tokens], decoder, event)


@pytest.mark.parametrize(
    "token",
    [
        f"{HALF_WAY_TO_INFINITY}.0",
        f"{HALF_WAY_TO_INFINITY}0e-1",
        f"{HALF_WAY_TO_INFINITY + 1}.0",
        f"0.000{HALF_WAY_TO_INFINITY}e312",
        f"{HALF_WAY_TO_INFINITY}.0000000001",
        "1.797693134862315808e308",
        "1e309",
        "9" * 309 + ".0",
        "0.00001e314",
    ],
    ids=lambda token: f"{token[:12]}..{token[-8:]}",
)
def test_what_rounds_to_infinity_is_not_finite(
    token: str, decoder: Decoder, event: EventBuilder
) -> None:
    assert math.isinf(float(token))
    (refusal,) = decoder.decode(RawBatch.from_events([event(wide=token)])).refusals
    assert [fault.code for fault in refusal.faults] == [RefusalCode.NON_FINITE]
