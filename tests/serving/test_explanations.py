"""Explanations beside scoring: real processes, killed, stopped and full."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tests.release.conftest import NOW_MS
from tests.serving.explanation_rig import explained_release, records_of
from tests.serving.release_rig import folder_of_releases

from sentinel.core import limits
from sentinel.core.errors import ErrorCode, SentinelError
from sentinel.monitoring.metrics import Metrics
from sentinel.release import LoadedRelease, load_release
from sentinel.scoring import Outcome
from sentinel.serving import bounds
from sentinel.serving.explanations.explainer import ExplainerProcess
from sentinel.serving.explanations.explanations import Explanations, Tap, watch
from sentinel.serving.explanations.kept import find_explanation
from sentinel.serving.explanations.recent_rows import RecentRows
from sentinel.serving.settings import ExplainMode
from sentinel.testing import wait_until


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> LoadedRelease:
    return explained_release(tmp_path_factory.mktemp("releases") / "payments")


class Desk:
    """A desk with the tap of one release, closed at the end."""

    def __init__(
        self, loaded: LoadedRelease, mode: ExplainMode = ExplainMode.FLAGGED, **more: object
    ) -> None:
        # At the priority of the tests: beside them, what is below it would wait for minutes.
        more.setdefault("process", ExplainerProcess(None, niceness=0))
        self.desk = Explanations(mode, **more)  # type: ignore[arg-type]
        tap = self.desk.tap(loaded)
        assert isinstance(tap, Tap)
        self.tap = tap

    def wait_for(self, event_id: bytes) -> dict[str, object]:
        wait_until(lambda: self.desk.find(event_id) is not None)
        found: dict[str, object] = json.loads(self.desk.find(event_id) or b"")
        return found


@pytest.fixture
def desk(loaded: LoadedRelease) -> Iterator[Desk]:
    made = Desk(loaded)
    yield made
    made.desk.close()


def test_flagged_decisions_are_explained_and_others_when_somebody_asks(
    desk: Desk, loaded: LoadedRelease
) -> None:
    """Declined and reviewed by themselves; an approved one from the rows that are remembered."""
    desk.tap.offer(records_of(loaded, 20))
    desk.tap.offer(records_of(loaded, 20, first=20, outcome=Outcome.APPROVE))
    found = desk.wait_for(b"e3")
    assert found["event_id"] == "e3"
    assert found["release"] == loaded.manifest.label
    assert found["method"] == "exact-trees"
    features = found["features"]
    assert isinstance(features, list)
    assert [each["name"] for each in features] == list(loaded.parts.plan.names)
    assert desk.desk.counts() == {"explained": 20}
    assert desk.desk.find(b"e25") is None
    assert desk.wait_for(b"e25")["outcome"] == "approve"
    assert desk.desk.counts() == {"explained": 21}
    assert desk.desk.n_starts == 1
    assert desk.desk.causes() == ()


def test_a_full_queue_skips_and_counts_and_never_waits(loaded: LoadedRelease) -> None:
    """The explainer is stopped: scoring goes on."""
    sleeper = ExplainerProcess(None, command=(sys.executable, "-c", "import time; time.sleep(60)"))
    made = Desk(loaded, process=sleeper, rows_max=50)
    try:
        for first in range(0, 400, 40):
            made.tap.offer(records_of(loaded, 40, first=first))
        wait_until(lambda: sleeper.pid is not None)
        assert made.desk.n_waiting <= 50
        # Some may be with the explainer already, which does not answer.
        assert made.desk.counts()["skipped"] >= 400 - 50 - bounds.EXPLANATION_BATCH_ROWS_MAX
        made.tap.offer(records_of(loaded, 60, first=400))
        with pytest.raises(SentinelError) as caught:
            made.desk.find(b"e459")
        assert caught.value.code is ErrorCode.OVERLOADED
    finally:
        made.desk.close()
    assert sleeper.pid is None


def test_a_killed_explainer_is_started_again_and_its_rows_are_not_lost(
    desk: Desk, loaded: LoadedRelease
) -> None:
    """SIGKILL between two batches, and again."""
    desk.tap.offer(records_of(loaded, 5))
    desk.wait_for(b"e0")
    for start in (1, 2):
        pid = desk.desk._process.pid
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        desk.tap.offer(records_of(loaded, 5, first=5 * start))
        wait_until(lambda n=5 * start + 5: desk.desk.counts() == {"explained": n})  # type: ignore[misc]
        assert desk.desk.n_starts == start + 1
    assert desk.desk.causes() == ()


def test_an_explainer_that_hangs_is_ended_and_its_rows_are_not_lost(loaded: LoadedRelease) -> None:
    """SIGSTOP: it neither answers nor ends."""
    made = Desk(loaded, process=ExplainerProcess(None, answer_s_max=0.5, niceness=0))
    try:
        made.tap.offer(records_of(loaded, 2))
        made.wait_for(b"e0")
        pid = made.desk._process.pid
        assert pid is not None
        os.kill(pid, signal.SIGSTOP)
        made.tap.offer(records_of(loaded, 2, first=2))
        assert made.wait_for(b"e2")["event_id"] == "e2"
        assert made.desk.n_starts == 2
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)
    finally:
        made.desk.close()


def test_an_explainer_that_always_dies_fails_its_rows_and_says_so(
    loaded: LoadedRelease, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tried again, each row alone, and then given up; asking tries once more."""
    monkeypatch.setattr(bounds, "EXPLAINER_PAUSE_S", 0.01)
    broken = ExplainerProcess(None, command=(sys.executable, "-c", "raise SystemExit(3)"))
    made = Desk(loaded, process=broken)
    try:
        made.tap.offer(records_of(loaded, 3))
        wait_until(lambda: made.desk.counts().get("failed") == 3)
        assert made.desk.causes() != ()
        assert broken.n_starts == 4
        assert made.desk.find(b"e1") is None
        wait_until(lambda: made.desk.counts().get("failed") == 4)
    finally:
        made.desk.close()


