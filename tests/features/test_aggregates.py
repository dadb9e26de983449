"""Each aggregate is an algebra, and finishes at what Python's own arithmetic says."""

from __future__ import annotations

import math
import statistics
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sentinel.core.native import native
from sentinel.features import aggregates as agg

INT = st.integers(-(2**31) + 1, 2**31 - 1)
REAL = st.floats(-1e6, 1e6, allow_nan=False).map(lambda x: x + 0.0)
EXACT = [
    agg.COUNT,
    agg.SUM_INT,
    agg.SQUARES_INT,
    agg.MINIMUM_INT,
    agg.MAXIMUM_INT,
    agg.MINIMUM_FLOAT,
    agg.MAXIMUM_FLOAT,
    agg.DISTINCT,
]
FLOATING = [agg.SUM_FLOAT, agg.MOMENTS_FLOAT]


@native
def take(opcode: int, words: np.ndarray, values: np.ndarray, reals: np.ndarray) -> None:
    for i in range(len(values)):
        agg.update(opcode, words, words.view(np.float64), 0, values[i], reals[i])


@native
def unite(opcode: int, words: np.ndarray) -> None:
    half = len(words) // 2
    agg.merge(opcode, words, words.view(np.float64), 0, half)


@native
def take_out(opcode: int, words: np.ndarray) -> None:
    agg.subtract(opcode, words, 0, len(words) // 2)


@native
def deviation(n: int, total: int, low: int, high: int) -> float:
    return agg.deviation_finish(n, total, low, high)


@native
def distinct(words: np.ndarray) -> float:
    return agg.distinct_finish(words, 0)


@native
def kilometres(a: float, b: float, c: float, d: float) -> float:
    return agg.distance_km(a, b, c, d)


def of(opcode: int, values: list) -> np.ndarray:
    words = agg.empty(opcode)
    is_float = agg.IS_FLOAT[opcode]
    reals = np.array(values if is_float else [0] * len(values), dtype=np.float64)
    ints = np.array([0] * len(values) if is_float else values, dtype=np.int64)
    take(opcode, words, ints, reals)
    return words


def merged(opcode: int, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    both = np.concatenate([a, b])
    unite(opcode, both)
    return both[: len(a)].copy()


def values_for(opcode: int) -> st.SearchStrategy[list]:
    return st.lists(REAL if agg.IS_FLOAT[opcode] else INT, max_size=60)


@pytest.mark.parametrize("opcode", EXACT)
@settings(max_examples=30, deadline=None)
@given(data=st.data())
def test_exact_aggregates_obey_the_laws_bit_for_bit(opcode: int, data: st.DataObject) -> None:
    """Neutral empty, either order, either grouping, and one by one or all at once."""
    x, y, z = (data.draw(values_for(opcode)) for _ in range(3))
    a, b, c = of(opcode, x), of(opcode, y), of(opcode, z)
    same = np.testing.assert_array_equal
    same(merged(opcode, agg.empty(opcode), a), a)
    same(merged(opcode, a, agg.empty(opcode)), a)
    same(merged(opcode, a, b), merged(opcode, b, a))
    same(merged(opcode, merged(opcode, a, b), c), merged(opcode, a, merged(opcode, b, c)))
    same(of(opcode, [*x, *y]), merged(opcode, a, b))
    same(of(opcode, x[::-1]), a)
    if agg.IS_LINEAR[opcode]:
        both = np.concatenate([merged(opcode, a, b), b])
        take_out(opcode, both)
        same(both[: len(a)], a)


@pytest.mark.parametrize("opcode", FLOATING)
@settings(max_examples=30, deadline=None)
@given(data=st.data())
def test_floating_aggregates_obey_the_laws_within_rounding(
    opcode: int, data: st.DataObject
) -> None:
    """The same laws; what differs is in the last digits."""
    x, y = (data.draw(values_for(opcode)) for _ in range(2))
    a, b = of(opcode, x), of(opcode, y)
    np.testing.assert_array_equal(merged(opcode, agg.empty(opcode), a), a)
    together = of(opcode, [*x, *y])
    for one, other in ((merged(opcode, a, b), together), (merged(opcode, b, a), together)):
        at = 0 if opcode == agg.SUM_FLOAT else 1
        np.testing.assert_allclose(
            one.view(np.float64)[at:], other.view(np.float64)[at:], rtol=1e-9, atol=1e-3
        )


@settings(max_examples=100, deadline=None)
@given(st.lists(INT, min_size=2, max_size=50))
def test_deviation_of_integers_is_exact(values: list[int]) -> None:
    """To the last digits of a float64, also where all values are huge and nearly equal."""
    for shift in (0, 2**31 - 1 - max(values)):
        moved = [value + shift for value in values]
        if min(moved) <= -(2**31):
            continue
        low, high = of(agg.SQUARES_INT, moved).tolist()
        total = int(of(agg.SUM_INT, moved)[0])
        expected = statistics.stdev([Fraction(v) for v in moved])
        assert deviation(len(moved), total, low, high) == pytest.approx(expected, rel=1e-15)


def test_deviation_holds_at_its_bounds() -> None:
    """Two thousand million values of the largest size do not overflow: checked by arithmetic."""
    n, top = 2**31 - 1, 2**31 - 1
    square = top * top
    low, high = n * (square & 0xFFFFFFFF), n * (square >> 32)
    assert max(low, high, n * top) < 2**63
    assert deviation(n, n * top, low, high) == 0.0
    # Half of them negative: the mean is about 0, the deviation about the value itself.
    assert deviation(n - 1, 0, (n - 1) * (square & 0xFFFFFFFF), (n - 1) * (square >> 32)) == (
        pytest.approx(top * math.sqrt((n - 1) / (n - 2)), rel=1e-15)
    )


@pytest.mark.parametrize("n_values", [0, 1, 5, 16])
def test_small_distinct_counts_are_exact(n_values: int) -> None:
    """Up to 16 values the sketch keeps their hashes."""
    for seed in range(50):
        rng = np.random.default_rng(seed)
        values = rng.choice(10**6, n_values, replace=False).repeat(3)
        assert distinct(of(agg.DISTINCT, rng.permutation(values).tolist())) == n_values


@pytest.mark.parametrize("n_values", [17, 100, 256, 640, 1000, 20_000])
def test_distinct_counts_keep_their_stated_error(n_values: int) -> None:
    """The standard error over 200 seeds is what is stated, and there is no bias to speak of."""
    found = []
    for seed in range(200):
        values = np.random.default_rng(seed).integers(-(2**62), 2**62, n_values)
        found.append(distinct(of(agg.DISTINCT, values.tolist())) / n_values - 1)
    assert math.sqrt(np.mean(np.square(found))) <= 1.1 * 0.065
    assert abs(np.mean(found)) <= 0.03


@settings(max_examples=20, deadline=None)
@given(
    st.lists(st.integers(0, 400), max_size=300),
    st.lists(st.integers(0, 400), max_size=300),
)
def test_sketches_of_any_size_unite_to_the_sketch_of_all(x: list[int], y: list[int]) -> None:
    """Kept hashes with registers, registers with registers: bit for bit as if taken together."""
    both = merged(agg.DISTINCT, of(agg.DISTINCT, x), of(agg.DISTINCT, y))
    np.testing.assert_array_equal(both, of(agg.DISTINCT, [*x, *y]))


def test_distances_are_those_of_the_globe() -> None:
    """A quarter of a meridian, antipodes, the date line, and Paris to London."""
    quarter = math.pi * agg.EARTH_RADIUS_KM / 2
    assert kilometres(0, 0, 90, 0) == pytest.approx(quarter, rel=1e-12)
    assert kilometres(10, 20, -10, -160) == pytest.approx(2 * quarter, rel=1e-7)
    assert kilometres(0, 179.5, 0, -179.5) == pytest.approx(quarter / 90, rel=1e-9)
    assert kilometres(48.8566, 2.3522, 51.5074, -0.1278) == pytest.approx(343.56, abs=0.1)
    assert kilometres(12.3, 45.6, 12.3, 45.6) == 0.0
