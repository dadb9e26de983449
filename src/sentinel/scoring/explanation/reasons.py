"""From contributions to the reasons that a person is given: the strongest first, in words.

Reasons speak for the outcome: what raised the score of a payment that was declined or is to be
reviewed, what lowered the score of one that was approved. Each has a stable code for machines,
made of the feature's name, its direction and whether its value was there at all.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from sentinel.core import limits
from sentinel.features import FeatureSet
from sentinel.features.matrix import PRESENT
from sentinel.features.words import STATUS_NAMES, FeatureWords

Float64Array = npt.NDArray[np.float64]


class Direction(enum.StrEnum):
    """Which way a feature moved the score."""

    RAISES = "raises"
    LOWERS = "lowers"


@dataclass(frozen=True, slots=True, kw_only=True)
class ReasonWords:
    """One reason.

    Attributes
    ----------
    code : str
        Stable: ``direction:feature``, and ``:default`` or ``:stale`` where the value was not
        there.
    feature : str
        Name of the feature.
    words : str
        For people.
    direction : Direction
    contribution : float
        Log-odds.
    status : str
        ``present``, ``default`` or ``stale``.
    """

    code: str
    feature: str
    words: str
    direction: Direction
    contribution: float
    status: str


class ReasonWriter:
    """Writes the reasons of rows of one feature set.

    Parameters
    ----------
    features : FeatureSet
    """

    def __init__(self, features: FeatureSet) -> None:
        self._names = features.names
        self._words = FeatureWords(features)

    def reasons(
        self,
        values: npt.NDArray[np.float32],
        status: npt.NDArray[np.uint8],
        contributions: Float64Array,
        *,
        direction: Direction,
    ) -> tuple[ReasonWords, ...]:
        """Choose and write the reasons of one row.

        Parameters
        ----------
        values : ndarray of float32, shape (n_features,)
        status : ndarray of uint8, shape (n_features,)
        contributions : ndarray of float64, shape (n_features,)
        direction : Direction

        Returns
        -------
        tuple of ReasonWords
            At most ``EXPLANATION_REASONS_MAX``, the strongest first, each with at least
            ``EXPLANATION_REASON_SHARE_MIN`` of all that goes the same way, each said once.
        """
        signed = contributions if direction is Direction.RAISES else -contributions
        least = limits.EXPLANATION_REASON_SHARE_MIN * float(signed[signed > 0].sum())
        found: dict[str, ReasonWords] = {}
        for j in np.argsort(-signed, kind="stable").tolist():
            if signed[j] <= 0 or signed[j] < least:
                break
            words = self._words.say(j, values, status)
            name, word = self._names[j], STATUS_NAMES.get(int(status[j]), "default")
            ending = "" if status[j] == PRESENT else f":{word}"
            reason = ReasonWords(
                code=f"{direction}:{name}{ending}",
                feature=name,
                words=words,
                direction=direction,
                contribution=float(contributions[j]),
                status=word,
            )
            found.setdefault(words, reason)
            if len(found) == limits.EXPLANATION_REASONS_MAX:
                break
        return tuple(found.values())
