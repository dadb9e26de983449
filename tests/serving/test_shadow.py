"""A challenger on live rows: what it would have answered, and that nobody notices it."""

from __future__ import annotations

import json
import math
import threading
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from release_rig import load, source
from serving_rig import Served, payment, served

from sentinel.cli.boundary import run_command
from sentinel.cli.exits import ExitCode
from sentinel.cli.main import app
from sentinel.scoring import Outcome, ServedBy
from sentinel.scoring.guards import Answer
from sentinel.serving import bounds
from sentinel.serving.releases.comparison import Answered, Comparison, paired_difference, wilson


def _shadowed(running: Served) -> None:
    running.wait_ready()
    assert running.stage("1.3.0")["fault"] == ""
    assert running.operate("shadow/start", because="a look").status == 200


def _report(running: Served) -> dict[str, object]:
    return running.operate("shadow").json()


def _send(running: Served, n_batches: int, start: int = 0) -> list[dict[str, object]]:
    lines: list[dict[str, object]] = []
    for number in range(start, start + n_batches):
        events = [
            payment(f"{number}-{n}", card_id=f"c{n % 7}", amount=round(1.7**n, 2))
            for n in range(20)
        ]
        lines += running.score(*events).lines()
    return lines


def test_the_report_holds_both_answers_to_every_row(tmp_path: Path) -> None:
    with served(tmp_path, loaded=load("1.2.0"), source=source()) as running:
        _shadowed(running)
        lines = _send(running, 10)
        _send(running, 1)  # repeated events are no rows of their own
        running.wait_until(lambda: _report(running)["n_rows"] == 200)
        found = _report(running)
        outcomes: dict[str, dict[str, int]] = found["outcomes"]  # type: ignore[assignment]
        for name in ("approve", "review", "decline", "held"):
            n_here = sum(line["outcome"] == name for line in lines)
            assert sum(outcomes[name].values()) == n_here
        assert {line["served_by"] for line in lines} == {"champion"}
        scores: dict[str, float] = found["scores"]  # type: ignore[assignment]
        assert scores["n_pairs"] == 200
        assert scores["largest_difference"] > 0
        # The challenger scores the vectors that were scored: as if it had been in service.
        assert running.operate("releases/switch", because="").status == 200
        with served(tmp_path / "other", loaded=load("1.3.0")) as other:
            other.wait_ready()
            scored = _send(other, 10)
        theirs = [line["outcome"] for line in scored]
        pairs = [(here["outcome"], there) for here, there in zip(lines, theirs, strict=True)]
        for first, row in outcomes.items():
            assert row == {second: pairs.count((first, second)) for second in row}
        mean = np.mean([float(str(there["score"])) for there in scored]) - np.mean(
            [float(str(here["score"])) for here in lines]
        )
        assert scores["mean_difference"] == pytest.approx(mean, abs=1e-6)
        assert _report(running)["is_running"] is False, "what serves is no challenger any more"
        assert _report(running)["n_rows"] == 200


def test_answers_are_the_same_with_a_challenger_and_without(tmp_path: Path) -> None:
    with served(tmp_path / "a", loaded=load("1.2.0"), source=source()) as running:
        _shadowed(running)
        with_it = _send(running, 5)
    with served(tmp_path / "b", loaded=load("1.2.0")) as running:
        running.wait_ready()
        without = _send(running, 5)
    kept = ("event_id", "score", "outcome", "served_by", "reason")
    assert [[line[name] for name in kept] for line in with_it] == [
        [line[name] for name in kept] for line in without
    ]


def test_a_challenger_that_hangs_costs_nobody_anything_and_is_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bounds, "SHADOW_ROWS_MAX", 40)
    monkeypatch.setattr(bounds, "SWAP_S_MAX", 0.2)
    let_go = threading.Event()

    def hang(values: np.ndarray) -> np.ndarray:
        let_go.wait(30)
        return np.full(len(values), 0.5, dtype=np.float32)

    with served(tmp_path, loaded=load("1.2.0"), source=source()) as running:
        _shadowed(running)
        assert running.server.swap is not None
        challenger = running.server.swap.staged()
        assert challenger is not None
        running.break_champion_of(challenger.scorer.champion, hang)
        lines = _send(running, 10)
        assert {line["served_by"] for line in lines} == {"champion"}
        running.wait_until(lambda: int(str(_report(running)["n_skipped"])) > 0)
        # It must not serve while its thread is in it.
        refused = running.operate("releases/switch", because="")
        assert (refused.status, refused.json()["code"]) == (409, "switch-refused")
        assert running.plane.current.version == "1.2.0"
        let_go.set()


