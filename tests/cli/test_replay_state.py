"""`sentinel replay` on a kept store: processes killed at any time, the same bytes in the end."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

from sentinel.cli.exits import ExitCode
from sentinel.testing import wait_until

Run = Callable[..., subprocess.CompletedProcess[str]]

N_TURNS = 90


@pytest.fixture(scope="session")
def world(
    release_kit: ModuleType, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Path, Path]:
    """Make a release, many events for it, and their feedback."""
    folder = tmp_path_factory.mktemp("state")
    release, events, feedback = folder / "release", folder / "e.ndjson", folder / "f.ndjson"
    release_kit.build_release(
        release_kit.good_candidate(),
        release,
        created_at_ms=release_kit.NOW_MS,
        builder=release_kit.BUILDER,
    )
    lines = [json.loads(line) for line in release_kit.raw_events()]
    span_ms = lines[-1]["paid_at"] - lines[0]["paid_at"] + 1000
    with events.open("w") as out, feedback.open("w") as known:
        for turn in range(N_TURNS):
            for line in lines:
                name = f"q{turn}-{line['payment_id']}"
                at = line["paid_at"] + turn * span_ms
                out.write(json.dumps({**line, "payment_id": name, "paid_at": at}) + "\n")
                verdict = {
                    "verdict_id": name,
                    "known_at": at + 3_600_000,
                    "payment_id": name,
                    "is_fraud": turn % 7 == 0,
                }
                known.write(json.dumps(verdict) + "\n")
    return release, events, feedback


def arguments_of(world: tuple[Path, Path, Path]) -> tuple[str, ...]:
    release, events, feedback = map(str, world)
    return (
        *("replay", release, "--unapproved", "--events", events, "--feedback", feedback),
        *("--batch-events", "256", "--json"),
    )


def replayed_few(run: Run, world: tuple[Path, Path, Path], folder: Path) -> tuple[str, ...]:
    """Replay 500 events into a kept state; give the arguments that did it."""
    few = folder / "few.ndjson"
    few.write_bytes(b"".join(world[1].read_bytes().splitlines(keepends=True)[:500]))
    base = (
        *("replay", str(world[0]), "--unapproved"),
        *("--events", str(few), "--store", "embedded:state"),
    )
    assert run(*base).returncode in {ExitCode.OK, ExitCode.DEGRADED}
    return base


def size_of(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


@pytest.mark.parametrize("durability", ["process", "power"])
def test_a_replay_killed_again_and_again_writes_the_same_bytes(
    run: Run, world: tuple[Path, Path, Path], tmp_path: Path, durability: str
) -> None:
    """SIGKILL at random times, then --resume: as if nobody had killed it."""
    arguments = arguments_of(world)
    whole = run(*arguments, "--decisions", "whole")
    assert whole.returncode in {ExitCode.OK, ExitCode.DEGRADED}, whole.stderr
    seed = 11 if durability == "process" else 12
    chance = random.Random(seed)
    stateful = (
        *arguments,
        "--store",
        "embedded:state",
        "--durability",
        durability,
        "--decisions",
        "out",
    )
    partial, n_killed = tmp_path / "out.partial", 0
    for number in range(4):
        process = subprocess.Popen(
            [sys.executable, "-m", "sentinel.cli", *stateful, "--resume"],
            cwd=tmp_path,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        before = size_of(partial)
        wait_until(
            lambda process=process, before=before: (
                process.poll() is not None or size_of(partial) > before
            ),
            every_s=0.005,
        )
        if number:  # the first at once: a fast machine soon has no more to do
            time.sleep(chance.random() * 0.5)
        if process.poll() is None:
            process.send_signal(signal.SIGKILL)
            n_killed += 1
        process.communicate(timeout=60)
        if (tmp_path / "out").exists():
            break
    assert n_killed, "the events are too few to be killed in between"
    if not (tmp_path / "out").exists():
        ended = run(*stateful, "--resume")
        assert ended.returncode == whole.returncode, ended.stderr
    assert (tmp_path / "out").read_bytes() == (tmp_path / "whole").read_bytes()


def test_the_next_day_goes_on_with_the_state_of_the_day_before(
    run: Run, world: tuple[Path, Path, Path], tmp_path: Path
) -> None:
    """Two files one after the other decide as one file does, and the second does not begin anew."""
    release, events, _ = world
    lines = events.read_bytes().splitlines(keepends=True)[:3000]
    (tmp_path / "both.ndjson").write_bytes(b"".join(lines))
    (tmp_path / "one.ndjson").write_bytes(b"".join(lines[:1700]))
    (tmp_path / "two.ndjson").write_bytes(b"".join(lines[1700:]))
    base = ("replay", str(release), "--unapproved")
    run(*base, "--events", "both.ndjson", "--decisions", "both")
    for name in ("one", "two"):
        ended = run(
            *base, "--events", f"{name}.ndjson", "--store", "embedded:state", "--decisions", name
        )
        assert ended.returncode in {ExitCode.OK, ExitCode.DEGRADED}, ended.stderr
    parts = (tmp_path / "one").read_bytes() + (tmp_path / "two").read_bytes()
    assert parts == (tmp_path / "both").read_bytes()


def test_a_state_that_holds_the_file_already_is_not_begun_anew(
    run: Run, world: tuple[Path, Path, Path], tmp_path: Path
) -> None:
    base = replayed_few(run, world, tmp_path)
    again = run(*base)
    assert again.returncode != ExitCode.OK
    assert "state-not-fresh: few.ndjson: expected" in again.stderr
    assert "before line 500" in again.stderr
    ended = run(*base, "--resume", "--json")
    assert json.loads(ended.stdout)["read"] == 0


def test_state_can_be_looked_at_checked_and_compacted(
    run: Run, world: tuple[Path, Path, Path], tmp_path: Path
) -> None:
    replayed_few(run, world, tmp_path)
    seen = json.loads(run("store", "inspect", "state", "--json").stdout)
    assert seen["snapshots"][0]["n_events"] == 500
    assert seen["snapshots"][0]["positions"] == {"few.ndjson/0": 500}
    assert run("store", "verify", "state").returncode == ExitCode.OK
    last = max((tmp_path / "state").glob("wal-*"))
    last.write_bytes(last.read_bytes()[:-7])
    torn = run("store", "verify", "state")
    assert torn.returncode == ExitCode.OK, "a crash leaves such an end; " + torn.stdout
    assert "as a crash leaves them" in torn.stdout
    compacted = run("store", "compact", "state", "--release", str(world[0]), "--unapproved")
    assert compacted.returncode == ExitCode.OK, compacted.stderr
    (snapshot,) = sorted((tmp_path / "state").glob("snapshot-*"))[-1:]
    content = bytearray(snapshot.read_bytes())
    content[-1] ^= 1
    snapshot.write_bytes(bytes(content))
    refused = run("store", "verify", "state")
    assert refused.returncode == ExitCode.INPUT
    assert snapshot.name in refused.stdout
    damaged = run("store", "inspect", "state", "--json")
    assert damaged.returncode == ExitCode.INPUT
    assert json.loads(damaged.stdout)["snapshots"][0]["n_bytes"] == len(content)
    nowhere = run("store", "inspect", "nowhere")
    assert nowhere.returncode == ExitCode.FILE
    assert "file-missing: nowhere: expected a folder of feature state" in nowhere.stderr


def test_a_state_is_brought_up_to_a_place_and_a_later_run_goes_on_there(
    run: Run, world: tuple[Path, Path, Path], tmp_path: Path
) -> None:
    """Learning alone decides nothing; what it refuses to do it says before it begins."""
    state = tmp_path / "state"
    base = ("replay", str(world[0]), "--unapproved", "--events", str(world[1]), "--feedback",
            str(world[2]), "--quarantine", str(tmp_path / "q"), "--json")  # fmt: skip
    refused = run(*base, "--learn-only")
    assert refused.returncode == ExitCode.USAGE
    assert "--store" in refused.stderr
    learned = run(*base, "--store", f"embedded:{state}", "--from", "500", "--learn-only")
    assert learned.returncode == ExitCode.DEGRADED, "nobody approved it; " + learned.stderr
    assert (json.loads(learned.stdout)["history"], json.loads(learned.stdout)["read"]) == (500, 0)
    assert json.loads(learned.stdout)["history_seconds"] > 0
    rest = run(*base, "--store", f"embedded:{state}", "--resume", "--from", "500")
    assert json.loads(rest.stdout)["read"] == len(world[1].read_bytes().splitlines()) - 500, (
        rest.stderr
    )


def test_compact_refuses_a_damaged_log_and_leaves_it_as_it_is(
    run: Run, world: tuple[Path, Path, Path], tmp_path: Path
) -> None:
    """Whole records stand behind the damage: writing the state anew would drop them for good."""
    state = tmp_path / "state"
    base = ("replay", str(world[0]), "--unapproved", "--events", str(world[1]), "--quarantine",
            str(tmp_path / "q"), "--from", "2000", "--learn-only")  # fmt: skip
    assert run(*base, "--store", f"embedded:{state}").returncode == ExitCode.DEGRADED
    for snapshot in state.glob("snapshot-*"):
        snapshot.unlink()
    segments = sorted(state.glob("wal-*"), key=lambda path: path.stat().st_size)
    assert segments[-1].stat().st_size > 4_000
    content = bytearray(segments[-1].read_bytes())
    content[3_000:3_002] = bytes(byte ^ 0xFF for byte in content[3_000:3_002])
    segments[-1].write_bytes(content)
    refused = run("store", "compact", str(state), "--release", str(world[0]), "--unapproved")
    assert refused.returncode == ExitCode.INPUT
    assert "state-corrupt" in refused.stderr
    assert segments[-1].read_bytes() == bytes(content)
