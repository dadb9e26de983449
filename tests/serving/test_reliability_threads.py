"""A machine that gives no threads: one sentence at the start, never a signal of a native library.

The bound is a control group's; where none can be made, that of the user, who then has none left.
"""

from __future__ import annotations

import http.client
import itertools
import json
import os
import re
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
from serving_rig import GOLDEN, payment

from sentinel.testing import wait_until

# Where the groups of either version of the kernel's interface stand.
_GROUPS = (Path("/sys/fs/cgroup/pids"), Path("/sys/fs/cgroup"))
_END_S = 40.0
_NEEDED = re.compile(r"expected room for (\d+) threads")


@dataclass(frozen=True)
class Bound:
    """What bounds the threads of a process; no group: the user has none left."""

    group: Path | None

    def limit(self, n_tasks: int) -> Callable[[], None]:
        """Return what a process does first to be bounded."""
        if self.group is None:
            return lambda: resource.setrlimit(resource.RLIMIT_NPROC, (1, 1))
        (self.group / "pids.max").write_text(str(n_tasks))
        members = self.group / "cgroup.procs"
        return lambda: members.write_text(str(os.getpid())) and None


@pytest.fixture
def bound() -> Iterator[Bound]:
    """Give a group of this test's own, removed behind it."""
    group = _make_group()
    if group is None and os.geteuid() == 0:
        pytest.skip("root is bounded by a control group only, and none can be made here")
    yield Bound(group)
    end_s = time.monotonic() + _END_S
    while group is not None and group.exists() and time.monotonic() < end_s:
        try:
            group.rmdir()
        except OSError:
            time.sleep(0.05)


def _make_group() -> Path | None:
    for parent in _GROUPS:
        group = parent / f"sentinel-test-{os.getpid()}"
        try:
            group.mkdir()
        except OSError:
            continue
        if (group / "pids.max").exists():
            return group
        group.rmdir()
    return None


def _command(name: str, folder: Path) -> list[str]:
    release = [str(GOLDEN / "payments-1.2.0"), "--unapproved", "--json"]
    if name.startswith("serve"):
        fronts = ["--fronts", "2"] if name == "serve with fronts" else []
        ports = [each for door in ("http", "grpc", "metrics") for each in (f"--{door}-port", "0")]
        return ["serve", *release, *ports, "--quarantine", str(folder / "refused"), *fronts]
    if name == "replay":
        quarantine = ["--quarantine", str(folder / "refused")]
        return ["replay", *release, "--events", str(GOLDEN / "events.ndjson"), *quarantine]
    topics = ["--events", "payments", "--decisions", "decisions", "--quarantine", "refused"]
    store = ["--store", f"embedded:{folder / 'state'}"]
    return ["stream", *release, "--source", f"file-log:{folder / 'topics'}", *topics, *store]


def _start(
    command: Sequence[str], folder: Path, first: Callable[[], None]
) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "sentinel.cli", *command],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=folder,
        preexec_fn=first,  # noqa: PLW1509 -- one thread here, and nothing but a limit
    )


@pytest.mark.reliability("F14")
@pytest.mark.parametrize(
    ("name", "n_tasks"),
    [
        *itertools.product(["serve", "serve with fronts"], [1, 2, 8, 12]),
        *itertools.product(["replay", "stream"], [1, 2, 4]),
    ],
)
def test_without_threads_it_says_what_is_missing_and_ends(
    tmp_path: Path, bound: Bound, name: str, n_tasks: int
) -> None:
    """Not by a signal, not with a traceback, and nothing was made."""
    process = _start(_command(name, tmp_path), tmp_path, bound.limit(n_tasks))
    answer, errors = process.communicate(timeout=_END_S)
    assert process.returncode == 8, (process.returncode, errors)
    assert len(errors.splitlines()) == 1
    assert errors.startswith(f"sentinel: threads-missing: sentinel {name.split(maxsplit=1)[0]}: ")
    assert _NEEDED.search(errors)
    assert json.loads(answer)["error"]["code"] == "threads-missing"
    assert not list(tmp_path.iterdir())


@pytest.mark.reliability("F14")
@pytest.mark.parametrize("name", ["serve", "serve with fronts"])
def test_with_as_many_threads_as_it_asks_for_it_starts_and_serves(
    tmp_path: Path, bound: Bound, name: str
) -> None:
    """What the sentence says is needed is enough."""
    if bound.group is None:
        pytest.skip("no control group can be made here: the user's own threads would count")
    process = _start(_command(name, tmp_path), tmp_path, bound.limit(4))
    found = _NEEDED.search(process.communicate(timeout=_END_S)[1])
    assert found is not None
    process = _start(_command(name, tmp_path), tmp_path, bound.limit(int(found[1]) + 1))
    try:
        assert process.stdout is not None
        addresses = json.loads(process.stdout.readline())
        wait_until(lambda: _ask(addresses["metrics_port"], "GET", "/v2/health/ready")[0] == 200)
        status, answer = _ask(addresses["http_port"], "POST", "/v1/score", payment("a"))
        assert (status, json.loads(answer)["event_id"]) == (200, "a")
        process.send_signal(signal.SIGTERM)
        assert process.wait(_END_S) == 0
    finally:
        process.kill()
        process.communicate()


def _ask(port: int, method: str, path: str, body: bytes | None = None) -> tuple[int, bytes]:
    link = http.client.HTTPConnection("127.0.0.1", port, timeout=_END_S)
    try:
        link.request(method, path, body, {"content-type": "application/json"} if body else {})
        response = link.getresponse()
        return response.status, response.read()
    finally:
        link.close()
