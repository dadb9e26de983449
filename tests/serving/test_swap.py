"""Releases that take over while requests come: nothing fails, nothing mixes, what is wrong goes."""

from __future__ import annotations

import gc
import json
import threading
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import psutil
import pytest
from release_rig import load, source
from serving_rig import MODEL, Served, infer_body, payment, served
from tests.memory_rig import taken_bytes, theil_sen

from sentinel.core.errors import ErrorCode, SentinelError
from sentinel.features import Engine, compile_plan
from sentinel.features.stores.choice import parse_store
from sentinel.monitoring.log_segments import read_metadata, segment_paths
from sentinel.serving.batching.work import Answers, Kind, Piece, TensorAnswers, Work
from sentinel.serving.releases.swap import TABLE, Place, Step

Trials = Iterable[int]
ROW = [19.5, 1.0, 20.0, 60.0, 0.2]
OLD, NEW = "payments@1.2.0", "payments@1.3.0"


@contextmanager
def swapping(folder: Path, **settings: object) -> Iterator[Served]:
    with served(folder, loaded=load("1.2.0"), source=source(), **settings) as running:
        running.wait_ready()
        yield running


def _in_service(running: Served) -> object:
    return running.operate("releases").json()["in_service"]["release"]  # type: ignore[index]


def test_a_staged_release_takes_over_and_goes_back(tmp_path: Path) -> None:
    with swapping(tmp_path) as running:
        before = running.infer([ROW]).json()
        assert before["model_version"] == "1.2.0"
        found = running.stage("1.3.0")
        assert (found["place"], found["fault"]) == ("staged", "")
        assert _in_service(running) == OLD
        assert running.operate("releases/switch", because="better").status == 200
        after = running.infer([ROW]).json()
        assert after["model_version"] == "1.3.0"
        assert after["outputs"] != before["outputs"]
        answer = running.score(payment("s-1"))
        assert answer.headers["sentinel-release"] == NEW
        assert running.request("GET", "/v1/release").json()["version"] == "1.3.0"
        model = f"/v2/models/{MODEL}/versions"
        assert running.request("GET", f"{model}/1.3.0").status == 200
        assert running.request("GET", f"{model}/1.2.0").status == 404
        metrics = running.request("GET", "/metrics", port=running.addresses.metrics_port).body
        assert b'release="payments@1.3.0"' in metrics
        assert b'release="payments@1.2.0"' not in metrics
        assert running.operate("releases/rollback", because="on second thoughts").status == 200
        assert running.infer([ROW]).json() == before
        operations = running.operate("releases").json()["operations"]
        who = [each["who"] for each in operations]  # type: ignore[attr-defined]
        assert set(who) == {"Olga Operator (no token)"}


def test_state_goes_on_where_the_other_release_stopped(tmp_path: Path) -> None:
    """The count of the card's last hour includes what the release before has seen."""
    with swapping(tmp_path) as running:
        running.score(*[payment(f"b-{n}", card_id="c-kept") for n in range(5)])
        running.stage("1.3.0")
        running.operate("releases/switch", because="")
        running.score(payment("b-5", card_id="c-kept"))
        assert running.server.swap is not None
        engine = running.plane.current.scorer.engine
        assert engine is running.opened.scorer.engine
        assert engine.counts().events == 6
        # A repeated event still gets the answer that it got the first time.
        first = running.score(payment("b-0", card_id="c-kept"))
        assert first.json()["event_id"] == "b-0"
        assert engine.counts().events == 6


@pytest.mark.parametrize(
    ("name", "fault"),
    [
        ("1.2.0", "expected another release than the one in service"),
        ("9.9.9", "release-missing"),
        ("../payments/1.3.0", "stage-refused: release: expected its place"),
        ("/etc", "stage-refused: release: expected its place"),
        ("a/b/c", "stage-refused: release: expected its place"),
        ("", "stage-refused: release: expected its place"),
    ],
)
def test_what_cannot_go_on_is_not_staged(tmp_path: Path, name: str, fault: str) -> None:
    with swapping(tmp_path) as running:
        found = running.stage(name)
        assert found["place"] == "empty"
        assert fault in str(found["fault"])
        refused = running.operate("releases/switch", because="")
        assert (refused.status, refused.json()["code"]) == (409, "switch-refused")
        assert _in_service(running) == OLD


def test_state_on_a_disk_is_of_one_feature_set(tmp_path: Path) -> None:
    """The folder names the whole set: encodings fitted again need a folder of their own."""
    store = parse_store(f"embedded:{tmp_path / 'state'}")
    with swapping(tmp_path, store=store) as running:
        fault = str(running.stage("1.3.0")["fault"])
        assert "stage-refused: payments@1.3.0: features: expected the feature set in serv" in fault
        assert "replay the log into a new store" in fault


