"""Whether threads may be started is found by starting them."""

from __future__ import annotations

import subprocess
import sys
import threading

import pytest

from sentinel.core import limits
from sentinel.core.threads import require_threads, threads_of_blas, threads_to_serve

# The bound on memory stands for any other: root is under no bound on threads but a control group's.
_SHORT = """
import resource
from sentinel.core.errors import SentinelError
from sentinel.core.threads import require_threads
pages = int(open("/proc/self/statm").read().split()[0])
room = pages * resource.getpagesize() + 100 * (256 << 10)
resource.setrlimit(resource.RLIMIT_AS, (room, room))
require_threads(20, at="twenty")
try:
    require_threads(1_000, at="a thousand")
except SentinelError as error:
    print(error)
"""


def test_threads_that_may_be_started_are_ended_again() -> None:
    before = threading.active_count()
    stack_bytes = threading.stack_size()
    require_threads(50, at="a test")
    assert threading.active_count() == before
    assert threading.stack_size() == stack_bytes


def test_threads_that_cannot_be_started_are_one_sentence() -> None:
    """It says how many there is room for; those that were started are ended."""
    done = subprocess.run(
        [sys.executable, "-c", _SHORT], capture_output=True, text=True, timeout=60, check=True
    )
    head = "threads-missing: a thousand: expected room for 1000 threads beside its first, got room "
    assert done.stdout.startswith(head + "for ")
    assert 20 <= int(done.stdout.removeprefix(head + "for ").split(".")[0].split()[0]) < 1_000
    assert done.stdout.endswith("or the user's limit (ulimit -u).\n")
    assert done.stderr == ""


def test_no_thread_at_all_is_enough_for_none() -> None:
    require_threads(0, at="a test")


def test_a_library_that_is_loaded_has_its_threads() -> None:
    """Numpy is loaded in this process."""
    assert __import__("numpy")
    assert threads_of_blas() == 0


@pytest.mark.parametrize(
    ("environment", "expected"),
    [({"OPENBLAS_NUM_THREADS": "1"}, 0), ({"OMP_NUM_THREADS": "3"}, 2)],
    ids=["none", "two"],
)
def test_a_library_that_is_told_how_many_starts_no_more(
    environment: dict[str, str], expected: int
) -> None:
    assert threads_of_blas(environment, is_loaded=False, n_cores=8) == expected


def test_without_a_word_the_library_starts_one_for_each_further_core() -> None:
    assert threads_of_blas({}, is_loaded=False, n_cores=8) == 7
    assert threads_of_blas({}, is_loaded=False, n_cores=500) == limits.BLAS_THREADS_MAX - 1
    assert threads_of_blas({"OMP_NUM_THREADS": "many"}, is_loaded=False, n_cores=2) == 1


def test_every_front_needs_threads_of_its_own() -> None:
    assert threads_to_serve(n_fronts=3) - threads_to_serve(n_fronts=2) >= limits.THREADS_FRONT
    assert threads_to_serve(n_fronts=0) >= limits.THREADS_SERVE
