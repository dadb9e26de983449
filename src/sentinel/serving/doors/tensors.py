"""Tensors of the Open Inference Protocol, version 2: from its JSON, and from binary, to float32.

Nothing is allocated by a size that a caller names: the declared shape is held against the number
of values that came, and only then is there an array.

Clients write the same request again and again, with other numbers. What stands around the numbers
was judged once; where the same comes again, only the numbers are read.

Reference: KServe, "Open Inference Protocol", predict-api v2; its binary tensor data extension as
Triton defines it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Annotated, NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt

from sentinel.core import limits
from sentinel.core.errors import ErrorCode, SentinelError
from sentinel.serving import bounds

INPUT = "features"
FP32 = "FP32"
_FLOAT32_BYTES = 4
_FLOAT32_MAX = float(np.finfo(np.float32).max)

Parameter = bool | int | float | str


class InputTensor(msgspec.Struct, frozen=True, forbid_unknown_fields=True, gc=False):
    """One input as JSON has it; ``data`` is parsed once the rest is known to be right."""

    name: str
    shape: list[Annotated[int, msgspec.Meta(ge=-(1 << 63), le=(1 << 63) - 1)]]
    datatype: str
    parameters: dict[str, Parameter] = {}
    data: msgspec.Raw = msgspec.Raw()


class OutputWish(msgspec.Struct, frozen=True, forbid_unknown_fields=True, gc=False):
    """One output that is asked for."""

    name: str
    parameters: dict[str, Parameter] = {}


class InferBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True, gc=False):
    """The JSON part of a request; KServe's client names the model here as well."""

    inputs: list[InputTensor]
    id: str | None = None
    model_name: str | None = None
    model_version: str | None = None
    parameters: dict[str, Parameter] = {}
    outputs: list[OutputWish] | None = None


# A text that is no UTF-8 raises an error of Python's own.
_UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
_decode_body = msgspec.json.Decoder(InferBody).decode
_decode_object = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_decode_objects = msgspec.json.Decoder(list[dict[str, msgspec.Raw]]).decode
_decode_flat = msgspec.json.Decoder(list[float]).decode
_decode_nested = msgspec.json.Decoder(list[list[float]]).decode


class InferRequest(NamedTuple):
    """A request, checked.

    Attributes
    ----------
    body : InferBody
    values : ndarray of float32, shape (n_rows, n_features), C order
        Finite.
    """

    body: InferBody
    values: npt.NDArray[np.float32]


def read_infer(content: bytes, *, json_bytes: int | None, n_features: int) -> InferRequest:
    """Read a request of the REST protocol.

    Parameters
    ----------
    content : bytes
    json_bytes : int or None
        Length of the JSON part where binary data follow (``Inference-Header-Content-Length``).
    n_features : int
        Columns of the model.

    Raises
    ------
    SentinelError
        ``request-invalid``, ``tensor-invalid``.
    """
    if json_bytes is None:
        known = _read_known(content, n_features)
        if known is not None:
            return known
    if json_bytes is not None and not 0 <= json_bytes <= len(content):
        expected = f"a length of the JSON part up to {len(content)}"
        raise SentinelError(
            ErrorCode.REQUEST_INVALID, at="request", expected=expected, got=json_bytes
        )
    head = content if json_bytes is None else content[:json_bytes]
    rest = b"" if json_bytes is None else content[json_bytes:]
    _check_depth(head)
    try:
        body = _decode_body(head)
    except _UNREADABLE as error:
        raise SentinelError(
            ErrorCode.REQUEST_INVALID,
            at="request",
            expected="a JSON object as the Open Inference Protocol has it",
            got=error,
        ) from error
    _check_keys(head, body)
    tensor = only_input(body.inputs)
    n_rows = check_shape(tensor.datatype, tensor.shape, n_features=n_features)
    n_binary = tensor.parameters.get("binary_data_size")
    if n_binary is None:
        if rest:
            raise _invalid("binary_data_size", "the size of the binary data", "none")
        values = _from_json(tensor.data, n_rows, n_features)
        if json_bytes is None:
            _remember(content, body, values.shape)
        return InferRequest(body, values)
    if type(n_binary) is not int or n_binary != len(rest):
        got = f'the text "{n_binary}"' if isinstance(n_binary, str) else n_binary
        raise _invalid("binary_data_size", f"{len(rest)}, what followed the JSON part", got)
    if bytes(tensor.data):
        raise _invalid("data", "no data in JSON beside binary data", "both")
    return InferRequest(body, from_bytes(rest, n_rows, n_features))


