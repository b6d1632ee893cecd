"""Nodes that tell who the primary is, and send on those that need it."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any

import grpc
import pytest

from proxy.demo.postgres_host import free_port
from proxy.joining import GossipSource, gossip_client
from proxy.lifecycle import NodeLifecycle
from proxy.node import Node
from proxy.proto.quickwit import metastore_pb2 as pb
from proxy.roles import Role
from proxy.router_node import RouterNode
from tests.support.cluster_info import ask, ready_members, refusal_of, refused, told
from tests.support.members import member_config, seed_of
from tests.support.nodes import address, running
from tests.support.postgres import Scratch
from tests.support.routers import Caller, routing
from tests.support.waiting import until

LIST_INDEXES = pb.ListIndexesMetadataRequest(index_id_patterns=["*"]).SerializeToString()
BY_GOSSIP = {"discovery": "gossip", "primary": ()}


@dataclass
class Three:
    """A node of each role; the router knows the others by gossip alone."""

    metastore: Node
    replica: Node
    router: RouterNode

    @property
    def all(self) -> list[NodeLifecycle]:
        return [self.metastore, self.replica, self.router]

    async def converged(self, *expected: str) -> None:
        async def agree() -> bool:
            return all([await ready_members(node) == sorted(expected) for node in self.all])

        await until(agree)


@pytest.fixture
async def three(migrated_database: Scratch) -> AsyncIterator[Three]:
    async with AsyncExitStack() as stack:
        config = member_config(Role.METASTORE, migrated_database.primary_uri, "m")
        metastore = await stack.enter_async_context(running(config))
        seeds = seed_of(metastore)
        config = member_config(Role.READ_REPLICA, migrated_database.standby_uri, "r", seeds)
        replica = await stack.enter_async_context(running(config))
        config = member_config(Role.ROUTER, "", "x", seeds, proxy=BY_GOSSIP)
        router = await stack.enter_async_context(routing(config))
        found = Three(metastore, replica, router)
        await found.converged("m", "r", "x")
        yield found


async def test_every_node_answers_the_same(three: Three) -> None:
    await until(lambda: len(three.router.client.backends().backends) == 2)
    answers = [await ask(node) for node in three.all]
    assert [answer.answered_by for answer in answers] == ["m", "r", "x"]
    for answer in answers:
        answer.answered_by = ""
        # The step of the lag may change between two questions.
        for member in answer.members:
            member.ClearField("lag_at_most")
    assert answers[0] == answers[1] == answers[2]
    (primary,) = answers[0].primaries
    endpoints = three.metastore.membership.endpoints
    assert endpoints is not None
    assert primary.node_id == "m"
    assert primary.generation == three.metastore.membership.generation
    assert (primary.grpc_address, primary.rest_address, primary.gossip_address) == (
        endpoints.grpc,
        endpoints.rest,
        endpoints.gossip,
    )
    assert [(one.node_id, one.role, one.problem) for one in answers[0].members] == [
        ("r", "metastore_read_replica", ""),
        ("x", "metastore_router", ""),
    ]


async def test_a_write_or_a_strict_read_at_another_node_names_the_primary(three: Three) -> None:
    primary = address(three.metastore)
    refusals = [
        await refused(three.replica, "CreateIndex"),
        await refused(three.replica, "GetClusterIdentity"),
        await refused(
            *(three.replica, "ListIndexesMetadata", LIST_INDEXES),
            x_metastore_consistency="primary",
        ),
    ]
    for refusal in refusals:
        assert told(refusal)["x-metastore-primary"] == primary
        assert refusal.details().endswith(f"; send it to the primary at {primary}")
        assert f"the primary at {primary}" in told(refusal)["qw-error-bin"].decode()
    codes = [refusal.code() for refusal in refusals]
    assert codes == [grpc.StatusCode.PERMISSION_DENIED] * 2 + [grpc.StatusCode.UNAVAILABLE]
    # An error that has nothing to do with the primary does not name it.
    other = await refused(three.replica, "IndexMetadata", b"\xff")
    assert other.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert "x-metastore-primary" not in told(other)
    three.replica.readiness.fail("schema_complete", "a test says so")
    other = await refused(three.replica, "ListIndexesMetadata", LIST_INDEXES)
    assert other.code() is grpc.StatusCode.UNAVAILABLE
    assert "x-metastore-primary" not in told(other)


async def test_calls_go_through_the_router_to_whom_gossip_names(three: Three) -> None:
    async with Caller(address(three.router)) as caller:
        _, facts = await caller.unary("ListIndexesMetadata", LIST_INDEXES)
        assert facts["x-metastore-served-by"] == "r"
        _, facts = await caller.unary("GetClusterIdentity")
        assert facts["x-metastore-served-by"] == "m"
        three.replica.readiness.fail("database_connected", "a test says so")
        await until(lambda: len(three.router.client.backends().backends) == 1)
        _, facts = await caller.unary("ListIndexesMetadata", LIST_INDEXES)
        assert facts["x-metastore-served-by"] == "m"


async def test_a_replica_that_passes_calls_on_finds_the_others_by_gossip(
    three: Three, migrated_database: Scratch
) -> None:
    config = member_config(
        *(Role.READ_REPLICA, migrated_database.standby_uri, "r2", seed_of(three.router)),
        proxy={**BY_GOSSIP, "forward": True},
    )
    async with running(config) as node, Caller(address(node)) as caller:
        assert node._onward is not None
        # Ready it is as soon as others stand in for it.
        await until(lambda: node.readiness.serves_itself)
        backends = node._onward.backends
        # Neither the node itself nor the router.
        await until(
            lambda: (
                {one.address for one in backends().backends}
                == {address(three.metastore), address(three.replica)}
            )
        )
        _, facts = await caller.unary("ListIndexesMetadata", LIST_INDEXES)
        assert facts["x-metastore-served-by"] == "r2"
        _, facts = await caller.unary("ListIndexTemplates")
        assert facts["x-metastore-served-by"] == "m"
        node.readiness.fail("database_connected", "a test says so")
        _, facts = await caller.unary("ListIndexesMetadata", LIST_INDEXES)
        assert facts["x-metastore-served-by"] == "r"


async def test_a_primary_that_is_not_ready_or_gone_is_no_answer(three: Three) -> None:
    await three.converged("m", "r", "x")
    three.metastore.readiness.fail("database_connected", "a test says so")
    await three.converged()
    for node in three.all:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await ask(node)
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
        said = "no primary can be named (`m`: it says that it is not ready)"
        assert caught.value.details() == f"service unavailable: {said}"
        assert json.loads(told(caught.value)["qw-error-bin"]) == {"Unavailable": said}
    # Who asks for the primary is not sent to one that is not known to be there.
    for at in (three.replica, three.router):
        assert "x-metastore-primary" not in told(await refused(at, "CreateIndex"))
    await three.metastore.close()

    async def is_dead() -> bool:
        return "`m`: it gives no sign of life" in (await refusal_of(three.replica))

    await until(is_dead)


async def test_a_metastore_that_starts_again_replaces_its_old_self(
    three: Three, migrated_database: Scratch
) -> None:
    old = three.router.client.backends().primaries[0]
    config = three.metastore.config
    await three.metastore.close()
    async with running(config) as again:
        three.metastore = again
        await three.converged("m", "r", "x")
        (primary,) = (await ask(three.replica)).primaries
        assert primary.generation == again.membership.generation
        await until(lambda: bool(three.router.client.backends().serving_primaries))
        (new,) = three.router.client.backends().serving_primaries
        assert new.address == old.address
        assert new.joined > old.joined
        async with Caller(address(three.router)) as caller:
            _, facts = await caller.unary("GetClusterIdentity")
            assert facts["x-metastore-served-by"] == "m"


async def test_a_client_follows_the_cluster_without_being_a_member(three: Three) -> None:
    config = member_config(Role.ROUTER, "", "somebody", seed_of(three.replica), proxy=BY_GOSSIP)
    async with gossip_client(config) as client:
        await client.wait_until(
            lambda now: bool(now.serving_primaries) and bool(now.serving_replicas)
        )
        answer = await client.list_indexes_metadata(
            pb.ListIndexesMetadataRequest(index_id_patterns=["*"])
        )
        assert (answer.served_by, answer.route) == ("r", "replica")
        for node in three.all:
            view = node.membership.view
            assert view is not None
            assert [one.node_id for one in view.members] == ["m", "r", "x"]


async def test_a_client_of_a_cluster_that_is_not_there_has_no_backend() -> None:
    source = GossipSource([f"127.0.0.1:{free_port()}"], cluster_id="nowhere", interval=0.05)
    heard: list[Any] = []
    await source.open(heard.append)
    await source.open(heard.append)
    view = source.view
    assert view is not None
    assert [one.is_self for one in view.members] == [True]
    await source.close()
    await source.close()
    assert source.view is None
    assert heard == []
