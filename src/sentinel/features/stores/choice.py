"""One way to say where feature state is kept, and one to open it: a store by one word.

======================================  ==========================================================
``memory``                              in the process, and gone with it
``embedded:FOLDER``                     in the process; log and snapshots in a folder
``redis://…``, ``rediss://…``           in one Redis; ``rediss`` is TLS; also ``unix:///path``
``redis+cluster://host:port,…``         in a Redis Cluster; ``rediss+cluster`` is TLS
``@FILE``                               one of these, read from a file, so that a password stands
                                        on no command line
======================================  ==========================================================

Addresses of Redis take ``?name=NAME``: which store there; by default as the feature set is called.
"""

from __future__ import annotations

import enum
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import parse_qs

from sentinel.core import limits
from sentinel.core.errors import ErrorCode, SentinelError, without_password
from sentinel.core.files import read_secret
from sentinel.features.engine import Engine
from sentinel.features.plan import FeaturePlan

if TYPE_CHECKING:
    from sentinel.features.stores.redis.store import RedisSettings, RedisStore

_SCHEMES = ("redis", "rediss", "unix", "redis+cluster", "rediss+cluster")
_QUERY = frozenset({"name", "ca", "cert", "key", "db"})
_EXPECTED = (
    "memory, embedded:FOLDER, redis://HOST:PORT, rediss://HOST:PORT, "
    "redis+cluster://HOST:PORT,… or @FILE"
)


class StoreKind(enum.StrEnum):
    """Where state is."""

    MEMORY = "memory"
    EMBEDDED = "embedded"
    REDIS = "redis"


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreChoice:
    """Where feature state is kept.

    Attributes
    ----------
    kind : StoreKind
    folder : Path
        Of an embedded store.
    url : str
        Address of Redis, with its password: never shown.
    name : str
        Of the store in Redis; empty: the name of the feature set.
    durability : str
        What an embedded store survives: ``process`` or ``power``.
    """

    kind: StoreKind = StoreKind.MEMORY
    folder: Path = Path()
    url: str = field(default="", repr=False)
    name: str = ""
    durability: str = "process"

    @property
    def shown(self) -> str:
        """For people: without the password."""
        if self.kind is StoreKind.EMBEDDED:
            return f"embedded:{self.folder}"
        return without_password(self.url) if self.url else str(self.kind)

    @property
    def is_kept(self) -> bool:
        """Whether the state outlives the process."""
        return self.kind is not StoreKind.MEMORY


IN_MEMORY = StoreChoice()


def parse_store(text: str, *, at: str = "--store", durability: str | None = None) -> StoreChoice:
    """Read a choice of a store.

    Parameters
    ----------
    text : str
    at : str
        Where it came from, for errors.
    durability : str, optional
        For an embedded store only: ``process`` (as without it) or ``power``.

    Raises
    ------
    SentinelError
        ``store-address-invalid``, without any password; ``usage-invalid`` for a durability that
        nothing could give; of ``@FILE``: ``file-exposed`` where others may read it, and what
        reading it raises.

    Examples
    --------
    >>> parse_store("embedded:state").folder
    PosixPath('state')
    >>> parse_store("redis://:secret@cache:6379/0?name=shop").shown
    'redis://…@cache:6379/0?name=shop'
    """
    if text.startswith("@"):
        path = Path(text[1:])
        content = read_secret(path, n_bytes_max=limits.STORE_ADDRESS_BYTES_MAX)
        # What a file of secrets holds is not shown, whatever it is.
        choice = _parsed(content.decode("utf-8", "replace").strip(), str(path), is_shown=False)
    else:
        choice = _parsed(text, at)
    if durability is None:
        return choice
    if choice.kind is not StoreKind.EMBEDDED:
        raise SentinelError(
            ErrorCode.USAGE_INVALID,
            at="--durability",
            expected="an embedded store: --store embedded:FOLDER",
            got=choice.shown,
            hint="How safe state is in Redis is set there: appendonly, appendfsync.",
        )
    return StoreChoice(kind=choice.kind, folder=choice.folder, durability=durability)


