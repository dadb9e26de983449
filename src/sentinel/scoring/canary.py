"""The canary: known events and vectors with known answers, that travel with the release.

A check goes the way of every event, from its bytes on:

1. *decode*: the raw events through the contract; every one must be accepted;
2. *features*: a fresh engine; every value must be the recorded one to the last bit;
3. *champion*: these vectors, and further ones, through the session;
4. *sanity*: the champion's outputs by the same rules as live ones;
5. *scores*: the recorded ones, up to a tolerance in log-odds (:func:`sanity.differs`);
6. *fallback*: the recorded scores, up to the same tolerance.

It names the first difference. The further vectors are chosen so that they reach as many leaves of
the champion's trees as possible (:func:`choose_canary_rows`): a champion with one changed leaf is
then found out by the vectors that end in it.
"""

from __future__ import annotations

import enum
import heapq
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import msgspec
import numpy as np
import numpy.typing as npt

from sentinel.contract.batch import EventBatch, RawBatch
from sentinel.core import limits
from sentinel.core.errors import ErrorCode, SentinelError
from sentinel.features.matrix import FeatureMatrix
from sentinel.scoring.decision import Reason, code_names
from sentinel.scoring.fallback import LinearFallback
from sentinel.scoring.policy import OutputRules
from sentinel.scoring.sanity import Sanity, differs

Float32Array = npt.NDArray[np.float32]


class Step(enum.StrEnum):
    """Where a check found the first difference."""

    DECODE = "decode"
    FEATURES = "features"
    CHAMPION = "champion"
    SANITY = "sanity"
    SCORES = "scores"
    FALLBACK = "fallback"


@dataclass(frozen=True, slots=True)
class CanaryReport:
    """What a check found.

    Attributes
    ----------
    passed : bool
    step : Step or None
        Where the first difference was.
    at : str
        Which event or vector, and which feature.
    expected, actual : str
        What was recorded, and what came.
    """

    passed: bool
    step: Step | None = None
    at: str = ""
    expected: str = ""
    actual: str = ""

    def __str__(self) -> str:
        """Say it in one sentence."""
        if self.passed:
            return "the canary gave its recorded answers"
        return f"{self.step}: {self.at}: recorded {self.expected}, got {self.actual}"


@dataclass(frozen=True, slots=True, kw_only=True)
class CanaryPath:
    """The way an event goes, step by step, with nothing remembered of other events.

    Attributes
    ----------
    decode : callable
        Raw events to the accepted ones.
    features : callable
        Accepted events to vectors, from an engine that has seen nothing.
    champion : callable
        Vectors (n, n_features) to outputs (n,).
    fallback : LinearFallback
    outputs : OutputRules
    """

    decode: Callable[[RawBatch], EventBatch]
    features: Callable[[EventBatch], FeatureMatrix]
    champion: Callable[[Float32Array], Float32Array]
    fallback: LinearFallback
    outputs: OutputRules


