"""Batches across callers: everybody gets the own rows back, in the own order, once."""

from __future__ import annotations

import http.client
import json
import threading
import zlib
from pathlib import Path

import numpy as np
from serving_rig import MODEL, Served, infer_body, payment, served


def test_many_callers_at_once_get_their_own_rows(server: Served) -> None:
    """Rows are told apart by their scores: each is compared with the row scored alone."""
    server.wait_ready()
    rng = np.random.default_rng(7)
    faults: list[str] = []

    def ask(seed: int) -> None:
        own = np.random.default_rng(seed)
        link = http.client.HTTPConnection("127.0.0.1", server.addresses.http_port, timeout=20)
        try:
            for number in range(30):
                rows = vectors[own.integers(0, len(vectors), own.integers(1, 40))]
                body = infer_body(rows.astype(float).tolist())
                link.request(
                    "POST",
                    f"/v2/models/{MODEL}/infer",
                    body,
                    headers={"content-type": "application/json"},
                )
                answer = json.loads(link.getresponse().read())
                scores = np.array(answer["outputs"][0]["data"], np.float32)
                if not np.array_equal(scores, server.champion(rows)):
                    faults.append(f"{seed}/{number}")
        finally:
            link.close()

    vectors = rng.uniform(0, 2_000, (200, 5)).astype(np.float32)
    threads = [threading.Thread(target=ask, args=(seed,)) for seed in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not faults


def test_many_callers_at_once_get_their_own_decisions(server: Served) -> None:
    faults: list[str] = []

    def ask(seed: int) -> None:
        for number in range(15):
            ids = [f"{seed}.{number}.{n}" for n in range(1 + zlib.crc32(b"%d" % number) % 9)]
            lines = server.score(*[payment(event_id) for event_id in ids]).lines()
            if [line["event_id"] for line in lines] != ids:
                faults.append(f"{seed}/{number}")

    threads = [threading.Thread(target=ask, args=(seed,)) for seed in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not faults
    assert server.opened.scorer.counts().is_balanced


def test_a_large_request_is_scored_in_pieces_and_comes_back_whole(server: Served) -> None:
    ids = [f"w{number}" for number in range(1_500)]
    lines = server.score(*[payment(event_id) for event_id in ids]).lines()
    assert [line["event_id"] for line in lines] == ids


def test_a_full_queue_refuses_early_and_recovers(tmp_path: Path) -> None:
    with served(tmp_path, canary_s=60.0) as running:
        running.wait_ready()
        batcher = running.plane.batcher
        batcher._queue._rows_max = 20
        batcher._curve.__init__()  # type: ignore[misc]
        answers: list[int] = []

        def ask(number: int) -> None:
            lines = [payment(f"f{number}.{n}") for n in range(8)]
            answers.append(running.score(*lines, sentinel_timeout_ms="9000").status)

        threads = [threading.Thread(target=ask, args=(number,)) for number in range(6)]
        with running.scoring_held():
            for thread in threads:
                thread.start()
            running.wait_until(lambda: len(answers) >= 5)
            refused = running.score(*[payment() for _ in range(8)])
            assert (refused.status, refused.json()["code"]) == (429, "overloaded")
            assert 1 <= int(refused.headers["retry-after"]) <= 30
            assert running.request("GET", "/v2/health/live").status == 200
        for thread in threads:
            thread.join()
        assert sorted(answers) == [200, 429, 429, 429, 429, 429]
        assert running.score(payment("after-the-flood")).status == 200
