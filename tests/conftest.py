"""Reliability rows: how often each is tried, by tier, and what was seen.

A test of a row of ``docs/reliability.md`` says so and takes its numbers from the fixture::

    @pytest.mark.reliability("B6", t1=500, t2=10_000, t3=100_000)
    def test_a_flipped_bit_is_found(trials):
        for seed in trials: ...

``simulated=True`` says that its trials are of a world in one thread, not of real processes.
``--tier 1`` is every run of the suite; ``make soak`` is tier 2. In tiers 2 and 3 a loop ends after
``--slice-s`` seconds, or sooner: the loops to come share what is left of ``--soak-s``.
A test that says nothing in few rounds says ``least=``. What was really tried is counted, and
written to ``.cache/reliability/``.
"""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import hypothesis
import pytest

ROOT = Path(__file__).parent.parent
# How long an example takes says how busy the machine is: that is no test.
hypothesis.settings.register_profile(
    "untimed", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("untimed")
# Servers in processes of their own, on a machine that is busy with other tests: what is below their
# priority would wait for minutes, and a deadline that no test names says nothing.
os.environ["SENTINEL_SERVE_EXPLAINER_NICE"] = "0"
os.environ["SENTINEL_SERVE_TIMEOUT_MS"] = "9000"
# Ctrl-C reaches the processes of tests also where the tests run in a shell's background, which
# ignores it, and whose processes would.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
# Root reads everything: without these two rights it is refused like everybody else.
_AS_ANYBODY = """
import ctypes, os, sys
if os.getuid() == 0:
    for right in (1, 2):
        if ctypes.CDLL(None).prctl(24, right, 0, 0, 0):
            sys.exit(77)
os.execv(sys.executable, [sys.executable, *sys.argv[1:]])
"""
SLICE_S = 120.0
"""How long one test of tier 2 or 3 may repeat itself, seconds, unless told otherwise."""
SOAK_S = 3_300.0
"""How long all loops together may take in tiers 2 and 3, seconds, unless told otherwise."""


class Trials:
    """Seeds ``0 … n - 1`` of a row, cut off by time in the higher tiers.

    Iterate over it once; or take ``n`` for tools that repeat by themselves, and say ``did(n)``.
    """

    def __init__(self, n: int, slice_s: float | None, least: int = 1) -> None:
        self.n = n
        self.done = 0
        self._slice_s = slice_s
        self._least = least

    def __iter__(self) -> Iterator[int]:
        end = None if self._slice_s is None else time.monotonic() + self._slice_s
        for seed in range(self.n):
            if end is not None and seed >= self._least and time.monotonic() > end:
                return
            yield seed
            self.done += 1

    def did(self, n: int) -> None:
        """Count ``n`` trials that another tool made."""
        self.done += n


def load_module(name: str, path: Path) -> ModuleType:
    """Load a file of another room's tests, once."""
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, path)
        assert spec is not None
        assert spec.loader is not None
        sys.modules[name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules[name])
    return sys.modules[name]


@pytest.fixture(scope="session")
def release_kit() -> ModuleType:
    """Give what the tests of releases make releases with: ``build_release`` and its like."""
    return load_module("release_kit", ROOT / "tests" / "release" / "conftest.py")


@pytest.fixture(scope="session")
def stream_rig() -> ModuleType:
    """Give what the tests of streams read and write topics with."""
    return load_module("stream_rig_of_others", ROOT / "tests" / "streaming" / "stream_rig.py")


