"""Make the golden state folder of today's format; run once for a format, and kept for ever.

``python -m tests.golden.make_state NAME`` from the root of the repository. It refuses to change
what stands there: a format that changes gets a folder of its own beside the old ones. Files are
gzipped: a small state is mostly empty tables.
"""

from __future__ import annotations

import gzip
import json
import shutil
import sys
import tempfile
from pathlib import Path

import numpy as np

from sentinel.contract import EventBatch, RawBatch
from sentinel.contract.decoder import Decoder
from sentinel.data.simulator.contracts import Transaction, Verdict
from sentinel.features import (
    Count,
    DistinctCount,
    Entity,
    FeatureSet,
    LastValue,
    Mean,
    StandardDeviation,
    Velocity,
    compile_plan,
)
from sentinel.features.stores.embedded import EmbeddedStore
from sentinel.testing import sample_events, sample_feedback

FOLDER = Path(__file__).parent / "states"
N_IN_SNAPSHOT, N_IN_LOG, N_AFTER = 150, 40, 30


def feature_set() -> FeatureSet:
    """Declare windows of events and of feedback, and whole histories."""
    card = Entity("card", key=Transaction.card_id)
    merchant = Entity("merchant", key=Transaction.merchant_id)
    of = Transaction
    return FeatureSet(
        "golden",
        version="1",
        events=of,
        feedback=Verdict,
        features=[
            Count("n_1h", by=card, over="1h"),
            Mean("mean_24h", of=of.amount, by=card, over="24h"),
            LastValue("last", of=of.amount, by=card),
            Velocity("velocity", by=card, latitude=of.latitude, longitude=of.longitude),
            StandardDeviation("spread_7d", of=of.amount, by=merchant, over="7d"),
            DistinctCount("n_cards_24h", of=of.card_id, by=merchant, over="24h"),
            Mean("fraud_7d", of=Verdict.is_fraud, by=merchant, over="7d"),
        ],
    )


def lines_of(raw: RawBatch) -> list[bytes]:
    """Return the events of a batch."""
    return [raw.event_bytes(i) for i in range(raw.n_events)]


def batch(lines: list[bytes], features: FeatureSet, first: int = 0) -> EventBatch:
    """Decode payments."""
    raw = RawBatch.from_events(lines, source="payments", first_position=first)
    return Decoder(features.events).decode(raw).events


def main(name: str) -> None:
    """Write a state, and what the next events get from it."""
    target = FOLDER / name
    target.mkdir()
    features = feature_set()
    lines = lines_of(sample_events(N_IN_SNAPSHOT + N_IN_LOG + N_AFTER, seed=5))
    verdicts = lines_of(sample_feedback(N_IN_SNAPSHOT, seed=5))
    known = Decoder(Verdict.schema).decode(RawBatch.from_events(verdicts, source="verdicts")).events
    work = Path(tempfile.mkdtemp(prefix="golden-state-"))
    folder = work / "state"
    store = EmbeddedStore(compile_plan(features), folder)
    store.advance(batch(lines[:N_IN_SNAPSHOT], features))
    store.learn(known)
    store.snapshot()
    end = N_IN_SNAPSHOT + N_IN_LOG
    store.advance(batch(lines[N_IN_SNAPSHOT:end], features, N_IN_SNAPSHOT))
    n_entities, n_pending = store.n_entities, store.n_feedback_pending
    store.close(with_snapshot=False)
    for path in sorted(folder.iterdir()):
        if path.name != "lock":
            packed = gzip.compress(path.read_bytes(), mtime=0)
            (target / f"{path.name}.gz").write_bytes(packed)
    again = EmbeddedStore(compile_plan(features), folder)
    matrix = again.advance(batch(lines[end:], features, end))
    again.close(with_snapshot=False)
    shutil.rmtree(work)
    (target / "events.ndjson").write_bytes(b"\n".join(lines[end:]) + b"\n")
    (target / "features.json").write_text(json.dumps(features.to_data(), indent=1) + "\n")
    expected = {
        "position": end,
        "n_entities": n_entities,
        "n_feedback_pending": n_pending,
        "values": np.ascontiguousarray(matrix.values).tobytes().hex(),
        "status": matrix.status.tobytes().hex(),
        "is_duplicate": matrix.is_duplicate.tolist(),
    }
    (target / "expected.json").write_text(json.dumps(expected) + "\n")


if __name__ == "__main__":
    main(sys.argv[1])
