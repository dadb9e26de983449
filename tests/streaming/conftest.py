"""A small release and the events that it was made from; a broker of a module's own."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from stream_rig import Case, Cluster, named_cluster

from sentinel.contract import Quarantine, RawBatch
from sentinel.features.stores.embedded import Durability
from sentinel.monitoring import Metrics
from sentinel.release import LoadedRelease, verify_release
from sentinel.scoring import Sinks
from sentinel.streaming.stream.state import StreamState
from sentinel.testing.mock_kafka import MockKafka


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """Give the broker that the environment names, or a mock in a process of its own."""
    named = named_cluster()
    if named is not None:
        yield Cluster(named, None)
        return
    with MockKafka({}) as mock:
        yield Cluster(mock.bootstrap, mock)


@pytest.fixture(scope="session")
def case(release_kit: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Case:
    folder = tmp_path_factory.mktemp("streaming")
    release = folder / "release"
    release_kit.build_release(
        release_kit.good_candidate(),
        release,
        created_at_ms=release_kit.NOW_MS,
        builder=release_kit.BUILDER,
    )
    events, feedback = folder / "events.ndjson", folder / "feedback.ndjson"
    lines = release_kit.raw_events()
    events.write_bytes(b"\n".join(lines) + b"\n")
    verdicts = [
        {
            "verdict_id": f"v{i}",
            "known_at": json.loads(line)["paid_at"] + 3_600_000,
            "payment_id": json.loads(line)["payment_id"],
            "is_fraud": i % 50 == 0,
        }
        for i, line in enumerate(lines)
    ]
    feedback.write_text("".join(json.dumps(verdict) + "\n" for verdict in verdicts))
    compile_kernels(release, lines, folder)
    return Case(release, events, feedback, len(lines))


def compile_kernels(release: Path, lines: list[bytes], folder: Path) -> None:
    """Compile what workers need here, where nobody waits with a clock in hand.

    A worker that is the first to run after a kernel was changed compiles for a minute and more on
    a busy machine; and one that is killed meanwhile leaves nothing to the next.
    """
    loaded = verify_release(release, None, now_ms=0)
    with Quarantine(folder / "quarantine") as refusals:
        sinks = Sinks(refusals=refusals, decisions=None, metrics=Metrics(with_process=False))
        state = StreamState(loaded.parts.plan, folder / "state", durability=Durability.PROCESS)
        scorer = loaded.open_scorer(sinks, engine=state.store)
        verdict = {"verdict_id": "v", "known_at": 1_533_081_600_000, "payment_id": "p0"}
        scorer.learn(RawBatch.from_events([json.dumps(verdict | {"is_fraud": False}).encode()]))
        scorer.encode(scorer.score(RawBatch.from_events([*lines[:50], b"{}"])))
        scorer.tick()
        scorer.close()
        state.close()


@pytest.fixture(scope="module")
def loaded(case: Case) -> LoadedRelease:
    return verify_release(case.release, None, now_ms=0)
