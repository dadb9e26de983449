"""One connection to Redis with a deadline: bounded tries, a pause after a loss, named errors.

A call sends its commands in one write and reads all replies; every wait in it, connecting
included, ends at one deadline. A call that failed for reasons that pass (connection, time,
``LOADING``, ``READONLY``) is tried again, at most ``STORE_TRIES_MAX`` times, after an exponential
pause with jitter, as long as the retry budget lasts: a tenth of all calls. A connection on which
anything went wrong is closed: no reply can ever be taken for another call's. After a loss, calls
fail at once for a while, so that nothing piles up behind a dead server.
"""

from __future__ import annotations

import random
import socket
import ssl
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NoReturn, cast
from urllib.parse import parse_qs, unquote, urlsplit

import hiredis

from sentinel.core import limits
from sentinel.core.clock import Clock, SystemClock
from sentinel.core.errors import ErrorCode, SentinelError

Word = bytes | str | int
Reply = bytes | int | None | list["Reply"] | hiredis.ReplyError

_READ_BYTES = 1 << 18
_PORT = 6379
# Reply codes that pass by themselves.
_PASSING = {"LOADING", "READONLY", "MASTERDOWN", "BUSY", "TRYAGAIN", "CLUSTERDOWN", "MOVED", "ASK"}
_DENYING = {"WRONGPASS", "NOAUTH", "NOPERM"}


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
    password: str
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
    parts = urlsplit(url)
    try:
        port = parts.port or _PORT
        query = {name: values[-1] for name, values in parse_qs(parts.query).items()}
        path = "" if parts.scheme != "unix" else unquote(parts.path)
        database = int(query.get("db", "0") if path else parts.path.strip("/") or "0")
    except ValueError as error:
        raise _bad_address(parts.scheme) from error
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
        expected="redis://host:port/db, rediss://host:port/db or unix:///path?db=0",
        got=f"a URL of scheme {scheme!r}",
    )


def _tls(query: dict[str, str]) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=query.get("ca"))
        if "cert" in query:
            context.load_cert_chain(query["cert"], query.get("key"))
    except OSError as error:
        raise SentinelError(
            ErrorCode.STORE_ADDRESS_INVALID,
            at="TLS of Redis",
            expected="readable certificate files",
            got=error,
        ) from error
    return context


# Its stub knows tuples of one element only.
_packed = cast("Callable[[tuple[Word, ...]], bytes]", hiredis.pack_command)


