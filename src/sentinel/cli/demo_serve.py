"""The demo's server: a real process behind real doors, and a client that sends it the stream."""

from __future__ import annotations

import http.client
import itertools
import json
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from sentinel.cli.output import Advance, duration_ms, pairs
from sentinel.core import limits
from sentinel.core.errors import ErrorCode, SentinelError
from sentinel.monitoring.latency import LatencyHistogram

if TYPE_CHECKING:
    from rich.console import RenderableType

    from sentinel.data import EventFolder
    from sentinel.features.replay import FeedbackOrder
    from sentinel.streaming import FileReport

# Events that travel in one request, and how many first travel alone.
_LINES = 512
_PIECE = 4_096
# Feedback of so long before the first event is sent again, in case the history ended before it.
_MARGIN_MS = 3_600_000
_ALONE = 500
_REFUSED = "refused"
_NDJSON = {"content-type": "application/x-ndjson"}
_JSON = {"content-type": "application/json"}


@dataclass(slots=True)
class LiveReport:
    """What a stream over HTTP came to.

    Attributes
    ----------
    n_events, n_feedback : int
        That were sent.
    n_equal : int
        Decisions that are those of the replay, to the byte.
    answers : Counter of str
        Outcomes; ``refused`` for what the contract did not take.
    seconds : float
        Spent on requests of many events.
    alone, together : LatencyHistogram
        Of requests with one event, and with many; as the client sees it.
    n_asked_again : int
        Requests that were refused because the server was busy, and sent again.
    health : dict
        Of the server, at the end.
    """

    n_events: int = 0
    n_feedback: int = 0
    n_equal: int = 0
    answers: Counter[str] = field(default_factory=Counter)
    seconds: float = 0.0
    alone: LatencyHistogram = field(default_factory=LatencyHistogram)
    together: LatencyHistogram = field(default_factory=LatencyHistogram)
    n_asked_again: int = 0
    health: dict[str, object] = field(default_factory=dict)

    @property
    def events_per_s(self) -> float:
        """Events a second, in requests of many."""
        return (self.n_events - self.alone.n) / self.seconds if self.seconds else 0.0

    def to_data(self) -> dict[str, object]:
        """Give it as plain data."""
        return {
            "events": self.n_events,
            "feedback": self.n_feedback,
            "equal_to_replay": self.n_equal,
            "answers": dict(self.answers),
            "events_per_s": self.events_per_s,
            "one_event_p50_s": self.alone.quantile(0.5),
            "one_event_p99_s": self.alone.quantile(0.99),
            "asked_again": self.n_asked_again,
            "health": self.health,
        }


@dataclass(frozen=True, slots=True)
class Addresses:
    """Where the demo's server listens."""

    http_port: int
    grpc_port: int
    metrics_port: int


@contextmanager
def running_server(release: Path, folder: Path, arguments: list[str]) -> Iterator[Addresses]:
    """Run ``sentinel serve`` on free ports of this machine until the block ends; then drain it.

    Parameters
    ----------
    release : Path
    folder : Path
        Of the demo: what the server says is kept there, in ``server.log``.
    arguments : list of str
        Further arguments of ``sentinel serve``.

    Raises
    ------
    SentinelError
        ``server-unready`` when it ends, or is not ready in time.
    """
    words = [sys.executable, "-m", "sentinel.cli", "serve", str(release)]
    words += [
        "--quarantine",
        str(folder / "live-quarantine"),
        "--json",
    ]
    words += ["--http-port", "0", "--grpc-port", "0", "--metrics-port", "0", *arguments]
    log = folder / "server.log"
    with log.open("wb") as said:
        process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=said)  # noqa: S603 -- itself
    try:
        if process.stdout is None:
            raise AssertionError("stdout is a pipe")
        line = process.stdout.readline()
        told = json.loads(line or b"{}")
        if "http_port" not in told:
            raise _not_ready(log, _why(told))
        found = Addresses(told["http_port"], told["grpc_port"], told["metrics_port"])
        _wait_ready(found, process, log)
        yield found
        process.terminate()
        process.wait(limits.DEMO_SERVER_WAIT_S)
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
        if process.stdout is not None:
            process.stdout.close()


def stream_over_http(
    port: int,
    data: EventFolder,
    times: tuple[str, str],
    *,
    from_ms: int,
    replayed: FileReport,
    decisions: Path,
    advance: Advance,
) -> LiveReport:
    """Send the events from a line on, and the feedback in its time; hold the answers to a replay.

    Parameters
    ----------
    port : int
    data : EventFolder
    times : tuple of str
        Names of the event time of events, and of feedback.
    from_ms : int
        Event time from which on they are sent.
    replayed : FileReport
        What a replay of them came to; its history is in the server's state already.
    decisions : Path
        What that replay wrote.
    advance : callable
        Told how many events were answered.
    """
    report = LiveReport()
    client = _Client(port, report)
    with data.events.open("rb") as events, decisions.open("rb") as expected:
        lines = itertools.islice(events, replayed.n_history, None)
        feedback = _feedback(data.feedback, times[1], from_ms)
        while chunk := list(itertools.islice(lines, 1 if report.n_events < _ALONE else _LINES)):
            for known in feedback.due(_latest_ms(chunk, times[0])):
                client.post("/v1/feedback", known)
                report.n_feedback += len(known)
            answers = client.score(chunk)
            report.n_events += len(chunk)
            decided = [line for line in answers if _outcome(line) != _REFUSED]
            report.n_equal += sum(map(_is_same, decided, expected))
            advance(report.n_events, f"{report.n_events:,} events")
    report.health = client.get("/v1/health")
    client.close()
    return report


