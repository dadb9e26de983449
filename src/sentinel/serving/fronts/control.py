"""Between a process and the one that watches it: one JSON object a line, over a socket pair.

The first line is the :class:`Job`. Then the process beats from the loop it works in, at least once
a second; says once that it has started, or why it refuses to; and hears how often parts were
started again. The end of the connection is the end of the other side.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from pathlib import Path
from typing import cast

import msgspec

from sentinel.core import limits
from sentinel.core.configuration import Configuration
from sentinel.core.errors import ErrorCode, SentinelError
from sentinel.serving import bounds
from sentinel.serving.doors.tls import OwnClient
from sentinel.serving.fronts.wire import WireError
from sentinel.serving.settings import ServerSettings

SCORING = "scoring"
FRONT = "front"
# How a scoring process ends that leaves answers behind which its state never learns of.
STATUS_STATE_BEHIND = 4


class Served(msgspec.Struct, frozen=True, kw_only=True):
    """What a server of several processes serves.

    Attributes
    ----------
    release : Path
    trust : Path or None
    allow_unapproved : bool
    releases : Path or None
        Folder of releases that may take over.
    """

    release: Path
    trust: Path | None
    allow_unapproved: bool
    releases: Path | None


class Job(msgspec.Struct, frozen=True, kw_only=True):
    """All that a process is told at its start.

    Attributes
    ----------
    part : str
        ``scoring`` or ``front``.
    number : int
        Of the front.
    parent : int
        Process id of who watches.
    served : Served
    settings : ServerSettings
        With the ports that were taken.
    configuration : Configuration
    own : OwnClient
    listener : int
        Descriptor of the listening socket of the fronts; of the scoring process.
    run_folder : int
        Descriptor of the folder that socket is in.
    """

    part: str
    number: int
    parent: int
    served: Served
    settings: ServerSettings
    configuration: Configuration
    own: OwnClient
    listener: int
    run_folder: int


class Beat(msgspec.Struct, frozen=True, tag="beat"):
    """The loop turns."""


class Started(msgspec.Struct, frozen=True, tag="started"):
    """The doors are open, or the release is; the last three are of the scoring process."""

    metrics_port: int = 0
    label: str = ""
    standing: str = ""


class Refused(msgspec.Struct, frozen=True, tag="refused"):
    """It cannot start, or not go on."""

    error: WireError


class Restarts(msgspec.Struct, frozen=True, tag="restarts"):
    """How often parts were started again: part, reason, how often."""

    counts: list[tuple[str, str, int]]


FromPart = Beat | Started | Refused
_FROM_PART = msgspec.json.Decoder(FromPart)
_RESTARTS = msgspec.json.Decoder(Restarts)


def line(message: Job | FromPart | Restarts) -> bytes:
    """Write a message."""
    return msgspec.json.encode(message, enc_hook=str) + b"\n"


def read_from_part(content: bytes) -> FromPart:
    """Read what a process says.

    Raises
    ------
    msgspec.MsgspecError
        For what is no message.
    """
    message: FromPart = _FROM_PART.decode(content)
    return message


def take_job(link: socket.socket) -> tuple[Job, bytes]:
    """Read the first line; return what came behind it, too.

    Raises
    ------
    SentinelError
        ``internal`` when there is none.
    """
    content = b""
    while b"\n" not in content:
        more = link.recv(65_536)
        if not more or len(content) > bounds.PART_LINE_BYTES_MAX:
            raise SentinelError(
                ErrorCode.INTERNAL, at="job", expected="one line", got=f"{len(content)} bytes"
            )
        content += more
    first, _, rest = content.partition(b"\n")
    return msgspec.json.decode(first, type=Job, dec_hook=_path), rest


class ParentLine(asyncio.Protocol):
    """A process's side of the line: it beats, and ends when its parent does.

    Parameters
    ----------
    is_well : callable
        Whether to beat: a process that no longer does its work lets itself be replaced.
    ended : callable
        Called when the parent has gone.
    restarted : callable
        Told how often parts were started again.
    """

    def __init__(
        self,
        is_well: Callable[[], bool],
        ended: Callable[[], None],
        restarted: Callable[[Restarts], None] = lambda _: None,
    ) -> None:
        self._is_well = is_well
        self._ended = ended
        self._restarted = restarted
        self._left = b""
        self._transport: asyncio.Transport | None = None

    async def open(self, link: socket.socket, rest: bytes) -> None:
        """Begin to beat."""
        loop = asyncio.get_running_loop()
        await loop.create_unix_connection(lambda: self, sock=link)
        self.data_received(rest)
        self._beat()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take the line."""
        self._transport = cast("asyncio.Transport", transport)

    def connection_lost(self, exc: Exception | None) -> None:
        """End with the parent."""
        self._transport = None
        self._ended()

    def data_received(self, data: bytes) -> None:
        """Hear the parent."""
        *lines, self._left = (self._left + data).split(b"\n")
        for content in lines:
            self._restarted(_RESTARTS.decode(content))

    def say(self, message: FromPart) -> None:
        """Tell the parent."""
        if self._transport is not None:
            self._transport.write(line(message))

    def _beat(self) -> None:
        if self._transport is None:
            return
        if self._is_well():
            self.say(Beat())
        asyncio.get_running_loop().call_later(limits.HEARTBEAT_S / 2, self._beat)


def _path(kind: type, value: object) -> object:
    if kind is Path:
        return Path(str(value))
    raise TypeError(f"no way to read a {kind.__name__}")
