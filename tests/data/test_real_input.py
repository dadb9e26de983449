"""Real, dirty input goes the whole way: contract, quarantine, features; every row accounted for."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from sentinel.contract import Quarantine, read_quarantine
from sentinel.contract.refusal import Refusal
from sentinel.data import EventFile
from sentinel.data.purchasing_cards import (
    CardPurchase,
    prepare_purchasing_cards,
    purchasing_cards_are_there,
)
from sentinel.features import (
    Count,
    DistinctCount,
    Engine,
    Entity,
    FeatureSet,
    Maximum,
    Mean,
    Ratio,
    Replayed,
    StandardDeviation,
    TimeSince,
    Value,
    compile_plan,
    replay,
)

CARD = Entity("card", key=CardPurchase.card_id)
SHOP = Entity("shop", key=CardPurchase.merchant_number)
AMOUNT = CardPurchase.amount
PLAN = compile_plan(
    FeatureSet(
        "purchases",
        version="1",
        events=CardPurchase,
        features=[
            Value("amount", of=AMOUNT),
            Count("n_card_7d", by=CARD, over="7d"),
            Mean("mean_card_30d", of=AMOUNT, by=CARD, over="30d"),
            StandardDeviation("std_card_90d", of=AMOUNT, by=CARD, over="90d"),
            Maximum("max_card", of=AMOUNT, by=CARD),
            DistinctCount("n_shops_30d", of=CardPurchase.merchant_number, by=CARD, over="30d"),
            Count("n_shop_7d", by=SHOP, over="7d"),
            TimeSince("s_since_shop", by=SHOP),
            Ratio("amount_to_mean", numerator="amount", denominator="mean_card_30d"),
        ],
    )
)


def carried(source: Path | None, folder: Path, n_events: int) -> tuple[Replayed, Engine, Path]:
    made = prepare_purchasing_cards(folder / "made", source=source)
    engine = Engine(PLAN)
    kept = folder / "quarantine"
    with Quarantine(kept) as quarantine:

        def keep(refusals: tuple[Refusal, ...]) -> None:
            quarantine.put(refusals)

        batches = EventFile(made.events).batches(n_events=n_events)
        replayed = replay(PLAN, batches, engine=engine, on_refusals=keep)
    return replayed, engine, kept


def test_dirt_is_kept_and_the_rest_has_finite_features(
    purchasing_file: Path, tmp_path: Path
) -> None:
    replayed, _, kept = carried(purchasing_file, tmp_path, 7)
    assert (replayed.n_rows, replayed.n_refused) == (35, 5)
    assert np.isfinite(replayed.matrix.values).all()
    assert len(list(read_quarantine(kept))) == 5


@pytest.mark.data
@pytest.mark.skipif(
    not purchasing_cards_are_there(),
    reason="the published purchasing cards are not here: set SENTINEL_DATA",
)
def test_a_year_of_real_purchases_holds_no_surprise(tmp_path: Path) -> None:
    """95,076 rows: dirty codes, nulls, an outlier of three millions, ties of whole days."""
    replayed, engine, kept = carried(None, tmp_path / "a", 4096)
    assert replayed.n_rows + replayed.n_refused == 95_076
    reasons = Counter(str(record.code) for record in read_quarantine(kept))
    assert reasons == {"unknown_category": 182, "out_of_bounds": 84}
    assert np.isfinite(replayed.matrix.values).all()
    again, other, _ = carried(None, tmp_path / "b", 977)
    assert again.matrix.values.tobytes() == replayed.matrix.values.tobytes()
    assert other.state_digest() == engine.state_digest()
