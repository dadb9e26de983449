"""The simulated world is the same for the same seed, keeps its contracts and can be learned."""

from __future__ import annotations

import datetime as dt
import json
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sentinel.contract import Decoder, RawBatch
from sentinel.core.errors import ErrorCode, SentinelError
from sentinel.core.hashing import sha256_hex
from sentinel.data import EventFile, read_scenarios
from sentinel.data.simulator import FRAUD_KINDS, Simulation, Transaction, Verdict
from sentinel.data.simulator.columns import (
    AMOUNT,
    CARD,
    CATEGORY,
    CHANNEL,
    DEVICE,
    FRAUD_KIND,
    IS_FRAUD,
    KNOWN_AT,
    NO_DEVICE,
    NUMBER,
    ONLINE_CHANNEL,
    ORIGIN,
    SETTLEMENT,
    TIME,
    VERDICT_OF,
)
from sentinel.data.simulator.world import alias_table

SMALL = Simulation(seed=3, n_cards=300, n_merchants=150, days=12, events_per_day=1500)


@pytest.fixture(scope="module")
def columns() -> tuple[np.ndarray, np.ndarray]:
    """All transactions and all verdicts of the small world."""
    hours = list(SMALL.hours())
    return (
        np.concatenate([hour.transactions for hour in hours], axis=1),
        np.concatenate([hour.verdicts for hour in hours], axis=1),
    )


def _content(batches: list[RawBatch]) -> bytes:
    return b"".join(
        batch.event_bytes(i) + b"\n" for batch in batches for i in range(batch.n_events)
    )


# --- what is refused --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("seed", -1),
        ("seed", 1 << 63),
        ("seed", 1.5),
        ("seed", True),
        ("n_cards", 0),
        ("n_cards", 10_000_001),
        ("n_merchants", 36),
        ("days", 0),
        ("days", 3_661),
        ("events_per_day", 0),
        ("fraud_share", -0.01),
        ("fraud_share", 0.51),
        ("fraud_share", float("nan")),
        ("first_day", "2025-01-06"),
        ("first_day", dt.datetime(2025, 1, 6, tzinfo=dt.UTC)),
        ("first_day", dt.date(1999, 12, 31)),
        ("first_day", dt.date(2099, 12, 1)),
        ("kind_shares", (1.0, 1.0)),
        ("kind_shares", (0.0, 0.0, 0.0, 0.0)),
        ("kind_shares", (-1.0, 1.0, 1.0, 1.0)),
        ("kind_shares", (float("nan"), 1.0, 1.0, 1.0)),
        ("kind_shares", (float("inf"), 1.0, 1.0, 1.0)),
    ],
)
def test_a_setting_out_of_bounds_is_named(name: str, value: object) -> None:
    with pytest.raises(SentinelError) as caught:
        Simulation(**{name: value})  # type: ignore[arg-type]
    assert caught.value.code is ErrorCode.SIMULATION_INVALID
    assert caught.value.at == name


def test_more_frauds_than_memory_holds_are_refused() -> None:
    with pytest.raises(SentinelError) as caught:
        Simulation(days=3_000, events_per_day=20_000_000)
    assert caught.value.code is ErrorCode.SIMULATION_INVALID
    assert caught.value.at == "fraud_share"
    assert caught.value.expected == "at most 5000000 frauds in all"


@pytest.mark.parametrize("n_events", [0, (1 << 20) + 1])
def test_a_batch_size_out_of_range_is_the_callers_mistake(n_events: int) -> None:
    with pytest.raises(ValueError, match="n_events"):
        next(SMALL.batches(n_events))


# --- the same bytes ---------------------------------------------------------------------------


def test_the_same_seed_gives_the_same_bytes_in_batches_of_any_size(tmp_path: Path) -> None:
    written = SMALL.write(tmp_path)
    events = written.events.read_bytes()
    assert written.feedback is not None
    feedback = written.feedback.read_bytes()
    for n_events in (1000, 4096, 1 << 20):
        batches = list(SMALL.batches(n_events))
        assert _content(batches) == events
        assert all(batch.n_events == n_events for batch in batches[:-1])
        positions = np.concatenate([batch.positions for batch in batches])
        assert positions.tolist() == list(range(written.n_events))
    assert _content(list(SMALL.feedback(777))) == feedback


