"""Servers in processes of their own, as people start them, for what one process cannot show."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
from serving_rig import GOLDEN

from sentinel.testing import wait_until


@dataclass(frozen=True)
class ServerProcess:
    """A server that was started by its command."""

    process: subprocess.Popen[str]
    http_port: int
    grpc_port: int
    metrics_port: int
    stderr: Path

    def status(self, path: str = "/v2/health/ready", *, port: int | None = None) -> int:
        """Ask for a path on the metrics port; 0 when nobody answers."""
        return self.get(path, port=port or self.metrics_port)[0]

    def get(self, path: str, *, port: int | None = None) -> tuple[int, bytes]:
        link = http.client.HTTPConnection("127.0.0.1", port or self.http_port, timeout=30)
        try:
            link.request("GET", path)
            response = link.getresponse()
            return response.status, response.read()
        except OSError:
            return 0, b""
        finally:
            link.close()

    def post(self, body: bytes, path: str = "/v1/score", **headers: str) -> tuple[int, bytes]:
        link = http.client.HTTPConnection("127.0.0.1", self.http_port, timeout=30)
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        try:
            link.request("POST", path, body, {"content-type": "application/json", **named})
            response = link.getresponse()
            return response.status, response.read()
        finally:
            link.close()

    def wait_ready(self) -> None:
        wait_until(lambda: self.status() == 200)

    def memory_bytes(self) -> int:
        """Memory that is resident now."""
        return int(psutil.Process(self.process.pid).memory_info().rss)

    def metrics(self) -> dict[str, float]:
        """Read every series, by its name with labels."""
        _, text = self.get("/metrics", port=self.metrics_port)
        found = {}
        for line in text.decode().splitlines():
            if line and not line.startswith("#"):
                name, _, value = line.rpartition(" ")
                found[name] = float(value)
        return found


def freeze(pid: int) -> None:
    """Stop a process, and wait until none of its threads runs any more."""
    os.kill(pid, signal.SIGSTOP)

    def is_still() -> bool:
        states = set()
        for stat in Path(f"/proc/{pid}/task").glob("*/stat"):
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # it may have ended
                states.add(stat.read_text().rpartition(")")[2].split()[0])
        return states == {"T"}

    wait_until(is_still)


@contextlib.contextmanager
def server_process(
    folder: Path,
    *options: str,
    release: Path = GOLDEN / "payments-1.2.0",
    is_waited_for: bool = True,
    program: tuple[str, ...] = ("-m", "sentinel.cli"),
    **environment: str,
) -> Iterator[ServerProcess]:
    """Serve a release by the command, the golden one by default; its end is by its own pid."""
    stderr = folder / "stderr"
    with stderr.open("w") as errors:
        process = subprocess.Popen(
            [
                *(sys.executable, *program, "serve", str(release)),
                *("--unapproved", "--json", "--http-port", "0", "--grpc-port", "0"),
                *("--metrics-port", "0", "--quarantine", str(folder / "quarantine"), *options),
            ],
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            cwd=folder,
            env={**os.environ, "SENTINEL_SERVE_DRAIN_NOTICE_S": "0.1", **environment},
        )
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        addresses = json.loads(line) if line else {}
        assert "http_port" in addresses, line + stderr.read_text()
        running = ServerProcess(
            process,
            addresses["http_port"],
            addresses["grpc_port"],
            addresses["metrics_port"],
            stderr,
        )
        if is_waited_for:
            running.wait_ready()
        yield running
    finally:
        process.kill()
        process.communicate()
