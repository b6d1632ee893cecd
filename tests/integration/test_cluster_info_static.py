"""Nodes that do not gossip tell who the primary is: they ask those that `proxy.primary` names."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import AsyncExitStack

import grpc
import pytest

from proxy.config import NodeConfig
from proxy.demo.postgres_host import free_port
from proxy.roles import Role
from tests.support.cluster_info import ask, refusal_of, refused, told
from tests.support.fake_node import FakeNode
from tests.support.members import member_config
from tests.support.nodes import address, running
from tests.support.postgres import Scratch
from tests.support.routers import routing

OFF = {"gossip": False}


def router_of(*primary: str, node_id: str = "x", port: int | None = None) -> NodeConfig:
    named = {**OFF, "primary": primary}
    ports = {} if port is None else {"grpc_listen_port": port}
    return member_config(Role.ROUTER, "", node_id, proxy=named, **ports)


@pytest.fixture
def gone() -> str:
    return f"127.0.0.1:{free_port()}"


@pytest.fixture
def black_hole() -> Iterator[str]:
    """Return an address that takes connections and never says anything."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield f"127.0.0.1:{listening.getsockname()[1]}"


async def test_all_name_the_metastore_with_every_endpoint(
    migrated_database: Scratch, gone: str, black_hole: str
) -> None:
    config = member_config(Role.METASTORE, migrated_database.primary_uri, "m", proxy=OFF)
    async with AsyncExitStack() as stack:
        metastore = await stack.enter_async_context(running(config))
        port = config.grpc_listen_port
        # A replica that passes nothing on has no client that knows the name's addresses.
        named = {**OFF, "primary": (f"dns:///localhost:{port}", gone)}
        uri = migrated_database.standby_uri
        replica = await stack.enter_async_context(
            running(member_config(Role.READ_REPLICA, uri, "r", proxy=named), wait=False)
        )
        router = await stack.enter_async_context(
            routing(router_of(gone, black_hole, address(metastore)), wait=False)
        )
        plain = await stack.enter_async_context(
            routing(router_of(address(metastore), node_id="y"), wait=False)
        )
        own = await ask(metastore, own_only=True)
        (primary,) = own.primaries
        assert (primary.node_id, primary.role, primary.ready) == ("m", "metastore", True)
        assert primary.grpc_address == address(metastore)
        assert primary.rest_address == f"127.0.0.1:{config.rest_listen_port}"
        assert not primary.HasField("gossip_address")
        for node, node_id in ((metastore, "m"), (replica, "r"), (router, "x"), (plain, "y")):
            answer = await ask(node, timeout=5.0)
            assert (answer.source, answer.cluster_id) == ("static", "cluster-a")
            assert answer.answered_by == node_id
            assert list(answer.primaries) == [primary]
        for node in (replica, router):
            assert "is no primary" in await refusal_of(node, own_only=True)
        refusal = await refused(replica, "CreateIndex")
        assert told(refusal)["x-metastore-primary"] == f"localhost:{port}"
        metastore.readiness.fail("database_connected", "a test says so")
        for node in (metastore, plain):
            assert "`m`: it says that it is not ready" in await refusal_of(node)


async def test_without_a_configured_primary_there_is_no_answer(migrated_database: Scratch) -> None:
    config = member_config(Role.READ_REPLICA, migrated_database.standby_uri, "r", proxy=OFF)
    async with running(config) as node:
        assert "gossip is off (`proxy.gossip`)" in await refusal_of(node)
        refusal = await refused(node, "CreateIndex")
        assert refusal.code() is grpc.StatusCode.PERMISSION_DENIED
        assert "x-metastore-primary" not in told(refusal)


async def test_each_primary_is_told_with_what_keeps_it_from_being_named(gone: str) -> None:
    async with (
        FakeNode("quickwit-1") as quickwit,
        routing(router_of(gone, quickwit.address), wait=False) as router,
    ):
        why = await refusal_of(router)
        assert f"{gone}: it does not answer: failed to connect" in why
        assert f"{quickwit.address}: its endpoints cannot be read: it is no node of this" in why


async def test_a_write_that_finds_no_primary_names_the_one_that_is_configured(gone: str) -> None:
    async with routing(router_of(gone), wait=False) as router:
        refusal = await refused(router, "CreateIndex")
        assert refusal.code() is grpc.StatusCode.UNAVAILABLE
        assert told(refusal)["x-metastore-primary"] == gone


async def test_routers_that_name_each_other_do_not_ask_in_a_circle() -> None:
    ports = free_port(), free_port()
    first, second = (f"127.0.0.1:{port}" for port in ports)
    async with (
        routing(router_of(second, node_id="x", port=ports[0]), wait=False) as x,
        routing(router_of(first, node_id="y", port=ports[1]), wait=False) as y,
    ):
        for node, other, node_id in ((x, second, "y"), (y, first, "x")):
            assert await refusal_of(node) == (
                f"service unavailable: no primary can be named ({other}: service unavailable: "
                f"node `{node_id}` is no primary: name `metastore` nodes in `proxy.primary`)"
            )


async def test_who_asks_gets_the_reason_before_the_deadline(black_hole: str) -> None:
    async with routing(router_of(black_hole), wait=False) as router:
        # The error is the router's own: UNAVAILABLE, not the deadline of who asks.
        why = await refusal_of(router, timeout=3.0)
        assert f"{black_hole}: it does not answer: " in why


async def test_a_primary_of_another_cluster_is_not_named(migrated_database: Scratch) -> None:
    config = member_config(
        Role.METASTORE, migrated_database.primary_uri, "m", proxy=OFF, cluster_id="cluster-b"
    )
    async with (
        running(config) as metastore,
        routing(router_of(address(metastore)), wait=False) as router,
    ):
        why = await refusal_of(router)
        assert "it is of cluster `cluster-b`, and this node of `cluster-a`" in why
