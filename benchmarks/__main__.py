"""Run the benchmarks one after the other and keep what they print in RESULTS.md.

Usage: ``python benchmarks [NAME ...]``; without names, all of them. A name that is run replaces
its section and leaves the others as they were.
"""

from __future__ import annotations

import datetime as dt
import os
import platform
import re
import subprocess
import sys
from pathlib import Path

FOLDER = Path(__file__).parent
RESULTS = FOLDER / "RESULTS.md"
SECONDS_MAX = 1800
HEAD = """# Results

What `make bench` printed, each section with the machine and the commit that it was seen on.
Machines are shared and noisy: read ratios, and medians of interleaved runs. Floors and goals are
those of the design; a figure below its floor is a defect and says so.
"""


def machine() -> str:
    """Describe the machine in one line."""
    text = Path("/proc/cpuinfo").read_text()
    model = re.search(r"model name\s*:\s*(.+)", text)
    memory = re.search(r"MemTotal:\s*(\d+)", Path("/proc/meminfo").read_text())
    gibibytes = round(int(memory[1]) / 2**20) if memory else 0
    return (
        f"{model[1] if model else platform.machine()}, {os.cpu_count()} cores, {gibibytes} GiB, "
        f"Python {platform.python_version()}"
    )


def commit() -> str:
    """Name the commit, and whether files differ from it."""
    name = _git("rev-parse", "--short=12", "HEAD")
    changed = _git("status", "--porcelain", "--", "src", "benchmarks", "examples", "requirements")
    results_only = all(line.endswith("RESULTS.md") for line in changed.splitlines())
    return name if results_only else f"{name} with changes"


def _git(*arguments: str) -> str:
    done = subprocess.run(
        ["git", *arguments], cwd=FOLDER, capture_output=True, text=True, check=False
    )
    return done.stdout.strip()


def sections(text: str) -> dict[str, str]:
    """Split a results file into its sections by benchmark name."""
    parts = re.split(r"^## (\w+)\n", text, flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def main() -> int:
    """Run what was asked for; the exit status is 1 when one failed."""
    known = sorted(path.stem for path in FOLDER.glob("*.py") if not path.stem.startswith("_"))
    wanted = sys.argv[1:] or known
    unknown = [name for name in wanted if name not in known]
    if unknown:
        print(f"no benchmark {', '.join(unknown)}; there are: {', '.join(known)}", file=sys.stderr)
        return 2
    n_failed = 0
    for name in wanted:
        print(f"== {name}", flush=True)
        lines = []
        with subprocess.Popen(
            [sys.executable, str(FOLDER / f"{name}.py")], stdout=subprocess.PIPE, text=True
        ) as process:
            for line in process.stdout or ():
                print(line, end="", flush=True)
                lines.append(line)
            process.wait(timeout=SECONDS_MAX)
        if process.returncode:
            n_failed += 1
            print(f"== {name} failed with {process.returncode}", file=sys.stderr)
            continue
        today = dt.datetime.now(tz=dt.UTC).date()
        seen = f"{today}, commit {commit()}, {machine()}"
        # Read as late as can be: another run may have kept its sections in the meantime.
        found = sections(RESULTS.read_text()) if RESULTS.exists() else {}
        found[name] = f"\n{seen}\n\n```text\n{''.join(lines).rstrip()}\n```\n\n"
        body = "".join(f"## {key}\n{found[key]}" for key in sorted(found))
        RESULTS.write_text(f"{HEAD}\n{body.rstrip()}\n")
    return 1 if n_failed else 0


if __name__ == "__main__":
    raise SystemExit(main())
