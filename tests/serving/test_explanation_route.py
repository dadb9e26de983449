"""Explanations through the real door: on their way, there, and not to be had."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from process_rig import server_process
from serving_rig import MODEL, Answered, Served, infer_body, payment, served
from tests.serving.explanation_rig import explained_release

from sentinel.core.limits import EXPLAINER_NICE
from sentinel.serving import bounds
from sentinel.serving.explanations.kept import EXPLANATIONS_FOLDER, find_explanation
from sentinel.serving.settings import ExplainMode
from sentinel.testing import wait_until


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("explained")


@pytest.fixture(scope="module")
def running(folder: Path) -> Iterator[Served]:
    loaded = explained_release(folder / "release")
    with served(folder, loaded=loaded, log=folder / "log", explain=ExplainMode.FLAGGED) as found:
        found.wait_ready()
        yield found


def why(running: Served, event_id: str) -> Answered:
    return running.request("GET", f"/v1/decisions/{event_id}/explanation")


def explained(running: Served, event_id: str) -> dict[str, object]:
    wait_until(lambda: why(running, event_id).status != 202)
    answer = why(running, event_id)
    assert answer.status == 200, answer.body
    return answer.json()


def test_a_decision_is_explained_when_it_is_asked_for(running: Served, folder: Path) -> None:
    """202 with Retry-After, then the document; kept beside the decision log."""
    decision = running.score(payment("why/1 ü", amount=900.0, channel="online")).json()
    event_id = "why%2F1%20%C3%BC"
    first = why(running, event_id)
    assert first.status in {200, 202}
    if first.status == 202:
        assert first.headers["retry-after"] == "1"
        assert first.json() == {"event_id": "why/1 ü", "status": "pending"}
    found = explained(running, event_id)
    assert found["event_id"] == "why/1 ü"
    assert found["outcome"] == decision["outcome"]
    assert found["score"] == pytest.approx(decision["score"], rel=1e-6)
    features = found["features"]
    assert isinstance(features, list)
    log_odds = found["base"] + sum(each["contribution"] for each in features)
    assert 1 / (1 + math.exp(-log_odds)) == pytest.approx(decision["score"], rel=1e-3)
    kept = find_explanation(folder / "log" / EXPLANATIONS_FOLDER, "why/1 ü")
    assert kept is not None
    assert json.loads(kept) == found


def test_flagged_decisions_are_explained_without_being_asked_for(
    running: Served, folder: Path
) -> None:
    """Each that is declined or reviewed is kept beside the decision log, and no other."""
    chance = random.Random(8)
    events = [
        payment(
            f"many-{number}", card_id=f"m{chance.randrange(40)}", channel="online",
            amount=round(chance.lognormvariate(3, 1), 2),
        )
        for number in range(200)
    ]  # fmt: skip
    lines = running.score(*events).lines()
    flagged = {str(line["event_id"]) for line in lines if line["outcome"] in {"review", "decline"}}
    assert 0 < len(flagged) < len(lines)

    def is_kept(event_id: str) -> bool:
        return find_explanation(folder / "log" / EXPLANATIONS_FOLDER, event_id) is not None

    wait_until(lambda: all(is_kept(event_id) for event_id in flagged))
    assert flagged == {f"many-{number}" for number in range(200) if is_kept(f"many-{number}")}


def test_a_server_as_it_is_shipped_explains_with_what_others_leave(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not at the priority of the tests nor with their deadline, as all servers beside it."""
    for name in ("SENTINEL_SERVE_EXPLAINER_NICE", "SENTINEL_SERVE_TIMEOUT_MS"):
        monkeypatch.delenv(name)
    explained_release(tmp_path / "release")
    options = ("--log", str(tmp_path / "log"))
    with server_process(tmp_path, *options, release=tmp_path / "release") as shipped:
        asked: list[str] = []

        def is_scored() -> bool:
            asked.append(f"shipped-{len(asked)}")
            return shipped.post(payment(asked[-1]))[0] == 200

        wait_until(is_scored)
        assert shipped.get(f"/v1/decisions/{asked[-1]}/explanation")[0] in {200, 202}
        process = psutil.Process(shipped.process.pid)
        wait_until(lambda: any(each.nice() == EXPLAINER_NICE for each in process.children()))


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/v1/decisions/nobody/explanation", 404, "decision-unknown"),
        ("POST", "/v1/decisions/nobody/explanation", 405, "method-unsupported"),
    ],
)
def test_what_is_not_there_has_its_code(
    running: Served, method: str, path: str, status: int, code: str
) -> None:
    """As at every other route."""
    answer = running.request(method, path)
    assert (answer.status, answer.json()["code"]) == (status, code)


