"""Answers to tensors in the REST protocol: JSON, and binary behind it where asked for."""

from __future__ import annotations

import json
import struct

import numpy as np
import numpy.typing as npt

from sentinel.core.errors import ErrorCode, SentinelError
from sentinel.scoring import Outcome, Reason, ServedBy, code_names
from sentinel.serving.http_message import JSON, HttpResponse
from sentinel.serving.plane import OUTPUT_NAMES
from sentinel.serving.tensors import InferBody
from sentinel.serving.work import TensorAnswers

_NAMES = {
    "outcome": code_names(Outcome),
    "served_by": code_names(ServedBy),
    "reason": code_names(Reason),
}
_BYTES_NAMES = {
    output: [struct.pack("<I", len(name)) + name.encode() for name in names]
    for output, names in _NAMES.items()
}
_OCTETS = b"application/octet-stream"
_LENGTH_HEADER = b"inference-header-content-length"


def require_answered(answers: TensorAnswers) -> None:
    """Refuse to write a number for a row that nobody answered.

    Raises
    ------
    SentinelError
        ``answer-held``.
    """
    if answers.is_held:
        raise SentinelError(
            ErrorCode.ANSWER_HELD,
            at="outputs.score",
            expected="an answer to every row",
            got=answers.held_reason(),
        )


def wanted_outputs(names: list[str] | None) -> list[str]:
    """Return the outputs that are asked for, all by default.

    Raises
    ------
    SentinelError
        ``tensor-invalid`` for a name that the model has not, or one asked for twice.
    """
    if names is None:
        return list(OUTPUT_NAMES)
    for name in names:
        if name not in OUTPUT_NAMES:
            raise _invalid(f"one of {', '.join(OUTPUT_NAMES)}", name)
    if len(set(names)) != len(names):
        raise _invalid("each output once", "one twice")
    return names or list(OUTPUT_NAMES)


def encode_infer(
    answers: TensorAnswers, body: InferBody, *, model: str, version: str
) -> HttpResponse:
    """Write the response of the REST protocol.

    Raises
    ------
    SentinelError
        ``answer-held``, ``tensor-invalid``.
    """
    require_answered(answers)
    wishes = body.outputs or []
    names = wanted_outputs([wish.name for wish in wishes] if body.outputs else None)
    all_binary = body.parameters.get("binary_data_output") is True
    binary = {wish.name: wish.parameters.get("binary_data", all_binary) is True for wish in wishes}
    outputs: list[dict[str, object]] = []
    tail: list[bytes] = []
    for name in names:
        output: dict[str, object] = {
            "name": name,
            "datatype": "FP32" if name == "score" else "BYTES",
            "shape": [len(answers.scores)],
        }
        if binary.get(name, all_binary):
            content = binary_output(answers, name)
            output["parameters"] = {"binary_data_size": len(content)}
            tail.append(content)
        else:
            output["data"] = plain_output(answers, name)
        outputs.append(output)
    document: dict[str, object] = {"model_name": model, "model_version": version}
    if body.id is not None:
        document["id"] = body.id
    document["outputs"] = outputs
    head = json.dumps(document, allow_nan=False).encode()
    if not tail:
        return HttpResponse(200, head, JSON)
    length = (_LENGTH_HEADER, str(len(head)).encode())
    return HttpResponse(200, b"".join([head, *tail]), _OCTETS, headers=(length,))


def plain_output(answers: TensorAnswers, name: str) -> list[float] | list[str]:
    """Return one output as plain values; a score has the digits that a float32 has."""
    if name == "score":
        return [float(f"{score:.9g}") for score in answers.scores.tolist()]
    names = _NAMES[name]
    return [names[code] for code in _codes(answers, name).tolist()]


def binary_output(answers: TensorAnswers, name: str) -> bytes:
    """Return one output as raw bytes: little-endian, texts behind their length."""
    if name == "score":
        return answers.scores.astype("<f4").tobytes()
    names = _BYTES_NAMES[name]
    return b"".join([names[code] for code in _codes(answers, name).tolist()])


def _codes(answers: TensorAnswers, name: str) -> npt.NDArray[np.uint8]:
    return {
        "outcome": answers.outcomes,
        "served_by": answers.served_by,
        "reason": answers.reasons,
    }[name]


def _invalid(expected: str, got: str) -> SentinelError:
    return SentinelError(ErrorCode.TENSOR_INVALID, at="outputs", expected=expected, got=got)
