"""Which members of a cluster are backends, and when a change of the view is one of them."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping
from dataclasses import replace

import pytest

from proxy.client import Member
from proxy.gossip.view import MemberView
from proxy.joining import ClusterSource, GossipSource, backends_of
from proxy.routing.members import BackendRole
from tests.support.views import ScriptedCluster, cluster, ours, quickwit


def test_a_client_of_a_cluster_loads_no_server_store_or_metrics() -> None:
    script = (
        "import sys, proxy.joining\n"
        "found = {'asyncpg', 'prometheus_client', 'aiohttp', 'proxy.store', 'proxy.server'}\n"
        "found &= set(sys.modules)\n"
        "sys.exit(f'loaded: {found}' if found else 0)\n"
    )
    ended = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False
    )
    assert ended.returncode == 0, ended.stderr


METASTORE = ours("metastore-1", "metastore", host="10.0.0.5", generation=7, availability_zone="a")
REPLICA = ours("replica-1", "metastore_read_replica", host="10.0.0.6", generation=8)
ROUTER = ours("router-1", "metastore_router", host="10.0.0.7")

PRIMARY_MEMBER = Member(BackendRole.PRIMARY, incarnation=7, node_id="metastore-1", zone="a")
REPLICA_MEMBER = Member(BackendRole.REPLICA, incarnation=8, node_id="replica-1")


def test_primaries_and_replicas_are_backends_with_what_is_known_of_them() -> None:
    assert backends_of(cluster(METASTORE, REPLICA)) == {
        "10.0.0.5:7281": PRIMARY_MEMBER,
        "10.0.0.6:7281": REPLICA_MEMBER,
    }


@pytest.mark.parametrize(
    "member",
    [
        ROUTER,
        ours("router-1", "metastore_router", enabled_services="metastore"),
        ours("router-1", "metastore_router", enabled_services="metastore,metastore_read_replica"),
        replace(REPLICA, is_self=True),
        ours("replica-1", "metastore_read_replica", is_live=False),
        ours("replica-1", "metastore_read_replica", readiness="NOT_READY"),
        ours("replica-1", "metastore_read_replica", readiness=None),
        ours("replica-1", "metastore_read_replica", grpc_advertise_addr="replica-1:7281"),
        ours("replica-1", "metastore_read_replica", enabled_services=None),
        quickwit("node-1", "searcher,indexer,control-plane,janitor"),
    ],
)
def test_a_router_this_node_itself_and_whoever_cannot_serve_is_none(member: MemberView) -> None:
    assert backends_of(cluster(member)) == {}


@pytest.mark.parametrize(
    ("services", "role"),
    [
        ("metastore", BackendRole.PRIMARY),
        ("metastore,metastore_read_replica", BackendRole.PRIMARY),
        ("metastore_read_replica", BackendRole.REPLICA),
        ("metastore-read-replica", BackendRole.REPLICA),
    ],
)
def test_quickwits_own_metastores_are_backends(services: str, role: BackendRole) -> None:
    found = backends_of(cluster(quickwit("node-1", services, generation=3)))
    assert found == {"10.0.0.9:7281": Member(role, incarnation=3, node_id="node-1")}


def test_of_two_members_at_one_address_the_later_start_holds() -> None:
    later = ours("a-later-pod", "metastore", host="10.0.0.6", generation=9)
    found = backends_of(cluster(later, REPLICA))
    assert found["10.0.0.6:7281"].node_id == "a-later-pod"


def test_at_the_nodes_own_address_there_is_nobody_else() -> None:
    me = replace(ours("router-2", "metastore_router", host="10.0.0.6"), is_self=True)
    assert backends_of(cluster(me, METASTORE, REPLICA)) == {"10.0.0.5:7281": PRIMARY_MEMBER}


@pytest.mark.parametrize(
    ("seeds", "interval", "message"),
    [
        ("10.0.0.5:7280", 1.0, "peer_seeds must be a list of addresses"),
        (["10.0.0.5:x"], 1.0, "needs a port from 1 to 65535"),
        (["10.0.0.5"], -1.0, "gossip interval -1.0 is not a positive number"),
    ],
)
def test_a_client_that_cannot_gossip_is_refused(
    seeds: list[str], interval: float, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        GossipSource(seeds, cluster_id="cluster-a", interval=interval)


class Told:
    """Takes note of what a source tells."""

    def __init__(self) -> None:
        self.all: list[dict[str, Member]] = []

    def __call__(self, members: Mapping[str, Member]) -> None:
        self.all.append(dict(members))


async def test_members_are_told_at_once_and_when_they_change_and_not_after_close() -> None:
    told, scripted = Told(), ScriptedCluster(METASTORE)
    source = ClusterSource(scripted)
    await source.open(told)
    await source.open(told)
    scripted.show(METASTORE, ROUTER)
    scripted.show(METASTORE, ROUTER, REPLICA)
    assert told.all == [
        {"10.0.0.5:7281": PRIMARY_MEMBER},
        {"10.0.0.5:7281": PRIMARY_MEMBER, "10.0.0.6:7281": REPLICA_MEMBER},
    ]
    await source.close()
    await source.close()
    scripted.show(METASTORE)
    assert len(told.all) == 2
    assert scripted.listeners == []


async def test_a_node_that_is_cut_off_keeps_what_it_knew() -> None:
    me = replace(ours("replica-2", "metastore_read_replica", host="10.0.0.8"), is_self=True)
    told, scripted = Told(), ScriptedCluster(me, METASTORE, REPLICA)
    await ClusterSource(scripted).open(told)
    scripted.show(me, METASTORE, replace(REPLICA, is_live=False, is_ready=False))
    assert told.all[-1] == {"10.0.0.5:7281": PRIMARY_MEMBER}
    scripted.show(me, *(replace(m, is_live=False, is_ready=False) for m in (METASTORE, REPLICA)))
    scripted.show(me)
    assert len(told.all) == 2
    # It hears of somebody again: what it sees holds, also that nobody serves.
    scripted.show(me, ROUTER)
    assert told.all[-1] == {}
