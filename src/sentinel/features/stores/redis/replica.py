"""A cache of rows that is kept at one version of the state in Redis."""

from __future__ import annotations

import secrets
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from sentinel.contract import EventBatch
from sentinel.core import limits
from sentinel.core.clock import Clock
from sentinel.core.errors import ErrorCode, SentinelError
from sentinel.features.engine import Engine
from sentinel.features.index import rehash_ids
from sentinel.features.layout import (
    E_SPAN,
    LIFE_SLICES,
    R_ARENA,
    R_ENTITIES,
    R_GENERATION,
    R_IDS,
    W_ENTITY,
    W_HOP,
    W_TILES,
)
from sentinel.features.matrix import FeatureMatrix
from sentinel.features.plan import FeaturePlan
from sentinel.features.stores.redis.address import is_cluster
from sentinel.features.stores.redis.cache import RowCache, Values
from sentinel.features.stores.redis.cluster_link import ClusterLink, slot_of
from sentinel.features.stores.redis.commit import transaction, watched
from sentinel.features.stores.redis.link import RedisLink, Reply, Word
from sentinel.features.stores.redis.rows import remember_ids
from sentinel.features.stores.redis.script import COMMIT, CREATE, LOAD, Change, Keys, digest_of
from sentinel.features.stores.redis.seal import corrupt, sum_of_ids
from sentinel.features.stores.redis.shards import Shards
from sentinel.features.stores.redis.state import (
    FORMAT,
    N_ID_SUMS,
    Answers,
    Loaded,
    Scalars,
    decode_answers,
    decode_changes,
    decode_loaded,
    decode_pending,
    decode_scalars,
    version_of,
    words_of,
)

Int64Array = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]
Partition = tuple[str, int]

_REDIS_MAJOR_MIN = 7
_SCAN_KEYS = 1000
_ID_PLACES_FIRST = 1 << 12
_FIRST_TURNS = (0, 0)


@dataclass(frozen=True, slots=True)
class Ids:
    """Ids that are held: their table, how many are of the current generation, sums of both."""

    table: Int64Array
    n_current: int
    sums: Int64Array


@dataclass(frozen=True, slots=True)
class Commit:
    """A batch on its way: its number, and what will be answered."""

    number: int
    batch: EventBatch
    matrix: FeatureMatrix | None


