"""Settings of a training run: plain data, checked before anything is read."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from sentinel.core import limits
from sentinel.core.errors import ErrorCode, SentinelError


class ModelSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How the champion and the fallback are fitted.

    Attributes
    ----------
    n_rounds_max : int
        Trees at most.
    stop_after_rounds : int
        Stop when the validation part's average precision has not risen for so many rounds.
    refit : bool
        Fit once more on the whole training part, validation included, with the number of trees
        that was best. Without it the newest labels choose the number of trees and teach nothing.
    learning_rate : float, in (0, 1]
    n_leaves : int
        Leaves of a tree at most.
    rows_per_leaf_min : int
    feature_share, row_share : float, in (0, 1]
        Drawn at random for each tree.
    l2 : float
        Penalty on the squares of the leaf values.
    fallback_strength : float
        Inverse of the penalty on the squares of the fallback's coefficients.
    seed : int
        Of everything random in a run.
    n_threads : int
        Results do not depend on it.

    Raises
    ------
    SentinelError
        ``training-settings-invalid`` at the first setting that is wrong.

    Examples
    --------
    >>> ModelSettings(n_leaves=15).n_leaves
    15
    """

    n_rounds_max: int = 400
    stop_after_rounds: int = 50
    refit: bool = True
    learning_rate: float = 0.05
    n_leaves: int = 31
    rows_per_leaf_min: int = 20
    feature_share: float = 0.5
    row_share: float = 0.8
    l2: float = 5.0
    fallback_strength: float = 1.0
    seed: int = 1
    n_threads: int = 2

    def __post_init__(self) -> None:
        """Refuse numbers out of bounds."""
        for name, smallest, largest in _BOUNDS:
            value = getattr(self, name)
            if not smallest <= value <= largest:
                raise _invalid(f"model.{name}", f"a number from {smallest} to {largest}", value)
        if self.stop_after_rounds > self.n_rounds_max:
            raise _invalid(
                "model.stop_after_rounds",
                f"at most n_rounds_max ({self.n_rounds_max})",
                self.stop_after_rounds,
            )

    @classmethod
    def of(cls, data: Mapping[str, int | float | bool]) -> ModelSettings:
        """Read the ``model`` of a pipeline.

        Raises
        ------
        SentinelError
            ``training-settings-invalid`` for an unknown name, a wrong type, a number out of
            bounds.

        Examples
        --------
        >>> ModelSettings.of({"n_leaves": 15, "learning_rate": 0.1}).learning_rate
        0.1
        """
        unknown = sorted(set(data) - set(cls.__struct_fields__))
        if unknown:
            raise _invalid(
                f"model.{unknown[0]}", f"one of {', '.join(cls.__struct_fields__)}", unknown[0]
            )
        try:
            return msgspec.convert(dict(data), cls)
        except msgspec.ValidationError as error:
            raise _invalid("model", "settings of the right types", error) from error

    def to_data(self) -> dict[str, str | int | float | bool]:
        """Return the settings as plain data: what provenance records."""
        data: dict[str, str | int | float | bool] = msgspec.to_builtins(self)
        return data


_SMALLEST_SHARE = 0.01
# Setting, smallest, largest.
_BOUNDS: tuple[tuple[str, float, float], ...] = (
    ("n_rounds_max", 1, limits.BOOSTING_ROUNDS_MAX),
    ("stop_after_rounds", 1, limits.BOOSTING_ROUNDS_MAX),
    ("learning_rate", 1e-6, 1.0),
    ("n_leaves", 2, limits.BOOSTING_LEAVES_MAX),
    ("rows_per_leaf_min", 1, 1_000_000),
    ("feature_share", _SMALLEST_SHARE, 1.0),
    ("row_share", _SMALLEST_SHARE, 1.0),
    ("l2", 0.0, 1e9),
    ("fallback_strength", 1e-9, 1e9),
    ("seed", 0, 2**31 - 1),
    ("n_threads", 1, 256),
)


def _invalid(at: str, expected: str, got: object) -> SentinelError:
    return SentinelError(ErrorCode.TRAINING_SETTINGS_INVALID, at=at, expected=expected, got=got)