def test_the_bytes_of_a_seed_are_those_of_its_format() -> None:
    """Where these change, the format in `simulation.py` must change too: it names folders."""
    events = sha256_hex(_content([next(SMALL.batches(500))]))
    feedback = sha256_hex(_content([next(SMALL.feedback(500))]))
    assert SMALL.to_data()["format"] == "sentinel-simulation-1"
    assert (events[:16], feedback[:16]) == ("99520a6f05b89bef", "f10fac645dc9543a")


def test_another_seed_is_another_world() -> None:
    other = Simulation(seed=4, n_cards=300, n_merchants=150, days=12, events_per_day=1500)
    assert _content([next(other.batches(10))]) != _content([next(SMALL.batches(10))])


def test_the_genuine_part_does_not_depend_on_how_long_is_simulated() -> None:
    longer = Simulation(seed=3, n_cards=300, n_merchants=150, days=13, events_per_day=1500)
    first, again = next(iter(SMALL.hours())), next(iter(longer.hours()))
    genuine = [hour.transactions[1:, hour.transactions[FRAUD_KIND] == 0] for hour in (first, again)]
    assert np.array_equal(*genuine)


# --- contracts --------------------------------------------------------------------------------


def test_every_transaction_and_every_verdict_keeps_its_contract() -> None:
    decoder, verdicts = Decoder(Transaction.schema), Decoder(Verdict.schema)
    n_accepted = 0
    for batch in SMALL.batches():
        decoded = decoder.decode(batch)
        assert decoded.refusals == ()
        n_accepted += decoded.events.n_rows
    for batch in SMALL.feedback():
        decoded = verdicts.decode(batch)
        assert decoded.refusals == ()
        n_accepted -= decoded.events.n_rows
    assert n_accepted == 0


@settings(max_examples=15, deadline=None)
@given(
    seed=st.integers(0, (1 << 63) - 1),
    n_cards=st.integers(1, 50),
    n_merchants=st.integers(37, 80),
    days=st.integers(1, 3),
    events_per_day=st.integers(1, 400),
    fraud_share=st.sampled_from([0.0, 0.001, 0.5]),
)
def test_a_world_of_any_size_keeps_its_contract(
    seed: int, n_cards: int, n_merchants: int, days: int, events_per_day: int, fraud_share: float
) -> None:
    simulation = Simulation(
        seed=seed,
        n_cards=n_cards,
        n_merchants=n_merchants,
        days=days,
        events_per_day=events_per_day,
        fraud_share=fraud_share,
    )
    decoder = Decoder(Transaction.schema)
    for batch in simulation.batches():
        assert decoder.decode(batch).refusals == ()
    n_events = sum(batch.n_events for batch in simulation.batches())
    assert sum(batch.n_events for batch in simulation.feedback()) == n_events


# --- what happens -----------------------------------------------------------------------------


def test_transactions_are_numbered_in_order_of_time(columns: tuple[np.ndarray, ...]) -> None:
    transactions, _ = columns
    assert (np.diff(transactions[TIME]) >= 0).all()
    assert transactions[NUMBER].tolist() == list(range(transactions.shape[1]))
    assert transactions[TIME, 0] >= SMALL.first_ms
    assert transactions[TIME, -1] < SMALL.first_ms + SMALL.n_hours * 3_600_000


