"""A client whose backends are the members of a cluster, as they come, go and start again."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from proxy import errors
from proxy.client import BackendChanged, ClientOptions, Event, RoutingClient
from proxy.gossip.view import MemberView
from proxy.joining import ClusterSource
from proxy.proto.quickwit import metastore_pb2 as pb
from proxy.routing.members import BackendState
from tests.support.fake_node import FakeNode, at
from tests.support.views import ScriptedCluster, ours
from tests.support.waiting import until

REQUEST = pb.IndexMetadataRequest(index_id="hdfs-logs")
OPTIONS = ClientOptions(freshness_interval=0.05)


def member(node: FakeNode, role: str = "metastore_read_replica", **values: Any) -> MemberView:
    return ours(node.name, role, grpc_advertise_addr=node.address, **values)


@pytest.fixture
async def primary() -> AsyncIterator[FakeNode]:
    async with FakeNode("primary-1", role="metastore", lag=None) as node:
        yield node


@pytest.fixture
async def replicas() -> AsyncIterator[list[FakeNode]]:
    async with FakeNode("replica-1") as first, FakeNode("replica-2") as second:
        yield [first, second]


def client_of(scripted: ScriptedCluster, *fixed: str, **more: Any) -> RoutingClient:
    more.setdefault("options", OPTIONS)
    return RoutingClient(fixed, members=ClusterSource(scripted), **more)


def addresses(client: RoutingClient) -> set[str]:
    return {backend.address for backend in client.backends().backends}


async def test_members_are_backends_as_long_as_they_are_live_and_ready(
    primary: FakeNode, replicas: list[FakeNode]
) -> None:
    first, second = replicas
    scripted = ScriptedCluster()
    async with client_of(scripted) as client:
        assert addresses(client) == set()
        everyone = [member(primary, "metastore"), member(first), member(second)]
        scripted.show(*everyone)
        await client.wait_until(lambda now: len(now.serving_replicas) == 2)
        served = {(await client.index_metadata(REQUEST)).served_by for _ in range(40)}
        assert served == {"replica-1", "replica-2"}
        # The node still answers by TCP, but says that it is about to stop.
        scripted.show(everyone[0], member(first, readiness="NOT_READY"), everyone[2])
        assert addresses(client) == {primary.address, second.address}
        scripted.show(everyone[0], everyone[1], member(second, is_live=False))
        assert addresses(client) == {primary.address, first.address}
        assert (await client.index_metadata(REQUEST)).served_by == "replica-1"
        scripted.show(everyone[0])
        answer = await client.index_metadata(REQUEST)
        assert (answer.served_by, answer.route) == ("primary-1", "fallback")


async def test_fixed_targets_are_backends_besides(
    primary: FakeNode, replicas: list[FakeNode]
) -> None:
    scripted = ScriptedCluster(member(replicas[0]))
    async with client_of(scripted, primary.address) as client:
        await client.wait_until(
            lambda now: bool(now.serving_primaries) and bool(now.serving_replicas)
        )
        assert (await client.index_metadata(REQUEST)).served_by == "replica-1"
        # What gossip says of an address goes before the configuration.
        scripted.show(member(replicas[0]), member(primary))
        await client.wait_until(lambda now: len(now.serving_replicas) == 2)
        assert client.backends().primaries == ()


async def test_a_restarted_member_replaces_its_old_self_at_the_same_address(
    primary: FakeNode,
) -> None:
    events: list[Event] = []
    node = FakeNode("replica-1", position=at("0/100"))
    everyone = [member(primary, "metastore"), member(node)]
    # Long pauses: only a new connection finds the new process soon.
    slow = ClientOptions(reconnect_min=30.0, reconnect_max=60.0, freshness_interval=0.05)
    async with node:
        everyone[1] = member(node, generation=1)
        scripted = ScriptedCluster(*everyone)
        async with client_of(scripted, options=slow, listener=events.append) as client:
            await client.wait_until(lambda now: bool(now.serving_replicas))
            await client.index_metadata(REQUEST)
            old = client.backends().get(node.address)
            await node.stop()
            await client.wait_until(
                lambda now: [b.state for b in now.replicas()] == [BackendState.DOWN]
            )
            async with FakeNode("replica-1", port=node.port):
                scripted.show(everyone[0], member(node, generation=2))
                await client.wait_until(lambda now: bool(now.serving_replicas), 5.0)
                new = client.backends().get(node.address)
                assert (await client.index_metadata(REQUEST)).served_by == "replica-1"
                # Before the node stops, which the client may see before it is closed.
                changes = [
                    (event.before, event.after)
                    for event in events
                    if isinstance(event, BackendChanged) and event.address == node.address
                ]
    assert old is not None
    assert new is not None
    assert new.joined > old.joined
    # It is not one that came back from a failure, and gets its full share at once.
    assert new.returned is None
    assert changes[-3:] == [
        (BackendState.DOWN, None),
        (None, BackendState.CONNECTING),
        (BackendState.CONNECTING, BackendState.SERVING),
    ]


async def test_nothing_that_was_learned_of_the_old_self_counts_for_the_new(
    primary: FakeNode, replicas: list[FakeNode]
) -> None:
    node = replicas[0]
    primary.position, node.position = at("0/200", in_recovery=False), at("0/200")
    going, release = asyncio.Event(), asyncio.Event()

    async def linger(_name: str, _raw: bytes, _context: Any) -> bytes:
        going.set()
        await release.wait()
        return b""

    everyone = [member(primary, "metastore"), member(node, generation=1)]
    scripted = ScriptedCluster(*everyone)
    async with client_of(scripted) as client:
        await client.wait_until(
            lambda now: bool(now.serving_primaries) and bool(now.serving_replicas)
        )
        await until(lambda: client.lag(node.address) is not None)
        node.unary = linger
        call = asyncio.create_task(client.index_metadata(REQUEST))
        await going.wait()
        # Held back, so that nothing is known of the new self but what was left of the old.
        held = asyncio.Event()

        async def silent() -> Any:
            await held.wait()
            return await at("0/200")()

        node.position = silent
        scripted.show(everyone[0], member(node, generation=2))
        assert client.lag(node.address) is None
        backend = client.backends().get(node.address)
        assert backend is not None
        assert backend.state is BackendState.CONNECTING
        release.set()
        # What was under way may end, and says nothing of the new self.
        assert (await call).served_by == "replica-1"
        held.set()
        verdicts = {one.backend.address: one for one in client.explain("IndexMetadata").verdicts}
        assert verdicts[node.address].load.in_flight == 0
        assert verdicts[node.address].load.latency == 0.0


async def test_a_zone_from_gossip_holds_until_the_node_says_more(
    primary: FakeNode, replicas: list[FakeNode]
) -> None:
    first, second = replicas
    scripted = ScriptedCluster(
        member(primary, "metastore"),
        member(first, availability_zone="zone-a"),
        member(second, availability_zone="zone-b"),
    )
    options = ClientOptions(availability_zone="zone-b")
    async with client_of(scripted, options=options) as client:
        await client.wait_until(lambda now: len(now.serving_replicas) == 2)
        served = {(await client.index_metadata(REQUEST)).served_by for _ in range(20)}
    assert served == {"replica-2"}


@pytest.mark.parametrize("has_replica", [True, False])
async def test_the_primary_is_protected_once_there_is_a_replica(
    primary: FakeNode, replicas: list[FakeNode], has_replica: bool
) -> None:
    options = ClientOptions(fallback_concurrency=0, shed_timeout=0.0)
    everyone = [member(primary, "metastore"), *([member(replicas[0])] if has_replica else [])]
    scripted = ScriptedCluster(*everyone)
    async with client_of(scripted, options=options) as client:
        await client.wait_until(lambda now: bool(now.serving_primaries))
        scripted.show(everyone[0])
        if has_replica:
            with pytest.raises(errors.TooManyRequests):
                await client.index_metadata(REQUEST)
        else:
            assert (await client.index_metadata(REQUEST)).served_by == "primary-1"


async def test_a_closed_client_hears_no_more_and_can_be_opened_again(primary: FakeNode) -> None:
    scripted = ScriptedCluster(member(primary, "metastore"))
    client = client_of(scripted)
    for _ in range(2):
        async with client:
            await client.wait_ready()
            assert len(scripted.listeners) == 1
        assert scripted.listeners == []
