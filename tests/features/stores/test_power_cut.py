"""The power goes off under real processes, on a file system that forgets what was not synced."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING

import pytest
from crash_rig import Lab

from sentinel.testing.power_cut_disk import PowerCutDisk, why_not

if TYPE_CHECKING:
    from conftest import Trials

with tempfile.TemporaryDirectory() as _folder:
    REASON = why_not(Path(_folder))
pytestmark = pytest.mark.skipif(bool(REASON), reason=REASON or "FUSE can be mounted")

SNAPSHOT_EVERY = 900
BATCH = 100


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    made = Lab(4_000, BATCH)
    yield made
    made.close()


def cut_and_catch_up(
    lab: Lab, disk: PowerCutDisk, base: Path, seed: int, durability: str
) -> list[int]:
    """Cut the power a few times, catch up; return what each start no longer held."""
    rng = Random(seed)
    base.mkdir()
    folder = disk.folder / f"{seed}"
    folder.mkdir()
    options = {
        "durability": durability,
        "snapshot_every": SNAPSHOT_EVERY,
        "answers": str(base / "answers"),
    }
    for number in range(rng.randint(1, 3)):
        disk.cut_after(rng.randint(1, rng.choice([6, 60, 200])))
        ended = lab.run(folder, **options)
        assert ended["signal"] == 0
        disk.restore(keep=rng.choice([0.0, 0.3, 0.7]), seed=seed * 8 + number)
        # After a power cut the kernel has another id.
        (folder / "boot-id").unlink(missing_ok=True)
    assert lab.run(folder, **options) == {"signal": 0, "exit": 0}
    return lab.check(base)


@pytest.mark.reliability("B4", t1=10, t2=60, t3=300)
def test_power_class_loses_nothing_that_was_answered(
    lab: Lab, tmp_path: Path, trials: Trials
) -> None:
    with PowerCutDisk(tmp_path / "disk") as disk:
        for seed in trials:
            assert sum(cut_and_catch_up(lab, disk, tmp_path / f"{seed}", seed, "power")) == 0, seed


@pytest.mark.reliability("B4", t1=10, t2=60, t3=300)
def test_process_class_loses_at_most_what_came_after_the_snapshot_state_and_position_together(
    lab: Lab, tmp_path: Path, trials: Trials
) -> None:
    """The digest at the end shows that state and position moved back together."""
    n_lost = 0
    with PowerCutDisk(tmp_path / "disk") as disk:
        for seed in trials:
            lost = cut_and_catch_up(lab, disk, tmp_path / f"{seed}", seed, "process")
            assert max(lost) <= SNAPSHOT_EVERY + 2 * BATCH, seed
            n_lost += sum(lost)
    assert n_lost > 0, "a cut that loses nothing shows nothing"


def test_a_disk_that_lies_about_syncs_is_seen_to_lose(lab: Lab, tmp_path: Path) -> None:
    """The control: the test of class ``power`` can see a missing sync."""
    n_lost = 0
    with PowerCutDisk(tmp_path / "disk", forgets_syncs=True) as disk:
        for seed in range(3):
            n_lost += sum(cut_and_catch_up(lab, disk, tmp_path / f"{seed}", seed, "power"))
    assert n_lost > 0
