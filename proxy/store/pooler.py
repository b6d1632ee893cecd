"""Sessions through a transaction pooler, such as PgBouncer in its transaction mode.

Such a pooler lends a server to a client for one transaction, and another one for the next. What a
session would keep is kept for each transaction instead: every statement that is not part of one
runs in one of its own, and each begins with the settings of a session. A read-only one is begun
READ ONLY, so that a replica's node writes no more than it does without a pooler.

Facts: PgBouncer refuses start-up parameters that it does not follow, unless they are listed in its
`ignore_startup_parameters`; those in `STARTUP` it follows in every version. With its cache of
statements off, the driver sends a statement unnamed and in one piece with its values, so that none
is left behind on a server; the statement of its cursors has a name, which is why `open_cursor`
declares one in SQL. `SET LOCAL` and `set_config(_, _, true)` end with the transaction.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any, Final, Protocol, TypeGuard

import asyncpg
from asyncpg.transaction import Transaction

from proxy.store import sqlstate
from proxy.store.measured import MeasuredConnection

# What a pooler is told when a client connects.
STARTUP: Final = ("application_name", "client_encoding", "TimeZone", "DateStyle")
# Said by BEGIN, or once when the client connects.
_NOT_LOCAL: Final = (
    "default_transaction_isolation",
    "default_transaction_read_only",
    "application_name",
    "client_encoding",
)
_READ_ONLY: Final = "BEGIN ISOLATION LEVEL READ COMMITTED READ ONLY"
# How long a server may take to undo, as for a caller who was cancelled, in seconds.
_ROLLBACK_BOUND: Final = 2.0
_CURSOR: Final = "batches"


def startup_settings(settings: Mapping[str, str]) -> dict[str, str]:
    """Return those of a session's settings that a pooler takes when a client connects."""
    return {name: settings[name] for name in STARTUP if name in settings}


def beginning(settings: Mapping[str, str]) -> str:
    """Return what begins a transaction with the settings of a session, in one round trip."""
    is_read_only = settings.get("default_transaction_read_only") == "on"
    # Not READ WRITE, which a standby refuses instead of saying that it is one.
    text = _READ_ONLY if is_read_only else _READ_ONLY.removesuffix(" READ ONLY")
    local = [
        f"set_config({_literal(name)}, {_literal(value)}, true)"
        for name, value in settings.items()
        if name not in _NOT_LOCAL
    ]
    return f"{text}; SELECT {', '.join(local)}" if local else text


def _literal(text: str) -> str:
    quoted = text.replace("'", "''")
    if "\\" not in text:
        return f"'{quoted}'"
    # As it is read whatever `standard_conforming_strings` says.
    return " E'" + quoted.replace("\\", "\\\\") + "'"


class _Block(Transaction):
    """A transaction, or within one a savepoint; only for `async with`."""

    def __init__(self, connection: TransactionConnection) -> None:
        super().__init__(connection, None, False, False)
        self._of = connection
        self._savepoint = ""

    async def __aenter__(self) -> None:
        connection = self._of
        if connection.is_in_transaction():
            connection.savepoints += 1
            self._savepoint = f"block_{connection.savepoints}"
            await connection.execute(f"SAVEPOINT {self._savepoint}")
            return
        try:
            await connection.execute_alone(connection.begin)
        except BaseException:
            await self._roll_back()
            raise

    async def __aexit__(self, extype: object, ex: object, tb: object) -> None:
        if extype is not None:
            await self._roll_back()
        elif self._savepoint:
            await self._of.execute_alone(f"RELEASE SAVEPOINT {self._savepoint}")
        else:
            await self._of.execute_alone("COMMIT")

    async def _roll_back(self) -> None:
        target = f" TO SAVEPOINT {self._savepoint}" if self._savepoint else ""
        try:
            async with asyncio.timeout(_ROLLBACK_BOUND):
                await self._of.execute_alone(f"ROLLBACK{target}")
        except (TimeoutError, *sqlstate.DRIVER_ERRORS):
            # The first error is the reason; that the connection ends undoes the rest.
            self._of.terminate()


