"""Rows of a store in a Redis Cluster: in shards over its nodes, one commit behind the head at most.

A commit is one function on the slot of the head; it writes there, with everything else, an
*intent*: the rows that have changed, by shard, each shard with the number of the last commit that
wrote to it. That is the commit. Then one function a shard writes the rows, once, and only onto the
commit that the intent names: the shard's mark says which it has. So

* a writer that dies between the two leaves an intent, and whoever loads the state next finishes it;
* a writer that was frozen there, and goes on later, finds a newer mark and writes nothing;
* a shard that has lost writes (a replica was promoted that had not got them) has an older mark than
  the head says, and a head that has lost commits has an older number than the marks: both are
  ``state-missing``, never a wrong value.

The rows of one commit travel with the next call, so a batch is one round trip to all nodes at once.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from sentinel.core import limits
from sentinel.core.errors import ErrorCode, SentinelError
from sentinel.features.stores.redis.changes import split_rows
from sentinel.features.stores.redis.cluster_link import Addressed, ClusterLink, slot_of
from sentinel.features.stores.redis.intent import Intent, Part, decode_intent
from sentinel.features.stores.redis.link import Reply, Word
from sentinel.features.stores.redis.script import WRITE_ROWS, Keys, digest_of

Int64Array = npt.NDArray[np.int64]
Values = list[bytes | None]

N_SHARDS = limits.STORE_SHARDS
_SHIFT = np.uint64(64 - (N_SHARDS - 1).bit_length())
_SPREAD = np.uint64(0x9E3779B97F4A7C15)


def shards_of(entity: int, keys: Int64Array) -> npt.NDArray[np.int64]:
    """Say in which shard each row is; Fibonacci hashing of its key (Knuth, TAOCP 3, 6.4)."""
    mixed = (keys.view(np.uint64) + np.uint64(entity)) * _SPREAD
    return (mixed >> _SHIFT).astype(np.int64)


class Shards:
    """The rows of one store, over the nodes of a Cluster.

    Parameters
    ----------
    link : ClusterLink
    keys : Keys
    ttls_ms : list of int
        Time to live by entity type; 0: for ever.
    n_words : ndarray of int64
        Words of a row, by entity type.
    """

    def __init__(
        self, link: ClusterLink, keys: Keys, ttls_ms: list[int], n_words: Int64Array
    ) -> None:
        self.numbers = np.zeros(N_SHARDS, dtype=np.int64)
        self.unwritten: list[Intent] = []
        self.epoch = b""
        self._link = link
        self._keys = keys
        self._ttls_ms = ttls_ms
        self._n_words = n_words
        self._slots = [slot_of(keys.shard_tag(shard)) for shard in range(N_SHARDS)]
        self._marks = [keys.shard_prefix(shard) + b"mark" for shard in range(N_SHARDS)]

    # --- writing -----------------------------------------------------------------------------

    def intend(self, number: int, changed: Sequence[tuple[Int64Array, Int64Array]]) -> Intent:
        """Sort the rows that a batch has changed into shards.

        Parameters
        ----------
        number : int
            Of the commit.
        changed : sequence of (keys, rows)
            By entity type.
        """
        keys = np.concatenate([found for found, _ in changed])
        entities = np.repeat(
            np.arange(len(changed), dtype=np.uint8), [len(found) for found, _ in changed]
        )
        values = [value for _, rows in changed for value in split_rows(rows)]
        shards = np.concatenate([shards_of(e, found) for e, (found, _) in enumerate(changed)])
        order = np.argsort(shards, kind="stable")
        edges = np.searchsorted(shards[order], np.arange(N_SHARDS + 1))
        parts = []
        for shard in np.unique(shards).tolist():
            chosen = order[edges[shard] : edges[shard + 1]]
            before = int(self.numbers[shard])
            own = [values[i] for i in chosen.tolist()]
            parts.append(Part(shard, before, entities[chosen], keys[chosen], own))
        return Intent(number, parts)

    def numbers_with(self, intent: Intent) -> Int64Array:
        """Return the last commit of each shard, once an intent is carried out."""
        numbers = self.numbers.copy()
        numbers[[part.shard for part in intent.parts]] = intent.number
        return numbers

    def committed(self, intent: Intent) -> None:
        """Take an intent that the head holds; its rows are written with the next call."""
        self.numbers = self.numbers_with(intent)
        self.unwritten.append(intent)

    def writes(self) -> list[Addressed]:
        """Return the commands that write what is not written yet."""
        return [
            (self._slots[part.shard], self._write(intent.number, part))
            for intent in self.unwritten
            for part in intent.parts
        ]

    def written(self, replies: Sequence[Reply]) -> None:
        """Judge the answers to :meth:`writes`.

        A shard that is ahead has been written to by a later commit, and so by this one.

        Raises
        ------
        SentinelError
            ``state-missing`` where a shard has gone back.
        """
        for reply in replies:
            status, found = reply if isinstance(reply, list) else (b"", b"")
            if status not in {b"done", b"ahead"}:
                raise self.missing(f"a shard that has gone back to {found!r}")
        self.unwritten.clear()

    def finish(self) -> None:
        """Write what is not written yet, now: one commit after the other."""
        if self.unwritten:
            self._link.look(self._finish)

    def settle(self, replies: Sequence[Reply]) -> None:
        """Judge the answers to :meth:`writes`; what seems to be gone is looked for again."""
        try:
            self.written(replies)
        except SentinelError:
            self.finish()

    def _finish(self) -> None:
        waiting, self.unwritten = self.unwritten, []
        try:
            while waiting:
                self.unwritten = waiting[:1]
                n_rows = sum(len(part.keys) for part in waiting[0].parts)
                self.written(self.run(self.writes(), n_rows=n_rows))
                del waiting[0]
        finally:
            self.unwritten = waiting

    def run(self, commands: Sequence[Addressed], *, n_rows: int = 0) -> list[Reply]:
        """Send commands; nodes that do not know the function of rows get it first."""
        replies = self._link.call_slots(commands, n_rows=n_rows)
        slots = {
            slot
            for (slot, _), reply in zip(commands, replies, strict=True)
            if isinstance(reply, Exception)
        }
        if slots:
            self._link.call_slots([(slot, ("SCRIPT", "LOAD", WRITE_ROWS)) for slot in slots])
            # What was read behind a write that did not run is read again.
            places = [i for i, (slot, _) in enumerate(commands) if slot in slots]
            again = self._link.call_slots([commands[i] for i in places], n_rows=n_rows)
            for i, reply in zip(places, again, strict=True):
                replies[i] = reply
        return replies

    # --- reading -----------------------------------------------------------------------------

    def fetch(self, keys: Sequence[Int64Array]) -> list[Values]:
        """Read rows by entity type, in one round trip; what is not written yet goes first.

        Raises
        ------
        SentinelError
            ``state-missing`` where a shard has gone back.
        """
        if len(self.unwritten) > 1:
            self.finish()
        return self._link.look(lambda: self._fetch(keys), n_rows=sum(map(len, keys)))

    def _fetch(self, keys: Sequence[Int64Array]) -> list[Values]:
        writes = self.writes()
        reads, places = self._reads(keys)
        n_rows = sum(map(len, keys)) + sum(len(p.keys) for i in self.unwritten for p in i.parts)
        replies = self.run([*writes, *reads], n_rows=n_rows)
        self.written(replies[: len(writes)])
        found: list[Values] = [[None] * len(wanted) for wanted in keys]
        for (shard, chosen), reply in zip(places, replies[len(writes) :], strict=True):
            mark, *values = reply if isinstance(reply, list) else [None]
            if self._number_of(mark) < self.numbers[shard]:
                raise self.missing(f"shard {shard} at {mark!r}")
            for (entity, i), value in zip(chosen, values, strict=True):
                found[entity][i] = value if isinstance(value, bytes) else None
        return found

    def peek(self, keys: Sequence[Int64Array]) -> list[Values]:
        """Read rows as :meth:`fetch` does, and write nothing: intents are laid over them."""
        reads, places = self._reads(keys)
        intents: list[Word] = ["LRANGE", self._keys.prefix + b"intents", 0, -1]
        commands: list[Addressed] = [(slot_of(self._keys.name.encode()), intents), *reads]
        told, *replies = self._link.call_slots(commands, n_rows=sum(map(len, keys)))
        newer = self._newer(told)
        found: list[Values] = [[None] * len(wanted) for wanted in keys]
        for (_, chosen), reply in zip(places, replies, strict=True):
            mark, *values = reply if isinstance(reply, list) else [None]
            number = self._number_of(mark)
            for (entity, i), value in zip(chosen, values, strict=True):
                later, content = newer.get((entity, int(keys[entity][i])), (-1, b""))
                own = value if isinstance(value, bytes) else None
                found[entity][i] = content if later > number else own
        return found

    def _newer(self, reply: Reply) -> dict[tuple[int, int], tuple[int, bytes]]:
        newer = {}
        for content in reply if isinstance(reply, list) else []:
            intent = decode_intent(content if isinstance(content, bytes) else b"", self._n_words)
            for part in intent.parts:
                named = zip(part.entities.tolist(), part.keys.tolist(), strict=True)
                for name, value in zip(named, part.values, strict=True):
                    newer[name] = (intent.number, value)
        return newer

    def load(self, epoch: bytes, shards: bytes, intents: Sequence[bytes]) -> bool:
        """Take over what the head says, finish what others left, and compare the marks.

        Returns
        -------
        bool
            False where the marks are ahead: the head has moved on, or has gone back.

        Raises
        ------
        SentinelError
            ``state-missing`` where a shard has gone back.
        """
        self.epoch = epoch
        known = np.frombuffer(shards, dtype=np.int64)
        self.numbers = known.copy() if len(known) else np.zeros(N_SHARDS, dtype=np.int64)
        self.unwritten = [decode_intent(content, self._n_words) for content in intents]
        self.finish()
        return self._link.look(self._compare)

    def _compare(self) -> bool:
        """Whether every shard is at the commit that the head has for it."""
        commands = [(self._slots[s], ("GET", self._marks[s])) for s in range(N_SHARDS)]
        marks = self._link.call_slots(commands)
        numbers = np.array([self._number_of(mark) for mark in marks])
        if (numbers < self.numbers).any():
            shard = int(np.argmax(numbers < self.numbers))
            raise self.missing(f"shard {shard} at {marks[shard]!r}")
        return bool((numbers == self.numbers).all())

    def missing(self, got: str) -> SentinelError:
        """Say that something is no longer what the head says."""
        return SentinelError(
            ErrorCode.STATE_MISSING,
            at=f"{self._link.address.shown}, store {self._keys.name}",
            expected="the rows of the last commit",
            got=got,
            hint="Restore Redis, or erase the store and replay the source.",
        )

    def names(self) -> dict[bytes, list[bytes]]:
        """List the keys of this store on all nodes, by their shard's prefix or the store's own."""
        own = {self._keys.shard_prefix(shard) for shard in range(N_SHARDS)} | {self._keys.prefix}
        found: dict[bytes, list[bytes]] = {}
        pattern = self._keys.prefix.split(b"}")[0] + b"*"
        for node, first in self._link.call_nodes(_scan(b"0", pattern)).items():
            reply = first
            while isinstance(reply, list) and len(reply) == 2:
                cursor, page = reply
                for key in page if isinstance(page, list) else []:
                    prefix = key[: key.index(b"}:") + 2] if isinstance(key, bytes) else b""
                    if isinstance(key, bytes) and prefix in own:
                        found.setdefault(prefix, []).append(key)
                if not isinstance(cursor, bytes) or cursor == b"0":
                    break
                reply = self._link.call_node(node, _scan(cursor, pattern), n_rows=1000)
        return found

    def unlink(self) -> None:
        """Delete every key of this store; the head has gone first."""
        commands: list[Addressed] = [
            (slot_of(prefix[prefix.index(b"{") + 1 : prefix.index(b"}")]), ("UNLINK", *names))
            for prefix, names in self.names().items()
        ]
        if commands:
            self._link.call_slots(commands, n_rows=limits.STORE_KEYS_READ_MAX)
        self.numbers[:] = 0
        self.unwritten.clear()

    # --- private -----------------------------------------------------------------------------

    def _write(self, number: int, part: Part) -> list[Word]:
        prefix = self._keys.shard_prefix(part.shard) + b"r:"
        names = [
            prefix + bytes((entity,)) + key
            for entity, key in zip(part.entities.tolist(), _bytes_of(part.keys), strict=True)
        ]
        words: list[Word] = [
            "EVALSHA", digest_of(WRITE_ROWS), 1 + len(names), self._marks[part.shard], *names,
            self.epoch, number, part.before,
        ]  # fmt: skip
        for entity, value in zip(part.entities.tolist(), part.values, strict=True):
            words += (self._ttls_ms[entity], value)
        return words

    def _reads(
        self, keys: Sequence[Int64Array]
    ) -> tuple[list[Addressed], list[tuple[int, list[tuple[int, int]]]]]:
        """Return one command a shard, and what each asks for."""
        wanted: dict[int, list[tuple[int, int]]] = {}
        names: dict[int, list[bytes]] = {}
        for entity, own in enumerate(keys):
            shards = shards_of(entity, own).tolist()
            for i, (shard, key) in enumerate(zip(shards, _bytes_of(own), strict=True)):
                wanted.setdefault(shard, []).append((entity, i))
                prefix = self._keys.shard_prefix(shard)
                names.setdefault(shard, []).append(prefix + b"r:" + bytes((entity,)) + key)
        commands: list[Addressed] = [
            (self._slots[shard], ("MGET", self._marks[shard], *own)) for shard, own in names.items()
        ]
        return commands, list(wanted.items())

    def _number_of(self, mark: Reply) -> int:
        """Return the number in a mark; 0 for none, -1 for a mark of another state."""
        if not isinstance(mark, bytes):
            return 0
        epoch, _, number = mark.rpartition(b":")
        return int(number) if epoch == self.epoch or not self.epoch else -1


def _bytes_of(keys: Int64Array) -> list[bytes]:
    content = np.ascontiguousarray(keys).tobytes()
    return [content[at : at + 8] for at in range(0, len(content), 8)]


def _scan(cursor: bytes, pattern: bytes) -> tuple[Word, ...]:
    return ("SCAN", cursor, "MATCH", pattern, "COUNT", 1000)
