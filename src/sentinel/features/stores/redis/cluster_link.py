"""Connections to the nodes of a Redis Cluster: one call goes to many of them at the same time.

A call is commands, each of one slot. All are sent, each to the node that has its slot, before any
answer is read; those of one node in one write, in their order. Then, within one deadline:

* ``MOVED``: the map of slots is put right, and the command goes where it says;
* ``ASK``: the command goes once to the node named, behind ``ASKING``;
* a node that does not answer, ``TRYAGAIN``, ``CLUSTERDOWN``, ``LOADING``: the map is read again
  from any node that answers; the commands go again, ``STORE_TRIES_MAX`` times at most.

So a command may run twice: whoever calls makes each harmless when it is repeated. Commands of one
slot keep their order: while a slot is being moved a command may have to wait (``TRYAGAIN``: half of
its keys are on their way) where the next, of other keys, does not; what it answered is thrown away,
and it runs again behind the first. Redis Cluster Specification, "Redirection and resharding".
"""

from __future__ import annotations

import random
import ssl
from binascii import crc_hqx
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TypeVar

import hiredis

from sentinel.core import limits
from sentinel.core.clock import Clock, SystemClock
from sentinel.core.errors import ErrorCode, SentinelError
from sentinel.features.stores.redis.address import Address, at_node, parse_cluster
from sentinel.features.stores.redis.link import UNREACHABLE_HINT, Patience, RedisLink, Reply, Word

N_SLOTS = 16_384
Node = tuple[str, int]
Seen = TypeVar("Seen")
# A command and the slot of its keys.
Addressed = tuple[int, Sequence[Word]]

_REDIRECTS_MAX = 5
_ASKING: tuple[Word, ...] = ("ASKING",)


def slot_of(tag: bytes) -> int:
    """Return the slot of a hash tag: CRC-16 (XMODEM) modulo 16384.

    Examples
    --------
    >>> slot_of(b"123456789")
    12739
    """
    return crc_hqx(tag, 0) % N_SLOTS


