"""Processes killed at every place and at any time: the state of an undisturbed run, or an error."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING

import pytest
from crash_rig import Lab

if TYPE_CHECKING:
    from conftest import Trials


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    made = Lab(4_000, 100)
    yield made
    made.close()


@pytest.fixture(scope="module")
def long_lab() -> Iterator[Lab]:
    made = Lab(100_000, 500)
    yield made
    made.close()


def places_of(lab: Lab, folder: Path, **options: object) -> list[str]:
    """List every named place that a run passes, with how often."""
    lab.run(folder, places=str(folder / "places"), **options)
    return (folder / "places").read_text().splitlines()


@pytest.mark.reliability("B2", "B3", t1=1, t2=20, t3=100)
def test_kill_at_every_named_place_ends_in_the_undisturbed_state(
    lab: Lab, tmp_path: Path, trials: Trials
) -> None:
    """Each place at its first passing and at a later one, in recovery too (opened again)."""
    options = {"durability": "power", "snapshot_every": 900}
    (tmp_path / "plain").mkdir()
    seen = places_of(lab, tmp_path / "plain", **options)
    names = sorted(set(seen))
    assert {"wal write half", "wal sync before", "snapshot write half"} <= set(names)
    assert {"snapshot replace before", "snapshot replace after", "folder sync after"} <= set(names)
    assert {"wal remove before", "wal create after"} <= set(names)
    for seed in trials:
        rng = Random(seed)
        for number, name in enumerate(names):
            folder = tmp_path / f"{seed}-{number}"
            folder.mkdir()
            stops = [1, rng.randint(1, seen.count(name))]
            n_killed = 0
            for stop in stops:
                ended = lab.run(folder, stop_at=[name, stop], **options)
                n_killed += ended["signal"] == 9
            assert n_killed >= 1, name
            assert lab.run(folder, **options) == {"signal": 0, "exit": 0}, name
            assert sum(lab.check(folder)) == 0, name
            lab.check_clean(folder)
            shutil.rmtree(folder)


@pytest.mark.reliability("B1", t1=40, t2=300, t3=1_000)
def test_kill_at_any_time_ends_in_the_undisturbed_state(
    long_lab: Lab, tmp_path: Path, trials: Trials
) -> None:
    """100,000 events, a snapshot every 5,000; killed at random times, in recovery again."""
    n_killed, k = 0, 0
    for seed in trials:
        rng = Random(seed)
        folder = tmp_path / f"{k}"
        folder.mkdir(exist_ok=True)
        # Short ones hit recovery, up to several times in a row.
        after_s = rng.choice([0.004, 0.02, 0.1, 0.3]) * rng.random()
        ended = long_lab.run(folder, kill_after_s=after_s)
        n_killed += ended["signal"] == 9
        if ended["signal"] == 0:
            assert ended["exit"] == 0
            assert sum(long_lab.check(folder)) == 0
            shutil.rmtree(folder)
            k += 1
    folder = tmp_path / f"{k}"
    folder.mkdir(exist_ok=True)
    assert long_lab.run(folder) == {"signal": 0, "exit": 0}
    assert sum(long_lab.check(folder)) == 0
    assert n_killed >= 0.5 * trials.done


def test_answers_half_written_by_a_kill_count_as_not_given(lab: Lab, tmp_path: Path) -> None:
    """A kill inside a write leaves whole pages of it: the witness must not accuse the store."""
    (tmp_path / "answers").write_text("start 0\n71 0f")
    assert lab.run(tmp_path) == {"signal": 0, "exit": 0}
    assert lab.check(tmp_path) == [0, 0]
    (tmp_path / "answers").write_text("start 0\n71 0f\ndone\n")
    with pytest.raises(AssertionError, match="another answer at 71"):
        lab.check(tmp_path)
