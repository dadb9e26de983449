"""The request boundary: whatever happens while a request is served becomes an error of it."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import TypeVar

from sentinel.core.errors import ErrorCode, SentinelError, shorten

T = TypeVar("T")
_LOG = logging.getLogger("sentinel.serving")


def attempt(call: Callable[[], T], *, at: str) -> T | SentinelError:
    """Call it; an error is returned and never raised.

    A fault of Sentinel is logged with its traceback and becomes ``internal``: what a caller sees
    names no file, no line and no value.

    Examples
    --------
    >>> attempt(lambda: 1, at="here")
    1
    """
    try:
        return call()
    except Exception as error:  # noqa: BLE001 -- the request boundary
        return _error_of(error, at=at)


async def attempt_async(call: Awaitable[T], *, at: str) -> T | SentinelError:
    """Await it; as :func:`attempt`. A cancellation goes on: it is no fault."""
    try:
        return await call
    except Exception as error:  # noqa: BLE001 -- the request boundary
        return _error_of(error, at=at)


def _error_of(error: Exception, *, at: str) -> SentinelError:
    """Say what a caller may know of an exception that is being handled."""
    if isinstance(error, SentinelError):
        return error
    _LOG.exception("a fault while serving", extra={"at": at})
    return internal_error(error, at=at)


def internal_error(error: Exception, *, at: str) -> SentinelError:
    """Say that Sentinel is wrong, and not the caller."""
    return SentinelError(
        ErrorCode.INTERNAL,
        at=at,
        expected="no fault of Sentinel",
        got=shorten(type(error).__name__),
    )
