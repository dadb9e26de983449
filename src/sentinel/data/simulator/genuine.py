"""Genuine transactions of one hour, in machine code.

Every choice is a hash of the seed, the hour, the number of the transaction in it and the number
of the choice, so transactions do not depend on each other, on the order in which hours are drawn,
or on how many are drawn at once. What belongs to a card for a while (its favourite shops, its
devices, its journeys) is a hash of the card and of that while: no state is kept.

One transaction:

1. A card, by its activity (Walker's alias method), and a time within the hour.
2. Its journey: in each fortnight some cards are in another city for a few days.
3. Online or in a shop. In a shop the place is the shop's; online it is the card holder's, unless
   the address looks like another city's, or a VPN puts it anywhere.
4. A merchant of that city, or of those online: mostly one of the card's favourites.
5. A device online: one of the card's own, which are replaced every few weeks.
6. An amount: log-normal by category, merchant and card; often rounded, at machines to tens.
"""

from __future__ import annotations

import math

import numpy as np

from sentinel.core.native import native, native_inline
from sentinel.data.simulator.columns import (
    AMOUNT,
    CARD,
    CATEGORY,
    CHANNEL,
    CHIP,
    CONTACTLESS,
    CURRENCY,
    DEVICE,
    FRAUD_KIND,
    LATITUDE,
    LONGITUDE,
    MERCHANT,
    NO_DEVICE,
    NUMBER,
    ONLINE_CHANNEL,
    TIME,
    VPN,
)
from sentinel.data.simulator.contracts import MERCHANT_CATEGORIES
from sentinel.data.simulator.world import Float64Array, Int64Array

MS_AN_HOUR = 3_600_000
N_DEVICES_MAX = 10**12
AMOUNT_MINOR_MIN = 20
AMOUNT_MINOR_MAX = 2_000_000
CASH = MERCHANT_CATEGORIES.index("cash")
NO_DEVICE_SHARE = 0.04
_JOURNEY_DAYS = 14
_JOURNEY_SHARE = 0.12
_DEVICE_DAYS = 75
_N_FAVOURITES = 10
_FAVOURITE_SHARE = 0.7
_SHOP_SKEW = 2.0  # how much more the first merchants of a group are visited
_CONTACTLESS_MINOR_MAX = 5000