def test_a_server_without_explanations_says_so(tmp_path: Path) -> None:
    """410, with the reason in words."""
    with served(tmp_path) as plain:
        plain.wait_ready()
        plain.score(payment("p1"))
        answer = why(plain, "p1")
    assert answer.status == 410
    assert answer.json()["code"] == "explanation-unavailable"
    assert "turned off" in str(answer.json()["error"])


def test_a_champion_without_data_says_so(tmp_path: Path) -> None:
    """The golden release was built before there were explanations."""
    with served(tmp_path, explain=ExplainMode.ALL) as old:
        old.wait_ready()
        old.score(payment("p1"))
        wait_until(lambda: why(old, "p1").status != 202)
        answer = why(old, "p1")
    assert answer.status == 410
    assert "carries nothing to explain its champion by" in str(answer.json()["error"])


def test_rows_of_features_are_scored_and_explained(running: Served) -> None:
    """The score is the one that infer gives; nothing is kept."""
    rows = [[10.0 * number, 1.0, 20.0, 300.0, 0.1] for number in range(1, 4)]
    answer = running.request(
        "POST",
        f"/v2/models/{MODEL}/explain",
        infer_body(rows, id="why"),
        content_type="application/json",
        sentinel_timeout_ms="30000",
    )
    assert answer.status == 200, answer.body
    found = answer.json()
    assert (found["model_name"], found["model_version"], found["id"]) == (MODEL, "1.2.0", "why")
    scores = running.infer(rows).json()["outputs"][0]["data"]  # type: ignore[index]
    explanations = found["explanations"]
    assert isinstance(explanations, list)
    assert [each["score"] for each in explanations] == pytest.approx(scores, rel=1e-6)
    assert all(each["method"] == "exact-trees" for each in explanations)


def test_as_many_rows_as_the_page_says_are_explained(running: Served) -> None:
    """More than the explainer takes at once."""
    n_rows = bounds.EXPLAIN_REQUEST_ROWS_MAX
    answer = running.request(
        "POST",
        f"/v2/models/{MODEL}/explain",
        infer_body([[1.0, 1.0, 20.0, 300.0, 0.1]] * n_rows),
        content_type="application/json",
        sentinel_timeout_ms="30000",
        timeout_s=40,
    )
    assert answer.status == 200, answer.body
    explanations = answer.json()["explanations"]
    assert isinstance(explanations, list)
    assert len(explanations) == n_rows == 256


@pytest.mark.parametrize(
    ("n_rows", "timeout_ms", "status", "code"),
    [(257, "1000", 413, "request-too-large"), (1, "1", 504, "deadline-passed")],
)
def test_rows_that_are_too_many_or_too_late_are_not_explained(
    running: Served, n_rows: int, timeout_ms: str, status: int, code: str
) -> None:
    """One answer, in time, whatever the explainer does."""
    answer = running.request(
        "POST",
        f"/v2/models/{MODEL}/explain",
        infer_body([[1.0, 1.0, 20.0, 300.0, 0.1]] * n_rows),
        content_type="application/json",
        sentinel_timeout_ms=timeout_ms,
    )
    assert (answer.status, answer.json()["code"]) == (status, code)
