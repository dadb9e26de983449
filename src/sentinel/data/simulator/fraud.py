"""Fraudulent transactions of the whole time simulated, as campaigns of four kinds.

card testing
    Stolen card numbers are tried within minutes at one merchant online, with small amounts and
    mostly from one device; some of those that work buy something large within two days.
impossible travel
    A copied card pays in shops of a far continent, hours after its owner paid at home.
compromised merchant
    For one to two weeks some of the payments at a merchant are not its customers'. Nothing in
    one payment gives it away; the merchant's history of verdicts does, when they arrive.
account take-over
    A new device, often behind a VPN, buys what can be sold on, beyond the card's usual amounts.

What genuine transactions do as well (small amounts online, journeys, new devices, VPN) is what
keeps the kinds from being separated by a rule.
"""

from __future__ import annotations

import numpy as np

from sentinel.data.simulator.columns import (
    AMOUNT,
    CARD,
    CATEGORY,
    CHANNEL,
    CHIP,
    CURRENCY,
    DEVICE,
    FRAUD_KIND,
    LATITUDE,
    MERCHANT,
    N_COLUMNS,
    NO_DEVICE,
    ONLINE_CHANNEL,
    TIME,
    VPN,
)
from sentinel.data.simulator.contracts import MERCHANT_CATEGORIES
from sentinel.data.simulator.genuine import (
    AMOUNT_MINOR_MAX,
    AMOUNT_MINOR_MIN,
    CASH,
    MS_AN_HOUR,
    N_DEVICES_MAX,
    NO_DEVICE_SHARE,
)
from sentinel.data.simulator.places import HOUR_WEIGHTS, N_HOME_CITIES
from sentinel.data.simulator.world import (
    CARD_LATITUDE,
    CARD_SPENDING,
    MERCHANT_LATITUDE,
    MERCHANT_LEVEL,
    ONLINE,
    STREAM_FRAUD,
    Float64Array,
    Int64Array,
    World,
    generator,
)

_MS_A_DAY = 24 * MS_AN_HOUR
_SELLS_ON = tuple(
    MERCHANT_CATEGORIES.index(name) for name in ("electronics", "gift_card", "travel", "clothing")
)
# Mean number of transactions of a campaign, by kind; the number of campaigns follows from it.
_CAMPAIGN_SIZES = (20.0, 2.5, 28.0, 5.5)
# Longest campaign, by kind: one may have begun that long before the first day.
_LENGTHS_MS = (0, 0, 14 * _MS_A_DAY, 40 * MS_AN_HOUR)


def draw_fraud(
    seed: int, world: World, *, n_ms: int, counts: tuple[float, float, float, float]
) -> Int64Array:
    """Draw every fraudulent transaction.

    Parameters
    ----------
    seed : int
    world : World
    n_ms : int
        Milliseconds simulated.
    counts : tuple of float
        Expected number of transactions of each kind, in the order of ``FRAUD_KINDS``.

    Returns
    -------
    ndarray of int64, shape (N_COLUMNS, n)
        In order of time, which is counted from the first millisecond here.
    """
    parts = []
    kinds = (_card_testing, _impossible_travel, _compromised_merchant, _account_takeover)
    for kind, (of_kind, count, size, length_ms) in enumerate(
        zip(kinds, counts, _CAMPAIGN_SIZES, _LENGTHS_MS, strict=True), start=1
    ):
        random = generator(seed, STREAM_FRAUD, kind)
        # What falls before the first day or behind the last one is left out below.
        n_expected = count / size * (n_ms + length_ms) / n_ms
        n_campaigns = max(1, round(n_expected)) if count > 0 else 0
        columns = of_kind(random, world, n_campaigns, n_ms)
        columns[FRAUD_KIND] = kind
        parts.append(columns)
    columns = np.concatenate(parts, axis=1)
    columns = columns[:, (columns[TIME] >= 0) & (columns[TIME] < n_ms)]
    return np.ascontiguousarray(columns[:, np.argsort(columns[TIME], kind="stable")])


