"""What the guards cost: sanity, breaker, fallback, drift, decision log, metrics, on one core.

The same batches go through two paths, turn about, each with its own feature state: the bare one
(decode, features, champion, thresholds) and the `Scorer` with everything on, its decision log on
disk. The difference is the price of the guards, as a share of the guarded path. The process, the
thread that writes the log included, is kept on one core.
"""

from __future__ import annotations

import os
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import numpy.typing as npt

from sentinel.contract import Decoder, EventBatch, Quarantine, RawBatch
from sentinel.data.simulator import Simulation
from sentinel.data.simulator.contracts import Transaction
from sentinel.features import (
    Count,
    Engine,
    Entity,
    Feature,
    FeaturePlan,
    FeatureSet,
    HourOfDay,
    Maximum,
    Mean,
    Sum,
    Value,
    Velocity,
    compile_plan,
)
from sentinel.monitoring.decision_log import DecisionLog, LogSettings
from sentinel.monitoring.log_records import LogContext
from sentinel.monitoring.metrics import Metrics
from sentinel.monitoring.reference import Reference
from sentinel.release.export import to_onnx
from sentinel.scoring import (
    Canary,
    CanaryPath,
    LinearFallback,
    ModelSession,
    Outcome,
    Policy,
    Reason,
    Scorer,
    ScorerParts,
    ServedBy,
    Sinks,
    choose_canary_rows,
    code_names,
)
from sentinel.training.boosted import read_trees

N_BATCH = 4_096
N_BATCHES = 90
N_WARM = 10
N_TREES, N_LEAVES = 200, 31
LIMIT, GOAL = 0.15, 0.08
Float32Array = npt.NDArray[np.float32]


def feature_set() -> FeatureSet:
    """Declare three entities with three windows each, 32 features."""
    amount = Transaction.amount
    features: list[Feature] = [
        Value("amount", of=amount),
        Value("is_vpn_proxy", of=Transaction.is_vpn_proxy),
        HourOfDay("hour"),
    ]
    for name, key in (
        ("card", Transaction.card_id),
        ("merchant", Transaction.merchant_id),
        ("device", Transaction.device_id),
    ):
        entity = Entity(name, key=key)
        for window in ("10m", "1h", "24h"):
            features += [
                Count(f"n_{name}_{window}", by=entity, over=window),
                Sum(f"sum_{name}_{window}", of=amount, by=entity, over=window),
                Mean(f"mean_{name}_{window}", of=amount, by=entity, over=window),
            ]
    card = Entity("card", key=Transaction.card_id)
    features += [
        Maximum("max_card_24h", of=amount, by=card, over="24h"),
        Velocity(
            "geo_velocity",
            by=card,
            latitude=Transaction.latitude,
            longitude=Transaction.longitude,
        ),
    ]
    return FeatureSet("reference", version="1", events=Transaction, features=features)


def raw_batches() -> list[RawBatch]:
    """Simulate what is scored."""
    simulation = Simulation(
        seed=7, n_cards=20_000, n_merchants=2_000, days=8, events_per_day=60_000
    )
    batches = []
    for raw in simulation.batches(N_BATCH):
        if len(batches) == N_WARM + N_BATCHES:
            break
        batches.append(raw)
    return batches


def fit(values: Float32Array) -> tuple[bytes, npt.NDArray[np.int64]]:
    """Fit trees of the reference size to made-up targets; return ONNX and each row's leaves."""
    import lightgbm

    rng = np.random.default_rng(0)
    ranks = values.argsort(axis=0).argsort(axis=0) / len(values)
    raw = ranks[:, 0] + ranks[:, 5] * ranks[:, 9] + ranks[:, 20] + rng.normal(0, 0.3, len(values))
    booster = lightgbm.train(
        {
            "objective": "binary",
            "num_leaves": N_LEAVES,
            "learning_rate": 0.05,
            "verbosity": -1,
            "num_threads": 2,
            "use_missing": False,
        },
        lightgbm.Dataset(values, label=raw > np.quantile(raw, 0.97)),
        num_boost_round=N_TREES,
    )
    trees = read_trees(booster, n_rounds=N_TREES, n_features=values.shape[1])
    return to_onnx(trees), booster.predict(values[:20_000], pred_leaf=True)


def make_parts(plan: FeaturePlan, batches: list[RawBatch]) -> ScorerParts:
    """Build all that a release holds, without its folder."""
    decoder, engine = Decoder(plan.features.events), Engine(plan)
    matrices = [engine.advance(decoder.decode(raw).events) for raw in batches[:N_WARM]]
    values = np.concatenate([matrix.values for matrix in matrices])
    status = np.concatenate([matrix.status for matrix in matrices])
    content, leaves = fit(values)
    session = ModelSession(content, n_features=len(plan.names))
    fallback = LinearFallback.of(
        plan.names,
        centre=values.mean(axis=0).astype(np.float64),
        scale=values.std(axis=0).astype(np.float64) + 1e-6,
        coefficients=np.full(len(plan.names), 0.1),
        intercept=-4.0,
    )
    scores = session.run(values).astype(np.float64)
    policy = Policy(review_share=0.01, decline_share=0.002).resolve(scores, fallback.scores(values))
    path = CanaryPath(
        decode=lambda raw: decoder.decode(raw).events,
        features=lambda events: Engine(plan).advance(events),
        champion=session.run,
        fallback=fallback,
        outputs=policy.outputs,
    )
    chosen = choose_canary_rows(leaves, n_rows_max=256)
    return ScorerParts(
        plan=plan,
        champion=content,
        fallback=fallback,
        policy=policy,
        canary=Canary.record(
            path,
            events=[batches[0].event_bytes(i) for i in range(64)],
            vectors=values[chosen],
            tolerance=policy.canary_tolerance,
        ),
        reference=Reference.build(plan.names, features=values, status=status, scores=scores),
        release="reference-1",
        release_digest="0" * 64,
    )


