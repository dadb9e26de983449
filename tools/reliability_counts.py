"""Write what the reliability tests did into ``docs/reliability.md``: rows, trials, failures.

Usage: ``python tools/reliability_counts.py [1 | 2 | 3 ...]`` after a run of that tier. The counts
come from ``.cache/reliability/tier-N.json``, which every run of the tests keeps. The block of the
page between its two marks is replaced; nothing else of it is touched.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "reliability.md"


def block(tier: int) -> str:
    """Return the block of one tier, with its marks."""
    tests = json.loads((ROOT / ".cache" / "reliability" / f"tier-{tier}.json").read_text())
    rows: dict[str, list[float]] = defaultdict(lambda: [0, 0, 0, 0, 0.0])
    for test in tests.values():
        for row in test["rows"]:
            sums = rows[row]
            sums[0] += 1
            sums[1] += test["trials"]
            sums[2] += test["trials"] if test["simulated"] else 0
            sums[3] += test["failed"]
            sums[4] += test["seconds"]
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.strip()
    lines = [f"<!-- tier {tier} -->", "", f"Tier {tier}, commit {commit}.", ""]
    lines += ["| row | tests | trials | of them simulated | failed | seconds |"]
    lines += ["| --- | --- | --- | --- | --- | --- |"]
    for row in sorted(rows, key=lambda name: (name[0], int(name[1:]))):
        n_tests, n_trials, n_simulated, n_failed, seconds = rows[row]
        counts = f"{n_tests} | {n_trials:,} | {n_simulated:,} | {n_failed}"
        lines.append(f"| {row} | {counts} | {seconds:.1f} |")
    return "\n".join([*lines, "", f"<!-- end of tier {tier} -->"])


def main() -> None:
    """Replace the blocks of the tiers named."""
    for tier in [int(word) for word in sys.argv[1:]] or [1]:
        text = PAGE.read_text()
        marks = re.compile(rf"<!-- tier {tier} -->.*<!-- end of tier {tier} -->", re.DOTALL)
        made = block(tier)
        PAGE.write_text(marks.sub(lambda _, made=made: made, text))
        print(made)


if __name__ == "__main__":
    main()
