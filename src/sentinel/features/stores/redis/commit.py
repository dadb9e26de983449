"""A commit to one Redis as bytes: a transaction of plain commands behind a watched head.

``WATCH`` stands on the head since its version was read, on this connection; so ``EXEC`` carries
out either everything, or nothing because another writer was first. Rows go through no script: one
with a thousand events takes 40 times as long in Lua as plain commands do (measured).
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from sentinel.core import limits
from sentinel.features.stores.redis.link import Word, packed
from sentinel.features.stores.redis.script import Change, Keys
from sentinel.features.stores.redis.wire import set_rows

Int64Array = npt.NDArray[np.int64]


def watched(keys: Keys) -> list[list[Word]]:
    """Return the commands that watch the head, and ask for its version."""
    return [["WATCH", keys.head], ["HGET", keys.head, "version"]]


def transaction(change: Change, keys: Keys, ttls_ms: list[int]) -> tuple[bytes, int]:
    """Write a commit, and the watch for the next one; return how many replies that brings."""
    commands = _commands(change, keys)
    first: list[list[Word]] = [["MULTI"], *commands]
    last: list[list[Word]] = [["EXEC"], *watched(keys)]
    before, after = (b"".join(map(packed, part)) for part in (first, last))
    rows = [
        _rows(keys, entity, found, changed, ttls_ms[entity])
        for entity, found, changed in change.rows
    ]
    n_replies = 1 + len(commands) + change.n_rows + 3
    return b"".join((before, *rows, after)), n_replies


def _rows(keys: Keys, entity: int, found: Int64Array, rows: Int64Array, ttl_ms: int) -> bytes:
    """Write ``SET key row PX ttl`` for each row of one type."""
    prefix = keys.rows + bytes((entity,))
    ttl = b"%d" % ttl_ms
    start = b"*%d\r\n$3\r\nSET\r\n$%d\r\n%b" % (5 if ttl_ms else 3, len(prefix) + 8, prefix)
    middle = b"\r\n$%d\r\n" % (8 * rows.shape[1])
    end = b"\r\n$2\r\nPX\r\n$%d\r\n%b\r\n" % (len(ttl), ttl) if ttl_ms else b"\r\n"
    parts = [np.frombuffer(part, dtype=np.uint8) for part in (start, middle, end)]
    return set_rows(parts[0], parts[1], parts[2], found, rows).tobytes()


def _commands(change: Change, keys: Keys) -> list[list[Word]]:
    fixed = keys.fixed(change.where)
    head, positions, changes, answers, pending, writer = fixed[:6]
    fields: list[Word] = [
        "version", change.version, "state", change.state, "turn", change.turns[0],
        "feedback_turn", change.turns[1],
    ]  # fmt: skip
    if change.pending_mark:
        fields += ("pending", change.pending_mark)
    last = b"%d %b" % (change.number, change.version)
    commands: list[list[Word]] = [
        ["HSET", head, *fields],
        ["SET", writer, last, "PX", limits.STORE_WRITER_MS],
        ["RPUSH", changes, change.changed],
        ["LTRIM", changes, -limits.STORE_CHANGES_KEPT, -1],
    ]
    for name, position in change.positions.items():
        commands.append(["HSET", positions, name, position])
    if change.answers:
        commands += (
            ["RPUSH", answers, change.answers],
            ["LTRIM", answers, -change.n_answers_kept, -1],
        )
    for place, is_fresh, content in change.ids:
        if is_fresh:
            commands.append(["DEL", fixed[place - 1]])
        if content:
            commands.append(["APPEND", fixed[place - 1], content])
    if change.n_pending_dropped:
        commands.append(["ZREMRANGEBYRANK", pending, 0, change.n_pending_dropped - 1])
    if change.pending:
        scored: list[Word] = [word for entry in change.pending for word in entry]
        commands.append(["ZADD", pending, *scored])
    return commands
