"""How it is costs nothing to ask, and what was true a moment ago is never told."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from serving_rig import served

from sentinel.core import limits
from sentinel.serving import bounds
from sentinel.serving.batching.batcher import Vital
from sentinel.serving.fronts.remote_plane import RemotePlane
from sentinel.serving.fronts.wire import FROM_SCORING, About, FrameReader, State, frame
from sentinel.serving.health import DoorCheck, Health

WELL = Vital(failure="", is_alive=True, busy_for_s=0.0)


def _started() -> Health:
    health = Health()
    health.beat()
    health.door_checked("")
    assert health.report(WELL, ()).state == "ready"
    return health


def _drain(health: Health) -> None:
    health.is_draining = True


CHANGES: dict[str, tuple[Vital, Callable[[Health], None], str]] = {
    "the scorer closed": (WELL._replace(failure="a full disk"), lambda _: None, "a full disk"),
    "the thread dead": (WELL._replace(is_alive=False), lambda _: None, "thread has ended"),
    "the batch hanging": (
        WELL._replace(busy_for_s=3 * bounds.DOOR_CANARY_S),
        lambda _: None,
        "in the model for",
    ),
    "the server stopping": (WELL, _drain, "stopping"),
    "the canary wrong": (WELL, lambda health: health.door_checked("event 3"), "event 3"),
}


@pytest.mark.reliability("F16")
@pytest.mark.parametrize("name", CHANGES)
def test_the_next_report_says_what_has_changed(name: str) -> None:
    """Whatever was told before: there is no time in which an old report is told again."""
    vital, change, cause = CHANGES[name]
    health = _started()
    change(health)
    report = health.report(vital, ())
    assert (report.is_ready, report.state) == (False, "not-ready" if report.is_live else "dead")
    assert cause in str(report.causes)


@pytest.mark.reliability("F16")
def test_time_alone_ends_readiness() -> None:
    """A canary that is not asked any more, and a loop that has stopped, are both found by age."""
    health = _started()
    health._check = DoorCheck("", time.monotonic() - 2 * bounds.DOOR_CANARY_S - 10)
    assert [cause[:24] for cause in health.report(WELL, ()).causes] == ["the canary was last righ"]
    health.door_checked("")
    assert health.report(WELL, ()).is_ready
    health._beat_s -= 10 * limits.HEARTBEAT_S
    report = health.report(WELL, ())
    assert (report.is_ready, [cause[:15] for cause in report.causes]) == (
        False,
        ["the door's loop"],
    )


def test_a_report_names_what_is_degraded_now() -> None:
    health = _started()
    for degraded in ((), ("a",), ("a", "b"), ("a",), ()):
        report = health.report(WELL, degraded)
        assert (report.is_ready, report.is_degraded, report.causes) == (
            True,
            bool(degraded),
            degraded,
        )


def test_a_front_knows_the_callers_that_the_scoring_process_named() -> None:
    """They come over the wire beside the causes, and are told by name or by their number."""
    plane = RemotePlane(About("m", "1", n_features=1, takes_feedback=False, document=b"{}"))
    said = State(
        is_live=True,
        is_started=True,
        is_ready=True,
        is_degraded=True,
        causes=("a",),
        degraded_callers=("rig", "shop"),
        n_rows=0,
        n_works=0,
    )
    for content in FrameReader().feed(frame(said)):
        plane.hear(FROM_SCORING.decode(content))
    report = plane.health()
    assert (report.causes, report.degraded_callers) == (("a",), ("rig", "shop"))
    assert report.to_data(names_callers=False)["causes"] == ["a", "2 callers are refused too often"]


@pytest.mark.reliability("F16")
def test_a_probe_waits_for_no_lock_of_the_queue(tmp_path: Path) -> None:
    """Whoever holds the queue, however long: it is asked how it is, and answers."""
    with served(tmp_path, canary_s=60.0) as running:
        running.wait_ready()
        held, end = threading.Event(), threading.Event()

        def hold() -> None:
            with running.plane.batcher._condition:
                held.set()
                end.wait(20)

        holder = threading.Thread(target=hold)
        holder.start()
        try:
            assert held.wait(20)
            port = running.addresses.metrics_port
            for path in ("/v2/health/ready", "/v2/health/live", "/v1/health"):
                assert running.request("GET", path, port=port).status == 200
        finally:
            end.set()
            holder.join()


def test_a_batch_that_has_just_begun_is_never_said_to_hang(tmp_path: Path) -> None:
    """After a long pause, too: when it began is known before that it is there."""
    with served(tmp_path, canary_s=60.0) as running:
        running.wait_ready()
        batcher = running.plane.batcher
        batcher._flying_since_s -= 1_000.0
        ages: list[float] = []
        is_over = threading.Event()

        def watch() -> None:
            while not is_over.is_set():
                ages.append(batcher.vital().busy_for_s)

        watcher = threading.Thread(target=watch)
        watcher.start()
        for _ in range(50):
            running.infer([[19.5, 1.0, 20.0, 60.0, 1.0]])
            batcher._flying_since_s -= 1_000.0
        is_over.set()
        watcher.join()
        assert max(ages) < 500
