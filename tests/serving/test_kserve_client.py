"""KServe's own client, in an interpreter of its own, over both doors of ``sentinel serve``."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import numpy as np
import pytest
from serving_rig import MODEL, Served

ROOT = Path(__file__).parent.parent.parent
PYTHON = ROOT / ".cache" / "kserve" / "bin" / "python"
CHILD = Path(__file__).parent / "kserve_child.py"
ROWS = np.array([[19.5, 1, 20, 60, 1], [900, 3, 20, 5, 0]], dtype=np.float32)


@pytest.mark.skipif(not PYTHON.exists(), reason="KServe's client: run tools/setup_kserve.sh")
@pytest.mark.reliability("F11", t1=1)
def test_the_client_of_kserve_works_unchanged(server: Served) -> None:
    server.wait_ready()
    addresses = server.addresses
    ports = (str(addresses.http_port), str(addresses.grpc_port))
    done = subprocess.run(
        [str(PYTHON), str(CHILD), *ports, MODEL, json.dumps(ROWS.tolist())],
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2_000:]
    found = json.loads(done.stdout.splitlines()[-1])
    scores = server.champion(ROWS)
    for door, forms in (("rest", ("json", "binary")), ("grpc", ("typed", "raw"))):
        assert found[door]["live"] is found[door]["ready"] is True
        assert found[door]["model_ready"] is True
        for form in forms:
            answer = found[door][form]
            assert (answer["id"], answer["model"]) == ("seven", MODEL)
            np.testing.assert_array_equal(np.float32(answer["outputs"]["score"]), scores)
            assert answer["outputs"]["reason"] == ["ok", "ok"]
            assert answer["outputs"]["served_by"] == ["champion", "champion"]
    assert "tensor-invalid" in found["rest"]["refused"] or "400" in found["rest"]["refused"]
