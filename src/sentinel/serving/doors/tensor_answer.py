"""Answers to tensors in the REST protocol: JSON, and binary behind it where asked for."""

from __future__ import annotations

import functools
import struct

import msgspec
import numpy as np

from sentinel.core.errors import ErrorCode, SentinelError
from sentinel.scoring import Outcome, Reason, ServedBy, code_names
from sentinel.serving.batching.work import TensorAnswers
from sentinel.serving.doors.http_message import JSON, HttpResponse
from sentinel.serving.doors.tensors import InferBody
from sentinel.serving.plane import OUTPUT_NAMES

_NAMES = {
    "outcome": code_names(Outcome),
    "served_by": code_names(ServedBy),
    "reason": code_names(Reason),
}
_BYTES_NAMES = {
    output: [struct.pack("<I", len(name)) + name.encode() for name in names]
    for output, names in _NAMES.items()
}
_JSON_NAMES = {output: [f'"{name}"'.encode() for name in names] for output, names in _NAMES.items()}
_STARTS = {
    name: b'{"name":"%b","datatype":"%b","shape":['
    % (name.encode(), b"FP32" if name == "score" else b"BYTES")
    for name in OUTPUT_NAMES
}
# Codes of three kinds, of a release or two.
_ENDS_REMEMBERED_MAX = 256
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


def encode_infer(answers: TensorAnswers, body: InferBody, *, model: str) -> HttpResponse:
    """Write the response of the REST protocol.

    Raises
    ------
    SentinelError
        ``answer-held``, ``tensor-invalid``.
    """
    require_answered(answers)
    if len(answers.scores) == 1 and not body.outputs and not body.parameters:
        return HttpResponse(200, _one_row(answers, body.id, model))
    wishes = body.outputs or []
    names = wanted_outputs([wish.name for wish in wishes] or None)
    all_binary = body.parameters.get("binary_data_output") is True
    binary = {wish.name: wish.parameters.get("binary_data", all_binary) is True for wish in wishes}
    n_rows = len(answers.scores)
    parts = [
        b'{"model_name":"%b","model_version":"%b"' % (model.encode(), answers.version.encode())
    ]
    if body.id is not None:
        parts += [b',"id":', msgspec.json.encode(body.id)]
    tail: list[bytes] = []
    separator = b',"outputs":['
    for name in names:
        parts += [separator, _STARTS[name], b"%d]" % n_rows]
        separator = b","
        if binary.get(name, all_binary):
            content = binary_output(answers, name)
            parts.append(b',"parameters":{"binary_data_size":%d}}' % len(content))
            tail.append(content)
        else:
            parts += [b',"data":[', _plain_output(answers, name), b"]}"]
    parts.append(b"]}")
    head = b"".join(parts)
    if not tail:
        return HttpResponse(200, head, JSON)
    length = (_LENGTH_HEADER, str(len(head)).encode())
    return HttpResponse(200, b"".join([head, *tail]), _OCTETS, headers=(length,))


def _one_row(answers: TensorAnswers, request_id: str | None, model: str) -> bytes:
    """Write the answer to one row, of all outputs: what most requests want."""
    (score,), (outcome,), (served_by,), (reason,), version = answers
    start, before, after = _around_score(model, version, outcome, served_by, reason)
    if request_id is not None:
        start += b',"id":' + msgspec.json.encode(request_id)
    return b"%b%b%.9g%b" % (start, before, score, after)


@functools.lru_cache(maxsize=_ENDS_REMEMBERED_MAX)
def _around_score(
    model: str, version: str, outcome: int, served_by: int, reason: int
) -> tuple[bytes, bytes, bytes]:
    """Write what stands around the id and the score of an answer of one row."""
    codes = {"outcome": outcome, "served_by": served_by, "reason": reason}
    start = b'{"model_name":"%b","model_version":"%b"' % (model.encode(), version.encode())
    before = b',"outputs":[' + _STARTS["score"] + b'1],"data":['
    rest = b"".join(
        b',%b1],"data":[%b]}' % (_STARTS[name], _JSON_NAMES[name][codes[name]])
        for name in OUTPUT_NAMES[1:]
    )
    return start, before, b"]}" + rest + b"]}"


def binary_output(answers: TensorAnswers, name: str) -> bytes:
    """Return one output as raw bytes: little-endian, texts behind their length."""
    if name == "score":
        return np.array(answers.scores, dtype="<f4").tobytes()
    names = _BYTES_NAMES[name]
    return b"".join([names[code] for code in _codes(answers, name)])


def _plain_output(answers: TensorAnswers, name: str) -> bytes:
    """Write one output as JSON values; nine digits are those of a float32."""
    if name == "score":
        return b",".join([b"%.9g" % score for score in answers.scores])
    names = _JSON_NAMES[name]
    return b",".join([names[code] for code in _codes(answers, name)])


def _codes(answers: TensorAnswers, name: str) -> list[int]:
    if name == "outcome":
        return answers.outcomes
    return answers.served_by if name == "served_by" else answers.reasons


def _invalid(expected: str, got: str) -> SentinelError:
    return SentinelError(ErrorCode.TENSOR_INVALID, at="outputs", expected=expected, got=got)
