"""The service that is usually written by hand: FastAPI, Pydantic, onnxruntime. A rival.

Runs in an environment of its own: ``python _fastapi_server.py MODEL PORT``.
"""

import sys

import numpy as np
import onnxruntime
import uvicorn
from fastapi import FastAPI
from pydantic import BaseModel


class Tensor(BaseModel):
    """One input."""

    name: str
    shape: list[int]
    datatype: str
    data: list[float]


class Request(BaseModel):
    """A request of the Open Inference Protocol."""

    inputs: list[Tensor]


def make(model: str) -> FastAPI:
    """Make the application around a model."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    app = FastAPI()

    @app.post("/v2/models/{model_name}/infer")
    async def infer(model_name: str, request: Request) -> dict[str, object]:
        tensor = request.inputs[0]
        values = np.array(tensor.data, dtype=np.float32).reshape(tensor.shape)
        scores = session.run(None, {name: values})[0].reshape(-1).tolist()
        output = {"name": "score", "shape": [len(scores)], "datatype": "FP32", "data": scores}
        return {"model_name": model_name, "outputs": [output]}

    return app


if __name__ == "__main__":
    uvicorn.run(
        make(sys.argv[1]),
        host="127.0.0.1",
        port=int(sys.argv[2]),
        loop="uvloop",
        http="httptools",
        log_level="error",
        access_log=False,
    )
