"""A node's metrics after something of every kind has happened, without a node."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from random import Random
from typing import Final

from prometheus_client.core import Metric

from proxy.client.events import (
    BackendChanged,
    BackendEjected,
    BackendRefused,
    CallFellBack,
    CallFinished,
    CallHedged,
    CallRetried,
    CallRouted,
    CallShared,
    CallShed,
    Event,
    ResolveFailed,
    RetryDenied,
)
from proxy.errors import Code
from proxy.metrics import NodeMetrics
from proxy.metrics.declaring import Nodes
from proxy.roles import Role
from proxy.routing.board import Board
from proxy.routing.catalogue import RPCS, Rpc
from proxy.routing.figures import figures
from proxy.routing.members import BackendRole, BackendState
from proxy.routing.selection import Route
from proxy.tls.reasons import Kind

PRIMARY: Final = "10.0.0.1:7281"
REPLICA: Final = "10.0.0.2:7281"
BACKENDS: Final = {PRIMARY: BackendRole.PRIMARY, REPLICA: BackendRole.REPLICA}

# The groups of series that nodes of a role have, with all that they may be told to do.
GROUPS: Final = {
    Role.METASTORE: set(Nodes) - {Nodes.REPLICA, Nodes.ROUTING},
    Role.READ_REPLICA: set(Nodes) - {Nodes.PRIMARY},
    Role.ROUTER: {Nodes.ALL, Nodes.ROUTING, Nodes.GOSSIP, Nodes.TLS, Nodes.WORKERS},
}


@dataclass(frozen=True)
class Pool:
    """A pool's figures."""

    open: int = 3
    idle: int = 2
    max: int = 10
    waiting: int = 1


def busy(role: Role) -> NodeMetrics:
    """Return the metrics of a node of `role` to which everything has happened."""
    metrics = NodeMetrics(role)
    for rpc in RPCS.values():
        serve(metrics, rpc, Code.OK)
    serve(metrics, RPCS["ListSplits"], *Code)
    metrics.set_ready(True)
    metrics.loop_lagged(0.01)
    metrics.config_reloaded(succeeded=False)
    metrics.tls_reloaded(True)
    metrics.watch_certificate("grpc", lambda: 1_800_000_000.0)
    for port, kind in product(("grpc", "rest"), Kind):
        metrics.tls_refused(port, kind.value)
    metrics.watch_members(lambda: {"live": 3, "ready": 2, "dead": 1})
    metrics.watch_gossip(lambda: {"sent": 7, "received": 8})
    metrics.watch_workers(lambda: {"serving": 2, "ended": 0}, lambda: {"1": 0, "2": 1})
    if role.has_database:
        _fill_database(metrics)
    if Nodes.ROUTING in GROUPS[role]:
        _fill_routing(metrics)
    return metrics


def serve(metrics: NodeMetrics, rpc: Rpc, *codes: Code) -> None:
    """Serve a call of each outcome, and shed one."""
    for code in codes:
        with metrics.track(rpc) as outcome:
            outcome.code, outcome.is_cancelled = code, code is Code.CANCELLED
    metrics.shed(rpc)


def _fill_database(metrics: NodeMetrics) -> None:
    metrics.watch_pool(Pool)
    metrics.pool_waited(0.2)
    metrics.watch_lag(lambda: 0.5)
    metrics.watch_position(lambda: 0x16_B374_D848)
    metrics.watch_heartbeat(lambda: 0.25)
    metrics.set_promoted(True)
    metrics.set_migrations({"applied": 40, "pending": 1})
    metrics.deferred_migrations(succeeded=True)


def _fill_routing(metrics: NodeMetrics) -> None:
    routed = metrics.routing()
    board = Board(rng=Random(1))
    board.set_members(BACKENDS, now=0.0)
    routed.watch(lambda: figures(board, now=1.0, max_lag=None))
    for address, role in BACKENDS.items():
        joins(metrics, address, role)
        routed(BackendEjected(address, role))
    for event in events():
        routed(event)


def joins(metrics: NodeMetrics, address: str, role: BackendRole) -> None:
    """Let a backend join."""
    metrics.routing()(BackendChanged(address, role, None, BackendState.CONNECTING, "new"))


def leaves(metrics: NodeMetrics, address: str, role: BackendRole) -> None:
    """Let a backend leave."""
    metrics.routing()(BackendChanged(address, role, BackendState.DOWN, None, "gone"))


def events(rpc: str = "ListSplits") -> list[Event]:
    """Return an event of each kind, and the ends of calls on every route with every code."""
    ends: list[Event] = [
        CallFinished(rpc, REPLICA, BackendRole.REPLICA, route, code, 0.01)
        for route, code in product(Route, Code)
    ]
    return [
        *ends,
        BackendChanged(
            REPLICA, BackendRole.REPLICA, BackendState.CONNECTING, BackendState.DOWN, ""
        ),
        BackendRefused(REPLICA, BackendRole.REPLICA, "theirs", "ours"),
        ResolveFailed("dns:///replicas:7281", "no such name"),
        CallRouted(rpc, REPLICA, Route.REPLICA, 1),
        CallFellBack(rpc, PRIMARY),
        CallShared(rpc),
        CallHedged(rpc, REPLICA),
        CallShed(rpc),
        RetryDenied(rpc, REPLICA),
        CallRetried(rpc, REPLICA, "Unavailable", 1),
    ]


def families(metrics: NodeMetrics) -> dict[str, Metric]:
    """Return what is exported, by the name that a query uses; `_total` is part of it."""
    found = {}
    for family in metrics.registry.collect():
        suffix = "_total" if family.type == "counter" else ""
        found[family.name + suffix] = family
    return found


def label_values(metrics: NodeMetrics) -> dict[str, set[str]]:
    """Return every value that each label has, `le` aside."""
    found: dict[str, set[str]] = {}
    for family in metrics.registry.collect():
        for sample in family.samples:
            for name, value in sample.labels.items():
                if name != "le":
                    found.setdefault(name, set()).add(value)
    return found
