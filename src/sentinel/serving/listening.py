"""Listeners: an address and, where there are files for it, TLS."""

from __future__ import annotations

import asyncio
import ssl

from sentinel.core import limits
from sentinel.core.errors import ErrorCode, SentinelError
from sentinel.serving.http_connection import HttpDoor
from sentinel.serving.settings import ServerSettings

_BACKLOG = 1024


async def listen(
    door: HttpDoor, host: str, port: int, *, tls: ssl.SSLContext | None = None
) -> asyncio.Server:
    """Open a listener.

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
        )
    except (OSError, OverflowError) as error:
        raise SentinelError(
            ErrorCode.ADDRESS_UNUSABLE,
            at=f"{host}:{port}",
            expected="an address to listen at",
            got=getattr(error, "strerror", None) or error,
        ) from error


def tls_context(settings: ServerSettings) -> ssl.SSLContext | None:
    """Read the TLS files; None without.

    Raises
    ------
    SentinelError
        ``configuration-invalid``.
    """
    if settings.certificate is None or settings.private_key is None:
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        context.load_cert_chain(settings.certificate, settings.private_key)
    except (OSError, ssl.SSLError) as error:
        raise SentinelError(
            ErrorCode.CONFIGURATION_INVALID,
            at=str(settings.certificate),
            expected="a certificate and its key in PEM",
            got=type(error).__name__,
        ) from error
    return context
