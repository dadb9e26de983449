"""What a coroutine asks the plane, which answers by a call."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from sentinel.serving import bounds
from sentinel.serving.batching.queue_of_rows import OverloadedError
from sentinel.serving.batching.work import Reply, Result, Work

Submit = Callable[[Reply], Work]


class Asked:
    """What was submitted, and its reply, which may be there as soon as it was asked for."""

    __slots__ = ("_future", "_result", "work")

    def __init__(self) -> None:
        self.work: Work
        self._result: Result | None = None
        self._future: asyncio.Future[Result] | None = None

    def reply(self, result: Result) -> None:
        """Take the reply."""
        if self._future is None:
            self._result = result
        elif not self._future.done():
            self._future.set_result(result)

    async def result(self) -> Result:
        """Wait for the reply."""
        if self._result is not None:
            return self._result
        self._future = asyncio.get_running_loop().create_future()
        return await self._future


def ask(submit: Submit) -> Asked:
    """Submit; raises where it is refused at once."""
    asked = Asked()
    asked.work = submit(asked.reply)
    return asked


async def ask_patiently(submit: Submit) -> Asked:
    """Submit as soon as there is room."""
    while True:
        try:
            return ask(submit)
        except OverloadedError:
            await asyncio.sleep(bounds.STREAM_RETRY_S)
