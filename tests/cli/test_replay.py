"""`sentinel replay` in real processes: the same twice, counted, stopped, continued."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
from tests.cli.conftest import wait_for

from sentinel.cli.exits import ExitCode
from sentinel.contract.quarantine import read_quarantine

Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="session")
def kit(release_kit: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Make a release, and a file of events for it."""
    folder = tmp_path_factory.mktemp("replay")
    release, events = folder / "release", folder / "events.ndjson"
    release_kit.build_release(
        release_kit.good_candidate(),
        release,
        created_at_ms=release_kit.NOW_MS,
        builder=release_kit.BUILDER,
    )
    events.write_bytes(b"".join(line + b"\n" for line in release_kit.raw_events()))
    return release, events


def test_two_runs_write_the_same_bytes_and_count_everything(
    run: Run, kit: tuple[Path, Path], tmp_path: Path
) -> None:
    release, events = map(str, kit)
    contents = []
    for name in ("first", "second"):
        ended = run(
            *("replay", release, "--unapproved", "--events", events),
            *("--decisions", name, "--log", f"{name}-log", "--json"),
        )
        # Nobody approved the release, and the exit code says what the page says.
        assert ended.returncode == ExitCode.DEGRADED, ended.stderr
        document = json.loads(ended.stdout)
        assert document["troubles"] == []
        assert document["read"] == document["decided"] == 2000
        assert document["standing"] == "NOT APPROVED"
        contents.append((tmp_path / name).read_bytes())
    assert contents[0] == contents[1]
    assert not (tmp_path / "quarantine").exists()


def test_an_unapproved_release_does_not_decide_unasked(run: Run, kit: tuple[Path, Path]) -> None:
    release, events = map(str, kit)
    ended = run("replay", release, "--events", events, "--decisions", "out", "--json")
    assert ended.returncode == ExitCode.RELEASE
    error = json.loads(ended.stdout)["error"]
    assert error["code"] == "release-not-approved"
    assert "--trust" in error["hint"]
    assert "--unapproved" in error["hint"]
    assert not Path("out").exists()


def test_the_page_for_people_fits_and_says_that_nobody_approved(
    run: Run, kit: tuple[Path, Path]
) -> None:
    release, events = map(str, kit)
    ended = run("replay", release, "--unapproved", "--events", events)
    assert ended.returncode == ExitCode.DEGRADED
    assert "NOT APPROVED" in ended.stdout
    assert "System Status: DEGRADED" in ended.stdout
    assert ended.stderr == ""
    assert max(len(line) for line in ended.stdout.splitlines()) <= 100


def test_status_verifies_and_asks_the_canary(run: Run, kit: tuple[Path, Path]) -> None:
    ended = run("status", str(kit[0]), "--unapproved", "--json")
    assert ended.returncode == ExitCode.DEGRADED
    document = json.loads(ended.stdout)
    assert document["canary"] == "the canary gave its recorded answers"
    assert any("NOT APPROVED" in trouble for trouble in document["troubles"])


