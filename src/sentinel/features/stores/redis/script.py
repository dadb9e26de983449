"""The functions that Redis runs: commit in a Cluster, load what is new; and the names of keys.

Keys of a store, all with one hash tag::

    sentinel:{name}:head         hash: version, epoch, identity, format, state, turns, pending mark
    sentinel:{name}:positions    hash: "partition/source" to the next position
    sentinel:{name}:changes      list: of the last commits, version and changed rows
    sentinel:{name}:answers:<partition>/<source>  list: of its last commits, the vectors given
    sentinel:{name}:pending      sorted set: feedback by known-at
    sentinel:{name}:writer:<id>  the last commit of a writer, and the version it made; expires
    sentinel:{name}:ids:0, :1    event ids seen, two generations, eight bytes each
    sentinel:{name}:fids:0, :1   the same of feedback
    sentinel:{name}:intents      list: rows of commits that may not be in their shards yet
    sentinel:{name}:r:<type><key>  a row: type one byte, key eight

In a Cluster rows are in shards, each with a hash tag of its own::

    sentinel:{name:07}:mark      epoch and number of the last commit that wrote to the shard
    sentinel:{name:07}:r:<type><key>  a row

The first write of a commit is one that Redis refuses when it may not write at all (memory, disk,
replica), so a refused commit has written nothing.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from sentinel.core import limits
from sentinel.features.stores.redis.intent import Intent
from sentinel.features.stores.redis.link import Word

COMMIT = """
local at = 0
local function take() at = at + 1; return ARGV[at] end
local expected, version, number = take(), take(), take()
local done = redis.call('GET', KEYS[6])
if done then
  local n, made = string.match(done, '^(%d+) (.*)$')
  if n == number then return {'applied', made} end
end
local found = redis.call('HGET', KEYS[1], 'version')
if not found then return {'missing', ''} end
if found ~= expected then return {'moved', found} end
redis.call('HSET', KEYS[1], 'version', version, 'state', take(), 'turn', take(),
           'feedback_turn', take())
local shards, intent, unfinished = take(), take(), take()
if intent ~= '' then
  redis.call('HSET', KEYS[1], 'shards', shards)
  redis.call('RPUSH', KEYS[11], intent)
  redis.call('LTRIM', KEYS[11], '-' .. unfinished, -1)
end
redis.call('SET', KEYS[6], number .. ' ' .. version, 'PX', take())
local mark = take()
if mark ~= '' then redis.call('HSET', KEYS[1], 'pending', mark) end
for _ = 1, tonumber(take()) do redis.call('HSET', KEYS[2], take(), take()) end
local kept = take()
redis.call('RPUSH', KEYS[3], take())
redis.call('LTRIM', KEYS[3], '-' .. kept, -1)
kept = take()
local answers = take()
if answers ~= '' then
  redis.call('RPUSH', KEYS[4], answers)
  redis.call('LTRIM', KEYS[4], '-' .. kept, -1)
end
for _ = 1, tonumber(take()) do
  local key, fresh, ids = KEYS[tonumber(take())], take(), take()
  if fresh == '1' then redis.call('DEL', key) end
  if ids ~= '' then redis.call('APPEND', key, ids) end
end
local dropped = tonumber(take())
if dropped > 0 then redis.call('ZREMRANGEBYRANK', KEYS[5], 0, dropped - 1) end
for _ = 1, tonumber(take()) do redis.call('ZADD', KEYS[5], take(), take()) end
return {'done', version}
"""

LOAD = """
local head = redis.call('HMGET', KEYS[1], 'version', 'epoch', 'identity', 'format', 'state',
                        'turn', 'feedback_turn', 'pending', 'shards')
if not head[1] then return {} end
local function ids(turn, own_turn, known, first, second)
  if turn == own_turn then
    local current = (tonumber(turn) % 2 == 0) and first or second
    return {'more', redis.call('GETRANGE', current, known, -1), ''}
  end
  return {'all', redis.call('GET', first) or '', redis.call('GET', second) or ''}
end
local pending = {'same'}
if head[8] ~= ARGV[5] then
  pending = redis.call('ZRANGE', KEYS[5], 0, -1)
  table.insert(pending, 1, 'all')
end
return {
  head, redis.call('HGETALL', KEYS[2]), redis.call('LRANGE', KEYS[3], ARGV[6], -1),
  ids(head[6], ARGV[1], ARGV[2], KEYS[7], KEYS[8]),
  ids(head[7], ARGV[3], ARGV[4], KEYS[9], KEYS[10]),
  pending, redis.call('LRANGE', KEYS[11], 0, -1), redis.call('GET', KEYS[6])
}
"""


CREATE = """
if redis.call('EXISTS', KEYS[1]) == 1 then return 0 end
redis.call('HSET', KEYS[1], unpack(ARGV))
return 1
"""


# Write the rows of one commit into one shard, once, and only onto the commit before it there.
WRITE_ROWS = """
local epoch, number, before = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])
local found, at = redis.call('GET', KEYS[1]), 0
if found then
  local own
  own, at = string.match(found, '^(.*):(%d+)$')
  if own ~= epoch then return {'other', found} end
  at = tonumber(at)
end
if at == number then return {'done', found} end
if at > number then return {'ahead', found} end
if at ~= before then return {'behind', found or ''} end
redis.call('SET', KEYS[1], epoch .. ':' .. ARGV[2])
for i = 2, #KEYS do
  local ttl, value = ARGV[2 * i], ARGV[2 * i + 1]
  if ttl ~= '0' then redis.call('SET', KEYS[i], value, 'PX', ttl)
  else redis.call('SET', KEYS[i], value) end