def test_a_release_that_changed_on_disk_is_not_explained(
    loaded: LoadedRelease, tmp_path: Path
) -> None:
    """The explainer verifies it again and holds it against the digest that decided."""
    copy = tmp_path / "changed"
    shutil.copytree(loaded.folder, copy)
    content = bytearray((copy / "model.onnx").read_bytes())
    content[100] ^= 1
    (copy / "model.onnx").write_bytes(bytes(content))
    made = Desk(replace(loaded, folder=copy))
    try:
        made.tap.offer(records_of(loaded, 1))
        wait_until(lambda: bool(made.desk.causes()))
        assert "release-corrupt" in made.desk.causes()[0]
        assert made.desk.counts() == {"failed": 1}
    finally:
        made.desk.close()


@pytest.mark.parametrize(
    ("event_id", "words"),
    [(b"e0", "nobody answered it"), (b"unknown", "no longer, remembered")],
    ids=["held", "forgotten"],
)
def test_a_decision_without_an_explanation_says_why(
    loaded: LoadedRelease, event_id: bytes, words: str
) -> None:
    """Held, or not remembered."""
    made = Desk(loaded, ExplainMode.ALL)
    try:
        made.tap.offer(records_of(loaded, 1, outcome=Outcome.HELD))
        wait_until(lambda: made.desk.counts() == {"held": 1})
        with pytest.raises(SentinelError) as caught:
            made.desk.find(event_id)
    finally:
        made.desk.close()
    assert caught.value.code is ErrorCode.EXPLANATION_UNAVAILABLE
    assert caught.value.at == "explanation"
    assert words in str(caught.value)


def test_explanations_that_are_turned_off_cost_nothing(loaded: LoadedRelease) -> None:
    """No tap, no thread, no process."""
    before = threading.active_count()
    desk = Explanations(ExplainMode.NONE)
    assert desk.tap(loaded) is None
    assert threading.active_count() == before
    with pytest.raises(SentinelError) as caught:
        desk.find(b"e0")
    assert caught.value.code is ErrorCode.EXPLANATION_UNAVAILABLE
    desk.close()
    assert desk.n_starts == 0


def test_what_was_found_is_kept_on_disk(loaded: LoadedRelease, tmp_path: Path) -> None:
    """Line by line; a line cut by a crash is passed over."""
    made = Desk(loaded, process=ExplainerProcess(tmp_path / "kept", niceness=0))
    try:
        made.tap.offer(records_of(loaded, 3))
        found = made.wait_for(b"e1")
    finally:
        made.desk.close()
    kept = find_explanation(tmp_path / "kept", "e1")
    assert kept is not None
    assert json.loads(kept) == found
    assert find_explanation(tmp_path / "kept", "e9") is None
    (path,) = (tmp_path / "kept").iterdir()
    path.write_bytes(path.read_bytes()[:-1])
    assert find_explanation(tmp_path / "kept", "e2") is None
    assert find_explanation(tmp_path / "kept", "e1") == kept


