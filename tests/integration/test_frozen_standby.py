"""A standby that is frozen behind a node in good health: it must cost no read."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace

import pytest

from proxy.client import RoutingClient
from proxy.config import NodeConfig
from proxy.demo.postgres import PostgresPair
from proxy.proto.metastore_proxy.v1 import proxy_pb2
from proxy.proto.quickwit import metastore_pb2 as pb
from proxy.roles import Role
from tests.support.fake_node import FakeNode, at
from tests.support.nodes import address, node_config, running
from tests.support.pairs import QuickPair
from tests.support.routers import Caller
from tests.support.splitting import query
from tests.support.waiting import until

DATABASE = "quickwit"
# Less than one attempt may take in which nothing tells of the standby's state.
DEADLINE = 4.0
# A session on a frozen server is given two seconds to end before it is cut.
PATIENT_DEADLINE = 6.0


@dataclass
class Setup:
    pair: PostgresPair
    primary: str
    replica: str
    forwarding: str


def _forwarding(config: NodeConfig, primary: str) -> NodeConfig:
    return replace(config, proxy=replace(config.proxy, forward=True, primary=(primary,)))


@pytest.fixture
async def setup() -> AsyncIterator[Setup]:
    """A primary's node, and on one standby a replica's node and one that passes on."""
    async with AsyncExitStack() as stack:
        pair = await stack.enter_async_context(QuickPair())
        await pair.create_database(DATABASE)
        config = node_config(Role.METASTORE, pair.primary_uri(DATABASE), node_id="primary-1")
        primary = await stack.enter_async_context(running(config))
        await pair.wait_caught_up()
        uri = pair.standby_uri(DATABASE)
        config = node_config(Role.READ_REPLICA, uri, node_id="replica-1")
        replica = await stack.enter_async_context(running(config))
        config = node_config(Role.READ_REPLICA, uri, node_id="replica-2")
        config = _forwarding(config, address(primary))
        forwarding = await stack.enter_async_context(running(config))
        await until(lambda: forwarding.readiness.serves_itself)
        # Sessions on a frozen server do not end before it goes on.
        stack.callback(pair.standby.resume)
        yield Setup(pair, address(primary), address(replica), address(forwarding))


async def test_reads_leave_a_frozen_standby_and_come_back(setup: Setup) -> None:
    async with RoutingClient([setup.primary], [setup.replica]) as client:
        await client.wait_until(lambda now: bool(now.serving_primaries and now.serving_replicas))

        async def unary(number: int) -> str:
            request = pb.ListIndexesMetadataRequest(index_id_patterns=["*", f"-hidden-{number}"])
            answer = await client.list_indexes_metadata(request, timeout=DEADLINE)
            return answer.served_by

        async def stream() -> str | None:
            splits = client.list_splits(query(), timeout=DEADLINE)
            assert [message async for message in splits] == []
            return splits.served_by

        assert await unary(0) == "replica-1"
        assert await stream() == "replica-1"
        setup.pair.standby.pause()
        served = await asyncio.gather(*(unary(number) for number in range(8)), stream(), stream())
        assert set(served) == {"primary-1"}
        assert not client.backends().serving_replicas
        setup.pair.standby.resume()
        await client.wait_until(lambda now: bool(now.serving_replicas))
        assert await unary(0) == "replica-1"


async def test_a_node_passes_on_what_its_frozen_standby_does_not_answer(setup: Setup) -> None:
    request = pb.ListIndexesMetadataRequest(index_id_patterns=["*"]).SerializeToString()
    async with Caller(setup.forwarding) as caller:
        _, facts = await caller.unary("ListIndexesMetadata", request)
        assert facts["x-metastore-served-by"] == "replica-2"
        setup.pair.standby.pause()
        _, facts = await caller.unary("ListIndexesMetadata", request, timeout=PATIENT_DEADLINE)
        assert facts["x-metastore-served-by"] == "primary-1"


@pytest.mark.parametrize(
    ("role", "serves"), [("metastore_read_replica", False), ("metastore_router", True), ("", True)]
)
async def test_only_a_replicas_node_must_reach_its_database_to_serve(
    role: str, serves: bool
) -> None:
    unreachable = at("", role=role, database_reachable=False)
    async with (
        FakeNode("p", position=at("0/1", in_recovery=False)) as primary,
        FakeNode("r", position=unreachable) as replica,
        RoutingClient([primary.address], [replica.address]) as client,
    ):
        await until(lambda: client.backends().serving_primaries and replica.asked > 1)
        assert bool(client.backends().serving_replicas) is serves


async def test_a_replica_that_answers_calls_is_kept_whatever_its_probe_says() -> None:
    position = at("0/1", role="metastore_read_replica")
    async with (
        FakeNode("p", position=at("0/1", in_recovery=False)) as primary,
        FakeNode("r", position=position) as replica,
        RoutingClient([primary.address], [replica.address]) as client,
    ):
        await client.wait_until(lambda now: bool(now.serving_primaries and now.serving_replicas))

        async def stuck() -> proxy_pb2.GetReplicationResponse:
            # A call is answered between each question and its answer.
            await client.index_metadata(pb.IndexMetadataRequest(index_id="i"))
            return await at("", role="metastore_read_replica", database_reachable=False)()

        asked, replica.position = replica.asked, stuck
        await until(lambda: replica.asked >= asked + 3)
        assert client.backends().serving_replicas
        assert not primary.calls
