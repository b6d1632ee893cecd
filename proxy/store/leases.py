"""Uses of one session of a database: each takes it on entry, and gives it back on exit."""

from __future__ import annotations

from types import TracebackType
from typing import TYPE_CHECKING

from proxy.store.connections import CheckedConnection
from proxy.store.sessions import SessionPool
from proxy.store.slots import Slot

if TYPE_CHECKING:
    from proxy.store.pool import Database


class Lease:
    """One use of a session; an object, because a generator costs as much as a small statement."""

    __slots__ = ("_database", "_pool", "_session")

    _pool: SessionPool
    _session: CheckedConnection

    def __init__(self, database: Database) -> None:
        self._database = database

    async def __aenter__(self) -> CheckedConnection:
        """Take a session."""
        self._pool, self._session = await self._database.take()
        return self._session

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Give it back."""
        if self._session.is_clean:
            self._pool.put_back(self._session)
        else:
            await self._pool.take_back(self._session)


class Look(Lease):
    """A use of a session for the first rows of a list."""

    __slots__ = ("_turn",)

    _turn: Slot

    async def __aenter__(self) -> CheckedConnection:
        """Wait for the turn, and take a session; one that is idle without waiting for it."""
        lists = self._database.lists
        self._turn = lists.looks.taken()
        if not lists.looks.try_enter(self._turn):
            await lists.looks.wait(self._turn)
        try:
            self._pool, self._session = await self._database.take(lists.openings)
        except BaseException:
            lists.looks.leave(self._turn)
            raise
        return self._session

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Give both back."""
        try:
            await super().__aexit__(kind, error, trace)
        finally:
            self._database.lists.looks.leave(self._turn)
