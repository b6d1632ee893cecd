"""Nodes as members of a cluster: what they tell, when they are ready, how they leave."""

from __future__ import annotations

import asyncio
import socket
from dataclasses import replace

import grpc
import pytest

from proxy import errors
from proxy.demo.postgres import PostgresPair
from proxy.gossip import keys
from proxy.node import Node
from proxy.proto.quickwit import cluster_pb2, metastore_pb2
from proxy.roles import Role
from proxy.router_node import RouterNode
from tests.support.members import member_config, open_nodes, ready, seed_of, seen
from tests.support.nodes import address, running
from tests.support.postgres import Scratch
from tests.support.routers import Caller, routing
from tests.support.waiting import until

FETCH = "/quickwit.cluster.ClusterService/FetchClusterState"


async def fetch(node: Node, cluster_id: str) -> cluster_pb2.FetchClusterStateResponse:
    async with grpc.aio.insecure_channel(address(node)) as channel:
        answer = await channel.unary_unary(
            FETCH,
            cluster_pb2.FetchClusterStateRequest.SerializeToString,
            cluster_pb2.FetchClusterStateResponse.FromString,
        )(cluster_pb2.FetchClusterStateRequest(cluster_id=cluster_id), timeout=10)
    assert isinstance(answer, cluster_pb2.FetchClusterStateResponse)
    return answer


async def test_nodes_of_every_role_find_each_other_by_one_seed(clean: Scratch) -> None:
    primary = member_config(Role.METASTORE, clean.primary_uri, "m", availability_zone="zone-a")
    async with running(primary) as m:
        replica = member_config(Role.READ_REPLICA, clean.standby_uri, "r", seed_of(m))
        router = member_config(Role.ROUTER, "", "x", seed_of(m))
        router = replace(
            router, proxy=replace(router.proxy, primary=(address(m),), discovery="static")
        )
        async with running(replica) as r, routing(router) as x:
            await until(lambda: all(ready(one) == ["m", "r", "x"] for one in (m, r, x)))
            for by in (m, r, x):
                for node, services in ((m, "metastore"), (r, "metastore_read_replica")):
                    member = seen(by, node.config.node_id)
                    assert member.services == {services}
                    assert member.grpc_address == address(node)
                    assert member.keys[keys.ROLE] == services
                    rest = f"127.0.0.1:{node.config.rest_listen_port}"
                    assert member.keys[keys.REST_ADVERTISE_ADDR] == rest
                member = seen(by, "x")
                assert member.services == {"metastore_read_replica"}
                assert member.keys[keys.ROLE] == "metastore_router"
                assert member.availability_zone is None
                assert seen(by, "m").availability_zone == "zone-a"
            assert (m.membership.alarms, r.membership.alarms, x.membership.alarms) == ((), (), ())


@pytest.mark.parametrize(
    ("advertise_as", "services"),
    [(("metastore",), {"metastore"}), ((), set())],
)
async def test_a_router_is_to_others_what_it_is_told_to_be(
    advertise_as: tuple[str, ...], services: set[str]
) -> None:
    config = member_config(Role.ROUTER, "", "x")
    router = replace(config.proxy.router, advertise_as=advertise_as)
    node = RouterNode(replace(config, proxy=replace(config.proxy, router=router)))
    await node.open()
    try:
        me = seen(node, "x")
        assert me.services == services
        # It is not ready without a backend, and the others know.
        assert me.keys["readiness"] == "NOT_READY"
    finally:
        await node.close()


async def test_readiness_is_told_at_once_and_first_when_a_node_drains(
    clean: Scratch,
) -> None:
    first = member_config(Role.METASTORE, clean.primary_uri, "m")
    async with running(first) as m:
        second = member_config(
            # So rare that only what is sent at once can arrive in time.
            *(Role.READ_REPLICA, clean.standby_uri, "r", seed_of(m)),
            gossip_interval=3.0,
        )
        r = Node(second)
        await r.open()
        try:
            await until(lambda: ready(m) == ["m", "r"])
            r.readiness.fail("database_connected", "a test says so")
            await until(lambda: ready(m) == ["m"], timeout=2.5)
            r.readiness.hold("database_connected")
            await until(lambda: ready(m) == ["m", "r"])
            closing = asyncio.create_task(r.close())
            await until(lambda: ready(m) == ["m"], timeout=2.5)
            # The others know, and calls of those that do not are still served.
            async with Caller(address(r)) as caller:
                await caller.unary("ListIndexTemplates")
            assert seen(m, "r").is_live
            assert not closing.done()
            # A second signal cuts that short.
            r.drain.hurry()
            await asyncio.wait_for(closing, 2.5)
        finally:
            await r.close()


async def test_a_node_without_peers_does_not_wait_for_them(clean: Scratch) -> None:
    config = member_config(Role.METASTORE, clean.primary_uri, "m", gossip_interval=60.0)
    async with running(config) as m:
        await asyncio.wait_for(m.close(), 10)


