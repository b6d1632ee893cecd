"""What is wrong, in words, for each way in which something can be."""

from __future__ import annotations

from typing import Any

import pytest

from proxy.proto.metastore_proxy.v1 import status_pb2 as pb
from proxy.server.status.phrases import joined, seconds
from proxy.server.status.words import Sides, findings, summary
from tests.unit.server.status.making import NOW, backend, node, status

PRIMARY = backend("metastore-1", "primary")
FRESH = backend("replica-1", "replica")
OLD = backend("replica-2", "replica", "too_old", lag=14.2)
DOWN = backend("replica-2", "replica", "down", verdict="it does not answer")
GUARD = pb.Protection(fallbacks=32, fallback_limit=32, retry_budget=0.4, serve_stale=False)

ROUTERS = {
    "all is well": (status(PRIMARY, FRESH), [], "reads go to replica-1; writes go to metastore-1"),
    "one replica lags": (
        status(PRIMARY, FRESH, OLD, max_lag=10.0),
        ["warning: replica-2 replays 14 s behind; bound 10 s; reads go to replica-1"],
        "reads go to replica-1; writes go to metastore-1",
    ),
    "one replica lags, and nothing bounds it": (
        status(PRIMARY, FRESH, backend("replica-2", "replica", lag=130.0)),
        [
            (
                "warning: replica-2 replays 2 min 10 s behind, and no bound is set: it goes on to "
                "get reads"
            ),
        ],
        "reads go to replica-1 and replica-2; writes go to metastore-1",
    ),
    "one replica is down": (
        status(PRIMARY, FRESH, DOWN),
        ["warning: replica-2 at replica-2:7281 is down; reads go to replica-1"],
        "reads go to replica-1; writes go to metastore-1",
    ),
    "the reason is known": (
        status(PRIMARY, FRESH, backend("replica-2", "replica", "down", verdict="wrong CA")),
        ["warning: replica-2 at replica-2:7281 is down (wrong CA); reads go to replica-1"],
        "reads go to replica-1; writes go to metastore-1",
    ),
    "no replica is up": (
        status(PRIMARY, DOWN),
        [
            "warning: no replica is up: all reads go to the primary (fallback)",
            "warning: replica-2 at replica-2:7281 is down",
        ],
        "all reads go to the primary (fallback); writes go to metastore-1",
    ),
    "no replica is fresh enough": (
        status(PRIMARY, OLD, max_lag=10.0),
        [
            "warning: no replica is fresh enough: all reads go to the primary (fallback)",
            "warning: replica-2 replays 14 s behind; bound 10 s",
        ],
        "all reads go to the primary (fallback); writes go to metastore-1",
    ),
    "no replica is known": (
        status(PRIMARY),
        ["warning: no replica is known: all reads go to the primary (fallback)"],
        "all reads go to the primary (fallback); writes go to metastore-1",
    ),
    "gossip has taken the only replica out": (
        status(PRIMARY, node("replica-2", "replica", "dead")),
        [
            "warning: no replica is up: all reads go to the primary (fallback)",
            "warning: replica replica-2 gives no sign of life",
        ],
        "all reads go to the primary (fallback); writes go to metastore-1",
    ),
    "the primary takes no reads in place of replicas": (
        status(
            PRIMARY,
            DOWN,
            protection=pb.Protection(fallback_limit=0, retry_budget=10.0, serve_stale=True),
        ),
        [
            "warning: no replica is up: reads fail",
            "warning: replica-2 at replica-2:7281 is down",
        ],
        "reads fail; writes go to metastore-1",
    ),
    "primary down": (
        status(backend("metastore-1", "primary", "down"), FRESH),
        [
            (
                "error: primary metastore-1 at metastore-1:7281 does not serve: writes fail; "
                "reads still go to replica-1"
            ),
        ],
        "writes fail; reads still go to replica-1",
    ),
    "primary down, and its replicas too old by now": (
        status(
            backend("metastore-1", "primary", "down", verdict="it does not answer"),
            OLD,
            max_lag=10.0,
        ),
        [
            (
                "error: primary metastore-1 at metastore-1:7281 is down: writes fail; "
                "reads get older answers (stale) from replica-2"
            ),
        ],
        "writes fail; reads get older answers (stale) from replica-2",
    ),
    "nothing serves": (
        status(backend("metastore-1", "primary", "down", verdict="it does not answer"), DOWN),
        [
            "error: primary metastore-1 at metastore-1:7281 is down: writes fail; reads fail",
            "warning: replica-2 at replica-2:7281 is down",
        ],
        "reads and writes fail",
    ),
    "the primary has become a standby": (
        status(backend("metastore-1", "primary", "standby", verdict="in recovery"), FRESH),
        [
            (
                "error: primary metastore-1 at metastore-1:7281 has a database in recovery and "
                "takes no writes: writes fail; reads still go to replica-1"
            ),
        ],
        "writes fail; reads still go to replica-1",
    ),
    "gossip has taken the primary out": (
        status(node("metastore-1", "primary", "dead"), FRESH),
        ["error: primary metastore-1 is down: writes fail; reads still go to replica-1"],
        "writes fail; reads still go to replica-1",
    ),
    "one of two primaries": (
        status(PRIMARY, backend("metastore-2", "primary", "ejected"), FRESH),
        [
            (
                "warning: primary metastore-2 at metastore-2:7281 failed too many calls and is "
                "left alone for a while; metastore-1 takes the writes"
            ),
        ],
        "reads go to replica-1; writes go to metastore-1",
    ),
    "the cap and the budget are used up": (
        status(PRIMARY, FRESH, protection=GUARD),
        [
            (
                "error: the primary takes no more reads in place of replicas: 32 of 32 are in "
                "flight, others wait, get older answers, or fail"
            ),
            "warning: the budget for retries is used up: a call that fails now is not tried again",
        ],
        "reads go to replica-1; writes go to metastore-1",
    ),
    "calls fail": (
        status(
            PRIMARY,
            FRESH,
            routes=[pb.RouteCalls(route="replica", per_second=9.0, failed_per_second=2.4)],
        ),
        ["warning: calls fail: 2.4/s on route replica"],
        "reads go to replica-1; writes go to metastore-1",
    ),
    "it has just started": (
        status(
            backend("metastore-1", "primary", "connecting"),
            backend("replica-1", "replica", "connecting"),
        ),
        ["error: this node is connecting to its backends"],
        "reads and writes fail",
    ),
    "it knows nobody": (
        status(
            conditions=[pb.Condition(name="backend_serves", reason="no backend serves")],
            ready=False,
        ),
        [
            "error: this node is not ready: no backend serves",
            "error: no primary is known: writes fail; reads fail",
        ],
        "reads and writes fail",
    ),
}


