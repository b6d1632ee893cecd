"""Looks at a node's database over a connection of its own, so that a full pool hides nothing."""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

import asyncpg

from proxy import errors
from proxy.store import grants, sqlstate
from proxy.store.lag import HEARTBEAT_KEY, Heartbeat, parse_heartbeat
from proxy.store.pool import Database
from proxy.store.positions import Position, read_position
from proxy.store.queries import query

APPLICATION_NAME: Final = "metastore-proxy-observer"

# Looks start at least this far apart, however many callers ask.
SPACING: Final = 0.005
# How long a position that was reached stays known: a server that was lost and came back may have
# less, and its connection, which would tell, may not have broken yet.
MEMORY: Final = 1.0
# How long after a look a replica's position is looked at again while a call waits for it.
_STEP: Final = 0.005

# Sizes of WAL page headers: of a page, and of the first page of a segment.
_PAGE: Final = 8192
_SHORT_HEADER: Final = 24
_LONG_HEADER: Final = 40

# Generic in its stubs alone.
_Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record]"


@dataclass(frozen=True, slots=True)
class Look:
    """A database at one moment. `began` is monotonic seconds, from before the question left.

    `lsn` is a number: of a primary at or after everything committed when the look began, of a
    standby what it has replayed; None is unknown. `timeline` 0 is unknown. `clock` is the
    server's, in seconds of the epoch; `sender_ahead` how far the WAL sender's is ahead of it.
    `is_elsewhere` says that sessions of the pool are on another server than the one asked, which
    leaves position and heartbeat unknown; `refusal` why the server itself tells no position.
    """

    began: float
    in_recovery: bool
    lsn: int | None
    timeline: int
    identity: str
    clock: float
    sender_ahead: float | None
    heartbeat: Heartbeat | None
    is_elsewhere: bool = False
    refusal: str = ""


