"""Explanations of releases: from the folder alone, held against what the release serves."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from tests.release.conftest import BUILDER, NOW_MS, good_candidate, matrix

from sentinel.core.errors import ErrorCode, SentinelError
from sentinel.core.hashing import canonical_json
from sentinel.release import (
    Linear,
    LoadedRelease,
    OnnxModel,
    TreeEnsemble,
    build_release,
    load_release,
)
from sentinel.release.champion import Champion
from sentinel.release.explaining import explain_row, open_explainer
from sentinel.release.explanation_data import read_explanation
from sentinel.release.export import to_onnx
from sentinel.release.model_parts import read_linear, read_trees
from sentinel.scoring import Outcome, ServedBy
from sentinel.scoring.explanation import Absence, Explanation, Method, ScoredRows
from sentinel.scoring.session import ModelSession

N_ROWS = 300
GOLDEN = Path(__file__).parents[1] / "golden" / "releases" / "format-1" / "payments-1.2.0"


def built(folder: Path, champion: Champion | None = None) -> LoadedRelease:
    candidate = good_candidate()
    if champion is not None:
        candidate = dataclasses.replace(candidate, champion=champion)
    build_release(candidate, folder, created_at_ms=NOW_MS, builder=BUILDER)
    return load_release(folder, None, now_ms=NOW_MS, allow_unapproved=True)


def linear_champion() -> Linear:
    values = matrix().values
    return Linear(
        coefficients=np.array([0.4, 0.1, -0.2, 0.0, 0.3]),
        centre=values.mean(axis=0, dtype=np.float64),
        scale=values.std(axis=0, dtype=np.float64) + 1e-6,
        intercept=-2.0,
    )


def scored(
    loaded: LoadedRelease,
    served_by: ServedBy = ServedBy.CHAMPION,
    outcome: Outcome = Outcome.DECLINE,
) -> ScoredRows:
    values = np.ascontiguousarray(matrix().values[:N_ROWS])
    if served_by is ServedBy.CHAMPION:
        scores = ModelSession(loaded.parts.champion, n_features=values.shape[1]).run(values)
    else:
        scores = loaded.parts.fallback.scores(values)
    return ScoredRows(
        values=values,
        status=matrix().status[:N_ROWS],
        score=scores.astype(np.float64),
        outcome=np.full(N_ROWS, outcome, dtype=np.uint8),
        served_by=np.full(N_ROWS, served_by, dtype=np.uint8),
    )


@pytest.fixture(scope="module")
def tree_release(tmp_path_factory: pytest.TempPathFactory) -> LoadedRelease:
    return built(tmp_path_factory.mktemp("releases") / "trees")


def test_the_trees_that_are_read_out_of_a_model_are_those_that_went_in() -> None:
    """Node by node, with thresholds as float32 has them."""
    champion = good_candidate().champion
    assert isinstance(champion, TreeEnsemble)
    content = to_onnx(champion)
    from sentinel.release.operators import admit

    trees = read_trees(content, admit(content, n_features=5))
    assert trees is not None
    trees.check()
    for name in ("feature", "left", "right", "roots"):
        assert np.array_equal(getattr(trees, name), getattr(champion, name))
    values = matrix().values[:N_ROWS]
    assert np.array_equal(trees.leaves(values), champion.leaves(values))


@pytest.mark.parametrize("served_by", [ServedBy.CHAMPION, ServedBy.FALLBACK])
def test_every_decision_of_a_tree_release_is_explained_and_adds_up(
    tree_release: LoadedRelease, served_by: ServedBy
) -> None:
    """Champion and fallback, against the scores of the runtime."""
    found = open_explainer(tree_release).explain(scored(tree_release, served_by))
    assert len(found) == N_ROWS
    for each in found:
        assert isinstance(each, Explanation)
        assert abs(each.residual) < 1e-4
        assert each.error == 0.0
        assert each.method is (Method.TREES if served_by is ServedBy.CHAMPION else Method.LINEAR)


def test_a_linear_champion_is_explained_without_a_file(tmp_path: Path) -> None:
    """Its mean is in the model."""
    loaded = built(tmp_path / "linear", linear_champion())
    assert loaded.explanation is None
    assert read_linear(loaded.parts.champion, loaded.admitted) is not None
    found = open_explainer(loaded).explain(scored(loaded))
    assert {each.method for each in found if isinstance(each, Explanation)} == {Method.LINEAR}
    assert not [each for each in found if not isinstance(each, Explanation)]


def test_another_model_is_explained_by_sampling_with_its_error(tmp_path: Path) -> None:
    """A graph that is neither ours for trees nor ours for linear models."""
    import onnx

    model = onnx.load_from_string(to_onnx(linear_champion()))
    for node in model.graph.node:
        node.input[:] = ["wide_x" if name == "wide" else name for name in node.input]
    model.graph.node.insert(1, onnx.helper.make_node("Identity", ["wide"], ["wide_x"]))
    content = model.SerializeToString(deterministic=True)
    loaded = built(tmp_path / "other", OnnxModel(content=content, n_features=5))
    assert loaded.explanation is not None
    assert loaded.explanation.background is not None
    explainer = open_explainer(loaded)
    assert explainer.method is Method.SAMPLED
    rows = scored(loaded)
    few = ScoredRows(
        values=rows.values[:5],
        status=rows.status[:5],
        score=rows.score[:5],
        outcome=rows.outcome[:5],
        served_by=rows.served_by[:5],
    )
    for each in explainer.explain(few):
        assert isinstance(each, Explanation)
        assert each.error >= 0.0


def test_an_explanation_of_another_score_is_never_shown(tree_release: LoadedRelease) -> None:
    """The residual is checked against what was served."""
    rows = scored(tree_release)
    other = dataclasses.replace(rows, score=rows.score[::-1].copy())
    found = open_explainer(tree_release).explain(other)
    differs = np.abs(rows.score - other.score) > 1e-3
    assert differs.any()
    for each, is_other in zip(found, differs.tolist(), strict=True):
        if is_other:
            assert each is Absence.NOT_ADDITIVE


def test_rows_that_nobody_answered_or_that_are_not_finite_have_none(
    tree_release: LoadedRelease,
) -> None:
    """Held is held."""
    rows = scored(tree_release)
    held = dataclasses.replace(rows, outcome=np.full(N_ROWS, Outcome.HELD, dtype=np.uint8))
    assert set(open_explainer(tree_release).explain(held)) == {Absence.HELD}
    values = rows.values.copy()
    values[0, 0] = np.nan
    found = open_explainer(tree_release).explain(dataclasses.replace(rows, values=values))
    assert found[0] is Absence.NOT_FINITE
    assert isinstance(found[1], Explanation)


def test_reasons_speak_for_the_outcome_the_strongest_first(tree_release: LoadedRelease) -> None:
    """What raised a declined score, what lowered an approved one."""
    rows = scored(tree_release)
    n_reasons = 0
    for outcome, sign in ((Outcome.DECLINE, 1), (Outcome.APPROVE, -1)):
        chosen = dataclasses.replace(rows, outcome=np.full(N_ROWS, outcome, dtype=np.uint8))
        for each in open_explainer(tree_release).explain(chosen):
            assert isinstance(each, Explanation)
            given = [sign * reason.contribution for reason in each.reasons]
            assert given == sorted(given, reverse=True)
            assert all(number > 0 for number in given)
            assert len({reason.words for reason in each.reasons}) == len(each.reasons)
            n_reasons += len(given)
    assert n_reasons > N_ROWS


def test_one_row_is_explained_like_many(tree_release: LoadedRelease) -> None:
    """The one function for one decision."""
    rows = scored(tree_release)
    found = explain_row(
        tree_release,
        rows.values[7],
        status=rows.status[7],
        score=float(rows.score[7]),
        outcome=Outcome.DECLINE,
    )
    assert found == open_explainer(tree_release).explain(rows)[7]


def test_a_release_of_before_explains_its_fallback_and_says_so_of_its_champion() -> None:
    """The golden release carries no covers."""
    loaded = load_release(GOLDEN, None, now_ms=NOW_MS, allow_unapproved=True)
    explainer = open_explainer(loaded)
    assert explainer.method is None
    assert set(explainer.explain(scored(loaded))) == {Absence.NO_DATA}
    fallback = explainer.explain(scored(loaded, ServedBy.FALLBACK))
    assert all(isinstance(each, Explanation) for each in fallback)


def test_counts_come_from_training_where_it_has_them(tmp_path: Path) -> None:
    """And from the reference rows where it has none."""
    champion = good_candidate().champion
    assert isinstance(champion, TreeEnsemble)
    n_leaves = int((champion.feature < 0).sum())
    counted = dataclasses.replace(champion, leaf_cover=np.arange(1.0, n_leaves + 1))
    data = built(tmp_path / "counted", counted).explanation
    assert data is not None
    assert data.counted_on == "training"
    assert data.leaf_cover == tuple(range(1, n_leaves + 1))


def test_counts_that_do_not_fit_the_model_are_refused(tree_release: LoadedRelease) -> None:
    """Too few for its leaves."""
    data = tree_release.explanation
    assert data is not None
    assert data.counted_on == "reference"
    wrong = dataclasses.replace(
        tree_release, explanation=read_explanation({**_plain(data), "leaf_cover": [1, 2]})
    )
    with pytest.raises(SentinelError) as caught:
        open_explainer(wrong)
    assert caught.value.code is ErrorCode.EXPLANATION_INVALID
    assert caught.value.at == "explanation.leaf_cover"


@pytest.mark.parametrize(
    "change",
    [
        {"format": 2},
        {"leaf_cover": ["many"]},
        {"further": 1},
        {"background": [[0.0]] * 33},
    ],
    ids=["format", "type", "key", "rows"],
)
def test_a_file_that_is_not_one_is_refused(
    tree_release: LoadedRelease, change: dict[str, object]
) -> None:
    """Like every file of a release."""
    assert tree_release.explanation is not None
    with pytest.raises(SentinelError) as caught:
        read_explanation({**_plain(tree_release.explanation), **change})
    assert caught.value.code is ErrorCode.EXPLANATION_INVALID
    assert caught.value.at == "explanation.json"


def _plain(data: object) -> dict[str, object]:
    import json

    import msgspec

    found: dict[str, object] = json.loads(canonical_json(msgspec.to_builtins(data)))
    return found
