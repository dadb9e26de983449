"""The distance is a distance, and the probability is one."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from sentinel.monitoring.divergence import chi_square_tail, homogeneity, jensen_shannon

histograms = arrays(np.int64, 6, elements=st.integers(0, 10_000))


@given(first=histograms, second=histograms)
def test_the_distance_is_bounded_and_symmetric(first: np.ndarray, second: np.ndarray) -> None:
    """Any two histograms, empty ones included."""
    distance = jensen_shannon(first, second)
    assert 0.0 <= distance <= 1.0
    assert math.isclose(distance, jensen_shannon(second, first), abs_tol=1e-9)
    assert jensen_shannon(first, first) == 0.0


def test_the_distance_is_one_when_nothing_is_shared() -> None:
    """Disjoint histograms are as far apart as can be."""
    assert jensen_shannon(np.array([5, 0, 9]), np.array([0, 7, 0])) == 1.0


def test_the_distance_agrees_with_the_definition() -> None:
    """The textbook sum, without the correction for chance, at sizes where that is nothing."""
    p, q = np.array([0.1, 0.4, 0.5]), np.array([0.3, 0.3, 0.4])
    middle = (p + q) / 2
    divergence = sum(
        0.5 * (a * math.log2(a / m) + b * math.log2(b / m))
        for a, b, m in zip(p, q, middle, strict=True)
    )
    size = 10**12
    found = jensen_shannon((p * size).astype(np.int64), (q * size).astype(np.int64))
    assert math.isclose(found, math.sqrt(divergence), rel_tol=1e-6)


def test_chance_is_taken_off_the_distance() -> None:
    """Samples of one distribution have a mean squared distance near zero at any size."""
    rng = np.random.default_rng(3)
    shares = np.full(16, 1 / 16)
    for n in (500, 5000):
        distances = [
            jensen_shannon(rng.multinomial(n, shares), rng.multinomial(50_000, shares))
            for _ in range(300)
        ]
        raw = 15 / (8 * n * math.log(2))
        assert np.mean(np.square(distances)) < raw / 2


@pytest.mark.parametrize(
    ("statistic", "n_degrees", "tail"),
    [
        (0.0, 3, 1.0),
        (10.0, 0, 1.0),
        (2.705543454, 1, 0.1),
        (10.82756617, 1, 0.001),
        (4.605170186, 2, 0.1),
        (11.34486673, 3, 0.01),
        (24.99579014, 15, 0.05),
        (31.99992691, 16, 0.01),
        (52.38597327, 18, 3.2e-5),
    ],
)
def test_tails_agree_with_the_tables(statistic: float, n_degrees: int, tail: float) -> None:
    """Quantiles of Abramowitz and Stegun, table 26.8."""
    assert math.isclose(chi_square_tail(statistic, n_degrees), tail, rel_tol=2e-2)


@given(statistic=st.floats(0, 1e6), n_degrees=st.integers(0, 40))
def test_a_tail_is_a_probability(statistic: float, n_degrees: int) -> None:
    """Also far out, where it underflows to zero."""
    assert 0.0 <= chi_square_tail(statistic, n_degrees) <= 1.0


def test_the_statistic_follows_its_law_on_equal_samples() -> None:
    """Of 2,000 tests at 1 in 100, about 20 reject."""
    rng = np.random.default_rng(11)
    shares = rng.dirichlet(np.ones(16))
    n_rejected = 0
    for _ in range(2000):
        statistic, n_degrees = homogeneity(
            rng.multinomial(2000, shares), rng.multinomial(20_000, shares)
        )
        n_rejected += chi_square_tail(statistic, n_degrees) < 0.01
    assert 5 <= n_rejected <= 40


def test_rare_cells_are_pooled() -> None:
    """A cell with one count in each sample is no evidence."""
    common = np.array([1000, 1000, 1, 0])
    statistic, n_degrees = homogeneity(common, common[[0, 1, 3, 2]])
    assert n_degrees == 2
    assert statistic == 0.0


def test_an_empty_sample_compares_with_nothing() -> None:
    """No counts, no degrees of freedom."""
    assert homogeneity(np.zeros(4, dtype=np.int64), np.arange(4)) == (0.0, 0)