class ClusterLink:
    """Connections that are made, lost and made again, and the map of slots.

    Parameters
    ----------
    url : str
        See :func:`sentinel.features.stores.redis.address.parse_cluster`.
    home_tag : bytes
        Hash tag of the keys of :meth:`call`.
    deadline_ms : float
        Of one call, before what its rows may take.
    clock : Clock
    rng : random.Random
        Of the jitter.
    """

    def __init__(
        self,
        url: str,
        home_tag: bytes,
        *,
        deadline_ms: float = limits.STORE_DEADLINE_MS,
        clock: Clock | None = None,
        rng: random.Random | None = None,
    ) -> None:
        self._seeds = parse_cluster(url)
        hosts = ",".join(f"{seed.host}:{seed.port}" for seed in self._seeds)
        scheme = self._seeds[0].shown.partition("://")[0]
        self.address = replace(self._seeds[0], shown=f"{scheme}+cluster://{hosts}")
        self.deadline_ms = deadline_ms
        self._clock = clock or SystemClock()
        self.patience = Patience(self._clock, rng or random.Random())  # noqa: S311 -- jitter
        self._home = slot_of(home_tag)
        self._owners: list[Node | None] = [None] * N_SLOTS
        self._nodes: tuple[Node, ...] = ()
        self._links: dict[Node, RedisLink] = {}
        self._must_map = True
        # How often state seemed to be gone: each time another node is asked for the map first.
        self._n_looks = 0

    def call(self, commands: Sequence[Sequence[Word]], *, n_rows: int = 0) -> list[Reply]:
        """Send commands to the node of the home tag; see :meth:`RedisLink.call`."""
        return self.call_slots([(self._home, command) for command in commands], n_rows=n_rows)

    def call_slots(self, commands: Sequence[Addressed], *, n_rows: int = 0) -> list[Reply]:
        """Send commands to the nodes of their slots, and return their replies in order.

        Raises
        ------
        SentinelError
            As :meth:`RedisLink.call`.
        """
        if not self.patience.begin():
            raise self._unreachable("a pause after a loss")
        work = _Work(commands, self._clock.monotonic_s() + self._allowed_s(n_rows))
        n_tries, n_redirects = 1, 0
        while True:
            is_whole = False
            try:
                self._round(work)
                is_whole = True
            finally:
                if not is_whole:
                    self.close()
            if not work.left:
                self.patience.succeed()
                return work.replies
            if not work.fault and n_redirects < _REDIRECTS_MAX:
                n_redirects += 1
                continue
            self._must_map = True
            if not self.patience.waits_for_another(n_tries, work.deadline):
                self.patience.lose()
                self.close()
                raise self._unreachable(work.fault or "a slot that is sent from node to node")
            n_tries += 1

    def call_nodes(self, command: Sequence[Word]) -> dict[Node, Reply]:
        """Send one command to every master.

        Raises
        ------
        SentinelError
            As :meth:`RedisLink.call`.
        """
        self._map_if_needed(self._clock.monotonic_s() + self.deadline_ms / 1000)
        return {node: self.call_node(node, command) for node in self._nodes}

    def call_node(self, node: Node, command: Sequence[Word], *, n_rows: int = 0) -> Reply:
        """Send one command to a node; it may be of no slot."""
        link = self._link(node)
        link.deadline_ms = self.deadline_ms
        (reply,) = link.call([command], n_rows=n_rows)
        return reply

    def look(self, look: Callable[[], Seen], *, n_rows: int = 0) -> Seen:
        """Look at the state; where it seems to be gone, look again with a map that is new.

        A node that was replaced may take itself for the master of a slot for a moment longer. So
        the map is read from another node first, and all of it within one deadline.

        Raises
        ------
        SentinelError
            ``state-missing`` where it is gone still; what ``look`` raises.
        """
        deadline = self._clock.monotonic_s() + self._allowed_s(n_rows)
        n_tries = 1
        while True:
            try:
                return look()
            except SentinelError as error:
                if error.code is not ErrorCode.STATE_MISSING:
                    raise
                self._must_map = True
                self._n_looks += 1
                if not self.patience.waits_for_another(n_tries, deadline):
                    raise
                n_tries += 1

    def close(self) -> None:
        """Close every connection; the next call makes others."""
        for link in self._links.values():
            link.close()
        self._links.clear()
        self._must_map = True

    # --- private -----------------------------------------------------------------------------

    def _allowed_s(self, n_rows: int) -> float:
        return (self.deadline_ms + n_rows * limits.STORE_ROW_MS) / 1000

    def _round(self, work: _Work) -> None:
        """Send what is left, and sort the answers into done, redirected and failed."""
        work.fault = ""
        try:
            self._map_if_needed(work.deadline)
        except SentinelError as error:
            if error.code is not ErrorCode.STORE_UNREACHABLE:
                raise
            work.fault = error.got
            return
        sent: list[tuple[Node, RedisLink, list[int]]] = []
        for node, places in self._by_node(work).items():
            link = self._link(node)
            batch = [word for place in places for word in work.words_of(place)]
            try:
                link.send(batch, work.deadline)
            except (OSError, SentinelError) as error:
                self._drop(node, work, error)
            else:
                sent.append((node, link, places))
        for node, link, places in sent:
            try:
                replies = link.receive(sum(work.n_replies(p) for p in places), work.deadline)
            except (OSError, SentinelError, hiredis.ProtocolError) as error:
                self._drop(node, work, error)
            else:
                self._sort(places, replies, link, work)
        work.keep_order()

    def _sort(self, places: list[int], replies: list[Reply], link: RedisLink, work: _Work) -> None:
        at = 0
        for place in places:
            at += work.n_replies(place)
            reply = replies[at - 1]
            work.asked.pop(place, None)
            if not isinstance(reply, hiredis.ReplyError):
                work.finish(place, reply)
                continue
            text = str(reply)
            code, _, rest = text.partition(" ")
            if code == "MOVED":
                slot, _, where = rest.partition(" ")
                self._owners[int(slot)] = self._node_at(where)
            elif code == "ASK":
                work.asked[place] = self._node_at(rest.partition(" ")[2])
            elif code == "NOSCRIPT":
                work.finish(place, reply)
            else:
                try:
                    link.judge(text)
                except SentinelError as error:
                    if error.code is not ErrorCode.STORE_UNREACHABLE:
                        self.close()
                        raise
                    work.fault = text
                    self._must_map = True

    def _by_node(self, work: _Work) -> dict[Node, list[int]]:
        found: dict[Node, list[int]] = {}
        first: dict[int, Node] = {}
        for place in work.left:
            slot = work.commands[place][0]
            node = work.asked.get(place) or self._owners[slot]
            if node is None:
                work.fault = f"slot {slot} on no node"
                self._must_map = True
            elif first.setdefault(slot, node) == node:
                found.setdefault(node, []).append(place)
        return found

    def _drop(self, node: Node, work: _Work, error: Exception) -> None:
        """Close a connection on which something went wrong; look at the map again."""
        link = self._links.pop(node, None)
        if link is not None:
            link.close()
        self._must_map = True
        if isinstance(error, ssl.SSLError):
            raise self._error(ErrorCode.STORE_DENIED, "access", error.reason or error) from error
        if isinstance(error, SentinelError) and error.code is not ErrorCode.STORE_UNREACHABLE:
            raise error
        got = error.got if isinstance(error, SentinelError) else str(error) or type(error).__name__
        work.fault = f"{node[0]}:{node[1]}: {got}"

    def _map_if_needed(self, deadline: float) -> None:
        if not self._must_map:
            return
        fault: object = "no node"
        for address in self._candidates():
            node = (address.host, address.port)
            link = self._links.get(node) or RedisLink(address, clock=self._clock)
            # One dead node must not take all the time that is there to ask another.
            share = min(deadline, self._clock.monotonic_s() + self.deadline_ms / 3000)
            try:
                link.send([("CLUSTER", "SLOTS")], share)
                (reply,) = link.receive(1, share)
            except (OSError, hiredis.ProtocolError) as error:
                link.close()
                self._links.pop(node, None)
                fault = error
                continue
            self._links[node] = link
            if isinstance(reply, hiredis.ReplyError):
                try:
                    link.judge(str(reply))
                except SentinelError as error:
                    if error.code is not ErrorCode.STORE_UNREACHABLE:
                        raise
                    fault = error.got
                continue
            self._take_map(reply, node)
            return
        raise self._unreachable(fault)

    def _candidates(self) -> list[Address]:
        known = [at_node(self._seeds[0], host, port) for host, port in self._nodes]
        first = self._n_looks % len(known) if known else 0
        return [*known[first:], *known[:first], *self._seeds]

    def _take_map(self, reply: Reply, asked: Node) -> None:
        owners: list[Node | None] = [None] * N_SLOTS
        nodes: dict[Node, None] = {}
        for part in reply if isinstance(reply, list) else []:
            if not isinstance(part, list) or len(part) < 3 or not isinstance(part[2], list):
                continue
            first, last, master = part[0], part[1], part[2]
            host, port = master[0], master[1]
            if not (isinstance(first, int) and isinstance(last, int) and isinstance(port, int)):
                continue
            name = host.decode() if isinstance(host, bytes) and host else asked[0]
            node = (name, port)
            nodes[node] = None
            owners[first : last + 1] = [node] * (last + 1 - first)
        self._owners = owners
        self._nodes = tuple(nodes)
        self._must_map = False

    def _node_at(self, where: str) -> Node:
        host, _, port = where.rpartition(":")
        return (host or self._seeds[0].host, int(port))

    def _link(self, node: Node) -> RedisLink:
        if node not in self._links:
            self._links[node] = RedisLink(at_node(self._seeds[0], *node), clock=self._clock)
        return self._links[node]

    def _unreachable(self, got: object) -> SentinelError:
        expected = "an answer of Redis in time"
        return self._error(ErrorCode.STORE_UNREACHABLE, expected, got, UNREACHABLE_HINT)

    def _error(self, code: ErrorCode, expected: str, got: object, hint: str = "") -> SentinelError:
        return SentinelError(code, at=self.address.shown, expected=expected, got=got, hint=hint)


