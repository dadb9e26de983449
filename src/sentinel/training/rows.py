"""Rows to fit on, and what they must be before a library may see them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from sentinel.core.errors import ErrorCode, SentinelError

Float32Array = npt.NDArray[np.float32]
Float64Array = npt.NDArray[np.float64]
BoolArray = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelledRows:
    """Feature vectors with their labels, in time order.

    Attributes
    ----------
    names : tuple of str
        Feature names, in the order of the columns.
    values : ndarray of float32, shape (n_rows, n_features)
    is_positive : ndarray of bool, shape (n_rows,)
    """

    names: tuple[str, ...]
    values: Float32Array
    is_positive: BoolArray

    def check(self, part: str) -> None:
        """Refuse what cannot be learned from.

        Parameters
        ----------
        part : str
            Name of the part of the split, for the message.

        Raises
        ------
        SentinelError
            ``training-not-finite``, naming the feature; ``training-one-class``.
        """
        check_finite(self.values, self.names, part)
        n_positive = int(self.is_positive.sum())
        if not 0 < n_positive < len(self.is_positive):
            raise SentinelError(
                ErrorCode.TRAINING_ONE_CLASS,
                at=part,
                expected="both frauds and genuine events",
                got=f"{n_positive} frauds of {len(self.is_positive)} events",
                hint="Give a longer log, or look at what the verdict feed says.",
            )

    def joined(self, other: LabelledRows) -> LabelledRows:
        """Put the rows of another part behind these."""
        return LabelledRows(
            names=self.names,
            values=np.concatenate([self.values, other.values]),
            is_positive=np.concatenate([self.is_positive, other.is_positive]),
        )


def check_finite(values: Float32Array | Float64Array, names: tuple[str, ...], part: str) -> None:
    """Refuse NaN and infinity, naming the first column that holds one.

    Raises
    ------
    SentinelError
        ``training-not-finite``.
    """
    finite = np.isfinite(values)
    if finite.all():
        return
    row, column = np.argwhere(~finite)[0]
    raise SentinelError(
        ErrorCode.TRAINING_NOT_FINITE,
        at=f"{part}: {names[column]}",
        expected="finite numbers",
        got=f"{values[row, column]} in row {row}",
        hint="Nothing was saved.",
    )
