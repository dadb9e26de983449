"""`sentinel features get`: a real store, a real process, what the next event would read."""

from __future__ import annotations

import json
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import pytest

from sentinel.cli.exits import ExitCode
from sentinel.contract import RawBatch
from sentinel.contract.decoder import Decoder
from sentinel.features.stores.redis.store import RedisSettings, RedisStore
from sentinel.release import load_release
from sentinel.testing.redis_server import RedisServer

Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def world(release_kit: ModuleType) -> Iterator[tuple[Path, RedisServer, list[dict[str, object]]]]:
    """Make a release, and a store that has seen its events."""
    folder = Path(tempfile.mkdtemp(prefix="redis-"))
    release = folder / "release"
    release_kit.build_release(
        release_kit.good_candidate(),
        release,
        created_at_ms=release_kit.NOW_MS,
        builder=release_kit.BUILDER,
    )
    lines = release_kit.raw_events()
    with RedisServer(folder / "s") as server:
        plan = load_release(
            release, None, now_ms=release_kit.NOW_MS, allow_unapproved=True
        ).parts.plan
        decoded = Decoder(plan.features.events).decode(
            RawBatch.from_events(lines, source="payments", first_position=0)
        )
        store = RedisStore(plan, RedisSettings(url=server.url, name="shop", deadline_ms=10_000))
        store.advance(decoded.events)
        store.close()
        yield release, server, [json.loads(line) for line in lines]
    shutil.rmtree(folder)


def test_values_of_known_and_unknown_keys(
    run: Run, world: tuple[Path, RedisServer, list[dict[str, object]]], tmp_path: Path
) -> None:
    release, server, events = world
    address = tmp_path / "redis.url"
    address.touch(mode=0o600)
    address.write_text(server.url + "?name=shop\n")
    key = str(events[0]["card_id"])
    latest = max(int(str(event["paid_at"])) for event in events)
    told = run(
        "features", "get", "card", key, "nobody", "--store", f"@{address}",
        "--release", str(release), "--unapproved", "--at", str(latest), "--json",
    )  # fmt: skip
    assert told.returncode == ExitCode.OK, told.stderr
    known, unknown = json.loads(told.stdout)["entities"]
    assert (known["key"], known["is_known"]) == (key, True)
    assert (unknown["key"], unknown["is_known"]) == ("nobody", False)
    assert any(part["status"] == "present" and part["value"] for part in known["features"].values())
    assert set(known["features"]) == set(unknown["features"])


def test_unknown_entity_and_store_are_named(
    run: Run, world: tuple[Path, RedisServer, list[dict[str, object]]]
) -> None:
    release, server, _ = world
    rest = ("--release", str(release), "--unapproved")
    told = run("features", "get", "house", "h-1", "--store", f"{server.url}?name=shop", *rest)
    assert told.returncode != ExitCode.OK
    assert "entity-keys-invalid" in told.stderr
    told = run("features", "get", "card", "c-1", "--store", f"{server.url}?name=elsewhere", *rest)
    assert "state-missing" in told.stderr
    told = run("features", "get", "card", "c-1", *rest, SENTINEL_STORE="embedded:state")
    assert "store-address-invalid: --store: expected a store in Redis" in told.stderr


@pytest.mark.parametrize(
    ("at", "hint"),
    [("1736121622", "In seconds? Then it is 1736121622000"), ("9" * 20, ""), ("0", ""), ("-5", "")],
)
def test_a_time_that_no_event_has_is_refused(
    run: Run, world: tuple[Path, RedisServer, list[dict[str, object]]], at: str, hint: str
) -> None:
    release, server, _ = world
    asked = ("features", "get", "card", "c-1", "--store", f"{server.url}?name=shop")
    told = run(*asked, "--release", str(release), "--unapproved", "--at", at)
    assert told.returncode == ExitCode.USAGE, told.stderr
    assert "usage-invalid: --at: expected milliseconds since 1970" in told.stderr
    assert hint in told.stderr


def test_redis_that_is_not_there_is_to_be_started(
    run: Run, world: tuple[Path, RedisServer, list[dict[str, object]]]
) -> None:
    """The command has ended: nothing of it tries again."""
    asked = ("features", "get", "card", "c-1", "--store", "redis://127.0.0.1:1/0")
    told = run(*asked, "--release", str(world[0]), "--unapproved")
    assert told.returncode == ExitCode.INPUT
    assert "store-unreachable" in told.stderr
    assert "Start Redis, or correct the address" in told.stderr


def test_an_empty_key_is_refused(
    run: Run, world: tuple[Path, RedisServer, list[dict[str, object]]]
) -> None:
    release, server, _ = world
    asked = ("features", "get", "card", "", "--store", f"{server.url}?name=shop")
    told = run(*asked, "--release", str(release), "--unapproved")
    assert told.returncode == ExitCode.INPUT
    assert "entity-keys-invalid: KEY" in told.stderr


def test_store_of_a_partition_is_found_among_all(
    run: Run,
    release_kit: ModuleType,
    world: tuple[Path, RedisServer, list[dict[str, object]]],
) -> None:
    """Cards in two of four partitions; the others have had no event."""
    release, server, events = world
    plan = load_release(release, None, now_ms=release_kit.NOW_MS, allow_unapproved=True).parts.plan
    cards = sorted({str(event["card_id"]) for event in events})[:2]
    for partition, card in zip((1, 3), cards, strict=True):
        own = [json.dumps(event).encode() for event in events if event["card_id"] == card]
        settings = RedisSettings(
            url=server.url, name=f"parted.partition-{partition:05d}", deadline_ms=10_000
        )
        store = RedisStore(plan, settings)
        raw = RawBatch.from_events(own, source="payments", partition=partition)
        store.advance(Decoder(plan.features.events).decode(raw).events)
        store.close()
    command = ("features", "get", "card", *cards, "nobody", "--store", f"{server.url}?name=parted")
    rest = ("--release", str(release), "--unapproved", "--json")
    told = run(*command, *rest)
    assert "state-missing" in told.stderr
    assert "--partitions N" in told.stderr
    told = run(*command, *rest, "--partitions", "4")
    assert told.returncode == ExitCode.OK, told.stderr
    found = json.loads(told.stdout)["entities"]
    assert [part["is_known"] for part in found] == [True, True, False]
    assert all(
        any(value["status"] == "present" for value in part["features"].values())
        for part in found[:2]
    )
    told = run(*command[:-1], f"{server.url}?name=elsewhere", *rest, "--partitions", "4")
    assert "state-missing" in told.stderr
