"""The metadata record of a feature set: what was computed, from what, and whether it holds."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from sentinel.core.files import write_atomically
from sentinel.core.hashing import canonical_json
from sentinel.features.feature_set import FeatureSet
from sentinel.features.matrix import PRESENT, STALE, FeatureMatrix

PASSED = "passed"
FAILED = "failed"


@dataclass(frozen=True, slots=True, kw_only=True)
class FeatureRecord:
    """One feature of a record.

    Attributes
    ----------
    name, type : str
        Column of the matrix, and its type: ``float32``.
    null_count : int
        Rows without a value: nothing to compute it from, or it was stale.
    stale_count : int
        Those of them that were stale.
    """

    name: str
    type: str
    null_count: int
    stale_count: int


@dataclass(frozen=True, slots=True, kw_only=True)
class FeatureSetRecord:
    """What is known about one computation of a feature set.

    Attributes
    ----------
    feature_set, feature_set_version : str
    feature_set_identity : str
        Hash of all that changes a value.
    timestamp : str
        When it was computed, RFC 3339, UTC.
    source_kafka_topic : str
        Topic or file that the events came from.
    schema_hash : str
        Of the event contract.
    feedback_schema_hash : str or None
    row_count : int
    features : tuple of FeatureRecord
    validation_status : str
        ``passed``, or ``failed``.
    validation_failures : tuple of str
        What failed, for people.
    """

    feature_set: str
    feature_set_version: str
    feature_set_identity: str
    timestamp: str
    source_kafka_topic: str
    schema_hash: str
    feedback_schema_hash: str | None
    row_count: int
    features: tuple[FeatureRecord, ...]
    validation_status: str
    validation_failures: tuple[str, ...]

    def to_data(self) -> dict[str, object]:
        """Return the record as plain data."""
        return {
            "feature_set": self.feature_set,
            "feature_set_version": self.feature_set_version,
            "feature_set_identity": self.feature_set_identity,
            "timestamp": self.timestamp,
            "source_kafka_topic": self.source_kafka_topic,
            "schema_hash": self.schema_hash,
            "feedback_schema_hash": self.feedback_schema_hash,
            "row_count": self.row_count,
            "features": [
                {
                    "name": feature.name,
                    "type": feature.type,
                    "null_count": feature.null_count,
                    "stale_count": feature.stale_count,
                }
                for feature in self.features
            ],
            "validation_status": self.validation_status,
            "validation_failures": list(self.validation_failures),
        }

    def write(self, path: Path) -> None:
        """Write the record as JSON, whole or not at all.

        Raises
        ------
        SentinelError
            ``file-unwritable``.
        """
        write_atomically(path, canonical_json(self.to_data()) + b"\n")


def record_of(
    features: FeatureSet, matrix: FeatureMatrix, *, source: str, at_ms: int
) -> FeatureSetRecord:
    """Describe a computation of a feature set, and validate it.

    It fails where there is no row, where a column is missing or has another place, where a value
    is not finite, or where a feature has no value in any row.

    Parameters
    ----------
    features : FeatureSet
    matrix : FeatureMatrix
        What was computed.
    source : str
        Topic or file that the events came from.
    at_ms : int
        When, in milliseconds since the epoch.

    Returns
    -------
    FeatureSetRecord
    """
    failures = []
    if matrix.n_rows == 0:
        failures.append("no row")
    if matrix.names != features.names:
        failures.append("the columns are not those of the feature set")
    is_finite = np.asarray(np.isfinite(matrix.values).all(axis=0))
    is_null = matrix.status != PRESENT
    is_stale = matrix.status == STALE
    for i, name in enumerate(matrix.names):
        if not is_finite[i]:
            failures.append(f"{name}: a value is not finite")
        if matrix.n_rows and is_null[:, i].all():
            failures.append(f"{name}: no row has a value")
    when = datetime.fromtimestamp(at_ms / 1000, tz=UTC)
    return FeatureSetRecord(
        feature_set=features.name,
        feature_set_version=features.version,
        feature_set_identity=features.identity,
        timestamp=when.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        source_kafka_topic=source,
        schema_hash=features.events.schema_hash,
        feedback_schema_hash=features.feedback.schema_hash if features.feedback else None,
        row_count=matrix.n_rows,
        features=tuple(
            FeatureRecord(
                name=name,
                type=str(matrix.values.dtype),
                null_count=int(is_null[:, i].sum()),
                stale_count=int(is_stale[:, i].sum()),
            )
            for i, name in enumerate(matrix.names)
        ),
        validation_status=FAILED if failures else PASSED,
        validation_failures=tuple(failures),
    )
