"""Reads of single rows that arrive while one is under way, gathered into one statement.

To send a statement, wait for it and take its answer apart costs the node and the database many
times what one more row in it does::

    few under way        a read goes out at once, alone
    `AT_ONCE` under way  reads wait; when one is done, all of them go out as one statement

So a read waits for one statement at most, and what it gets was read after it came: a caller still
sees every write that was acknowledged before.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Coroutine, Hashable, Mapping, Sequence
from contextvars import Context
from typing import Final, Generic, TypeVar

from proxy.store.measured import statement

K = TypeVar("K", bound=Hashable)
R = TypeVar("R")

# Statements under way before reads wait: with one alone, the node and the database would wait for
# each other in turn.
AT_ONCE: Final = 4
# Keys of one statement: its answer is taken apart in one turn of the event loop.
MOST: Final = 64
# A statement that takes longer, in seconds, no longer holds up those that come after it.
BOUND: Final = 0.01


class _Group(Generic[K, R]):
    """Reads that go out together."""

    def __init__(self) -> None:
        self.readers: list[tuple[K, asyncio.Future[R | None]]] = []
        self.task: asyncio.Task[None] | None = None

    @property
    def is_wanted(self) -> bool:
        """Whether anybody still waits for it."""
        return not all(answer.done() for _, answer in self.readers)


class Gathering(Generic[K, R]):
    """Reads rows by key with `fetch`, which returns those that it finds.

    A statement that fails, fails for all who share it, unless the error is one of `blaming`: such
    is the fault of one row, and each then reads its own. A caller who is cancelled leaves the
    others their statement; the last one to leave cancels it. `sql` names what a call is told to
    have waited for. To be used in one event loop.
    """

    def __init__(
        self,
        fetch: Callable[[Sequence[K]], Coroutine[object, object, Mapping[K, R]]],
        *,
        sql: str,
        blaming: tuple[type[Exception], ...] = (),
    ) -> None:
        self._fetch = fetch
        self._sql = sql
        self._blaming = blaming
        self._under_way = 0
        self._waiting: deque[_Group[K, R]] = deque()

    async def read(self, key: K) -> R | None:
        """Return the row of a key, or None. Raises what `fetch` raises."""
        if self._under_way < AT_ONCE:
            return await self._read_alone(key)
        try:
            # One that goes out alone is measured by its session.
            with statement(self._sql) as running:
                row = await self._join(key)
                running.got(() if row is None else (row,))
                return row
        except self._blaming:
            return await self._read_own(key)

    async def _read_alone(self, key: K) -> R | None:
        end = self._begin()
        try:
            return await self._read_own(key)
        finally:
            end()

    async def _read_own(self, key: K) -> R | None:
        return (await self._fetch((key,))).get(key)

    async def _join(self, key: K) -> R | None:
        if not self._waiting or len(self._waiting[-1].readers) >= MOST:
            self._waiting.append(_Group())
        group = self._waiting[-1]
        answer: asyncio.Future[R | None] = asyncio.get_running_loop().create_future()
        group.readers.append((key, answer))
        try:
            return await answer
        except asyncio.CancelledError:
            if answer.done() and not answer.cancelled():
                # Seen here, so that an error that came in this very moment is not reported as lost.
                answer.exception()
            if group.task is not None and not group.is_wanted:
                group.task.cancel()
            raise

    def _begin(self) -> Callable[[], None]:
        """Count a statement as under way, until it ends or has taken too long."""
        self._under_way += 1
        is_counted = True

        def end() -> None:
            nonlocal is_counted
            late.cancel()
            if is_counted:
                is_counted = False
                self._under_way -= 1
                self._send_next()

        late = asyncio.get_running_loop().call_later(BOUND, end)
        return end

    def _send_next(self) -> None:
        while self._waiting and self._under_way < AT_ONCE:
            group = self._waiting.popleft()
            if group.is_wanted:
                end = self._begin()
                # Of no call in particular: an empty context.
                group.task = asyncio.create_task(
                    self._read_together(group, end), name="gathered reads", context=Context()
                )

    async def _read_together(self, group: _Group[K, R], end: Callable[[], None]) -> None:
        keys = tuple({key: None for key, answer in group.readers if not answer.done()})
        try:
            rows = await self._fetch(keys)
        # Every caller gets it, as if it had asked alone.
        except Exception as error:
            for _, answer in group.readers:
                if not answer.done():
                    answer.set_exception(error)
        else:
            for key, answer in group.readers:
                if not answer.done():
                    answer.set_result(rows.get(key))
        finally:
            end()
