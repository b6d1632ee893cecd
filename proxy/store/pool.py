"""A bounded pool of database sessions with the settings that the metastore's SQL relies on.

Facts: the session settings, the pool's defaults and the message on exhaustion are Quickwit's.
`TimeZone=UTC` is required for correctness: timestamp columns have no zone and are compared with
zoned expressions. Times are seconds.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from typing import Any, Final

import asyncpg

from proxy import errors
from proxy.calls import current_call
from proxy.config import PoolSettings, PostgresUri
from proxy.store import sqlstate
from proxy.store.connections import CheckedConnection, PooledConnection
from proxy.store.election import Election
from proxy.store.gathering import Gathering
from proxy.store.leases import Lease, Look
from proxy.store.pooler import adopt, connect, startup_settings
from proxy.store.refusals import describe
from proxy.store.servers import Server, Wanted
from proxy.store.sessions import RELEASE_BOUND, SessionPool
from proxy.store.slots import Slots
from proxy.store.turns import ListTurns

APPLICATION_NAME: Final = "quickwit-metastore"
EXHAUSTED: Final = "pool timed out while waiting for an open connection"

SLOW_ACQUIRE: Final = 2.0

Session = CheckedConnection

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class PoolStats:
    """The pool at one moment: open connections, those idle among them, the cap, and waiters."""

    open: int
    idle: int
    max: int
    waiting: int


class Database:
    """One pool of sessions on one server of a URI, read-write or read-only.

    `open` chooses the server, makes the first connection and raises `Connection` if none can be
    had within the acquire timeout; `follow` chooses again. Where a primary is wanted, each session
    is seen to be on one before it is lent. A cancelled caller gives its session back; a
    transaction that was open is rolled back. `close` waits up to its bound for sessions in use,
    then ends them.
    """

    def __init__(
        self,
        uri: PostgresUri,
        settings: PoolSettings,
        *,
        read_only: bool,
        wanted: Wanted = Wanted.ANY,
    ) -> None:
        self.uri = uri
        self.settings = settings
        self.read_only = read_only
        # Grows when the pool moves to another server.
        self.generation = 0
        # Set when no session could be had: time to look for another server.
        self.trouble = asyncio.Event()
        self.lists = ListTurns(settings.max_connections, patience=settings.acquire_timeout)
        # Reads that share statements, by what they read.
        self.gatherings: dict[str, Gathering[Any, Any]] = {}
        # Told how long each caller waited for a session, in seconds.
        self.on_wait: Callable[[float], None] = lambda _seconds: None
        self._election = Election(uri, wanted)
        self._pool: SessionPool | None = None
        self._waiting = 0

    @property
    def is_open(self) -> bool:
        """Whether `open` has succeeded and `close` has not been called."""
        return self._pool is not None

    @property
    def has_choice(self) -> bool:
        """Whether the URI names more than one server."""
        return self._election.has_choice

    @property
    def server(self) -> Server | None:
        """The server in use, as last seen; None while nothing has asked what it is."""
        return self._election.current

    def is_on(self, incarnation: str) -> bool:
        """Whether every open session is on this run of this server.

        It is not while a name or a balancer in the URI stands for several servers, or just after a
        server was started again: what one session sees of its server then says nothing of others.
        Through a pooler, where a session has no server, it is taken for granted.
        """
        pool = self._pool
        return (
            self.uri.is_pooled
            or pool is None
            or all(session.incarnation == incarnation for session in pool.sessions)
        )

    async def open(self) -> None:
        """Connect. Does nothing when already open."""
        if self._pool is not None:
            return
        with self._connecting():
            async with asyncio.timeout(self.settings.acquire_timeout):
                server = await self._election.survey(self._session_settings())
                pool = await self._create_pool(server)
        if self.is_open:
            # Another caller opened it meanwhile.
            pool.terminate()
            return
        self._election.current = server or self._election.current
        self._pool = pool

    async def follow(self) -> bool:
        """Choose among the URI's servers again, and move when another is better now.

        A move ends every session on the server that is left: what runs there fails as on a broken
        connection, and nothing more is sent there. Returns whether the pool moved. `Connection`
        when no server will do; the pool then stays where it is.
        """
        left = self._pool
        with self._connecting():
            async with asyncio.timeout(self.settings.acquire_timeout):
                server = await self._election.survey(self._session_settings())
                known = self._election.current
                if server is None or left is None:
                    return False
                if known is not None and server.place == known.place:
                    self._election.current = server
                    return False
                pool = await self._create_pool(server)
        if self._pool is not left:
            # Closed meanwhile.
            pool.terminate()
            return False
        # In one step, so that no session of the old server is lent once the new one is known.
        self._election.current, self._pool = server, pool
        self.generation += 1
        left.terminate()
        return True

    @contextmanager
    def _connecting(self) -> Iterator[None]:
        try:
            yield
        except TimeoutError as error:
            raise errors.Connection(
                f"no connection to {self.uri.redacted} within {self.settings.acquire_timeout:g} s"
            ) from error
        except (*sqlstate.DRIVER_ERRORS, ValueError) as error:
            text = describe(self.uri, error)
            raise errors.Connection(f"cannot connect to {self.uri.redacted}: {text}") from error

    def _session_settings(self) -> dict[str, str]:
        return session_settings(self.uri, read_only=self.read_only)

    async def _create_pool(self, server: Server | None) -> SessionPool:
        place = 0 if server is None else server.place
        settings, is_pooled = self._session_settings(), self.uri.is_pooled

        async def connect() -> CheckedConnection:
            made = await asyncpg.connect(
                **self._election.arguments(place),
                timeout=self.settings.acquire_timeout,
                connection_class=PooledConnection if is_pooled else CheckedConnection,
                server_settings=startup_settings(settings) if is_pooled else settings,
            )
            try:
                adopt(made, settings)
                made.incarnation = (await self._election.check(made, place)).incarnation
            except BaseException:
                made.terminate()
                raise
            return made

        pool = SessionPool(
            connect,
            least=self.settings.min_connections,
            most=self.settings.max_connections,
            idle_timeout=self.settings.idle_timeout,
        )
        try:
            await pool.start()
        except BaseException:
            pool.terminate()
            raise
        return pool

    async def connect_apart(
        self, *, timeout: float, **settings: str
    ) -> asyncpg.Connection[asyncpg.Record]:
        """Open a connection outside the pool, to the server that the pool is on.

        For what must not wait for the pool, or must keep a session's state. `settings` add to
        those of a session; the caller closes it. Raises what the driver raises, and `Connection`
        when no pool is open yet and none of several servers will do.
        """
        server = self.server or await self._election.survey(self._session_settings())
        place = 0 if server is None else server.place
        connection = await connect(
            self._election.arguments(place),
            {**self._session_settings(), **settings},
            by_transaction=self.uri.is_pooled,
            timeout=timeout,
        )
        try:
            await self._election.check(connection, place)
        except BaseException:
            connection.terminate()
            raise
        return connection

    async def close(self, timeout: float = 5.0) -> None:
        """Give sessions in use `timeout` seconds to end, then cut them. Idempotent."""
        pool, self._pool = self._pool, None
        if pool is None:
            return
        try:
            async with asyncio.timeout(timeout):
                await pool.close()
        except (TimeoutError, *sqlstate.DRIVER_ERRORS):
            pool.terminate()

    def stats(self) -> PoolStats:
        """Return the pool's figures; all zero but the cap while it is not open."""
        pool = self._pool
        if pool is None:
            return PoolStats(0, 0, self.settings.max_connections, self._waiting)
        return PoolStats(pool.open, pool.idle, self.settings.max_connections, self._waiting)

    def acquire(self) -> AbstractAsyncContextManager[Session]:
        """Lend a session. `Db` when the pool stays exhausted for the acquire timeout.

        The session keeps its state for the next caller: no `SET` but `SET LOCAL`, no `LISTEN`, no
        session-level advisory lock.
        """
        return Lease(self)

    def look_at_list(self) -> AbstractAsyncContextManager[Session]:
        """Lend a session for the first rows of a list, in its turn; else as `acquire`."""
        return Look(self)

    async def take(self, openings: Slots | None = None) -> tuple[SessionPool, Session]:
        """Lend a session as `acquire` does, to be given back to where it is from.

        With `openings` one of these is held unless a session is idle.
        """
        pool = self._pool
        session = None if pool is None else pool.take_idle()
        if pool is not None and session is not None:
            if session.is_fit(self.settings.max_lifetime):
                self.on_wait(0.0)
                return pool, session
            pool.put_back(session)
        if openings is None:
            return await self._wait_for_one()
        async with openings.taken():
            return await self._wait_for_one()

    async def _wait_for_one(self) -> tuple[SessionPool, Session]:
        with self._waiting_for_session():
            async with asyncio.timeout(self.settings.acquire_timeout):
                return await self._take_usable()

    @contextmanager
    def _waiting_for_session(self) -> Iterator[None]:
        started = time.monotonic()
        self._waiting += 1
        try:
            yield
        except TimeoutError as error:
            raise errors.Db(EXHAUSTED) from error
        except sqlstate.DRIVER_ERRORS as error:
            self.trouble.set()
            text = describe(self.uri, error)
            raise errors.Db(f"no connection to {self.uri.redacted}: {text}") from error
        finally:
            self._waiting -= 1
            waited = time.monotonic() - started
            self.on_wait(waited)
            if (call := current_call.get()) is not None:
                call.pool_wait += waited
            if waited > SLOW_ACQUIRE:
                _log.warning("slow to get a database connection", extra={"seconds": waited})

    async def _take_usable(self) -> tuple[SessionPool, Session]:
        while True:
            pool = self._pool
            if pool is None:
                raise errors.Unavailable("the database is not connected yet")
            try:
                session = await pool.take()
            except sqlstate.DRIVER_ERRORS:
                if self._pool is None or pool is self._pool:
                    raise
                # The pool has moved to another server meanwhile.
                continue
            try:
                is_usable = await session.is_usable(self.settings.max_lifetime)
                # A pool that was left connects again for whoever still waits for it.
                if is_usable and pool is self._pool:
                    return pool, session
                with suppress(TimeoutError, *sqlstate.DRIVER_ERRORS):
                    await session.close(timeout=RELEASE_BOUND)
            except BaseException:
                await pool.take_back(session)
                raise
            # The pool drops it, as closed, and connects again.
            await pool.take_back(session)

    @asynccontextmanager
    async def place_for_list(self) -> AsyncIterator[None]:
        """Hold one of the sessions that long lists may have at once; it is yet to be acquired.

        `Db` when no list gives one back for the acquire timeout.
        """
        places = self.lists.places
        place = places.taken()
        if not places.try_enter(place):
            with self._waiting_for_session():
                await places.wait(place)
        try:
            yield
        finally:
            places.leave(place)

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[Session]:
        """Lend a session inside a READ COMMITTED transaction; commit on success.

        Errors of the commit itself pass through: the caller's style translates them into `Db`,
        "outcome unknown", because the server may have committed before the connection broke.
        """
        failure: BaseException | None = None
        async with self.acquire() as session:
            try:
                async with session.transaction(isolation="read_committed"):
                    try:
                        yield session
                    except BaseException as error:
                        failure = error
                        raise
            except (TimeoutError, *sqlstate.DRIVER_ERRORS):
                # A rollback on a broken connection fails too, and would hide why (or that the
                # caller was cancelled).
                if failure is None:
                    raise
        if failure is not None:
            raise failure


def session_settings(uri: PostgresUri, *, read_only: bool) -> dict[str, str]:
    """Return the start-up settings of every session; the URI cannot override ours."""
    settings = {
        **uri.server_settings,
        "application_name": APPLICATION_NAME,
        "TimeZone": "UTC",
        "DateStyle": "ISO, MDY",
        "client_encoding": "UTF8",
        "extra_float_digits": "2",
        # An operator's other default would fail single statements that wait for a lock here, and
        # every statement on a standby.
        "default_transaction_isolation": "read committed",
    }
    if read_only:
        settings["default_transaction_read_only"] = "on"
    return settings
