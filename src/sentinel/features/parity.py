"""What was served against what a replay computes: feature by feature, bit by bit.

A feature that is equal in training and in serving only by intention drifts apart in silence. Here
each served value is held against the value that the one kernel computes from the same events, and
any differing bit, or differing status, is a mismatch of that feature.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from sentinel.core.native import native
from sentinel.core.siphash import siphash
from sentinel.features.matrix import PRESENT, STALE

Float32Array = npt.NDArray[np.float32]
StatusArray = npt.NDArray[np.uint8]

_STATUS_NAMES = {PRESENT: "present", STALE: "stale"}


@dataclass(frozen=True, slots=True, kw_only=True)
class FeatureDifference:
    """One value that was served and is not what is computed.

    Attributes
    ----------
    event_id : str
    position : int
        Of the event in its source.
    served, computed : float
        Every float32 is a float exactly, so two that differ by one bit are seen to differ.
    served_status, computed_status : str
        ``present``, ``default`` or ``stale``.
    """

    event_id: str
    position: int
    served: float
    computed: float
    served_status: str
    computed_status: str


@dataclass(frozen=True, slots=True, kw_only=True)
class FeatureParity:
    """What was found of one feature.

    Attributes
    ----------
    feature : str
    n_compared, n_different : int
        Served values that were looked at, and those that differ.
    first : FeatureDifference or None
        The first that differs, in the order of the replay.
    """

    feature: str
    n_compared: int
    n_different: int
    first: FeatureDifference | None


class ParityCounter:
    """Counts differences by feature.

    Parameters
    ----------
    names : tuple of str
        The features that are computed.

    Examples
    --------
    >>> counter = ParityCounter(("n", "mean"))
    >>> one = np.array([[3.0, 0.1]], dtype=np.float32)
    >>> other = np.nextafter(one, np.float32(9))
    >>> status = np.zeros((1, 2), dtype=np.uint8)
    >>> counter.compare(("n",), one[:, :1], status[:, :1], other, status, ["e1"], np.array([7]))
    [1, 0]
    >>> counter.features()[0].first.event_id
    'e1'
    """

    def __init__(self, names: tuple[str, ...]) -> None:
        self.names = names
        self.n_different = 0
        self._n_compared = np.zeros(len(names), dtype=np.int64)
        self._n_different = np.zeros(len(names), dtype=np.int64)
        self._first: list[FeatureDifference | None] = [None] * len(names)

    def compare(
        self,
        served_names: tuple[str, ...],
        served: Float32Array,
        served_status: StatusArray,
        computed: Float32Array,
        computed_status: StatusArray,
        event_ids: list[str],
        positions: npt.NDArray[np.int64],
    ) -> list[int]:
        """Compare some rows; features that were not served are passed over.

        Parameters
        ----------
        served_names : tuple of str
            Columns of what was served.
        served, served_status : ndarray, shape (n_rows, n_served)
        computed, computed_status : ndarray, shape (n_rows, n_features)
        event_ids : list of str
        positions : ndarray of int64, shape (n_rows,)

        Returns
        -------
        list of int
            Differing rows of each feature.
        """
        found = np.zeros(len(self.names), dtype=np.int64)
        differs_any = np.zeros(len(served), dtype=np.bool_)
        for i, name in enumerate(self.names):
            if name not in served_names:
                continue
            at = served_names.index(name)
            ours, theirs = np.ascontiguousarray(computed[:, i]), np.ascontiguousarray(served[:, at])
            differs = ours.view(np.uint32) != theirs.view(np.uint32)
            differs |= computed_status[:, i] != served_status[:, at]
            self._n_compared[i] += len(ours)
            found[i] = int(differs.sum())
            differs_any |= differs
            if found[i] and self._first[i] is None:
                row = int(np.argmax(differs))
                self._first[i] = FeatureDifference(
                    event_id=event_ids[row],
                    position=int(positions[row]),
                    served=float(theirs[row]),
                    computed=float(ours[row]),
                    served_status=_status(served_status[row, at]),
                    computed_status=_status(computed_status[row, i]),
                )
        self._n_different += found
        self.n_different += int(differs_any.sum())
        return found.tolist()

    def features(self) -> tuple[FeatureParity, ...]:
        """Return what was found, in the order of the features."""
        return tuple(
            FeatureParity(
                feature=name,
                n_compared=int(self._n_compared[i]),
                n_different=int(self._n_different[i]),
                first=self._first[i],
            )
            for i, name in enumerate(self.names)
        )


def _status(code: np.uint8) -> str:
    return _STATUS_NAMES.get(int(code), "default")


@native
def hash_texts(
    content: npt.NDArray[np.uint8], offsets: npt.NDArray[np.int32]
) -> npt.NDArray[np.int64]:
    """Hash texts that lie one behind the other, as the contract hashes an event id.

    Parameters
    ----------
    content : ndarray of uint8
    offsets : ndarray of int32, shape (n + 1,)

    Returns
    -------
    ndarray of int64, shape (n,)
    """
    hashes = np.empty(len(offsets) - 1, dtype=np.int64)
    for row in range(len(hashes)):
        hashes[row] = np.int64(siphash(content, offsets[row], offsets[row + 1]))
    return hashes