@pytest.fixture(scope="session")
def python_as_anybody() -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run Python in a process that may not read everything, though root should run the tests."""

    def run_once(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [sys.executable, "-c", _AS_ANYBODY, *arguments],
            cwd=cwd,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        if done.returncode == 77:
            pytest.skip("root may read everything, and may not give that right up here")
        assert done.returncode == 0, done.stderr
        return done

    return run_once


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("reliability")
    tier = int(os.environ.get("SENTINEL_TIER", "1"))
    group.addoption("--tier", type=int, choices=(1, 2, 3), default=tier, help="how many trials")
    group.addoption("--slice-s", type=float, default=SLICE_S, help="longest loop of a test")
    group.addoption("--soak-s", type=float, default=SOAK_S, help="all loops of a run together")


def pytest_configure(config: pytest.Config) -> None:
    config.pluginmanager.register(_Ledger(config), "reliability-ledger")
    config.stash[_BUDGET] = budget = _Budget(config)
    config.pluginmanager.register(budget, "reliability-budget")


@pytest.fixture
def trials(request: pytest.FixtureRequest) -> Iterator[Trials]:
    """How often this test's row is to be tried in this tier."""
    mark = request.node.get_closest_marker("reliability")
    assert mark is not None, "trials belong to a row: @pytest.mark.reliability('B1', t1=…)"
    tier = request.config.getoption("--tier")
    wanted = [mark.kwargs.get(f"t{n}") for n in range(1, tier + 1)]
    n = [count for count in wanted if count is not None][-1]
    slice_s = None if tier == 1 else request.config.stash[_BUDGET].slice_s()
    made = Trials(n, slice_s, mark.kwargs.get("least", 1))
    yield made
    request.node.user_properties.append(("trials", made.done))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    report = yield
    mark = item.get_closest_marker("reliability")
    if mark is not None and report.when == "teardown":
        simulated = bool(mark.kwargs.get("simulated", False))
        more = [("rows", list(mark.args)), ("simulated", simulated)]
        report.user_properties = [*item.user_properties, *more]
    return report


class _Budget:
    """Shares the time of a run out among its loops: what one leaves, the next ones have."""

    def __init__(self, config: pytest.Config) -> None:
        self._slice_s: float = config.getoption("--slice-s")
        self._soak_s: float = config.getoption("--soak-s")
        self._end_s = 0.0
        self._left: set[str] = set()

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        self._end_s = time.monotonic() + self._soak_s
        self._left = {
            item.nodeid for item in session.items if "trials" in getattr(item, "fixturenames", ())
        }

    def pytest_runtest_logfinish(self, nodeid: str) -> None:
        self._left.discard(nodeid)

    def slice_s(self) -> float:
        """Return the longest time of the next loop, seconds."""
        share_s = (self._end_s - time.monotonic()) / max(len(self._left), 1)
        return max(min(self._slice_s, share_s), 0.0)


_BUDGET = pytest.StashKey[_Budget]()


def _commit() -> str:
    """Name what is checked out."""
    asked = ["git", "rev-parse", "--short", "HEAD"]
    found = subprocess.run(asked, cwd=ROOT, capture_output=True, text=True, check=False)
    return found.stdout.strip() or "unknown"


class _Ledger:
    """What each test of a row did, over all workers; one file a tier, newest run of each test."""

    def __init__(self, config: pytest.Config) -> None:
        self._config = config
        self._commit = _commit()
        self._failed: set[str] = set()
        self._skipped: set[str] = set()
        self._seconds: dict[str, float] = defaultdict(float)
        self._tests: dict[str, dict[str, object]] = {}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        name = report.nodeid
        self._seconds[name] += report.duration
        if report.failed:
            self._failed.add(name)
        if report.skipped:
            self._skipped.add(name)
        properties = dict(report.user_properties)
        if "rows" in properties and name not in self._skipped:
            self._tests[name] = {
                "rows": properties["rows"],
                "trials": properties.get("trials", 1),
                "simulated": properties["simulated"],
                "failed": name in self._failed,
                "seconds": round(self._seconds[name], 3),
                "commit": self._commit,
            }

    def pytest_sessionfinish(self) -> None:
        if hasattr(self._config, "workerinput") or not self._tests:
            return
        folder = ROOT / ".cache" / "reliability"
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"tier-{self._config.getoption('--tier')}.json"
        known = json.loads(path.read_text()) if path.exists() else {}
        path.write_text(json.dumps(known | self._tests, indent=1, sort_keys=True) + "\n")