# --- the four kinds -----------------------------------------------------------------------------


def _card_testing(
    random: np.random.Generator, world: World, n_campaigns: int, n_ms: int
) -> Int64Array:
    campaign = np.repeat(np.arange(n_campaigns), random.integers(8, 27, n_campaigns))
    n = len(campaign)
    start = random.uniform(0, n_ms, n_campaigns)
    length = random.uniform(3, 25, n_campaigns) * 60_000
    merchants = _online_merchants(random, world, n_campaigns)
    columns = _blank(n)
    columns[TIME] = start[campaign] + random.random(n) * length[campaign]
    columns[CARD] = random.integers(0, world.n_cards, n)
    columns[MERCHANT] = merchants[campaign]
    columns[AMOUNT] = np.exp(random.normal(np.log(2.2), 0.6, n)) * 100
    one_device = random.random(n_campaigns) < 0.6
    columns[DEVICE] = np.where(
        one_device[campaign], _devices(random, n_campaigns)[campaign], _devices(random, n)
    )
    _go_online(
        random, world, columns, vpn_share=0.5, city=_any_city(random, world, n_campaigns)[campaign]
    )
    big = columns[:, random.random(n) < 0.2]
    return _finished(
        random, world, np.concatenate([columns, _large_purchase(random, world, big)], axis=1)
    )


