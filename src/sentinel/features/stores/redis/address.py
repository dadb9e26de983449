"""Addresses of Redis: where, as whom, over TLS or not; passwords are never shown."""

from __future__ import annotations

import dataclasses
import ssl
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

from sentinel.core import limits
from sentinel.core.errors import ErrorCode, SentinelError
from sentinel.core.files import read_secret

_PORT = 6379
_CLUSTER = "+cluster"


@dataclass(frozen=True, slots=True, kw_only=True)
class Address:
    """Where Redis is, and as whom.

    Attributes
    ----------
    host : str
        Empty for a unix socket.
    port : int
    path : str
        Of the unix socket.
    database : int
    user, password : str
    tls : ssl.SSLContext or None
    shown : str
        For messages: without the password.
    """

    host: str
    port: int
    path: str
    database: int
    user: str
    password: str = field(repr=False)
    tls: ssl.SSLContext | None
    shown: str


def parse_address(url: str) -> Address:
    """Read ``redis://``, ``rediss://`` (TLS; ``ca``, ``cert``, ``key`` as query) or ``unix://``.

    Raises
    ------
    SentinelError
        ``store-address-invalid``; the password is never shown.

    Examples
    --------
    >>> parse_address("redis://:secret@cache.internal:6380/2").shown
    'redis://cache.internal:6380/2'
    """
    scheme = url.partition(":")[0]
    try:
        parts = urlsplit(url)
        port = parts.port or _PORT
        query = {name: values[-1] for name, values in parse_qs(parts.query).items()}
        path = "" if parts.scheme != "unix" else unquote(parts.path)
        database = int(query.get("db", "0") if path else parts.path.strip("/") or "0")
    except ValueError as error:
        raise _bad_address(scheme) from error
    is_whole = bool(path) if parts.scheme == "unix" else bool(parts.hostname)
    if parts.scheme not in {"redis", "rediss", "unix"} or not is_whole:
        raise _bad_address(parts.scheme)
    host = "" if path else parts.hostname or ""
    return Address(
        host=host,
        port=port,
        path=path,
        database=database,
        user=unquote(parts.username or ""),
        password=unquote(parts.password or ""),
        tls=_tls(query) if parts.scheme == "rediss" else None,
        shown=f"unix://{path}" if path else f"{parts.scheme}://{host}:{port}/{database}",
    )


def _bad_address(scheme: str) -> SentinelError:
    return SentinelError(
        ErrorCode.STORE_ADDRESS_INVALID,
        at="address of Redis",
        expected="redis://host:port/db, rediss://…, unix:///path?db=0 or redis+cluster://host:port,…",
        got=f"a URL of scheme {scheme!r}",
    )


def _tls(query: dict[str, str]) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=query.get("ca"))
        if "cert" in query:
            key = query.get("key")
            read_secret(Path(key or query["cert"]), n_bytes_max=limits.TLS_FILE_BYTES_MAX)
            context.load_cert_chain(query["cert"], key)
    except OSError as error:
        raise SentinelError(
            ErrorCode.STORE_ADDRESS_INVALID,
            at="TLS of Redis",
            expected="readable certificate files",
            got=error,
        ) from error
    return context


def is_cluster(url: str) -> bool:
    """Whether an address is that of a Cluster."""
    return url.partition(":")[0].endswith(_CLUSTER)


def parse_cluster(url: str) -> tuple[Address, ...]:
    """Read ``redis+cluster://user:password@host:port,host:port/`` or ``rediss+cluster://``.

    Raises
    ------
    SentinelError
        ``store-address-invalid``; the password is never shown.

    Examples
    --------
    >>> [node.shown for node in parse_cluster("redis+cluster://:secret@one:7000,two:7001")]
    ['redis://one:7000/0', 'redis://two:7001/0']
    """
    scheme, _, rest = url.partition("://")
    place, mark, query = rest.partition("?")
    who, at, hosts = place.partition("/")[0].rpartition("@")
    plain = scheme.removesuffix(_CLUSTER)
    if not hosts or plain not in {"redis", "rediss"}:
        raise _bad_address(scheme)
    return tuple(
        parse_address(f"{plain}://{who}{at}{host}/{mark}{query}") for host in hosts.split(",")
    )


def at_node(address: Address, host: str, port: int) -> Address:
    """Return the address of another node of the same Cluster."""
    shown = f"{address.shown.partition('://')[0]}://{host}:{port}/0"
    return dataclasses.replace(address, host=host, port=port, shown=shown)
