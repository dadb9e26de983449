"""Write what the reliability tests did into ``docs/reliability.md``: rows, trials, failures.

Usage: ``python tools/reliability_counts.py [1 | 2 | 3 ...]`` after a run of that tier. The counts
come from ``.cache/reliability/tier-N.json``, which every run of the tests keeps; what it says of
tests that are there no more, or that belong to other rows now, is not counted. The block of the
page between its two marks is replaced; nothing else of it is touched.
"""

from __future__ import annotations

import contextlib
import io
import json
import re
import sys
from collections import defaultdict
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "reliability.md"


class Marks:
    """The tests that there are now: the rows of each, and whether its trials are simulated."""

    def __init__(self) -> None:
        self.tests: dict[str, tuple[tuple[str, ...], bool]] = {}

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        """Note the marks of what was collected."""
        for item in session.items:
            mark = item.get_closest_marker("reliability")
            if mark is not None:
                simulated = bool(mark.kwargs.get("simulated", False))
                self.tests[item.nodeid] = (tuple(mark.args), simulated)


def collect() -> Marks:
    """Look at the tests without running them."""
    marks = Marks()
    tests = ["--collect-only", "-q", "--no-header", "-m", "reliability", str(ROOT / "tests")]
    with contextlib.redirect_stdout(io.StringIO()):
        status = pytest.main([*tests, "--rootdir", str(ROOT)], plugins=[marks])
    if status is not pytest.ExitCode.OK:
        raise SystemExit(f"the tests cannot be collected: {status}")
    return marks


def block(tier: int, marks: Marks) -> str:
    """Return the block of one tier, with its marks."""
    known = json.loads((ROOT / ".cache" / "reliability" / f"tier-{tier}.json").read_text())
    rows: dict[str, list[float]] = defaultdict(lambda: [0, 0, 0, 0, 0.0])
    commits = set()
    for name, (rows_of_test, is_simulated) in marks.tests.items():
        test = known.get(name)
        if test is None:
            print(f"not run in tier {tier}: {name}", file=sys.stderr)
            continue
        commits.add(test["commit"])
        for row in rows_of_test:
            sums = rows[row]
            sums[0] += 1
            sums[1] += test["trials"]
            sums[2] += test["trials"] if is_simulated else 0
            sums[3] += test["failed"]
            sums[4] += test["seconds"]
    title = f"Tier {tier}, tests of commit {', '.join(sorted(commits))}."
    lines = [f"<!-- tier {tier} -->", "", title, ""]
    lines += ["| row | tests | trials | of them simulated | failed | seconds |"]
    lines += ["| --- | --- | --- | --- | --- | --- |"]
    for row in sorted(rows, key=lambda name: (name[0], int(name[1:]))):
        n_tests, n_trials, n_simulated, n_failed, seconds = rows[row]
        counts = f"{n_tests} | {n_trials:,} | {n_simulated:,} | {n_failed}"
        lines.append(f"| {row} | {counts} | {seconds:.1f} |")
    return "\n".join([*lines, "", f"<!-- end of tier {tier} -->"])


def main() -> None:
    """Replace the blocks of the tiers named."""
    marks = collect()
    for tier in [int(word) for word in sys.argv[1:]] or [1]:
        text = PAGE.read_text()
        place = re.compile(rf"<!-- tier {tier} -->.*<!-- end of tier {tier} -->", re.DOTALL)
        made = block(tier, marks)
        PAGE.write_text(place.sub(lambda _, made=made: made, text))
        print(made)


if __name__ == "__main__":
    main()
