"""A small real scorer: a contract, features, a tree champion made by hand, a fallback, a canary."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
from onnx import TensorProto, helper

from sentinel.contract import (
    Contract,
    Decimal,
    Decoder,
    EventId,
    EventTime,
    Float,
    Key,
    RawBatch,
)
from sentinel.contract.refusal import Refusal
from sentinel.features import (
    Count,
    Engine,
    Entity,
    FeaturePlan,
    FeatureSet,
    Mean,
    Sum,
    Value,
    compile_plan,
)
from sentinel.monitoring.log_records import LogRecords
from sentinel.monitoring.metrics import Metrics
from sentinel.scoring.canary import Canary, CanaryPath
from sentinel.scoring.fallback import LinearFallback
from sentinel.scoring.parts import ScorerParts, Sinks
from sentinel.scoring.policy import Policy
from sentinel.scoring.session import ModelSession

START_MS = 1_700_000_000_000


class Payment(Contract, name="payment", version="1"):
    """What the tests score."""

    payment_id = EventId(bytes_max=36)
    paid_at = EventTime(unit="ms")
    card_id = Key(bytes_max=32)
    amount = Decimal(scale=2, minimum=0, maximum=100_000)
    risk = Float(minimum=-1e308, maximum=1e308)


CARD = Entity("card", key=Payment.card_id)
FEATURES = FeatureSet(
    "payments",
    version="1",
    events=Payment,
    features=[
        Value("amount", of=Payment.amount),
        Value("risk", of=Payment.risk),
        Count("n_1h", by=CARD, over="1h"),
        Sum("sum_1h", of=Payment.amount, by=CARD, over="1h"),
        Mean("mean_1d", of=Payment.amount, by=CARD, over="1d"),
    ],
)


@dataclass(frozen=True)
class Tree:
    """One split: ``x[feature] <= threshold`` gives ``low``, else ``high`` (log-odds)."""

    feature: int
    threshold: float
    low: float
    high: float


TREES = (
    Tree(0, 100.0, -2.0, 1.0),
    Tree(0, 1_000.0, -0.5, 1.5),
    Tree(0, 1_900.0, 0.0, 1.5),
    Tree(2, 90.0, -0.4, 2.0),
    Tree(3, 120_000.0, -0.3, 1.0),
    Tree(1, 0.5, -1.0, 0.5),
)


def tree_model(trees: Sequence[Tree] = TREES, *, n_features: int = 5) -> bytes:
    """Write a boosted-tree model by hand: sigmoid of the sum of the leaves."""
    per_node: dict[str, list[int | float | str]] = {
        name: []
        for name in (
            "treeids",
            "nodeids",
            "featureids",
            "values",
            "modes",
            "truenodeids",
            "falsenodeids",
            "hitrates",
            "missing_value_tracks_true",
        )
    }
    leaves: dict[str, list[int | float]] = {
        name: [] for name in ("treeids", "nodeids", "ids", "weights")
    }
    for number, tree in enumerate(trees):
        for node in range(3):
            is_branch = node == 0
            row = (
                number,
                node,
                tree.feature if is_branch else 0,
                tree.threshold if is_branch else 0.0,
                "BRANCH_LEQ" if is_branch else "LEAF",
                1 if is_branch else 0,
                2 if is_branch else 0,
                1.0,
                0,
            )
            for values, value in zip(per_node.values(), row, strict=True):
                values.append(value)
        for node, weight in ((1, tree.low), (2, tree.high)):
            for values, value in zip(leaves.values(), (number, node, 0, weight), strict=True):
                values.append(value)
    ensemble = helper.make_node(
        "TreeEnsembleRegressor",
        ["features"],
        ["raw"],
        domain="ai.onnx.ml",
        n_targets=1,
        post_transform="NONE",
        **{f"nodes_{name}": values for name, values in per_node.items()},
        **{f"target_{name}": values for name, values in leaves.items()},
    )
    return onnx_model(
        [ensemble, helper.make_node("Sigmoid", ["raw"], ["score"])], n_features=n_features
    )


def onnx_model(
    nodes: list[object],
    *,
    n_features: int = 5,
    input_type: int = TensorProto.FLOAT,
    output_shape: list[object] | None = None,
) -> bytes:
    """Put nodes from ``features`` to ``score`` into a model file."""
    graph = helper.make_graph(
        nodes,
        "champion",
        [helper.make_tensor_value_info("features", input_type, ["N", n_features])],
        [
            helper.make_tensor_value_info(
                "score", TensorProto.FLOAT, ["N", 1] if output_shape is None else output_shape
            )
        ],
    )
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("ai.onnx.ml", 3)]
    content: bytes = helper.make_model(
        graph, opset_imports=opsets, ir_version=8
    ).SerializeToString()
    return content


def payment(number: int, **fields: object) -> bytes:
    """Write one event; unlike fields come in by name."""
    event = {
        "payment_id": f"p-{number}",
        "paid_at": START_MS + 1_000 * number,
        "card_id": f"c-{number % 50}",
        "amount": (number * 37) % 2_000,
        "risk": (number % 10) / 10,
        **fields,
    }
    return json.dumps(event).encode()


def payments(n: int, *, first: int = 0) -> list[bytes]:
    """Write ordinary events."""
    return [payment(number) for number in range(first, first + n)]


def batch(events: Sequence[bytes], *, first_position: int = 0, source: str = "till") -> RawBatch:
    """Put events into a raw batch."""
    return RawBatch.from_events(events, source=source, first_position=first_position)


@dataclass
class KeptRefusals:
    """A quarantine in memory."""

    refusals: list[Refusal] = field(default_factory=list)

    def put(self, refusals: Sequence[Refusal]) -> None:
        self.refusals.extend(refusals)


@dataclass
class KeptDecisions:
    """A decision log in memory."""

    records: list[LogRecords] = field(default_factory=list)

    def append(self, records: LogRecords) -> None:
        self.records.append(records)


def linear_fallback() -> LinearFallback:
    return LinearFallback.of(
        FEATURES.names,
        centre=[800.0, 0.5, 1.0, 800.0, 800.0],
        scale=[500.0, 0.3, 1.0, 800.0, 500.0],
        coefficients=[1.0, 0.8, 0.5, 0.2, 0.1],
        intercept=-2.0,
    )


def canary_path(
    plan: FeaturePlan,
    champion: Callable[[npt.NDArray[np.float32]], npt.NDArray[np.float32]],
    policy: Policy,
) -> CanaryPath:
    decoder = Decoder(plan.features.events)
    return CanaryPath(
        decode=lambda raw: decoder.decode(raw).events,
        features=lambda events: Engine(plan).advance(events),
        champion=champion,
        fallback=linear_fallback(),
        outputs=policy.outputs,
    )


# The shares are those of ordinary payments.
POLICY = Policy(review_above=0.88, decline_above=0.95, review_share=0.2, decline_share=0.02)
PLAN = compile_plan(FEATURES)
N_FEATURES = len(FEATURES.names)


def make_canary(content: bytes, policy: Policy = POLICY) -> Canary:
    session = ModelSession(content, n_features=N_FEATURES)
    rng = np.random.default_rng(5)
    vectors = rng.uniform(0, 4_000, size=(32, N_FEATURES)).astype(np.float32)
    vectors[:, 1] /= 4_000  # a risk from 0 to 1: larger ones make the bad champions lie
    return Canary.record(
        canary_path(PLAN, session.run, policy),
        events=payments(60, first=9_000),
        vectors=vectors,
        tolerance=policy.canary_tolerance,
    )


def make_parts(
    content: bytes | None = None, *, policy: Policy = POLICY, canary: Canary | None = None
) -> ScorerParts:
    model = tree_model() if content is None else content
    return ScorerParts(
        plan=PLAN,
        champion=model,
        fallback=linear_fallback(),
        policy=policy,
        canary=canary if canary is not None else make_canary(model, policy),
        reference=None,
        release="payments-1",
        release_digest="0" * 64,
    )


def make_sinks() -> Sinks:
    return Sinks(
        refusals=KeptRefusals(), decisions=KeptDecisions(), metrics=Metrics(with_process=False)
    )
