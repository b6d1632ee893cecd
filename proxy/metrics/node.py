"""What a node counts, whatever it serves from."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping
from contextlib import AbstractContextManager
from time import perf_counter
from types import TracebackType
from typing import Final, Protocol

from prometheus_client import (
    CollectorRegistry,
    PlatformCollector,
    ProcessCollector,
    disable_created_metrics,
)
from prometheus_client.core import Metric

from proxy.errors import Code
from proxy.metrics import series as names
from proxy.metrics.declaring import Nodes, Series
from proxy.metrics.distribution import CallCounts, Distribution, Distributions
from proxy.metrics.exposition import Exposition, write
from proxy.metrics.families import Family, Sample, Watched, counter, gauge, known
from proxy.metrics.routing import RoutingMetrics
from proxy.metrics.tally import Tally
from proxy.roles import Role
from proxy.routing.catalogue import RPCS, Rpc
from proxy.version import VERSION

RESULTS: Final = ("success", "failure")
MIGRATION_STATES: Final = ("applied", "pending", "failed", "unknown")
_MEMBERS: Final = {
    "live": names.CLUSTER_LIVE,
    "ready": names.CLUSTER_READY,
    "dead": names.CLUSTER_DEAD,
    "zombie": names.CLUSTER_ZOMBIE,
}


class PoolFigures(Protocol):
    """What the pool series are read from at scrape time."""

    @property
    def open(self) -> int:
        """Open connections."""

    @property
    def idle(self) -> int:
        """Idle ones among them."""

    @property
    def max(self) -> int:
        """The most that are opened."""

    @property
    def waiting(self) -> int:
        """Callers that wait for one."""


class Outcome:
    """How a call ended; the handler sets `code` before it leaves the tracked block."""

    __slots__ = ("code", "is_cancelled")

    def __init__(self) -> None:
        self.code = Code.OK
        self.is_cancelled = False

    @property
    def status(self) -> str:
        """The value of the label `status`."""
        if self.is_cancelled:
            return "cancelled"
        return "success" if self.code is Code.OK else "error"


class _Tracked:
    """One call, counted from `with` to its end; gives its outcome."""

    __slots__ = ("_calls", "_name", "_outcome", "_started", "_tally")

    def __init__(self, calls: CallCounts, tally: Tally, name: str) -> None:
        self._calls = calls
        self._tally = tally
        self._name = name
        self._outcome = Outcome()

    def __enter__(self) -> Outcome:
        self._calls.in_flight[self._name] += 1
        self._started = perf_counter()
        return self._outcome

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        outcome, calls = self._outcome, self._calls
        seconds = perf_counter() - self._started
        calls.in_flight[self._name] -= 1
        calls.ended(self._name, outcome.status, outcome.code, seconds)
        self._tally.served(Code.CANCELLED if outcome.is_cancelled else outcome.code)


class NodeMetrics:
    """The series of one node in a registry of its own.

    `labels` are constant ones, added to every sample that has no label of that name itself. What a
    node of this role does not export can be counted all the same, and is not seen.
    """

    def __init__(self, role: Role, labels: Iterable[tuple[str, str]] = ()) -> None:
        # Quickwit has no `_created` series, and they double the size of a scrape.
        disable_created_metrics()
        self.registry = CollectorRegistry()
        self._role = role
        self._constant = dict(labels)
        self._watched = Watched()
        self.tally = Tally()
        # What a scrape shows; the first of several workers shows those of all.
        self.collect: Callable[[], Awaitable[list[Metric]]] = self._own
        self._routing: RoutingMetrics | None = None
        self._calls = CallCounts(
            {
                name: ("metastore", "metastore", "server", role.metastore_kind, rpc.metric_name)
                for name, rpc in RPCS.items()
            },
            in_flight=names.IN_FLIGHT,
            requests=names.REQUESTS,
            durations=names.DURATIONS,
        )
        self.registry.register(self._calls)
        self._distributions = Distributions()
        self.registry.register(self._distributions)
        self._loop_lag = self._distribution(names.LOOP_LAG)
        self._ready = gauge(names.READY, self.registry)
        build = gauge(names.BUILD, self.registry)
        build.labels(VERSION, role.value).set(1)
        self._config_reloads = Family(counter(names.CONFIG_RELOADS, self.registry))
        for result in RESULTS:
            self._config_reloads[result,]
        self._config_reloaded = gauge(names.CONFIG_RELOADED, self.registry)
        self._config_loaded_at = gauge(names.CONFIG_LOADED_AT, self.registry)
        self._config_reloaded.set(1)
        self._config_loaded_at.set_to_current_time()
        self.registry.register(self._watched)
        self._add_database()
        self._add_tls()
        ProcessCollector(registry=self.registry)
        PlatformCollector(registry=self.registry)

    def _where(self, series: Series) -> CollectorRegistry | None:
        """Return the registry, or None for a series that nodes of this role do not export."""
        has_it = {
            Nodes.DATABASE: self._role.has_database,
            Nodes.PRIMARY: self._role is Role.METASTORE,
            Nodes.REPLICA: self._role is Role.READ_REPLICA,
        }
        return self.registry if has_it.get(series.nodes, True) else None

    def _distribution(self, series: Series) -> Distribution:
        if self._where(series) is None:
            return Distribution(series.buckets)
        return self._distributions.add(series)

    def _add_database(self) -> None:
        self._shed = Family(counter(names.SHED, self._where(names.SHED)))
        self._pool_wait = self._distribution(names.POOL_WAIT)
        self._deferred = Family(counter(names.DEFERRED, self._where(names.DEFERRED)))
        self._promoted = gauge(names.PROMOTED, self._where(names.PROMOTED))
        self._migrations = Family(gauge(names.MIGRATIONS, self._where(names.MIGRATIONS)))
        for result in RESULTS:
            self._deferred[result,]
        if self._role.has_database:
            for series in (names.LAG, names.LSN, names.HEARTBEAT_AGE):
                self._watch(series, lambda: None)

    def _add_tls(self) -> None:
        self._tls_reloads = Family(counter(names.TLS_RELOADS, self.registry))
        self._tls_refused = Family(counter(names.TLS_REFUSED, self.registry))
        self._tls_expiry = Family(gauge(names.TLS_EXPIRY, self.registry))

    def _watch(self, series: Series, read: Callable[[], float | None]) -> None:
        """Export what `read` returns at each scrape; None is unknown."""
        self._watched.add(series, lambda: (((), known(read())),))

    # Calls

    def track(self, rpc: Rpc) -> AbstractContextManager[Outcome]:
        """Count one call and time it until the block ends."""
        return _Tracked(self._calls, self.tally, rpc.name)

    def shed(self, rpc: Rpc) -> None:
        """Count a call that was refused before any work."""
        self._shed[rpc.metric_name,].inc()

    def routing(self) -> RoutingMetrics:
        """Return what counts the calls that the node sends to others; exported from then on."""
        if self._routing is None:
            self._routing = RoutingMetrics(self.registry, self.tally)
        return self._routing

    def answered_stale(self, rpc: Rpc) -> None:
        """Count an answer of this node's own data that is over the bound; of a node that routes."""
        if self._routing is not None:
            self._routing.answered_stale(rpc.name)

    # The node

    def set_ready(self, ready: bool) -> None:
        """Export readiness."""
        self._ready.set(ready)

    def loop_lagged(self, seconds: float) -> None:
        """Count how late the event loop ran something."""
        self._loop_lag.observe(seconds)

    def config_reloaded(self, *, succeeded: bool) -> None:
        """Count that a changed configuration was taken into use, or could not be."""
        self._config_reloads[_result(succeeded),].inc()
        self._config_reloaded.set(succeeded)
        if succeeded:
            self._config_loaded_at.set_to_current_time()

    # The database

    def watch_pool(self, stats: Callable[[], PoolFigures]) -> None:
        """Export the pool's figures, read at each scrape."""
        kind = (self._role.metastore_kind,)
        figures: dict[Series, Callable[[PoolFigures], int]] = {
            names.POOL_ACQUIRE: lambda pool: pool.waiting,
            names.POOL_ACTIVE: lambda pool: pool.open,
            names.POOL_IDLE: lambda pool: pool.idle,
            names.POOL_MAX: lambda pool: pool.max,
        }

        def reading(read: Callable[[PoolFigures], int]) -> Callable[[], Iterable[Sample]]:
            return lambda: ((kind, float(read(stats()))),)

        for series, read in figures.items():
            self._watched.add(series, reading(read))

    def pool_waited(self, seconds: float) -> None:
        """Count how long a call waited for a database session."""
        self._pool_wait.observe(seconds)

    def watch_lag(self, lag: Callable[[], float | None]) -> None:
        """Export the lag in seconds as it is at each scrape; None is unknown."""
        self._watch(names.LAG, lag)

    def watch_position(self, lsn: Callable[[], float | None]) -> None:
        """Export the database's position in the WAL, in bytes; None is unknown."""
        self._watch(names.LSN, lsn)

    def watch_heartbeat(self, age: Callable[[], float | None]) -> None:
        """Export the age of the heartbeat in seconds; None where there is none to tell of."""
        self._watch(names.HEARTBEAT_AGE, age)

    def set_promoted(self, promoted: bool) -> None:
        """Export whether a replica's database is not in recovery."""
        self._promoted.set(promoted)

    def set_migrations(self, counts: Mapping[str, int]) -> None:
        """Export how many migrations are in each of `MIGRATION_STATES`."""
        for state in MIGRATION_STATES:
            self._migrations[state,].set(counts.get(state, 0))

    def deferred_migrations(self, *, succeeded: bool) -> None:
        """Count a run of the deferred migrations."""
        self._deferred[_result(succeeded),].inc()

    # TLS

    def tls_reloaded(self, succeeded: bool) -> None:
        """Count that changed TLS files were taken into use, or could not be."""
        self._tls_reloads[_result(succeeded),].inc()

    def tls_refused(self, port: str, reason: str) -> None:
        """Count a connection that a TLS port refused; `reason` is one of a few words."""
        self._tls_refused[port, reason].inc()

    def watch_certificate(self, port: str, expiry: Callable[[], float | None]) -> None:
        """Export when a port's certificate expires, in Unix seconds; None is unknown."""
        for result in RESULTS:
            self._tls_reloads[result,]
        self._tls_expiry[port,].set_function(lambda: known(expiry()))

    # The cluster

    def watch_members(self, members: Callable[[], Mapping[str, int]]) -> None:
        """Export how many members of the cluster are `live`, `ready`, `dead` and `zombie`.

        A state that `members` leaves out is 0, one that is none of these is not exported.
        """

        def reading(state: str) -> Callable[[], int]:
            return lambda: members().get(state, 0)

        for state, series in _MEMBERS.items():
            self._watch(series, reading(state))

    def watch_gossip(self, counters: Callable[[], Mapping[str, int]]) -> None:
        """Export what gossip counts, by name, as it is at each scrape."""
        self._watched.add(
            names.GOSSIP_EVENTS,
            lambda: [((name,), float(count)) for name, count in sorted(counters().items())],
        )

    # Workers

    def watch_workers(
        self,
        states: Callable[[], Mapping[str, int]],
        restarts: Callable[[], Mapping[str, int]],
    ) -> None:
        """Export how many workers there are by state, and how often each was started again."""

        def reading(read: Callable[[], Mapping[str, int]]) -> Callable[[], Iterable[Sample]]:
            return lambda: [((name,), float(count)) for name, count in read().items()]

        self._watched.add(names.WORKERS, reading(states))
        self._watched.add(names.WORKER_RESTARTS, reading(restarts))

    async def _own(self) -> list[Metric]:
        return list(self.registry.collect())

    async def expose(self, accept: str = "", accept_encoding: str = "") -> Exposition:
        """Return all series in the format and coding that a scraper's headers ask for."""
        families = await self.collect()
        # A thousand samples take some 20 ms to write: calls go on meanwhile.
        return await asyncio.to_thread(write, families, self._constant, accept, accept_encoding)


def _result(succeeded: bool) -> str:
    return RESULTS[0] if succeeded else RESULTS[1]