def test_each_transaction_has_one_verdict_in_order_and_late(
    columns: tuple[np.ndarray, ...],
) -> None:
    transactions, verdicts = columns
    assert sorted(verdicts[VERDICT_OF]) == transactions[NUMBER].tolist()
    assert (np.diff(verdicts[KNOWN_AT]) >= 0).all()
    kinds = transactions[FRAUD_KIND][verdicts[VERDICT_OF]]
    assert np.array_equal(verdicts[IS_FRAUD], kinds > 0)
    delay = verdicts[KNOWN_AT] - transactions[TIME][verdicts[VERDICT_OF]]
    day = 86_400_000
    is_fraud = verdicts[IS_FRAUD] == 1
    assert (delay[~is_fraud] == 7 * day).all()
    assert (verdicts[ORIGIN][~is_fraud] == SETTLEMENT).all()
    assert delay[is_fraud].min() > 0
    assert delay[is_fraud].max() <= 30 * day
    assert (delay[is_fraud] < day).any()
    assert (delay[is_fraud] > 3 * day).any()


def test_verdicts_come_out_in_the_hour_in_which_they_are_known() -> None:
    hours = list(SMALL.hours())
    for number, hour in enumerate(hours[:-1]):
        known_at = hour.verdicts[KNOWN_AT]
        first = SMALL.first_ms + number * 3_600_000
        assert ((known_at >= first) & (known_at < first + 3_600_000)).all()


def test_fraud_has_the_share_and_the_kinds_that_were_set() -> None:
    simulation = Simulation(
        seed=1,
        n_cards=2000,
        n_merchants=400,
        days=40,
        events_per_day=2500,
        fraud_share=0.02,
        kind_shares=(1.0, 1.0, 2.0, 0.0),
    )
    kinds = np.concatenate([hour.transactions[FRAUD_KIND] for hour in simulation.hours()])
    assert len(kinds) == pytest.approx(100_000, rel=0.02)
    n_of = np.bincount(kinds, minlength=5)
    n_frauds = int(n_of[1:].sum())
    assert n_frauds / len(kinds) == pytest.approx(0.02, rel=0.15)
    assert n_of[4] == 0
    assert n_of[3] / n_frauds == pytest.approx(0.5, abs=0.08)


def test_without_fraud_every_verdict_is_a_settlement() -> None:
    simulation = Simulation(seed=1, n_cards=50, days=2, events_per_day=100, fraud_share=0.0)
    origins = np.concatenate([hour.verdicts[ORIGIN] for hour in simulation.hours()])
    assert (origins == SETTLEMENT).all()


