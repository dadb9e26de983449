"""The demo's stores: each kind by one word, started here where it needs a server."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from sentinel.core.errors import ErrorCode, SentinelError

if TYPE_CHECKING:
    from sentinel.features.stores.choice import StoreChoice

HELP = (
    "Where feature state is: memory, embedded, redis or redis-cluster, which are started here for "
    "the demo; or an address, as of `sentinel serve --store`."
)


class DemoStores:
    """Fresh stores of one kind, for as long as the demo runs.

    Parameters
    ----------
    word : str
        ``memory``, ``embedded``, ``redis``, ``redis-cluster``, or an address.
    folder : Path
        Of the demo.
    """

    def __init__(self, word: str, folder: Path) -> None:
        self._word = word
        self._folder = folder
        self._address = ""

    def choice(self, name: str) -> StoreChoice:
        """Name a fresh store; as :meth:`address`."""
        from sentinel.features.stores.choice import parse_store

        return parse_store(self.address(name))

    def address(self, name: str) -> str:
        """Write the address of a fresh store.

        Parameters
        ----------
        name : str
            ``replay``, or ``live``: that one outlives the process that filled it.
        """
        if self._word == "memory" and name != "live":
            return self._word
        if self._word in {"memory", "embedded"}:
            return f"embedded:{self._folder / f'state-{name}'}"
        address = self._address or self._word
        if address.startswith("embedded:"):
            return f"{address}/{name}"
        return f"{address}{'&' if '?' in address else '?'}name=demo-{name}"

    def start(self, stack: ExitStack) -> None:
        """Start the servers that the word needs; the stack ends them."""
        if self._word in {"memory", "embedded"}:
            return
        if self._word not in {"redis", "redis-cluster"}:
            from sentinel.features.stores.choice import parse_store

            parse_store(self._word)
            return
        from sentinel.testing.redis_cluster import RedisCluster
        from sentinel.testing.redis_server import RedisServer

        # A unix socket's path must be short, so it is not in the demo's folder.
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="demo-")))
        if self._word == "redis":
            self._address = stack.enter_context(RedisServer(folder)).url
        else:
            self._address = stack.enter_context(RedisCluster(folder)).url


@contextmanager
def demo_stores(word: str, folder: Path) -> Iterator[DemoStores]:
    """Start what a word needs; ended at the end of the block.

    Raises
    ------
    SentinelError
        ``store-address-invalid``; ``store-unreachable`` where ``redis-server`` is not installed.
    """
    stores = DemoStores(word, folder)
    with ExitStack() as stack:
        try:
            stores.start(stack)
        except FileNotFoundError as error:
            raise SentinelError(
                ErrorCode.STORE_UNREACHABLE,
                at=word,
                expected="redis-server on this machine",
                got="none",
                hint="apt-get install redis-server, or name an address with --store.",
            ) from error
        yield stores