def test_an_engine_goes_on_by_a_plan_that_was_fitted_again_and_by_no_other() -> None:
    plans = [load(version).parts.plan for version in ("1.2.0", "1.3.0")]
    engine = Engine(plans[0])
    assert plans[0].identity != plans[1].identity
    engine.use_plan(plans[1])
    assert engine.plan is plans[1]
    features = plans[0].features
    fewer = compile_plan(features.with_features(features.features[:-2]))
    with pytest.raises(SentinelError) as refused:
        engine.use_plan(fewer)
    assert refused.value.code is ErrorCode.STATE_OF_ANOTHER_FEATURE_SET
    assert engine.plan is plans[1]


def test_a_server_without_a_folder_of_releases_stages_nothing(tmp_path: Path) -> None:
    with served(tmp_path) as running:
        refused = running.operate("releases/stage", release="1.3.0")
        assert (refused.status, refused.json()["code"]) == (409, "stage-refused")
        assert "--releases" in str(refused.json()["error"])
        refused = running.operate("releases/rollback", because="")
        assert (refused.status, refused.json()["code"]) == (409, "switch-refused")


def test_the_table_of_the_second_place_has_no_dead_end() -> None:
    assert set(TABLE) == set(Place)
    for place in Place:
        assert TABLE[place]
    assert {target for steps in TABLE.values() for target in steps.values()} == set(Place)
    assert {step for steps in TABLE.values() for step in steps} == set(Step)


class Callers:
    """Callers that ask on and on, each over a connection of its own, and keep what went wrong."""

    def __init__(self, running: Served, n_callers: int = 3) -> None:
        self._running = running
        self._stop = threading.Event()
        self.wrong: list[str] = []
        self.served: set[str] = set()
        self.n_answers = 0
        self._lock = threading.Lock()
        scores = {
            release.label: release.scorer.champion._path.champion(np.array([ROW], np.float32))[0]
            for release in (running.plane.current,)
        }
        self.scores = {label.partition("@")[2]: score for label, score in scores.items()}
        self._threads = [
            threading.Thread(target=self._ask, args=(number,)) for number in range(n_callers)
        ]

    def __enter__(self) -> Callers:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _ask(self, number: int) -> None:
        import http.client

        address = self._running.addresses
        link = http.client.HTTPConnection("127.0.0.1", address.http_port, timeout=60)
        turn = 0
        while not self._stop.is_set():
            turn += 1
            events = [payment(f"{number}-{turn}-{n}", card_id=f"c{n}") for n in range(4)]
            json_type = {"content-type": "application/json", "sentinel-timeout-ms": "15000"}
            lines_type = json_type | {"content-type": "application/x-ndjson"}
            link.request("POST", "/v1/score", b"\n".join(events), lines_type)
            answer = link.getresponse()
            lines = answer.read().splitlines()
            if answer.status != 200 or any(b'"code"' in line for line in lines):
                self.wrong.append(f"{answer.status}: {lines}")
            link.request("POST", f"/v2/models/{MODEL}/infer", infer_body([ROW]), json_type)
            tensor = link.getresponse()
            content = json.loads(tensor.read())
            if tensor.status != 200:
                self.wrong.append(f"{tensor.status}: {content}")
                continue
            score = np.float32(content["outputs"][0]["data"][0])
            known = self.scores.setdefault(content["model_version"], score)
            if score != known:
                self.wrong.append(f"{content['model_version']}: {score} for {known}")
            with self._lock:
                self.n_answers += 2
                self.served.add(answer.headers["sentinel-release"].partition(";")[0])
        link.close()


