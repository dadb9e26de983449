"""A process that has imported everything, and forks to run one test with or without a bug in it.

A line of JSON comes in (``bug``, empty for none, and the test), a line goes out: what pytest's exit
status was, and the last of what it said.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import signal
import sys
import tempfile
from pathlib import Path

import pytest

from sentinel.release import verify_release
from sentinel.serving import server
from sentinel.streaming.stream import opening
from sentinel.testing.seeded_bugs import BUGS

ROOT = Path(__file__).parent.parent.parent
PARTS = (verify_release, server, opening)
SECONDS_MAX = 150


def run(bug: str, test: str, out: Path) -> int:
    """Run the test in this process."""
    signal.alarm(SECONDS_MAX)
    options = [
        "-q", "-x", "--no-header", "--tb=line", f"--rootdir={ROOT}", f"--basetemp={out}.tmp",
        "-p", "no:reliability-ledger", "-p", "no:cacheprovider", "-p", "no:randomly",
        "-p", "no:xdist",
    ]  # fmt: skip
    text = io.StringIO()
    with contextlib.redirect_stdout(text), contextlib.ExitStack() as stack:
        if bug:
            stack.enter_context(BUGS[bug]())
        status = int(pytest.main([*options, str(ROOT / test)]))
    out.write_text(text.getvalue())
    return status


def main() -> None:
    """Serve until the input ends."""
    os.chdir(ROOT)
    for line in sys.stdin:
        order = json.loads(line)
        with tempfile.TemporaryDirectory() as folder:
            out = Path(folder) / "out"
            child = os.fork()
            if child == 0:
                status = 99
                try:
                    status = run(order["bug"], order["test"], out)
                finally:
                    os._exit(status)
            _, ended = os.waitpid(child, 0)
            said = out.read_text()[-2_000:] if out.exists() else ""
        answer = {"status": os.waitstatus_to_exitcode(ended), "said": said}
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