def _large_purchase(random: np.random.Generator, world: World, tested: Int64Array) -> Int64Array:
    """Buy something with the tested cards, within two days."""
    columns = tested.copy()
    n = columns.shape[1]
    columns[TIME] += random.integers(MS_AN_HOUR // 2, 48 * MS_AN_HOUR, n)
    columns[MERCHANT] = _online_merchants(random, world, n, _SELLS_ON)
    columns[AMOUNT] = _usual_amounts(random, world, columns, raised=0.7)
    _go_online(random, world, columns, vpn_share=0.4, city=_any_city(random, world, n))
    return columns


def _impossible_travel(
    random: np.random.Generator, world: World, n_campaigns: int, n_ms: int
) -> Int64Array:
    campaign = np.repeat(np.arange(n_campaigns), random.integers(1, 5, n_campaigns))
    n = len(campaign)
    n_cities = len(world.city_numbers)
    # Where cards are copied and used: far away, or simply abroad.
    city = np.where(
        random.random(n_campaigns) < 0.7,
        random.integers(N_HOME_CITIES, n_cities, n_campaigns),
        random.integers(0, N_HOME_CITIES, n_campaigns),
    )
    columns = _blank(n)
    columns[TIME] = _daytime(random, n_campaigns, n_ms)[campaign]
    columns[TIME] += random.integers(0, 6 * MS_AN_HOUR, n)
    columns[CARD] = _active_cards(random, world, n_campaigns)[campaign]
    group = city[campaign] + 1
    first, end = world.group_starts[group], world.group_starts[group + 1]
    columns[MERCHANT] = first + (random.random(n) * (end - first)).astype(np.int64)
    columns[AMOUNT] = _usual_amounts(random, world, columns, raised=0.5)
    columns[DEVICE] = NO_DEVICE
    columns[CHANNEL] = CHIP
    columns[CURRENCY] = world.city_currency[city[campaign]]
    _place_at_merchant(world, columns)
    return _finished(random, world, columns)


def _compromised_merchant(
    random: np.random.Generator, world: World, n_campaigns: int, n_ms: int
) -> Int64Array:
    campaign = np.repeat(np.arange(n_campaigns), random.integers(10, 47, n_campaigns))
    n = len(campaign)
    # The more visited half of each group: thieves look for many cards.
    merchants = _visited_merchants(random, world, n_campaigns)
    start = random.uniform(-_LENGTHS_MS[2], n_ms, n_campaigns)
    length = random.uniform(5 * _MS_A_DAY, _LENGTHS_MS[2], n_campaigns)
    time = start[campaign] + random.random(n) * length[campaign]
    columns = _blank(n)
    columns[TIME] = _to_usual_hour(random, time)
    columns[MERCHANT] = merchants[campaign]
    columns[CARD] = _customers(random, world, columns[MERCHANT])
    columns[AMOUNT] = _usual_amounts(random, world, columns, raised=0.45)
    is_online = world.merchant_city[columns[MERCHANT]] < 0
    columns[DEVICE] = np.where(is_online, _devices(random, n), NO_DEVICE)
    columns[CHANNEL] = np.where(is_online, ONLINE_CHANNEL, CHIP)
    home = world.card_city[columns[CARD]]
    city = np.maximum(world.merchant_city[columns[MERCHANT]], 0)
    columns[CURRENCY] = world.city_currency[np.where(is_online, home, city)]
    _place_at_merchant(world, columns)
    columns[LATITUDE:VPN] = np.where(
        is_online, _near_home(random, world, columns[CARD]), columns[LATITUDE:VPN]
    )
    return _finished(random, world, columns)


def _account_takeover(
    random: np.random.Generator, world: World, n_campaigns: int, n_ms: int
) -> Int64Array:
    campaign = np.repeat(np.arange(n_campaigns), random.integers(3, 9, n_campaigns))
    n = len(campaign)
    start = random.uniform(-_LENGTHS_MS[3], n_ms, n_campaigns)
    length = random.uniform(MS_AN_HOUR, _LENGTHS_MS[3], n_campaigns)
    columns = _blank(n)
    columns[TIME] = start[campaign] + random.random(n) * length[campaign]
    columns[CARD] = _active_cards(random, world, n_campaigns)[campaign]
    columns[MERCHANT] = np.where(
        random.random(n) < 0.75,
        _online_merchants(random, world, n, _SELLS_ON),
        _online_merchants(random, world, n),
    )
    columns[AMOUNT] = _usual_amounts(random, world, columns, raised=0.8)
    columns[DEVICE] = _devices(random, n_campaigns)[campaign]
    home = world.card_city[columns[CARD]]
    near = random.random(n_campaigns) < 0.4
    city = np.where(near[campaign], home, _any_city(random, world, n_campaigns)[campaign])
    _go_online(random, world, columns, vpn_share=0.5, city=city)
    return _finished(random, world, columns)


# --- what they are made of ----------------------------------------------------------------------


def _blank(n: int) -> Int64Array:
    return np.zeros((N_COLUMNS, n), dtype=np.int64)


def _finished(random: np.random.Generator, world: World, columns: Int64Array) -> Int64Array:
    """Fill in what follows from the merchant, and round amounts as genuine ones are rounded.

    Amounts or missing devices that differ in form would give every fraud away.
    """
    columns[CATEGORY] = world.merchant_category[columns[MERCHANT]]
    amount = columns[AMOUNT]
    whole = amount // 100 * 100
    chance = random.random(len(amount))
    rounded = np.where(chance < 0.15, whole + 100, np.where(chance < 0.35, whole + 99, amount))
    cash = (amount // 1000 + 1) * 1000
    columns[AMOUNT] = np.where(columns[CATEGORY] == CASH, cash, rounded)
    np.clip(columns[AMOUNT], AMOUNT_MINOR_MIN, AMOUNT_MINOR_MAX, out=columns[AMOUNT])
    is_hidden = random.random(len(amount)) < NO_DEVICE_SHARE
    columns[DEVICE, is_hidden] = NO_DEVICE
    return columns


def _devices(random: np.random.Generator, n: int) -> Int64Array:
    return random.integers(0, N_DEVICES_MAX, n)


def _any_city(random: np.random.Generator, world: World, n: int) -> Int64Array:
    return random.integers(0, len(world.city_numbers), n)


def _active_cards(random: np.random.Generator, world: World, n: int) -> Int64Array:
    """Draw cards by their activity."""
    cards = random.integers(0, world.n_cards, n)
    return np.where(random.random(n) < world.card_threshold[cards], cards, world.card_alias[cards])


def _online_merchants(
    random: np.random.Generator, world: World, n: int, categories: tuple[int, ...] = ()
) -> Int64Array:
    """Draw merchants online, of some categories where there are any."""
    end = world.group_starts[ONLINE + 1]
    merchants = np.arange(end, dtype=np.int64)
    chosen = merchants[np.isin(world.merchant_category[:end], categories)]
    pool = chosen if len(chosen) else merchants
    drawn: Int64Array = pool[random.integers(0, len(pool), n)]
    return drawn


def _visited_merchants(random: np.random.Generator, world: World, n: int) -> Int64Array:
    """Draw merchants from the more visited half of the groups of home, or online."""
    groups = random.integers(0, 1 + N_HOME_CITIES, n)
    first, end = world.group_starts[groups], world.group_starts[groups + 1]
    return first + (random.random(n) * 0.5 * (end - first)).astype(np.int64)


def _customers(random: np.random.Generator, world: World, merchants: Int64Array) -> Int64Array:
    """Draw cards that live where the merchant is; any card for those online."""
    by_city = np.argsort(world.card_city, kind="stable")
    starts = np.searchsorted(world.card_city[by_city], np.arange(len(world.city_numbers) + 1))
    city = world.merchant_city[merchants]
    is_local = (city >= 0) & (starts[city + 1] > starts[city])
    first = np.where(is_local, starts[city], 0)
    end = np.where(is_local, starts[city + 1], world.n_cards)
    place = first + (random.random(len(merchants)) * (end - first)).astype(np.int64)
    customers: Int64Array = by_city[place]
    return customers


def _usual_amounts(
    random: np.random.Generator, world: World, columns: Int64Array, *, raised: float
) -> Int64Array:
    """Draw what is usual at the merchant for the card, raised (in the logarithm)."""
    merchant, card = columns[MERCHANT], columns[CARD]
    trade = world.trades[world.merchant_category[merchant]]
    mean = trade[:, 0] + world.merchant_numbers[merchant, MERCHANT_LEVEL]
    mean = mean + world.card_numbers[card, CARD_SPENDING] + raised
    minor: Int64Array = (np.exp(random.normal(mean, trade[:, 1])) * 100).astype(np.int64)
    return minor


def _go_online(
    random: np.random.Generator,
    world: World,
    columns: Int64Array,
    *,
    vpn_share: float,
    city: Int64Array,
) -> None:
    """Pay online, seen in a city."""
    n = columns.shape[1]
    columns[CHANNEL] = ONLINE_CHANNEL
    columns[CURRENCY] = world.city_currency[world.card_city[columns[CARD]]]
    columns[VPN] = random.random(n) < vpn_share
    places = world.city_numbers[city] + random.uniform(-0.005, 0.005, (n, 2))
    columns[LATITUDE:VPN] = np.rint(places.T * 1e6)


def _place_at_merchant(world: World, columns: Int64Array) -> None:
    places = world.merchant_numbers[columns[MERCHANT], MERCHANT_LATITUDE:MERCHANT_LEVEL]
    columns[LATITUDE:VPN] = np.rint(places.T * 1e6)


def _near_home(random: np.random.Generator, world: World, cards: Int64Array) -> Float64Array:
    """Degrees near the card's home, in millionths."""
    places = world.card_numbers[cards, CARD_LATITUDE : CARD_LATITUDE + 2]
    places = places + random.uniform(-0.005, 0.005, places.shape)
    return np.rint(places.T * 1e6)


def _daytime(random: np.random.Generator, n: int, n_ms: int) -> Int64Array:
    """Draw times at hours when people pay."""
    return _to_usual_hour(random, random.uniform(0, n_ms, n))


def _to_usual_hour(random: np.random.Generator, time: Float64Array) -> Int64Array:
    """Keep the day of each time and draw its hour by the daily rhythm."""
    weights = np.array(HOUR_WEIGHTS)
    hours = random.choice(24, len(time), p=weights / weights.sum())
    day = np.floor(time / _MS_A_DAY)
    within = random.random(len(time)) * MS_AN_HOUR
    return (day * _MS_A_DAY + hours * MS_AN_HOUR + within).astype(np.int64)
