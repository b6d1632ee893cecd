"""The connections that migrations run on, and the locks that keep two nodes from migrating at once.

The locks last as long as a session does. Through a transaction pooler there is no session: the
required migrations are then one transaction with the lock in it, and beside the deferred ones, some
of which can be in no transaction, a second connection holds the lock in a transaction of its own.
It is idle and has no snapshot, so that no index that is built concurrently waits for it.

Facts: locks of a transaction and of a session exclude each other when they have the same key. The
unnamed portal of the extended protocol keeps its snapshot until the next statement of the session,
which a concurrent build waits for.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext, suppress
from typing import Any, Final

import asyncpg

from proxy import errors
from proxy.store import sqlstate
from proxy.store.pool import Database
from proxy.store.pooler import is_pooled
from proxy.store.queries import query
from proxy.store.refusals import describe

# Bounds the polite goodbye to the server; after it the socket is cut.
CLOSE_TIMEOUT: Final = 2.0

_log = logging.getLogger(__name__)


@asynccontextmanager
async def dedicated(database: Database) -> AsyncIterator[asyncpg.Connection]:
    """Lend a connection outside the pool: its limits and lifetime would cut a migration short."""
    uri = database.uri
    try:
        # To the server that the pool chose of several, or would choose.
        connection = await database.connect_apart(timeout=database.settings.acquire_timeout)
    except TimeoutError as error:
        bound = database.settings.acquire_timeout
        raise errors.Connection(f"no connection to {uri.redacted} within {bound:g} s") from error
    except (*sqlstate.DRIVER_ERRORS, ValueError) as error:
        text = describe(uri, error)
        raise errors.Connection(f"cannot connect to {uri.redacted}: {text}") from error
    try:
        yield connection
    finally:
        with suppress(TimeoutError, *sqlstate.DRIVER_ERRORS):
            await connection.close(timeout=CLOSE_TIMEOUT)


def one_transaction(connection: asyncpg.Connection) -> AbstractAsyncContextManager[Any]:
    """Return a transaction for all that follows through a pooler, otherwise nothing."""
    if is_pooled(connection):
        return connection.transaction()
    return nullcontext()


@asynccontextmanager
async def guard(database: Database) -> AsyncIterator[asyncpg.Connection | None]:
    """Lend a connection to hold a lock; None where the session that works holds it."""
    if not database.uri.is_pooled:
        yield None
        return
    async with dedicated(database) as connection:
        yield connection


def lock_query(connection: asyncpg.Connection, name: str) -> str:
    """Return the statement that takes a lock, for the session or else for the transaction."""
    sql = query(f"migrations/{name}")
    if is_pooled(connection):
        return sql.replace("advisory_lock(", "advisory_xact_lock(")
    return sql


async def let_go_of_snapshot(guard: asyncpg.Connection) -> None:
    """Make sure that a transaction that only holds a lock holds nothing else."""
    if is_pooled(guard):
        # By the simple protocol, which leaves no portal behind.
        await guard.execute_alone("SELECT 1")


@asynccontextmanager
async def locked(connection: asyncpg.Connection, key: int) -> AsyncIterator[None]:
    """Hold the lock of those who migrate; waits for it without limit."""
    if not await connection.fetchval(lock_query(connection, "try_lock"), key):
        _log.info("waiting for another node to finish its migrations")
        await connection.execute(lock_query(connection, "lock"), key)
    try:
        yield
    finally:
        if not is_pooled(connection):
            # A broken connection has lost the lock, and the first error is the one to report.
            with suppress(*sqlstate.DRIVER_ERRORS):
                await connection.execute(query("migrations/unlock"), key)


async def lift_timeouts(connection: asyncpg.Connection) -> None:
    """Lift the limits of the role, for the session or else for the transaction."""
    is_local = is_pooled(connection)
    await connection.execute(query("migrations/disable_timeouts"), is_local)


async def execute_alone(connection: asyncpg.Connection, sql: str) -> None:
    """Execute a statement that can be part of no transaction."""
    if is_pooled(connection):
        await connection.execute_alone(sql)
    else:
        await connection.execute(sql)
