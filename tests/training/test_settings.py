"""Settings are checked before anything is read."""

from __future__ import annotations

import pytest

from sentinel.core.errors import ErrorCode, SentinelError
from sentinel.training.settings import ModelSettings


@pytest.mark.parametrize(
    ("data", "place"),
    [
        ({"leaves": 15}, "model.leaves"),
        ({"n_leaves": 1}, "model.n_leaves"),
        ({"n_leaves": 2.5}, "model"),
        ({"learning_rate": float("nan")}, "model.learning_rate"),
        ({"learning_rate": 0.0}, "model.learning_rate"),
        ({"feature_share": 1.5}, "model.feature_share"),
        ({"seed": -1}, "model.seed"),
        ({"refit": 1}, "model"),
        ({"n_rounds_max": 0}, "model.n_rounds_max"),
        ({"n_rounds_max": 10, "stop_after_rounds": 20}, "model.stop_after_rounds"),
    ],
)
def test_a_wrong_setting_is_named(data: dict[str, int | float | bool], place: str) -> None:
    with pytest.raises(SentinelError) as caught:
        ModelSettings.of(data)
    assert caught.value.code is ErrorCode.TRAINING_SETTINGS_INVALID
    assert caught.value.at == place


def test_settings_survive_the_way_through_plain_data() -> None:
    settings = ModelSettings(n_leaves=7, learning_rate=0.125, seed=9)
    assert ModelSettings.of(settings.to_data()) == settings  # type: ignore[arg-type]


def test_the_defaults_are_allowed() -> None:
    assert ModelSettings.of({}) == ModelSettings()