def live_page(report: LiveReport, addresses: Addresses) -> RenderableType:
    """Show what the server did."""
    health = report.health
    state = "ready" if health.get("ready") else "not ready"
    causes = health.get("causes")
    facts: dict[str, object] = {
        "doors": f"http 127.0.0.1:{addresses.http_port}, gRPC :{addresses.grpc_port}, "
        f"metrics :{addresses.metrics_port}",
        "sent": f"{report.n_events:,} events, {report.n_feedback:,} verdicts in their time",
        "answers": ", ".join(f"{name} {n:,}" for name, n in sorted(report.answers.items())),
        "as replayed": f"{report.n_equal:,} of {report.n_events:,} decisions are those of the "
        "replay, to the byte",
        "speed": f"{report.events_per_s:,.0f} events/s over one connection, {_LINES} a request",
        "one event": f"p50 {duration_ms(report.alone.quantile(0.5))}, "
        f"p99 {duration_ms(report.alone.quantile(0.99))} a request",
        "health": f"{state}; {', '.join(map(str, causes)) if isinstance(causes, list) else ''}",
    }
    return pairs("", facts)


class _Client:
    """One connection that is kept; a server that is busy is asked again when it says."""

    def __init__(self, port: int, report: LiveReport) -> None:
        self._connection = http.client.HTTPConnection(
            "127.0.0.1", port, timeout=limits.DEMO_SERVER_WAIT_S
        )
        self._report = report

    def score(self, chunk: list[bytes]) -> list[bytes]:
        """Send one event alone or many as lines; an answer a line."""
        began_s = time.monotonic()
        answers = self.post("/v1/score", chunk).splitlines()
        spent_s = time.monotonic() - began_s
        if len(chunk) == 1:
            self._report.alone.observe(spent_s)
        else:
            self._report.together.observe(spent_s)
            self._report.seconds += spent_s
        self._report.answers.update(_outcome(line) for line in answers)
        return answers

    def post(self, path: str, lines: list[bytes]) -> bytes:
        """Send lines; one line alone goes as JSON."""
        body, headers = (lines[0], _JSON) if len(lines) == 1 else (b"".join(lines), _NDJSON)
        for _ in range(limits.DEMO_TRIES_MAX):
            self._connection.request("POST", path, body=body, headers=headers)
            response = self._connection.getresponse()
            content = response.read()
            if response.status not in {429, 503}:
                return content
            self._report.n_asked_again += 1
            time.sleep(float(response.headers.get("retry-after", "1")))
        raise SentinelError(
            ErrorCode.SERVER_UNREADY,
            at=path,
            expected=f"an answer within {limits.DEMO_TRIES_MAX} tries",
            got=content.decode("utf-8", "replace"),
        )

    def get(self, path: str) -> dict[str, object]:
        """Read a JSON object."""
        self._connection.request("GET", path)
        found: dict[str, object] = json.loads(self._connection.getresponse().read())
        return found

    def close(self) -> None:
        """Hang up."""
        self._connection.close()


def _feedback(path: Path | None, time_name: str, from_ms: int) -> FeedbackOrder[list[bytes]]:
    """Give feedback in pieces, in its time; the little that the state knows changes nothing."""
    from sentinel.features.replay import FeedbackOrder

    if path is None:
        return FeedbackOrder([], latest_ms=lambda _: 0)

    def pieces() -> Iterator[list[bytes]]:
        with path.open("rb") as file:
            late = itertools.dropwhile(
                lambda line: _latest_ms([line], time_name) < from_ms - _MARGIN_MS, file
            )
            while piece := list(itertools.islice(late, _PIECE)):
                yield piece

    return FeedbackOrder(pieces(), latest_ms=lambda piece: _latest_ms(piece, time_name))


def _latest_ms(lines: list[bytes], time_name: str) -> int:
    """Read the time of the last line that has one; 0 when none has."""
    for line in reversed(lines):
        with suppress(ValueError, TypeError, KeyError):
            return int(json.loads(line)[time_name])
    return 0


def _is_same(answer: bytes, replayed: bytes) -> bool:
    return answer == replayed.rstrip(b"\n")


def _outcome(line: bytes) -> str:
    return str(json.loads(line).get("outcome", _REFUSED))


def _wait_ready(addresses: Addresses, process: subprocess.Popen[bytes], log: Path) -> None:
    end_s = time.monotonic() + limits.DEMO_SERVER_WAIT_S
    while time.monotonic() < end_s:
        if process.poll() is not None:
            raise _not_ready(log, "a server that ended")
        with suppress(OSError):
            probe = http.client.HTTPConnection("127.0.0.1", addresses.metrics_port, timeout=1.0)
            probe.request("GET", "/v2/health/ready")
            is_ready = probe.getresponse().status == 200
            probe.close()
            if is_ready:
                return
        time.sleep(0.05)
    raise _not_ready(log, "a server that is not ready yet")


def _why(told: dict[str, dict[str, str]]) -> str:
    error = told.get("error")
    if error is None:
        return "a server that ended"
    return f"{error['code']}: {error['at']}: expected {error['expected']}, got {error['got']}"


def _not_ready(log: Path, got: str) -> SentinelError:
    return SentinelError(
        ErrorCode.SERVER_UNREADY,
        at="sentinel serve",
        expected=f"a server that is ready within {limits.DEMO_SERVER_WAIT_S:.0f} s",
        got=got,
        hint=f"It said why in {log}.",
    )
