"""The open sessions of one server, each lent to one caller at a time.

The driver has a pool too. Its giving back costs a task and two timers for each statement, which is
more than a small statement itself does; what this one does at each call is to take from a list and
put back.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress
from time import monotonic
from typing import Final

import asyncpg

from proxy.store import sqlstate
from proxy.store.connections import CheckedConnection

# How long giving back a session may take (a cancelled statement must end first) before it is cut.
RELEASE_BOUND: Final = 2.0
# Between attempts to make up for a session that was lost, in seconds; it doubles with each.
FIRST_DELAY: Final = 1.0
LONGEST_DELAY: Final = 60.0

_log = logging.getLogger(__name__)


class SessionPool:
    """Keeps between `least` and `most` sessions; those above `least` end when idle for too long.

    The session given back last is lent first; callers that wait are served in order. `connect`
    makes a session; what it raises reaches whoever it was made for. A session is in one place::

        connecting -> lent <-> idle
                       |         |
                       `-> gone <'   closed by either side, cut, or idle for `idle_timeout` seconds

    A pool that is closed lends nothing more: `asyncpg.InterfaceError`.
    """

    def __init__(
        self,
        connect: Callable[[], Awaitable[CheckedConnection]],
        *,
        least: int,
        most: int,
        idle_timeout: float | None,
    ) -> None:
        self._connect = connect
        self._least = least
        self._most = most
        self._idle_timeout = idle_timeout
        # The one given back last is at the right.
        self._idle: deque[CheckedConnection] = deque()
        self._lent: set[CheckedConnection] = set()
        self._connecting = 0
        # A waiter gets a session, or None when it may make one.
        self._waiters: deque[asyncio.Future[CheckedConnection | None]] = deque()
        self._expiry: asyncio.TimerHandle | None = None
        self._floor: asyncio.Task[None] | None = None
        self._is_closed = False
        self._came_back = asyncio.Event()

    @property
    def sessions(self) -> Iterator[CheckedConnection]:
        """All open sessions."""
        return (one for one in (*self._idle, *self._lent) if not one.is_closed())

    @property
    def open(self) -> int:
        """How many sessions are open."""
        return sum(1 for _ in self.sessions)

    @property
    def idle(self) -> int:
        """How many of them nobody uses."""
        return sum(not one.is_closed() for one in self._idle)

    @property
    def watches_idle(self) -> bool:
        """Whether a session is going to end if it stays idle."""
        return self._expiry is not None

    @property
    def _taken(self) -> int:
        return len(self._idle) + len(self._lent) + self._connecting

    async def start(self) -> None:
        """Make the least number of sessions, one at least, so that a wrong URI is seen now."""
        self.put_back(await self._new())
        await asyncio.gather(*(self._add() for _ in range(1, self._least)))

    async def _add(self) -> None:
        self.put_back(await self._new())

    # Lending

    def take_idle(self) -> CheckedConnection | None:
        """Lend an idle session; None when there is none."""
        while self._idle:
            session = self._idle.pop()
            if not session.is_closed():
                self._lent.add(session)
                return session
        return None

    async def take(self) -> CheckedConnection:
        """Lend a session: an idle one, a new one, or the next that comes back."""
        while True:
            if self._is_closed:
                raise asyncpg.InterfaceError("the pool is closed")
            session = self.take_idle()
            if session is None and self._taken < self._most:
                try:
                    session = await self._new()
                except BaseException:
                    self._wake()
                    raise
                self._lent.add(session)
            elif session is None:
                session = await self._wait()
            if session is not None:
                return session

    async def _wait(self) -> CheckedConnection | None:
        waiter: asyncio.Future[CheckedConnection | None]
        waiter = asyncio.get_running_loop().create_future()
        self._waiters.append(waiter)
        try:
            return await waiter
        except asyncio.CancelledError:
            with suppress(ValueError):
                self._waiters.remove(waiter)
            # Cancelled in the moment between being handed something and waking up.
            if not waiter.cancelled() and waiter.exception() is None:
                handed = waiter.result()
                if handed is None:
                    self._wake()
                else:
                    self.put_back(handed)
            raise

    async def take_back(self, session: CheckedConnection) -> None:
        """Take a session back, whatever its state: one that cannot be used again is cut."""
        if not session.is_clean and not session.is_closed():
            try:
                await session.clean(RELEASE_BOUND)
            except (TimeoutError, *sqlstate.DRIVER_ERRORS) as error:
                session.terminate()
                # Its user has a result, or a better error, already.
                _log.debug("a database session was cut", extra={"error": type(error).__name__})
            except BaseException:
                session.terminate()
                self.put_back(session)
                raise
        self.put_back(session)

    def put_back(self, session: CheckedConnection) -> None:
        """Take a session back, which must have nothing left to undo; a closed one is dropped."""
        if session.is_closed():
            self._drop(session)
            return
        waiter = self._next_waiter()
        if waiter is not None:
            self._lent.add(session)
            waiter.set_result(session)
            return
        self._lent.discard(session)
        session.idle_since = monotonic()
        self._idle.append(session)
        if self._is_closed:
            self._came_back.set()
        elif self._expiry is None:
            self._watch_idle()

    def _next_waiter(self) -> asyncio.Future[CheckedConnection | None] | None:
        while self._waiters:
            waiter = self._waiters.popleft()
            # Not one that was cancelled and has not woken up yet.
            if not waiter.done():
                return waiter
        return None

    def _wake(self) -> None:
        """Have the first waiter make a session, since there is room for one."""
        waiter = self._next_waiter()
        if waiter is not None:
            waiter.set_result(None)

    # Coming and going

    async def _new(self) -> CheckedConnection:
        self._connecting += 1
        try:
            session = await self._connect()
        finally:
            self._connecting -= 1
            self._came_back.set()
        if self._is_closed:
            session.terminate()
            raise asyncpg.InterfaceError("the pool is closed")
        session.siblings = lambda: self.sessions
        session.add_termination_listener(lambda _: self._drop(session))
        return session

    def _drop(self, session: CheckedConnection) -> None:
        """Forget a session that is gone. Comes also for one that was forgotten already."""
        if session in self._lent:
            self._lent.remove(session)
        elif session in self._idle:
            self._idle.remove(session)
        else:
            return
        session.terminate()
        self._came_back.set()
        self._wake()
        if not self._is_closed and self._floor is None and self._taken < self._least:
            self._floor = asyncio.create_task(self._restore(), name="sessions kept open")

    async def _restore(self) -> None:
        delay = FIRST_DELAY
        try:
            while self._taken < self._least:
                try:
                    self.put_back(await self._new())
                    delay = FIRST_DELAY
                except (TimeoutError, *sqlstate.DRIVER_ERRORS) as error:
                    told = {"error": type(error).__name__, "next_try_seconds": delay}
                    _log.warning("no database connection to keep open could be made", extra=told)
                    await asyncio.sleep(delay)
                    delay = min(2 * delay, LONGEST_DELAY)
        finally:
            self._floor = None

    def _watch_idle(self) -> None:
        """See to it that the session that has been idle for longest ends in time."""
        self._expiry = None
        if self._idle_timeout is not None and self._idle and self._taken > self._least:
            due = self._idle[0].idle_since + self._idle_timeout
            wait = max(0.0, due - monotonic())
            self._expiry = asyncio.get_running_loop().call_later(wait, self._expire)

    def _expire(self) -> None:
        now = monotonic()
        while self._idle and self._idle_timeout is not None and self._taken > self._least:
            session = self._idle[0]
            if session.idle_since + self._idle_timeout > now:
                break
            self._drop(session)
        self._watch_idle()

    # The end

    def _refuse(self) -> None:
        self._is_closed = True
        if self._expiry is not None:
            self._expiry.cancel()
            self._expiry = None
        if self._floor is not None:
            self._floor.cancel()
        while (waiter := self._next_waiter()) is not None:
            waiter.set_exception(asyncpg.InterfaceError("the pool is closed"))

    async def close(self) -> None:
        """Lend no more, and end each session once it is back. Cancelled, it leaves the rest."""
        self._refuse()
        while self._idle or self._lent or self._connecting:
            self._came_back.clear()
            ended, self._idle = self._idle, deque()
            await asyncio.gather(*(one.close() for one in ended), return_exceptions=True)
            if not self._idle and (self._lent or self._connecting):
                await self._came_back.wait()

    def terminate(self) -> None:
        """Cut all sessions, also those in use: their statements fail."""
        self._refuse()
        for session in (*self._idle, *self._lent):
            session.terminate()
        self._idle.clear()
        self._lent.clear()
        self._came_back.set()
