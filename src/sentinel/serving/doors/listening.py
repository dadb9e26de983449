"""Listeners: an address and, where there is one, a TLS context."""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import ssl

from sentinel.core.errors import ErrorCode, SentinelError
from sentinel.serving import bounds
from sentinel.serving.doors.http_connection import HttpDoor

_BACKLOG = 1024


async def listen(
    door: HttpDoor,
    host: str,
    port: int,
    *,
    tls: ssl.SSLContext | None = None,
    is_shared: bool = False,
) -> asyncio.Server:
    """Open a listener; a shared port may have other processes behind it.

    Raises
    ------
    SentinelError
        ``address-unusable``.
    """
    loop = asyncio.get_running_loop()
    try:
        return await loop.create_server(
            door.connection,
            host,
            port,
            ssl=tls,
            ssl_handshake_timeout=bounds.REQUEST_HEAD_S_MAX if tls else None,
            backlog=_BACKLOG,
            reuse_port=is_shared or None,
        )
    except (OSError, OverflowError) as error:
        raise address_unusable(host, port, error) from error


def check_address(host: str, port: int) -> None:
    """Make sure that nobody listens there: not every library says why it could not.

    Raises
    ------
    SentinelError
        ``address-unusable``.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        with socket.socket(family, kind, protocol) as alone:
            alone.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            alone.bind(address)
    except (OSError, OverflowError) as error:
        raise address_unusable(host, port, error) from error


def address_unusable(host: str, port: int, error: Exception) -> SentinelError:
    """Say why an address cannot be listened at, and what to do."""
    number = getattr(error, "errno", None)
    # A failed look-up of a name has numbers of its own, and its own words.
    if isinstance(number, int) and not isinstance(error, socket.gaierror):
        got = os.strerror(number)
    else:
        got = str(getattr(error, "strerror", None) or error)
    hint = ""
    if number == errno.EADDRINUSE:
        hint = "Choose another one with --http-port, --grpc-port or --metrics-port."
    return SentinelError(
        ErrorCode.ADDRESS_UNUSABLE,
        at=f"{host}:{port}",
        expected="an address to listen at",
        got=got,
        hint=hint,
    )
