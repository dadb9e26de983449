"""Ask a server with the public client of KServe; run by the client's own interpreter.

``kserve_child.py HTTP_PORT GRPC_PORT MODEL ROWS`` prints what came back as one JSON document. It
imports nothing of Sentinel: this is somebody else's program.
"""

from __future__ import annotations

import asyncio
import json
import sys

import httpx
import numpy as np
from kserve import InferInput, InferRequest
from kserve.inference_client import InferenceGRPCClient, InferenceRESTClient, RESTConfig


def _request(model: str, rows: np.ndarray, *, is_binary: bool) -> InferRequest:
    given = InferInput(name="features", shape=list(rows.shape), datatype="FP32")
    given.set_data_from_numpy(rows, binary_data=is_binary)
    return InferRequest(model_name=model, infer_inputs=[given], request_id="seven")


def _plain(response: object) -> dict[str, object]:
    outputs = {}
    for output in response.outputs:
        values = output.as_numpy().ravel().tolist()
        outputs[output.name] = [
            value.decode() if isinstance(value, bytes) else value for value in values
        ]
    return {
        "id": response.id,
        "model": response.model_name,
        "version": response.model_version,
        "outputs": outputs,
    }


async def _rest(port: str, model: str, rows: np.ndarray) -> dict[str, object]:
    client = InferenceRESTClient(RESTConfig(protocol="v2", retries=0, timeout=20))
    base = f"http://127.0.0.1:{port}"
    found: dict[str, object] = {
        "live": await client.is_server_live(base),
        "ready": await client.is_server_ready(base),
        "model_ready": await client.is_model_ready(base, model),
    }
    for name, is_binary in (("json", False), ("binary", True)):
        request = _request(model, rows, is_binary=is_binary)
        found[name] = _plain(await client.infer(base, request, model_name=model))
    try:
        await client.infer(base, _request(model, rows[:, :3], is_binary=False), model_name=model)
    except httpx.HTTPStatusError as error:
        found["refused"] = f"{type(error).__name__}: {error}"
    await client.close()
    return found


async def _grpc(port: str, model: str, rows: np.ndarray) -> dict[str, object]:
    client = InferenceGRPCClient(f"127.0.0.1:{port}", retries=0, timeout=20)
    found: dict[str, object] = {
        "live": await client.is_server_live(),
        "ready": await client.is_server_ready(),
        "model_ready": await client.is_model_ready(model),
    }
    for name, is_binary in (("typed", False), ("raw", True)):
        found[name] = _plain(await client.infer(_request(model, rows, is_binary=is_binary)))
    await client.close()
    return found


async def _main(http_port: str, grpc_port: str, model: str, text: str) -> None:
    rows = np.array(json.loads(text), dtype=np.float32)
    found = {
        "rest": await _rest(http_port, model, rows),
        "grpc": await _grpc(grpc_port, model, rows),
    }
    sys.stdout.write(json.dumps(found) + "\n")


asyncio.run(_main(*sys.argv[1:]))
