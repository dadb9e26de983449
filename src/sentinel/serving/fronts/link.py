"""One connection between a front and the scoring process: frames in, frames out.

What is said in one turn of the loop is written at its end, in one piece: under load many messages
share a system call.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import struct
from collections.abc import Callable
from typing import Generic, TypeVar, cast

import msgspec

from sentinel.core.errors import SentinelError
from sentinel.serving import bounds
from sentinel.serving.fronts.wire import FrameReader, Message, frame

_LOG = logging.getLogger("sentinel.serving.fronts")
_CREDENTIALS = struct.Struct("3i")
_M = TypeVar("_M")


class Link(asyncio.Protocol, Generic[_M]):
    """One side of a connection.

    Parameters
    ----------
    decoder : Decoder
        Of the messages of the other side.
    hear : callable
        Told each message, in the loop.
    lost : callable
        Told once that the connection has ended.
    """

    def __init__(
        self,
        decoder: msgspec.msgpack.Decoder[_M],
        hear: Callable[[Link[_M], _M], None],
        lost: Callable[[Link[_M]], None],
    ) -> None:
        self._decoder = decoder
        self._hear = hear
        self._lost = lost
        self._reader = FrameReader()
        self._transport: asyncio.Transport | None = None
        self._waiting: list[bytes] = []
        self._loop = asyncio.get_running_loop()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take the connection, if it is one of this user's processes."""
        self._transport = cast("asyncio.Transport", transport)
        peer = transport.get_extra_info("socket")
        if peer is not None and _user_of(peer) not in {os.geteuid(), 0}:
            _LOG.error("another user's process at the socket of the fronts")
            self._transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        """Say so."""
        self._transport = None
        self._waiting.clear()
        self._lost(self)

    def data_received(self, data: bytes) -> None:
        """Hear what came; what is no message ends the connection."""
        try:
            for content in self._reader.feed(data):
                self._hear(self, self._decoder.decode(content))
        except (SentinelError, msgspec.MsgspecError, ValueError, IndexError) as error:
            _LOG.error("no message of a front", extra={"cause": str(error)})
            self.close()

    @property
    def is_open(self) -> bool:
        """Whether anything that is said now may arrive."""
        return self._transport is not None and not self._transport.is_closing()

    def say(self, message: Message) -> int:
        """Write a message at the end of this turn of the loop; return its bytes."""
        transport = self._transport
        if transport is None or transport.is_closing():
            return 0
        content = frame(message)
        if not self._waiting:
            self._loop.call_soon(self._flush)
        self._waiting.append(content)
        return len(content)

    def close(self) -> None:
        """End it now."""
        if self._transport is not None:
            self._transport.abort()

    def _flush(self) -> None:
        waiting, self._waiting = self._waiting, []
        if self._transport is None or not waiting:
            return
        self._transport.write(b"".join(waiting))
        if self._transport.get_write_buffer_size() > bounds.FRONT_UNREAD_BYTES_MAX:
            _LOG.error("the other side of the socket of the fronts does not read")
            self._transport.abort()


def _user_of(peer: socket.socket) -> int:
    """Say whose process is at the other end of a Unix socket."""
    found = peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    return int(_CREDENTIALS.unpack(found)[1])
