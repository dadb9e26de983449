"""The card fraud example: what a user copies is what the simulator speaks."""

from __future__ import annotations

from pathlib import Path

import pytest

from sentinel.data.simulator.contracts import Transaction, Verdict
from sentinel.release import Pipeline

ROOT = Path(__file__).parent.parent.parent
PIPELINES = sorted((ROOT / "examples").glob("*/pipeline.py"))


def test_contracts_are_those_of_the_simulator() -> None:
    pipeline = Pipeline.load(ROOT / "examples" / "card_fraud" / "pipeline.py")
    assert pipeline.features.events.schema_hash == Transaction.schema.schema_hash
    assert pipeline.features.feedback is not None
    assert pipeline.features.feedback.schema_hash == Verdict.schema.schema_hash


@pytest.mark.parametrize("path", PIPELINES, ids=lambda path: path.parent.name)
def test_example_loads_and_is_short_enough_to_be_read(path: Path) -> None:
    pipeline = Pipeline.load(path)
    assert pipeline.features.features
    n_code_lines = sum(
        1 for line in path.read_text().splitlines() if line.strip() and not line.startswith("#")
    )
    assert n_code_lines <= 130


@pytest.mark.parametrize("name", ["avg_amount_1h", "geo_velocity", "is_vpn_proxy"])
def test_card_fraud_has_the_features_that_users_ask_for(name: str) -> None:
    pipeline = Pipeline.load(ROOT / "examples" / "card_fraud" / "pipeline.py")
    assert name in {feature.name for feature in pipeline.features.features}