class _Data(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The data form; float32 numbers are written as the float64 of the same value."""

    features: list[str]
    tolerance: float
    events: list[str]
    event_vectors: list[list[float]]
    event_scores: list[float]
    event_fallback_scores: list[float]
    vectors: list[list[float]]
    vector_scores: list[float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Canary:
    """Known inputs and their answers.

    Attributes
    ----------
    features : tuple of str
        Names of the columns.
    tolerance : float
        In log-odds, above 0, at most 0.01.
    events : tuple of bytes
        Raw events in order, distinct ids.
    event_vectors : ndarray of float32, shape (n_events, n_features)
    event_scores, event_fallback_scores : ndarray of float32, shape (n_events,)
    vectors : ndarray of float32, shape (n_vectors, n_features)
    vector_scores : ndarray of float32, shape (n_vectors,)

    Raises
    ------
    SentinelError
        ``canary-invalid``: empty, too large, shapes that do not fit, numbers that are not finite,
        a tolerance that would forgive a changed model, answers that are all the same.
    """

    features: tuple[str, ...]
    tolerance: float
    events: tuple[bytes, ...]
    event_vectors: Float32Array
    event_scores: Float32Array
    event_fallback_scores: Float32Array
    vectors: Float32Array
    vector_scores: Float32Array

    def __post_init__(self) -> None:
        """Refuse a canary that could not notice anything."""
        n_features = len(self.features)
        n_events, n_vectors = len(self.events), len(self.vectors)
        if not 0 < self.tolerance <= limits.CANARY_TOLERANCE_MAX:
            expected = f"above 0, at most {limits.CANARY_TOLERANCE_MAX}"
            raise _invalid("tolerance", expected, self.tolerance)
        if not 1 <= n_events <= limits.CANARY_EVENTS_MAX:
            raise _invalid("events", f"1 to {limits.CANARY_EVENTS_MAX} events", n_events)
        if n_vectors > limits.CANARY_VECTORS_MAX:
            raise _invalid("vectors", f"at most {limits.CANARY_VECTORS_MAX}", n_vectors)
        shapes = {
            "event_vectors": (n_events, n_features),
            "event_scores": (n_events,),
            "event_fallback_scores": (n_events,),
            "vectors": (n_vectors, n_features),
            "vector_scores": (n_vectors,),
        }
        for name, shape in shapes.items():
            array: Float32Array = getattr(self, name)
            if array.shape != shape or array.dtype != np.float32:
                raise _invalid(name, f"float32 of shape {shape}", f"{array.dtype} {array.shape}")
            if not np.isfinite(array).all():
                raise _invalid(name, "finite numbers", "one that is not")
        scores = np.concatenate([self.event_scores, self.vector_scores])
        if len(np.unique(scores)) < 2:
            raise _invalid("scores", "at least two different answers", scores[:1])

    @classmethod
    def record(
        cls,
        path: CanaryPath,
        *,
        events: Sequence[bytes],
        vectors: Float32Array,
        tolerance: float,
    ) -> Canary:
        """Make a canary from inputs, by recording what the given path answers now.

        Parameters
        ----------
        path : CanaryPath
        events : sequence of bytes
            Raw events, in order.
        vectors : ndarray of float32, shape (n_vectors, n_features)
            Such as the rows that :func:`choose_canary_rows` names; may be empty.
        tolerance : float
            ``policy.canary_tolerance``.

        Raises
        ------
        SentinelError
            ``canary-invalid`` also when an event is refused or an answer is not sane.
        """
        raw = RawBatch.from_events(events, source="canary")
        accepted = path.decode(raw)
        if accepted.n_rows != len(events):
            raise _invalid("events", "events that the contract accepts", accepted.n_rows)
        matrix = path.features(accepted)
        if matrix.is_duplicate.any():
            raise _invalid("events", "distinct event ids", "an id twice")
        further = np.ascontiguousarray(vectors, dtype=np.float32).reshape(-1, len(matrix.names))
        canary = cls(
            features=matrix.names,
            tolerance=tolerance,
            events=tuple(events),
            event_vectors=matrix.values,
            event_scores=path.champion(matrix.values),
            event_fallback_scores=path.fallback.scores(matrix.values).astype(np.float32),
            vectors=further,
            vector_scores=path.champion(further) if len(further) else np.zeros(0, np.float32),
        )
        report = canary.check(path)
        if not report.passed:
            raise _invalid("record", "answers that can be repeated", report)
        return canary

    def check(self, path: CanaryPath) -> CanaryReport:
        """Ask for the known answers; the first difference ends the check.

        Raises
        ------
        SentinelError
            ``model-failed`` when the champion raises: then it said nothing, right or wrong.
        """
        accepted = path.decode(RawBatch.from_events(self.events, source="canary"))
        if accepted.n_rows != len(self.events):
            refused = sorted(set(range(len(self.events))) - set(accepted.rows.tolist()))
            return _difference(Step.DECODE, f"event {refused[0]}", "accepted", "refused")
        matrix = path.features(accepted)
        return (
            self._check_features(matrix)
            or self._check_champion(path, matrix.values)
            or self._check_fallback(path, matrix.values)
            or CanaryReport(passed=True)
        )

    def _check_features(self, matrix: FeatureMatrix) -> CanaryReport | None:
        if matrix.names != self.features:
            return _difference(Step.FEATURES, "names", self.features, matrix.names)
        different = matrix.values.view(np.uint32) != self.event_vectors.view(np.uint32)
        if not different.any():
            return None
        row, column = (int(i) for i in np.argwhere(different)[0])
        return _difference(
            Step.FEATURES,
            f"event {row}, {self.features[column]}",
            self.event_vectors[row, column],
            matrix.values[row, column],
        )

    def _check_champion(self, path: CanaryPath, values: Float32Array) -> CanaryReport | None:
        inputs = np.concatenate([values, self.vectors])
        recorded = np.concatenate([self.event_scores, self.vector_scores])
        output = path.champion(inputs)
        verdict = Sanity(path.outputs, path.champion, self.tolerance).judge(inputs, output)
        if verdict.n_bad:
            row = int(np.argmax(verdict.reasons != Reason.OK))
            reason = code_names(Reason)[verdict.reasons[row]]
            return _difference(Step.SANITY, self._place(row), recorded[row], reason)
        return self._compare(Step.SCORES, verdict.scores, recorded)

    def _check_fallback(self, path: CanaryPath, values: Float32Array) -> CanaryReport | None:
        scores = path.fallback.scores(values).astype(np.float32)
        return self._compare(Step.FALLBACK, scores, self.event_fallback_scores)

    def _compare(
        self, step: Step, actual: Float32Array, recorded: Float32Array
    ) -> CanaryReport | None:
        different = differs(actual, recorded, self.tolerance)
        if not different.any():
            return None
        row = int(np.argmax(different))
        return _difference(step, self._place(row), recorded[row], actual[row])

    def _place(self, row: int) -> str:
        n_events = len(self.events)
        return f"event {row}" if row < n_events else f"vector {row - n_events}"

    def to_data(self) -> dict[str, object]:
        """Return plain data: what ``canary.json`` holds."""
        return {
            "features": list(self.features),
            "tolerance": self.tolerance,
            "events": [event.decode() for event in self.events],
            "event_vectors": self.event_vectors.astype(np.float64).tolist(),
            "event_scores": self.event_scores.astype(np.float64).tolist(),
            "event_fallback_scores": self.event_fallback_scores.astype(np.float64).tolist(),
            "vectors": self.vectors.astype(np.float64).tolist(),
            "vector_scores": self.vector_scores.astype(np.float64).tolist(),
        }

    @classmethod
    def from_data(cls, data: object) -> Canary:
        """Build a canary from plain data; the same numbers to the last bit.

        Raises
        ------
        SentinelError
            ``canary-invalid``.
        """
        try:
            plain = msgspec.convert(data, _Data)
        except msgspec.ValidationError as error:
            raise _invalid("", "events, vectors and their answers", error) from error
        n_features = len(plain.features)
        return cls(
            features=tuple(plain.features),
            tolerance=plain.tolerance,
            events=tuple(event.encode() for event in plain.events),
            event_vectors=_matrix("event_vectors", plain.event_vectors, n_features),
            event_scores=np.array(plain.event_scores, dtype=np.float32),
            event_fallback_scores=np.array(plain.event_fallback_scores, dtype=np.float32),
            vectors=_matrix("vectors", plain.vectors, n_features),
            vector_scores=np.array(plain.vector_scores, dtype=np.float32),
        )


def choose_canary_rows(
    leaves: npt.NDArray[np.integer], *, n_rows_max: int = limits.CANARY_VECTORS_MAX // 4
) -> npt.NDArray[np.int64]:
    """Choose few rows that reach as many leaves as possible.

    Greedy cover: always the row that reaches most leaves not reached yet; at most 1 - 1/e of
    the best possible is lost (Nemhauser, Wolsey, Fisher, 1978), with gains looked up again only
    when they matter (Minoux, 1978).

    Parameters
    ----------
    leaves : ndarray of integer, shape (n_rows, n_trees)
        In which leaf of each tree each row ends; any numbering within a tree.
    n_rows_max : int
        Most rows to choose.

    Returns
    -------
    ndarray of int64, shape (n_chosen,)
        Ascending. Fewer than ``n_rows_max`` when all leaves that any row reaches are covered.

    Examples
    --------
    >>> choose_canary_rows(np.array([[0, 0], [0, 1], [1, 1]])).tolist()
    [0, 2]
    """
    n_rows, n_trees = leaves.shape
    numbered = np.empty((n_rows, n_trees), dtype=np.int64)
    n_leaves = 0
    for tree in range(n_trees):
        found, numbers = np.unique(leaves[:, tree], return_inverse=True)
        numbered[:, tree] = numbers + n_leaves
        n_leaves += len(found)
    is_open = np.ones(n_leaves, dtype=np.bool_)
    queue = [(-n_trees, row) for row in range(n_rows)]
    chosen: list[int] = []
    while queue and len(chosen) < n_rows_max:
        _, row = heapq.heappop(queue)
        gain = int(is_open[numbered[row]].sum())
        if not gain:
            continue
        if queue and gain < -queue[0][0]:
            heapq.heappush(queue, (-gain, row))
            continue
        is_open[numbered[row]] = False
        chosen.append(row)
    return np.array(sorted(chosen), dtype=np.int64)


def _matrix(name: str, rows: list[list[float]], n_features: int) -> Float32Array:
    if any(len(row) != n_features for row in rows):
        raise _invalid(name, f"{n_features} numbers a row", "a row of another length")
    return np.array(rows, dtype=np.float32).reshape(len(rows), n_features)


def _difference(step: Step, at: str, expected: object, actual: object) -> CanaryReport:
    return CanaryReport(False, step, at, str(expected), str(actual))


def _invalid(name: str, expected: str, got: object) -> SentinelError:
    at = f"canary.{name}" if name else "canary"
    return SentinelError(ErrorCode.CANARY_INVALID, at=at, expected=expected, got=got)