def _parsed(text: str, at: str, *, is_shown: bool = True) -> StoreChoice:
    if text == StoreKind.MEMORY:
        return IN_MEMORY
    scheme, colon, rest = text.partition(":")
    if scheme == StoreKind.EMBEDDED and rest:
        return StoreChoice(kind=StoreKind.EMBEDDED, folder=Path(rest))
    if scheme in _SCHEMES and rest.startswith("//"):
        # Not by urlsplit, which raises at brackets that do not close; hosts are judged later.
        query = parse_qs(text.partition("?")[2], keep_blank_values=True)
        if unknown := sorted(set(query) - _QUERY):
            raise _invalid(at, f"?{', '.join(sorted(_QUERY))}", f"?{unknown[0]}=", "")
        return StoreChoice(kind=StoreKind.REDIS, url=text, name=query.get("name", [""])[-1])
    hint = "" if colon or not text else f"A folder is written embedded:{text}."
    got = without_password(text) if is_shown else "something else"
    raise _invalid(at, _EXPECTED, got, hint if is_shown else "")


def _invalid(at: str, expected: str, got: str, hint: str) -> SentinelError:
    return SentinelError(
        ErrorCode.STORE_ADDRESS_INVALID, at=at, expected=expected, got=got, hint=hint
    )


@contextmanager
def open_store(
    choice: StoreChoice, plan: FeaturePlan, *, is_fenced: bool = True, is_patient: bool = False
) -> Iterator[Engine]:
    """Open a store, and close it at the end; a snapshot is taken only when all went well.

    While Redis is lost, events get declared defaults marked stale, and are applied when it is
    back: whether they are then scored or held is the policy's ``stale``.

    Parameters
    ----------
    choice : StoreChoice
    plan : FeaturePlan
    is_fenced : bool
        Whether positions of raw batches are those of a log that is read again after a crash.
    is_patient : bool
        Nobody waits for the answers: a lost Redis is waited for, and defaults are never given.

    Raises
    ------
    SentinelError
        What opening the store raises.
    """
    if choice.kind is StoreKind.MEMORY:
        yield Engine(plan)
        return
    if choice.kind is StoreKind.REDIS:
        redis = open_redis(choice, plan, is_fenced=is_fenced, is_patient=is_patient)
        try:
            yield redis
        finally:
            redis.close()
        return
    from sentinel.features.stores.embedded import Durability, EmbeddedStore

    durability = Durability(choice.durability)
    store = EmbeddedStore(plan, choice.folder, durability=durability, is_fenced=is_fenced)
    is_well = False
    try:
        yield store
        is_well = True
    finally:
        store.close(with_snapshot=is_well)


def open_redis(
    choice: StoreChoice, plan: FeaturePlan, *, is_fenced: bool = True, is_patient: bool = False
) -> RedisStore:
    """Open a store in Redis as a scorer needs it; as :func:`open_store`, the caller closes it.

    Raises
    ------
    SentinelError
        What :class:`RedisStore` raises.
    """
    from sentinel.features.stores.redis.store import RedisStore

    settings = redis_settings(choice, plan, is_fenced=is_fenced, is_patient=is_patient)
    return RedisStore(plan, settings)


def redis_settings(
    choice: StoreChoice, plan: FeaturePlan, *, is_fenced: bool = True, is_patient: bool = False
) -> RedisSettings:
    """Say how a store in Redis behaves; as :func:`open_store`."""
    from sentinel.features.stores.redis.store import OnLoss, RedisSettings

    return RedisSettings(
        url=choice.url,
        name=choice.name or plan.features.name,
        on_loss=OnLoss.HOLD if is_patient else OnLoss.DEFAULTS,
        deadline_ms=limits.STORE_OPEN_MS if is_patient else limits.STORE_DEADLINE_MS,
        is_fenced=is_fenced,
        wait_s=limits.STORE_WAIT_S_MAX if is_fenced else 0.0,
    )