class Observer:
    """Asks the server that a `Database` is on. `reads_heartbeat` is for a replica's node.

    While sessions of the pool are on another server than the one asked, as behind a balancer,
    position and heartbeat are unknown. One question at a time: callers that come while one is under
    way share the next. A look that fails or takes longer than `timeout` seconds ends the
    connection; the next makes a new one.
    """

    def __init__(self, database: Database, *, timeout: float, reads_heartbeat: bool) -> None:
        self._database = database
        self._timeout = timeout
        self._reads_heartbeat = reads_heartbeat
        self._connection: _Connection | None = None
        self._generation = -1
        self._incarnation = ""
        self._turn = asyncio.Lock()
        self._next: asyncio.Task[Look] | None = None
        self._last_began = 0.0
        self._reached: tuple[float, int] | None = None

    async def look(self) -> Look:
        """Return a look that began after this call. `MetastoreError` when there is no answer."""
        if self._next is None:
            self._next = asyncio.create_task(self._look_in_turn(), name="look")
            self._next.add_done_callback(_retrieve)
        # One caller's cancellation must not end the look of the others.
        return await asyncio.shield(self._next)

    async def reach(self, lsn: int, bound: float) -> bool:
        """Wait up to `bound` seconds until the database has everything up to `lsn`.

        `MetastoreError` when the database does not answer, or tells no position. What a primary
        shows is the newest there is, so that one which tells none has it.
        """
        deadline = time.monotonic() + bound
        while not self._has_reached(lsn):
            look = await self.look()
            if look.lsn is not None and look.lsn >= lsn:
                return True
            if look.refusal:
                if not look.in_recovery and not self._reads_heartbeat:
                    return True
                raise errors.Db(look.refusal)
            left = deadline - time.monotonic()
            if left <= 0.0:
                return False
            await asyncio.sleep(min(_STEP, left))
        return True

    async def close(self) -> None:
        """End the connection. Idempotent."""
        if self._next is not None:
            self._next.cancel()
        async with self._turn:
            self._drop()

    def _has_reached(self, lsn: int) -> bool:
        connection = self._connection
        if self._reached is None or connection is None or connection.is_closed():
            return False
        when, reached = self._reached
        return (
            reached >= lsn
            and self._database.is_on(self._incarnation)
            and self._generation == self._database.generation
            and time.monotonic() - when < MEMORY
        )

    async def _look_in_turn(self) -> Look:
        try:
            async with self._turn:
                pause = self._last_began + SPACING - time.monotonic()
                if pause > 0.0:
                    await asyncio.sleep(pause)
                # Who asks from here on needs a look that begins later.
                self._next = None
                self._last_began = time.monotonic()
                return await self._look()
        finally:
            if self._next is asyncio.current_task():
                self._next = None

    async def _look(self) -> Look:
        if not self._database.is_open:
            raise errors.Unavailable("the database is not connected yet")
        try:
            async with asyncio.timeout(self._timeout):
                connection = await self._connected()
                look = await self._ask(connection)
        except BaseException as error:
            self._drop()
            if isinstance(error, TimeoutError):
                raise errors.Timeout(
                    f"the database did not say its state within {self._timeout:g} s"
                ) from error
            if text := grants.explain(error, self._database.uri):
                raise errors.Db(text) from error
            if isinstance(error, sqlstate.DRIVER_ERRORS):
                raise sqlstate.translate(error, raw=True) from error
            raise
        if look.lsn is not None:
            self._reached = (look.began, look.lsn)
        return look

    async def _connected(self) -> _Connection:
        generation = self._database.generation
        if self._generation != generation:
            self._drop()
        connection = self._connection
        if connection is None or connection.is_closed():
            self._reached = None
            connection = await self._database.connect_apart(
                timeout=self._timeout, application_name=APPLICATION_NAME
            )
            self._connection, self._generation = connection, generation
        return connection

    async def _ask(self, connection: _Connection) -> Look:
        heartbeat = None
        began = time.monotonic()
        if self._reads_heartbeat:
            # Before the position: so that the heartbeat's timeline is not later than it.
            heartbeat = await _heartbeat(connection)
        told = await read_position(connection)
        if not self._database.is_on(told.incarnation):
            return _look_elsewhere(began, told)
        self._incarnation = told.incarnation
        timeline = told.timeline or 0
        if told.in_recovery and heartbeat is not None:
            timeline = max(timeline, heartbeat.timeline)
        return Look(
            began=began,
            in_recovery=told.in_recovery,
            lsn=end_of_record(told.lsn, told.segment_offset),
            timeline=timeline,
            identity=told.identity or "",
            clock=told.clock,
            sender_ahead=told.sender_ahead,
            heartbeat=heartbeat,
            refusal=self._refusal(told),
        )

    def _refusal(self, told: Position) -> str:
        if told.lsn is not None:
            return ""
        error = told.refused
        if error is None:
            return "the server has no position in the WAL"
        if text := grants.explain(error, self._database.uri):
            return text
        return ": ".join([str(error.args[0]), *([error.hint] if error.hint else ())])

    def _drop(self) -> None:
        connection, self._connection = self._connection, None
        self._reached = None
        if connection is not None:
            connection.terminate()


async def _heartbeat(connection: _Connection) -> Heartbeat | None:
    # The schema may be missing still.
    with suppress(asyncpg.UndefinedTableError):
        return parse_heartbeat(await connection.fetchval(query("lag/heartbeat"), HEARTBEAT_KEY))
    return None


def _look_elsewhere(began: float, told: Position) -> Look:
    """Return what is left of a look at another server than one that sessions are on."""
    return Look(
        began=began,
        in_recovery=told.in_recovery,
        lsn=None,
        timeline=0,
        identity=told.identity or "",
        clock=told.clock,
        sender_ahead=None,
        heartbeat=None,
        is_elsewhere=True,
    )


def end_of_record(lsn: str | None, segment_offset: int | None) -> int | None:
    """Return a position as a number, that of a primary as the end of its last record.

    Facts: between two records that meet at the end of a WAL page, the insert position is behind
    the header of the next page, which no standby ever replays up to until a record follows.
    """
    if lsn is None:
        return None
    high, _, low = lsn.partition("/")
    position = (int(high, 16) << 32) | int(low, 16)
    if segment_offset == _LONG_HEADER:
        return position - _LONG_HEADER
    if segment_offset is not None and segment_offset % _PAGE == _SHORT_HEADER:
        return position - _SHORT_HEADER
    return position


def _retrieve(task: asyncio.Task[Any]) -> None:
    """Take note of the error of a look that nobody waits for any more."""
    if not task.cancelled():
        task.exception()