class RedisLink:
    """A connection that is made, lost and made again.

    Parameters
    ----------
    url : str
    deadline_ms : float
        Of one call, before what its rows may take.
    clock : Clock
    rng : random.Random
        Of the jitter.
    """

    def __init__(
        self,
        url: str,
        *,
        deadline_ms: float = limits.STORE_DEADLINE_MS,
        clock: Clock | None = None,
        rng: random.Random | None = None,
    ) -> None:
        self.address = parse_address(url)
        self.deadline_ms = deadline_ms
        self.n_retries = 0
        self.n_losses = 0
        self._clock = clock or SystemClock()
        self._rng = rng or random.Random()  # noqa: S311 -- jitter
        self._socket: socket.socket | None = None
        self._reader = hiredis.Reader()
        self._budget = float(limits.STORE_RETRY_BUDGET_MAX)
        self._n_lost_in_a_row = 0
        self._quiet_until_s = 0.0

    def call(self, commands: Sequence[Sequence[Word]], *, n_rows: int = 0) -> list[Reply]:
        """Send commands in one write and return their replies.

        Parameters
        ----------
        commands : sequence of sequences
        n_rows : int
            Rows that travel; each adds ``STORE_ROW_MS`` to the deadline.

        Raises
        ------
        SentinelError
            ``store-unreachable``, ``store-denied``, ``store-refused``. A reply ``NOSCRIPT`` is
            returned as a value.
        """
        now = self._clock.monotonic_s()
        if now < self._quiet_until_s:
            raise self._unreachable("a pause after a loss")
        deadline = now + (self.deadline_ms + n_rows * limits.STORE_ROW_MS) / 1000
        self._budget = min(
            self._budget + limits.STORE_RETRY_SHARE, float(limits.STORE_RETRY_BUDGET_MAX)
        )
        for n_tries in range(1, limits.STORE_TRIES_MAX + 1):
            try:
                replies = self._attempt(commands, deadline)
            except SentinelError as error:
                self.close()
                if error.code is not ErrorCode.STORE_UNREACHABLE:
                    raise
                if not self._waits_for_another(n_tries, deadline):
                    self._lose()
                    raise
                continue
            self._n_lost_in_a_row = 0
            return replies
        raise self._unreachable("no answer")  # pragma: no cover -- the loop returns or raises

    def close(self) -> None:
        """Close the connection; the next call makes another."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _waits_for_another(self, n_tries: int, deadline: float) -> bool:
        """Wait before another try, or say that there is none."""
        bound_s = limits.STORE_BACKOFF_MS * 2 ** (n_tries - 1) / 1000
        pause_s = self._rng.uniform(bound_s / 2, bound_s)
        late = self._clock.monotonic_s() + pause_s >= deadline
        if n_tries == limits.STORE_TRIES_MAX or late or self._budget < 1.0:
            return False
        self._budget -= 1.0
        self.n_retries += 1
        time.sleep(pause_s)
        return True

    def _lose(self) -> None:
        self.n_losses += 1
        bound_ms = min(limits.STORE_PAUSE_MS * 2**self._n_lost_in_a_row, limits.STORE_PAUSE_MS_MAX)
        self._n_lost_in_a_row = min(self._n_lost_in_a_row + 1, 16)
        pause_s = self._rng.uniform(bound_ms / 2, bound_ms) / 1000
        self._quiet_until_s = self._clock.monotonic_s() + pause_s

    def _attempt(self, commands: Sequence[Sequence[Word]], deadline: float) -> list[Reply]:
        try:
            if self._socket is None:
                self._connect(deadline)
            return self._exchange(commands, deadline)
        except ssl.SSLError as error:
            raise self._denied(error.reason or error) from error
        except OSError as error:
            raise self._unreachable(error.strerror or str(error) or "nothing") from error
        except hiredis.ProtocolError as error:
            raise self._unreachable(f"not the protocol of Redis: {error}") from error

    def _connect(self, deadline: float) -> None:
        address = self.address
        left_s = self._left_s(deadline)
        if address.path:
            link = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            link.settimeout(left_s)
            self._socket = link
            link.connect(address.path)
        else:
            link = socket.create_connection((address.host, address.port), timeout=left_s)
            self._socket = link
            link.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if address.tls is not None:
            self._socket = address.tls.wrap_socket(link, server_hostname=address.host)
        self._reader = hiredis.Reader()
        greetings: list[Sequence[Word]] = []
        if address.password:
            greetings.append(("AUTH", *([address.user] if address.user else []), address.password))
        if address.database:
            greetings.append(("SELECT", address.database))
        if greetings:
            self._exchange(greetings, deadline)

    def _exchange(self, commands: Sequence[Sequence[Word]], deadline: float) -> list[Reply]:
        link = self._socket
        if link is None:  # pragma: no cover -- the caller connected
            raise self._unreachable("no connection")
        link.settimeout(self._left_s(deadline))
        link.sendall(b"".join(_packed(tuple(command)) for command in commands))
        replies: list[Reply] = []
        while len(replies) < len(commands):
            reply = self._reader.gets()
            if reply is False:
                link.settimeout(self._left_s(deadline))
                content = link.recv(_READ_BYTES)
                if not content:
                    raise self._unreachable("a closed connection")
                self._reader.feed(content)
                continue
            if isinstance(reply, hiredis.ReplyError):
                self._judge(str(reply))
            replies.append(reply)
        return replies

    def _left_s(self, deadline: float) -> float:
        left_s = deadline - self._clock.monotonic_s()
        if left_s <= 0:
            raise TimeoutError("no answer within the deadline")
        return left_s

    def _judge(self, text: str) -> None:
        """Raise for a reply that is an error, by its first word; ``NOSCRIPT`` is an answer."""
        code = text.split(" ", 1)[0]
        if code == "NOSCRIPT":
            return
        if code in _PASSING:
            raise self._unreachable(text)
        if code in _DENYING:
            raise self._denied(text)
        self._refused(text)

    def _unreachable(self, got: object) -> SentinelError:
        return SentinelError(
            ErrorCode.STORE_UNREACHABLE,
            at=self.address.shown,
            expected="an answer of Redis in time",
            got=got,
            hint="It is tried again by itself; nothing that was acknowledged is lost.",
        )

    def _denied(self, got: object) -> SentinelError:
        return SentinelError(
            ErrorCode.STORE_DENIED,
            at=self.address.shown,
            expected="access",
            got=got,
            hint="Look at user, password, rights and certificates.",
        )

    def _refused(self, got: object) -> NoReturn:
        raise SentinelError(
            ErrorCode.STORE_REFUSED,
            at=self.address.shown,
            expected="a command that is carried out",
            got=got,
            hint="Nothing of the batch was written. Look at the memory and the disk of Redis.",
        )
