"""What drift counts: per feature one small histogram and its magnitude, O(1) a value.

A value falls into one of :data:`N_SLOTS` slots: 16 bins between the reference's edges, or one
slot each for defaulted, stale and not finite. Everything is an integer (or a minimum), so the
sketches of replicas add up to exactly the sketch of one process.

The magnitude is the mean of ``log2 |v|`` read off the bits of the float: exponent and mantissa
together are ``log2`` to within 0.09 (Mitchell 1962), and its error is the same on both sides of
a comparison.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np
import numpy.typing as npt

from sentinel.core.native import native, native_inline

N_BINS = 16
N_EDGES = N_BINS - 1
DEFAULTED_SLOT = N_BINS
STALE_SLOT = N_BINS + 1
NOT_FINITE_SLOT = N_BINS + 2
N_SLOTS = N_BINS + 3

# Steps of the magnitude in one doubling.
MAGNITUDE_STEPS = 256
_MAGNITUDE_SHIFT = 15
_ROWS_OF_BLOCK = 256
_NAN, _INT32_MAX = 0x7FC00000, 0x7FFFFFFF

Int64Array = npt.NDArray[np.int64]
Float32Array = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Sketch:
    """Counts of a stretch of the stream. The arrays are changed in place by :meth:`update`.

    Attributes
    ----------
    counts : ndarray of int64, shape (n_features + 1, N_SLOTS)
        Values per slot; the last row is that of the scores.
    magnitude : ndarray of int64, shape (n_features, 3)
        Number, sum and sum of squares of the magnitudes of present, finite, non-zero values.
    extremes : ndarray of float32, shape (n_features, 2)
        Smallest and largest present, finite value; infinities, crossed, where there is none.
    """

    counts: Int64Array
    magnitude: Int64Array
    extremes: Float32Array

    @classmethod
    def empty(cls, n_features: int) -> Self:
        """Return the sketch of no events."""
        extremes = np.empty((n_features, 2), dtype=np.float32)
        extremes[:, 0], extremes[:, 1] = np.inf, -np.inf
        return cls(
            counts=np.zeros((n_features + 1, N_SLOTS), dtype=np.int64),
            magnitude=np.zeros((n_features, 3), dtype=np.int64),
            extremes=extremes,
        )

    @property
    def n_events(self) -> int:
        """How many events were counted."""
        return int(self.counts[0].sum())

    def update(
        self,
        edges: Float32Array,
        features: Float32Array,
        status: npt.NDArray[np.uint8],
        scores: npt.NDArray[np.float64],
        is_held: npt.NDArray[np.bool_],
    ) -> None:
        """Count one batch.

        Parameters
        ----------
        edges : ndarray of float32, shape (n_features + 1, N_EDGES), C order
            Ascending, filled up with infinity; the last row is that of the scores.
        features : ndarray of float32, shape (n, n_features)
        status : ndarray of uint8, shape (n, n_features)
            0 present, 1 defaulted, 2 stale.
        scores : ndarray of float64, shape (n,)
        is_held : ndarray of bool, shape (n,)
            Rows without a score.

        Raises
        ------
        ValueError
            When the shapes do not agree: the kernels do not check again.
        """
        n_rows, n_features = features.shape
        n_lengths = {n_rows, len(scores), len(is_held)}
        if (
            self.counts.shape != (n_features + 1, N_SLOTS)
            or edges.shape != (n_features + 1, N_EDGES)
            or status.shape != features.shape
            or len(n_lengths) != 1
        ):
            raise ValueError(
                f"a sketch of {len(self.counts) - 1} features: features {features.shape}, "
                f"status {status.shape}, {len(scores)} scores, {len(is_held)} held do not fit"
            )
        _count(
            np.ascontiguousarray(features),
            np.ascontiguousarray(status),
            edges,
            self.counts,
            self.magnitude,
            self.extremes,
        )
        _count_scores(np.ascontiguousarray(scores), is_held, edges[-1], self.counts[-1])

    def merge(self, other: Sketch) -> Sketch:
        """Return the sketch of both stretches together."""
        extremes = np.empty_like(self.extremes)
        extremes[:, 0] = np.minimum(self.extremes[:, 0], other.extremes[:, 0])
        extremes[:, 1] = np.maximum(self.extremes[:, 1], other.extremes[:, 1])
        return Sketch(
            counts=self.counts + other.counts,
            magnitude=self.magnitude + other.magnitude,
            extremes=extremes,
        )


def magnitudes(sketch: Sketch) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Return mean and standard deviation of ``log2 |v|`` of each feature; 0.0 without values."""
    number = np.maximum(sketch.magnitude[:, 0], 1)
    mean = sketch.magnitude[:, 1] / number
    variance = np.maximum(sketch.magnitude[:, 2] / number - mean**2, 0.0)
    return mean / MAGNITUDE_STEPS, np.sqrt(variance) / MAGNITUDE_STEPS


