"""A small pipeline, a model of it, and releases made of them."""

from __future__ import annotations

import dataclasses
import functools
import json
from pathlib import Path

import numpy as np
import pytest

from sentinel.contract import (
    Boolean,
    Category,
    Contract,
    Decimal,
    Decoder,
    EventId,
    EventTime,
    Key,
    RawBatch,
)
from sentinel.features import (
    CategoryEncoding,
    Count,
    Engine,
    Entity,
    FeatureMatrix,
    FeatureSet,
    Mean,
    TimeSince,
    Value,
    compile_plan,
)
from sentinel.release import (
    Candidate,
    Label,
    LaterPart,
    ParitySample,
    Pipeline,
    Provenance,
    ReferenceRows,
    Role,
    SigningKey,
    Terms,
    TimeTravel,
    TreeEnsemble,
    Trust,
    TrustedKey,
    approve_release,
    build_release,
)
from sentinel.scoring.fallback import LinearFallback
from sentinel.scoring.policy import Policy

NOW_MS = 1_800_000_000_000
DAY_MS = 86_400_000
START_MS = 1_533_081_600_000
N_EVENTS = 2_000


class Payment(Contract, name="payment", version="1"):
    payment_id = EventId(bytes_max=16)
    paid_at = EventTime(unit="ms")
    card_id = Key(bytes_max=16)
    amount = Decimal(scale=2, minimum=0, maximum=100_000)
    channel = Category("chip", "online")


class Verdict(Contract, name="verdict", version="1"):
    verdict_id = EventId(bytes_max=16)
    known_at = EventTime(unit="ms")
    payment_id = Key(bytes_max=16)
    is_fraud = Boolean()


CARD = Entity("card", key=Payment.card_id)


def declared_features() -> FeatureSet:
    return FeatureSet(
        "payments",
        version="1",
        events=Payment,
        feedback=Verdict,
        features=[
            Value("amount", of=Payment.amount),
            Count("n_1h", by=CARD, over="1h"),
            Mean("mean_1d", of=Payment.amount, by=CARD, over="24h"),
            TimeSince("pause_s", by=CARD),
            CategoryEncoding("channel", of=Payment.channel, default=0.1),
        ],
    )


def fitted_features() -> FeatureSet:
    declared = declared_features()
    return declared.with_features(
        dataclasses.replace(feature, values={"chip": 0.01, "online": 0.2})
        if isinstance(feature, CategoryEncoding)
        else feature
        for feature in declared.features
    )


def pipeline() -> Pipeline:
    return Pipeline(
        name="payments",
        version="1.2.0",
        features=declared_features(),
        label=Label(of=Verdict.is_fraud, event=Verdict.payment_id, delay="7d"),
        policy=Policy(review_share=0.05, decline_share=0.01),
    )


@functools.cache
def raw_events() -> tuple[bytes, ...]:
    rng = np.random.default_rng(7)
    times = START_MS + np.cumsum(rng.integers(1_000, 60_000, N_EVENTS))
    return tuple(
        json.dumps(
            {
                "payment_id": f"p{i}",
                "paid_at": int(times[i]),
                "card_id": f"c{rng.integers(40)}",
                "amount": round(float(rng.lognormal(3, 1)), 2),
                "channel": "online" if rng.random() < 0.3 else "chip",
            }
        ).encode()
        for i in range(N_EVENTS)
    )


@functools.cache
def matrix() -> FeatureMatrix:
    features = fitted_features()
    events = Decoder(features.events).decode(RawBatch.from_events(raw_events())).events
    assert events.n_rows == N_EVENTS
    return Engine(compile_plan(features)).advance(events)