class RedisReplica(RowCache):
    """An engine that knows which version of the state its cache is.

    Parameters
    ----------
    plan : FeaturePlan
    name, url : str
    deadline_ms : float
    n_dedupe_min : int
    clock : Clock or None
    """

    def __init__(
        self,
        plan: FeaturePlan,
        *,
        name: str,
        url: str,
        deadline_ms: float,
        n_dedupe_min: int,
        clock: Clock | None,
    ) -> None:
        super().__init__(plan, n_dedupe_min=n_dedupe_min)
        self._writer = secrets.token_hex(8)
        self._keys = Keys(name, self._writer)
        self._ttls_ms = [_ttl_ms(plan, entity) for entity in range(len(plan.tables.entities))]
        self.link: RedisLink | ClusterLink
        self._shards: Shards | None = None
        if is_cluster(url):
            self.link = ClusterLink(url, name.encode(), deadline_ms=deadline_ms, clock=clock)
            self._shards = Shards(self.link, self._keys, self._ttls_ms, self.n_words)
        else:
            self.link = RedisLink(url, deadline_ms=deadline_ms, clock=clock)
        self._next: dict[Partition, int] = {}
        self._version = b""
        self._epoch = b""
        self._pending_mark = b""
        self._turns = _FIRST_TURNS
        self._feedback_sequence = 0
        self._id_sums = np.zeros(N_ID_SUMS, dtype=np.int64)
        self._unsure: Commit | None = None
        self._settled: Commit | None = None
        self._must_load = True
        self._must_load_all = True
        self._answers: dict[Partition, list[Answers]] = {}
        # The connection that watches the head, and the version that it had.
        self._watched = (0, b"")

    # --- opening ---------------------------------------------------------------------------------

    def _open(self) -> None:
        """Connect and load, however short a batch's own deadline is."""
        deadline_ms = self.link.deadline_ms
        self.link.deadline_ms = max(deadline_ms, limits.STORE_OPEN_MS)
        try:
            self._check_fit()
            self._create()
            self._load()
        finally:
            self.link.deadline_ms = deadline_ms

    def _check_fit(self) -> None:
        """Refuse a Redis that is too old, or that may throw state away."""
        if isinstance(self.link, ClusterLink):
            servers = self.link.call_nodes(("INFO", "server"))
            memories = self.link.call_nodes(("INFO", "memory"))
            for node, reply in servers.items():
                self._check_node([reply, memories.get(node)])
            return
        self._check_node(self.link.call([("INFO", "server"), ("INFO", "memory")]))

    def _check_node(self, replies: list[Reply]) -> None:
        facts: dict[str, str] = {}
        for reply in replies:
            for line in (reply if isinstance(reply, bytes) else b"").decode().splitlines():
                name, _, value = line.partition(":")
                facts[name] = value
        version = facts.get("redis_version", "0")
        if int(version.split(".")[0]) < _REDIS_MAJOR_MIN:
            raise self._unfit(f"Redis {_REDIS_MAJOR_MIN} or later", version)
        policy = facts.get("maxmemory_policy", "")
        if policy != "noeviction":
            raise self._unfit("maxmemory-policy noeviction", policy)

    def _unfit(self, expected: str, got: object) -> SentinelError:
        return SentinelError(
            ErrorCode.STORE_UNFIT, at=self.link.address.shown, expected=expected, got=got
        )

    def _create(self) -> None:
        """Begin a state where there is nothing at all."""
        head = self._keys.head
        (found,) = self.link.call([("EXISTS", head)])
        if found:
            return
        if self._shards.names() if self._shards is not None else self._scan(self._keys.prefix):
            raise self._missing("rows without a head")
        epoch = secrets.token_hex(16)
        fields: list[Word] = [
            "version", f"0:{epoch}", "epoch", epoch, "identity", self.plan.identity,
            "format", FORMAT, "state", self._scalars().encode(), "turn", 0, "feedback_turn", 0,
            "pending", "0",
        ]  # fmt: skip
        self._run(CREATE, [head], fields)

    def _begin_anew(self) -> None:
        """Delete the state, and begin an empty one of a new epoch."""
        # The head goes first: whoever else writes finds the state missing, not half of it.
        self.link.call([("UNLINK", self._keys.head)])
        if self._shards is not None:
            self._shards.unlink()
        found = [] if self._shards is not None else self._scan(self._keys.prefix)
        for first in range(0, len(found), _SCAN_KEYS):
            self.link.call([("UNLINK", *found[first : first + _SCAN_KEYS])])
        empty = Engine(self.plan, n_dedupe_min=int(self._feedback_window[2]))
        self.restore(*empty.capture())
        self._feedback_sequence = 0
        self._turns = _FIRST_TURNS
        self._id_sums = np.zeros(N_ID_SUMS, dtype=np.int64)
        self._epoch = b""
        self._unsure = self._settled = None
        self._must_load_all = True
        self._create()
        self._load()

    # --- reading ---------------------------------------------------------------------------------

    def _run(self, script: str, keys: list[Word], words: list[Word], n_rows: int = 0) -> Reply:
        """Run a script by its digest; where Redis does not know it, load it first."""
        command: list[Word] = ["EVALSHA", digest_of(script), len(keys), *keys, *words]
        (reply,) = self.link.call([command], n_rows=n_rows)
        for _ in range(limits.STORE_TRIES_MAX):
            if not isinstance(reply, Exception):
                return reply
            # In a Cluster the slot may move on meanwhile, to a node that does not know it either.
            _, reply = self.link.call([("SCRIPT", "LOAD", script), command], n_rows=n_rows)
        if isinstance(reply, Exception):
            raise SentinelError(
                ErrorCode.STORE_UNREACHABLE,
                at=self.link.address.shown,
                expected="a node that keeps a script",
                got=reply,
            ) from reply
        return reply

    def _commit(self, change: Change) -> tuple[bytes, bytes]:
        """Commit as a whole or not at all: the word for it, and the version made or found."""
        if isinstance(self.link, RedisLink):
            return self._commit_whole(self.link, change)
        keys: list[Word] = list(self._keys.fixed(change.where))
        if self._shards is not None and self._shards.unwritten:
            reply = self._commit_with_rows(self._shards, change, keys)
        else:
            reply = self._run(COMMIT, keys, change.arguments(), change.n_rows)
        status, version = reply if isinstance(reply, list) else (b"", b"")
        if not isinstance(status, bytes) or not isinstance(version, bytes):
            return b"", b""
        return status, version

    def _commit_whole(self, link: RedisLink, change: Change) -> tuple[bytes, bytes]:
        """Commit to one node, if the head has not been touched since its version was read."""
        if self._watched != (link.n_connections, change.expected):
            _, _, found = link.call([["UNWATCH"], *watched(self._keys)])
            if found != change.expected:
                return b"moved", found if isinstance(found, bytes) else b""
        connection = link.n_connections
        self._watched = (0, b"")
        request, n_replies = transaction(change, self._keys, self._ttls_ms)
        *_, done, _, found = link.call_once(request, n_replies, n_rows=change.n_rows)
        now = found if isinstance(found, bytes) else b""
        if not isinstance(done, list):
            return b"moved", now
        for reply in done:
            if isinstance(reply, Exception):
                link.judge(str(reply))
        self._watched = (connection, now)
        return b"done", change.version

    def _commit_with_rows(self, shards: Shards, change: Change, keys: list[Word]) -> Reply:
        """Commit, and write the rows of the commit before it, in one round trip."""
        if len(shards.unwritten) > 1:
            shards.finish()
        words = change.arguments()
        command: list[Word] = ["EVALSHA", digest_of(COMMIT), len(keys), *keys, *words]
        n_rows = change.n_rows + sum(len(p.keys) for i in shards.unwritten for p in i.parts)
        home = slot_of(self._keys.name.encode())
        reply, *rest = shards.run([(home, command), *shards.writes()], n_rows=n_rows)
        shards.settle(rest)
        if isinstance(reply, Exception):
            reply = self._run(COMMIT, keys, words, change.n_rows)
        return reply

    def _load(self) -> None:
        """Bring scalars, ids, feedback and held rows to the version that Redis has."""
        chain = None
        if not self._must_load_all:
            for n_changes in (limits.STORE_CHANGES_READ, limits.STORE_CHANGES_KEPT):
                loaded = self._ask_for_more(n_changes)
                chain = self._chain(loaded)
                if chain is not None:
                    break
        # What fails half-way is loaded whole the next time.
        self._must_load = self._must_load_all = True
        if chain is None:
            loaded = self._ask_for_all()
            self.drop_rows()
        scalars = decode_scalars(loaded.state)
        if scalars.turns != loaded.turns:
            raise corrupt("head", f"turns {scalars.turns}", loaded.turns)
        if self._shards is not None:
            self._load_shards(self._shards, loaded)
        self._take_ids(loaded, scalars)
        self._take_scalars(scalars)
        self._take_pending(loaded)
        if chain:
            self._renew_changed(chain)
        self._version, self._next, self._turns = loaded.version, loaded.positions, loaded.turns
        self._answers.clear()
        if self._unsure is not None and self._was_committed(self._unsure, loaded):
            self._settled, self._unsure = self._unsure, None
        self._must_load = self._must_load_all = False

    def _was_committed(self, commit: Commit, loaded: Loaded) -> bool:
        """Whether a commit whose answer was lost is in the state."""
        return loaded.writer.split(b" ")[0] == b"%d" % commit.number

    def _load_shards(self, shards: Shards, loaded: Loaded) -> None:
        """Finish what others left; a head that is behind its rows, and stays there, went back."""
        if shards.load(loaded.epoch, loaded.shards, loaded.intents):
            return
        (version,) = self.link.call([("HGET", self._keys.head, "version")])
        if version == loaded.version:
            raise self._missing("rows of a later commit than the last")

    def _ask_for_all(self) -> Loaded:
        return self._ask((-1, 0), (-1, 0), b"", -1)

    def _ask_for_more(self, n_changes: int) -> Loaded:
        n_ids = int(self._state.registers[R_IDS])
        n_feedback_ids = int(self._feedback_window[1])
        return self._ask(
            (self._turns[0], n_ids),
            (self._turns[1], n_feedback_ids),
            self._pending_mark,
            -n_changes,
        )

    def _ask(
        self, ids: tuple[int, int], feedback_ids: tuple[int, int], mark: bytes, first_change: int
    ) -> Loaded:
        keys: list[Word] = list(self._keys.fixed())
        words: list[Word] = [
            ids[0], 8 * ids[1], feedback_ids[0], 8 * feedback_ids[1], mark, first_change,
        ]  # fmt: skip

        def look() -> Loaded:
            loaded = decode_loaded(self._run(LOAD, keys, words))
            if loaded is None:
                raise self._missing("nothing")
            self._check_head(loaded)
            return loaded

        return look() if isinstance(self.link, RedisLink) else self.link.look(look)

    def _check_head(self, loaded: Loaded) -> None:
        if self._epoch and loaded.epoch != self._epoch:
            raise self._missing("a state of another epoch")
        if loaded.format != FORMAT:
            raise SentinelError(
                ErrorCode.STATE_FORMAT,
                at=self.link.address.shown,
                expected=f"format {FORMAT.decode()}",
                got=loaded.format.decode(),
                hint="Use the version of Sentinel that wrote it, or replay the source.",
            )
        if loaded.identity.decode() != self.plan.identity:
            raise SentinelError(
                ErrorCode.STATE_OF_ANOTHER_FEATURE_SET,
                at=f"{self.link.address.shown}, store {self._keys.name}",
                expected=f"state of feature set {self.plan.identity[:12]}",
                got=f"feature set {loaded.identity.decode()[:12]}",
                hint="Give the new feature set a store of its own and replay the source.",
            )
        self._epoch = loaded.epoch

    def _missing(self, got: str) -> SentinelError:
        return SentinelError(
            ErrorCode.STATE_MISSING,
            at=f"{self.link.address.shown}, store {self._keys.name}",
            expected="the state that was there",
            got=got,
            hint="Restore Redis, or erase the store and replay the source.",
        )

    def _chain(self, loaded: Loaded) -> list[bytes] | None:
        """Return the commits after the version held; None where they are not known or whole."""
        if loaded.version == self._version:
            return []
        try:
            versions = [version_of(change) for change in loaded.changes]
        except SentinelError:
            return None  # what they would spare is loaded
        if self._version in versions:
            return loaded.changes[versions.index(self._version) + 1 :]
        # Before the first change of a list that was never cut stands the first version.
        first = int(versions[0].split(b":")[0]) if versions else 0
        is_next = first == int(self._version.split(b":")[0]) + 1 == 1
        return loaded.changes if is_next else None

    def _renew_changed(self, chain: list[bytes]) -> None:
        parts = [list(decode_changes(change, len(self._ttls_ms))) for change in chain]
        changed = [np.unique(np.concatenate(keys)) for keys in zip(*parts, strict=True)]
        self.renew(changed, self._fetch)

    def _take_ids(self, loaded: Loaded, scalars: Scalars) -> None:
        registers = scalars.registers
        known = Ids(self._state.ids, int(self._state.registers[R_IDS]), self._id_sums[:2])
        wanted = (registers[R_GENERATION], registers[R_IDS], scalars.id_sums[:2])
        ids = _merged(known, loaded.ids, *wanted)
        self._state = self._state._replace(ids=ids)
        window = scalars.feedback_window
        known = Ids(self._feedback_ids, int(self._feedback_window[1]), self._id_sums[2:])
        wanted = (window[0], window[1], scalars.id_sums[2:])
        self._feedback_ids = _merged(known, loaded.feedback_ids, *wanted)
        self._id_sums = scalars.id_sums

    def _take_scalars(self, scalars: Scalars) -> None:
        registers = self._state.registers
        own = (int(registers[R_ARENA]), int(registers[R_ENTITIES]))
        registers[:] = scalars.registers
        registers[R_ARENA], registers[R_ENTITIES] = own
        self._feedback_window[:] = scalars.feedback_window
        self._n_feedback_duplicates = scalars.n_feedback_duplicates
        self._feedback_sequence = scalars.feedback_sequence

    def _take_pending(self, loaded: Loaded) -> None:
        if loaded.pending is None:
            return
        schema = self.plan.features.feedback
        n_fields = 0 if schema is None else len(schema.fields)
        self._pending.feed = decode_pending(loaded.pending, n_fields)
        self._pending_mark = loaded.pending_mark

    def _scalars(self) -> Scalars:
        return Scalars(
            self._state.registers,
            self._feedback_window,
            self._n_feedback_duplicates,
            self._feedback_sequence,
            self._turns,
            self._id_sums,
        )

    # --- rows ------------------------------------------------------------------------------------

    def _fetch(self, keys: list[Int64Array]) -> list[Values]:
        """Read rows, in one round trip."""
        if self._shards is not None:
            return self._shards.fetch(keys)
        names = [self._keys.row_keys(entity, wanted) for entity, wanted in enumerate(keys)]
        commands: list[list[Word]] = [["MGET", *wanted] for wanted in names if wanted]
        replies = iter(self.link.call(commands, n_rows=sum(map(len, names))))
        found: list[Values] = []
        for wanted in names:
            reply = next(replies) if wanted else []
            values = reply if isinstance(reply, list) else []
            found.append([value if isinstance(value, bytes) else None for value in values])
        return found

    def _all_keys(self) -> list[Int64Array]:
        """List the keys of all rows in Redis, by entity type."""
        if self._shards is not None:
            self._shards.finish()
            named = [key for names in self._shards.names().values() for key in names]
            tails = {key[-9:] for key in named if key[-12:-9] == b":r:"}
        else:
            at = len(self._keys.rows)
            tails = {key[at:] for key in self._scan(self._keys.rows) if len(key) == at + 9}
        return [
            np.array(
                [int.from_bytes(t[1:], "little", signed=True) for t in tails if t[0] == entity],
                dtype=np.int64,
            )
            for entity in range(len(self._ttls_ms))
        ]

    def _scan(self, prefix: bytes) -> list[bytes]:
        """List the keys with a prefix."""
        cursor = b"0"
        found: set[bytes] = set()
        while True:
            command = ("SCAN", cursor, "MATCH", prefix + b"*", "COUNT", _SCAN_KEYS)
            (reply,) = self.link.call([command], n_rows=_SCAN_KEYS)
            following, page = reply if isinstance(reply, list) else (b"0", [])
            found.update(key for key in page_of(page))
            if not isinstance(following, bytes) or following == b"0":
                return sorted(found)
            cursor = following

    # --- answers that were given -----------------------------------------------------------------

    def _answer_again(self, events: EventBatch, is_held: BoolArray) -> FeatureMatrix:
        """Make a matrix in which the rows that are held have the vectors they got."""
        matrix = self.defaults(events.n_rows)
        wanted = np.where(is_held, events.raw.positions[events.rows], -1)
        for answers in self._answers_of((events.raw.source, events.raw.partition)):
            found, here, there = np.intersect1d(wanted, answers.positions, return_indices=True)
            if len(found):
                for old, new in zip(parts_of(matrix), parts_of(answers.matrix), strict=True):
                    old[here] = new[there]
        return matrix

    def _answers_of(self, where: Partition) -> list[Answers]:
        """Read the vectors that the last commits of a source gave, oldest first."""
        if where not in self._answers:
            found: list[Answers] = []
            while True:
                first, last = len(found), len(found) + limits.STORE_ANSWERS_KEPT - 1
                command = ("LRANGE", self._keys.fixed(where)[3], first, last)
                (reply,) = self.link.call([command], n_rows=limits.STORE_KEYS_READ_MAX)
                page = page_of(reply)
                found += [decode_answers(part, self.plan.names) for part in page]
                if len(page) < limits.STORE_ANSWERS_KEPT:
                    break
            self._answers[where] = found
        return self._answers[where]