@native_inline
def _bin_of(value: np.float32, edges: Float32Array) -> int:
    """Find the bin by four comparisons without a branch: ``edges[b - 1] <= value < edges[b]``."""
    place = 8 if value >= edges[7] else 0
    place += 4 if value >= edges[place + 3] else 0
    place += 2 if value >= edges[place + 1] else 0
    place += 1 if value >= edges[place] else 0
    return place


@native
def _count(
    features: Float32Array,
    status: npt.NDArray[np.uint8],
    edges: Float32Array,
    counts: Int64Array,
    magnitude: Int64Array,
    extremes: Float32Array,
) -> None:
    """Count a feature at a time, so many rows of it: loops without a branch, over one array.

    How many values lie above each edge says how many lie between two; nothing is looked up.
    """
    n_rows, n_features = features.shape
    all_bits = features.view(np.uint32)
    bits = np.empty(_ROWS_OF_BLOCK, dtype=np.uint32)
    values = bits.view(np.float32)
    codes = np.empty(_ROWS_OF_BLOCK, dtype=np.uint8)
    for first in range(0, n_rows, _ROWS_OF_BLOCK):
        n = min(_ROWS_OF_BLOCK, n_rows - first)
        for feature in range(n_features):
            for i in range(n):
                bits[i] = all_bits[first + i, feature]
                codes[i] = status[first + i, feature]
            own_counts = counts[feature]
            n_good = _count_magnitudes(bits, codes, n, own_counts, magnitude[feature])
            if n_good:
                _widen(bits, n, extremes[feature])
            n_above = n_good
            for edge in range(N_EDGES):
                least = edges[feature, edge]
                n_over = np.int32(0)
                for i in range(n):
                    n_over = np.int32(n_over + np.int32(values[i] >= least))
                own_counts[edge] += n_above - n_over
                n_above = np.int64(n_over)
            own_counts[N_EDGES] += n_above


@native_inline
def _count_magnitudes(
    bits: npt.NDArray[np.uint32],
    codes: npt.NDArray[np.uint8],
    n: int,
    counts: Int64Array,
    magnitude: Int64Array,
) -> np.int64:
    """Count what is no number that came, which becomes NaN, and the magnitudes of the others."""
    n_present = n_defaulted = n_good = n_other = np.int64(0)
    total = squares = np.int64(0)
    for i in range(n):
        n_present += codes[i] == 0
        n_defaulted += codes[i] == 1
    for i in range(n):
        own = bits[i] & np.uint32(0x7FFFFFFF)
        is_good = (own < np.uint32(0x7F800000)) & (codes[i] == 0)
        own = own if is_good else np.uint32(0)
        step = np.uint64(own >> np.uint32(_MAGNITUDE_SHIFT))
        n_good += is_good
        n_other += own != 0
        total += np.int64(step)
        squares += np.int64(step * step)
        bits[i] = bits[i] if is_good else np.uint32(_NAN)
    counts[DEFAULTED_SLOT] += n_defaulted
    counts[STALE_SLOT] += n - n_present - n_defaulted
    counts[NOT_FINITE_SLOT] += n_present - n_good
    magnitude[0] += n_other
    magnitude[1] += total
    magnitude[2] += squares
    return n_good


@native_inline
def _widen(bits: npt.NDArray[np.uint32], n: int, extremes: Float32Array) -> None:
    """Take the smallest and the largest of the values that are not NaN, as ordered integers."""
    low, high = np.int32(_INT32_MAX), np.int32(-_INT32_MAX - 1)
    for i in range(n):
        own = np.int32(bits[i])
        place = np.int32(own ^ np.int32(np.int32(own >> np.int32(31)) & np.int32(_INT32_MAX)))
        is_value = bits[i] != np.uint32(_NAN)
        low = min(low, place if is_value else np.int32(_INT32_MAX))
        high = max(high, place if is_value else np.int32(-_INT32_MAX - 1))
    found = np.empty(2, dtype=np.int32)
    found[0] = low if low >= 0 else low ^ np.int32(_INT32_MAX)
    found[1] = high if high >= 0 else high ^ np.int32(_INT32_MAX)
    values = found.view(np.float32)
    extremes[0] = min(extremes[0], values[0])
    extremes[1] = max(extremes[1], values[1])


@native
def _count_scores(
    scores: npt.NDArray[np.float64],
    is_held: npt.NDArray[np.bool_],
    edges: Float32Array,
    counts: Int64Array,
) -> None:
    for row in range(len(scores)):
        if is_held[row]:
            continue
        value = np.float32(scores[row])
        if np.isfinite(value):
            counts[_bin_of(value, edges)] += 1
        else:
            counts[NOT_FINITE_SLOT] += 1
