"""What drives the process that forks and kills workers of a state folder."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

LAB = Path(__file__).parent / "crash_lab.py"


class Lab:
    """The process that forks and kills, and what an undisturbed run gave."""

    def __init__(self, n_events: int, batch_events: int) -> None:
        self.process = subprocess.Popen(
            [sys.executable, str(LAB), str(n_events), str(batch_events)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        told = self._read()
        self.digest = told["digest"]
        self.answers = {int(at): digest for at, digest in dict(told["answers"]).items()}  # type: ignore[call-overload]

    def _read(self) -> dict[str, object]:
        assert self.process.stdout is not None
        read: dict[str, object] = json.loads(self.process.stdout.readline())
        return read

    def run(self, folder: Path, **command: object) -> dict[str, object]:
        """Run a worker on a folder; ``signal`` 9 says that it was killed."""
        assert self.process.stdin is not None
        told = {"folder": str(folder / "state"), "answers": str(folder / "answers"), **command}
        self.process.stdin.write(json.dumps(told) + "\n")
        self.process.stdin.flush()
        return self._read()

    def close(self) -> None:
        """End the process."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.close()
        self.process.wait(timeout=60)
        self.process.stdout.close()

    def check(self, folder: Path) -> list[int]:
        """Hold answers and final state against the undisturbed run.

        Returns
        -------
        list of int
            For each start, how many answers that were given the state no longer held.
        """
        lines = (folder / "answers").read_text().splitlines()
        lost, answered = [], -1
        for line in lines:
            word, _, rest = line.partition(" ")
            if word == "start":
                lost.append(max(0, answered + 1 - int(rest)))
                answered = int(rest) - 1
            elif word != "done":
                assert self.answers[int(word)] == rest, f"another answer at {word}"
                answered = max(answered, int(word))
        assert lines[-1] == f"done {self.digest}"
        return lost

    def check_clean(self, folder: Path) -> None:
        """See that no unfinished file lies about."""
        left = sorted(path.name for path in (folder / "state").iterdir())
        assert not [name for name in left if name.endswith(".new")], left
