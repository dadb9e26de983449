"""The champion broken in each way, the parts around it lost: what callers get, what health says."""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from serving_rig import Served, payment, served

from sentinel.core.errors import ErrorCode, SentinelError
from sentinel.features.stores.choice import parse_store

Float32Array = npt.NDArray[np.float32]
ROW = [19.5, 1.0, 20.0, 60.0, 1.0]


def _raises(values: Float32Array) -> Float32Array:
    raise SentinelError(ErrorCode.MODEL_FAILED, at="champion", expected="scores", got="a fault")


BROKEN: dict[str, Callable[[Float32Array], Float32Array]] = {
    "nan": lambda values: np.full(len(values), np.nan, np.float32),
    "infinity": lambda values: np.full(len(values), np.inf, np.float32),
    "negative": lambda values: np.full(len(values), -0.5, np.float32),
    "wrong length": lambda values: np.zeros(len(values) + 1, np.float32),
    "wrong type": lambda values: np.zeros(len(values), np.int64),  # type: ignore[dict-item]
    "exception": _raises,
}


@pytest.mark.reliability("G6")
@pytest.mark.parametrize("kind", BROKEN)
def test_a_broken_champion_answers_nobody(tmp_path: Path, kind: str) -> None:
    with served(tmp_path) as running:
        running.wait_ready()
        running.break_champion(BROKEN[kind])
        for number in range(20):
            decision = running.score(payment(f"{kind}-{number}")).json()
            assert decision["served_by"] == "fallback"
            assert 0 <= float(str(decision["score"])) <= 1
            outputs = running.infer([ROW]).json()["outputs"]
            assert outputs[2]["data"] == ["fallback"]  # type: ignore[index]
        running.wait_until(lambda: "fallback answers" in str(running.plane.health().causes))
        assert running.plane.health().is_live


@pytest.mark.reliability("F15")
def test_a_constant_champion_is_found_out_at_the_door_and_shut_off(tmp_path: Path) -> None:
    with served(tmp_path) as running:
        running.wait_ready()
        running.break_champion(lambda values: np.full(len(values), 0.5, np.float32))
        running.wait_until(lambda: str(running.opened.scorer.status().breaker) == "latched")
        running.wait_until(lambda: "latched" in str(running.plane.health().causes))
        assert running.score(payment("constant")).json()["served_by"] == "fallback"
        running.wait_until(lambda: running.plane.health().is_ready)
        assert "latched" in str(running.plane.health().causes)


@pytest.mark.reliability("G5")
def test_champion_and_fallback_both_lost_hold_every_payment(tmp_path: Path) -> None:
    with served(tmp_path) as running:
        running.wait_ready()
        running.break_champion(BROKEN["nan"])
        fallback = running.opened.scorer.parts.fallback
        coefficients = np.full_like(np.asarray(fallback.coefficients), np.nan)
        object.__setattr__(fallback, "coefficients", coefficients)
        decision = running.score(payment("lost")).json()
        assert (decision["outcome"], decision["score"]) == ("held", None)
        answer = running.infer([ROW])
        assert (answer.status, answer.json()["code"]) == (503, "answer-held")
        running.wait_until(lambda: not running.plane.health().is_ready)
        assert "answered by nobody" in str(running.plane.health().causes)


def test_a_champion_that_hangs_costs_its_callers_their_deadline_and_no_more(
    tmp_path: Path,
) -> None:
    with served(tmp_path, canary_s=60.0) as running:
        running.wait_ready()
        goes_on = threading.Event()
        running.break_champion(lambda values: (goes_on.wait(20), running.champion(values))[1])
        # Nothing was measured in the last seconds, so the door leaves it to the scoring thread.
        running.plane.batcher._curve.__init__()  # type: ignore[misc]
        try:
            answer = running.score(payment("hangs"), sentinel_timeout_ms="200")
            assert (answer.status, answer.json()["code"]) == (504, "deadline-passed")
            assert running.request("GET", "/v2/health/live").status == 200
            late = running.score(payment("behind"), sentinel_timeout_ms="200")
            assert late.status in {503, 504}
        finally:
            goes_on.set()
        running.wait_until(lambda: running.plane.load().n_late >= 1)
        # The event was decided: asking again gives that answer.
        assert running.score(payment("hangs")).json()["event_id"] == "hangs"


def test_a_slow_champion_leaves_the_door_free(tmp_path: Path) -> None:
    with served(tmp_path, canary_s=60.0) as running:
        running.wait_ready()

        def slow(values: Float32Array) -> Float32Array:
            time.sleep(0.1)
            return running.champion(values)

        running.break_champion(slow)
        running.score(payment("first-slow"))
        assert not running.plane.batcher._is_quick(1, time.monotonic())


