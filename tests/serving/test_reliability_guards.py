"""A broken champion, a breaker that is open, a caller of garbage: what callers get."""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import grpc
import numpy as np
import numpy.typing as npt
import pytest
from serving_rig import Served, payment, payments, served

from sentinel.core.errors import ErrorCode, SentinelError
from sentinel.serving.doors.grpc_messages import message
from sentinel.testing.load_generator import Schedule, Traffic, put_load, put_load_async, saturate

Float32Array = npt.NDArray[np.float32]
ROW = [19.5, 1.0, 20.0, 60.0, 1.0]
PAGE = Path(__file__).parents[2] / "docs" / "serving.md"


def _fails(values: Float32Array) -> Float32Array:
    raise SentinelError(ErrorCode.MODEL_FAILED, at="champion", expected="scores", got="a fault")


def _waits(running: Served) -> Callable[[Float32Array], Float32Array]:
    def slow(values: Float32Array) -> Float32Array:
        time.sleep(0.6)
        return running.champion(values)

    return slow


BREAKS: dict[str, Callable[[Served], None]] = {
    "NaN": lambda run: run.break_champion(lambda v: np.full(len(v), np.nan, np.float32)),
    "infinity": lambda run: run.break_champion(lambda v: np.full(len(v), np.inf, np.float32)),
    "one and the same score": lambda run: run.break_champion(
        lambda v: np.full(len(v), 0.5, np.float32)
    ),
    "another number of rows": lambda run: run.break_champion(
        lambda v: np.zeros(len(v) + 1, np.float32)
    ),
    "rows of each other": lambda run: run.break_champion(lambda v: run.champion(v)[::-1].copy()),
    "an exception": lambda run: run.break_champion(_fails),
    "600 ms": lambda run: run.break_champion(_waits(run)),
    "the scoring thread killed": lambda run: run.plane.batcher.stop(wait_s_max=5.0) and None,
}
# What each caller may get, in this order: an event, a row of features, an event over gRPC.
GETS: dict[str, set[str]] = {
    "NaN": {"fallback"},
    "infinity": {"fallback"},
    # Until the canary has found it out, within two periods.
    "one and the same score": {"champion", "fallback"},
    "another number of rows": {"fallback"},
    # Known by the row that is scored again alone; a batch of one row is in no wrong order.
    "rows of each other": {"champion", "fallback"},
    "an exception": {"fallback"},
    # Until it has been slow for ten seconds.
    "600 ms": {"champion", "fallback"},
    "the scoring thread killed": {"scorer-closed"},
}


# Those whose outputs are wrong are trials of that row; the others belong to the page alone.
OF_OUTPUTS = {"NaN", "infinity", "another number of rows", "rows of each other"}


@pytest.mark.parametrize(
    "fault",
    [
        pytest.param(name, marks=pytest.mark.reliability("G6") if name in OF_OUTPUTS else ())
        for name in BREAKS
    ],
)
def test_callers_of_both_doors_get_what_the_page_says(tmp_path: Path, fault: str) -> None:
    with served(tmp_path) as running:
        running.wait_ready()
        BREAKS[fault](running)
        for number in range(2 if fault == "600 ms" else 6):
            for who in (_by_event(running, f"{number}"), _by_row(running), _by_grpc(running)):
                assert who in GETS[fault], (fault, who)


def test_the_page_has_a_row_for_each_of_them() -> None:
    page = PAGE.read_text()
    for fault in BREAKS:
        assert f"| {fault} |" in page
    assert set(BREAKS) == set(GETS)


def _by_event(running: Served, number: str) -> str:
    return _who(running.score(payment(f"event-{number}"), sentinel_timeout_ms="5000").body)


def _by_row(running: Served) -> str:
    document = running.infer([ROW], parameters={"timeout": 5_000_000}).json()
    if "code" in document:
        return str(document["code"])
    outputs = {output["name"]: output["data"][0] for output in document["outputs"]}  # type: ignore[attr-defined]
    assert 0 <= outputs["score"] <= 1
    return str(outputs["served_by"])


def _by_grpc(running: Served) -> str:
    request = message("sentinel.v1", "ScoreRequest")(events=[payment()]).SerializeToString()
    with grpc.insecure_channel(f"127.0.0.1:{running.addresses.grpc_port}") as channel:
        try:
            answer = channel.unary_unary("/sentinel.v1.Scoring/Score")(request, timeout=10)
        except grpc.RpcError as error:
            return str(error.details()).partition(":")[0]
    return _who(message("sentinel.v1", "ScoreResponse").FromString(answer).decisions[0])


def _who(line: bytes) -> str:
    decision = json.loads(line)
    if "code" in decision:
        return str(decision["code"])
    assert 0 <= decision["score"] <= 1
    return str(decision["served_by"])


def _traffic(
    running: Served, kind: str, *, n_bad_of_ten: int = 0, source: str = "127.0.0.1"
) -> Traffic:
    good = payments(kind)

    def body(number: int) -> bytes:
        if number % 10 < n_bad_of_ten:
            return b'{"payment_id": 7, "nonsense": true}'
        return good(number)

    return Traffic(port=running.addresses.http_port, path="/v1/score", body=body, source=source)


