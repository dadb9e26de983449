"""Models with one changed number, to see whether a canary is worth its name.

1. All numbers that the model's answers depend on are numbered: the votes of the leaves, and the
   float weights of all other operators.
2. Some of them are drawn with a fixed seed. Each is changed by a tenth of itself, at least by 0.01:
   far below what would show in a day's approvals.
3. A canary kills the mutation when some recorded score differs by more than its tolerance.

Thresholds are left out: a threshold moved by little sends no row of the canary another way, and
nor would it any other row.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from sentinel.scoring.canary import Canary
from sentinel.scoring.sanity import differs
from sentinel.scoring.session import ModelSession

if TYPE_CHECKING:
    import onnx

SEED = 20_180_801
_SHARE, _LEAST = 0.1, 0.01


def count_killed(model: bytes, canary: Canary, *, n_mutations: int) -> int:
    """Count the mutations that a canary notices.

    Parameters
    ----------
    model : bytes
        ONNX, admitted.
    canary : Canary
        Recorded with exactly this model.
    n_mutations : int

    Returns
    -------
    int
        0 to ``n_mutations``; 0 for a model without a number.
    """
    import onnx

    parsed = onnx.ModelProto.FromString(model)
    inputs = np.concatenate([canary.event_vectors, canary.vectors])
    recorded = np.concatenate([canary.event_scores, canary.vector_scores])
    places = _places(parsed)
    if not places or places[-1][0] == 0:
        return 0
    draw = np.random.default_rng(SEED).integers(0, places[-1][0], size=n_mutations)
    n_killed = 0
    for number in draw.tolist():
        undo = _change(places, number)
        session = ModelSession(parsed.SerializeToString(), n_features=inputs.shape[1])
        scores = np.asarray(session.run(inputs), dtype=np.float32)
        n_killed += bool(differs(scores, recorded, canary.tolerance).any())
        undo()
    return n_killed


def _places(model: onnx.ModelProto) -> list[tuple[int, Callable[[int], Callable[[], None]]]]:
    """List rows of numbers: (how many up to and with this one, how to change the i-th of it)."""
    places: list[tuple[int, Callable[[int], Callable[[], None]]]] = []
    total = 0
    for node in model.graph.node:
        for attribute in node.attribute:
            if attribute.name == "target_weights":
                total += len(attribute.floats)
                places.append((total, functools.partial(_change_vote, attribute)))
    for tensor in model.graph.initializer:
        total += len(_numbers(tensor))
        places.append((total, functools.partial(_change_weight, tensor)))
    return places


def _change(
    places: list[tuple[int, Callable[[int], Callable[[], None]]]], number: int
) -> Callable[[], None]:
    """Change the number with this place among all; return how to change it back."""
    first = 0
    for end, change in places:
        if number < end:
            return change(number - first)
        first = end
    raise IndexError(number)


def _changed(value: float) -> float:
    return value + (_SHARE * abs(value) + _LEAST)


def _change_vote(attribute: onnx.AttributeProto, index: int) -> Callable[[], None]:
    before = attribute.floats[index]
    attribute.floats[index] = _changed(before)

    def undo() -> None:
        attribute.floats[index] = before

    return undo


def _numbers(tensor: onnx.TensorProto) -> npt.NDArray[np.generic]:
    import onnx

    dtype = np.float32 if tensor.data_type == onnx.TensorProto.FLOAT else np.float64
    return np.frombuffer(tensor.raw_data, dtype=dtype)


def _change_weight(tensor: onnx.TensorProto, index: int) -> Callable[[], None]:
    before: bytes = tensor.raw_data
    numbers = _numbers(tensor).copy()
    numbers[index] = _changed(float(numbers[index]))
    tensor.raw_data = numbers.tobytes()

    def undo() -> None:
        tensor.raw_data = before

    return undo