def told(found: Any) -> list[str]:
    return [f"{'error' if one.is_error else 'warning'}: {one.text}" for one in found]


@pytest.mark.parametrize("case", ROUTERS)
def test_a_router_says_what_is_wrong_and_where_calls_go(case: str) -> None:
    made, expected, where = ROUTERS[case]
    found = findings(made, Sides())
    assert told(found) == expected
    assert summary(made) == where
    assert all(one.advice for one in found if not one.key.startswith("condition/"))
    assert len({one.key for one in found}) == len(found)


ME = node("replica-1", "replica", is_self=True, lag=0.2)
OK = pb.Condition(name="database_connected")
BROKEN = pb.Condition(name="database_connected", reason="the database does not answer")


@pytest.mark.parametrize(
    ("made", "sides", "expected", "where"),
    [
        (
            status(ME, role="metastore_read_replica", conditions=[OK]),
            Sides(),
            [],
            "this node serves reads from its replica and refuses writes",
        ),
        (
            status(ME, role="metastore_read_replica", conditions=[OK]),
            Sides(is_promoted=True),
            [
                (
                    "warning: the database of this read replica is not in recovery: its reads load "
                    "a primary"
                ),
            ],
            "this node serves reads from its replica and refuses writes",
        ),
        (
            status(ME, role="metastore_read_replica", conditions=[OK]),
            Sides(warnings=["the database tells less than it should"]),
            ["warning: the database tells less than it should"],
            "this node serves reads from its replica and refuses writes",
        ),
        (
            status(
                node("replica-1", "replica", is_self=True, lag=4.0),
                role="metastore_read_replica",
                max_lag=2.0,
            ),
            Sides(),
            ["warning: this replica replays 4 s behind; bound 2 s"],
            "this node serves reads from its replica and refuses writes",
        ),
        (
            status(node("replica-1", "replica", is_self=True), role="metastore_read_replica"),
            Sides(),
            [
                (
                    "warning: how old the data of this replica is cannot be told, which counts as "
                    "too old"
                ),
            ],
            "this node serves reads from its replica and refuses writes",
        ),
        (
            status(ME, role="metastore_read_replica", conditions=[BROKEN], ready=False),
            Sides(),
            ["error: this node is not ready: the database does not answer"],
            "this node serves nothing now",
        ),
        (
            status(
                PRIMARY,
                FRESH,
                ME,
                role="metastore_read_replica",
                conditions=[BROKEN],
                protection=pb.Protection(fallback_limit=32, retry_budget=10.0),
            ),
            Sides(),
            [
                (
                    "warning: this node passes on what it cannot serve itself: the database does "
                    "not answer"
                ),
            ],
            "this node cannot serve reads itself and passes them on: reads go to replica-1",
        ),
        (
            status(
                PRIMARY,
                ME,
                role="metastore_read_replica",
                conditions=[OK],
                protection=pb.Protection(retry_budget=10.0),
            ),
            Sides(),
            [],
            "this node serves reads from its replica and refuses writes",
        ),
        (
            status(
                backend("metastore-1", "primary", "down", verdict="it does not answer"),
                ME,
                role="metastore_read_replica",
                conditions=[OK],
                protection=pb.Protection(retry_budget=10.0),
            ),
            Sides(),
            [
                (
                    "error: primary metastore-1 at metastore-1:7281 is down: writes fail; reads "
                    "are served here"
                ),
            ],
            "this node serves reads from its replica and refuses writes",
        ),
        (
            status(role="metastore", draining=True, ready=False),
            Sides(),
            ["warning: this node is shutting down and takes no new calls"],
            "this node is shutting down and takes no new calls",
        ),
        (
            status(
                node("metastore-1", "primary", is_self=True),
                node("replica-1", "replica", lag=1.0, lag_is_coarse=True),
                node("replica-2", "replica", lag=30.0, lag_is_coarse=True),
                node("replica-3", "replica"),
                node("replica-7", "replica", since=NOW - 1.0),
                node("replica-4", "replica", "not_ready"),
                node("replica-5", "replica", "dead", since=NOW - 1.0),
                node("replica-6", "replica", "leaving"),
                node("indexer-1", "other", "dead"),
                role="metastore",
            ),
            Sides(alarms=["two nodes have the `node_id` `x`: give each its own"]),
            [
                "error: two nodes have the `node_id` `x`: give each its own",
                "warning: replica-2 replays up to 30 s behind",
                "warning: how old the data of replica-3 is cannot be told, which counts as too old",
                "warning: replica replica-4 says that it is not ready",
            ],
            "this node serves reads and writes from the primary's database",
        ),
        (
            status(ME, node("metastore-1", "primary", "dead"), role="metastore_read_replica"),
            Sides(),
            ["error: primary metastore-1 gives no sign of life: writes fail"],
            "this node serves reads from its replica and refuses writes",
        ),
    ],
    ids=[
        "well",
        "promoted",
        "less told",
        "behind",
        "unknown",
        "not ready",
        "forwarding",
        "could forward",
        "could forward, and no primary",
        "draining",
        "metastore",
        "no primary",
    ],
)
def test_a_node_with_a_database_does_too(
    made: Any, sides: Sides, expected: list[str], where: str
) -> None:
    assert told(findings(made, sides)) == expected
    assert summary(made) == where


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        ([], ""),
        (["a"], "a"),
        (["a", "b"], "a and b"),
        (["a", "b", "c", "d"], "a, b, c and d"),
        (["a", "b", "c", "d", "e"], "a, b, c and 2 others"),
    ],
)
def test_names_are_joined(names: list[str], expected: str) -> None:
    assert joined(names) == expected


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (0.0, "0 s"),
        (0.214, "0.21 s"),
        (0.3, "0.3 s"),
        (4.04, "4 s"),
        (9.46, "9.5 s"),
        (14.2, "14 s"),
        (125.0, "2 min 5 s"),
        (7300.0, "2 h 1 min"),
        (90_000.0, "1 d 1 h"),
    ],
)
def test_durations_are_short(value: float, expected: str) -> None:
    assert seconds(value) == expected
