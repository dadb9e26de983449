"""`sentinel file-log`: topics of files made, filled and looked at, by hand."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from sentinel.cli.exits import ExitCode
from sentinel.streaming import FileLog, FileLogWriter

Run = Callable[..., subprocess.CompletedProcess[str]]
LINES = [f'{{"id": "p{n}", "card": "c{n % 7}"}}' for n in range(50)]


def create(run: Run, *more: str) -> subprocess.CompletedProcess[str]:
    return run("file-log", "create", "topics", "--topic", "payments", *more)


@pytest.mark.parametrize(
    "flags", [("--partitions", "0"), ("--topic", "../up"), ("--topic", ""), ("--topic", "..")]
)
def test_topic_that_none_may_be_is_refused(
    run: Run, tmp_path: Path, flags: tuple[str, ...]
) -> None:
    said = create(run, *flags)
    assert said.returncode == ExitCode.USAGE
    assert "usage-invalid" in said.stderr
    assert not list(tmp_path.iterdir()), "nothing was made, of good names neither"


def test_topic_that_is_not_there_is_named(run: Run, tmp_path: Path) -> None:
    (tmp_path / "e.ndjson").write_text("{}\n")
    for command in (
        ("append", ".", "--topic", "nothing", "--events", "e.ndjson"),
        ("show", ".", "--topic", "nothing"),
    ):
        said = run("file-log", *command)
        assert said.returncode == ExitCode.INPUT
        assert "stream-topic-missing: nothing" in said.stderr
    said = run("file-log", "show", "nowhere")
    assert said.returncode == ExitCode.FILE
    assert "file-missing: nowhere" in said.stderr
    said = run("file-log", "show", ".")
    assert said.returncode == ExitCode.INPUT, "a folder that is no log"
    assert "stream-topic-missing: ." in said.stderr


def test_topic_that_is_there_is_left_as_it_is(run: Run) -> None:
    assert create(run, "--partitions", "3", "--json").returncode == ExitCode.OK
    again = create(run, "--partitions", "5", "--topic", "decisions", "--json")
    assert json.loads(again.stdout) == {"partitions": {"payments": 3, "decisions": 5}}


def test_lines_of_one_key_lie_in_one_partition_in_their_order(run: Run, tmp_path: Path) -> None:
    """Lines without a key, or that are no event, lie in the first and are counted."""
    odd = ["[]", "not JSON", '{"card": null}', '{"card": 1.5}', '{"card": 7}']
    (tmp_path / "e.ndjson").write_text("\n".join([*LINES, *odd]) + "\n")
    create(run, "--partitions", "4")
    command = ("append", "topics", "--topic", "payments", "--events", "e.ndjson", "--key", "card")
    said = json.loads(run("file-log", *command, "--json").stdout)
    assert (said["events"], said["without_key"]) == (55, 4)
    assert sum(said["next_positions"].values()) == 55
    log = FileLog(tmp_path / "topics", "payments", with_keys=True)
    log.add(dict.fromkeys(range(4), 0))
    homes: dict[str, set[int]] = {}
    found: dict[str, list[str]] = {}
    n_without = 0
    for batch in log.read(1000, 0.0).batches:
        for i, key in enumerate(batch.keys or ()):
            line = batch.raw.event_bytes(i).decode()
            if key is None:
                n_without += 1
                assert batch.raw.partition == 0
                continue
            homes.setdefault(key.decode(), set()).add(batch.raw.partition)
            found.setdefault(key.decode(), []).append(line)
    log.close()
    assert n_without == 4
    assert all(len(home) == 1 for home in homes.values())
    assert {key: lines for key, lines in found.items() if key != "7"} == {
        f"c{n}": [line for line in LINES if f'"c{n}"' in line] for n in range(7)
    }


def test_partitions_are_shown_with_positions_stamps_and_a_torn_end(
    run: Run, tmp_path: Path
) -> None:
    create(run, "--partitions", "2")
    writer = FileLogWriter(tmp_path / "topics", "payments", segment_bytes=100)
    for position in range(3):
        writer.append(1, [b"x" * 80], times_ms=[1_736_121_600_000 + position])
    writer.forget(1, 1)
    writer.close()
    last = max((tmp_path / "topics" / "payments" / "00001").glob("*.events"))
    last.write_bytes(last.read_bytes() + b"SEL")
    shown = json.loads(run("file-log", "show", "topics", "--json").stdout)["partitions"]
    assert shown[0] | {"oldest_ms": None} == {
        "topic": "payments", "partition": 0, "first_position": 0, "next_position": 0,
        "n_segments": 0, "n_bytes": 0, "oldest_ms": None, "newest_ms": None, "is_torn": False,
    }  # fmt: skip
    assert (shown[1]["first_position"], shown[1]["next_position"]) == (1, 3)
    assert (shown[1]["oldest_ms"], shown[1]["newest_ms"]) == (1_736_121_600_001, 1_736_121_600_002)
    assert shown[1]["is_torn"]
    page = run("file-log", "show", "topics", "--topic", "payments").stdout
    assert "2025-01-06" in page
    assert [line.split()[1] for line in page.splitlines() if "payments/" in line] == ["–", "1-2"]
    assert "torn" in page
