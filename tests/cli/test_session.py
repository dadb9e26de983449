"""A session over a store that is lost for a while: nobody waits for a replay, so it waits."""

from __future__ import annotations

import json
import signal
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from sentinel.cli.session import SessionPlan, open_session
from sentinel.core.configuration import Configuration
from sentinel.features.stores.choice import parse_store
from sentinel.streaming import FileJob, FileProgress, FileReport, FileWorker, Watchers
from sentinel.testing.redis_server import RedisServer

GOLDEN = Path(__file__).parent.parent / "golden" / "releases" / "format-1" / "payments-1.2.0"
N_EVENTS = 2_000


@pytest.fixture
def server() -> Iterator[RedisServer]:
    with tempfile.TemporaryDirectory(prefix="r-") as folder, RedisServer(Path(folder)) as running:
        yield running


def replay(job: FileJob, folder: Path, store: str, watchers: Watchers) -> FileReport:
    plan = SessionPlan(
        folder=GOLDEN,
        trust=None,
        allow_unapproved=True,
        quarantine=folder / "quarantine",
        store=parse_store(store),
    )
    with open_session(plan, Configuration()) as session:
        return FileWorker(session.scorer, job, valves=session.valves, watchers=watchers).run()


def test_a_replay_waits_for_a_frozen_redis_and_decides_as_if_nothing_had_been(
    server: RedisServer, tmp_path: Path
) -> None:
    """Frozen for longer than a live deadline, a dozen times: not one stale default is scored."""
    events = tmp_path / "events.ndjson"
    with events.open("w") as out:
        for number in range(N_EVENTS):
            event = {
                "payment_id": f"p{number}",
                "paid_at": 1_700_000_000_000 + number * 20_000,
                "card_id": f"c{number * 7 % 40}",
                "amount": (number * 37 % 9_000) / 100,
                "channel": "online",
            }
            out.write(json.dumps(event) + "\n")
    n_frozen = 0

    def freeze(progress: FileProgress) -> None:
        nonlocal n_frozen
        if n_frozen < 12:
            n_frozen += 1
            server.send(signal.SIGSTOP)
            threading.Timer(0.15, server.send, (signal.SIGCONT,)).start()

    plain, disturbed = tmp_path / "plain.ndjson", tmp_path / "disturbed.ndjson"
    for decisions, store, on_progress in (
        (plain, "memory", lambda _: None),
        (disturbed, f"{server.url}?name=s", freeze),
    ):
        watched = Watchers(on_progress=on_progress)
        job = FileJob(events=events, n_events_batch=100, decisions=decisions)
        replay(job, tmp_path, store, watched)
    assert n_frozen == 12
    assert disturbed.read_bytes() == plain.read_bytes()