class TransactionConnection(MeasuredConnection):
    """A connection whose every statement is part of a transaction that `begin` begins."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        # Until it is known whether it may write, it may not.
        self.begin = _READ_ONLY
        self.savepoints = 0

    def transaction(
        self, *, isolation: Any = None, readonly: bool = False, deferrable: bool = False
    ) -> Transaction:
        """Return a block with the settings of a session, READ COMMITTED and nothing else."""
        if isolation not in (None, "read_committed") or readonly or deferrable:
            raise ValueError("transactions through a pooler are READ COMMITTED")
        return _Block(self)

    @asynccontextmanager
    async def _within(self) -> AsyncIterator[None]:
        if self.is_in_transaction():
            yield
            return
        async with _Block(self):
            yield

    async def execute(self, query: str, *args: Any, **options: Any) -> str:
        """As the driver's, in a transaction."""
        async with self._within():
            return await super().execute(query, *args, **options)

    async def execute_alone(self, query: str) -> str:
        """Execute a statement that can be part of no transaction; the settings do not hold."""
        return await super().execute(query)

    async def fetch(self, query: str, *args: Any, **options: Any) -> list[Any]:
        """As the driver's, in a transaction."""
        async with self._within():
            return await super().fetch(query, *args, **options)

    async def fetch_some(self, limit: int, query: str, *args: Any) -> list[Any]:
        """As without a pooler, in a transaction."""
        async with self._within():
            return await super().fetch_some(limit, query, *args)

    async def fetchrow(self, query: str, *args: Any, **options: Any) -> Any:
        """As the driver's, in a transaction."""
        async with self._within():
            return await super().fetchrow(query, *args, **options)

    async def fetchval(self, query: str, *args: Any, **options: Any) -> Any:
        """As the driver's, in a transaction."""
        async with self._within():
            return await super().fetchval(query, *args, **options)


def is_pooled(connection: object) -> TypeGuard[TransactionConnection]:
    """Whether a connection goes through a pooler; for the driver all are instances of all."""
    return TransactionConnection in type(connection).__mro__


def adopt(connection: asyncpg.Connection[Any], settings: Mapping[str, str]) -> None:
    """Give the transactions of a new connection the settings of a session."""
    if is_pooled(connection):
        connection.begin = beginning(settings)


async def connect(
    arguments: Mapping[str, Any],
    settings: Mapping[str, str],
    *,
    by_transaction: bool,
    timeout: float,
) -> asyncpg.Connection[asyncpg.Record]:
    """Return a connection of its own, through a pooler or not, that has the settings.

    Raises what the driver raises.
    """
    connection: asyncpg.Connection[asyncpg.Record] = await asyncpg.connect(
        **arguments,
        connection_class=TransactionConnection if by_transaction else asyncpg.Connection,
        server_settings=startup_settings(settings) if by_transaction else dict(settings),
        timeout=timeout,
    )
    adopt(connection, settings)
    return connection


class Cursor(Protocol):
    """The rest of an answer."""

    async def fetch(self, n: int, /) -> list[Any]:
        """Return the next `n` rows, fewer when there are no more."""


class _Declared:
    def __init__(self, connection: asyncpg.Connection[Any]) -> None:
        self._connection = connection

    async def fetch(self, n: int, /) -> list[Any]:
        # Not measured: whoever reads a cursor measures the whole of it.
        return await asyncpg.Connection.fetch(self._connection, f"FETCH {n} FROM {_CURSOR}")


async def open_cursor(session: Any, sql: str, *args: Any) -> Cursor:
    """Return a cursor on a statement, one per transaction; it ends with the transaction."""
    if not is_pooled(session):
        cursor: Cursor = await session.cursor(sql, *args)
        return cursor
    await asyncpg.Connection.execute(
        session, f"DECLARE {_CURSOR} NO SCROLL CURSOR FOR {sql}", *args
    )
    return _Declared(session)
