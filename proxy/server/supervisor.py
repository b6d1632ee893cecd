"""The database side of a node's life: connect, migrate or check, then watch.

States, each shown by the readiness condition that does not hold yet::

    connecting -> schema -> watching
    connecting    the database is not reachable: tried again with backoff, for as long as it takes
    schema        the primary's node migrates (a failure ends the node), a replica's node checks
                  and waits until the primary's node has migrated
    watching      a probe each `proxy.probe_interval`: reachable, still a primary where one is
                  needed, and how old the data may be

A node whose database comes up late therefore becomes ready by itself.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Awaitable, Callable
from typing import Final

from proxy import errors
from proxy.config import NodeConfig
from proxy.metrics import NodeMetrics
from proxy.roles import Role
from proxy.server.readiness import Readiness
from proxy.store import migrations
from proxy.store.lag import Sample, beat, is_in_recovery, probe
from proxy.store.pool import Database

log = logging.getLogger(__name__)

CONNECTED: Final = "database_connected"
SCHEMA: Final = "schema_complete"
PROBE: Final = "probe_answers"

BACKOFF_FIRST: Final = 0.2
BACKOFF_MOST: Final = 5.0
# A replica's schema is looked at again at this interval, in seconds.
SCHEMA_INTERVAL: Final = 30.0


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
    """

    def __init__(
        self, config: NodeConfig, database: Database, readiness: Readiness, metrics: NodeMetrics
    ) -> None:
        self._config = config
        self._database = database
        self._readiness = readiness
        self._metrics = metrics
        self._sample: tuple[Sample, float] | None = None
        self._is_primary = config.role is Role.METASTORE
        self._last_schema_check = 0.0
        self._schema_problem: str | None = None

    @property
    def lag(self) -> float | None:
        """Upper bound in seconds of the age of the data now; None while unknown."""
        if self._sample is None:
            return None
        sample, taken = self._sample
        if sample.lag is None or not sample.in_recovery:
            return sample.lag
        return sample.lag + (time.monotonic() - taken)

    async def run(self) -> None:
        """Bring the database up, then watch it until cancelled."""
        await self._connect()
        await self._complete_schema()
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._watch(), name="database-probe")
            if self._needs_primary:
                interval = self._config.proxy.heartbeat_interval
                if interval is not None:
                    tasks.create_task(self._beat(interval), name="heartbeat")
                if self._migrates_deferred:
                    tasks.create_task(self._apply_deferred(), name="deferred-migrations")

    async def _connect(self) -> None:
        async def connect() -> None:
            await self._database.open()
            if self._needs_primary and await is_in_recovery(self._database):
                raise self._demoted()

        await self._persist(CONNECTED, connect)
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
            await self._migrate()
        else:
            await self._persist(SCHEMA, self._check_schema)
        self._readiness.hold(SCHEMA)

    async def _persist(self, condition: str, attempt: Callable[[], Awaitable[None]]) -> None:
        """Repeat `attempt` with backoff until it succeeds; say why it does not."""
        failures = 0
        while True:
            try:
                await attempt()
            except errors.MetastoreError as error:
                self._note_problem(condition, str(error))
                await asyncio.sleep(backoff(failures, random.random()))  # noqa: S311 - jitter
                failures += 1
            else:
                self._readiness.hold(condition)
                return

    def _note_problem(self, condition: str, reason: str) -> None:
        if self._readiness.conditions[condition] != reason:
            log.warning("not ready", extra={"condition": condition, "reason": reason})
        self._readiness.fail(condition, reason)

    async def _migrate(self) -> None:
        self._readiness.fail(SCHEMA, "migrations are running")
        report = await migrations.apply(
            self._database, lock=not self._config.postgres.skip_migration_locking
        )
        log.info("migrations complete", extra={"applied": len(report.applied)})

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

    async def _check_schema(self) -> None:
        async with self._database.acquire() as session:
            await migrations.check(session)
        self._last_schema_check = time.monotonic()

    async def _probe(self) -> Sample:
        bound = max(1.0, self._config.proxy.probe_interval)
        sample = await probe(self._database, timeout=bound)
        if self._sample is None or self._sample[0].in_recovery != sample.in_recovery:
            self._announce_recovery(sample)
        self._sample = (sample, time.monotonic())
        self._metrics.set_promoted(self._is_promoted(sample))
        if self._needs_primary and sample.in_recovery:
            raise self._demoted()
        return sample

    def _is_promoted(self, sample: Sample) -> bool:
        return not self._is_primary and not sample.in_recovery

    def _announce_recovery(self, sample: Sample) -> None:
        if self._is_promoted(sample):
            log.warning(
                "the replica's database is not in recovery: it was promoted, or the URI names a "
                "primary; its reads load that primary",
                extra={"uri": self._database.uri.redacted},
            )

    async def _watch(self) -> None:
        while True:
            try:
                await self._probe()
                await self._recheck_schema()
            except errors.MetastoreError as error:
                self._readiness.miss(PROBE, str(error))
                log.warning("probe failed", extra={"reason": str(error)})
            else:
                self._readiness.hold(PROBE)
            # Jitter keeps the probes of many nodes apart.
            await asyncio.sleep(self._config.proxy.probe_interval * random.uniform(0.9, 1.1))  # noqa: S311

    async def _recheck_schema(self) -> None:
        if self._is_primary or time.monotonic() - self._last_schema_check < SCHEMA_INTERVAL:
            return
        await self._check_schema()

    async def _beat(self, interval: float) -> None:
        while True:
            try:
                await beat(self._database, self._config.node_id, interval=interval)
            except errors.MetastoreError as error:
                log.warning("heartbeat failed", extra={"reason": str(error)})
            await asyncio.sleep(interval)