async def test_a_replica_tells_how_far_it_is_behind(
    pg: PostgresPair, clean: Scratch, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("proxy.membership.CALM", 0.5)
    first = member_config(Role.METASTORE, clean.primary_uri, "m")

    def told() -> str | None:
        return seen(m, "r").keys.get(keys.LAG_AT_MOST) if "r" in ready(m) else None

    async with running(first) as m:
        second = member_config(Role.READ_REPLICA, clean.standby_uri, "r", seed_of(m))
        async with running(second):
            await until(lambda: told() == "1")
            await pg.pause_replay()
            try:
                await until(lambda: told() == "2")
            finally:
                await pg.resume_replay()
            await until(lambda: told() == "1")
        assert keys.LAG_AT_MOST not in seen(m, "m").keys


async def test_the_whole_state_is_handed_to_a_node_that_starts(clean: Scratch) -> None:
    uris = (clean.primary_uri, clean.standby_uri)
    async with open_nodes(member_config(Role.METASTORE, uris[0], "m")) as [m]:
        second = member_config(Role.READ_REPLICA, uris[1], "r", seed_of(m))
        async with running(second) as r:
            await until(lambda: ready(m) == ready(r) == ["m", "r"])
            for asked in (m, r):
                answer = await fetch(asked, "cluster-a")
                assert answer.cluster_id == "cluster-a"
                assert [one.chitchat_id.node_id for one in answer.node_states] == ["m", "r"]
                for state, node in zip(answer.node_states, (m, r), strict=True):
                    who = state.chitchat_id
                    assert who.generation_id == node.membership.generation
                    assert (who.gossip_advertise_addr,) == seed_of(node)
                    told = {one.key: one.value for one in state.key_values}
                    assert told["grpc_advertise_addr"] == address(node)
                    assert told["readiness"] == "READY"
                    versions = [one.version for one in state.key_values]
                    assert versions == sorted(set(versions))
                    assert state.max_version == versions[-1]
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await fetch(m, "cluster-b")
            assert caught.value.code() is grpc.StatusCode.INTERNAL
            assert caught.value.details() == "internal error: wrong cluster"
            facts = dict(caught.value.trailing_metadata() or ())
            assert facts["qw-error-bin"] == b'{"internal":"wrong cluster"}'


async def test_without_gossip_a_node_knows_itself_and_opens_no_port(
    clean: Scratch,
) -> None:
    config = member_config(Role.METASTORE, clean.primary_uri, "m", proxy={"gossip": False})
    async with running(config) as m:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as free:
            free.bind(("127.0.0.1", config.gossip_listen_port))
        assert ready(m) == ["m"]
        assert seed_of(m) == ("",)
        m.readiness.fail("probe_answers", "a test says so")
        assert ready(m) == []
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await fetch(m, "cluster-a")
        assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED


async def test_the_system_may_choose_every_port() -> None:
    config = member_config(
        Role.ROUTER, "", "x", rest_listen_port=0, grpc_listen_port=0, gossip_listen_port=0
    )
    node = RouterNode(config)
    await node.open()
    try:
        endpoints = node.membership.endpoints
        assert endpoints is not None
        ports = {text.rpartition(":")[2] for text in (endpoints.grpc, endpoints.rest)}
        assert len(ports | {"0"}) == 3
        async with Caller(endpoints.grpc) as caller:
            with pytest.raises(grpc.aio.AioRpcError, match="UNAVAILABLE"):
                await caller.unary("ListIndexTemplates", timeout=5)
    finally:
        await node.close()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"advertise_address": "no-such-host.invalid"}, "`advertise_address` 'no-such-host"),
        (
            {"listen_address": "0.0.0.0", "advertise_address": None},
            "set `advertise_address` (or QW_ADVERTISE_ADDRESS) to the address",
        ),
        ({"gossip_listen_port": -1}, "is another process using `gossip_listen_port`"),
    ],
)
async def test_a_node_that_cannot_say_where_it_is_does_not_start(
    monkeypatch: pytest.MonkeyPatch, changes: dict[str, object], message: str
) -> None:
    monkeypatch.setattr("proxy.gossip.addresses.interfaces", lambda: ())
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as taken:
        taken.bind(("127.0.0.1", 0))
        if "gossip_listen_port" in changes:
            changes = {"gossip_listen_port": taken.getsockname()[1]}
        node = RouterNode(member_config(Role.ROUTER, "", "x", **changes))
        with pytest.raises(errors.Io) as caught:
            await node.open()
        await node.close()
    assert message in str(caught.value)


async def test_a_name_to_advertise_is_told_as_an_address(clean: Scratch) -> None:
    config = member_config(*(Role.METASTORE, clean.primary_uri, "m"), advertise_address="localhost")
    async with running(config) as m, Caller(address(m)) as caller:
        assert m.membership.endpoints is not None
        assert m.membership.endpoints.grpc == f"127.0.0.1:{config.grpc_listen_port}"
        await caller.unary(
            "ListIndexTemplates", metastore_pb2.ListIndexTemplatesRequest().SerializeToString()
        )
