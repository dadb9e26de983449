"""Counting is exact, bounded and mergeable."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from sentinel.monitoring.sketch import (
    DEFAULTED_SLOT,
    N_EDGES,
    NOT_FINITE_SLOT,
    STALE_SLOT,
    Sketch,
    magnitudes,
)

any_float32 = st.floats(width=32, allow_nan=True, allow_infinity=True)


def _edges(*rows: list[float]) -> np.ndarray:
    edges = np.full((len(rows), N_EDGES), np.inf, dtype=np.float32)
    for index, row in enumerate(rows):
        edges[index, : len(row)] = row
    return edges


def _sketch(edges: np.ndarray, values: np.ndarray, status: np.ndarray) -> Sketch:
    sketch = Sketch.empty(values.shape[1])
    held = np.zeros(len(values), dtype=np.bool_)
    sketch.update(edges, values, status, np.linspace(0, 1, len(values)), held)
    return sketch


@settings(max_examples=50, deadline=None)
@given(
    values=arrays(np.float32, (40, 1), elements=any_float32),
    edges=st.lists(st.floats(-1e6, 1e6, width=32), min_size=0, max_size=N_EDGES, unique=True),
)
def test_every_value_falls_where_a_search_puts_it(values: np.ndarray, edges: list[float]) -> None:
    """The branchless search agrees with NumPy's, whatever the edges."""
    table = _edges(sorted(edges), [0.5])
    status = np.zeros(values.shape, dtype=np.uint8)
    sketch = _sketch(table, values, status)
    column = values[:, 0]
    finite = column[np.isfinite(column)]
    expected = np.bincount(np.searchsorted(table[0], finite, side="right"), minlength=16)
    assert sketch.counts[0, :16].tolist() == expected.tolist()
    assert sketch.counts[0, NOT_FINITE_SLOT] == len(column) - len(finite)
    assert sketch.n_events == 40


@pytest.mark.parametrize("change", range(4))
def test_arrays_that_do_not_fit_each_other_are_refused(change: int) -> None:
    """The kernels write where they are told, so they are told nothing wrong."""
    rows = [
        np.zeros((3, 1), dtype=np.float32),
        np.zeros((3, 1), dtype=np.uint8),
        np.zeros(3),
        np.zeros(3, dtype=np.bool_),
    ]
    sketch, edges = Sketch.empty(1), _edges([0.0], [0.5])
    sketch.update(edges, *rows)
    rows[change] = np.concatenate([rows[change], rows[change]], axis=-1)
    with pytest.raises(ValueError, match="do not fit"):
        sketch.update(edges, *rows)


def test_defaulted_and_stale_values_have_slots_of_their_own() -> None:
    """Their numbers, which are defaults, are not counted as values."""
    values = np.array([[1.0], [np.nan], [1e30], [2.0]], dtype=np.float32)
    status = np.array([[0], [1], [2], [0]], dtype=np.uint8)
    sketch = _sketch(_edges([1.5], [0.5]), values, status)
    assert sketch.counts[0, DEFAULTED_SLOT] == 1
    assert sketch.counts[0, STALE_SLOT] == 1
    assert sketch.counts[0, :2].tolist() == [1, 1]
    assert sketch.extremes[0].tolist() == [1.0, 2.0]


def test_held_decisions_have_no_score_to_count() -> None:
    """A held decision is no zero."""
    sketch = Sketch.empty(1)
    rows = np.zeros((3, 1), dtype=np.float32)
    status = np.zeros((3, 1), dtype=np.uint8)
    scores, held = np.array([0.0, 0.9, np.nan]), np.array([True, False, False])
    sketch.update(_edges([0.0], [0.5]), rows, status, scores, held)
    assert sketch.counts[-1].sum() == 2
    assert sketch.counts[-1, 1] == 1
    assert sketch.counts[-1, NOT_FINITE_SLOT] == 1


@settings(max_examples=25, deadline=None)
@given(values=arrays(np.float32, (30, 2), elements=any_float32), cut=st.integers(0, 30))
def test_sketches_of_replicas_add_up_to_that_of_one(values: np.ndarray, cut: int) -> None:
    """To the last bit, wherever the stream was cut."""
    edges = _edges([-1.0, 0.0, 5.0], [0.0], [0.5])
    status = (np.abs(values.view(np.int32)) % 3).astype(np.uint8)
    whole = Sketch.empty(2)
    parts = [Sketch.empty(2), Sketch.empty(2)]
    scores, held = np.linspace(0, 1, 30), np.zeros(30, dtype=np.bool_)
    whole.update(edges, values, status, scores, held)
    for part, rows in zip(parts, (slice(0, cut), slice(cut, 30)), strict=True):
        part.update(edges, values[rows], status[rows], scores[rows], held[rows])
    merged = parts[1].merge(parts[0])
    assert np.array_equal(merged.counts, whole.counts)
    assert np.array_equal(merged.magnitude, whole.magnitude)
    assert np.array_equal(merged.extremes, whole.extremes)


def test_magnitudes_are_close_to_the_logarithm() -> None:
    """Mean and spread of log2, to within the stated error of Mitchell's approximation."""
    rng = np.random.default_rng(2)
    values = rng.lognormal(2, 1.5, (5000, 1)).astype(np.float32)
    status = np.zeros(values.shape, dtype=np.uint8)
    small = _sketch(_edges([0.0], [0.5]), values, status)
    large = _sketch(_edges([0.0], [0.5]), values * np.float32(100), status)
    mean, spread = magnitudes(small)
    assert abs(mean[0] - 127 - np.log2(values).mean()) < 0.1
    assert abs(spread[0] - np.log2(values).std()) < 0.1
    assert abs(magnitudes(large)[0][0] - mean[0] - np.log2(100)) < 0.05


@settings(max_examples=60, deadline=None)
@given(
    values=arrays(np.float32, st.tuples(st.integers(0, 600), st.just(2)), elements=any_float32),
    seed=st.integers(0, 99),
)
def test_a_sketch_is_what_counting_one_by_one_gives(values: np.ndarray, seed: int) -> None:
    """All slots, magnitudes and extremes, of any floats and any status, over several blocks."""
    rng = np.random.default_rng(seed)
    status = rng.choice([0, 0, 0, 1, 2], size=values.shape).astype(np.uint8)
    edges = np.sort(rng.normal(size=(3, N_EDGES)), axis=1).astype(np.float32)
    sketch = Sketch.empty(2)
    sketch.update(edges, values, status, np.zeros(len(values)), np.ones(len(values), np.bool_))
    for feature in range(2):
        column, code = values[:, feature], status[:, feature]
        good = column[(code == 0) & np.isfinite(column)]
        counts = np.bincount(np.searchsorted(edges[feature], good, side="right"), minlength=16)
        assert sketch.counts[feature].tolist() == [
            *counts, (code == 1).sum(), (code == 2).sum(), (code == 0).sum() - len(good)
        ]  # fmt: skip
        steps = [int(v.view(np.uint32) & 0x7FFFFFFF) >> 15 for v in good]
        n_other = int((good != 0).sum())
        assert sketch.magnitude[feature].tolist() == [
            n_other,
            sum(steps),
            sum(s * s for s in steps),
        ]
        if len(good):
            assert sketch.extremes[feature].tolist() == [good.min(), good.max()]
