"""Who lives in the simulated world: cards and merchants, drawn once from the seed."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from sentinel.data.simulator.places import CITIES, N_HOME_CITIES, TRADES

Float64Array = npt.NDArray[np.float64]
Int64Array = npt.NDArray[np.int64]

# Streams of random numbers: each part of the world draws from its own, so that a change in one
# does not move the others.
STREAM_WORLD, STREAM_COUNTS, STREAM_GENUINE, STREAM_FRAUD, STREAM_VERDICTS = range(5)

# Group 0 of the merchants is online; group 1 + i is city i.
ONLINE = 0
_ONLINE_MERCHANTS_SHARE = 0.25
_AWAY_CITY_WEIGHT = 0.25  # merchants of a place that is only travelled to
_CITY_SPREAD_DEGREES = 0.04  # about 4 km: where people and shops of a city are

# Columns of ``World.card_numbers`` and ``World.merchant_numbers``.
CARD_LATITUDE, CARD_LONGITUDE, CARD_ONLINE, CARD_VPN, CARD_SPENDING = range(5)
MERCHANT_LATITUDE, MERCHANT_LONGITUDE, MERCHANT_LEVEL = range(3)


@dataclass(frozen=True, slots=True)
class World:
    """Cards and merchants as tables for kernels.

    Attributes
    ----------
    card_city : ndarray of int64, shape (n_cards,)
    card_numbers : ndarray of float64, shape (n_cards, 5)
        Home latitude and longitude, share of online payments, share of those through a VPN,
        spending level (added to the logarithm of amounts).
    card_alias, card_threshold : ndarray, shape (n_cards,)
        Walker's alias table over the activity of the cards.
    merchant_category, merchant_city : ndarray of int64, shape (n_merchants,)
        The city is -1 for merchants online.
    merchant_numbers : ndarray of float64, shape (n_merchants, 3)
        Latitude, longitude, price level.
    group_starts : ndarray of int64, shape (2 + n_cities,)
        Merchants of group ``g`` are ``group_starts[g]`` to ``group_starts[g + 1]``, the most
        visited first.
    city_numbers : ndarray of float64, shape (n_cities, 2)
        Latitude and longitude.
    city_currency : ndarray of int64, shape (n_cities,)
    trades : ndarray of float64, shape (n_categories, 2)
        Logarithm of the median amount, spread.
    """

    card_city: Int64Array
    card_numbers: Float64Array
    card_alias: Int64Array
    card_threshold: Float64Array
    merchant_category: Int64Array
    merchant_city: Int64Array
    merchant_numbers: Float64Array
    group_starts: Int64Array
    city_numbers: Float64Array
    city_currency: Int64Array
    trades: Float64Array

    @property
    def n_cards(self) -> int:
        """How many cards."""
        return len(self.card_city)

    @property
    def n_merchants(self) -> int:
        """How many merchants."""
        return len(self.merchant_category)


def generator(seed: int, stream: int, *parts: int) -> np.random.Generator:
    """Make the random numbers of one part of the world."""
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence([seed, stream, *parts])))


def draw_world(seed: int, *, n_cards: int, n_merchants: int) -> World:
    """Draw cards and merchants; linear in their number."""
    random = generator(seed, STREAM_WORLD)
    city_numbers = np.array([(city.latitude, city.longitude) for city in CITIES])
    card_city, card_numbers = _draw_cards(random, city_numbers, n_cards)
    activity = np.exp(random.normal(0.0, 0.8, n_cards))
    card_alias, card_threshold = alias_table(activity)
    category, city, numbers, starts = _draw_merchants(random, city_numbers, n_merchants)
    return World(
        card_city=card_city,
        card_numbers=card_numbers,
        card_alias=card_alias,
        card_threshold=card_threshold,
        merchant_category=category,
        merchant_city=city,
        merchant_numbers=numbers,
        group_starts=starts,
        city_numbers=city_numbers,
        city_currency=np.array([city.currency for city in CITIES], dtype=np.int64),
        trades=np.array([(np.log(trade.amount_median), trade.amount_spread) for trade in TRADES]),
    )


def _draw_cards(
    random: np.random.Generator, city_numbers: Float64Array, n_cards: int
) -> tuple[Int64Array, Float64Array]:
    weights = np.array([city.weight for city in CITIES])
    cities = random.choice(len(CITIES), n_cards, p=weights / weights.sum()).astype(np.int64)
    places = city_numbers[cities] + random.normal(0.0, _CITY_SPREAD_DEGREES, (n_cards, 2))
    online = random.beta(2.0, 4.5, n_cards)
    # Few people use a VPN often; most hardly ever.
    vpn = np.where(random.random(n_cards) < 0.08, random.uniform(0.3, 0.9, n_cards), 0.01)
    spending = random.normal(0.0, 0.4, n_cards)
    return cities, np.column_stack([places, online, vpn, spending])


def _draw_merchants(
    random: np.random.Generator, city_numbers: Float64Array, n_merchants: int
) -> tuple[Int64Array, Int64Array, Float64Array, Int64Array]:
    n_groups = 1 + len(CITIES)
    weights = np.array([city.weight or _AWAY_CITY_WEIGHT for city in CITIES])
    shares = np.concatenate(
        ([_ONLINE_MERCHANTS_SHARE], (1 - _ONLINE_MERCHANTS_SHARE) * weights / weights.sum())
    )
    # Each group has one at least; the rest fall by chance.
    groups = np.sort(
        np.concatenate(
            [np.arange(n_groups), random.choice(n_groups, n_merchants - n_groups, p=shares)]
        )
    )
    starts = np.searchsorted(groups, np.arange(n_groups + 1)).astype(np.int64)
    is_online = groups == ONLINE
    category = np.where(
        is_online,
        _draw_categories(random, n_merchants, [trade.online_share for trade in TRADES]),
        _draw_categories(random, n_merchants, [trade.shop_share for trade in TRADES]),
    ).astype(np.int64)
    city = (groups - 1).astype(np.int64)
    places = city_numbers[np.maximum(city, 0)]
    places = places + random.normal(0.0, _CITY_SPREAD_DEGREES, (n_merchants, 2))
    level = random.normal(0.0, 0.3, n_merchants)
    return category, city, np.column_stack([places, level]), starts


def _draw_categories(
    random: np.random.Generator, n: int, shares: list[float]
) -> npt.NDArray[np.int64]:
    weights = np.array(shares)
    return random.choice(len(shares), n, p=weights / weights.sum()).astype(np.int64)


def alias_table(weights: Float64Array) -> tuple[Int64Array, Float64Array]:
    """Build the table that draws from any distribution with two look-ups.

    Parameters
    ----------
    weights : ndarray of float64, shape (n,)
        Positive.

    Returns
    -------
    alias : ndarray of int64, shape (n,)
    threshold : ndarray of float64, shape (n,)
        A uniform place ``i`` gives ``i`` where a second uniform is below ``threshold[i]``, else
        ``alias[i]``.

    Notes
    -----
    Linear. Source: A. J. Walker, "An Efficient Method for Generating Discrete Random Variables
    with General Distributions", ACM TOMS 3 (1977); construction by M. D. Vose (1991).
    """
    n = len(weights)
    scaled = (weights * (n / weights.sum())).tolist()
    alias = list(range(n))
    threshold = [1.0] * n
    small = [i for i in range(n) if scaled[i] < 1.0]
    large = [i for i in range(n) if scaled[i] >= 1.0]
    while small and large:
        less, more = small.pop(), large[-1]
        threshold[less] = scaled[less]
        alias[less] = more
        scaled[more] -= 1.0 - scaled[less]
        if scaled[more] < 1.0:
            small.append(large.pop())
    return np.array(alias, dtype=np.int64), np.array(threshold)


__all__ = [
    "CARD_LATITUDE",
    "CARD_LONGITUDE",
    "CARD_ONLINE",
    "CARD_SPENDING",
    "CARD_VPN",
    "MERCHANT_LATITUDE",
    "MERCHANT_LEVEL",
    "MERCHANT_LONGITUDE",
    "N_HOME_CITIES",
    "ONLINE",
    "STREAM_COUNTS",
    "STREAM_FRAUD",
    "STREAM_GENUINE",
    "STREAM_VERDICTS",
    "Float64Array",
    "Int64Array",
    "World",
    "alias_table",
    "draw_world",
    "generator",
]