def read_timeout_s(timeout: object) -> float:
    """Read how long a caller waits, from the parameter that says so in microseconds.

    Raises
    ------
    SentinelError
        ``request-invalid``.

    Examples
    --------
    >>> read_timeout_s(250_000)
    0.25
    """
    if type(timeout) is not int or timeout < 1:
        raise SentinelError(
            ErrorCode.REQUEST_INVALID,
            at="parameters.timeout",
            expected="microseconds, 1 or more",
            got=f'the text "{timeout}"' if isinstance(timeout, str) else timeout,
        )
    return min(timeout / 1e6, limits.REQUEST_TIMEOUT_MS_MAX / 1000)


def _read_known(content: bytes, n_features: int) -> InferRequest | None:
    """Read a request whose form was judged before; None: read it whole.

    Up to its numbers and behind them it is the same to the byte. Between stands one flat list of
    as many numbers: it ends with the first bracket.
    """
    start = content.find(b"[", content.find(_DATA) + len(_DATA))
    end = content.find(b"]", start) + 1
    form = _FORMS.get((content[:start], content[end:]))
    if form is None or form[1][1] != n_features:
        return None
    body, (n_rows, _) = form
    try:
        numbers = _decode_flat(content[start:end])
    except _UNREADABLE:
        return None
    if len(numbers) != n_rows * n_features or not _all_fit(numbers):
        return None
    return InferRequest(body, np.array(numbers, dtype=np.float32).reshape(n_rows, n_features))


def _remember(content: bytes, body: InferBody, shape: tuple[int, ...]) -> None:
    """Keep the form of a good request; not one with an id, which is another one each time."""
    (tensor,) = body.inputs
    start = content.find(b"[", content.find(_DATA) + len(_DATA))
    end = content.find(b"]", start) + 1
    around = content[:start], content[end:]
    is_short = len(around[0]) + len(around[1]) <= bounds.TENSOR_FORM_BYTES_MAX
    if body.id is not None or not is_short or content[start:end] != bytes(tensor.data):
        return
    if len(_FORMS) >= bounds.TENSOR_FORMS_KNOWN_MAX:
        _FORMS.clear()
    _FORMS[around] = (msgspec.structs.replace(body, inputs=[]), (shape[0], shape[1]))


def only_input(inputs: Sequence[InputTensor]) -> InputTensor:
    """Take the one input that the model has.

    Raises
    ------
    SentinelError
        ``tensor-invalid``.
    """
    if len(inputs) != 1:
        raise _invalid("", f"one input, {INPUT}", f"{len(inputs)} inputs")
    check_name(inputs[0].name)
    return inputs[0]


def check_name(name: str) -> None:
    """Refuse an input that the model does not have."""
    if name != INPUT:
        raise _invalid("name", INPUT, name)


def check_shape(datatype: str, shape: Sequence[int], *, n_features: int) -> int:
    """Return the number of rows.

    Raises
    ------
    SentinelError
        ``tensor-invalid``; ``request-too-large`` for more than ``REQUEST_ROWS_MAX`` rows.
    """
    if datatype != FP32:
        raise _invalid("datatype", FP32, datatype)
    if len(shape) != 2 or shape[1] != n_features or shape[0] < 1:
        raise _invalid("shape", f"[rows, {n_features}]", list(shape[:8]))
    if shape[0] > bounds.REQUEST_ROWS_MAX:
        raise SentinelError(
            ErrorCode.REQUEST_TOO_LARGE,
            at=f"{INPUT}.shape",
            expected=f"at most {bounds.REQUEST_ROWS_MAX} rows",
            got=shape[0],
        )
    return shape[0]


def from_bytes(content: bytes, n_rows: int, n_features: int) -> npt.NDArray[np.float32]:
    """Read row-major little-endian float32 numbers.

    Raises
    ------
    SentinelError
        ``tensor-invalid``.
    """
    n_bytes = n_rows * n_features * _FLOAT32_BYTES
    if len(content) != n_bytes:
        raise _invalid("data", f"{n_bytes} bytes for the shape", f"{len(content)} bytes")
    return _finite(np.frombuffer(content, dtype="<f4").reshape(n_rows, n_features))


def from_numbers(numbers: Sequence[float], n_rows: int, n_features: int) -> npt.NDArray[np.float32]:
    """Make a matrix of a flat list.

    Raises
    ------
    SentinelError
        ``tensor-invalid``.
    """
    if len(numbers) != n_rows * n_features:
        raise _invalid("data", f"{n_rows * n_features} numbers for the shape", len(numbers))
    with np.errstate(over="ignore"):
        values = np.array(numbers, dtype=np.float64).astype(np.float32)
    return _finite(values.reshape(n_rows, n_features))


