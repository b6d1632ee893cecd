"""A status as text."""

from __future__ import annotations

import math

import pytest

from proxy.proto.metastore_proxy.v1 import status_pb2 as pb
from proxy.server.status.text import plot, render
from tests.unit.server.status.making import NOW, backend, node, status

EXPECTED = """\
router-1 (metastore_router 0.1.0) of cluster cluster-a, up 2 h 1 min, at 08:00:00 UTC
reads go to replica-1; writes go to metastore-1
WARNING replica-2 replays 14 s behind; bound 10 s; reads go to replica-1 \
(since 07:59:39 UTC, 21 s)
        -> look at its database

  node         kind     state    lag      last 3 min  calls/s  verdict
  metastore-1  primary  serving  -        -           2.5      takes writes
  replica-1    replica  serving  0.21 s   ▁▂▂         120.0    takes reads
  replica-2    replica  serving  14.20 s  ▁·█         -        its data is older than the bound
* router-1     router   ready    -        -           -        -
  replica-3    replica  dead     -        -           -        -
and 3 more

  route    calls/s  failed/s  last 3 min
  replica  120.0    0.5       ▁█

fallback cap: 1 of 32 in use; retry budget: 9.5; lag bound: 10 s
backend_serves: ok
gossip: 4 live, 3 ready, 1 dead, 0 about to be forgotten"""


def test_all_of_it() -> None:
    made = status(
        backend("metastore-1", "primary", verdict="takes writes", calls_per_second=2.5),
        backend(
            *("replica-1", "replica"),
            verdict="takes reads",
            lag=0.214,
            lag_history=[0.1, 0.2, 0.21],
            calls_per_second=120.0,
        ),
        backend(
            *("replica-2", "replica", "too_old"),
            verdict="its data is older than the bound",
            lag=14.2,
            lag_history=[0.1, math.nan, 14.2],
        ),
        node("router-1", "router", is_self=True),
        node("replica-3", "replica", "dead"),
        nodes_left_out=3,
        summary="reads go to replica-1; writes go to metastore-1",
        findings=[
            pb.Finding(
                severity="warning",
                text="replica-2 replays 14 s behind; bound 10 s; reads go to replica-1",
                advice="look at its database",
                since=NOW - 21.0,
            )
        ],
        routes=[
            pb.RouteCalls(
                route="replica", per_second=120.0, failed_per_second=0.5, history=[0.0, 120.0]
            )
        ],
        conditions=[pb.Condition(name="backend_serves")],
        members=pb.MemberCounts(live=4, ready=3, dead=1),
        protection=pb.Protection(fallbacks=1, fallback_limit=32, retry_budget=9.5),
        max_lag=10.0,
    )
    assert render(made) == EXPECTED


def test_a_node_that_passes_nothing_on_has_no_columns_for_it() -> None:
    made = status(
        node("metastore-1", "primary", is_self=True),
        node("replica-1", "replica", lag=5.0, lag_is_coarse=True),
        node("replica-2", "replica"),
        role="metastore",
        summary="this node serves",
    )
    text = render(made)
    assert "nothing is wrong" in text
    assert "  replica-1    replica  ready  <= 5 s   -\n" in text
    assert "  replica-2    replica  ready  unknown  -\n" in text
    assert "verdict" not in text
    assert "fallback" not in text
    assert text.endswith("gossip: off")


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([], "-"),
        ([0.0, 0.5, 0.99, 1.0], "▁▅██"),
        ([math.nan, 2.0, 1.0], "·█▅"),
        ([0.0] * 100 + [9.0], "▁" * 20 + "█"),
    ],
)
def test_plots(values: list[float], expected: str) -> None:
    assert plot(values) == expected