@pytest.mark.reliability("G8", t1=3, t2=10, t3=50)
def test_with_the_breaker_open_decisions_go_on_under_full_load(
    tmp_path: Path, trials: Iterator[int]
) -> None:
    with served(tmp_path, canary_s=60.0) as running:
        running.wait_ready()
        running.opened.scorer.champion.breaker.trip(time.monotonic(), cause="test")
        for trial in trials:
            before = _served_by(running)
            report = saturate(
                _traffic(running, f"open-{trial}-"),
                connections=16,
                seconds=0.5,
                deadline_ms=9_000,
            )
            assert set(report.by_status) == {200}
            # Each of them by the fallback, and counted as such; not one by the champion.
            expected = {"fallback": before.get("fallback", 0) + report.by_status[200]}
            assert _served_by(running) == before | expected
            assert _by_event(running, f"open-{trial}") == "fallback"
        assert running.opened.scorer.counts().is_balanced


def _served_by(running: Served) -> dict[str, float]:
    """Read from the metrics how many decisions each of them made."""
    port = running.addresses.metrics_port
    text = running.request("GET", "/metrics", port=port).body.decode()
    found: dict[str, float] = {}
    pattern = r"^sentinel_decisions_total\{.*served_by=\"(\w+)\".*\} (\S+)$"
    for who, number in re.findall(pattern, text, re.MULTILINE):
        found[who] = found.get(who, 0) + float(number)
    return found


@pytest.mark.reliability("G12", t1=3, t2=20, t3=100)
def test_a_caller_of_garbage_takes_nothing_from_the_others(
    tmp_path: Path, trials: Iterator[int]
) -> None:
    """Nine of ten of its events are refused, by name; the others' are all decided; ready stays."""
    with served(tmp_path) as running:
        running.wait_ready()

        async def together(trial: int) -> tuple[object, object]:
            schedule = Schedule(rate=100, seconds=1.0, deadline_ms=5_000)
            first = 10_000 * trial
            return await asyncio.gather(
                put_load_async(
                    _traffic(running, "bad-", n_bad_of_ten=9, source="127.0.0.9"),
                    schedule,
                    first_number=first,
                ),
                put_load_async(_traffic(running, "good-"), schedule, first_number=first),
            )

        for trial in trials:
            bad, good = asyncio.run(together(trial))
            assert set(bad.by_status) == {200, 422}  # type: ignore[attr-defined]
            assert good.n_good == good.n_due  # type: ignore[attr-defined]
            running.wait_ready()
            # It is named, and nobody else is, in what the scorer and health say.
            running.wait_until(
                lambda: running.opened.scorer.status().degraded_callers == ("127.0.0.9",)
            )
            running.wait_until(lambda: running.plane.health().degraded_callers == ("127.0.0.9",))
        # Without tokens, who it is is told on this machine, asked by a name of this machine.
        for host, is_told in (("localhost", True), ("[::1]:8080", True), ("shop.example", False)):
            for headers in ({}, {"authorization": "Bearer of-nobody"}):
                health = running.request("GET", "/v1/health", host=host, **headers).body
                assert (b"127.0.0.9" in health) == is_told
                assert (b'"1 caller is refused too often"' in health) != is_told
        assert running.opened.scorer.counts().is_balanced


@pytest.mark.reliability("G12")
def test_a_bad_caller_is_named_by_its_token_s_name_at_either_door(tmp_path: Path) -> None:
    """Its share of all events is too small for its source; the token stands nowhere."""
    secrets = {name: f"{name}-{'s' * 40}" for name in ("shop", "rig", "robot", "olga")}
    tokens = tmp_path / "tokens.toml"
    tokens.touch(mode=0o600)
    tokens.write_text(
        "format = 1\n"
        + "".join(
            f'[[token]]\nname = "{name}"\nsecret = "{secret}"\n'
            f'scopes = ["{"operate" if name == "olga" else "score"}"]\n'
            for name, secret in secrets.items()
        )
    )
    with served(tmp_path, tokens=tokens) as running:
        running.wait_ready()

        def score(name: str, *events: bytes) -> None:
            answer = running.score(*events, authorization=f"Bearer {secrets[name]}")
            assert answer.status == 200

        score("shop", *(payment(f"good-{number}") for number in range(2_000)))
        score("rig", *([b"{}"] * 100 + [payment("one")]))
        request = message("sentinel.v1", "ScoreRequest")(events=[b"[]"] * 120)
        with grpc.insecure_channel(f"127.0.0.1:{running.addresses.grpc_port}") as channel:
            channel.unary_unary("/sentinel.v1.Scoring/Score")(
                request.SerializeToString(),
                timeout=10,
                metadata=(("authorization", f"Bearer {secrets['robot']}"),),
            )
        status = running.opened.scorer.status
        running.wait_until(lambda: status().degraded_callers == ("rig", "robot"))
        assert status().degraded_sources == ()
        running.wait_until(lambda: running.plane.health().degraded_callers == ("rig", "robot"))
        for port in (running.addresses.metrics_port, running.addresses.http_port):
            for who in (None, *secrets):
                bearer = {} if who is None else {"authorization": f"Bearer {secrets[who]}"}
                health = running.request("GET", "/v1/health", port=port, **bearer).body
                # Who it is, is told to operators; how many they are, to everybody.
                assert (b"caller robot is refused too often" in health) == (who == "olga")
                assert (b'"2 callers are refused too often"' in health) == (who != "olga")
                assert (b"robot" in health) == (who == "olga")
                assert not any(secret.encode() in health for secret in secrets.values())


def test_the_load_of_these_tests_is_answered(tmp_path: Path) -> None:
    with served(tmp_path) as running:
        running.wait_ready()
        report = put_load(_traffic(running, "plain-"), Schedule(rate=50, seconds=0.3))
        assert report.n_good == report.n_due
