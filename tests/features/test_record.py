"""The metadata record says what was computed, and does not pass what it should not."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
from feature_world import Payment, every_kind, payments

from sentinel.features import DEFAULTED, Engine, FeatureMatrix, compile_plan, record_of

FEATURES = every_kind()


@pytest.fixture(scope="module")
def matrix() -> FeatureMatrix:
    return Engine(compile_plan(FEATURES)).advance(payments(300, 1))


def test_record_holds_what_the_mission_asks_for(matrix: FeatureMatrix, tmp_path: Path) -> None:
    """Version, time, source, schema, each feature with its type and nulls, and the verdict."""
    record = record_of(FEATURES, matrix, source="payments", at_ms=1_700_000_000_123)
    path = tmp_path / "record.json"
    record.write(path)
    data = json.loads(path.read_bytes())
    assert data["feature_set_version"] == "1"
    assert data["timestamp"] == "2023-11-14T22:13:20.123Z"
    assert data["source_kafka_topic"] == "payments"
    assert data["schema_hash"] == Payment.schema.schema_hash
    assert [feature["name"] for feature in data["features"]] == list(FEATURES.names)
    by_name = {feature["name"]: feature for feature in data["features"]}
    tips = int((matrix.status[:, FEATURES.names.index("tip")] == DEFAULTED).sum())
    assert by_name["tip"] == {
        "name": "tip",
        "type": "float32",
        "null_count": tips,
        "stale_count": 0,
    }
    assert by_name["amount"]["null_count"] == 0
    assert by_name["tip_last"]["stale_count"] > 0
    # No feedback was learned, so nothing could be said about it: that is not passed over.
    assert data["validation_status"] == "failed"
    assert data["validation_failures"] == [
        "fraud_share: no row has a value",
        "n_fraud: no row has a value",
        "since_fraud: no row has a value",
    ]


def test_a_whole_matrix_passes(matrix: FeatureMatrix) -> None:
    """Every feature with a value somewhere, all finite."""
    whole = dataclasses.replace(matrix, status=np.zeros_like(matrix.status))
    record = record_of(FEATURES, whole, source="payments", at_ms=0)
    assert (record.validation_status, record.validation_failures) == ("passed", ())


@pytest.mark.parametrize(
    ("change", "failure"),
    [
        (lambda m: dataclasses.replace(m, names=m.names[::-1]), "the columns are not those"),
        (lambda m: dataclasses.replace(m, values=m.values * np.nan), "amount: a value is not"),
        (
            lambda m: dataclasses.replace(m, values=m.values[:0], status=m.status[:0]),
            "no row",
        ),
    ],
)
def test_what_is_wrong_fails_the_record(
    matrix: FeatureMatrix, change: object, failure: str
) -> None:
    """Columns of another set, values that are not finite, nothing at all."""
    assert callable(change)
    whole = dataclasses.replace(matrix, status=np.zeros_like(matrix.status))
    record = record_of(FEATURES, change(whole), source="payments", at_ms=0)
    assert record.validation_status == "failed"
    assert any(failure in found for found in record.validation_failures)