def test_days_have_a_rhythm(columns: tuple[np.ndarray, ...]) -> None:
    transactions, _ = columns
    by_hour = np.bincount(transactions[TIME] // 3_600_000 % 24, minlength=24)
    assert by_hour[3] * 5 < by_hour[12]


def test_only_payments_online_have_a_device(columns: tuple[np.ndarray, ...]) -> None:
    transactions, _ = columns
    has_device = transactions[DEVICE] != NO_DEVICE
    is_online = transactions[CHANNEL] == ONLINE_CHANNEL
    assert not (has_device & ~is_online).any()
    assert 0.9 < has_device[is_online].mean() < 1.0


def test_amounts_of_frauds_have_the_form_of_genuine_amounts(
    columns: tuple[np.ndarray, ...],
) -> None:
    """The last digits must not give the label away."""
    transactions, _ = columns
    card_amounts = transactions[:, transactions[CATEGORY] != 11]
    for cents, share in ((0, 0.16), (99, 0.21)):
        for kind in (0, 1):
            of_kind = card_amounts[AMOUNT, (card_amounts[FRAUD_KIND] > 0) == kind]
            assert (of_kind % 100 == cents).mean() == pytest.approx(share, abs=0.08)


def test_every_kind_of_fraud_leaves_its_own_trace(columns: tuple[np.ndarray, ...]) -> None:
    simulation = Simulation(
        seed=2, n_cards=2000, n_merchants=400, days=30, events_per_day=3000, fraud_share=0.03
    )
    transactions = np.concatenate([hour.transactions for hour in simulation.hours()], axis=1)
    genuine, testing, travel, merchant, takeover = (
        transactions[:, transactions[FRAUD_KIND] == kind] for kind in range(5)
    )
    assert np.median(testing[AMOUNT]) < 0.3 * np.median(genuine[AMOUNT])
    assert (travel[CHANNEL] != ONLINE_CHANNEL).all()
    assert np.median(takeover[AMOUNT]) > 2 * np.median(genuine[AMOUNT])
    most = Counter(merchant[3].tolist()).most_common(1)[0][1]
    assert most >= 8
    assert len(set(travel[CARD].tolist())) < travel.shape[1]


# --- files ------------------------------------------------------------------------------------


def test_a_folder_is_written_once_and_then_found(tmp_path: Path) -> None:
    days: list[tuple[int, int]] = []
    first = SMALL.write(tmp_path, progress=lambda done, total: days.append((done, total)))
    stamp = first.events.stat().st_mtime_ns
    again = SMALL.write(tmp_path)
    assert days == [(day, 12) for day in range(1, 13)]
    assert not first.was_there
    assert again.was_there
    assert again.events.stat().st_mtime_ns == stamp
    assert again.n_events == sum(batch.n_events for batch in EventFile(first.events).batches())


def test_the_side_file_names_the_kind_of_each_fraud_and_of_nothing_else(
    tmp_path: Path, columns: tuple[np.ndarray, ...]
) -> None:
    transactions, _ = columns
    written = SMALL.write(tmp_path)
    assert written.scenarios is not None
    scenarios = read_scenarios(written.scenarios)
    frauds = transactions[:, transactions[FRAUD_KIND] > 0]
    assert scenarios == {
        f"t{number:011d}": FRAUD_KINDS[kind - 1]
        for number, kind in zip(frauds[NUMBER], frauds[FRAUD_KIND], strict=True)
    }
    assert written.n_frauds == len(scenarios)
    assert b"scenario" not in written.events.read_bytes()


def test_the_manifest_names_every_setting(tmp_path: Path) -> None:
    simulation = Simulation(days=1, events_per_day=10, first_day=dt.date(2024, 2, 29))
    simulation.write(tmp_path)
    made_from = json.loads((tmp_path / "manifest.json").read_text())["made_from"]
    assert made_from["first_day"] == "2024-02-29"
    assert made_from["seed"] == 0
    assert made_from["format"].startswith("sentinel-simulation-")


def test_a_killed_simulation_is_not_taken_for_a_whole_one(tmp_path: Path) -> None:
    code = (
        "import sys, pathlib\n"
        "from sentinel.data.simulator import Simulation\n"
        "print('ready', flush=True)\n"
        "simulation = Simulation(n_cards=300, n_merchants=150, days=12, events_per_day=1500)\n"
        "simulation.write(pathlib.Path(sys.argv[1]), progress=lambda done, total: print(done))\n"
    )
    command = [sys.executable, "-u", "-c", code, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        while process.stdout.readline() not in {"3\n", ""}:
            pass
        process.kill()
    assert not (tmp_path / "manifest.json").exists()
    simulation = Simulation(n_cards=300, n_merchants=150, days=12, events_per_day=1500)
    again = simulation.write(tmp_path)
    assert not again.was_there
    assert again.events.read_bytes() == _content(list(simulation.batches()))


def test_an_interrupted_simulation_leaves_nothing(tmp_path: Path) -> None:
    def interrupt(done: int, total: int) -> None:
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        SMALL.write(tmp_path, progress=interrupt)
    assert list(tmp_path.iterdir()) == []


# --- chance -----------------------------------------------------------------------------------


@settings(max_examples=100, deadline=None)
@given(weights=st.lists(st.floats(0.01, 100.0), min_size=1, max_size=40))
def test_an_alias_table_gives_back_its_weights(weights: list[float]) -> None:
    alias, threshold = alias_table(np.array(weights))
    n = len(weights)
    shares = np.zeros(n)
    for place in range(n):
        shares[place] += threshold[place] / n
        shares[alias[place]] += (1 - threshold[place]) / n
    assert shares == pytest.approx(np.array(weights) / sum(weights))
