"""The demo's server and client: a real server process, and the answers that a replay gave."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from sentinel.cli.demo_serve import live_page, running_server, stream_over_http
from sentinel.cli.session import SessionPlan, open_session
from sentinel.core.configuration import Configuration
from sentinel.core.errors import ErrorCode, SentinelError
from sentinel.data import EventFolder
from sentinel.features.stores.choice import parse_store
from sentinel.streaming import FileJob, FileReport, FileWorker

N_EVENTS = 3_000
N_HISTORY = 1_000


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory, golden: Path) -> EventFolder:
    """Payments of some cards, the last of them bad, with verdicts an hour later."""
    folder = tmp_path_factory.mktemp("data")
    events, feedback = folder / "events.ndjson", folder / "feedback.ndjson"
    first_ms = 1_700_000_000_000
    with events.open("w") as out, feedback.open("w") as known:
        for number in range(N_EVENTS):
            at = first_ms + number * 20_000
            event = {
                "payment_id": f"p{number}",
                "paid_at": at,
                "card_id": f"c{number * 7 % 40}",
                "amount": (number * 37 % 9_000) / 100,
                "channel": "online" if number % 3 else "chip",
            }
            out.write(json.dumps(event) + "\n")
            verdict = {
                "verdict_id": f"v{number}",
                "known_at": at + 3_600_000,
                "payment_id": f"p{number}",
                "is_fraud": number % 50 == 0,
            }
            known.write(json.dumps(verdict) + "\n")
        out.write("nonsense\n")
    return EventFolder(
        events=events,
        feedback=feedback,
        scenarios=None,
        n_events=N_EVENTS + 1,
        n_feedback=N_EVENTS,
        n_frauds=N_EVENTS // 50,
    )


@pytest.fixture(scope="module")
def golden() -> Path:
    return Path(__file__).parent.parent / "golden" / "releases" / "format-1" / "payments-1.2.0"


def replay(golden: Path, folder: Path, job: FileJob, store: str) -> FileReport:
    plan = SessionPlan(
        folder=golden,
        trust=None,
        allow_unapproved=True,
        quarantine=folder / "quarantine",
        store=parse_store(store),
    )
    with open_session(plan, Configuration()) as session:
        return FileWorker(session.scorer, job, valves=session.valves).run()


def test_a_stream_over_http_is_answered_as_a_replay_answers_it(
    data: EventFolder, golden: Path, tmp_path: Path
) -> None:
    """The state was brought up before; every decision is the same to the byte, faults included."""
    decisions, state = tmp_path / "decisions.ndjson", f"embedded:{tmp_path / 'state'}"
    job = FileJob(events=data.events, feedback=data.feedback, first_decided=N_HISTORY)
    replay(golden, tmp_path, replace(job, is_learn_only=True), state)
    replayed = replay(golden, tmp_path, replace(job, decisions=decisions), "memory")
    assert replayed.n_history == N_HISTORY
    steps: list[float] = []
    with running_server(golden, tmp_path, ["--unapproved", "--store", state, "--rehearsal"]) as at:
        live = stream_over_http(
            at.http_port,
            data,
            ("paid_at", "known_at"),
            from_ms=1_700_000_000_000 + N_HISTORY * 20_000,
            replayed=replayed,
            decisions=decisions,
            advance=lambda done, _="": steps.append(done),
        )
    n_sent = N_EVENTS + 1 - N_HISTORY
    assert live.n_equal == N_EVENTS - N_HISTORY
    assert (live.n_events, live.answers["refused"]) == (n_sent, 1)
    assert live.n_feedback >= N_EVENTS - N_HISTORY - 180
    assert steps[-1] == n_sent
    assert live.to_data()["equal_to_replay"] == live.n_equal
    assert live_page(live, at)


def test_a_server_that_cannot_start_is_named_with_its_reason(golden: Path, tmp_path: Path) -> None:
    with (
        pytest.raises(SentinelError) as refused,
        running_server(golden, tmp_path, ["--store", "nonsense"]),
    ):
        pass
    assert (refused.value.code, refused.value.at) == (ErrorCode.SERVER_UNREADY, "sentinel serve")
    assert "store-address-invalid: --store" in refused.value.got
