"""The database side of a node's life: connect, migrate or check, then watch.

States, each shown by the readiness condition that does not hold yet::

    connecting -> schema -> watching
    connecting    the database is not reachable: tried again with backoff, for as long as it takes
    schema        the primary's node migrates (a failure ends the node, unless it is the database
                  that went away), a replica's node checks
                  and waits until the primary's node has migrated
    watching      a probe each `proxy.probe_interval`: reachable, still a primary where one is
                  needed, and how old the data may be

A node whose database comes up late therefore becomes ready by itself. A node whose URI names
several servers moves to the one that is the primary (or a standby, for a replica's node) while it
watches: after a promotion within `FOLLOW_INTERVAL` and the time that the servers take to answer.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Final

from proxy import errors
from proxy.config import NodeConfig
from proxy.metrics import NodeMetrics
from proxy.roles import Role
from proxy.server.look_notes import LookNotes
from proxy.server.readiness import Readiness
from proxy.store import migrations
from proxy.store.heartbeat import Heart
from proxy.store.lag import Heartbeat, LagMeter, Writer
from proxy.store.observer import Look, Observer
from proxy.store.pool import Database, Session

log = logging.getLogger(__name__)

CONNECTED: Final = "database_connected"
SCHEMA: Final = "schema_complete"
PROBE: Final = "probe_answers"

BACKOFF_FIRST: Final = 0.2
BACKOFF_MOST: Final = 5.0
# What a node waits for is logged when it changes, and again at this interval, in seconds.
REMINDER: Final = 60.0
# A replica's schema is looked at again at this interval, in seconds.
SCHEMA_INTERVAL: Final = 30.0
# How often the node of a URI with several servers looks for a new primary while all is well.
FOLLOW_INTERVAL: Final = 2.0
# And while it is not: a pause, so that servers that refuse connections are not flooded.
FOLLOW_PAUSE: Final = 0.2

# What metrics call the states of migrations.
_STATES: Final = {
    migrations.State.APPLIED: "applied",
    migrations.State.MISSING: "pending",
    migrations.State.DIRTY: "failed",
    migrations.State.MISMATCH: "failed",
    migrations.State.UNKNOWN: "unknown",
}


def initial_conditions() -> dict[str, str]:
    """Return the conditions of a node that has just started."""
    return {
        CONNECTED: "waiting for the database",
        SCHEMA: "the schema has not been looked at yet",
        PROBE: "the database has not been probed yet",
    }


def backoff(attempt: int, jitter: float) -> float:
    """Return the seconds to wait after failed attempt `attempt` (from 0); `jitter` is in [0, 1)."""
    return min(BACKOFF_FIRST * 2.0 ** min(attempt, 16), BACKOFF_MOST) * (0.5 + jitter / 2)


class DatabaseSupervisor:
    """Owns the tasks that bring a node's database up and watch it.

    `run` returns only by an error that ends the node (`MetastoreError`) or by cancellation.
    `writer` is who stamps the heartbeat. `on_probe` is called after each probe: what the node can
    serve may have changed. `on_heartbeat` gets each stamp of another node that is seen, and its age
    by the database's clock.
    """

    def __init__(
        self,
        config: NodeConfig,
        database: Database,
        readiness: Readiness,
        metrics: NodeMetrics,
        *,
        writer: Callable[[], Writer],
        on_probe: Callable[[], None] = lambda: None,
        on_heartbeat: Callable[[Heartbeat, float], None] = lambda _heartbeat, _age: None,
    ) -> None:
        self._config = config
        self._database = database
        self._readiness = readiness
        self._metrics = metrics
        self._writer = writer
        self._on_probe = on_probe
        self._on_heartbeat = on_heartbeat
        self._is_primary = config.role is Role.METASTORE
        self.observer = Observer(
            database,
            timeout=max(1.0, config.proxy.probe_interval),
            reads_heartbeat=config.is_database_read_only,
        )
        self._notes = LookNotes(database, readiness, PROBE, is_primary=self._needs_primary)
        self._meter = LagMeter()
        self._last_look: Look | None = None
        self._last_schema_check = 0.0
        # When it was last logged that a condition does not hold, and why.
        self._told: dict[str, tuple[float, str]] = {}
        # When a heartbeat was last seen or written, and how old it was then.
        self._heartbeat: tuple[float, float] | None = None
        metrics.watch_lag(lambda: self.lag)
        metrics.watch_heartbeat(lambda: self.heartbeat_age)
        metrics.watch_position(lambda: self.position)

    @property
    def lag(self) -> float | None:
        """Upper bound in seconds of the age of the data now; None while unknown."""
        lag = self._meter.lag(time.monotonic())
        # What a primary shows is the newest there is.
        return 0.0 if lag is not None and self._needs_primary else lag

    @property
    def position(self) -> int | None:
        """The position in the WAL at the last look, in bytes; None while unknown."""
        return None if self._last_look is None else self._last_look.lsn

    @property
    def is_promoted(self) -> bool:
        """Whether a replica's database was not in recovery at the last look."""
        return (
            not self._is_primary and self._last_look is not None and not self._last_look.in_recovery
        )

    @property
    def heartbeat_age(self) -> float | None:
        """Seconds since the heartbeat that a replica shows, or that this node wrote; else None."""
        if self._heartbeat is None:
            return None
        when, age = self._heartbeat
        return max(0.0, age + time.monotonic() - when)

    def lag_from_now(self) -> Callable[[], float | None]:
        """Return what tells how old data is by then that is read from now on.

        Later probes do not count: what was read before them may have been older.
        """
        lag, since = self.lag, time.monotonic()
        if lag is None or self._needs_primary:
            return lambda: lag
        return lambda: lag + (time.monotonic() - since)

    async def run(self) -> None:
        """Bring the database up, then watch it until cancelled."""
        try:
            await self._connect()
            await self._complete_schema()
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._watch(), name="database-probe")
                if self._database.has_choice:
                    tasks.create_task(self._follow(), name="follow-primary")
                if self._needs_primary:
                    interval = self._config.proxy.heartbeat_interval
                    if interval is not None:
                        tasks.create_task(self._beat(interval), name="heartbeat")
                    if self._migrates_deferred:
                        tasks.create_task(self._apply_deferred(), name="deferred-migrations")
        finally:
            await self.observer.close()

    async def _connect(self) -> None:
        await self._persist(CONNECTED, self._database.open)
        log.info("database connected", extra={"uri": self._database.uri.redacted})

    @property
    def _needs_primary(self) -> bool:
        return self._is_primary and not self._database.read_only

    def _demoted(self) -> errors.Connection:
        return errors.Connection(
            f"{self._database.uri.redacted} is a standby in recovery: point `metastore_uri` at the "
            "primary, or wait for its promotion"
        )

    async def _complete_schema(self) -> None:
        if self._is_primary and not self._config.postgres.skip_migrations:
            # What a migration finds wrong, or breaks off at, waiting does not mend.
            await self._persist(SCHEMA, self._migrate, final=errors.Internal)
        else:
            await self._persist(SCHEMA, self._check_schema)
        self._readiness.hold(SCHEMA)

    async def _persist(
        self,
        condition: str,
        attempt: Callable[[], Awaitable[None]],
        *,
        final: tuple[type[errors.MetastoreError], ...] | type[errors.MetastoreError] = (),
    ) -> None:
        """Repeat `attempt` with backoff until it succeeds, or is `final`; say why it does not."""
        failures = 0
        while True:
            try:
                await attempt()
            except final:
                raise
            except errors.MetastoreError as error:
                self._note_problem(condition, str(error))
                await asyncio.sleep(backoff(failures, random.random()))  # noqa: S311 - jitter
                failures += 1
            else:
                self._readiness.hold(condition)
                return

    def _note_problem(self, condition: str, reason: str) -> None:
        now = time.monotonic()
        told = self._told.get(condition)
        if told is None or told[1] != reason or now - told[0] >= REMINDER:
            self._told[condition] = (now, reason)
            log.warning("not ready", extra={"condition": condition, "reason": reason})
        self._readiness.fail(condition, reason)

    async def _migrate(self) -> None:
        self._readiness.fail(SCHEMA, "migrations are running")
        report = await migrations.apply(
            self._database, lock=not self._config.postgres.skip_migration_locking
        )
        async with self._database.acquire() as session:
            await self._note_migrations(session)
        log.info("migrations complete", extra={"applied": len(report.applied)})

    async def _note_migrations(self, session: Session) -> None:
        found = Counter(_STATES[each.state] for each in await migrations.status(session))
        self._metrics.set_migrations(found)

    @property
    def _migrates_deferred(self) -> bool:
        flags = self._config.postgres
        return not (
            flags.skip_migrations or flags.skip_migration_locking or flags.skip_deferred_migrations
        )

    async def _apply_deferred(self) -> None:
        report = await migrations.apply_deferred(self._database)
        if report.outcome in (
            migrations.DeferredOutcome.FAILED,
            migrations.DeferredOutcome.APPLIED,
        ):
            succeeded = report.outcome is migrations.DeferredOutcome.APPLIED
            self._metrics.deferred_migrations(succeeded=succeeded)
            with suppress(errors.MetastoreError):
                async with self._database.acquire() as session:
                    await self._note_migrations(session)

    async def _check_schema(self) -> None:
        async with self._database.acquire() as session:
            await self._note_migrations(session)
            await migrations.check(session)
        self._last_schema_check = time.monotonic()

    async def _probe(self) -> None:
        try:
            look = await self.observer.look()
        except errors.MetastoreError:
            self._meter.failed()
            raise
        self._note_age(look)
        if look.heartbeat is not None:
            age = look.clock - look.heartbeat.at
            self._heartbeat = (look.began, age)
            self._on_heartbeat(look.heartbeat, age)
        self._notes.compare(self._last_look, look)
        self._last_look = look
        self._metrics.set_promoted(self.is_promoted)
        if self._needs_primary and look.in_recovery:
            self._meter.failed()
            raise self._demoted()

    def _note_age(self, look: Look) -> None:
        if look.is_elsewhere:
            self._meter.failed()
            return
        self._meter.looked(
            look.heartbeat,
            clock=look.clock,
            sender_ahead=look.sender_ahead,
            in_recovery=look.in_recovery,
            now=look.began,
        )

    async def _watch(self) -> None:
        while True:
            try:
                await self._probe()
                await self._recheck_schema()
            except errors.MetastoreError as error:
                self._readiness.miss(PROBE, str(error))
                self._database.trouble.set()
                log.warning("probe failed", extra={"reason": str(error)})
            else:
                self._readiness.hold(PROBE)
            self._on_probe()
            # Jitter keeps the probes of many nodes apart.
            await asyncio.sleep(self._config.proxy.probe_interval * random.uniform(0.9, 1.1))  # noqa: S311

    async def _follow(self) -> None:
        """Keep to the primary, or for a replica's node to a standby, among the URI's servers."""
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(FOLLOW_INTERVAL * random.uniform(0.9, 1.0)):  # noqa: S311
                    await self._database.trouble.wait()
            if self._has_to_follow:
                await self._follow_once()
            await asyncio.sleep(FOLLOW_PAUSE)

    @property
    def _has_to_follow(self) -> bool:
        """Whether to look at all servers: a replica's node stays where it is while that will do."""
        look = self._last_look
        return (
            self._is_primary
            or self._database.trouble.is_set()
            or (look is not None and not look.in_recovery)
        )

    async def _follow_once(self) -> None:
        self._database.trouble.clear()
        try:
            moved = await self._database.follow()
        except errors.MetastoreError as error:
            # Nothing will do yet: look again soon.
            self._database.trouble.set()
            log.debug("no server to move to", extra={"reason": str(error)})
            return
        if not moved:
            return
        self._meter.forget()
        server = self._database.server
        log.warning(
            "moved to another database server",
            extra={
                "uri": self._database.uri.redacted,
                "place": None if server is None else server.place,
                "timeline": None if server is None else server.timeline,
            },
        )
        with suppress(errors.MetastoreError):
            await self._probe()
            self._readiness.hold(PROBE)
        self._on_probe()

    async def _recheck_schema(self) -> None:
        if self._is_primary or time.monotonic() - self._last_schema_check < SCHEMA_INTERVAL:
            return
        await self._check_schema()

    async def _beat(self, interval: float) -> None:
        heart = Heart(self._database, self._writer(), interval=interval)
        try:
            while True:
                try:
                    is_mine = await heart.beat()
                    self._heartbeat = (time.monotonic(), 0.0) if is_mine else None
                    if heart.seen is not None:
                        # A primary shows the newest stamp that there is.
                        self._on_heartbeat(heart.seen, 0.0)
                except errors.MetastoreError as error:
                    log.warning("heartbeat failed", extra={"reason": str(error)})
                await asyncio.sleep(heart.pause())
        finally:
            heart.close()
