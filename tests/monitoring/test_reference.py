"""A reference is built from rows, travels as data, and is believed only when it is whole."""

from __future__ import annotations

import json
from collections.abc import Callable

import numpy as np
import pytest

from sentinel.core.errors import ErrorCode, SentinelError
from sentinel.monitoring import Reference

NAMES = ("amount", "count", "constant", "missing")
Data = dict[str, list[object]]


def _rows(n: int, *, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    features = np.stack(
        [
            rng.lognormal(3, 1, n),
            rng.poisson(0.4, n),
            np.full(n, 7.0),
            np.full(n, np.nan),
        ],
        axis=1,
    ).astype(np.float32)
    status = np.zeros(features.shape, dtype=np.uint8)
    status[:, 3] = 1
    return features, status, rng.beta(0.5, 9, n)


@pytest.fixture
def reference() -> Reference:
    """Return a reference of 4,000 rows."""
    features, status, scores = _rows(4000)
    return Reference.build(NAMES, features=features, status=status, scores=scores)


@pytest.mark.parametrize(
    ("change", "at"),
    [
        (lambda f, s, p: (f[:50], s[:50], p[:50]), "rows"),
        (lambda f, s, p: (f[:0], s[:0], p[:0]), "rows"),
        (lambda f, s, p: (f, s[:-1], p), "rows"),
        (lambda f, s, p: (f[:, :2], s[:, :2], p), "rows"),
        (lambda f, s, p: (f, s, np.where(p > 0.5, np.nan, p)), "scores"),
    ],
)
def test_rows_that_cannot_be_a_reference_are_refused(
    change: Callable[..., tuple[np.ndarray, ...]], at: str
) -> None:
    """Too few, not of one shape, without scores: each is named."""
    features, status, scores = change(*_rows(1000))
    with pytest.raises(SentinelError) as error:
        Reference.build(NAMES, features=features, status=status, scores=scores)
    assert error.value.code is ErrorCode.REFERENCE_INVALID
    assert error.value.at == f"reference.{at}"


def test_a_reference_survives_its_own_data(reference: Reference) -> None:
    """Through strict JSON and back, nothing changes."""
    text = json.dumps(reference.to_data(), allow_nan=False)
    again = Reference.from_data(json.loads(text))
    assert again.feature_names == reference.feature_names
    assert again.n_rows == 4000
    assert np.array_equal(again.edges, reference.edges)
    assert np.array_equal(again.sketch.counts, reference.sketch.counts)
    assert np.array_equal(again.sketch.magnitude, reference.sketch.magnitude)
    assert np.array_equal(again.sketch.extremes, reference.sketch.extremes)
    assert np.array_equal(again.correlation, reference.correlation)


def _drop(data: Data) -> None:
    del data["counts"]


def _extra(data: Data) -> None:
    data["more"] = []


BROKEN: dict[str, tuple[Callable[[Data], object], str]] = {
    "a part missing": (_drop, "reference"),
    "an unknown part": (_extra, "reference"),
    "another format": (lambda data: data.update(format="x"), "format"),  # type: ignore[call-overload]
    "a name twice": (lambda data: data["feature_names"].__setitem__(0, "count"), "feature_names"),
    "a row missing": (lambda data: data["counts"].pop(), "counts"),
    "a short row": (lambda data: data["counts"].__setitem__(0, [1]), "counts"),
    "a negative count": (lambda data: data["counts"].__setitem__(0, [-1] * 19), "counts"),
    "other totals": (lambda data: data["counts"].__setitem__(0, [9999] * 19), "counts"),
    "edges that fall": (lambda data: data["edges"].__setitem__(0, [2.0, 1.0]), "edges[0]"),
    "edges too large": (lambda data: data["edges"].__setitem__(1, [1e300]), "edges[1]"),
    "too many edges": (lambda data: data["edges"].__setitem__(0, [1.0] * 16), "edges"),
    "a text": (lambda data: data["edges"].__setitem__(0, ["NaN"]), "reference"),
    "extremes crossed": (lambda data: data["extremes"].__setitem__(0, [2.0, 1.0]), "extremes[0]"),
    "a correlation over 1": (lambda data: data["correlation"].__setitem__(0, 2.0), "correlation"),
    "a correlation NaN": (
        lambda data: data["correlation"].__setitem__(0, float("nan")),
        "correlation",
    ),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_data_that_are_no_reference_are_refused(reference: Reference, kind: str) -> None:
    """Nothing of a release is believed; the part that is wrong is named."""
    data = reference.to_data()
    change, at = BROKEN[kind]
    change(data)  # type: ignore[arg-type]
    with pytest.raises(SentinelError) as error:
        Reference.from_data(data)
    assert error.value.code is ErrorCode.REFERENCE_INVALID
    assert error.value.at in {f"reference.{at}", "reference.reference"}


@pytest.mark.parametrize("data", [None, 3, [], {}, {"format": "sentinel-reference-1"}])
def test_other_data_are_no_reference(data: object) -> None:
    """Whatever JSON can hold."""
    with pytest.raises(SentinelError) as error:
        Reference.from_data(data)
    assert error.value.code is ErrorCode.REFERENCE_INVALID


@pytest.mark.parametrize("names", [NAMES[:-1], NAMES[::-1], (*NAMES, "more"), ()])
def test_a_reference_of_other_features_is_refused(
    reference: Reference, names: tuple[str, ...]
) -> None:
    """Another order would compare amounts with counts."""
    reference.require_names(NAMES)
    with pytest.raises(SentinelError) as error:
        reference.require_names(names)
    assert error.value.code is ErrorCode.REFERENCE_INVALID
    assert error.value.at == "reference.feature_names"


def test_a_value_that_fills_quantiles_has_a_bin_of_its_own(reference: Reference) -> None:
    """Zeros of a count are not mixed with its ones."""
    features, _, _ = _rows(4000)
    filled = [int(n) for n in reference.sketch.counts[1][:16] if n]
    assert int((features[:, 1] == 0).sum()) in filled
    assert int((features[:, 1] == 1).sum()) in filled


def test_there_is_an_empty_bin_on_either_side(reference: Reference) -> None:
    """Values never seen in training have somewhere to be counted."""
    for index in (0, 1, 2):
        filled = np.flatnonzero(reference.sketch.counts[index][:16])
        n_edges = int(np.isfinite(reference.edges[index]).sum())
        assert filled[0] == 1
        assert filled[-1] == n_edges - 1


def test_independent_rows_have_no_correlation(reference: Reference) -> None:
    """Blocks of a stationary sample differ by chance alone."""
    assert reference.correlation.max() < 1e-3


def test_a_daily_rhythm_is_measured_as_correlation() -> None:
    """Blocks of day and night differ: windows of that stream count for less."""
    features, status, scores = _rows(24_000)
    night = (np.arange(24_000) // 1000) % 2
    features[:, 0] *= 1 + night
    reference = Reference.build(NAMES, features=features, status=status, scores=scores)
    assert reference.correlation[0] > 0.005
    assert reference.correlation[1] < 0.001
