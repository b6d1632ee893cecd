"""One upstream call for identical reads that are in flight together.

A caller that is cancelled leaves the others their call; the last one to leave cancels it. Only a
call that began a moment ago is joined: one that takes long may be stuck, and must not hold up
whoever comes after it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Hashable
from dataclasses import dataclass
from typing import Final, Generic, TypeVar

from proxy import errors
from proxy.routing.budget import LEAST_TIME

A = TypeVar("A")


# Seconds during which a call may be joined.
_JOINED_WITHIN: Final = 0.25


@dataclass
class _Shared(Generic[A]):
    task: asyncio.Task[A]
    began: float
    until: float
    callers: int = 0


class SharedCalls(Generic[A]):
    """Calls in flight by what is asked. To be used in one event loop."""

    def __init__(self) -> None:
        self._shared: dict[Hashable, _Shared[A]] = {}

    async def call(
        self,
        key: Hashable,
        make: Callable[[], Coroutine[object, object, A]],
        *,
        on_join: Callable[[], None],
        what: str,
        timeout: float,
    ) -> A:
        """Return what `make` returns, or what an earlier call with this key is about to.

        `Timeout` naming `what` after `timeout` seconds. Who began may have had less time than who
        joined, and with it fewer attempts: when that call fails at its end, who has more time asks
        again.
        """
        loop = asyncio.get_running_loop()
        until = loop.time() + timeout
        while True:
            shared = self._shared.get(key)
            is_first = shared is None or loop.time() > shared.began + _JOINED_WITHIN
            if shared is None or is_first:
                shared = self._begin(key, make, until)
            else:
                on_join()
            try:
                return await self._wait(key, shared, None if is_first else until - loop.time())
            except TimeoutError as error:
                raise errors.Timeout(f"{what} got no answer within {timeout:g} s") from error
            except errors.MetastoreError as error:
                is_cut_short = error.is_retryable and loop.time() + LEAST_TIME >= shared.until
                if is_first or not is_cut_short or loop.time() >= until:
                    raise

    def _begin(
        self, key: Hashable, make: Callable[[], Coroutine[object, object, A]], until: float
    ) -> _Shared[A]:
        task = asyncio.create_task(make(), name="metastore-client shared read")
        shared = self._shared[key] = _Shared(task, asyncio.get_running_loop().time(), until)

        def over(ended: asyncio.Task[A]) -> None:
            self._forget(key, shared)
            if not ended.cancelled():
                # Seen here, so that it is not reported as lost when every caller has left.
                ended.exception()

        task.add_done_callback(over)
        return shared

    def _forget(self, key: Hashable, shared: _Shared[A]) -> None:
        if self._shared.get(key) is shared:
            del self._shared[key]

    async def _wait(self, key: Hashable, shared: _Shared[A], timeout: float | None) -> A:
        shared.callers += 1
        try:
            # A wait, unlike an await of the task, leaves the task alone when it is cancelled.
            done, _ = await asyncio.wait((shared.task,), timeout=timeout)
            if not done:
                raise TimeoutError
        finally:
            shared.callers -= 1
            if shared.callers == 0 and not shared.task.done():
                # Nobody may join a call that is being cancelled.
                self._forget(key, shared)
                shared.task.cancel()
        return shared.task.result()
