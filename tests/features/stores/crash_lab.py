"""A process that forks workers of one state folder and kills them: real processes, real SIGKILL.

It has imported and compiled everything, so a worker starts in milliseconds. Commands come as lines
of JSON, answers go out the same way. A worker applies the stream from the store's position on, and
appends what it answered to a file, position and digest of the vector, before it asks for more.
"""

from __future__ import annotations

import hashlib
import json
import os
import resource
import signal
import sys
import time
from collections import Counter
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parent.parent.parent / "oracle"))

from feature_world import Payment, Verdict, batch_of, payments, verdicts

from sentinel.contract import EventBatch
from sentinel.core import crash_points
from sentinel.core.errors import ErrorCode, SentinelError
from sentinel.features import (
    Count,
    Engine,
    Entity,
    FeatureMatrix,
    FeatureSet,
    LastValue,
    Mean,
    StandardDeviation,
    compile_plan,
    kernel,
)
from sentinel.features.layout import Feed, State, Tables
from sentinel.features.stores.embedded import Durability, EmbeddedStore

HOUR_MS = 3_600_000
CARD = Entity("card", key=Payment.card_id, forget_after="12h")
MERCHANT = Entity("merchant", key=Payment.merchant_id)
PLAN = compile_plan(
    FeatureSet(
        "crash-lab",
        version="1",
        events=Payment,
        feedback=Verdict,
        features=[
            Count("n_1h", by=CARD, over="1h"),
            LastValue("last", of=Payment.amount, by=CARD),
            StandardDeviation("spread", of=Payment.amount, by=MERCHANT, over="6h"),
            Mean("fraud", of=Verdict.is_fraud, by=MERCHANT, over="6h"),
        ],
    )
)

FROZEN: set[int] = set()
"""Workers that nobody has thawed yet."""