def test_a_changed_byte_is_refused_by_every_command(
    run: Run, kit: tuple[Path, Path], tmp_path: Path
) -> None:
    import shutil

    broken = tmp_path / "broken"
    shutil.copytree(kit[0], broken)
    model = broken / "model.onnx"
    content = bytearray(model.read_bytes())
    content[len(content) // 2] ^= 1
    model.write_bytes(bytes(content))
    for arguments in (
        ("release", "show", str(broken)),
        ("release", "verify", str(broken)),
        ("status", str(broken), "--unapproved"),
        ("replay", str(broken), "--unapproved", "--events", str(kit[1])),
    ):
        ended = run(*arguments)
        assert ended.returncode == ExitCode.RELEASE
        assert ended.stderr.startswith("sentinel: release-corrupt: ")
    listed = run("release", "list", str(tmp_path), "--json")
    assert json.loads(listed.stdout)["releases"][0]["standing"] == "REFUSED: release-corrupt"


def test_resuming_needs_the_file_that_was_being_written(run: Run, kit: tuple[Path, Path]) -> None:
    release, events = map(str, kit)
    ended = run("replay", release, "--unapproved", "--events", events, "--resume")
    assert ended.returncode == ExitCode.USAGE
    assert "usage-invalid: --resume" in ended.stderr


@pytest.mark.parametrize(
    ("number", "code"),
    [(signal.SIGINT, ExitCode.INTERRUPTED), (signal.SIGTERM, ExitCode.TERMINATED)],
)
def test_a_signal_in_the_middle_can_be_continued(
    run: Run, kit: tuple[Path, Path], tmp_path: Path, number: signal.Signals, code: ExitCode
) -> None:
    """What was written is good, and the rest follows without a gap, though stopped once more."""
    release, events = kit
    many = tmp_path / "many.ndjson"
    # Other ids, so that nothing is a duplicate: long enough to be stopped in the middle.
    lines = events.read_text().splitlines()
    with many.open("w") as file:
        for turn in range(30):
            file.writelines(
                line.replace('"payment_id": "p', f'"payment_id": "q{turn}-') + "\n"
                for line in lines
            )
    arguments = (
        *("replay", str(release), "--unapproved", "--events", str(many)),
        *("--batch-events", "10", "--json"),
    )
    whole = run(*arguments, "--decisions", "whole")
    assert whole.returncode in {ExitCode.OK, ExitCode.DEGRADED}, whole.stderr
    process = subprocess.Popen(
        [sys.executable, "-m", "sentinel.cli", *arguments, "--decisions", "out"],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    partial = tmp_path / "out.partial"
    wait_for(process, lambda: partial.exists() and partial.stat().st_size > 0)
    process.send_signal(number)
    out, error = process.communicate(timeout=60)
    assert process.returncode == code
    document = json.loads(out)
    assert document["interrupted"]
    assert 0 < document["next_position"] < 60_000
    assert "--resume" in error
    assert not (tmp_path / "out").exists()
    ended = run(*arguments, "--decisions", "out", "--resume")
    assert ended.returncode == whole.returncode, ended.stderr
    assert (tmp_path / "out").read_bytes() == (tmp_path / "whole").read_bytes()


def test_what_was_kept_can_be_looked_into(run: Run, kit: tuple[Path, Path], tmp_path: Path) -> None:
    """Decisions by event and outcome, refused events by reason."""
    dirty = tmp_path / "dirty.ndjson"
    dirty.write_bytes(kit[1].read_bytes() + b"NaN\n{}\n")
    ended = run(
        *("replay", str(kit[0]), "--unapproved", "--events", str(dirty)),
        *("--log", "log", "--quarantine", "kept", "--json"),
    )
    assert json.loads(ended.stdout)["refused"] == {"non_finite": 1, "missing_field": 1}
    found = json.loads(run("decisions", "log", "--event-id", "p7", "--json").stdout)
    assert [each["event_id"] for each in found["decisions"]] == ["p7"]
    assert set(found["decisions"][0]["features"]) == {
        *("amount", "n_1h", "mean_1d", "pause_s", "channel")
    }
    declined = json.loads(run("decisions", "log", "--outcome", "decline", "--json").stdout)
    assert declined["found"] == json.loads(ended.stdout)["outcomes"]["decline"]
    kept = json.loads(run("quarantine", "kept", "--limit", "1", "--json").stdout)
    assert kept["refused"] == {"non_finite": 1, "missing_field": 1}
    assert [each["position"] for each in kept["first"]] == [2000]
    assert run("quarantine", "nowhere").returncode == ExitCode.FILE


def many_events(events: Path, out: Path, *, n_turns: int, bad_every: int) -> None:
    """Repeat events under other names, with a line that is no event in between."""
    lines = events.read_text().splitlines()
    with out.open("w") as file:
        for turn in range(n_turns):
            for i, line in enumerate(lines):
                file.write(line.replace('"payment_id": "p', f'"payment_id": "q{turn}-') + "\n")
                if i % bad_every == 0:
                    file.write(f'{{"bad": "{turn}-{i}"}}\n')


def n_refused(kept: Path) -> int:
    return sum(1 for _ in read_quarantine(kept)) if kept.exists() else 0


def test_a_replay_killed_again_and_again_quarantines_once(
    run: Run, kit: tuple[Path, Path], tmp_path: Path
) -> None:
    """SIGKILL before the first checkpoint, and while it catches up; every refusal stands once."""
    many, kept = tmp_path / "many.ndjson", tmp_path / "kept"
    many_events(kit[1], many, n_turns=20, bad_every=100)
    arguments = (
        *("replay", str(kit[0]), "--unapproved", "--events", str(many)),
        *("--batch-events", "50", "--decisions", "out", "--quarantine", "kept"),
        *("--log", "log", "--json"),
    )
    for n_before in (5, 60, 120):
        process = subprocess.Popen(
            [sys.executable, "-m", "sentinel.cli", *arguments, "--resume"],
            cwd=tmp_path,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        wait_for(process, lambda n=n_before: n_refused(kept) >= n)
        process.kill()
        process.communicate(timeout=60)
    ended = run(*arguments, "--resume")
    assert ended.returncode == ExitCode.DEGRADED, ended.stderr
    document = json.loads(ended.stdout)
    assert document["quarantined"] == 400
    positions = [record.position for record in read_quarantine(kept)]
    assert positions == sorted(set(positions))
    assert len(positions) == 400
    logged = json.loads(run("decisions", "log", "--json").stdout)
    assert logged["found"] == document["decided"] == 40_000


def test_what_stands_there_already_is_not_written_over(
    run: Run, kit: tuple[Path, Path], tmp_path: Path
) -> None:
    """A precious file, the events themselves, a link to them, a place in the release."""
    release, events = kit
    own = tmp_path / "events.ndjson"
    own.write_bytes(events.read_bytes())
    (tmp_path / "precious").write_text("precious")
    (tmp_path / "link").symlink_to(own)
    (tmp_path / "hard").hardlink_to(own)
    (tmp_path / "into").symlink_to(release)
    base = ("replay", str(release), "--unapproved", "--events", str(own), "--json")
    always = ["events.ndjson", "link", "hard", str(release / "new"), "into/new"]
    before = sorted(path.name for path in release.iterdir())
    cases = [("precious",), ("precious", "--resume"), *((name, "--force") for name in always)]
    for name, *more in cases:
        ended = run(*base, "--decisions", name, *more)
        assert ended.returncode == ExitCode.USAGE, (name, ended.stderr)
        error = json.loads(ended.stdout)["error"]
        assert (error["code"], error["at"]) == ("output-exists", name)
    partial = tmp_path / "new.partial"
    partial.symlink_to(own)
    assert run(*base, "--decisions", "new", "--force").returncode == ExitCode.USAGE
    assert own.read_bytes() == events.read_bytes()
    assert (tmp_path / "precious").read_text() == "precious"
    assert sorted(path.name for path in release.iterdir()) == before
    assert run(*base, "--decisions", "precious", "--force").returncode == ExitCode.DEGRADED
    assert (tmp_path / "precious").read_text().startswith("{")


def test_decisions_without_a_folder_are_refused_before_the_work(
    run: Run, kit: tuple[Path, Path], tmp_path: Path
) -> None:
    release, events = map(str, kit)
    ended = run("replay", release, "--unapproved", "--events", events, "--decisions", "no/x")
    assert ended.returncode == ExitCode.FILE
    assert "file-unwritable: no/x: expected a folder that exists, got none" in ended.stderr
    assert "--resume" not in ended.stderr
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("how", "remedy"), [("a folder", "Nothing was written: "), ("a full disk", "with --resume")]
)
def test_decisions_that_cannot_be_written_name_what_helps(
    run: Run, kit: tuple[Path, Path], tmp_path: Path, how: str, remedy: str
) -> None:
    """Only what was begun can be resumed."""
    partial = tmp_path / "d.partial"
    if how == "a folder":
        partial.mkdir()
    else:
        partial.symlink_to("/dev/full")
    release, events = kit
    base = ("replay", str(release), "--unapproved", "--events", str(events), "--decisions", "d")
    told = run(*base)
    assert told.returncode == ExitCode.FILE, told.stderr
    assert "file-unwritable: d.partial: " in told.stderr
    assert remedy in told.stderr
    assert ("--resume" in told.stderr) == (how == "a full disk")


def test_a_run_that_came_to_nothing_does_not_end_well(
    run: Run, kit: tuple[Path, Path], tmp_path: Path
) -> None:
    """All events refused, too many, all feedback refused, nothing to decide: each is said."""
    release, events = kit
    lines = events.read_text().splitlines(keepends=True)
    (tmp_path / "bad").write_text("{}\n" * 3)
    (tmp_path / "half").write_text("".join(lines[:300]) + "{}\n" * 300)
    base = ("replay", str(release), "--unapproved", "--json", "--events")
    for arguments, sentence in (
        (("bad",), "all 3 events were refused"),
        (("half",), "300 of 600 events were refused"),
        ((str(events), "--feedback", "bad"), "all 3 feedback events were refused"),
        ((str(events), "--from", "99999"), "--from is beyond the end"),
    ):
        ended = run(*base, *arguments)
        assert ended.returncode == ExitCode.DEGRADED
        document = json.loads(ended.stdout)
        assert sentence in document["troubles"][0]
        assert sentence in ended.stderr
        if "--feedback" in arguments:
            assert document["feedback_quarantined"] == 3
            assert document["feedback_refused"] == {"missing_field": 3}


def test_a_log_and_a_quarantine_that_hold_something_are_said_to_be_added_to(
    run: Run, kit: tuple[Path, Path], tmp_path: Path
) -> None:
    (tmp_path / "some").write_bytes(kit[1].read_bytes() + b"{}\n")
    arguments = (
        *("replay", str(kit[0]), "--unapproved", "--events", "some"),
        *("--log", "log", "--quarantine", "kept", "--json"),
    )
    assert "added" not in run(*arguments).stderr
    again = run(*arguments)
    assert "log holds a decision log already" in again.stderr
    assert "kept held refused events already" in again.stderr