class BarePath:
    """Decode, features, champion, thresholds: nothing checked, nothing kept."""

    def __init__(self, parts: ScorerParts) -> None:
        self._decoder = Decoder(parts.plan.features.events)
        self._engine = Engine(parts.plan)
        self._session = ModelSession(parts.champion, n_features=len(parts.plan.names))
        self._thresholds = parts.policy.thresholds()[0]

    def score(self, raw: RawBatch) -> npt.NDArray[np.intp]:
        """Return outcomes."""
        events: EventBatch = self._decoder.decode(raw).events
        scores = self._session.run(self._engine.advance(events).values).astype(np.float64)
        return np.searchsorted(self._thresholds, scores, side="left")


def log_context(parts: ScorerParts) -> LogContext:
    """Say what all records share."""
    thresholds = parts.policy.thresholds()[0].tolist()
    return LogContext(
        release=parts.release,
        release_digest=parts.release_digest,
        environment_digest="0" * 64,
        execution_provider="CPUExecutionProvider",
        thresholds=dict(zip(("review_above", "decline_above"), thresholds, strict=True)),
        feature_names=parts.plan.names,
        contract_hash=parts.plan.features.events.schema_hash,
        outcomes=code_names(Outcome),
        served_by=code_names(ServedBy),
        reasons=code_names(Reason),
    )


def timed(action: object, raw: RawBatch) -> float:
    """Time one batch, in seconds."""
    start = time.perf_counter()
    action.score(raw)  # type: ignore[attr-defined]
    return time.perf_counter() - start


def main() -> None:
    """Print the table."""
    batches = raw_batches()
    parts = make_parts(compile_plan(feature_set()), batches)
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    with tempfile.TemporaryDirectory() as folder:
        log = DecisionLog(Path(folder) / "log", log_context(parts), LogSettings())
        quarantine = Quarantine(Path(folder) / "quarantine")
        sinks = Sinks(refusals=quarantine, decisions=log, metrics=Metrics(with_process=False))
        bare, guarded = BarePath(parts), Scorer(parts, sinks)
        pairs = []
        for number, raw in enumerate(batches):
            if number == N_WARM:
                forget(guarded)
            if number % 2:
                pair = (timed(bare, raw), timed(guarded, raw))
            else:
                pair = (timed(guarded, raw), timed(bare, raw))[::-1]
            if number >= N_WARM:
                pairs.append(pair)
        start = time.perf_counter()
        log.close()
        rest_s = time.perf_counter() - start
        quarantine.close()
    report(guarded, pairs, rest_s)


def forget(scorer: Scorer) -> None:
    """Leave the first batches, which load compiled code, out of the stages."""
    for stage in scorer.timer.histograms:
        scorer.timer.histograms[stage] = type(scorer.timer.histograms[stage])()


def report(guarded: Scorer, pairs: list[tuple[float, float]], rest_s: float) -> None:
    """Print what was seen."""
    n_events = N_BATCH * len(pairs)
    # The log's thread works while either path is timed; a sum sees all of it, a median little.
    bare_s, guarded_s = (sum(times) for times in zip(*pairs, strict=True))
    shares = [1.0 - bare / full for bare, full in pairs]
    print(f"{N_BATCHES} batches of {N_BATCH} events, {len(guarded.parts.plan.names)} features,")
    print(f"{N_TREES} trees of {N_LEAVES} leaves, one core, the two paths turn about")
    print()
    print(f"{'path':<28}{'us/event':>10}{'events/s':>12}")
    for name, seconds in (("bare", bare_s), ("guarded", guarded_s)):
        print(f"{name:<28}{seconds / n_events * 1e6:>10.2f}{n_events / seconds:>12,.0f}")
    share = statistics.median(shares)
    print()
    print(f"guards, share of the guarded path (median of batches): {share:.1%}")
    print(f"  limit {LIMIT:.0%}, goal {GOAL:.0%}: {'kept' if share <= LIMIT else 'BROKEN'}")
    print(
        f"  by sums: {1 - bare_s / guarded_s:.1%}; writing what was left at the end: {rest_s:.2f} s"
    )
    print()
    print(f"{'stage of the guarded path':<28}{'us/event':>10}{'share':>12}")
    for stage in guarded.timer.report():
        seconds = stage.total_s / n_events
        print(f"{stage.stage:<28}{seconds * 1e6:>10.3f}{stage.share:>12.1%}")


if __name__ == "__main__":
    main()