@pytest.mark.reliability("F8")
def test_work_that_is_too_late_never_reaches_the_model(tmp_path: Path) -> None:
    with served(tmp_path, canary_s=60.0) as running:
        running.wait_ready()
        n_before = running.opened.scorer.counts().read
        running.plane.batcher._curve.__init__()  # type: ignore[misc]
        with running.scoring_held():
            answer = running.score(payment("too-late"), sentinel_timeout_ms="50")
        assert answer.json()["code"] == "deadline-passed"
        running.wait_until(lambda: running.plane.load().n_works == 0)
        assert running.opened.scorer.counts().read == n_before


def test_a_scorer_that_broke_in_mid_batch_ends_liveness_and_says_why(tmp_path: Path) -> None:
    with served(tmp_path) as running:
        running.wait_ready()

        def lost(_: object) -> None:
            raise SentinelError(
                ErrorCode.DECISION_LOG_BLOCKED, at="/secret/folder", expected="room", got="none"
            )

        running.opened.scorer._log = lost  # type: ignore[assignment, method-assign]
        answer = running.score(payment("broken"))
        assert (answer.status, answer.json()["code"]) == (503, "decision-log-blocked")
        assert b"/secret" not in answer.body
        running.wait_until(lambda: not running.plane.health().is_live)
        assert "decision-log-blocked" in str(running.plane.health().causes)
        again = running.score(payment("after"))
        assert (again.status, again.json()["code"]) == (503, "scorer-closed")
        port = running.addresses.metrics_port
        assert running.request("GET", "/v2/health/live", port=port).status == 503


@pytest.mark.reliability("F15")
def test_a_lost_quarantine_is_named_and_comes_back(tmp_path: Path) -> None:
    with served(tmp_path) as running:
        running.wait_ready()
        shutil.rmtree(tmp_path / "quarantine")
        running.wait_until(lambda: not running.plane.health().is_ready)
        assert "quarantine: No such file" in str(running.plane.health().causes)
        assert running.plane.health().is_live
        (tmp_path / "quarantine").mkdir()
        running.wait_ready()


def test_a_fault_of_sentinel_is_an_answer_without_its_inside(tmp_path: Path) -> None:
    with served(tmp_path, canary_s=60.0) as running:
        running.wait_ready()

        def fault(_: object) -> None:
            raise ZeroDivisionError("/secret/path")

        worker = running.plane.batcher._worker
        worker._run_tensors = fault  # type: ignore[attr-defined]
        answer = running.infer([ROW])
        assert answer.status == 500
        assert b"secret" not in answer.body
        assert running.score(payment("goes-on")).status == 200


@pytest.mark.reliability("F15")
def test_a_blocked_door_is_not_ready_and_says_so_elsewhere(tmp_path: Path) -> None:
    with served(tmp_path) as running:
        running.wait_ready()
        goes_on = threading.Event()
        running.plane.batcher._loop.call_soon_threadsafe(goes_on.wait, 60)
        port = running.addresses.metrics_port
        try:
            running.wait_until(
                lambda: running.request("GET", "/v2/health/ready", port=port).status == 503
            )
            assert running.request("GET", "/v2/health/live", port=port).status == 200
            causes = running.request("GET", "/v1/health", port=port).json()["causes"]
            assert "did not answer" in str(causes) or "blocked" in str(causes)
        finally:
            goes_on.set()
        running.wait_ready()


def test_probes_cost_no_canary(server: Served) -> None:
    server.wait_ready()
    n_before = server.plane.load().n_batches
    started_s = time.monotonic()
    for _ in range(50):
        # On a machine that is busy with more the canary may be late, and ready then says so.
        assert server.request("GET", "/v2/health/ready").status in {200, 503}
    n_canaries = (time.monotonic() - started_s) / 0.25 + 2
    assert server.plane.load().n_batches - n_before <= n_canaries


def test_state_survives_a_restart_and_so_do_answers_from_it(tmp_path: Path) -> None:
    hashes = []
    for number in range(2):
        with served(tmp_path, store=parse_store(f"embedded:{tmp_path / 'state'}")) as running:
            running.wait_ready()
            answer = running.score(payment(f"kept-{number}", card_id="c-kept"))
            hashes.append(answer.json()["feature_hash"])
    assert hashes[0] != hashes[1], "the second start knew the first event"
