"""Health tells the truth: twelve faults, and within two questions of the canary what it says."""

from __future__ import annotations

import contextlib
import gc
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from numba.core.dispatcher import Dispatcher
from serving_rig import GOLDEN, Served, payment, served

from sentinel.core.errors import ErrorCode, SentinelError
from sentinel.features.stores.choice import parse_store
from sentinel.serving.batching.batcher import Vital
from sentinel.serving.health import Health
from sentinel.testing import can_mount, small_disk

Float32Array = npt.NDArray[np.float32]
Undo = Callable[[], None]
PERIODS = 2
SECRET = "t" * 43
TOKENS = f'format = 1\n[[token]]\nname = "shop"\nsecret = "{SECRET}"\nscopes = ["score"]\n'


def _restoring(running: Served) -> Undo:
    return lambda: running.break_champion(running.champion)


def _constant(running: Served, _: Path) -> Undo:
    running.break_champion(lambda values: np.full(len(values), 0.5, np.float32))
    return _restoring(running)


def _not_a_number(running: Served, _: Path) -> Undo:
    running.break_champion(lambda values: np.full(len(values), np.nan, np.float32))
    return _restoring(running)


def _swapped(running: Served, _: Path) -> Undo:
    running.break_champion(lambda values: np.float32(1) - running.champion(values))
    return _restoring(running)


def _slow(running: Served, _: Path) -> Undo:
    gate = threading.Event()
    running.break_champion(lambda values: (gate.wait(30), running.champion(values))[1])

    def undo() -> None:
        gate.set()
        running.break_champion(running.champion)

    return undo


def _raising(running: Served, _: Path) -> Undo:
    def fail(values: Float32Array) -> Float32Array:
        raise SentinelError(ErrorCode.MODEL_FAILED, at="champion", expected="scores", got="none")

    running.break_champion(fail)
    return _restoring(running)


def _unloaded(running: Served, _: Path) -> Undo:
    running.break_champion(None)  # type: ignore[arg-type]
    return _restoring(running)


def _store_gone(_: Served, folder: Path) -> Undo:
    shutil.move(folder / "state", folder / "elsewhere")
    return lambda: _move_back(folder)


def _move_back(folder: Path) -> None:
    shutil.rmtree(folder / "state", ignore_errors=True)
    shutil.move(folder / "elsewhere", folder / "state")


def _disk_full(_: Served, folder: Path) -> Undo:
    path = folder / "quarantine" / "filler"
    with path.open("wb", buffering=0) as handle, contextlib.suppress(OSError):
        while True:
            handle.write(bytes(4_096))
    return path.unlink


def _access_broken(running: Served, _: Path) -> Undo:
    access = running.server._access
    own, access._own = access._own, None

    def undo() -> None:
        access._own = own

    return undo


def _loop_blocked(running: Served, _: Path) -> Undo:
    goes_on = threading.Event()
    running.plane.batcher._loop.call_soon_threadsafe(goes_on.wait, 60)
    return goes_on.set


def _worker_dead(running: Served, _: Path) -> Undo:
    running.plane.batcher.stop(wait_s_max=5.0)
    return lambda: None


@dataclass(frozen=True)
class Fault:
    """A fault, and what must be said of it."""

    breaks: Callable[[Served, Path], Undo]
    names: tuple[str, ...]
    is_ready: bool = False
    is_live: bool = True
    heals: bool = True


# The twelfth, a release that is half there, ends the start; it has a test of its own below.
FAULTS = {
    "slow": Fault(_slow, ("did not answer", "504", "a batch has been", "503")),
    "store gone": Fault(_store_gone, ("state: ",)),
    "access broken": Fault(_access_broken, ("401: caller-unknown",)),
    "loop blocked": Fault(_loop_blocked, ("did not answer", "blocked")),
    "disk full": Fault(_disk_full, ("quarantine: No space left",)),
    # The champion is shut off and the fallback answers: ready, and degraded by name.
    "not a number": Fault(
        _not_a_number, ("fallback answers: breaker",), is_ready=True, heals=False
    ),
    "exception": Fault(_raising, ("fallback answers: breaker",), is_ready=True, heals=False),
    "constant": Fault(_constant, ("fallback answers: breaker",), is_ready=True, heals=False),
    "swapped": Fault(_swapped, ("fallback answers: breaker",), is_ready=True, heals=False),
    "unloaded": Fault(_unloaded, ("500: internal",), heals=False),
    "worker dead": Fault(_worker_dead, ("thread has ended",), is_live=False, heals=False),
}


@contextlib.contextmanager
def _breakable(folder: Path) -> Iterator[Served]:
    (folder / "quarantine").mkdir()
    tokens = folder / "tokens.toml"
    tokens.write_text(TOKENS)
    tokens.chmod(0o600)
    with contextlib.ExitStack() as stack:
        stack.enter_context(small_disk(folder / "quarantine", n_bytes=1 << 20))
        store = parse_store(f"embedded:{folder / 'state'}")
        running = stack.enter_context(served(folder, tokens=tokens, store=store))
        running.wait_ready()
        yield running


