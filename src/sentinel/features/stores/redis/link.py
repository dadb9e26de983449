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
from typing import NoReturn, cast

import hiredis

from sentinel.core import limits
from sentinel.core.clock import Clock, SystemClock
from sentinel.core.errors import ErrorCode, SentinelError
from sentinel.features.stores.redis.address import Address, parse_address

Word = bytes | str | int
Reply = bytes | int | None | list["Reply"] | hiredis.ReplyError

_READ_BYTES = 1 << 18
# Reply codes that pass by themselves.
_PASSING = {"LOADING", "READONLY", "MASTERDOWN", "BUSY", "TRYAGAIN", "CLUSTERDOWN", "MOVED", "ASK"}
# A command may have ended with it, or a worker may go on: true of both.
UNREACHABLE_HINT = (
    "Start Redis, or correct the address. What runs on tries again by itself; nothing that was "
    "acknowledged is lost."
)
_DENYING = {"WRONGPASS", "NOAUTH", "NOPERM"}


# Its stub knows tuples of one element only.
_packed = cast("Callable[[tuple[Word, ...]], bytes]", hiredis.pack_command)


def packed(command: Sequence[Word]) -> bytes:
    """Write a command as it goes over the wire."""
    return _packed(tuple(command))


class Patience:
    """How often a call is tried again, and how long nobody calls after a loss.

    Parameters
    ----------
    clock : Clock
    rng : random.Random
        Of the jitter.
    """

    def __init__(self, clock: Clock, rng: random.Random) -> None:
        self.clock = clock
        self.n_retries = 0
        self.n_losses = 0
        self._rng = rng
        self._budget = float(limits.STORE_RETRY_BUDGET_MAX)
        self._n_lost_in_a_row = 0
        self._quiet_until_s = 0.0

    def begin(self) -> bool:
        """Begin a call; False within the pause after a loss."""
        if self.clock.monotonic_s() < self._quiet_until_s:
            return False
        self._budget = min(
            self._budget + limits.STORE_RETRY_SHARE, float(limits.STORE_RETRY_BUDGET_MAX)
        )
        return True

    def waits_for_another(self, n_tries: int, deadline: float) -> bool:
        """Wait before another try, or say that there is none."""
        bound_s = limits.STORE_BACKOFF_MS * 2 ** (n_tries - 1) / 1000
        pause_s = self._rng.uniform(bound_s / 2, bound_s)
        late = self.clock.monotonic_s() + pause_s >= deadline
        if n_tries == limits.STORE_TRIES_MAX or late or self._budget < 1.0:
            return False
        self._budget -= 1.0
        self.n_retries += 1
        time.sleep(pause_s)
        return True

    def succeed(self) -> None:
        """Note an answer."""
        self._n_lost_in_a_row = 0

    def lose(self) -> None:
        """Note a loss: the next calls fail at once for a while."""
        self.n_losses += 1
        bound_ms = min(limits.STORE_PAUSE_MS * 2**self._n_lost_in_a_row, limits.STORE_PAUSE_MS_MAX)
        self._n_lost_in_a_row = min(self._n_lost_in_a_row + 1, 16)
        pause_s = self._rng.uniform(bound_ms / 2, bound_ms) / 1000
        self._quiet_until_s = self.clock.monotonic_s() + pause_s


