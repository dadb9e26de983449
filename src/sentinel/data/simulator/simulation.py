"""The simulation: hour by hour, in order of time, the same bytes for the same settings."""

from __future__ import annotations

import dataclasses
import datetime as dt
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from sentinel.contract.batch import Int64Array, RawBatch
from sentinel.core import limits
from sentinel.core.errors import ErrorCode, SentinelError
from sentinel.data.event_folder import EventFolder, FolderWriter
from sentinel.data.json_lines import EncodedLines, LineEncoder
from sentinel.data.simulator.columns import (
    DEVICE,
    FRAUD_KIND,
    FRAUD_KINDS,
    N_COLUMNS,
    NO_DEVICE,
    NUMBER,
    TIME,
    scenario_encoder,
    transaction_encoder,
    verdict_encoder,
)
from sentinel.data.simulator.fraud import draw_fraud
from sentinel.data.simulator.genuine import MS_AN_HOUR, write_genuine
from sentinel.data.simulator.places import (
    CITIES,
    HOUR_WEIGHTS,
    N_HOME_CITIES,
    WEEKDAY_WEIGHTS,
)
from sentinel.data.simulator.verdicts import VERDICT_DAYS_MAX, PendingVerdicts, draw_verdicts
from sentinel.data.simulator.world import (
    STREAM_COUNTS,
    STREAM_GENUINE,
    World,
    draw_world,
    generator,
)

Progress = Callable[[int, int], None]

_FIRST_DAY = dt.date(2025, 1, 6)
_KIND_SHARES = (0.3, 0.15, 0.3, 0.25)
_FORMAT = "sentinel-simulation-1"


@dataclass(frozen=True, slots=True)
class SimulatedHour:
    """What happens in an hour, as columns.

    Attributes
    ----------
    transactions : ndarray of int64, shape (N_COLUMNS, n)
        In order of time; rows are named in :mod:`sentinel.data.simulator.columns`.
    verdicts : ndarray of int64, shape (N_VERDICT_COLUMNS, m)
        Verdicts that become known in this hour, on earlier transactions, in order of time.
    """

    transactions: Int64Array
    verdicts: Int64Array


