"""Settings of the Kafka client: what a user may set, what the worker sets, what is never shown."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from sentinel.core import limits
from sentinel.core.errors import ErrorCode, SentinelError
from sentinel.core.files import read_secret

# The client logs to stderr; errors and worse (syslog's numbers) are enough by default.
_LOG_LEVEL = 3
ClientSettings = dict[str, str | int | float | bool]

# Names whose values are never shown; the client's own list of sensitive properties.
_SECRET_WORDS = ("password", "secret", "token", "jaas", "key.pem", "sasl.oauthbearer.config")
# While all brokers are down each is asked once a second, with jitter, not six times.
_PATIENCE: ClientSettings = {"reconnect.backoff.ms": 1_000}
# What effects once and resuming from the state stand on: nobody else sets these.
_OURS = frozenset(
    {
        "bootstrap.servers",
        "metadata.broker.list",
        "group.id",
        "enable.auto.commit",
        "enable.auto.offset.store",
        "auto.offset.reset",
        "enable.partition.eof",
        "partition.assignment.strategy",
        "enable.idempotence",
        "delivery.report.only.error",
        "transactional.id",
        "acks",
        "request.required.acks",
    }
)

_TRANSACTIONAL_ID = re.compile(r"[A-Za-z0-9._-]+")


@dataclass(frozen=True, slots=True, kw_only=True)
class KafkaSettings:
    """How to reach the cluster.

    Attributes
    ----------
    bootstrap : str
        ``host:port``, more separated by commas.
    group : str
        Consumer group.
    client : mapping of str to str, int, float or bool
        Further properties of librdkafka (SASL, TLS, sizes). Secrets are not in ``repr``.
    transactional_id : str or None
        Outputs and positions become visible together, in transactions of this id: one worker has
        it, always the same. None: without transactions.

    Raises
    ------
    SentinelError
        ``stream-setting-invalid`` for an id of other characters or too many of them, and for
        ``isolation.level`` beside it.
    """

    bootstrap: str
    group: str
    client: Mapping[str, str | int | float | bool] = field(default_factory=dict, repr=False)
    transactional_id: str | None = None

    def __post_init__(self) -> None:
        """Refuse what transactions cannot be made with."""
        name = self.transactional_id
        if name is None:
            return
        n_max = limits.STREAM_TRANSACTIONAL_ID_CHARACTERS_MAX
        if len(name) > n_max or not _TRANSACTIONAL_ID.fullmatch(name):
            expected = f"1 to {n_max} letters, digits, dots, dashes and underscores"
            raise _invalid("--transactional-id", expected, name)
        if "isolation.level" in self.client:
            # A position of a transaction that is not decided yet must not be taken for one.
            raise _invalid("isolation.level", "nothing: it is read_committed", "a value of yours")

    def consumer(self) -> ClientSettings:
        """Return the properties of the consumer of events."""
        return {
            **self._reading(),
            **({} if self.transactional_id is None else {"isolation.level": "read_committed"}),
            "group.id": self.group,
            "partition.assignment.strategy": "cooperative-sticky",
        }

    def feedback_consumer(self) -> ClientSettings:
        """Return the properties of the consumer of feedback, which is in no group."""
        return {**self._reading(), "group.id": f"{self.group}-feedback"}

    def producer(self) -> ClientSettings:
        """Return the properties of the producer of decisions and quarantine records."""
        return {
            "log_level": _LOG_LEVEL,
            "linger.ms": 5,
            "queue.buffering.max.messages": 4 * limits.STREAM_WAITING_MAX,
            "compression.type": "lz4",
            **_PATIENCE,
            **self._transaction(),
            "bootstrap.servers": self.bootstrap,
            "enable.idempotence": True,
            "delivery.report.only.error": True,
        }

    def shown(self) -> dict[str, str]:
        """Return the user's properties for people; secrets are dots."""
        return {
            name: "•••" if is_secret(name) else str(value) for name, value in self.client.items()
        }

    def _transaction(self) -> ClientSettings:
        """Put the user's properties on those of a transaction, where there is one."""
        if self.transactional_id is None:
            return dict(self.client)
        timeout_ms = int(1000 * limits.STREAM_TRANSACTION_S_MAX)
        return {
            "transaction.timeout.ms": timeout_ms,
            **self.client,
            "transactional.id": self.transactional_id,
        }

    def _reading(self) -> ClientSettings:
        return {
            "log_level": _LOG_LEVEL,
            "fetch.message.max.bytes": 1 << 20,
            "queued.max.messages.kbytes": 32 << 10,
            **_PATIENCE,
            **self.client,
            "bootstrap.servers": self.bootstrap,
            "enable.auto.commit": False,
            "enable.auto.offset.store": False,
            "auto.offset.reset": "error",
            "enable.partition.eof": True,
        }


def is_secret(name: str) -> bool:
    """Say whether a property holds what nobody may see.

    Examples
    --------
    >>> is_secret("sasl.password"), is_secret("sasl.username")
    (True, False)
    """
    return any(word in name.lower() for word in _SECRET_WORDS)


def client_settings(
    table: Mapping[str, object], assignments: tuple[str, ...]
) -> dict[str, str | int | float | bool]:
    """Put the user's properties together: ``[kafka]`` of the file, then ``--set NAME=VALUE``.

    A value ``@PATH`` is read from a file, so that a secret stands neither in the settings nor in
    the list of processes.

    Raises
    ------
    SentinelError
        ``stream-setting-invalid``; ``file-missing`` and ``file-unreadable`` for ``@PATH``.

    Examples
    --------
    >>> client_settings({"security.protocol": "SASL_SSL"}, ("sasl.mechanism=PLAIN",))
    {'security.protocol': 'SASL_SSL', 'sasl.mechanism': 'PLAIN'}
    """
    chosen: dict[str, str | int | float | bool] = {}
    for name, value in _flat(table, prefix=""):
        chosen[name] = _checked(name, value, at=f"[kafka] {name}")
    for assignment in assignments:
        name, equals, text = assignment.partition("=")
        if not equals or not name:
            raise _invalid("--set", "NAME=VALUE", name)
        chosen[name] = _checked(name, text, at=f"--set {name}")
    return chosen


def _flat(table: Mapping[str, object], *, prefix: str) -> list[tuple[str, object]]:
    """Join the names of nested tables: in TOML a bare ``sasl.mechanism`` is a table."""
    found: list[tuple[str, object]] = []
    for name, value in table.items():
        if isinstance(value, dict):
            found += _flat(value, prefix=f"{prefix}{name}.")
        else:
            found.append((prefix + name, value))
    return found


def _checked(name: str, value: object, *, at: str) -> str | int | float | bool:
    if name in _OURS:
        raise _invalid(at, "a property that the worker does not set itself", name)
    if not isinstance(value, str | int | float | bool):
        raise _invalid(at, "a text, a number, true or false", type(value).__name__)
    if isinstance(value, str) and value.startswith("@"):
        content = read_secret(Path(value[1:]), n_bytes_max=limits.STREAM_SECRET_BYTES_MAX)
        try:
            return content.decode().rstrip("\r\n")
        except UnicodeDecodeError as error:
            raise _invalid(at, "a file of UTF-8 text", "other bytes") from error
    return value


def _invalid(at: str, expected: str, got: str) -> SentinelError:
    return SentinelError(
        ErrorCode.STREAM_SETTING_INVALID,
        at=at,
        expected=expected,
        got=got,
        hint="See docs/streaming.md.",
    )