class Stream:
    """A log of payments and one of verdicts, in batches with positions.

    Parameters
    ----------
    n_events, batch_events : int
    """

    def __init__(self, n_events: int, batch_events: int) -> None:
        self.events = payments(
            n_events, 7, span_ms=72 * HOUR_MS, late_ms=HOUR_MS, n_cards=400, duplicate_share=0.02
        )
        self.verdicts = verdicts(self.events, 7)
        self.n_events = self.events.n_rows
        self.batch_events = batch_events

    def steps(self, first: int = 0, first_verdict: int = 0) -> list[tuple[str, int, int]]:
        """List the batches from given positions on; verdicts between events."""
        found = []
        n_batches = -(-self.n_events // self.batch_events)
        for k in range(n_batches):
            a, b = (self.verdicts.n_rows * part // n_batches for part in (k, k + 1))
            if b > first_verdict and b > a:
                found.append(("learn", max(a, first_verdict), b))
            start, end = k * self.batch_events, min((k + 1) * self.batch_events, self.n_events)
            if end > first:
                found.append(("advance", max(start, first), end))
        return found

    def batch(self, kind: str, first: int, end: int) -> EventBatch:
        """Cut a batch out of a log."""
        log, schema = (
            (self.verdicts, Verdict.schema) if kind == "learn" else (self.events, Payment.schema)
        )
        part = batch_of(schema, log.values[:, first:end], log.present[:, first:end])
        part.raw.positions[:] = np.arange(first, end)
        object.__setattr__(part.raw, "source", "verdicts" if kind == "learn" else "payments")
        return part


def feed(
    engine: Engine,
    stream: Stream,
    *,
    first: int = 0,
    first_verdict: int = 0,
    end: int | None = None,
) -> None:
    """Give an engine the stream from given positions on, to the event at ``end``."""
    for kind, start, stop in stream.steps(first, first_verdict):
        if end is not None and start >= end and kind == "advance":
            return
        batch = stream.batch(kind, start, stop)
        _ = engine.learn(batch) if kind == "learn" else engine.advance(batch)


def digests(batch: EventBatch, matrix: FeatureMatrix) -> list[str]:
    """Name each answer that is no duplicate: position and digest of its vector."""
    rows = np.flatnonzero(~matrix.is_duplicate)
    return [
        f"{batch.raw.positions[row]} "
        f"{hashlib.blake2s(matrix.values[row].tobytes(), digest_size=8).hexdigest()}"
        for row in rows
    ]


def undisturbed(stream: Stream) -> tuple[str, dict[int, str]]:
    """Return state digest and answers of a run in memory."""
    engine = Engine(PLAN)
    answers: dict[int, str] = {}
    for kind, first, end in stream.steps():
        batch = stream.batch(kind, first, end)
        if kind == "learn":
            engine.learn(batch)
            continue
        for line in digests(batch, engine.advance(batch)):
            position, digest = line.split()
            answers[int(position)] = digest
    return engine.state_digest(), answers


def whole_lines(path: Path) -> int:
    """Open a file of answers to append to, without the half line a kill inside a write left.

    A process killed in ``write`` leaves whole pages of what it wrote: such an answer was not given.
    """
    told = path.read_bytes() if path.exists() else b""
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.ftruncate(file, told.rfind(b"\n") + 1)
    return file


def work(stream: Stream, command: dict[str, object]) -> None:
    """Go on from the store's position to the end of the stream; say the state digest."""
    folder = Path(str(command["folder"]))
    store = EmbeddedStore(
        PLAN,
        folder,
        durability=Durability(str(command.get("durability", "process"))),
        snapshot_every_events=int(str(command.get("snapshot_every", 5_000))),
    )
    answered = whole_lines(Path(str(command["answers"])))
    os.write(answered, f"start {store.position('payments')}\n".encode())
    for kind, first, end in stream.steps(store.position("payments"), store.position("verdicts")):
        batch = stream.batch(kind, first, end)
        if kind == "learn":
            store.learn(batch)
            continue
        lines = digests(batch, store.advance(batch))
        os.write(answered, "".join(f"{line}\n" for line in lines).encode())
        store.maintain()
    digest = store.state_digest()
    store.close(with_snapshot=bool(command.get("closes_with_snapshot", True)))
    os.write(answered, f"done {digest}\n".encode())


def hook_of(command: dict[str, object]) -> crash_points.Hook | None:
    """Return what kills at the n-th passing of a named place, or writes all places down."""
    stop_at, seen = command.get("stop_at"), Counter[str]()
    if stop_at is not None:
        name, number = str(stop_at[0]), int(stop_at[1])  # type: ignore[index]

        def stop(passed: str) -> None:
            seen[passed] += 1
            if passed == name and seen[passed] == number:
                os.kill(os.getpid(), signal.SIGKILL)

        return stop
    if (path := command.get("places")) is not None:
        file = os.open(str(path), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        return lambda passed: (os.write(file, f"{passed}\n".encode()), None)[1]
    return None


def poison(stream: Stream, position: int) -> None:
    """Make the kernel die at one event, as a fault in native code would."""
    deadly = int(stream.events.column("payment_id")[position])
    alive = kernel.advance_rows

    def advance_rows(tables: Tables, state: State, events: Feed, *rest: object) -> int:
        if deadly in events.values[0]:
            resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
            os.kill(os.getpid(), signal.SIGSEGV)
        return alive(tables, state, events, *rest)  # type: ignore[arg-type]

    kernel.advance_rows = advance_rows  # type: ignore[assignment]


def freeze(stream: Stream, command: dict[str, object]) -> int:
    """Apply events up to a position and freeze; thawed, try to go on: 42 is refused by the lock."""
    store = EmbeddedStore(PLAN, Path(str(command["folder"])))
    n_events = int(str(command["freeze_at"]))
    for first in range(0, n_events, stream.batch_events):
        store.advance(stream.batch("advance", first, first + stream.batch_events))
    os.kill(os.getpid(), signal.SIGSTOP)
    try:
        store.advance(stream.batch("advance", n_events, n_events + stream.batch_events))
    except SentinelError as error:
        return 42 if error.code is ErrorCode.STATE_LOCKED else 43
    return 0


def run(stream: Stream, command: dict[str, object]) -> dict[str, object]:
    """Fork a worker, kill it when asked to, and say how it ended or that it froze."""
    if (frozen := command.get("thaw")) is not None:
        os.kill(int(str(frozen)), signal.SIGCONT)
        return ended(int(str(frozen)))
    child = os.fork()
    if child == 0:
        status = 1
        try:
            crash_points.set_hook(hook_of(command))
            if (at := command.get("poison")) is not None:
                poison(stream, int(str(at)))
            if "freeze_at" in command:
                status = freeze(stream, command)
            else:
                work(stream, command)
                status = 0
        finally:
            os._exit(status)
    if (after_s := command.get("kill_after_s")) is not None:
        time.sleep(float(str(after_s)))
        os.kill(child, signal.SIGKILL)
    return ended(child)


def ended(child: int) -> dict[str, object]:
    """Wait until a worker has ended or frozen."""
    _, status = os.waitpid(child, os.WUNTRACED)
    if os.WIFSTOPPED(status):
        FROZEN.add(child)
        return {"frozen": child}
    FROZEN.discard(child)
    return {"signal": os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0,
            "exit": os.WEXITSTATUS(status) if os.WIFEXITED(status) else -1}  # fmt: skip


def say(answer: dict[str, object]) -> None:
    sys.stdout.write(json.dumps(answer) + "\n")
    sys.stdout.flush()


def main() -> None:
    """Serve commands until the input ends."""
    stream = Stream(int(sys.argv[1]), int(sys.argv[2]))
    digest, answers = undisturbed(stream)
    say({"digest": digest, "answers": answers})
    for line in sys.stdin:
        say(run(stream, json.loads(line)))
    for child in FROZEN:
        os.kill(child, signal.SIGKILL)


if __name__ == "__main__":
    main()