def test_a_challenger_that_fails_is_seen_in_the_report_only(tmp_path: Path) -> None:
    with served(tmp_path, loaded=load("1.2.0"), source=source()) as running:
        _shadowed(running)
        assert running.server.swap is not None
        challenger = running.server.swap.staged()
        assert challenger is not None
        running.break_champion_of(
            challenger.scorer.champion, lambda values: np.full(len(values), np.nan, np.float32)
        )
        lines = _send(running, 5)
        assert {line["served_by"] for line in lines} == {"champion"}
        running.wait_until(lambda: _report(running)["n_rows"] == 100)
        rows: dict[str, int] = _report(running)["fallback_rows"]  # type: ignore[assignment]
        assert rows == {"in_service": 0, "challenger": 100}
        assert str(running.plane.current.scorer.status().breaker) == "closed"


def test_the_commands_start_show_and_stop_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with served(tmp_path, loaded=load("1.2.0"), source=source()) as running:
        running.wait_ready()
        url = ("--url", f"http://127.0.0.1:{running.addresses.metrics_port}")
        shadow = ("serving", "shadow")
        assert run_command(app, [*shadow, "report", *url]) is ExitCode.RELEASE
        assert run_command(app, [*shadow, "start", *url]) is ExitCode.RELEASE
        running.stage("1.3.0")
        assert run_command(app, [*shadow, "start", *url]) is ExitCode.OK
        _send(running, 5)
        running.wait_until(lambda: _report(running)["n_rows"] == 100)
        capsys.readouterr()
        assert run_command(app, [*shadow, "report", *url]) is ExitCode.OK
        page = capsys.readouterr().out
        for words in ("payments@1.3.0", "same outcome", "difference, 95 %", "decline", "µs"):
            assert words in page
        assert run_command(app, [*shadow, "stop", *url, "--json"]) is ExitCode.OK
        document = json.loads(capsys.readouterr().out)
        assert document["is_running"] is False
        assert document["n_rows"] == 100


# --- the arithmetic --------------------------------------------------------------------------


def _answered(scores: np.ndarray, outcomes: np.ndarray) -> Answered:
    return Answered(
        scores=scores.astype(np.float64),
        outcomes=outcomes.astype(np.uint8),
        served_by=np.zeros(len(scores), dtype=np.uint8),
    )


@given(st.integers(0, 2**32 - 1), st.integers(1, 5))
def test_the_comparison_is_that_of_all_rows_however_they_were_cut(seed: int, n_cuts: int) -> None:
    rng = np.random.default_rng(seed)
    n = 400
    first, second = rng.random(n).astype(np.float32), rng.random(n).astype(np.float32)
    before, after = rng.integers(0, 3, n), rng.integers(0, 3, n)
    comparison = Comparison()
    for rows in np.array_split(np.arange(n), n_cuts):
        answer = Answer(
            second[rows].astype(np.float64),
            np.full(len(rows), ServedBy.CHAMPION, dtype=np.uint8),
            np.zeros(len(rows), dtype=np.uint8),
        )
        comparison.add(_answered(first[rows], before[rows]), answer, after[rows].astype(np.uint8))
    data = comparison.to_data()
    assert data["n_rows"] == n
    assert data["agreement"] == pytest.approx(np.mean(before == after))
    difference = second.astype(np.float64) - first
    scores: dict[str, float] = data["scores"]  # type: ignore[assignment]
    assert scores["mean_difference"] == pytest.approx(difference.mean())
    assert scores["largest_difference"] == pytest.approx(np.abs(difference).max())
    for code in (Outcome.APPROVE, Outcome.DECLINE):
        share = data["shares"][code.name.lower()]  # type: ignore[index]
        assert share["in_service"] == pytest.approx(np.mean(before == code))
        low, high = share["difference_interval"]
        assert low <= np.mean(after == code) - np.mean(before == code) <= high


def test_intervals_cover_as_often_as_they_say() -> None:
    """Of 2,000 samples 95 % hold the true difference, give or take."""
    rng = np.random.default_rng(11)
    n, gained, lost = 500, 0.08, 0.03
    n_covered = n_agreed = 0
    for _ in range(2_000):
        b, c, _ = rng.multinomial(n, [gained, lost, 1 - gained - lost])
        low, high = paired_difference(int(b), int(c), n)
        n_covered += low <= gained - lost <= high
        low, high = wilson(int(n - b - c), n)
        n_agreed += low <= 1 - gained - lost <= high
    assert 0.93 < n_covered / 2_000 < 0.97
    assert 0.93 < n_agreed / 2_000 < 0.97


def test_an_empty_report_says_nothing_rather_than_zero() -> None:
    data = Comparison().to_data()
    assert data["agreement"] is None
    assert data["scores"] == {"n_pairs": 0}
    assert not any(isinstance(value, float) and math.isnan(value) for value in data.values())
