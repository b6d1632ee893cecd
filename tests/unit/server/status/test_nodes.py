"""Members of the cluster and backends, each node once."""

from __future__ import annotations

from typing import Any

import pytest

from proxy.proto.metastore_proxy.v1 import status_pb2 as pb
from proxy.roles import Role
from proxy.routing.figures import BackendFigures, Figures
from proxy.routing.members import Backend, BackendRole, BackendState, Facts, Load
from proxy.server.status.cleaning import clean
from proxy.server.status.nodes import MOST, Myself, known_nodes
from tests.support.views import cluster, ours, quickwit

ROUTER = Myself("router-1", Role.ROUTER, is_ready=True, lag=None)


def one(address: str, role: BackendRole, reason: str = "eligible", **more: Any) -> BackendFigures:
    lag, load = more.pop("lag", None), more.pop("load", Load())
    known: dict[str, Any] = {"state": BackendState.SERVING, "since": 40.0, **more}
    return BackendFigures(Backend(address, role, **known), reason, lag, None, load)


def found(me: Myself, view: Any, *backends: BackendFigures) -> list[pb.StatusNode]:
    figures = Figures(backends, 10.0, 0, 32, None) if backends else None
    nodes, left_out = known_nodes(me, view, figures, unix=lambda when: 1000.0 + when)
    assert left_out == 0
    return list(nodes)


def test_what_gossip_tells_and_what_calls_show_is_one_node() -> None:
    view = cluster(
        ours("router-1", "metastore_router", host="10.0.0.2", is_self=True),
        ours("replica-1", "metastore_read_replica", host="10.0.0.6", lag_at_most="5"),
        ours("metastore-1", "metastore", host="10.0.0.5", availability_zone="zone-a"),
        quickwit("indexer-1", "indexer,searcher"),
    )
    nodes = found(
        ROUTER,
        view,
        one("10.0.0.5:7281", BackendRole.PRIMARY),
        one("10.0.0.6:7281", BackendRole.REPLICA, "too_old", lag=4.2, load=Load(3, 0.0021)),
        one("10.0.0.8:7281", BackendRole.REPLICA, "down", state=BackendState.DOWN),
    )
    # By kind and name, which for one that has none yet is its address.
    primary, stranger, replica, router, other = nodes
    assert (primary.name, primary.kind, primary.state) == ("metastore-1", "primary", "serving")
    assert (primary.zone, primary.verdict, primary.since) == ("zone-a", "takes writes", 1040.0)
    assert not primary.HasField("lag")
    assert (stranger.name, stranger.HasField("lag")) == ("10.0.0.8:7281", False)
    assert (replica.name, replica.lag, replica.lag_is_coarse) == ("replica-1", 4.2, False)
    assert (replica.eligible, replica.reason, replica.in_flight) == (False, "too_old", 3)
    assert replica.verdict == "its data is older than the bound"
    assert (stranger.state, stranger.reason, stranger.rest_address) == ("down", "down", "")
    assert (router.name, router.kind, router.is_self, router.state) == (
        *("router-1", "router", True),
        "ready",
    )
    assert not router.HasField("eligible")
    assert (other.name, other.kind, other.services) == ("indexer-1", "other", "indexer,searcher")


def test_a_backend_whose_member_has_another_address_is_known_by_its_name() -> None:
    view = cluster(ours("replica-1", "metastore_read_replica", host="10.0.0.6"))
    facts = Facts(node_id="replica-1")
    nodes = found(ROUTER, view, one("replica.local:7281", BackendRole.REPLICA, facts=facts))
    assert [(node.name, node.eligible) for node in nodes] == [("replica-1", True)]


def test_a_primary_in_recovery_is_no_primary() -> None:
    facts = Facts(in_recovery=True)
    (primary,) = found(ROUTER, None, one("a:1", BackendRole.PRIMARY, facts=facts))
    assert (primary.eligible, primary.reason) == (False, "standby")


def test_of_itself_a_node_knows_more_than_gossip_tells() -> None:
    me = Myself("replica-1", Role.READ_REPLICA, is_ready=False, lag=0.2137)
    view = cluster(
        ours("replica-1", "metastore_read_replica", is_self=True, lag_at_most="1"),
        ours("replica-2", "metastore_read_replica", lag_at_most="1"),
        ours("replica-3", "metastore_read_replica", is_live=False, lag_at_most="1"),
    )
    mine, other, dead = found(me, view)
    assert (mine.state, mine.lag, mine.lag_is_coarse) == ("not_ready", 0.214, False)
    assert (other.state, other.lag, other.lag_is_coarse) == ("ready", 1.0, True)
    assert (dead.state, dead.HasField("lag")) == ("dead", False)


def test_there_are_never_too_many() -> None:
    view = cluster(*[quickwit(f"indexer-{number:03}", "indexer") for number in range(MOST + 7)])
    nodes, left_out = known_nodes(ROUTER, view, None, unix=float)
    assert (len(nodes), left_out) == (100, 7)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (None, ""),
        ("node-ä", "node-ä"),
        ("\x1b[2Jgone\n", "\ufffd[2Jgone\ufffd"),
        ("\u202eright to left", "\ufffdright to left"),
        ("x" * 200, "x" * 127 + "…"),
    ],
)
def test_foreign_texts_are_cleaned(text: str | None, expected: str) -> None:
    assert clean(text) == expected
