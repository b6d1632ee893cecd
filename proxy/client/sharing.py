"""One upstream call for identical reads that are in flight together.

A caller that is cancelled leaves the others their call; the last one to leave cancels it. Only a
call that began a moment ago is joined: one that takes long may be stuck, and must not hold up
whoever comes after it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Hashable
from typing import Final, Generic, TypeVar

from proxy import errors
from proxy.routing.budget import LEAST_TIME

A = TypeVar("A")


# Seconds during which a call may be joined.
_JOINED_WITHIN: Final = 0.25


class _Shared(Generic[A]):
    """A call under way, and a future for each of its callers."""

    def __init__(self, began: float, until: float) -> None:
        self.began = began
        self.until = until
        self.task: asyncio.Task[None] | None = None
        self.callers: set[asyncio.Future[A]] = set()

    async def run(
        self, make: Callable[[], Coroutine[object, object, A]], forget: Callable[[], None]
    ) -> None:
        """Make the call and tell its callers, in the step in which it ends.

        They are woken by a future each, and not by the end of the task: that would take one round
        of the event loop more, which a small read would notice.
        """
        try:
            # Made here: a task that is cancelled before it begins must leave nothing unawaited.
            found = await make()
        except asyncio.CancelledError:
            for caller in self.callers:
                caller.cancel()
            raise
        # Whatever it is, it is for the callers to handle: it is raised in each of them.
        except Exception as error:
            for caller in self.callers:
                if not caller.done():
                    caller.set_exception(error)
        else:
            for caller in self.callers:
                if not caller.done():
                    caller.set_result(found)
        finally:
            forget()


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
        loop = asyncio.get_running_loop()
        shared = self._shared[key] = _Shared[A](loop.time(), until)
        work = shared.run(make, lambda: self._forget(key, shared))
        shared.task = loop.create_task(work, name="metastore-client shared read")
        return shared

    def _forget(self, key: Hashable, shared: _Shared[A]) -> None:
        if self._shared.get(key) is shared:
            del self._shared[key]

    async def _wait(self, key: Hashable, shared: _Shared[A], timeout: float | None) -> A:
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[A] = loop.create_future()
        shared.callers.add(answer)
        timer = None
        if timeout is not None:
            timer = loop.call_later(max(0.0, timeout), _time_out, answer)
        try:
            return await answer
        finally:
            if timer is not None:
                timer.cancel()
            shared.callers.discard(answer)
            task = shared.task
            if not shared.callers and task is not None and not task.done():
                # Nobody may join a call that is being cancelled.
                self._forget(key, shared)
                task.cancel()


def _time_out(answer: asyncio.Future[A]) -> None:
    if not answer.done():
        answer.set_exception(TimeoutError())
