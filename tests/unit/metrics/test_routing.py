"""The metrics of a node that routes: what the client's events and its board come to."""

from __future__ import annotations

import math
from dataclasses import replace
from random import Random
from typing import Any

import pytest

from proxy.client.events import BackendEjected, CallFinished
from proxy.errors import Code
from proxy.metrics import NodeMetrics
from proxy.roles import Role
from proxy.routing.board import Board, BoardPolicy, Outcome
from proxy.routing.catalogue import RPCS
from proxy.routing.figures import REASONS, figures
from proxy.routing.freshness import Report
from proxy.routing.members import BackendRole, BackendState
from proxy.routing.selection import Choice, Route
from tests.support.metric_samples import BACKENDS, PRIMARY, REPLICA, events, joins, leaves


def node() -> NodeMetrics:
    metrics = NodeMetrics(Role.ROUTER)
    for address, role in BACKENDS.items():
        joins(metrics, address, role)
    return metrics


def value(metrics: NodeMetrics, name: str, **labels: str) -> float | None:
    return metrics.registry.get_sample_value(f"metastore_proxy_{name}", labels)


def ended(route: Route, code: Code, *, backend: str = REPLICA) -> CallFinished:
    return CallFinished("ListSplits", backend, BACKENDS[backend], route, code, 0.01)


@pytest.mark.parametrize(
    ("route", "code", "counted"),
    [
        (Route.REPLICA, Code.OK, {"fallback": None, "stale": None}),
        (Route.FALLBACK, Code.OK, {"fallback": 1.0, "stale": None}),
        (Route.FALLBACK, Code.UNAVAILABLE, {"fallback": None, "stale": None}),
        (Route.STALE, Code.OK, {"fallback": None, "stale": 1.0}),
        (Route.STALE, Code.CANCELLED, {"fallback": None, "stale": None}),
    ],
)
def test_answers_by_route(route: Route, code: Code, counted: dict[str, float | None]) -> None:
    metrics = node()
    backend = PRIMARY if route is Route.FALLBACK else REPLICA
    metrics.routing()(ended(route, code, backend=backend))
    labels = {
        "rpc": "list_splits",
        "route": route.value,
        "backend_role": BACKENDS[backend].value,
        "code": code.name.lower(),
    }
    assert value(metrics, "routed_calls_total", **labels) == 1.0
    assert counted == {
        kind: value(metrics, f"{kind}_answers_total", rpc="list_splits")
        for kind in ("fallback", "stale")
    }


@pytest.mark.parametrize(
    ("name", "labels"),
    [
        ("retries_total", {"rpc": "list_splits"}),
        ("retries_denied_total", {"rpc": "list_splits"}),
        ("hedges_total", {"rpc": "list_splits"}),
        ("shared_calls_total", {"rpc": "list_splits"}),
        ("fallbacks_refused_total", {"rpc": "list_splits"}),
        ("resolve_failures_total", {}),
    ],
)
def test_events_are_counted_once(name: str, labels: dict[str, str]) -> None:
    metrics = node()
    for event in events():
        metrics.routing()(event)
    assert value(metrics, name, **labels) == 1.0


def test_a_backend_is_counted_from_its_joining_to_its_leaving() -> None:
    metrics, routed = node(), node().routing()
    routed = metrics.routing()
    of_replica = {"backend": REPLICA, "backend_role": "replica"}
    assert value(metrics, "backend_ejections_total", **of_replica) == 0.0
    assert value(metrics, "backend_calls_total", **of_replica, status="error") == 0.0
    routed(ended(Route.REPLICA, Code.UNAVAILABLE))
    routed(BackendEjected(REPLICA, BackendRole.REPLICA))
    assert value(metrics, "backend_calls_total", **of_replica, status="error") == 1.0
    assert value(metrics, "backend_ejections_total", **of_replica) == 1.0

    leaves(metrics, REPLICA, BackendRole.REPLICA)
    # A call that was under way ends later.
    routed(ended(Route.REPLICA, Code.CANCELLED))
    routed(BackendEjected(REPLICA, BackendRole.REPLICA))
    left = [
        sample.labels
        for family in metrics.registry.collect()
        for sample in family.samples
        if sample.labels.get("backend") == REPLICA
    ]
    assert left == []
    of_primary = {"backend": PRIMARY, "backend_role": "primary"}
    assert value(metrics, "backend_ejections_total", **of_primary) == 0.0

    joins(metrics, REPLICA, BackendRole.REPLICA)
    assert value(metrics, "backend_calls_total", **of_replica, status="cancelled") == 0.0


def test_a_stale_answer_of_the_nodes_own_counts_where_it_routes() -> None:
    metrics = NodeMetrics(Role.READ_REPLICA)
    metrics.answered_stale(RPCS["ListSplits"])
    assert value(metrics, "stale_answers_total", rpc="list_splits") is None
    metrics.routing()
    metrics.answered_stale(RPCS["ListSplits"])
    assert value(metrics, "stale_answers_total", rpc="list_splits") == 1.0