class _Work:
    """One call on its way: which commands are left, and where they were sent on to."""

    def __init__(self, commands: Sequence[Addressed], deadline: float) -> None:
        self.commands = commands
        self.deadline = deadline
        self.replies: list[Reply] = [None] * len(commands)
        self.left: dict[int, None] = dict.fromkeys(range(len(commands)))
        self.asked: dict[int, Node] = {}
        self.fault = ""

    def words_of(self, place: int) -> list[Sequence[Word]]:
        """Return what is sent for a command."""
        command = self.commands[place][1]
        return [_ASKING, command] if place in self.asked else [command]

    def n_replies(self, place: int) -> int:
        """Return how many answers that brings."""
        return 2 if place in self.asked else 1

    def finish(self, place: int, reply: Reply) -> None:
        """Note the answer of a command."""
        self.replies[place] = reply
        del self.left[place]

    def keep_order(self) -> None:
        """Take back what ran before an earlier command of its slot; it runs again behind it."""
        if not self.left:
            return
        waiting = {self.commands[place][0] for place in self.left}
        first = {slot: len(self.commands) for slot in waiting}
        for place in self.left:
            slot = self.commands[place][0]
            first[slot] = min(first[slot], place)
        self.left = {
            place: None
            for place, (slot, _) in enumerate(self.commands)
            if place in self.left or place > first.get(slot, len(self.commands))
        }
