"""Tensors that are nonsense: shapes, types, sizes, names; refused before anything is allocated."""

from __future__ import annotations

import json
import random
import struct
import tracemalloc
from collections.abc import Iterator

import numpy as np
import pytest
from serving_rig import MODEL, N_FEATURES, Served, infer_body

from sentinel.core.errors import ErrorCode, SentinelError
from sentinel.serving.doors.grpc_door import read_values
from sentinel.serving.doors.grpc_messages import message
from sentinel.serving.doors.tensors import read_infer

ROW = [19.5, 1.0, 20.0, 60.0, 1.0]
HUGE = [
    0,
    -1,
    2,
    3,
    10_000,
    10_001,
    1 << 30,
    (1 << 31) - 1,
    1 << 32,
    (1 << 63) - 1,
    -(1 << 63),
    1 << 64,
]
TYPES = ["FP32", "FP64", "INT64", "BYTES", "BOOL", "fp32", "", "FP32 ", "nonsense"]
NAMES = ["features", "Features", "input", "", "features\x00", "f" * 1_000]
NUMBERS = [1.5, 0, -0.0, 1e39, -1e39, 1e308, 1e-45, 3.4028235e38, True, None, "1", "NaN", [1], {}]
REFUSED = {ErrorCode.REQUEST_INVALID, ErrorCode.TENSOR_INVALID, ErrorCode.REQUEST_TOO_LARGE}


def _shape(chance: random.Random, n_rows: int) -> object:
    good = [n_rows, N_FEATURES]
    return chance.choice([
        good, good, good, [n_rows], [n_rows * N_FEATURES], [N_FEATURES, n_rows], [], None, "5",
        [1.0, N_FEATURES],
        [chance.choice(HUGE), N_FEATURES], [n_rows, chance.choice(HUGE)], [1 << 32, 1 << 32],
        [*good, 1], [1] * 40, [True, N_FEATURES],
    ])  # fmt: skip


def _data(chance: random.Random, n_rows: int) -> object:
    flat = ROW * n_rows
    if chance.random() < 0.3:
        flat = flat[: chance.randrange(len(flat))]
    if chance.random() < 0.3:
        flat = [*flat, chance.choice(NUMBERS)]  # type: ignore[list-item]
    if chance.random() < 0.3:
        flat[chance.randrange(len(flat) or 1) : 1] = [chance.choice(NUMBERS)]  # type: ignore[list-item]
    if chance.random() < 0.2:
        return [flat[at : at + N_FEATURES] for at in range(0, len(flat), N_FEATURES)]
    return chance.choice([flat, flat, flat, flat, None, {}, "1,2", [flat]])


def _request(chance: random.Random) -> tuple[bytes, int | None]:
    """Write a request that is wrong in no, one or several ways."""
    n_rows = chance.choice([1, 1, 2, 7])
    tensor: dict[str, object] = {
        "name": NAMES[0] if chance.random() < 0.8 else chance.choice(NAMES),
        "shape": _shape(chance, n_rows),
        "datatype": TYPES[0] if chance.random() < 0.8 else chance.choice(TYPES),
        "data": _data(chance, n_rows),
    }
    binary = b""
    n_json: int | None = None
    if chance.random() < 0.3:
        del tensor["data"]
        binary = np.array(ROW * n_rows, "<f4").tobytes()[: chance.choice([None, 0, 3, -1])]
        size = chance.choice([len(binary), len(binary), 0, -4, 1 << 62, "20", 1.0, True])
        tensor["parameters"] = {"binary_data_size": size}
    if chance.random() < 0.1:
        tensor.pop(chance.choice(list(tensor)))
    inputs: object = chance.choice([[tensor]] * 8 + [[tensor, tensor], [], None])
    document: dict[str, object] = {"inputs": inputs}
    if chance.random() < 0.2:
        wish = {"name": chance.choice(["score", "score", "weights", "", "outcome"])}
        document["outputs"] = chance.choice([[wish], [wish, wish], wish, [{}]])
    if chance.random() < 0.1:
        document[chance.choice(["id", "parameters", "raw"])] = chance.choice(NUMBERS)
    head = json.dumps(document).encode()
    if binary or chance.random() < 0.05:
        n_json = chance.choice([len(head), len(head), len(head) - 1, 0, 10**9, -1])
    return head + binary, n_json