class World:
    """A board with a primary and a replica that serve, as metrics see it at `now`."""

    def __init__(self, **policy: Any) -> None:
        self.board = Board(BoardPolicy(**policy), rng=Random(1))
        self.board.set_members(BACKENDS, now=0.0)
        self.max_lag: float | None = 1.0
        self.now = 10.0
        self.metrics = NodeMetrics(Role.ROUTER)
        self.metrics.routing().watch(lambda: figures(self.board, self.now, self.max_lag))

    def serve(self) -> None:
        for address in BACKENDS:
            self.board.set_state(address, BackendState.SERVING, 1.0)

    def hear(self, address: str, lsn: int, **facts: Any) -> None:
        report = Report(self.now - 0.25, self.now, address == REPLICA, lsn, 1, "ours")
        self.board.heard(address, replace(report, **facts))

    def eligibility(self, address: str) -> str:
        role = BACKENDS[address].value
        labels = {"backend": address, "backend_role": role}
        values = [
            value(self.metrics, "backend_eligibility", **labels, reason=reason)
            for reason in REASONS
        ]
        assert (values.count(0.0), values.count(1.0)) == (len(REASONS) - 1, 1)
        return REASONS[values.index(1.0)]


def test_eligibility_is_one_reason_of_a_few() -> None:
    world = World(fallback_concurrency=2)
    assert [world.eligibility(address) for address in BACKENDS] == ["connecting"] * 2
    world.board.set_state(REPLICA, BackendState.NOT_SERVING, 1.0)
    assert world.eligibility(REPLICA) == "not_serving"
    world.board.set_state(REPLICA, BackendState.DOWN, 1.0)
    assert world.eligibility(REPLICA) == "down"
    world.serve()
    assert [world.eligibility(address) for address in BACKENDS] == ["eligible", "unknown_lag"]
    world.hear(PRIMARY, 100)
    world.hear(REPLICA, 100)
    # It was down a moment ago, and has its share of calls.
    world.now = 2.0
    choice = Choice(world.board.snapshot.backends[1], Route.REPLICA)
    for _ in range(12):
        world.board.begin(choice, world.now)
    assert world.eligibility(REPLICA) == "filling"
    world.now = 10.0
    assert world.eligibility(REPLICA) == "eligible"
    world.now = 12.0
    assert world.eligibility(REPLICA) == "too_old"
    for _ in range(12):
        world.board.end(choice, Outcome.FAILED, world.now, None)
    assert world.eligibility(REPLICA) == "ejected"
    world.hear(REPLICA, 100, identity="theirs")
    assert world.eligibility(REPLICA) == "foreign"
    world.hear(PRIMARY, 100, in_recovery=True)
    assert world.eligibility(PRIMARY) == "standby"


def test_lag_positions_and_load_are_as_the_board_has_them() -> None:
    world = World()
    world.serve()
    of_replica = {"backend": REPLICA, "backend_role": "replica"}
    of_primary = {"backend": PRIMARY, "backend_role": "primary"}
    for name in ("backend_lag_seconds", "backend_lsn_bytes", "backend_latency_seconds"):
        assert math.isnan(value(world.metrics, name, **of_replica) or 0.0)
    world.hear(PRIMARY, 0x16_B374_D848)
    world.hear(REPLICA, 0x16_B374_D000)
    assert value(world.metrics, "backend_lsn_bytes", **of_primary) == 97_500_059_720.0
    assert value(world.metrics, "backend_lsn_bytes", **of_replica) == 97_500_057_600.0
    assert math.isnan(value(world.metrics, "backend_lag_seconds", **of_replica) or 0.0)
    world.hear(REPLICA, 0x16_B374_D848)
    assert value(world.metrics, "backend_lag_seconds", **of_replica) == 0.25
    assert value(world.metrics, "backend_lag_seconds", **of_primary) is None
    choice = Choice(world.board.snapshot.backends[0], Route.FALLBACK)
    world.board.begin(choice, world.now)
    assert value(world.metrics, "backend_calls_in_flight", **of_primary) == 1.0
    assert value(world.metrics, "fallbacks_in_flight") == 1.0
    world.board.end(choice, Outcome.ANSWERED, world.now, 0.125)
    assert value(world.metrics, "backend_latency_seconds", **of_primary) == 0.125
    assert value(world.metrics, "fallbacks_in_flight") == 0.0


@pytest.mark.parametrize(("cap", "limit"), [(32, 32.0), (None, math.inf)])
def test_the_cap_and_the_budget(cap: int | None, limit: float) -> None:
    world = World(fallback_concurrency=cap, retry_reserve=3.0)
    assert value(world.metrics, "fallbacks_limit") == limit
    assert value(world.metrics, "retry_budget") == 3.0
    assert world.board.budget.spend()
    assert value(world.metrics, "retry_budget") == 2.0


@pytest.mark.parametrize(("bound", "seconds"), [(1.5, 1.5), (None, math.inf)])
def test_the_bound_on_lag(bound: float | None, seconds: float) -> None:
    world = World()
    world.max_lag = bound
    assert value(world.metrics, "max_lag_seconds") == seconds


def test_a_closed_client_has_no_figures() -> None:
    metrics = NodeMetrics(Role.ROUTER)
    metrics.routing().watch(lambda: None)
    assert value(metrics, "retry_budget") is None


def test_a_backend_that_comes_back_is_counted_anew() -> None:
    metrics = node()
    routed = metrics.routing()
    of_replica = {"backend": REPLICA, "backend_role": "replica"}
    for _ in range(2):
        routed(ended(Route.REPLICA, Code.OK))
        assert value(metrics, "backend_calls_total", **of_replica, status="success") == 1.0
        leaves(metrics, REPLICA, BackendRole.REPLICA)
        # Counted for no backend, also after it has come back.
        routed(ended(Route.REPLICA, Code.OK))
        joins(metrics, REPLICA, BackendRole.REPLICA)
        assert value(metrics, "backend_calls_total", **of_replica, status="success") == 0.0