@native_inline
def mix(word: np.uint64) -> np.uint64:
    """Scatter the bits of a word (the finaliser of SplitMix64, Steele, Lea, Flood 2014)."""
    word = (word ^ (word >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    word = (word ^ (word >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return word ^ (word >> np.uint64(31))


@native_inline
def draw(key: np.uint64, choice: int) -> float:
    """Draw a uniform number in [0, 1) for one choice of one thing."""
    word = mix(key + np.uint64(choice) * np.uint64(0x9E3779B97F4A7C15))
    return np.float64(word >> np.uint64(11)) * (1.0 / 9007199254740992.0)


@native_inline
def key_of(seed: np.uint64, first: int, second: int) -> np.uint64:
    """Make the key of a thing that two numbers name."""
    return mix(mix(seed + np.uint64(first)) + np.uint64(second) + np.uint64(0x9E3779B97F4A7C15))


@native_inline
def draw_normal(key: np.uint64, choice: int) -> float:
    """Draw a standard normal number (Box, Muller 1958); takes two choices."""
    radius = math.sqrt(-2.0 * math.log(1.0 - draw(key, choice)))
    return radius * math.cos(2.0 * math.pi * draw(key, choice + 1))


@native_inline
def _city_now(
    seed: np.uint64, card: int, day: int, home: int, n_home_cities: int, n_cities: int
) -> int:
    """Where a card is on a day: at home, or on a journey of this fortnight."""
    key = key_of(seed + np.uint64(1), card, day // _JOURNEY_DAYS)
    if draw(key, 0) >= _JOURNEY_SHARE:
        return home
    first = int(draw(key, 1) * (_JOURNEY_DAYS - 2))
    length = 1 + int(draw(key, 2) * 6.0)
    day_in = day % _JOURNEY_DAYS
    if day_in < first or day_in >= first + length:
        return home
    if draw(key, 3) < 0.75:
        return int(draw(key, 4) * n_home_cities)
    return n_home_cities + int(draw(key, 4) * (n_cities - n_home_cities))


@native_inline
def _merchant_of(
    seed: np.uint64, key: np.uint64, card: int, group: int, group_starts: Int64Array
) -> int:
    """Choose one of the card's favourites in the group, or any."""
    where = draw(key, 10)
    if draw(key, 11) < _FAVOURITE_SHARE:
        slot = int(draw(key, 12) ** 1.5 * _N_FAVOURITES)
        where = draw(key_of(seed + np.uint64(2), card, group), slot)
    n = group_starts[group + 1] - group_starts[group]
    return int(group_starts[group]) + int(where**_SHOP_SKEW * n)


@native_inline
def _device_of(seed: np.uint64, key: np.uint64, card: int, day: int) -> int:
    """Choose one of the card's devices; sometimes a borrowed one, sometimes none is seen."""
    chance = draw(key, 20)
    if chance < NO_DEVICE_SHARE:
        return NO_DEVICE
    if chance < 0.055:
        return int(mix(key + np.uint64(7)) % np.uint64(N_DEVICES_MAX))
    own = key_of(seed + np.uint64(3), card, 0)
    slot = int(draw(key, 21) * (1.0 + draw(own, 0) * 2.5))
    age = (day + int(draw(own, 1 + slot) * _DEVICE_DAYS)) // _DEVICE_DAYS
    return int(key_of(own, slot, age) % np.uint64(N_DEVICES_MAX))


@native_inline
def _amount_of(key: np.uint64, mean: float, spread: float, category: int) -> int:
    amount = math.exp(mean + spread * draw_normal(key, 30))
    minor = int(amount * 100.0)
    chance = draw(key, 32)
    if category == CASH:
        minor = (minor // 1000 + 1) * 1000
    elif chance < 0.15:
        minor = (minor // 100 + 1) * 100
    elif chance < 0.35:
        minor = (minor // 100) * 100 + 99
    return min(max(minor, AMOUNT_MINOR_MIN), AMOUNT_MINOR_MAX)


@native
def write_genuine(  # noqa: PLR0913, PLR0917 -- a kernel takes its tables one by one
    seed: np.uint64,
    hour: int,
    n_home_cities: int,
    first_ms: int,
    card_city: Int64Array,
    card_numbers: Float64Array,
    card_alias: Int64Array,
    card_threshold: Float64Array,
    merchant_category: Int64Array,
    merchant_numbers: Float64Array,
    group_starts: Int64Array,
    city_numbers: Float64Array,
    city_currency: Int64Array,
    trades: Float64Array,
    out: Int64Array,
) -> None:
    """Fill the columns of the genuine transactions of one hour.

    Parameters
    ----------
    seed : uint64
    hour : int
        Hours since the first day.
    n_home_cities : int
        Cities before it are lived in; those from it on are only travelled to.
    first_ms : int
        Milliseconds since the epoch when the hour begins.
    card_city, ... , trades : ndarray
        As in :class:`~sentinel.data.simulator.world.World`.
    out : ndarray of int64, shape (N_COLUMNS, n)
        See :mod:`sentinel.data.simulator.columns`; in no order of time.
    """
    n_cards = len(card_city)
    n_cities = len(city_numbers)
    day = hour // 24
    for row in range(out.shape[1]):
        key = key_of(seed, hour, row)
        place = draw(key, 0) * n_cards
        card = int(place)
        if draw(key, 1) >= card_threshold[card]:
            card = card_alias[card]
        home = card_city[card]
        city = _city_now(seed, card, day, home, n_home_cities, n_cities)
        is_online = draw(key, 2) < card_numbers[card, 2]
        group = 0 if is_online else city + 1
        merchant = _merchant_of(seed, key, card, group, group_starts)
        category = merchant_category[merchant]
        mean = trades[category, 0] + merchant_numbers[merchant, 2] + card_numbers[card, 4]
        amount = _amount_of(key, mean, trades[category, 1], category)
        is_vpn = False
        device = NO_DEVICE
        if is_online:
            channel = ONLINE_CHANNEL
            currency = city_currency[home]
            is_vpn = draw(key, 3) < card_numbers[card, 3]
            device = _device_of(seed, key, card, day)
            seen_in = city
            if is_vpn or draw(key, 4) < 0.03:
                seen_in = int(draw(key, 5) * (n_cities if is_vpn else n_home_cities))
            if seen_in == home:
                latitude = card_numbers[card, 0]
                longitude = card_numbers[card, 1]
            else:
                latitude = city_numbers[seen_in, 0]
                longitude = city_numbers[seen_in, 1]
            latitude += 0.01 * (draw(key, 6) - 0.5)
            longitude += 0.01 * (draw(key, 7) - 0.5)
        else:
            is_tap = amount <= _CONTACTLESS_MINOR_MAX and draw(key, 3) < 0.75
            channel = CONTACTLESS if is_tap and category != CASH else CHIP
            currency = city_currency[city]
            latitude = merchant_numbers[merchant, 0]
            longitude = merchant_numbers[merchant, 1]
        out[NUMBER, row] = 0
        out[TIME, row] = first_ms + int(draw(key, 8) * MS_AN_HOUR)
        out[CARD, row] = card
        out[MERCHANT, row] = merchant
        out[DEVICE, row] = device
        out[AMOUNT, row] = amount
        out[CURRENCY, row] = currency
        out[CATEGORY, row] = category
        out[CHANNEL, row] = channel
        out[LATITUDE, row] = round(latitude * 1e6)
        out[LONGITUDE, row] = round(longitude * 1e6)
        out[VPN, row] = is_vpn
        out[FRAUD_KIND, row] = 0