class RedisLink:
    """A connection that is made, lost and made again.

    Parameters
    ----------
    url : str or Address
    deadline_ms : float
        Of one call, before what its rows may take.
    clock : Clock
    rng : random.Random
        Of the jitter.
    """

    def __init__(
        self,
        url: str | Address,
        *,
        deadline_ms: float = limits.STORE_DEADLINE_MS,
        clock: Clock | None = None,
        rng: random.Random | None = None,
    ) -> None:
        self.address = parse_address(url) if isinstance(url, str) else url
        self.deadline_ms = deadline_ms
        self._clock = clock or SystemClock()
        self.patience = Patience(self._clock, rng or random.Random())  # noqa: S311 -- jitter
        # Of the next call, by what it is the continuation of.
        self.n_tries_spent = 0
        self.n_connections = 0
        self._socket: socket.socket | None = None
        self._reader = hiredis.Reader()

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
        return self._tried(lambda deadline: self._exchange(commands, deadline), n_rows)

    def call_raw(
        self, request: bytes, buffer: bytearray, is_whole: Callable[[int], bool], *, n_rows: int
    ) -> None:
        """Send a request as it goes over the wire, and read its reply into a buffer.

        Parameters
        ----------
        request : bytes
        buffer : bytearray
            At least as long as the reply.
        is_whole : callable
            Asked with the bytes that have come, whether they are the whole reply.
        n_rows : int

        Raises
        ------
        SentinelError
            As :meth:`call`; what the reply says is for the caller to judge.
        """
        self._tried(
            lambda deadline: self._exchange_raw(request, buffer, is_whole, deadline), n_rows
        )

    def call_once(self, request: bytes, n_replies: int, *, n_rows: int) -> list[Reply]:
        """Send a request as it goes over the wire, on this connection or not at all, once.

        Where it fails, the caller says whether that was a loss; a call made to find out is the
        second try.

        Raises
        ------
        SentinelError
            As :meth:`call`, at the first reply that is an error.
        """
        if not self.patience.begin():
            raise self._unreachable("a pause after a loss")
        deadline = self.deadline_of(n_rows)

        def exchange(deadline: float) -> list[Reply]:
            if self._socket is None:
                raise ConnectionResetError("a connection that was closed")
            self._connected(deadline).sendall(request)
            return self.receive(n_replies, deadline, judges=True)

        try:
            replies = self._attempt(exchange, deadline)
        except SentinelError:
            self.close()
            self.n_tries_spent = 1
            raise
        self.patience.succeed()
        self.n_tries_spent = 0
        return replies

    def deadline_of(self, n_rows: int) -> float:
        """Say when a call that begins now must have ended."""
        now_s = self._clock.monotonic_s()
        return now_s + (self.deadline_ms + n_rows * limits.STORE_ROW_MS) / 1000

    def _tried(self, exchange: Callable[[float], list[Reply]], n_rows: int) -> list[Reply]:
        """Carry out an exchange, and again where it failed for reasons that pass."""
        if not self.patience.begin():
            raise self._unreachable("a pause after a loss")
        deadline = self.deadline_of(n_rows)
        for n_tries in range(1 + self.n_tries_spent, limits.STORE_TRIES_MAX + 1):
            try:
                replies = self._attempt(exchange, deadline)
            except SentinelError as error:
                self.close()
                if error.code is not ErrorCode.STORE_UNREACHABLE:
                    raise
                if not self.patience.waits_for_another(n_tries, deadline):
                    self.patience.lose()
                    raise
                continue
            self.patience.succeed()
            return replies
        raise self._unreachable("no answer")  # pragma: no cover -- the loop returns or raises

    def close(self) -> None:
        """Close the connection; the next call makes another."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _attempt(self, exchange: Callable[[float], list[Reply]], deadline: float) -> list[Reply]:
        try:
            return exchange(deadline)
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
        self.n_connections += 1
        greetings: list[Sequence[Word]] = []
        if address.password:
            greetings.append(("AUTH", *([address.user] if address.user else []), address.password))
        if address.database:
            greetings.append(("SELECT", address.database))
        if greetings:
            self._socket.sendall(b"".join(_packed(tuple(words)) for words in greetings))
            for reply in self.receive(len(greetings), deadline):
                if isinstance(reply, hiredis.ReplyError):
                    self.judge(str(reply))

    def _exchange(self, commands: Sequence[Sequence[Word]], deadline: float) -> list[Reply]:
        is_whole = False
        try:
            self.send(commands, deadline)
            replies = self.receive(len(commands), deadline)
            is_whole = True
        finally:
            # Whatever ends a call in the middle, a signal's exception too: no later call may
            # read what was an answer to this one.
            if not is_whole:
                self.close()
        for reply in replies:
            if isinstance(reply, hiredis.ReplyError):
                self.judge(str(reply))
        return replies

    def _exchange_raw(
        self,
        request: bytes,
        buffer: bytearray,
        is_whole: Callable[[int], bool],
        deadline: float,
    ) -> list[Reply]:
        is_read = False
        try:
            link = self._connected(deadline)
            link.sendall(request)
            view, n = memoryview(buffer), 0
            while n == 0 or not is_whole(n):
                more = link.recv_into(view[n:])
                if not more:
                    raise ConnectionResetError("a closed connection, or a longer reply")
                n += more
                if n < len(buffer):
                    link.settimeout(self._left_s(deadline))
            is_read = True
        finally:
            if not is_read:
                self.close()
        return []

    def _connected(self, deadline: float) -> socket.socket:
        """Return the connection, with the time left as its limit."""
        if self._socket is None:
            self._connect(deadline)
        if self._socket is None:  # pragma: no cover -- connected
            raise self._unreachable("no connection")
        self._socket.settimeout(self._left_s(deadline))
        return self._socket

    def send(self, commands: Sequence[Sequence[Word]], deadline: float) -> None:
        """Write commands; connect first where there is no connection.

        Raises
        ------
        OSError
        """
        link = self._connected(deadline)
        link.sendall(b"".join(_packed(tuple(command)) for command in commands))

    def receive(self, n_replies: int, deadline: float, *, judges: bool = False) -> list[Reply]:
        """Read replies; errors of Redis are values, or raised at once where it judges.

        Raises
        ------
        OSError
        """
        link, reader = self._socket, self._reader
        if link is None:  # pragma: no cover -- the caller has sent
            raise self._unreachable("no connection")
        replies: list[Reply] = []
        while len(replies) < n_replies:
            reply = reader.gets()
            if reply is not False:
                if judges and isinstance(reply, hiredis.ReplyError):
                    self.judge(str(reply))
                replies.append(reply)
                continue
            link.settimeout(self._left_s(deadline))
            content = link.recv(_READ_BYTES)
            if not content:
                raise ConnectionResetError("a closed connection")
            reader.feed(content)
        return replies

    def _left_s(self, deadline: float) -> float:
        left_s = deadline - self._clock.monotonic_s()
        if left_s <= 0:
            raise TimeoutError("no answer within the deadline")
        return left_s

    def judge(self, text: str) -> None:
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
            hint=UNREACHABLE_HINT,
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
