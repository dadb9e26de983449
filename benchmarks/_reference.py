"""The reference release: the example's pipeline around a champion of the reference size.

Training on simulated data stops when more trees teach nothing, far below 200 trees of 31 leaves.
What is measured here is time, so the champion is fitted to a made-up target that needs them all:
the size is reached, and checked. Such a release fails its quality gates, as it should.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

import lightgbm
import numpy as np
import numpy.typing as npt

from sentinel.cli.release import now_ms
from sentinel.data.simulator import Simulation
from sentinel.release import LoadedRelease, Pipeline, build_release, load_release
from sentinel.release.candidate import Candidate, ParitySample
from sentinel.training import ModelSettings, train
from sentinel.training.boosted import read_trees

ROOT = Path(__file__).parent.parent
N_TREES, N_LEAVES = 200, 31
_FLAGGED_SHARE = 0.03
Float32Array = npt.NDArray[np.float32]


def make_data(folder: Path, *, days: int = 21) -> tuple[Path, Path]:
    """Simulate weeks of 20,000 cards; return events and feedback."""
    world = Simulation(
        seed=7,
        n_cards=20_000,
        n_merchants=3_000,
        days=days,
        events_per_day=25_000,
        fraud_share=0.01,
    )
    written = world.write(folder)
    return written.events, written.feedback


def make_release(folder: Path, events: Path, feedback: Path) -> LoadedRelease:
    """Build a release whose champion has 200 trees of 31 leaves."""
    pipeline = Pipeline.load(ROOT / "examples" / "card_fraud" / "pipeline.py")
    settings = ModelSettings(n_rounds_max=20, stop_after_rounds=20)
    candidate = of_reference_size(train(pipeline, events, feedback, settings=settings))
    build_release(candidate, folder / "release", created_at_ms=now_ms())
    return open_release(folder / "release")


def open_release(folder: Path) -> LoadedRelease:
    """Load a release that nobody approved."""
    return load_release(folder, None, now_ms=now_ms(), allow_unapproved=True)


def of_reference_size(candidate: Candidate) -> Candidate:
    """Put a champion of the reference size into a candidate."""
    values, inputs = candidate.reference.values, candidate.parity.inputs
    booster = fit_reference(values)
    trees = read_trees(booster, n_rounds=N_TREES, n_features=values.shape[1])

    def scores(rows: Float32Array) -> npt.NDArray[np.float64]:
        return np.asarray(booster.predict(rows), dtype=np.float64)

    fallback = candidate.fallback.scores(values)
    return dataclasses.replace(
        candidate,
        champion=trees,
        policy=candidate.pipeline.policy.resolve(scores(values), fallback),
        parity=ParitySample(inputs=inputs, scores=scores(inputs)),
        reference=dataclasses.replace(candidate.reference, scores=scores(values)),
    )


def fit_reference(values: Float32Array) -> lightgbm.Booster:
    """Fit trees of the reference size to a made-up target that is hard enough."""
    rng = np.random.default_rng(0)
    ranks = values.argsort(axis=0).argsort(axis=0) / len(values)
    raw = ranks[:, 0] + ranks[:, 5] * ranks[:, 9] + ranks[:, 20] + rng.normal(0, 0.3, len(values))
    booster = lightgbm.train(
        {
            "objective": "binary",
            "num_leaves": N_LEAVES,
            "min_data_in_leaf": 1,
            "min_sum_hessian_in_leaf": 0.0,
            "learning_rate": 0.02,
            "verbosity": -1,
            "num_threads": 2,
            "use_missing": False,
        },
        lightgbm.Dataset(values, label=raw > np.quantile(raw, 1 - _FLAGGED_SHARE)),
        num_boost_round=N_TREES,
    )
    counts = [tree["num_leaves"] for tree in booster.dump_model()["tree_info"]]
    if len(counts) != N_TREES or min(counts) < N_LEAVES:
        raise AssertionError(f"{len(counts)} trees, the smallest of {min(counts)} leaves")
    return booster