def random_trees(
    inputs: np.ndarray, *, n_trees: int = 12, n_leaves: int = 8, seed: int = 3
) -> TreeEnsemble:
    """Grow trees at random splits of real rows, so that every path can be walked."""
    rng = np.random.default_rng(seed)
    nodes: list[list[float]] = []
    roots = []

    def grow(rows: np.ndarray, n_left: int) -> int:
        me = len(nodes)
        nodes.append([-1, 0.0, -1, -1, rng.normal() * 0.5])
        columns = [j for j in range(inputs.shape[1]) if len(np.unique(inputs[rows, j])) > 1]
        if n_left < 2 or not columns:
            return me
        j = int(rng.choice(columns))
        values = np.unique(inputs[rows, j])
        k = int(rng.integers(len(values) - 1))
        threshold = (float(values[k]) + float(values[k + 1])) / 2
        goes_left = inputs[rows, j].astype(np.float64) <= threshold
        half = n_left // 2
        left = grow(rows[goes_left], half)
        right = grow(rows[~goes_left], n_left - half)
        nodes[me] = [j, threshold, left, right, 0.0]
        return me

    for _ in range(n_trees):
        roots.append(len(nodes))
        grow(np.arange(len(inputs)), n_leaves)
    table = np.array(nodes)
    return TreeEnsemble(
        n_features=inputs.shape[1],
        feature=table[:, 0].astype(np.int32),
        threshold=table[:, 1],
        left=table[:, 2].astype(np.int32),
        right=table[:, 3].astype(np.int32),
        value=table[:, 4],
        roots=np.array(roots, dtype=np.int32),
        offset=-2.0,
    )


@functools.cache
def good_candidate() -> Candidate:
    values, status = matrix().values, matrix().status
    trees = random_trees(values)
    scores = trees.scores(values)
    fallback = LinearFallback.of(
        matrix().names,
        centre=values.mean(axis=0, dtype=np.float64),
        scale=values.std(axis=0, dtype=np.float64) + 1e-9,
        coefficients=[0.4, 0.1, -0.2, 0.0, 0.3],
        intercept=-2.0,
    )
    labels = np.random.default_rng(5).random(len(scores)) < scores
    policy = Policy(review_share=0.05, decline_share=0.01)
    return Candidate(
        pipeline=pipeline(),
        features=fitted_features(),
        policy=policy.resolve(scores, fallback.scores(values)),
        champion=trees,
        fallback=fallback,
        parity=ParitySample(inputs=values[:500], scores=scores[:500]),
        later=LaterPart(
            labels=labels,
            champion_scores=scores,
            fallback_scores=fallback.scores(values),
            from_ms=START_MS,
            until_ms=START_MS + DAY_MS,
            trained_until_ms=START_MS - 7 * DAY_MS,
            metrics={"champion": {"auc_roc": 0.75}, "fallback": {"auc_roc": 0.6}},
        ),
        reference=ReferenceRows(values=values, scores=scores, status=status),
        canary_events=raw_events()[:64],
        time_travel=TimeTravel(n_checked=50, n_different=0),
        null_counts=dict.fromkeys(matrix().names, 0),
        provenance=Provenance(
            git_commit="0" * 40,
            data_sha256="1" * 64,
            environment_sha256="2" * 64,
            seeds={"model": 3},
            hyper_parameters={"n_trees": 12, "learning_rate": 0.1, "kind": "random"},
            library_versions={"numpy": np.__version__},
            n_rows={"train": N_EVENTS, "later": N_EVENTS},
        ),
    )


def key(person: str, number: int) -> SigningKey:
    return SigningKey.from_seed(bytes([number]) * 32, person=person)


BUILDER = key("Blaise Builder", 1)
DATA = key("Dora Data", 2)
WEIGHTS = key("Wim Weights", 3)
DEPLOY = key("Dede Deploy", 4)
PEOPLE = {Role.BUILD: BUILDER, Role.DATA: DATA, Role.WEIGHTS: WEIGHTS, Role.DEPLOY: DEPLOY}


def trust(**changes: object) -> Trust:
    keys = tuple(
        TrustedKey(person=who.person, key=who.key_id, roles=(role,)) for role, who in PEOPLE.items()
    )
    made = Trust(**{"format": 1, "keys": keys, **changes})  # type: ignore[arg-type]
    made.check()
    return made


def approve_all(folder: Path, *, now_ms: int = NOW_MS) -> None:
    for role in (Role.DATA, Role.WEIGHTS, Role.DEPLOY):
        approve_release(folder, PEOPLE[role], role=role, terms=Terms(issued_at_ms=now_ms))


@pytest.fixture(scope="session")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build an approved release; tests copy it before they touch it."""
    folder = tmp_path_factory.mktemp("releases") / "payments" / "1.2.0"
    build_release(good_candidate(), folder, created_at_ms=NOW_MS, builder=BUILDER)
    approve_all(folder)
    return folder
