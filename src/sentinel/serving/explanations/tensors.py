"""Rows of features that are scored and explained: what ``explain`` of the inference protocol asks.

The rows go the way of ``infer`` first, so what is explained is what would be answered. Then they
wait for the explainer like every decision, but nothing of them is kept: they belong to nobody.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from sentinel.core.errors import ErrorCode, SentinelError
from sentinel.features.matrix import PRESENT
from sentinel.scoring.explanation import ScoredRows
from sentinel.serving import bounds
from sentinel.serving.batching.work import Result, TensorAnswers, Work
from sentinel.serving.door_plane import Told
from sentinel.serving.explanations.explanations import Answer

if TYPE_CHECKING:
    from sentinel.serving.plane import Limit, Plane


def explain_tensors(
    plane: Plane,
    values: npt.NDArray[np.float32],
    limit: Limit,
    *,
    request_id: str | None,
    told: Told,
) -> Work:
    """Score rows, explain them, and tell the JSON of it once, in the loop that calls this.

    Parameters
    ----------
    plane : Plane
    values : ndarray of float32, shape (n_rows, n_features)
        At most ``EXPLAIN_REQUEST_ROWS_MAX`` rows.
    limit : Limit
        Its time is for both: scoring and explaining.
    request_id : str or None
        Echoed.
    told : callable

    Raises
    ------
    SentinelError
        ``request-too-large``, ``explanation-unavailable``, and as :meth:`Plane.infer`.
    """
    desk, release = plane.explanations, plane.current
    desk.require_on()
    if len(values) > bounds.EXPLAIN_REQUEST_ROWS_MAX:
        raise SentinelError(
            ErrorCode.REQUEST_TOO_LARGE,
            at="request",
            expected=f"at most {bounds.EXPLAIN_REQUEST_ROWS_MAX} rows to explain",
            got=len(values),
        )
    loop = asyncio.get_running_loop()
    once = _Once(told)
    timer = loop.call_later(limit.timeout_s, lambda: once(_late(limit)))

    def explained(answers: Sequence[Answer]) -> None:
        document = _document(answers, release.label, request_id)
        with contextlib.suppress(RuntimeError):  # a loop that is closed has nobody who waits
            loop.call_soon_threadsafe(finish, document)

    def finish(found: bytes | SentinelError) -> None:
        timer.cancel()
        once(found)

    def scored(result: Result) -> None:
        if not isinstance(result, TensorAnswers):
            finish(result if isinstance(result, SentinelError) else _late(limit))
            return
        try:
            desk.explain(release.loaded, _rows(values, result), explained)
        except SentinelError as error:
            finish(error)

    try:
        return plane.infer(values, limit, scored)
    except SentinelError:
        timer.cancel()
        raise


class _Once:
    """Tells the first time and never again."""

    def __init__(self, told: Told) -> None:
        self._told: Told | None = told

    def __call__(self, found: bytes | SentinelError) -> None:
        told, self._told = self._told, None
        if told is not None:
            told(found)


def _rows(values: npt.NDArray[np.float32], answers: TensorAnswers) -> ScoredRows:
    return ScoredRows(
        values=values,
        status=np.full(values.shape, PRESENT, dtype=np.uint8),
        score=np.array(answers.scores, dtype=np.float64),
        outcome=np.array(answers.outcomes, dtype=np.uint8),
        served_by=np.array(answers.served_by, dtype=np.uint8),
    )


def _document(answers: Sequence[Answer], label: str, request_id: str | None) -> bytes:
    name, _, version = label.rpartition("@")
    explanations = [
        json.loads(answer) if isinstance(answer, bytes) else {"absence": answer}
        for answer in answers
    ]
    for explanation in explanations:
        explanation.pop("event_id", None)
    document: dict[str, object] = {"model_name": name, "model_version": version}
    if request_id is not None:
        document["id"] = request_id
    document["explanations"] = explanations
    return json.dumps(document, allow_nan=False).encode()


def _late(limit: Limit) -> SentinelError:
    return SentinelError(
        ErrorCode.DEADLINE_PASSED,
        at="request",
        expected=f"an answer within {limit.timeout_s:.3f} s",
        got="none yet",
    )
