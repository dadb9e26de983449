"""The canary fails for what it must fail for, and names where; a forgiving one cannot be made."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator

import lightgbm
import numpy as np
import numpy.typing as npt
import onnx
import pytest
from scoring_rig import (
    N_FEATURES,
    PLAN,
    POLICY,
    TREES,
    Tree,
    canary_path,
    make_canary,
    payments,
    tree_model,
)

from sentinel.contract.batch import RawBatch
from sentinel.core.errors import ErrorCode, SentinelError
from sentinel.features.matrix import FeatureMatrix
from sentinel.release.export import to_onnx
from sentinel.scoring import Canary, CanaryPath, ModelSession, choose_canary_rows
from sentinel.scoring.canary import Step
from sentinel.scoring.fallback import LinearFallback
from sentinel.training.boosted import read_trees

Float32Array = npt.NDArray[np.float32]


def path_of(content: bytes) -> CanaryPath:
    return canary_path(PLAN, ModelSession(content, n_features=N_FEATURES).run, POLICY)


@pytest.fixture(scope="module")
def canary() -> Canary:
    return make_canary(tree_model())


def test_the_recorded_champion_passes(canary: Canary) -> None:
    report = canary.check(path_of(tree_model()))
    assert report.passed
    assert str(report) == "the canary gave its recorded answers"


def test_a_canary_is_the_same_after_a_round_through_json(canary: Canary) -> None:
    again = Canary.from_data(json.loads(json.dumps(canary.to_data(), allow_nan=False)))
    for field in dataclasses.fields(Canary):
        one, two = getattr(canary, field.name), getattr(again, field.name)
        same = one.tobytes() == two.tobytes() if isinstance(one, np.ndarray) else one == two
        assert same, field.name


def test_one_changed_leaf_is_named_with_its_event(canary: Canary) -> None:
    trees = [*TREES]
    trees[1] = dataclasses.replace(trees[1], low=trees[1].low + 0.01)
    report = canary.check(path_of(tree_model(trees)))
    assert (report.passed, report.step) == (False, Step.SCORES)
    assert report.at.startswith("event ")
    assert float(report.expected) != float(report.actual)


def test_a_decoder_that_refuses_is_named(canary: Canary) -> None:
    good = path_of(tree_model())

    def decode(raw: RawBatch) -> object:
        events = [raw.event_bytes(i) for i in range(raw.n_events)]
        events[7] = b"{}"
        return good.decode(RawBatch.from_events(events))

    report = canary.check(dataclasses.replace(good, decode=decode))
    assert (report.step, report.at) == (Step.DECODE, "event 7")


def test_a_feature_that_differs_in_its_last_bit_is_named(canary: Canary) -> None:
    good = path_of(tree_model())

    def features(events: object) -> FeatureMatrix:
        matrix = good.features(events)  # type: ignore[arg-type]
        matrix.values[12, 3] = np.nextafter(matrix.values[12, 3], np.float32(np.inf))
        return matrix

    report = canary.check(dataclasses.replace(good, features=features))
    assert (report.step, report.at) == (Step.FEATURES, "event 12, sum_1h")


@pytest.mark.parametrize("value", [np.nan, np.inf, -1.0, 1.5])
def test_an_insane_answer_is_named(canary: Canary, value: float) -> None:
    good = path_of(tree_model())

    def champion(values: Float32Array) -> Float32Array:
        scores = good.champion(values)
        if len(scores) > 1:
            scores[70] = value
        return scores

    report = canary.check(dataclasses.replace(good, champion=champion))
    assert (report.step, report.at) == (Step.SANITY, "vector 10")


def test_a_session_that_mixes_its_rows_fails(canary: Canary) -> None:
    good = path_of(tree_model())
    report = canary.check(
        dataclasses.replace(good, champion=lambda v: good.champion(v)[::-1].copy())
    )
    assert not report.passed


def test_a_changed_fallback_is_named(canary: Canary) -> None:
    good = path_of(tree_model())
    other = LinearFallback.of(PLAN.names, centre=[0.0] * 5, scale=[1.0] * 5, coefficients=[0.0] * 5)
    report = canary.check(dataclasses.replace(good, fallback=other))
    assert report.step is Step.FALLBACK


@pytest.mark.parametrize(
    ("change", "at"),
    [
        ({"tolerance": 0.011}, "canary.tolerance"),
        ({"tolerance": 0.0}, "canary.tolerance"),
        ({"tolerance": float("nan")}, "canary.tolerance"),
        ({"events": ()}, "canary.events"),
        ({"event_scores": np.zeros(3, np.float32)}, "canary.event_scores"),
        ({"vectors": np.full((32, 5), np.nan, np.float32)}, "canary.vectors"),
        ({"vectors": np.zeros((32, 5))}, "canary.vectors"),
        (
            {
                "event_scores": np.full(60, 0.5, np.float32),
                "vector_scores": np.full(32, 0.5, np.float32),
            },
            "canary.scores",
        ),
    ],
)
def test_a_canary_that_could_notice_nothing_is_refused(
    canary: Canary, change: dict[str, object], at: str
) -> None:
    with pytest.raises(SentinelError) as caught:
        dataclasses.replace(canary, **change)  # type: ignore[arg-type]
    assert (caught.value.code, caught.value.at) == (ErrorCode.CANARY_INVALID, at)


@pytest.mark.parametrize("data", [None, [], {}, {"features": []}, {"events": "x"}])
def test_data_that_is_no_canary_is_refused(data: object) -> None:
    with pytest.raises(SentinelError) as caught:
        Canary.from_data(data)
    assert (caught.value.code, caught.value.at) == (ErrorCode.CANARY_INVALID, "canary")


def test_ragged_vectors_are_refused(canary: Canary) -> None:
    data = canary.to_data()
    data["vectors"] = [[1.0]]
    with pytest.raises(SentinelError) as caught:
        Canary.from_data(data)
    assert caught.value.at == "canary.vectors"


@pytest.mark.parametrize("events", [[b"{}"], [*payments(2), payments(1)[0]]])
def test_events_that_cannot_be_asked_again_are_refused(events: list[bytes]) -> None:
    with pytest.raises(SentinelError) as caught:
        Canary.record(
            path_of(tree_model()),
            events=events,
            vectors=np.zeros((0, N_FEATURES), np.float32),
            tolerance=1e-4,
        )
    assert (caught.value.code, caught.value.at) == (ErrorCode.CANARY_INVALID, "canary.events")


def test_rows_are_chosen_until_every_leaf_is_covered() -> None:
    rng = np.random.default_rng(3)
    leaves = rng.geometric(0.3, size=(2_000, 40))
    chosen = choose_canary_rows(leaves)
    assert len(chosen) < 300
    for tree in range(40):
        assert set(leaves[chosen, tree]) == set(leaves[:, tree])
    assert len(choose_canary_rows(leaves, n_rows_max=5)) == 5


@pytest.mark.reliability("G9", t1=100, t2=1_000, t3=10_000, least=100)
def test_a_canary_kills_all_but_a_few_one_leaf_mutations(trials: Iterator[int]) -> None:
    """The reference size, 200 trees of 31 leaves; each mutation flips, drops or grows a leaf."""
    rng = np.random.default_rng(11)
    values = rng.normal(size=(6_000, N_FEATURES)).astype(np.float32)
    target = values[:, 0] * values[:, 1] + rng.normal(size=6_000) > 1.0
    booster = lightgbm.train(
        {"objective": "binary", "num_leaves": 31, "verbosity": -1, "seed": 1, "num_threads": 1},
        lightgbm.Dataset(values, label=target),
        num_boost_round=200,
    )
    content = to_onnx(read_trees(booster, n_rounds=200, n_features=N_FEATURES))
    chosen = choose_canary_rows(booster.predict(values, pred_leaf=True))
    original = path_of(content)
    canary = Canary.record(original, events=payments(20), vectors=values[chosen], tolerance=1e-4)
    found = [canary.check(path_of(mutated(content, seed))).passed for seed in trials]
    assert canary.check(original).passed
    assert found.count(False) >= 0.95 * len(found), found.count(False)


def mutated(content: bytes, seed: int) -> bytes:
    """Change one leaf of a model."""
    rng = np.random.default_rng(seed)
    model = onnx.load_from_string(content)
    weights = next(
        attribute.floats
        for node in model.graph.node
        if node.op_type.startswith("TreeEnsemble")
        for attribute in node.attribute
        if attribute.name in {"target_weights", "leaf_weights"}
    )
    leaf = int(rng.integers(len(weights)))
    while weights[leaf] == 0.0:
        leaf = int(rng.integers(len(weights)))
    weights[leaf] *= (-1.0, 0.0, 1.5)[seed % 3]
    result: bytes = model.SerializeToString()
    return result


def test_the_rig_has_trees_that_all_matter() -> None:
    assert all(isinstance(tree, Tree) and tree.low != tree.high for tree in TREES)
