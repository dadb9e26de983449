"""What the guards cost: sanity, breaker, fallback, drift, decision log, metrics, on one core.

The same blocks of batches go through two paths, turn about, each with its own feature state: the
bare one (decode, features, champion, thresholds) and the `Scorer` with everything on, its decision
log on disk. The difference is the price of the guards, as a share of the guarded path. Processor
time is compared, of all threads: the one that writes the log is waited for at the end of each
block, and what else the machine does has no part in it. The process is kept on one core.
"""

from __future__ import annotations

import os
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import numpy.typing as npt
from _reference import N_LEAVES, N_TREES, fit_reference

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
N_BLOCK = 16  # one segment of the decision log
N_BLOCKS = 8
N_WARM = 12
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
        if len(batches) == N_WARM + N_BLOCKS * N_BLOCK:
            break
        batches.append(raw)
    return batches


def fit(values: Float32Array) -> tuple[bytes, npt.NDArray[np.int64]]:
    """Fit trees of the reference size to made-up targets; return ONNX and each row's leaves."""
    booster = fit_reference(values)
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


Times = tuple[float, float]


def processor_s(path: BarePath | Scorer, block: list[RawBatch], log: DecisionLog) -> Times:
    """Send a block through a path; return the processor time of all threads, and of this one."""
    start, start_thread = time.process_time(), time.thread_time()
    for raw in block:
        path.score(raw)
    of_thread = time.thread_time() - start_thread
    log.flush()
    return time.process_time() - start, of_thread


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
        for path in (bare, guarded):
            processor_s(path, batches[:N_WARM], log)
        forget(guarded)
        pairs = []
        for number, at in enumerate(range(N_WARM, len(batches), N_BLOCK)):
            block = batches[at : at + N_BLOCK]
            if number % 2:
                bare_s, guarded_s = (processor_s(path, block, log) for path in (bare, guarded))
            else:
                guarded_s, bare_s = (processor_s(path, block, log) for path in (guarded, bare))
            pairs.append((bare_s, guarded_s))
        log.close()
        quarantine.close()
    report(guarded, pairs)


def forget(scorer: Scorer) -> None:
    """Leave the first batches, which load compiled code, out of the stages."""
    for stage in scorer.timer.histograms:
        scorer.timer.histograms[stage] = type(scorer.timer.histograms[stage])()


def report(guarded: Scorer, pairs: list[tuple[Times, Times]]) -> None:
    """Print what was seen."""
    n_block = N_BATCH * N_BLOCK
    print(f"{N_BLOCKS} blocks of {N_BLOCK} batches of {N_BATCH} events, turn about;")
    print(
        f"{len(guarded.parts.plan.names)} features, {N_TREES} trees of {N_LEAVES} leaves, one core"
    )
    print()
    print(f"{'path (median block)':<28}{'us/event':>10}{'events/s':>12}")
    for name, times in zip(("bare", "guarded"), zip(*pairs, strict=True), strict=True):
        seconds = statistics.median(whole for whole, _ in times)
        print(f"{name:<28}{seconds / n_block * 1e6:>10.2f}{n_block / seconds:>12,.0f}")
    shares = [statistics.median(1.0 - bare[of] / full[of] for bare, full in pairs) for of in (0, 1)]
    print()
    print(f"guards, share of the guarded path, every thread: {shares[0]:.1%}")
    print(f"  of the scoring thread alone (the log's writer has its own): {shares[1]:.1%}")
    print(f"  limit {LIMIT:.0%}, goal {GOAL:.0%}: {'kept' if shares[0] <= LIMIT else 'NOT kept'}")
    print()
    print(f"{'stage, wall time':<28}{'us/event':>10}{'share':>12}")
    for stage in guarded.timer.report():
        seconds = stage.total_s / (n_block * N_BLOCKS)
        print(f"{stage.stage:<28}{seconds * 1e6:>10.3f}{stage.share:>12.1%}")


if __name__ == "__main__":
    main()