end
return {'done', ''}
"""


def digest_of(script: str) -> str:
    """Name a script as Redis does."""
    return hashlib.sha1(script.encode(), usedforsecurity=False).hexdigest()


Int64Array = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Keys:
    """Names of a store's keys.

    Attributes
    ----------
    name : str
        Of the store.
    writer : str
        Of this writer, unique to the process.
    """

    name: str
    writer: str

    @property
    def prefix(self) -> bytes:
        """What every key of the store begins with."""
        return f"sentinel:{{{self.name}}}:".encode()

    def shard_tag(self, shard: int) -> bytes:
        """Return the hash tag of a shard in a Cluster."""
        return b"%b:%02d" % (self.name.encode(), shard)

    def shard_prefix(self, shard: int) -> bytes:
        """Return what every key of a shard begins with."""
        return b"sentinel:{%b}:" % self.shard_tag(shard)

    @property
    def rows(self) -> bytes:
        """What the key of every row begins with."""
        return self.prefix + b"r:"

    def fixed(self, where: tuple[str, int] = ("", 0)) -> tuple[bytes, ...]:
        """Return the keys that every script names, in the order in which it numbers them.

        Parameters
        ----------
        where : tuple of str and int
            Source and partition, of the answers.
        """
        names = (
            "head", "positions", "changes", f"answers:{where[1]}/{where[0]}", "pending",
            f"writer:{self.writer}", "ids:0", "ids:1", "fids:0", "fids:1", "intents",
        )  # fmt: skip
        return tuple(self.prefix + name.encode() for name in names)

    @property
    def head(self) -> bytes:
        """The key of the head."""
        return self.prefix + b"head"

    def row_keys(self, entity: int, keys: npt.NDArray[np.int64]) -> list[bytes]:
        """Return the keys of rows: prefix, type as one byte, key as eight, little-endian."""
        prefix = self.rows
        n_bytes = len(prefix) + 9
        table = np.empty((len(keys), n_bytes), dtype=np.uint8)
        table[:, : len(prefix)] = np.frombuffer(prefix, dtype=np.uint8)
        table[:, len(prefix)] = entity
        table[:, -8:] = np.ascontiguousarray(keys).view(np.uint8).reshape(-1, 8)
        content = table.tobytes()
        return [content[at : at + n_bytes] for at in range(0, len(content), n_bytes)]


# Places of keys in the scripts, from 1.
EVENT_IDS = (7, 8)
FEEDBACK_IDS = (9, 10)


@dataclass(slots=True, kw_only=True)
class Change:
    """What one commit writes.

    Attributes
    ----------
    expected, version : bytes
        Version that it stands on, and that it makes.
    where : tuple of str and int
        Source and partition of the batch.
    number : int
        Of the commit, at this writer.
    state : bytes
    turns : tuple of int
        How often the ids of events and of feedback have changed generation.
    pending_mark : bytes
        Empty where the queue of feedback does not change.
    positions : dict of str to int
    changed : bytes
        Version and keys, for the list of changes.
    answers : bytes
    n_answers_kept : int
    ids : list of (int, bool, bytes)
        Place of the key, whether it begins anew, what is appended.
    shards : bytes
        For a Cluster: number of the last commit of each shard; empty for a single node.
    intent : bytes
        For a Cluster: the rows, to be written after the commit.
    intended : Intent or None
        The same, before it was encoded.
    n_unfinished : int
        Intents that are kept, this one included.
    n_pending_dropped : int
    pending : list of (int, bytes)
        Known-at and content.
    rows : list of (int, ndarray, ndarray)
        For a single node: entity type, keys, rows.
    """

    expected: bytes
    version: bytes
    number: int
    where: tuple[str, int] = ("", 0)
    state: bytes = b""
    turns: tuple[int, int] = (0, 0)
    pending_mark: bytes = b""
    positions: dict[str, int] = field(default_factory=dict)
    changed: bytes = b""
    answers: bytes = b""
    n_answers_kept: int = 0
    ids: list[tuple[int, bool, bytes]] = field(default_factory=list)
    shards: bytes = b""
    intent: bytes = b""
    intended: Intent | None = None
    n_unfinished: int = 0
    n_pending_dropped: int = 0
    pending: list[tuple[int, bytes]] = field(default_factory=list)
    rows: list[tuple[int, Int64Array, Int64Array]] = field(default_factory=list)

    @property
    def n_rows(self) -> int:
        """How many rows travel."""
        return sum(len(keys) for _, keys, _ in self.rows) + len(self.intent) // 1024

    def arguments(self) -> list[Word]:
        """Return the arguments in the order in which the script takes them."""
        words: list[Word] = [
            self.expected, self.version, self.number, self.state, *self.turns,
            self.shards, self.intent, self.n_unfinished,
            limits.STORE_WRITER_MS, self.pending_mark, len(self.positions),
        ]  # fmt: skip
        for name, position in self.positions.items():
            words += (name, position)
        words += (limits.STORE_CHANGES_KEPT, self.changed)
        words += (self.n_answers_kept, self.answers, len(self.ids))
        for place, is_fresh, content in self.ids:
            words += (place, int(is_fresh), content)
        words += (self.n_pending_dropped, len(self.pending))
        for known_at_ms, content in self.pending:
            words += (known_at_ms, content)
        return words
