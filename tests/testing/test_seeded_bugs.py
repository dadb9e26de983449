"""Detectors are shown to detect: a test that must pass fails as soon as its bug is put in."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from sentinel.testing.seeded_bugs import BUGS

LAB = Path(__file__).parent / "detector_lab.py"
ROOT = LAB.parent.parent.parent
STORES = "tests/features/stores"
SIMULATION = "tests/testing/test_simulated_world.py::test_a_seed_that_broke_a_promise_once"
DETECTORS = {
    "skip-fsync": f"{STORES}/test_write_ahead_log.py::test_failed_sync_is_never_tried_again",
    "rename-before-fsync": f"{STORES}/test_snapshot.py::"
    "test_power_cut_at_every_call_leaves_the_old_snapshot_or_the_new_one",
    "commit-position-before-state": f"{SIMULATION}_keeps_it_now",
    "drop-the-dedupe-window": "tests/features/test_engine.py::"
    "test_duplicates_are_known_as_far_back_as_promised",
    "apply-twice-on-retry": f"{SIMULATION}_keeps_it_now",
    "breaker-ignores-slow-calls": "tests/scoring/test_breaker.py::"
    "test_calls_slow_for_ten_seconds_open_it_at_the_end_of_the_call_that_passes_them",
    "half-open-without-deadline": "tests/scoring/test_breaker.py::"
    "test_a_probe_that_never_comes_back_ends_half_open_at_its_deadline",
    "leak-a-hundred-bytes": "tests/testing/test_soak_stream.py::"
    "test_a_worker_keeps_nothing_of_the_events_that_it_carries",
    "log-queue-without-bound": "tests/monitoring/test_decision_log.py::"
    "test_drop_goes_on_when_the_disk_takes_nothing_and_recovers",
    "retry-without-budget": f"{STORES}/test_redis_faults.py::"
    "test_retries_have_a_budget_and_a_dead_redis_is_left_alone",
    "readiness-is-a-constant": "tests/serving/test_reliability_health.py::"
    "test_before_the_first_right_answer_it_is_live_and_neither_started_nor_ready",
    "canary-bypasses-access": "tests/serving/test_canary_access.py::"
    "test_a_door_whose_access_is_broken_is_not_ready",
    "verify-after-parse": "tests/release/test_load.py::"
    "test_first_and_last_byte_of_every_file_count",
    "ignore-one-file": "tests/release/test_load.py::test_first_and_last_byte_of_every_file_count",
    "accept-nan-as-text": "tests/contract/test_decoder.py::"
    "test_text_never_becomes_a_number_or_a_boolean",
    "clip-nan-to-zero": "tests/scoring/test_sanity.py::"
    "test_a_bad_output_is_caught_in_its_row_and_no_other",
}
FAILED = 1  # pytest's exit status where a test failed; anything else is no verdict


class DetectorLab:
    """The process that runs tests with and without bugs."""

    def __init__(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, str(LAB)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def run(self, test: str, *, bug: str) -> tuple[int, str]:
        """Return pytest's exit status and its last words."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps({"bug": bug, "test": test}) + "\n")
        self.process.stdin.flush()
        answer = json.loads(self.process.stdout.readline())
        return answer["status"], answer["said"]

    def close(self) -> None:
        """End the process."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.close()
        self.process.wait(timeout=30)
        self.process.stdout.close()


@pytest.fixture(scope="module")
def lab() -> Iterator[DetectorLab]:
    made = DetectorLab()
    yield made
    made.close()


@pytest.mark.parametrize("bug", BUGS)
def test_a_seeded_bug_is_caught(lab: DetectorLab, bug: str) -> None:
    status, said = lab.run(DETECTORS[bug], bug="")
    assert status == 0, said
    status, said = lab.run(DETECTORS[bug], bug=bug)
    assert status == FAILED, (bug, said)


def test_every_bug_has_a_detector_and_a_line_in_the_documentation() -> None:
    assert set(DETECTORS) == set(BUGS)
    assert len(BUGS) == 16
    page = (ROOT / "docs" / "reliability.md").read_text()
    part = page.split("## Detectors that were shown to detect")[1].split("\n## ")[0]
    for bug, test in DETECTORS.items():
        line = next((line for line in part.split("\n") if line.startswith(f"| `{bug}` |")), "")
        assert test.split("::")[0] in line, bug