@pytest.mark.skipif(not can_mount(), reason="needs the right to mount a small disk")
@pytest.mark.reliability("F15", t1=5, t2=20, t3=100)
def test_faults_that_pass_are_named_within_two_questions_and_forgotten_when_they_have_passed(
    tmp_path: Path, trials: Iterator[int]
) -> None:
    with _breakable(tmp_path) as running:
        for _ in trials:
            for name, fault in FAULTS.items():
                if fault.heals:
                    undo = fault.breaks(running, tmp_path)
                    try:
                        _is_told(running, name, fault)
                    finally:
                        undo()
                    _heals(running)


@pytest.mark.skipif(not can_mount(), reason="needs the right to mount a small disk")
@pytest.mark.reliability("F15", t1=5, t2=20, t3=100)
@pytest.mark.parametrize("name", [name for name, fault in FAULTS.items() if not fault.heals])
def test_faults_that_stay_are_named_within_two_questions(
    tmp_path: Path, name: str, trials: Iterator[int]
) -> None:
    for trial in trials:
        folder = tmp_path / str(trial)
        folder.mkdir()
        with _breakable(folder) as running:
            FAULTS[name].breaks(running, folder)
            _is_told(running, name, FAULTS[name])


def _is_told(running: Served, name: str, fault: Fault) -> None:
    """Count the canary's questions that end before the fault is told."""
    port = running.addresses.metrics_port

    def is_told() -> bool:
        report = running.plane.health()
        is_named = any(word in str(report.causes) for word in fault.names)
        return is_named and (report.is_degraded if fault.is_ready else not report.is_ready)

    def is_told_who_asks() -> bool:
        # What breaks row by row is seen by rows: somebody asks meanwhile.
        if fault.is_ready:
            running.score(payment(), authorization=f"Bearer {SECRET}")
        return is_told()

    rounds = _count_rounds(running.plane.health_state, is_told)
    running.wait_until(is_told_who_asks)
    # One question may have been on its way when the fault began.
    assert len(rounds) <= PERIODS + 1, (name, rounds)
    ready = running.request("GET", "/v2/health/ready", port=port).status
    live = running.request("GET", "/v2/health/live", port=port).status
    if fault.heals or fault.is_ready:
        assert ready == (200 if fault.is_ready else 503), (name, running.plane.health())
    assert live == (200 if fault.is_live else 503), (name, running.plane.health())


def _count_rounds(health: Health, is_told: Callable[[], bool]) -> list[str]:
    """Note every end of a question of the canary from now on, as long as the fault is not told."""
    rounds: list[str] = []
    plain = Health.door_checked

    def noting(cause: str) -> None:
        if not is_told():
            rounds.append(cause)
        plain(health, cause)

    health.door_checked = noting  # type: ignore[method-assign]
    return rounds


def _heals(running: Served) -> None:
    running.wait_ready()
    breaker = running.opened.scorer.champion.breaker

    def is_whole() -> bool:
        if str(breaker.state) == "latched":
            raise AssertionError(f"a fault that passes has latched it: {breaker.cause}")
        answer = running.score(payment(), authorization=f"Bearer {SECRET}")
        return answer.status == 200 and answer.json()["served_by"] == "champion"

    running.wait_until(is_whole)


@pytest.mark.reliability("F15")
def test_before_the_first_right_answer_it_is_live_and_neither_started_nor_ready() -> None:
    """However long a start takes: a probe of liveness does not end it."""
    health = Health()
    state = Vital(failure="", is_alive=True, busy_for_s=0.0)
    report = health.report(state, ())
    assert (report.is_live, report.is_started, report.is_ready) == (True, False, False)
    assert (report.state, report.causes) == ("starting", ("the canary has not been asked yet",))
    health.door_checked("canary: event 3: recorded 0.5, champion gave 0.9")
    assert health.report(state, ()).state == "starting"
    health.door_checked("")
    assert health.report(state, ()).state == "ready"


@pytest.mark.reliability("F15")
def test_once_it_is_ready_nothing_is_left_to_compile(tmp_path: Path) -> None:
    """Without a cache of kernels the first payment would wait for a compiler."""
    with served(tmp_path, log=tmp_path / "log") as running:
        running.wait_ready()
        before = _compiled()
        assert running.score(payment("first")).status == 200
        running.score(payment("first"))
        running.score(b"{}", payment("second"))
        running.infer([[19.5, 1.0, 20.0, 60.0, 1.0]])
        assert _compiled() == before


def _compiled() -> dict[str, int]:
    """Count the compiled forms of every kernel."""
    kernels = [each for each in gc.get_objects() if isinstance(each, Dispatcher)]
    return {
        f"{kernel.py_func.__module__}.{kernel.py_func.__name__}": len(kernel.signatures)
        for kernel in kernels
    }


@pytest.mark.reliability("F15")
@pytest.mark.parametrize("lost", ["model.onnx", "canary.json", "fallback.json", "manifest.json"])
def test_a_release_that_is_half_there_opens_no_door(tmp_path: Path, lost: str) -> None:
    folder = tmp_path / "release"
    shutil.copytree(GOLDEN / "payments-1.2.0", folder)
    (folder / lost).unlink()
    done = subprocess.run(
        [
            *(sys.executable, "-m", "sentinel.cli", "serve", str(folder), "--unapproved"),
            *("--http-port", "0", "--grpc-port", "0", "--metrics-port", "0"),
            *("--quarantine", str(tmp_path / "quarantine")),
        ],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        check=False,
        timeout=120,
    )
    assert done.returncode not in {0, 1}
    assert done.stderr.startswith("sentinel: ")
    assert lost in done.stderr
    assert "http_port" not in done.stdout