def page_of(reply: Reply) -> list[bytes]:
    """Return the texts of a list."""
    return [part for part in reply if isinstance(part, bytes)] if isinstance(reply, list) else []


def parts_of(matrix: FeatureMatrix) -> tuple[npt.NDArray[np.generic], ...]:
    """Return the arrays of a matrix, one row an event each."""
    return (matrix.values, matrix.status, matrix.is_late, matrix.is_duplicate)


def _merged(
    known: Ids, loaded: tuple[bool, bytes, bytes], current: int, n_ids: int, sums: Int64Array
) -> Int64Array:
    """Return the table of ids with what was loaded: ``n_ids`` of generation ``current``."""
    is_all, first, second = loaded
    if not is_all:
        more = words_of(first)
        if known.n_current + len(more) != n_ids:
            raise _ids_corrupt(n_ids, known.n_current + len(more))
        found = known.sums.copy()
        found[current] = sum_of_ids(more, int(found[current]))
        _check_sums(found, sums)
        ids = known.table
        while 2 * n_ids > ids.shape[1]:
            larger = np.zeros((2, 2 * ids.shape[1]), dtype=np.int64)
            rehash_ids(ids, larger)
            ids = larger
        remember_ids(ids, current, more)
        return ids
    parts = [words_of(first), words_of(second)]
    if len(parts[current]) != n_ids:
        raise _ids_corrupt(n_ids, len(parts[current]))
    _check_sums(np.array([sum_of_ids(part) for part in parts]), sums)
    n_places = _ID_PLACES_FIRST
    while n_places < 2 * max(map(len, parts)):
        n_places *= 2
    ids = np.zeros((2, n_places), dtype=np.int64)
    for generation, part in enumerate(parts):
        remember_ids(ids, generation, part)
    return ids


def _ids_corrupt(expected: int, got: int) -> SentinelError:
    return corrupt("ids", f"{expected} ids of the current generation", got)


def _check_sums(found: Int64Array, expected: Int64Array) -> None:
    if (found != expected).any():
        raise corrupt("ids", "ids whose sums are those of the head", "others")


def _ttl_ms(plan: FeaturePlan, entity: int) -> int:
    """Say how long a row may lie idle before it can change no value; 0: for ever.

    Its whole life (:mod:`sentinel.features.living`), and a week that a source may fall behind. In
    a set of the first meaning, the longest window, and as long again, at least a week.
    """
    span = int(plan.tables.entities[entity, E_SPAN])
    if span:
        return (LIFE_SLICES + 1) * span + limits.STORE_GRACE_MS
    windows = plan.tables.windows[plan.tables.windows[:, W_ENTITY] == entity]
    if not len(windows) or (windows[:, W_HOP] == 0).any():
        return 0
    longest = int((windows[:, W_HOP] * windows[:, W_TILES]).max())
    return longest + max(longest, limits.STORE_GRACE_MS)
