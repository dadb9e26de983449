"""What tests of front workers ask of a server of several processes."""

from __future__ import annotations

import json
from pathlib import Path

import psutil
from process_rig import ServerProcess

FRONT_SERVER = str(Path(__file__).parent / "front_server.py")


def parts(running: ServerProcess) -> dict[str, int]:
    """Return the process ids of the parts, by name, as the log last named them."""
    found: dict[str, int] = {}
    for line in log_lines(running):
        if line["message"] == "a process has started":
            found[str(line["part"])] = int(str(line["pid"]))
    return found


def log_lines(running: ServerProcess) -> list[dict[str, object]]:
    """Read the log that is whole so far."""
    whole = running.stderr.read_text().rpartition("\n")[0]
    return [json.loads(line) for line in whole.splitlines() if line.startswith("{")]


def ends(running: ServerProcess) -> list[dict[str, object]]:
    """Return what the log says of processes that ended."""
    return [line for line in log_lines(running) if line["message"] == "a process has ended"]


def marker(folder: Path, part: str) -> dict[str, object]:
    """Read the marker of a part."""
    found: dict[str, object] = json.loads((folder / "run" / f"last-end-{part}.json").read_text())
    return found


def is_running(pid: int) -> bool:
    """Whether a process runs, and is no zombie."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
