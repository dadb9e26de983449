"""Where the simulated world is: cities, their people, their money; what is sold and for how much.

Coordinates are those of real cities, rounded; everything else is invented.
"""

from __future__ import annotations

from dataclasses import dataclass

from sentinel.data.simulator.contracts import CURRENCIES, MERCHANT_CATEGORIES


@dataclass(frozen=True, slots=True)
class City:
    """A place where cards live, merchants sell, or travellers go.

    Attributes
    ----------
    name : str
    latitude, longitude : float
        Degrees.
    weight : float
        Share of the cards that live there, before normalising; 0 for places that are only
        travelled to.
    currency : int
        Index into ``CURRENCIES``.
    """

    name: str
    latitude: float
    longitude: float
    weight: float
    currency: int


_EUR, _GBP, _CHF, _USD = range(len(CURRENCIES))

CITIES = (
    City("Berlin", 52.52, 13.40, 3.6, _EUR),
    City("Hamburg", 53.55, 10.00, 1.8, _EUR),
    City("Munich", 48.14, 11.58, 1.5, _EUR),
    City("Cologne", 50.94, 6.96, 1.1, _EUR),
    City("Paris", 48.86, 2.35, 4.0, _EUR),
    City("Lyon", 45.76, 4.84, 1.0, _EUR),
    City("Marseille", 43.30, 5.37, 0.9, _EUR),
    City("Madrid", 40.42, -3.70, 3.2, _EUR),
    City("Barcelona", 41.39, 2.17, 1.6, _EUR),
    City("Lisbon", 38.72, -9.14, 0.8, _EUR),
    City("Rome", 41.90, 12.50, 2.8, _EUR),
    City("Milan", 45.46, 9.19, 1.4, _EUR),
    City("Vienna", 48.21, 16.37, 1.9, _EUR),
    City("Brussels", 50.85, 4.35, 1.2, _EUR),
    City("Amsterdam", 52.37, 4.90, 1.1, _EUR),
    City("Dublin", 53.35, -6.26, 0.7, _EUR),
    City("Helsinki", 60.17, 24.94, 0.7, _EUR),
    City("Athens", 37.98, 23.73, 0.8, _EUR),
    City("London", 51.51, -0.13, 4.5, _GBP),
    City("Manchester", 53.48, -2.24, 0.8, _GBP),
    City("Edinburgh", 55.95, -3.19, 0.5, _GBP),
    City("Zurich", 47.37, 8.54, 0.7, _CHF),
    City("Geneva", 46.20, 6.14, 0.4, _CHF),
    City("New York", 40.71, -74.01, 0.0, _USD),
    City("Miami", 25.76, -80.19, 0.0, _USD),
    City("Los Angeles", 34.05, -118.24, 0.0, _USD),
    City("Mexico City", 19.43, -99.13, 0.0, _USD),
    City("Bogota", 4.71, -74.07, 0.0, _USD),
    City("Sao Paulo", -23.55, -46.63, 0.0, _USD),
    City("Lagos", 6.52, 3.38, 0.0, _USD),
    City("Nairobi", -1.29, 36.82, 0.0, _USD),
    City("Dubai", 25.20, 55.27, 0.0, _USD),
    City("Mumbai", 19.08, 72.88, 0.0, _USD),
    City("Bangkok", 13.76, 100.50, 0.0, _USD),
    City("Singapore", 1.35, 103.82, 0.0, _USD),
    City("Tokyo", 35.68, 139.69, 0.0, _USD),
)
N_HOME_CITIES = sum(city.weight > 0 for city in CITIES)


@dataclass(frozen=True, slots=True)
class Trade:
    """What a category of merchants sells.

    Attributes
    ----------
    category : str
    amount_median : float
        In units of the currency; amounts are log-normal.
    amount_spread : float
        Standard deviation of the logarithm of the amount.
    shop_share, online_share : float
        Share of the merchants of a city, and of those online, before normalising.
    """

    category: str
    amount_median: float
    amount_spread: float
    shop_share: float
    online_share: float


TRADES = (
    Trade("grocery", 24.0, 0.75, 26.0, 4.0),
    Trade("restaurant", 19.0, 0.70, 22.0, 8.0),
    Trade("fuel", 48.0, 0.35, 6.0, 0.0),
    Trade("transport", 6.0, 0.90, 10.0, 8.0),
    Trade("clothing", 55.0, 0.70, 10.0, 20.0),
    Trade("electronics", 110.0, 1.00, 5.0, 16.0),
    Trade("travel", 180.0, 0.95, 3.0, 10.0),
    Trade("health", 22.0, 0.70, 8.0, 5.0),
    Trade("entertainment", 17.0, 0.70, 6.0, 9.0),
    Trade("digital", 7.0, 1.00, 0.0, 16.0),
    Trade("gift_card", 45.0, 0.60, 1.0, 4.0),
    Trade("cash", 90.0, 0.55, 3.0, 0.0),
)
if tuple(trade.category for trade in TRADES) != MERCHANT_CATEGORIES:
    raise AssertionError("places.py: one trade for each category, in the order of the contract")

# Share of a day's transactions by hour, and a day's share of the week from Monday.
HOUR_WEIGHTS = (
    *(0.9, 0.5, 0.3, 0.25, 0.3, 0.7, 1.6, 3.2, 4.4, 4.9, 5.3, 6.0),
    *(7.0, 6.2, 5.4, 5.5, 6.1, 7.1, 7.3, 6.4, 5.2, 4.0, 2.8, 1.7),
)
WEEKDAY_WEIGHTS = (0.96, 0.95, 0.98, 1.02, 1.15, 1.12, 0.82)