@pytest.mark.reliability("E12", t1=20, t2=200, t3=1_000)
def test_switches_and_rollbacks_under_load_fail_nobody(tmp_path: Path, trials: Trials) -> None:
    """No request fails, scores are those of the release that is named, resources stay flat."""
    process = psutil.Process()
    sizes = []
    with swapping(tmp_path) as running, Callers(running) as callers:
        for turn in trials:
            other = "1.3.0" if running.plane.current.version == "1.2.0" else "1.2.0"
            found = running.stage(other)
            assert found["fault"] == ""
            assert running.operate("releases/switch", because=f"turn {turn}").status == 200
            assert running.operate("releases/rollback", because=f"turn {turn}").status == 200
            again = running.operate("releases/rollback", because=f"turn {turn}")
            assert (again.status, again.json()["code"]) == (409, "switch-refused")
            assert running.stage(other)["fault"] == ""
            assert running.operate("releases/switch", because=f"turn {turn}").status == 200
            memory = process.memory_info().rss
            counted = process.num_fds(), process.num_threads(), callers.n_answers
            sizes.append((memory, *counted))
    assert callers.wrong == []
    assert callers.n_answers > 10
    assert callers.served == {OLD, NEW}
    settled = sizes[len(sizes) // 4 :]
    first, last = settled[0], settled[-1]
    assert last[1] <= first[1] + 4
    assert last[2] <= first[2] + 4
    # Decisions are remembered, up to a bound: some kilobytes for each answer of these seconds.
    assert last[0] <= first[0] * 1.1 + 4096 * (last[3] - first[3])


@pytest.mark.reliability("E12", t1=16, t2=100, t3=500)
def test_releases_that_have_gone_leave_nothing_behind(tmp_path: Path, trials: Trials) -> None:
    """The memory of one release is 1.2 MB; a tenth of it at each turn would be seen."""
    process = psutil.Process()
    taken, sizes = [], []
    with swapping(tmp_path) as running:
        for turn in trials:
            running.stage("1.3.0" if turn % 2 == 0 else "1.2.0")
            assert running.operate("releases/switch", because="").status == 200
            gc.collect()
            taken.append((turn, taken_bytes()))
            sizes.append((process.num_fds(), process.num_threads()))
    assert theil_sen(taken[len(taken) // 2 :]) <= 100_000, taken
    first, last = sizes[len(sizes) // 2], sizes[-1]
    assert last[0] <= first[0] + 4  # a connection of the canary may be open just now
    assert last[1] <= first[1] + 1


def test_rows_of_features_are_answered_by_the_release_they_were_admitted_under(
    tmp_path: Path,
) -> None:
    """A batch that was formed around a switch: each request whole, by its own release."""
    with swapping(tmp_path) as running:
        running.stage("1.3.0")
        swap = running.server.swap
        assert swap is not None
        old, new = running.plane.current, swap.staged()
        assert new is not None
        values = np.array([ROW, [900.0, 3.0, 20.0, 5.0, 0.01]], dtype=np.float32)
        works = [
            Work(
                kind=Kind.TENSOR,
                n_rows=2,
                tenant="t",
                deadline_s=float("inf"),
                reply=lambda _: None,
                values=values,
                release=release,
            )
            for release in (old, old, new, old, new)
        ]
        found: Future[list[Answers]] = Future()
        worker = running.plane.batcher._worker
        running.plane.batcher.call(
            lambda: found.set_result(worker.run([Piece(work, 0, 2) for work in works]))
        )
        answers = [answer for answer in found.result(20) if isinstance(answer, TensorAnswers)]
        assert [each.version for each in answers] == ["1.2.0", "1.2.0", "1.3.0", "1.2.0", "1.3.0"]
        for work, answer in zip(works, answers, strict=True):
            assert work.release is not None
            known = work.release.scorer.champion._path.champion(values)
            assert answer.scores == known.tolist()


def test_a_person_who_trips_the_breaker_is_not_overruled(tmp_path: Path) -> None:
    """A young release whose champion a person has shut off stays: the fallback answers."""
    with swapping(tmp_path) as running:
        running.stage("1.3.0")
        running.operate("releases/switch", because="")
        assert running.operate("breaker/trip", because="a drill").status == 200
        running.wait_until(lambda: "latched" in str(running.plane.health().causes))
        assert _in_service(running) == NEW
        assert running.operate("releases").json()["taken_back"] == ""


def test_decisions_are_logged_with_the_release_that_made_them(tmp_path: Path) -> None:
    with swapping(tmp_path, log=tmp_path / "log") as running:
        running.score(*[payment(f"x-{n}") for n in range(7)])
        running.stage("1.3.0")
        running.operate("releases/switch", because="")
        running.score(*[payment(f"y-{n}") for n in range(5)])
        digests = [load(version).digest for version in ("1.2.0", "1.3.0")]
    segments = [read_metadata(path) for _, path in segment_paths(tmp_path / "log")]
    found = [(each.context.release_digest, each.n_records) for each in segments]
    assert found == [(digests[0], 7), (digests[1], 5)]


@pytest.mark.reliability("E14", t1=5, t2=50, t3=200)
def test_a_release_that_goes_wrong_after_the_switch_is_taken_back_once(
    tmp_path: Path,
    trials: Trials,
) -> None:
    for _ in trials:
        with swapping(tmp_path) as running:
            running.stage("1.3.0")
            running.operate("releases/switch", because="")
            guarded = running.plane.current.scorer.champion
            running.break_champion_of(
                guarded, lambda values: np.full(len(values), 0.5, dtype=np.float32)
            )
            running.wait_until(lambda: _in_service(running) == OLD)
            found = running.operate("releases").json()
            assert "payments@1.3.0 was taken back" in str(found["taken_back"])
            assert found["kept"] is None
            running.wait_until(lambda: "taken back" in str(running.plane.health().causes))
            running.wait_ready()
            assert running.score(payment(f"z-{time.time_ns()}"[:16])).status == 200
            # Nothing goes to and fro: a wrong canary of the one that serves now changes nothing.
            running.break_champion_of(
                running.plane.current.scorer.champion,
                lambda values: np.full(len(values), 0.5, dtype=np.float32),
            )
            running.wait_until(
                lambda: str(running.plane.current.scorer.status().breaker) == "latched"
            )
            assert _in_service(running) == OLD
            metrics = running.opened.metrics
            assert metrics.value("sentinel_release_changes_total", kind="take_back") == 1
