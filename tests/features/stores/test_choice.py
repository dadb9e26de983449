"""A store is chosen by one word; what is none is refused with the way out, no password shown."""

from __future__ import annotations

from pathlib import Path

import pytest
from feature_world import every_kind

from sentinel.core.configuration import load_configuration
from sentinel.core.errors import ErrorCode, SentinelError
from sentinel.features import Engine, compile_plan
from sentinel.features.stores.choice import StoreKind, open_store, parse_store, redis_settings
from sentinel.features.stores.durable import DurableStore
from sentinel.features.stores.embedded import Durability, EmbeddedStore
from sentinel.features.stores.redis.address import parse_address, parse_cluster
from sentinel.features.stores.redis.store import OnLoss

PLAN = compile_plan(every_kind())


@pytest.mark.parametrize(
    "text",
    [
        "",
        "state",
        "embedded:",
        "embedded",
        "http://cache:6379",
        "redis:cache:6379",
        "redis//:hunter2@cache",
        "redis://:hunter2@cache:6379/0?nmae=shop",
        "redis+sentinel://:hunter2@cache:6379",
    ],
)
def test_what_is_no_choice_is_refused_without_its_password(text: str) -> None:
    with pytest.raises(SentinelError) as caught:
        parse_store(text)
    assert caught.value.code is ErrorCode.STORE_ADDRESS_INVALID
    assert caught.value.at == "--store"
    assert "hunter2" not in str(caught.value)


def test_a_folder_without_its_word_is_told_how_it_is_written() -> None:
    with pytest.raises(SentinelError) as caught:
        parse_store("state")
    assert "embedded:state" in str(caught.value)


@pytest.mark.parametrize(
    ("text", "kind", "shown"),
    [
        ("memory", StoreKind.MEMORY, "memory"),
        ("embedded:a/b", StoreKind.EMBEDDED, "embedded:a/b"),
        ("redis://me:hunter2@cache/1", StoreKind.REDIS, "redis://…@cache/1"),
        ("rediss://:hunt@er2@cache", StoreKind.REDIS, "rediss://…@cache"),
        ("unix:///tmp/redis.sock", StoreKind.REDIS, "unix:///tmp/redis.sock"),
        ("redis+cluster://:hunter2@a:1,b:2", StoreKind.REDIS, "redis+cluster://…@a:1,b:2"),
    ],
)
def test_choices_are_read_and_shown_without_passwords(
    text: str, kind: StoreKind, shown: str
) -> None:
    choice = parse_store(text)
    assert (choice.kind, choice.shown) == (kind, shown)
    assert "hunter2" not in repr(choice)
    assert choice.is_kept is (kind is not StoreKind.MEMORY)


def test_file_of_an_address_is_read_and_named_where_it_is_wrong(tmp_path: Path) -> None:
    path = tmp_path / "store"
    path.touch(mode=0o600)
    path.write_text("redis://:hunter2@cache:6379/0?name=shop\n")
    (tmp_path / "mounted").symlink_to(path.name)
    assert parse_store(f"@{tmp_path / 'mounted'}").name == "shop", "as Kubernetes mounts secrets"
    choice = parse_store(f"@{path}")
    assert (choice.kind, choice.name) == (StoreKind.REDIS, "shop")
    path.write_text("hunter2")
    with pytest.raises(SentinelError) as caught:
        parse_store(f"@{path}")
    assert caught.value.at == str(path)
    assert "hunter2" not in str(caught.value)
    with pytest.raises(SentinelError) as caught:
        parse_store(f"@{tmp_path / 'nowhere'}")
    assert caught.value.code is ErrorCode.FILE_MISSING


@pytest.mark.parametrize(("mode", "is_taken"), [(0o440, True), (0o640, True), (0o644, False)])
def test_file_of_an_address_is_refused_where_others_may_read_it(
    tmp_path: Path, mode: int, is_taken: bool
) -> None:
    """Modes with the group are those of a volume of Kubernetes with ``fsGroup``."""
    path = tmp_path / "store"
    path.write_text("redis://:hunter2@cache:6379/0\n")
    path.chmod(mode)
    (tmp_path / "mounted").symlink_to(path.name)
    if is_taken:
        assert parse_store(f"@{tmp_path / 'mounted'}").url.endswith("/0")
        return
    with pytest.raises(SentinelError) as caught:
        parse_store(f"@{tmp_path / 'mounted'}")
    assert caught.value.code is ErrorCode.FILE_EXPOSED
    assert caught.value.at == str(tmp_path / "mounted")
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize("query", ["cert=both.pem", "cert=cert.pem&key=both.pem"])
def test_a_key_for_redis_that_others_may_read_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, query: str
) -> None:
    """The key is in the file of the certificate where no other is named."""
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "both.pem"
    path.write_text("no certificate")
    path.chmod(0o644)
    with pytest.raises(SentinelError) as caught:
        parse_address(f"rediss://cache?{query}")
    assert (caught.value.code, caught.value.at) == (ErrorCode.FILE_EXPOSED, "both.pem")
    path.chmod(0o640)
    with pytest.raises(SentinelError) as caught:
        parse_address(f"rediss://cache?{query}")
    assert caught.value.code is ErrorCode.STORE_ADDRESS_INVALID


@pytest.mark.parametrize("text", ["memory", "redis://cache"])
def test_durability_is_for_an_embedded_store_only(text: str) -> None:
    assert parse_store("embedded:state", durability="power").durability == "power"
    with pytest.raises(SentinelError) as caught:
        parse_store(text, durability="power")
    assert caught.value.code is ErrorCode.USAGE_INVALID
    assert caught.value.at == "--durability"


def test_store_opens_as_it_was_chosen_and_closes(tmp_path: Path) -> None:
    with open_store(parse_store("memory"), PLAN) as engine:
        assert type(engine) is Engine
        assert not isinstance(engine, DurableStore)
    choice = parse_store(f"embedded:{tmp_path / 'state'}", durability="power")
    for _ in range(2):  # closed, or its lock would refuse the second
        with open_store(choice, PLAN) as engine:
            assert isinstance(engine, EmbeddedStore)
            assert isinstance(engine, DurableStore)
            assert engine.durability is Durability.POWER


def test_scorers_go_on_where_redis_is_lost_and_patient_ones_wait() -> None:
    choice = parse_store("redis://cache")
    live = redis_settings(choice, PLAN, is_fenced=False)
    assert (live.on_loss, live.wait_s, live.name) == (OnLoss.DEFAULTS, 0.0, PLAN.features.name)
    patient = redis_settings(choice, PLAN, is_patient=True)
    assert patient.on_loss is OnLoss.HOLD
    assert patient.wait_s > 0


@pytest.mark.parametrize("url", ["redis://:hunter2@[::1", "redis://:hunter2@a:99999"])
def test_address_that_cannot_be_taken_apart_is_refused_without_its_password(url: str) -> None:
    """Brackets that do not close, a port that is none: found when the store is opened."""
    for parse in (parse_address, parse_cluster):
        with pytest.raises(SentinelError) as error:
            parse(parse_store(url).url)
        assert error.value.code is ErrorCode.STORE_ADDRESS_INVALID
        assert error.value.at == "address of Redis"
        assert "hunter2" not in str(error.value)


def test_setting_shows_no_password(tmp_path: Path) -> None:
    environment = {"SENTINEL_STORE": "redis://scorer:hunter2@cache:6379/0"}
    loaded = load_configuration({}, environment, folder=tmp_path)
    assert "hunter2" in loaded.value.store
    shown = {setting.name: setting.value for setting in loaded.settings()}
    assert shown["store"] == "redis://…@cache:6379/0"
