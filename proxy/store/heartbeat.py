"""The heartbeat of the primary: one node at a time stamps it.

The node that stamps holds a session-level advisory lock on a connection of its own. The server
lets go of the lock when the connection ends, so that another node takes over within an interval
when this one dies, and ends the connection itself after two intervals of silence.

Through a transaction pooler there is no session to hold a lock: each stamp then takes the lock for
its own transaction alone, and is left to another node while that one's last stamp is young.

Facts: `idle_session_timeout` exists since PostgreSQL 14.
"""

from __future__ import annotations

import asyncio
import random
from typing import Final

import asyncpg

from proxy import errors
from proxy.store import grants, sqlstate
from proxy.store.lag import HEARTBEAT_KEY, Heartbeat, Writer, parse_heartbeat
from proxy.store.pool import Database
from proxy.store.pooler import TransactionConnection, is_pooled
from proxy.store.positions import REFUSALS
from proxy.store.queries import query

APPLICATION_NAME: Final = "metastore-proxy-heartbeat"
# The first 8 bytes of the SHA-256 of the heartbeat's key.
LOCK: Final = 6910745499154067061
# A stamp, and the connection for it, may take this many intervals, and no less than a second.
_PATIENCE: Final = 2.0
_RIGHTS: Final = "SELECT, INSERT, UPDATE, DELETE"


class Heart:
    """Stamps the heartbeat each `interval` seconds while it holds the lock.

    While another node holds it, `seen` is the stamp of that one.
    """

    def __init__(self, database: Database, writer: Writer, *, interval: float) -> None:
        self._database = database
        self._writer = writer
        self._interval = interval
        self._bound = max(1.0, _PATIENCE * interval)
        self._connection: asyncpg.Connection[asyncpg.Record] | None = None
        self._generation = -1
        self._tells_position = True
        self.holds_lock = False
        self.seen: Heartbeat | None = None

    async def beat(self) -> bool:
        """Stamp, if this node holds the lock or gets it; return whether it did.

        `MetastoreError` when the database does not answer in time; the lock is let go of then.
        """
        try:
            async with asyncio.timeout(self._bound):
                return await self._beat_somehow()
        except BaseException as error:
            self.close()
            if isinstance(error, TimeoutError):
                raise errors.Timeout(f"no heartbeat within {self._bound:g} s") from error
            if text := grants.explain(error, self._database.uri, _RIGHTS):
                raise errors.Db(text) from error
            if isinstance(error, sqlstate.DRIVER_ERRORS):
                raise sqlstate.translate(error, raw=True) from error
            raise

    async def _beat_somehow(self) -> bool:
        try:
            return await self._beat()
        except REFUSALS:
            if not self._tells_position:
                raise
            # It may be the position that was refused: the stamp is of use without it.
            self._tells_position = False
            return await self._beat()

    async def _beat(self) -> bool:
        connection = await self._connected()
        if is_pooled(connection):
            async with connection.transaction():
                self.holds_lock = await self._leads(connection)
                return await self._stamp(connection)
        if not self.holds_lock:
            self.holds_lock = bool(
                await connection.fetchval("SELECT pg_try_advisory_lock($1::bigint)", LOCK)
            )
        return await self._stamp(connection)

    async def _leads(self, connection: TransactionConnection) -> bool:
        """Whether to stamp in this transaction: no other node does, or has done so of late."""
        row = await connection.fetchrow(query("lag/lead"), LOCK, HEARTBEAT_KEY)
        last = parse_heartbeat(row["value"])
        if not row["locked"] or last is None or last.writer is None:
            return bool(row["locked"])
        return last.writer == self._writer or row["clock"] - last.at > self._bound

    async def _stamp(self, connection: asyncpg.Connection[asyncpg.Record]) -> bool:
        if self.holds_lock:
            who = self._writer
            facts = (who.node_id, who.cluster_id, who.generation, who.gossip_address)
            name = "beat" if self._tells_position else "beat_without_wal"
            await connection.execute(query(f"lag/{name}"), HEARTBEAT_KEY, *facts)
            self.seen = None
        else:
            row = await connection.fetchval(query("lag/heartbeat"), HEARTBEAT_KEY)
            self.seen = parse_heartbeat(row)
        return self.holds_lock

    async def _connected(self) -> asyncpg.Connection[asyncpg.Record]:
        connection, generation = self._connection, self._database.generation
        if connection is not None and not connection.is_closed():
            if self._generation == generation:
                return connection
            self.close()
        self.holds_lock = False
        connection = await self._database.connect_apart(
            timeout=self._bound,
            application_name=APPLICATION_NAME,
            # A stamp must not wait for synchronous standbys: how far they are is what it tells.
            synchronous_commit="local",
        )
        self._connection, self._generation = connection, generation
        self._tells_position = True
        if is_pooled(connection):
            return connection
        await connection.execute(
            "SELECT set_config(name, $1, false) FROM pg_settings WHERE name = $2",
            f"{max(1000, int(self._interval * 2000))}ms",
            "idle_session_timeout",
        )
        return connection

    def pause(self) -> float:
        """Return the seconds to wait before the next beat."""
        # Jitter keeps those that wait for the lock apart; the one that holds it keeps time.
        return self._interval * (1.0 if self.holds_lock else random.uniform(0.8, 1.0))  # noqa: S311

    def close(self) -> None:
        """End the connection, and with it the lock. Idempotent."""
        connection, self._connection = self._connection, None
        self.holds_lock = False
        if connection is not None:
            connection.terminate()
