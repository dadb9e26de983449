"""Listeners: an address and, where there is one, a TLS context."""

from __future__ import annotations

import asyncio
import ssl

from sentinel.core import limits
from sentinel.core.errors import ErrorCode, SentinelError
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
            ssl_handshake_timeout=limits.REQUEST_HEAD_S_MAX if tls else None,
            backlog=_BACKLOG,
            reuse_port=is_shared or None,
        )
    except (OSError, OverflowError) as error:
        raise SentinelError(
            ErrorCode.ADDRESS_UNUSABLE,
            at=f"{host}:{port}",
            expected="an address to listen at",
            got=getattr(error, "strerror", None) or error,
        ) from error
