"""Make the golden release of today's format; run once for a format, and kept for ever.

``python -m tests.golden.make_release`` from the root of the repository. It refuses to change what
stands there: a format that changes gets a folder of its own beside the old ones.
"""

from __future__ import annotations

import json
from pathlib import Path

from tests.release.conftest import (
    BUILDER,
    NOW_MS,
    PEOPLE,
    approve_all,
    good_candidate,
    raw_events,
    trust,
)

from sentinel.contract import RawBatch
from sentinel.release import Trust, build_release, load_release, trust_entry
from sentinel.release.reproduction import open_path

FOLDER = Path(__file__).parent / "releases" / "format-1"
N_EVENTS = 200


def main() -> None:
    """Build, approve, score, and write down what came out."""
    folder = FOLDER / "payments-1.2.0"
    build_release(good_candidate(), folder, created_at_ms=NOW_MS, builder=BUILDER)
    approve_all(folder)
    entries = [
        trust_entry(person=who.person, key_id=who.key_id, roles=(role,))
        for role, who in PEOPLE.items()
    ]
    text = "format = 1\n\n" + "\n".join(entries)
    if Trust.parse(text.encode()) != trust():
        raise RuntimeError("the trust file does not say what the tests say")
    (FOLDER / "trust.toml").write_text(text)
    loaded = load_release(folder, trust(), now_ms=NOW_MS)
    parts = loaded.parts
    path = open_path(
        features=parts.plan.features.to_data(),
        model=parts.champion,
        fallback=parts.fallback.to_data(),
        policy=parts.policy.to_data(),
    )
    vectors = path.features(path.decode(RawBatch.from_events(raw_events()[:N_EVENTS]))).values
    (FOLDER / "events.ndjson").write_bytes(b"\n".join(raw_events()[:N_EVENTS]) + b"\n")
    expected = {
        "digest": loaded.digest,
        "now_ms": NOW_MS,
        "vectors": vectors.tolist(),
        "scores": path.champion(vectors).tolist(),
        "fallback_scores": path.fallback.scores(vectors).tolist(),
    }
    (FOLDER / "expected.json").write_text(json.dumps(expected) + "\n")


if __name__ == "__main__":
    main()
