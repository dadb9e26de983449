"""A small simulated world, a pipeline over it, and its history: made once for all tests."""

from __future__ import annotations

from pathlib import Path

import pytest

from sentinel.data import EventFolder
from sentinel.data.simulator import Simulation
from sentinel.data.simulator.contracts import Transaction, Verdict
from sentinel.features import (
    CategoryEncoding,
    Count,
    Entity,
    FeatureSet,
    Maximum,
    Mean,
    Ratio,
    Value,
    Velocity,
)
from sentinel.release import Label, Pipeline
from sentinel.scoring import Policy
from sentinel.training.history import History, read_history

CARD = Entity("card", key=Transaction.card_id)
MERCHANT = Entity("merchant", key=Transaction.merchant_id)
AMOUNT = Transaction.amount
FEATURES = (
    Value("amount", of=AMOUNT),
    CategoryEncoding("merchant_category_risk", of=Transaction.merchant_category),
    Count("n_card_1h", by=CARD, over="1h"),
    Mean("avg_amount_7d", of=AMOUNT, by=CARD, over="7d"),
    Maximum("max_amount_7d", of=AMOUNT, by=CARD, over="7d"),
    Velocity(
        "geo_velocity", by=CARD, latitude=Transaction.latitude, longitude=Transaction.longitude
    ),
    Mean("fraud_rate_merchant_30d", of=Verdict.is_fraud, by=MERCHANT, over="30d"),
    Ratio("amount_to_avg_7d", numerator="amount", denominator="avg_amount_7d"),
)


def make_pipeline(**changes: object) -> Pipeline:
    """Build the small pipeline, with some of its parts changed."""
    parts: dict[str, object] = {
        "name": "small",
        "features": FeatureSet(
            "small", version="1.0.0", events=Transaction, feedback=Verdict, features=FEATURES
        ),
        "label": Label(of=Verdict.is_fraud, event=Verdict.transaction_id, delay="7d"),
        "policy": Policy(decline_share=0.01, review_share=0.02),
        "model": {"n_rounds_max": 30, "stop_after_rounds": 10, "n_leaves": 7},
    }
    return Pipeline(**(parts | changes))  # type: ignore[arg-type]


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> EventFolder:
    """Forty days of 200 cards, one payment in fifty a fraud."""
    simulation = Simulation(
        seed=3,
        n_cards=200,
        n_merchants=100,
        days=40,
        events_per_day=600,
        fraud_share=0.02,
    )
    return simulation.write(tmp_path_factory.mktemp("world"))


@pytest.fixture(scope="session")
def pipeline() -> Pipeline:
    return make_pipeline()


@pytest.fixture(scope="session")
def logs(folder: EventFolder) -> tuple[Path, Path]:
    """Name the event log and the feedback log."""
    assert folder.feedback is not None
    return folder.events, folder.feedback


@pytest.fixture(scope="session")
def history(pipeline: Pipeline, logs: tuple[Path, Path]) -> History:
    return read_history(pipeline, *logs)