@pytest.mark.reliability("F5", t1=2_000, t2=100_000, t3=2_000_000)
def test_a_tensor_request_is_a_finite_matrix_or_a_reason(trials: Iterator[int]) -> None:
    n_good, codes = 0, set()
    for seed in trials:
        content, n_json = _request(random.Random(seed))
        try:
            asked = read_infer(content, json_bytes=n_json, n_features=N_FEATURES)
        except SentinelError as error:
            codes.add(error.code)
            continue
        n_good += 1
        assert asked.values.dtype == np.float32
        assert asked.values.ndim == 2
        assert asked.values.shape[1] == N_FEATURES
        assert np.isfinite(asked.values).all()
    assert n_good > 0
    assert codes == REFUSED


@pytest.mark.reliability("F5", t1=100, t2=5_000, t3=50_000)
def test_a_tensor_request_at_the_door_is_answered_or_refused_with_its_reason(
    server: Served, trials: Iterator[int]
) -> None:
    server.wait_ready()
    statuses = set()
    for seed in trials:
        content, n_json = _request(random.Random(seed))
        headers = {} if n_json is None else {"inference_header_content_length": str(n_json)}
        answer = server.request(
            "POST", f"/v2/models/{MODEL}/infer", content,
            content_type="application/json", **headers,
        )  # fmt: skip
        assert answer.status in {200, 400, 413}, (seed, answer)
        statuses.add(answer.status)
        if answer.status == 200 and b"binary_data_size" not in answer.body:
            scores = answer.json()["outputs"][0]["data"]  # type: ignore[index]
            assert all(0 <= float(score) <= 1 for score in scores if not isinstance(score, str))
    assert {200, 400} <= statuses


@pytest.mark.reliability("F5", t1=500, t2=20_000, t3=200_000)
def test_a_tensor_message_is_a_finite_matrix_or_a_reason(trials: Iterator[int]) -> None:
    """The same in protobuf: raw and typed contents, both, several, of any length."""
    n_good, codes = 0, set()
    for seed in trials:
        chance = random.Random(seed)
        request = message("inference", "ModelInferRequest")()
        for _ in range(chance.choice([1, 1, 1, 1, 0, 2])):
            n_rows = chance.choice([1, 2, 0, -1, 1 << 40])
            tensor = request.inputs.add(
                name=chance.choice(["features", "features", "features", ""]),
                datatype=chance.choice(["FP32", "FP32", "FP32", "INT64"]),
                shape=chance.choice([[n_rows, N_FEATURES], [n_rows], [], [1, 1, N_FEATURES]]),
            )
            if chance.random() < 0.4:
                numbers = [*ROW, float("nan"), float("inf")][: chance.randrange(8)]
                tensor.contents.fp32_contents.extend(numbers)
            if chance.random() < 0.2:
                tensor.contents.int64_contents.extend([1, 2, 3])
        for _ in range(chance.choice([0, 0, 1, 1, 2])):
            raw = struct.pack("<5f", *ROW) + struct.pack("<f", float("nan"))
            request.raw_input_contents.append(raw[: chance.choice([20, 20, 24, 19, 0])])
        try:
            values = read_values(request, n_features=N_FEATURES)
        except SentinelError as error:
            codes.add(error.code)
            continue
        n_good += 1
        assert values.shape[1] == N_FEATURES
        assert np.isfinite(values).all()
    assert n_good > 0
    assert codes
    assert codes <= REFUSED


@pytest.mark.reliability("F5")
@pytest.mark.parametrize("n_rows", [10_001, 1 << 30, 1 << 40, (1 << 63) - 1])
def test_nothing_is_allocated_by_a_size_that_somebody_names(n_rows: int) -> None:
    body = json.loads(infer_body([ROW]))
    body["inputs"][0]["shape"] = [n_rows, N_FEATURES]
    content = json.dumps(body).encode()
    tracemalloc.start()
    try:
        with pytest.raises(SentinelError) as refused:
            read_infer(content, json_bytes=None, n_features=N_FEATURES)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert (refused.value.code, refused.value.at) == (
        ErrorCode.REQUEST_TOO_LARGE,
        "features.shape",
    )
    assert peak < 100_000
