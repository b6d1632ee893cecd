"""Every Prometheus series of a node; the only module that knows their names and labels.

Facts: the `quickwit_*` series, labels and buckets are those of Quickwit's metastore nodes, so that
its dashboards keep working. Durations are seconds.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from time import perf_counter
from typing import Final, Protocol

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.core import CounterMetricFamily
from prometheus_client.registry import Collector

from proxy.errors import Code
from proxy.roles import Role
from proxy.routing.catalogue import RPCS, Rpc

DURATION_BUCKETS: Final = tuple(0.001 * 2**power for power in range(12))


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

    def __init__(self) -> None:
        self.code = Code.OK
        self.is_cancelled = False

    @property
    def status(self) -> str:
        """The value of the label `status`."""
        if self.is_cancelled:
            return "cancelled"
        return "success" if self.code is Code.OK else "error"


class _GossipCollector(Collector):
    """Reads the counts of the gossip thread, which has no part in this library."""

    def __init__(self, counters: Callable[[], Mapping[str, int]]) -> None:
        self._counters = counters

    def collect(self) -> Iterator[CounterMetricFamily]:
        """Return the one family."""
        family = CounterMetricFamily(
            "metastore_proxy_gossip_events",
            "What gossip did, by name: datagrams sent and received, and what was dropped and why.",
            labels=["event"],
        )
        for name, count in sorted(self._counters().items()):
            family.add_metric([name], count)
        yield family


class NodeMetrics:
    """The series of one node in a registry of its own."""

    def __init__(self, role: Role) -> None:
        # Quickwit has no `_created` series, and they double the size of a scrape.
        disable_created_metrics()
        self.registry = CollectorRegistry()
        kind = role.metastore_kind
        self._labels = {
            "service": "metastore",
            "grpc_service": "metastore",
            "kind": "server",
            "metastore_kind": kind,
        }
        names = [*self._labels, "rpc"]
        self._requests = Counter(
            "quickwit_grpc_requests_total",
            "Number of gRPC requests processed.",
            [*names, "status", "code"],
            registry=self.registry,
        )
        self._in_flight = Gauge(
            "quickwit_grpc_requests_in_flight",
            "Number of gRPC requests in flight.",
            names,
            registry=self.registry,
        )
        self._durations = Histogram(
            "quickwit_grpc_request_duration_seconds",
            "Duration of requests in seconds.",
            [*names, "status", "code"],
            buckets=DURATION_BUCKETS,
            registry=self.registry,
        )
        self._shed = Counter(
            "metastore_proxy_shed_requests_total",
            "Calls refused at once because too many of the same RPC were in flight.",
            ["rpc"],
            registry=self.registry,
        )
        self._deferred = Counter(
            "quickwit_metastore_deferred_migrations_apply_total",
            "Number of runs of the deferred migrations.",
            ["result"],
            registry=self.registry,
        )
        self._lag = self._gauge(
            "metastore_proxy_replica_lag_seconds",
            "Upper bound of the age of the served data; NaN while unknown.",
        )
        self._ready = self._gauge("metastore_proxy_ready", "Whether the node is ready (0 or 1).")
        self._promoted = self._gauge(
            "metastore_proxy_replica_not_in_recovery",
            "Whether a read replica's URI names a database that is not in recovery (0 or 1).",
        )
        self._in_flight_by_rpc = {
            name: self._in_flight.labels(**self._labels, rpc=rpc.metric_name)
            for name, rpc in RPCS.items()
        }
        self._kind = kind
        self._by_outcome: dict[tuple[str, str, Code], tuple[Counter, Histogram]] = {}

    def _gauge(self, name: str, text: str) -> Gauge:
        return Gauge(name, text, registry=self.registry)

    def watch_pool(self, stats: Callable[[], PoolFigures]) -> None:
        """Export the pool's figures, read at each scrape."""
        series: dict[str, tuple[str, Callable[[PoolFigures], int]]] = {
            "acquire_connections": (
                "Number of callers waiting for a connection.",
                lambda pool: pool.waiting,
            ),
            "active_connections": ("Number of connections, used and idle.", lambda pool: pool.open),
            "idle_connections": ("Number of idle connections.", lambda pool: pool.idle),
            "max_connections": ("Most connections that the pool opens.", lambda pool: pool.max),
        }
        for name, (text, read) in series.items():
            gauge = Gauge(
                f"quickwit_metastore_{name}", text, ["metastore_kind"], registry=self.registry
            )
            gauge.labels(self._kind).set_function(_reading(read, stats))

    @contextmanager
    def track(self, rpc: Rpc) -> Iterator[Outcome]:
        """Count one call and time it until the block ends."""
        outcome = Outcome()
        in_flight = self._in_flight_by_rpc[rpc.name]
        in_flight.inc()
        started = perf_counter()
        try:
            yield outcome
        finally:
            in_flight.dec()
            requests, durations = self._ended(rpc, outcome)
            requests.inc()
            durations.observe(perf_counter() - started)

    def _ended(self, rpc: Rpc, outcome: Outcome) -> tuple[Counter, Histogram]:
        """Return the series of an outcome; looked up once, since labels cost more than counting."""
        key = (rpc.name, outcome.status, outcome.code)
        found = self._by_outcome.get(key)
        if found is None:
            labels = {
                **self._labels,
                "rpc": rpc.metric_name,
                "status": outcome.status,
                "code": outcome.code.name.lower(),
            }
            found = (self._requests.labels(**labels), self._durations.labels(**labels))
            self._by_outcome[key] = found
        return found

    def shed(self, rpc: Rpc) -> None:
        """Count a call that was refused before any work."""
        self._shed.labels(rpc.metric_name).inc()

    def deferred_migrations(self, *, succeeded: bool) -> None:
        """Count a run of the deferred migrations."""
        self._deferred.labels("success" if succeeded else "failure").inc()

    def set_ready(self, ready: bool) -> None:
        """Export readiness."""
        self._ready.set(ready)

    def watch_lag(self, lag: Callable[[], float | None]) -> None:
        """Export the lag in seconds as it is at each scrape; None is unknown."""

        def read() -> float:
            seconds = lag()
            return math.nan if seconds is None else seconds

        self._lag.set_function(read)

    def watch_gossip(self, counters: Callable[[], Mapping[str, int]]) -> None:
        """Export what gossip counts, by name, as it is at each scrape."""
        self.registry.register(_GossipCollector(counters))

    def set_promoted(self, promoted: bool) -> None:
        """Export whether a replica's database is not in recovery."""
        self._promoted.set(promoted)

    def render(self) -> bytes:
        """Return the series in Prometheus' text format."""
        return generate_latest(self.registry)


def _reading(
    read: Callable[[PoolFigures], int], stats: Callable[[], PoolFigures]
) -> Callable[[], float]:
    return lambda: float(read(stats()))
