"""Properties of the client: the user's, ours, and those that nobody sees."""

from __future__ import annotations

from pathlib import Path

import pytest

from sentinel.core.configuration import load_configuration, load_table
from sentinel.core.errors import ErrorCode, SentinelError
from sentinel.streaming.kafka.log import consumer_of
from sentinel.streaming.kafka.settings import KafkaSettings, client_settings


def settings(**client: str | int) -> KafkaSettings:
    return KafkaSettings(bootstrap="b:1", group="g", client=client)


def test_the_command_line_is_stronger_than_the_file() -> None:
    chosen = client_settings({"linger.ms": 7, "client.id": "a"}, ("linger.ms=9", "x=a=b"))
    assert chosen == {"linger.ms": "9", "client.id": "a", "x": "a=b"}


def test_dotted_names_may_be_written_as_tables() -> None:
    assert client_settings({"sasl": {"mechanism": "PLAIN"}}, ()) == {"sasl.mechanism": "PLAIN"}


@pytest.mark.parametrize(
    "name",
    ["group.id", "enable.auto.commit", "auto.offset.reset", "acks", "enable.idempotence"],
)
def test_what_effects_once_stand_on_is_not_set_by_anybody_else(name: str) -> None:
    for table, flags, at in (({name: "x"}, (), f"[kafka] {name}"), ({}, (f"{name}=x",), "--set")):
        with pytest.raises(SentinelError) as caught:
            client_settings(table, flags)
        assert caught.value.code is ErrorCode.STREAM_SETTING_INVALID
        assert caught.value.at.startswith(at)


@pytest.mark.parametrize("flag", ["", "=", "=x", "linger.ms"])
def test_an_assignment_has_a_name_and_a_value(flag: str) -> None:
    with pytest.raises(SentinelError) as caught:
        client_settings({}, (flag,))
    assert caught.value.code is ErrorCode.STREAM_SETTING_INVALID
    assert caught.value.at == "--set"


def test_a_list_is_no_property() -> None:
    with pytest.raises(SentinelError) as caught:
        client_settings({"client.id": ["a"]}, ())
    assert caught.value.code is ErrorCode.STREAM_SETTING_INVALID
    assert caught.value.at == "[kafka] client.id"


def test_a_secret_comes_from_its_file_and_is_shown_nowhere(tmp_path: Path) -> None:
    secret = tmp_path / "password"
    secret.touch(mode=0o600)
    secret.write_text("hunter2hunter2\n")
    mounted = tmp_path / "mounted"
    mounted.symlink_to(secret.name)  # as Kubernetes mounts secrets
    client = client_settings({"sasl.username": "u"}, (f"sasl.password=@{mounted}",))
    made = KafkaSettings(bootstrap="b:1", group="g", client=client)
    assert made.consumer()["sasl.password"] == "hunter2hunter2"
    assert made.producer()["sasl.password"] == "hunter2hunter2"
    assert "hunter2" not in repr(made)
    assert made.shown() == {"sasl.username": "u", "sasl.password": "•••"}
    secret.chmod(0o644)
    with pytest.raises(SentinelError) as caught:
        client_settings({}, (f"sasl.password=@{mounted}",))
    assert (caught.value.code, caught.value.at) == (ErrorCode.FILE_EXPOSED, str(mounted))
    assert "hunter2" not in str(caught.value)


def test_a_secret_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(SentinelError) as caught:
        client_settings({}, (f"sasl.password=@{tmp_path}/none",))
    assert caught.value.code is ErrorCode.FILE_MISSING
    assert caught.value.at == f"{tmp_path}/none"


