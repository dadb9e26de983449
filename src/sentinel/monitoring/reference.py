"""What drift is measured against: the distributions of features and scores at training.

1. Edges of each feature are quantiles of its present values. A value that fills more than one
   quantile (a zero, a category) gets a bin of its own. Below the smallest and above the largest
   value seen there is a bin that is empty in the reference.
2. Rows come in the order of time. They are cut into blocks, and each block is held against all:
   where blocks differ more than chance allows (a daily rhythm, several events of one card), the
   feature has an intra-block correlation ``rho``, and a window of ``n`` events is worth only
   ``n / (1 + (n - 1) rho)`` independent ones (Kish 1965, *Survey Sampling*, 5.4; Rao, Scott 1981).
   Without this, drift alarms go off every night.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import msgspec
import numpy as np
import numpy.typing as npt

from sentinel.core import limits
from sentinel.core.errors import ErrorCode, SentinelError
from sentinel.monitoring.divergence import homogeneity
from sentinel.monitoring.sketch import N_EDGES, N_SLOTS, Float32Array, Sketch

FORMAT = "sentinel-reference-1"
_FEATURE_LEVELS = (0, 0.01, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99)
_SCORE_LEVELS = (0, 0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.975, 0.99, 0.995, 0.998, 0.999, 0.9999)
# Blocks of fewer rows say more about chance than about the day.
_BLOCK_ROWS_MIN = 500
_BLOCKS_MAX = 48


class _ReferenceData(msgspec.Struct, forbid_unknown_fields=True):
    """The form in which a reference travels with a release."""

    format: str
    feature_names: list[str]
    edges: list[list[float]]
    counts: list[list[int]]
    magnitude: list[list[int]]
    extremes: list[list[float]]
    correlation: list[float]


@dataclass(frozen=True, slots=True)
class Reference:
    """Distributions of features and scores, as data.

    Attributes
    ----------
    feature_names : tuple of str
    edges : ndarray of float32, shape (n_features + 1, N_EDGES)
        Ascending, filled up with infinity; the last row is that of the scores.
    sketch : Sketch
        Counts of the reference rows.
    correlation : ndarray of float64, shape (n_features + 1,), in [0, 1]
        Intra-block correlation ``rho``.
    """

    feature_names: tuple[str, ...]
    edges: Float32Array
    sketch: Sketch
    correlation: npt.NDArray[np.float64]

    @property
    def n_rows(self) -> int:
        """How many rows it was built from."""
        return self.sketch.n_events

    @classmethod
    def build(
        cls,
        feature_names: tuple[str, ...],
        *,
        features: Float32Array,
        status: npt.NDArray[np.uint8],
        scores: npt.NDArray[np.float64],
    ) -> Self:
        """Build it from rows in the order of time.

        Parameters
        ----------
        feature_names : tuple of str
            Column order of ``features``.
        features : ndarray of float32, shape (n_rows, n_features)
        status : ndarray of uint8, shape (n_rows, n_features)
            0 present, 1 defaulted, 2 stale.
        scores : ndarray of float64, shape (n_rows,)
            Finite; what the champion answers to these rows.

        Raises
        ------
        SentinelError
            ``reference-invalid`` for too few rows, shapes that do not agree, scores that are not
            finite.
        """
        n_rows, n_features = features.shape
        shapes_agree = status.shape == features.shape and scores.shape == (n_rows,)
        if not shapes_agree or n_features != len(feature_names):
            raise _invalid(
                "rows",
                f"one status a value, one score a row, {len(feature_names)} features",
                f"{features.shape}, {status.shape}, {scores.shape}",
            )
        if not n_rows >= limits.REFERENCE_ROWS_MIN:
            raise _invalid("rows", f"at least {limits.REFERENCE_ROWS_MIN} rows", n_rows)
        if not np.isfinite(scores).all():
            raise _invalid("scores", "finite scores", "others")
        edges = np.full((n_features + 1, N_EDGES), np.inf, dtype=np.float32)
        for index in range(n_features):
            column = features[:, index]
            present = column[(status[:, index] == 0) & np.isfinite(column)]
            _put_edges(edges[index], present, _FEATURE_LEVELS)
        _put_edges(edges[-1], scores.astype(np.float32), _SCORE_LEVELS)
        blocks = _count_blocks(edges, features, status, scores)
        sketch = blocks[0]
        for block in blocks[1:]:
            sketch = sketch.merge(block)
        return cls(
            feature_names=feature_names,
            edges=edges,
            sketch=sketch,
            correlation=_correlation(blocks, sketch),
        )

    def require_names(self, feature_names: tuple[str, ...]) -> None:
        """Refuse to be used for other features than it was built from, or in another order.

        Raises
        ------
        SentinelError
            ``reference-invalid``.
        """
        if feature_names != self.feature_names:
            raise _invalid("feature_names", ", ".join(feature_names), ", ".join(self.feature_names))

    def to_data(self) -> dict[str, object]:
        """Return plain data, without infinities."""
        n_features = len(self.feature_names)
        has_values = self.sketch.extremes[:, 0] <= self.sketch.extremes[:, 1]
        return {
            "format": FORMAT,
            "feature_names": list(self.feature_names),
            "edges": [[float(edge) for edge in row[np.isfinite(row)]] for row in self.edges],
            "counts": self.sketch.counts.tolist(),
            "magnitude": self.sketch.magnitude.tolist(),
            "extremes": [
                self.sketch.extremes[i].tolist() if has_values[i] else [] for i in range(n_features)
            ],
            "correlation": self.correlation.tolist(),
        }

    @classmethod
    def from_data(cls, data: object) -> Self:
        """Build it from what :meth:`to_data` gave, believing nothing.

        Raises
        ------
        SentinelError
            ``reference-invalid``, with the part that is wrong.
        """
        try:
            parts = msgspec.convert(data, _ReferenceData)
        except msgspec.ValidationError as error:
            raise _invalid("reference", "the form of a reference", error) from error
        n_features = len(parts.feature_names)
        if parts.format != FORMAT:
            raise _invalid("format", FORMAT, parts.format)
        if not 0 < n_features <= limits.FEATURES_MAX or len(set(parts.feature_names)) < n_features:
            raise _invalid(
                "feature_names", f"1 to {limits.FEATURES_MAX} different names", n_features
            )
        sketch = Sketch.empty(n_features)
        _fill(sketch.counts, parts.counts, "counts", N_SLOTS)
        _fill(sketch.magnitude, parts.magnitude, "magnitude", 3)
        edges = np.full((n_features + 1, N_EDGES), np.inf, dtype=np.float32)
        _fill_rows(edges, parts.edges, "edges")
        _fill_rows(sketch.extremes, parts.extremes, "extremes")
        correlation = np.array(parts.correlation, dtype=np.float64)
        if (
            correlation.shape != (n_features + 1,)
            or not ((correlation >= 0) & (correlation <= 1)).all()
        ):
            raise _invalid("correlation", f"{n_features + 1} numbers in [0, 1]", correlation.shape)
        totals = sketch.counts.sum(axis=1)
        if not totals[0] >= limits.REFERENCE_ROWS_MIN or (totals != totals[0]).any():
            raise _invalid(
                "counts", "the same number of rows for each feature", set(totals.tolist())
            )
        return cls(tuple(parts.feature_names), edges, sketch, correlation)


def _invalid(at: str, expected: str, got: object) -> SentinelError:
    return SentinelError(
        ErrorCode.REFERENCE_INVALID, at=f"reference.{at}", expected=expected, got=got
    )


def _put_edges(edges: Float32Array, values: Float32Array, levels: tuple[float, ...]) -> None:
    """Put quantiles into one row of edges; a repeated one gets a bin of its own."""
    if len(values) == 0:
        return
    quantiles = np.quantile(values, levels, method="nearest").astype(np.float32)
    distinct, repeats = np.unique(quantiles, return_counts=True)
    above = np.nextafter(distinct, np.float32(np.inf))
    ends = np.nextafter(values.max(), np.float32(np.inf), dtype=np.float32)
    chosen = np.unique(np.concatenate([distinct, above[repeats > 1], [ends]]))
    chosen = chosen[np.isfinite(chosen)]
    edges[: len(chosen)] = chosen


def _count_blocks(
    edges: Float32Array,
    features: Float32Array,
    status: npt.NDArray[np.uint8],
    scores: npt.NDArray[np.float64],
) -> list[Sketch]:
    n_blocks = max(1, min(_BLOCKS_MAX, len(features) // _BLOCK_ROWS_MIN))
    blocks = []
    for rows in np.array_split(np.arange(len(features)), n_blocks):
        block = Sketch.empty(features.shape[1])
        part = slice(rows[0], rows[-1] + 1)
        nobody = np.zeros(len(rows), dtype=np.bool_)
        block.update(edges, features[part], status[part], scores[part], nobody)
        blocks.append(block)
    return blocks


def _correlation(blocks: list[Sketch], whole: Sketch) -> npt.NDArray[np.float64]:
    """Estimate ``rho`` from how much blocks differ from the rest: ``deff = 1 + (n - 1) rho``."""
    correlation = np.zeros(len(whole.counts))
    n_block = whole.n_events // len(blocks)
    if len(blocks) < 2:
        return correlation
    for index in range(len(correlation)):
        ratios = []
        for block in blocks:
            rest = whole.counts[index] - block.counts[index]
            statistic, n_degrees = homogeneity(block.counts[index], rest)
            if n_degrees:
                ratios.append(statistic / n_degrees)
        if ratios:
            effect = float(np.mean(ratios))
            chance = 2 * float(np.sqrt(2 / (len(ratios) * 8)))
            if effect > 1 + chance:
                correlation[index] = min(1.0, (effect - 1) / max(1, n_block - 1))
    return correlation


def _fill(target: npt.NDArray[np.int64], rows: list[list[int]], name: str, width: int) -> None:
    if len(rows) != len(target) or any(len(row) != width for row in rows):
        raise _invalid(name, f"{len(target)} rows of {width}", f"{len(rows)} rows")
    if any(not 0 <= value < 1 << 62 for row in rows for value in row):
        raise _invalid(name, "counts from 0", "others")
    target[:] = rows


def _fill_rows(target: Float32Array, rows: list[list[float]], name: str) -> None:
    if len(rows) != len(target) or any(len(row) > target.shape[1] for row in rows):
        raise _invalid(
            name, f"{len(target)} rows of at most {target.shape[1]}", f"{len(rows)} rows"
        )
    for index, row in enumerate(rows):
        with np.errstate(over="ignore"):
            values = np.array(row, dtype=np.float32)
        if not np.isfinite(values).all() or (np.diff(values) < 0).any():
            raise _invalid(f"{name}[{index}]", "finite numbers in ascending order", row)
        target[index, : len(values)] = values