def _from_json(data: msgspec.Raw, n_rows: int, n_features: int) -> npt.NDArray[np.float32]:
    content = bytes(data)
    if not content:
        raise _invalid("data", "numbers", "nothing")
    is_nested = content[1:].lstrip()[:1] == b"["
    try:
        if not is_nested:
            numbers = _decode_flat(content)
            if _all_fit(numbers) and len(numbers) == n_rows * n_features:
                return np.array(numbers, dtype=np.float32).reshape(n_rows, n_features)
            return from_numbers(numbers, n_rows, n_features)
        rows = _decode_nested(content)
    except _UNREADABLE as error:
        raise _invalid("data", "numbers, flat or row by row", error) from error
    expected = f"{n_rows} rows of {n_features} numbers"
    if len(rows) != n_rows:
        raise _invalid("data", expected, f"{len(rows)} rows")
    for number, row in enumerate(rows):
        if len(row) != n_features:
            raise _invalid("data", expected, f"{len(row)} numbers in row {number}")
    return from_numbers([number for row in rows for number in row], n_rows, n_features)


def _all_fit(numbers: list[float]) -> bool:
    """Whether all are float32 numbers; JSON has no NaN, so the two ends speak for the rest."""
    return bool(numbers) and min(numbers) >= -_FLOAT32_MAX and max(numbers) <= _FLOAT32_MAX


def _finite(values: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    if not np.isfinite(values).all():
        row, column = (int(i) for i in np.argwhere(~np.isfinite(values))[0])
        raise _invalid(f"data[{row}][{column}]", "a finite float32", values[row, column])
    return values


def _check_depth(content: bytes) -> None:
    """Refuse deep nesting before a parser recurses into it; brackets in texts count too."""
    if content.count(b"[") + content.count(b"{") <= bounds.REQUEST_DEPTH_MAX:
        return
    depth = deepest = 0
    for byte in content.translate(None, delete=_NO_BRACKETS):
        depth += 1 if byte in b"[{" else -1
        deepest = max(deepest, depth)
        if depth > bounds.REQUEST_DEPTH_MAX:
            raise SentinelError(
                ErrorCode.REQUEST_INVALID,
                at="request",
                expected=f"at most {bounds.REQUEST_DEPTH_MAX} levels",
                got=f"{depth} or more",
            )


def _check_keys(content: bytes, body: InferBody) -> None:
    """Refuse an object that has a key twice: of two values the parser would take the last.

    Every key has a colon. Where there are as many colons as the request has keys at least, none
    stands there twice; otherwise keys are counted, outside texts, and after parsing.
    """
    if content.count(b":") == _n_keys_least(body):
        return
    if _TEXTS.sub(b"", content).count(b":") != _n_keys(content):
        raise SentinelError(
            ErrorCode.REQUEST_INVALID, at="request", expected="each key once", got="one twice"
        )


def _n_keys_least(body: InferBody) -> int:
    n = 1 + (body.id is not None) + (body.outputs is not None)
    n += _n_parameters(body.parameters)
    for tensor in body.inputs:
        n += 3 + _n_parameters(tensor.parameters) + (len(memoryview(tensor.data)) > 0)
    for wish in body.outputs or ():
        n += 1 + _n_parameters(wish.parameters)
    return n


def _n_parameters(parameters: dict[str, Parameter]) -> int:
    return len(parameters) + 1 if parameters else 0


def _n_keys(content: bytes) -> int:
    """Count the keys that parsing leaves, in all objects that a request may have."""
    top = _decode_object(content)
    objects = [top]
    for name in ("inputs", "outputs"):
        if bytes(top.get(name, _NULL)) != b"null":
            objects += _decode_objects(top.get(name, _EMPTY))
    parameters = [each.get("parameters", _NULL) for each in objects]
    objects += [_decode_object(each) for each in parameters if bytes(each) != b"null"]
    return sum(map(len, objects))


_DATA = b'"data"'
# What stands before and behind the numbers, with the rest of the request and its shape.
_FORMS: dict[tuple[bytes, bytes], tuple[InferBody, tuple[int, int]]] = {}
_TEXTS = re.compile(rb'"(?:[^"\\]|\\.)*"', re.DOTALL)
_NULL, _EMPTY = msgspec.Raw(b"null"), msgspec.Raw(b"[]")
_NO_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))


def _invalid(part: str, expected: str, got: object) -> SentinelError:
    at = f"{INPUT}.{part}" if part else "inputs"
    return SentinelError(ErrorCode.TENSOR_INVALID, at=at, expected=expected, got=got)