@pytest.mark.parametrize(
    ("client", "said"),
    [
        ({"security.protocol": "SASL_SSL", "sasl.mechanism": "NONSENSE"}, "NONSENSE"),
        ({"security.protocol": "SSL", "ssl.ca.location": "/no/such/ca.pem"}, "ca.location"),
        ({"security.protocol": "SASL_PLAINTEXT", "sasl.mechanism": "PLAIN"}, "sasl.username"),
        ({"security.protocol": "ROT13"}, "ROT13"),
        ({"ssl.cipher.suites": "NONSENSE", "security.protocol": "SSL"}, "cipher"),
    ],
)
def test_settings_for_sasl_and_tls_reach_the_client(client: dict[str, str], said: str) -> None:
    """The client itself refuses them: a handshake needs a cluster, which is not here."""
    made = KafkaSettings(bootstrap="127.0.0.1:1", group="g", client=client)
    for properties in (made.consumer(), made.feedback_consumer()):
        with pytest.raises(SentinelError) as caught:
            consumer_of(properties)
        assert caught.value.code is ErrorCode.STREAM_SETTING_INVALID
        assert said in str(caught.value)


def test_a_password_and_a_user_make_a_client() -> None:
    client = {
        "security.protocol": "SASL_SSL",
        "sasl.mechanism": "SCRAM-SHA-512",
        "sasl.username": "sentinel",
        "sasl.password": "hunter2hunter2",
    }
    made = KafkaSettings(bootstrap="127.0.0.1:1", group="g", client=client)
    consumer_of(made.consumer()).close()


def test_ours_stay_ours_and_defaults_may_be_changed() -> None:
    made = settings(**{"linger.ms": 1})
    assert made.consumer()["auto.offset.reset"] == "error"
    assert made.consumer()["enable.auto.commit"] is False
    assert made.consumer()["partition.assignment.strategy"] == "cooperative-sticky"
    assert made.producer()["enable.idempotence"] is True
    assert made.producer()["linger.ms"] == 1


@pytest.mark.parametrize("name", ["", "a b", "a\n", "ä", "a/b", "x" * 250])
def test_a_transactional_id_is_a_plain_name(name: str) -> None:
    with pytest.raises(SentinelError) as caught:
        KafkaSettings(bootstrap="b:1", group="g", transactional_id=name)
    assert caught.value.code is ErrorCode.STREAM_SETTING_INVALID
    assert caught.value.at == "--transactional-id"


def test_with_transactions_positions_that_are_not_decided_are_not_read() -> None:
    """And only then: a reader of events may otherwise have either level."""
    client = {"isolation.level": "read_uncommitted"}
    assert settings(**client).consumer()["isolation.level"] == "read_uncommitted"
    with pytest.raises(SentinelError) as caught:
        KafkaSettings(bootstrap="b:1", group="g", transactional_id="a", client=client)
    assert caught.value.code is ErrorCode.STREAM_SETTING_INVALID
    assert caught.value.at == "isolation.level"


def test_a_transaction_has_a_name_and_a_length_that_may_be_changed() -> None:
    made = KafkaSettings(bootstrap="b:1", group="g", transactional_id="w.1_a-b")
    assert made.consumer()["isolation.level"] == "read_committed"
    assert made.producer()["transactional.id"] == "w.1_a-b"
    assert made.producer()["transaction.timeout.ms"] == 300_000
    client = {"transaction.timeout.ms": "9000"}
    made = KafkaSettings(bootstrap="b:1", group="g", transactional_id="a", client=client)
    assert made.producer()["transaction.timeout.ms"] == "9000"
    assert "transactional.id" not in settings().producer()
    assert "isolation.level" not in settings().consumer()


def test_the_table_of_the_file_is_no_setting_of_sentinel(tmp_path: Path) -> None:
    (tmp_path / "sentinel.toml").write_text(
        'batch_events = 7\n[kafka]\n"sasl.mechanism" = "PLAIN"\n'
    )
    assert load_configuration({}, {}, folder=tmp_path).value.batch_events == 7
    assert load_table("kafka", {}, folder=tmp_path) == {"sasl.mechanism": "PLAIN"}
    assert load_table("kafka", {}, folder=tmp_path / "none") == {}


def test_a_value_where_the_table_belongs_is_refused(tmp_path: Path) -> None:
    (tmp_path / "sentinel.toml").write_text("kafka = 3\n")
    for load in (
        lambda: load_configuration({}, {}, folder=tmp_path),
        lambda: load_table("kafka", {}, folder=tmp_path),
    ):
        with pytest.raises(SentinelError) as caught:
            load()
        assert "kafka" in str(caught.value)
