"""Fit category encodings: what share of each category was fraud, on the training part only.

The number of a category is its smoothed fraud rate ``(f + s * p) / (n + s)``: of its ``n`` training
events ``f`` were fraud, ``p`` is the rate of all of them, ``s`` the strength of the pull towards
it. A rare category is worth what all are worth, and one that was never seen gets ``p``.

Source: Micci-Barreca, *A Preprocessing Scheme for High-Cardinality Categorical Attributes in
Classification and Prediction Problems*, SIGKDD Explorations 3(1), 2001.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from sentinel.contract import EventBatch
from sentinel.features import CategoryEncoding, FeatureSet

Int64Array = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]

# Events that a category must have before its own rate counts as much as the rate of all.
STRENGTH = 100.0
_ABSENT = -1


@dataclass(frozen=True, slots=True, kw_only=True)
class Categories:
    """The category columns of a log, before any feature is computed.

    Attributes
    ----------
    event_ids, times_ms : ndarray of int64, shape (n_events,)
    columns : mapping of str to ndarray of int64, shape (n_events,)
        Index of the value by field name; -1 where there is none.
    """

    event_ids: Int64Array
    times_ms: Int64Array
    columns: Mapping[str, Int64Array]


def read_categories(features: FeatureSet, batches: Iterable[EventBatch]) -> Categories:
    """Collect the columns of all encodings that have no numbers yet."""
    schema = features.events
    names = tuple(dict.fromkeys(encoding.of.name for encoding in features.unfitted))
    at = [schema.fields.index(schema.field(name)) for name in names]
    none = np.empty(0, dtype=np.int64)
    ids, times = [none], [none]
    columns: list[list[Int64Array]] = [[none] for _ in names]
    for batch in batches:
        ids.append(batch.column(schema.event_id.name))
        times.append(batch.column(schema.event_time.name))
        for place, i in enumerate(at):
            columns[place].append(np.where(batch.present[i], batch.values[i], _ABSENT))
    return Categories(
        event_ids=np.concatenate(ids),
        times_ms=np.concatenate(times),
        columns={name: np.concatenate(columns[place]) for place, name in enumerate(names)},
    )


def fit_encodings(
    features: FeatureSet, categories: Categories, train: Int64Array, is_positive: BoolArray
) -> FeatureSet:
    """Give every encoding without numbers the numbers of the training part.

    Parameters
    ----------
    features : FeatureSet
    categories : Categories
    train : ndarray of int64
        Rows of the training part.
    is_positive : ndarray of bool, shape (n_events,)
        Labels as known at the cut.

    Returns
    -------
    FeatureSet
        The same features in the same order, fitted.
    """
    labels = is_positive[train]

    def fitted(encoding: CategoryEncoding) -> CategoryEncoding:
        rates = smoothed_rates(
            categories.columns[encoding.of.name][train],
            labels,
            n_values=len(encoding.of.values),
        )
        values = dict(zip(encoding.of.values, rates, strict=True))
        return dataclasses.replace(encoding, values=values)

    unfitted = set(map(id, features.unfitted))
    return FeatureSet(
        features.name,
        version=features.version,
        events=features.events,
        feedback=features.feedback,
        labels=[features.events.field(name) for name in features.labels],
        features=[
            fitted(feature)
            if isinstance(feature, CategoryEncoding) and id(feature) in unfitted
            else feature
            for feature in features.features
        ],
    )


def smoothed_rates(values: Int64Array, labels: BoolArray, *, n_values: int) -> list[float]:
    """Return the smoothed rate of each category; O(n).

    Examples
    --------
    >>> labels = np.array([True, False, False, False])
    >>> smoothed_rates(np.array([0, 0, 1, -1]), labels, n_values=3)
    [0.254..., 0.247..., 0.25]
    """
    has_value = values != _ABSENT
    n_all = np.bincount(values[has_value], minlength=n_values).astype(np.float64)
    n_positive = np.bincount(values[has_value & labels], minlength=n_values)
    prior = float(labels.mean()) if len(labels) else 0.0
    rates: list[float] = ((n_positive + STRENGTH * prior) / (n_all + STRENGTH)).tolist()
    return rates