def test_the_explainer_runs_below_the_priority_of_the_server() -> None:
    """And in its session: Linux gives another one an equal share, however nice it is."""
    process = ExplainerProcess(None)
    try:
        process._pipes()
        pid = process.pid
        assert pid is not None
        assert os.getpriority(os.PRIO_PROCESS, pid) == limits.EXPLAINER_NICE
        assert os.getsid(pid) == os.getsid(0)
        group = Path("/proc/self/autogroup")
        if group.exists():
            theirs = Path(f"/proc/{pid}/autogroup").read_text()
            # A machine that was started without sessions of its own leaves both empty.
            assert theirs.split()[:1] == group.read_text().split()[:1]
    finally:
        process.kill()


def test_the_explainer_ends_when_its_desk_is_closed(desk: Desk, loaded: LoadedRelease) -> None:
    desk.tap.offer(records_of(loaded, 1))
    desk.wait_for(b"e0")
    pid = desk.desk._process.pid
    assert pid is not None
    desk.desk.close()
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_the_explainer_ends_when_its_server_is_killed() -> None:
    """Its input ends with the process that held the other end."""
    code = (
        "import time; from sentinel.serving.explanations.explainer import ExplainerProcess\n"
        "made = ExplainerProcess(None, niceness=0); made._pipes(); print(made.pid, flush=True)\n"
        "time.sleep(60)"
    )
    server = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    with server:
        assert server.stdout is not None
        pid = int(server.stdout.readline())
        os.kill(pid, 0)
        server.kill()

    def is_gone() -> bool:
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except (FileNotFoundError, ProcessLookupError):
            return True
        return state == "Z"

    wait_until(is_gone)


def test_counts_are_exported(desk: Desk, loaded: LoadedRelease) -> None:
    """By what became of the rows."""
    metrics = Metrics()
    watch(desk.desk, metrics)
    desk.tap.offer(records_of(loaded, 4))
    desk.wait_for(b"e0")
    text = metrics.exposition("")[0].decode()
    assert 'sentinel_explanations_total{result="explained"} 4.0' in text
    assert "sentinel_explainer_starts_total 1.0" in text


def test_the_ring_keeps_the_last_rows_and_finds_them_by_id(loaded: LoadedRelease) -> None:
    """Across its end, and in a batch that is larger than it."""
    ring = RecentRows(5, n_max=8)
    records = records_of(loaded, 20)
    for first in (0, 6):
        ring.keep(records_of(loaded, 6, first=first))
    assert ring.find(b"e3") is None
    for number in range(4, 12):
        found = ring.find(f"e{number}".encode())
        assert found is not None
        assert np.array_equal(found.values[0], records.features[number])
        assert found.score[0] == records.score[number]
    ring.keep(records)
    assert ring.find(b"e11") is None
    assert ring.find(b"e19") is not None


def test_each_decision_is_explained_by_the_release_that_made_it(
    desk: Desk, loaded: LoadedRelease
) -> None:
    """Before and after a hot swap; releases that were only staged take no place."""
    source = folder_of_releases()
    following = load_release(source / "1.3.0", None, now_ms=NOW_MS, allow_unapproved=True)
    for _ in range(2 * bounds.EXPLAINER_RELEASES_MAX):
        desk.desk.tap(following)
    after = desk.desk.tap(following)
    assert after is not None
    desk.tap.offer(records_of(loaded, 3))
    after.offer(records_of(following, 3, first=3))
    desk.tap.offer(records_of(loaded, 3, first=6, outcome=Outcome.APPROVE))
    labels = {f"e{number}": desk.wait_for(f"e{number}".encode())["release"] for number in (1, 4, 7)}
    assert labels == {
        "e1": loaded.manifest.label,
        "e4": following.manifest.label,
        "e7": loaded.manifest.label,
    }
    assert desk.desk.n_starts == 1


def test_a_batch_larger_than_a_pipe_goes_through(desk: Desk, loaded: LoadedRelease) -> None:
    """Hundreds of rows at once; the order of answers is that of the rows."""
    desk.tap.offer(records_of(loaded, 1_000))
    wait_until(lambda: desk.desk.counts() == {"explained": 1_000})
    for number in (0, 511, 999):
        assert desk.wait_for(f"e{number}".encode())["event_id"] == f"e{number}"
