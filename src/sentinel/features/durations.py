"""Lengths of time as people write them: ``90s``, ``15m``, ``1h``, ``24h``, ``7d``."""

from __future__ import annotations

import re

from sentinel.core import limits
from sentinel.core.errors import ErrorCode, SentinelError

_DURATION = re.compile(r"([1-9][0-9]{0,8})(s|m|h|d)")
_UNIT_MS = {"s": 1_000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}


def parse_ms(text: str, *, at: str) -> int:
    """Read a length of time as milliseconds.

    Parameters
    ----------
    text : str
        A whole number followed by ``s``, ``m``, ``h`` or ``d``; at most ``WINDOW_MS_MAX``.
    at : str
        What it belongs to, for the message.

    Raises
    ------
    SentinelError
        ``feature-invalid`` for anything else.

    Examples
    --------
    >>> parse_ms("15m", at="over")
    900000
    """
    match = _DURATION.fullmatch(text) if isinstance(text, str) else None
    length_ms = int(match[1]) * _UNIT_MS[match[2]] if match else 0
    if not 0 < length_ms <= limits.WINDOW_MS_MAX:
        days = limits.WINDOW_MS_MAX // _UNIT_MS["d"]
        raise SentinelError(
            ErrorCode.FEATURE_INVALID,
            at=at,
            expected=f"a length such as 90s, 15m, 1h, 24h or 7d, up to {days}d",
            got=text,
        )
    return length_ms


def write_ms(length_ms: int) -> str:
    """Write milliseconds in the largest unit that holds them whole.

    Examples
    --------
    >>> write_ms(86_400_000)
    '1d'
    """
    for unit in ("d", "h", "m"):
        if length_ms % _UNIT_MS[unit] == 0:
            return f"{length_ms // _UNIT_MS[unit]}{unit}"
    return f"{length_ms // 1000}s"
