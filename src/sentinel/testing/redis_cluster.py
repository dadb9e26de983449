"""A Redis Cluster of a test's own: nodes on loopback, real processes, ended by their numbers."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Self

import hiredis

from sentinel.testing.redis_server import RedisServer

N_SLOTS = 16_384
_START_S_MAX = 30.0
_PROBE_S = 0.02
# The bus of a node listens this far above its port.
_BUS_OFFSET = 10_000
_PORT_MAX = 65_535


class RedisCluster:
    """Masters with an even share of the slots each, and replicas of them where asked for.

    Parameters
    ----------
    folder : Path
        Short: the path of a unix socket has at most 107 bytes.
    n_masters : int
    n_replicas : int
        Of each master.
    options : dict of str to str
        Settings of every node.
    """

    def __init__(
        self,
        folder: Path,
        *,
        n_masters: int = 3,
        n_replicas: int = 0,
        options: dict[str, str] | None = None,
    ) -> None:
        self.nodes: list[RedisServer] = []
        self.ports: list[int] = []
        self.n_masters = n_masters
        for number in range(n_masters * (1 + n_replicas)):
            port = free_port()
            settings = {
                "port": str(port), "bind": "127.0.0.1", "cluster-enabled": "yes",
                "cluster-config-file": "nodes.conf", "cluster-node-timeout": "1000",
                "cluster-announce-ip": "127.0.0.1", "cluster-replica-validity-factor": "0",
                **(options or {}),
            }  # fmt: skip
            self.nodes.append(RedisServer(folder / f"n{number}", settings))
            self.ports.append(port)

    @property
    def url(self) -> str:
        """Its address."""
        return "redis+cluster://" + ",".join(f"127.0.0.1:{port}" for port in self.ports)

    def start(self) -> None:
        """Start all nodes, share out the slots, and wait until every node knows it."""
        for node in self.nodes:
            node.start()
        for number in range(self.n_masters):
            first = N_SLOTS * number // self.n_masters
            last = N_SLOTS * (number + 1) // self.n_masters - 1
            self.ask(number, "CLUSTER", "ADDSLOTSRANGE", first, last)
            self.ask(number, "CLUSTER", "SET-CONFIG-EPOCH", number + 1)
        for port in self.ports[1:]:
            self.ask(0, "CLUSTER", "MEET", "127.0.0.1", port)
        self._wait(lambda n: b"cluster_known_nodes:%d" % len(self.nodes) in self._info(n))
        for number in range(self.n_masters, len(self.nodes)):
            master = self.ask(number % self.n_masters, "CLUSTER", "MYID")
            self.ask(number, "CLUSTER", "REPLICATE", master)
        self.wait_until_whole()
        self._wait(lambda n: b"master_link_status:down" not in self._replication(n))

    def wait_until_whole(self) -> None:
        """Wait until every running node says that all slots are served."""
        self._wait(lambda n: b"cluster_state:ok" in self._info(n))

    def ask(self, number: int, *words: object) -> object:
        """Send one command to one node, and return what it answers.

        Raises
        ------
        hiredis.ReplyError
        """
        with socket.socket(socket.AF_UNIX) as link:
            link.settimeout(_START_S_MAX)
            link.connect(str(self.nodes[number].path))
            command = tuple(w if isinstance(w, bytes) else str(w) for w in words)
            link.sendall(hiredis.pack_command(command))  # type: ignore[arg-type]
            reader = hiredis.Reader()
            while (reply := reader.gets()) is False:
                reader.feed(link.recv(1 << 16))
        if isinstance(reply, hiredis.ReplyError):
            raise reply
        return reply

    def owner_of(self, slot: int) -> int:
        """Say which node has a slot."""
        end_s = time.monotonic() + _START_S_MAX
        while time.monotonic() < end_s:
            for number, node in enumerate(self.nodes):
                # What a node says of itself is what counts.
                if node.is_running and self._owner_at(number, slot) == self.ports[number]:
                    return number
            time.sleep(_PROBE_S)
        raise RuntimeError(f"slot {slot} is on no node")

    def _owner_at(self, number: int, slot: int) -> int:
        """Return the port of the slot's node, as a node sees it; 0 for none."""
        for first, last, master, *_ in self.ask(number, "CLUSTER", "SLOTS"):  # type: ignore[attr-defined]
            if first <= slot <= last:
                return int(master[1])
        return 0

    def _epoch(self, number: int) -> bytes:
        info = self._info(number)
        return next(line for line in info.splitlines() if b"cluster_current_epoch" in line)

    def move_slot(self, slot: int, target: int, *, pause_s: float = 0.0) -> None:
        """Move a slot with all its keys to another node, as ``redis-cli --cluster reshard`` does.

        Parameters
        ----------
        slot : int
        target : int
            Number of the node.
        pause_s : float
            Between keys.
        """
        source = self.owner_of(slot)
        if source == target:
            return
        ids = [self.ask(number, "CLUSTER", "MYID") for number in (source, target)]
        self.ask(target, "CLUSTER", "SETSLOT", slot, "IMPORTING", ids[0])
        self.ask(source, "CLUSTER", "SETSLOT", slot, "MIGRATING", ids[1])
        self.finish_move(slot, source, target, pause_s=pause_s)

    def finish_move(self, slot: int, source: int, target: int, *, pause_s: float = 0.0) -> None:
        """Move the keys that are left in a slot that is being moved, and the slot."""
        new_owner = self.ask(target, "CLUSTER", "MYID")
        while keys := self.ask(source, "CLUSTER", "GETKEYSINSLOT", slot, 10):
            for key in keys:  # type: ignore[attr-defined]
                self.ask(source, "MIGRATE", "127.0.0.1", self.ports[target], key, 0, 5000)
                time.sleep(pause_s)
        # The target first: from then on the slot is never on no node.
        for number in (target, source):
            self.ask(number, "CLUSTER", "SETSLOT", slot, "NODE", new_owner)
        # A second move before all know of the first may take the slot from everybody.
        self._wait(lambda n: self._owner_at(n, slot) == self.ports[target])
        self._wait(lambda n: self._epoch(n) == self._epoch(target))

    def _replication(self, number: int) -> bytes:
        info = self.ask(number, "INFO", "replication")
        return info if isinstance(info, bytes) else b""

    def _info(self, number: int) -> bytes:
        info = self.ask(number, "CLUSTER", "INFO")
        return info if isinstance(info, bytes) else b""

    def _wait(self, holds: Callable[[int], bool]) -> None:
        end_s = time.monotonic() + _START_S_MAX
        running = [n for n, node in enumerate(self.nodes) if node.is_running]
        while not all(holds(n) for n in running):
            if time.monotonic() > end_s:
                raise RuntimeError(f"the cluster did not come up: {self._info(running[0])!r}")
            time.sleep(_PROBE_S)

    def __enter__(self) -> Self:
        """Start."""
        is_up = False
        try:
            self.start()
            is_up = True
        finally:
            if not is_up:
                self.stop()
        return self

    def stop(self) -> None:
        """End all nodes."""
        for node in self.nodes:
            node.kill()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """End."""
        self.stop()


def free_port() -> int:
    """Find a free port whose bus port is free as well."""
    for _ in range(1000):
        with socket.socket() as one, socket.socket() as other:
            one.bind(("127.0.0.1", 0))
            port = int(one.getsockname()[1])
            if port + _BUS_OFFSET > _PORT_MAX:
                continue
            try:
                other.bind(("127.0.0.1", port + _BUS_OFFSET))
            except OSError:
                continue
            return port
    raise RuntimeError("no free port")