@dataclass(frozen=True, kw_only=True)
class Simulation:
    """A simulated card world with four kinds of fraud and verdicts that come late.

    The same settings give the same bytes, whatever the size of a batch, as long as NumPy stays
    the same (its version is in the locks). On another kind of processor the last bit of an
    exponential may differ, and so, once in a while, a cent.

    Parameters
    ----------
    seed : int
        0 to 2^63 - 1.
    n_cards : int
        1 to 10,000,000.
    n_merchants : int
        At least one for each city and one online, to 1,000,000.
    days : int
        1 to 3,660.
    events_per_day : int
        Mean number of transactions a day, fraud included; 1 to 20,000,000.
    fraud_share : float
        Expected share of the transactions that are fraud, 0 to 0.5; at most
        ``SIMULATION_FRAUDS_MAX`` in all.
    kind_shares : tuple of float
        How the fraud divides into ``FRAUD_KINDS``; at least 0, divided by their sum.
    first_day : datetime.date
        The first day, in UTC; all must lie between the years 2000 and 2100.

    Raises
    ------
    SentinelError
        ``simulation-invalid``, naming the setting.

    Examples
    --------
    >>> simulation = Simulation(seed=7, n_cards=50, n_merchants=60, days=1, events_per_day=100)
    >>> batch = next(simulation.batches(10))
    >>> batch.event_bytes(0)[:46]
    b'{"transaction_id":"t00000000000","occurred_at"'
    """

    seed: int = 0
    n_cards: int = 5_000
    n_merchants: int = 2_000
    days: int = 60
    events_per_day: int = 10_000
    fraud_share: float = 0.008
    kind_shares: tuple[float, float, float, float] = _KIND_SHARES
    first_day: dt.date = _FIRST_DAY

    def __post_init__(self) -> None:
        last_seed = (1 << 63) - 1
        self._hold("seed", self.seed, 0, last_seed)
        self._hold("n_cards", self.n_cards, 1, limits.SIMULATION_CARDS_MAX)
        least = 1 + len(CITIES)
        self._hold("n_merchants", self.n_merchants, least, limits.SIMULATION_MERCHANTS_MAX)
        self._hold("days", self.days, 1, limits.SIMULATION_DAYS_MAX)
        self._hold("events_per_day", self.events_per_day, 1, limits.SIMULATION_EVENTS_A_DAY_MAX)
        self._hold("fraud_share", self.fraud_share, 0.0, 0.5)
        shares = self.kind_shares
        if len(shares) != len(FRAUD_KINDS) or min(shares) < 0 or not 0 < sum(shares) < math.inf:
            expected = f"{len(FRAUD_KINDS)} shares of at least 0, not all 0"
            raise _invalid("kind_shares", expected, shares)
        n_frauds = self.fraud_share * self.events_per_day * self.days
        if n_frauds > limits.SIMULATION_FRAUDS_MAX:
            expected = f"at most {limits.SIMULATION_FRAUDS_MAX} frauds in all"
            raise _invalid("fraud_share", expected, f"{n_frauds:.0f}")
        self._hold_days()

    def _hold_days(self) -> None:
        """Keep every event and every verdict inside the time that the contracts allow."""
        if type(self.first_day) is not dt.date:
            raise _invalid("first_day", "a date", type(self.first_day).__name__)
        last_ms = self.first_ms + (self.days + VERDICT_DAYS_MAX + 1) * 24 * MS_AN_HOUR
        if self.first_ms < limits.TIME_DEFAULT_MIN_MS or last_ms > limits.TIME_DEFAULT_MAX_MS:
            raise _invalid("first_day", "days between the years 2000 and 2100", self.first_day)

    def _hold(self, name: str, value: float, low: float, high: float) -> None:
        of_type = (int,) if isinstance(low, int) else (int, float)
        if isinstance(value, bool) or not isinstance(value, of_type) or not low <= value <= high:
            noun = "an integer" if isinstance(low, int) else "a number"
            raise _invalid(name, f"{noun} from {low} to {high}", value)

    @property
    def n_hours(self) -> int:
        """Hours simulated."""
        return self.days * 24

    @property
    def first_ms(self) -> int:
        """When it begins, in milliseconds since the epoch."""
        start = dt.datetime.combine(self.first_day, dt.time(), tzinfo=dt.UTC).timestamp()
        return int(start) * 1000

    def world(self) -> World:
        """Draw the cards and merchants."""
        return draw_world(self.seed, n_cards=self.n_cards, n_merchants=self.n_merchants)

    def hours(self, *, progress: Progress | None = None) -> Iterator[SimulatedHour]:
        """Simulate, hour by hour; a last one holds the verdicts that are known afterwards.

        Parameters
        ----------
        progress : callable, optional
            Called with the days done and the days in all.
        """
        world = self.world()
        fraud = self._draw_fraud(world)
        pending = PendingVerdicts()
        n_before = 0
        for hour in range(self.n_hours):
            end_ms = self.first_ms + (hour + 1) * MS_AN_HOUR
            transactions = self._hour(world, fraud, hour)
            n = transactions.shape[1]
            transactions[NUMBER] = np.arange(n_before, n_before + n)
            n_before += n
            pending.add(draw_verdicts(self.seed, hour, transactions))
            yield SimulatedHour(transactions, pending.known_before(end_ms))
            if progress is not None and hour % 24 == 23:
                progress(hour // 24 + 1, self.days)
        nothing = np.empty((N_COLUMNS, 0), dtype=np.int64)
        yield SimulatedHour(nothing, pending.known_before(np.iinfo(np.int64).max))

    def batches(self, n_events: int = limits.EVENT_FILE_BATCH_EVENTS_DEFAULT) -> Iterator[RawBatch]:
        """Simulate the transactions as raw events, in batches of ``n_events``."""
        columns = (hour.transactions for hour in self.hours())
        yield from _batches(
            columns,
            partial(_encode_transactions, transaction_encoder()),
            n_events,
            source="simulated-transactions",
        )

    def feedback(
        self, n_events: int = limits.EVENT_FILE_BATCH_EVENTS_DEFAULT
    ) -> Iterator[RawBatch]:
        """Simulate the verdicts as raw events, in the order in which they become known."""
        columns = (hour.verdicts for hour in self.hours())
        yield from _batches(
            columns, verdict_encoder().encode, n_events, source="simulated-verdicts"
        )

    def write(
        self, folder: Path, *, overwrite: bool = True, progress: Progress | None = None
    ) -> EventFolder:
        """Write transactions, verdicts and the kinds of fraud as lines of JSON.

        A folder that was written with the same settings is left as it is.

        Parameters
        ----------
        folder : Path
            Made where it is missing. The files appear whole or not at all.
        overwrite : bool
            Whether files that stand there and differ may be replaced.
        progress : callable, optional
            Called with the days done and the days in all.

        Raises
        ------
        SentinelError
            ``file-unwritable``; nothing half-written is left behind. ``output-exists`` where
            something else stands there and may not be replaced.
        """
        writer = FolderWriter(folder, made_from=self.to_data(), overwrite=overwrite)
        done = writer.existing()
        if done is not None:
            return done
        transactions, verdicts = transaction_encoder(), verdict_encoder()
        scenarios = scenario_encoder()
        with writer:
            for hour in self.hours(progress=progress):
                is_fraud = hour.transactions[FRAUD_KIND] > 0
                frauds = hour.transactions[np.ix_([NUMBER, FRAUD_KIND], is_fraud)]
                writer.add_events(_encode_transactions(transactions, hour.transactions))
                writer.add_feedback(verdicts.encode(hour.verdicts))
                writer.add_scenarios(scenarios.encode(frauds))
            return writer.finish()

    def to_data(self) -> dict[str, object]:
        """Return the settings as plain data."""
        data = dataclasses.asdict(self)
        data["kind_shares"] = list(self.kind_shares)
        data["first_day"] = self.first_day.isoformat()
        return {"format": _FORMAT, "numpy": np.__version__, **data}

    # --- one hour -------------------------------------------------------------------------------

    def _draw_fraud(self, world: World) -> Int64Array:
        n_frauds = self.fraud_share * self.events_per_day * self.days
        whole = sum(self.kind_shares)
        one, two, three, four = (n_frauds * share / whole for share in self.kind_shares)
        n_ms = self.n_hours * MS_AN_HOUR
        fraud = draw_fraud(self.seed, world, n_ms=n_ms, counts=(one, two, three, four))
        fraud[TIME] += self.first_ms
        return fraud

    def _hour(self, world: World, fraud: Int64Array, hour: int) -> Int64Array:
        first_ms = self.first_ms + hour * MS_AN_HOUR
        first, end = np.searchsorted(fraud[TIME], (first_ms, first_ms + MS_AN_HOUR))
        n_genuine = self._n_genuine(hour)
        columns = np.empty((N_COLUMNS, n_genuine), dtype=np.int64)
        write_genuine(
            _kernel_seed(self.seed),
            hour,
            N_HOME_CITIES,
            first_ms,
            world.card_city,
            world.card_numbers,
            world.card_alias,
            world.card_threshold,
            world.merchant_category,
            world.merchant_numbers,
            world.group_starts,
            world.city_numbers,
            world.city_currency,
            world.trades,
            columns,
        )
        columns = np.concatenate([columns, fraud[:, first:end]], axis=1)
        return columns[:, np.argsort(columns[TIME], kind="stable")]

    def _n_genuine(self, hour: int) -> int:
        weekday = (self.first_day.weekday() + hour // 24) % 7
        share = HOUR_WEIGHTS[hour % 24] / sum(HOUR_WEIGHTS)
        share *= WEEKDAY_WEIGHTS[weekday] * 7 / sum(WEEKDAY_WEIGHTS)
        expected = self.events_per_day * (1 - self.fraud_share) * share
        return int(generator(self.seed, STREAM_COUNTS, hour).poisson(expected))


def _encode_transactions(encoder: LineEncoder, columns: Int64Array) -> EncodedLines:
    present = np.ones((FRAUD_KIND, columns.shape[1]), dtype=np.bool_)
    present[DEVICE] = columns[DEVICE] != NO_DEVICE
    return encoder.encode(columns[:FRAUD_KIND], present)


def _batches(
    parts: Iterator[Int64Array],
    encode: Callable[[Int64Array], EncodedLines],
    n_events: int,
    *,
    source: str,
) -> Iterator[RawBatch]:
    """Cut columns into batches of ``n_events`` and write them."""
    if not 1 <= n_events <= limits.EVENT_FILE_BATCH_EVENTS_MAX:
        raise ValueError(f"n_events: expected 1 to {limits.EVENT_FILE_BATCH_EVENTS_MAX}")
    n_before = 0
    for columns in _equal_parts(parts, n_events):
        lines = encode(columns)
        n = len(lines.ends)
        yield RawBatch(
            content=lines.content,
            starts=lines.starts,
            ends=lines.ends,
            source=source,
            partition=0,
            positions=np.arange(n_before, n_before + n, dtype=np.int64),
        )
        n_before += n


def _equal_parts(parts: Iterator[Int64Array], n: int) -> Iterator[Int64Array]:
    """Cut and join columns so that each part but the last has ``n``."""
    held: list[Int64Array] = []
    n_held = 0
    for part in parts:
        held.append(part)
        n_held += part.shape[1]
        if n_held >= n:
            whole = np.concatenate(held, axis=1)
            n_out = n_held - n_held % n
            yield from (whole[:, first : first + n] for first in range(0, n_out, n))
            held, n_held = [whole[:, n_out:]], n_held % n
    if n_held:
        yield np.concatenate(held, axis=1)


def _kernel_seed(seed: int) -> np.uint64:
    return np.uint64(np.random.SeedSequence([seed, STREAM_GENUINE]).generate_state(1, np.uint64)[0])


def _invalid(name: str, expected: str, got: object) -> SentinelError:
    return SentinelError(ErrorCode.SIMULATION_INVALID, at=name, expected=expected, got=got)
