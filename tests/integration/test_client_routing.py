"""Where calls go: replicas, the primary, and the way back, with real gRPC servers."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import pytest

from proxy import errors
from proxy.client import (
    BackendChanged,
    CallFellBack,
    CallFinished,
    CallRouted,
    ClientOptions,
    Event,
    MetastoreReader,
    MetastoreWriter,
    RoutingClient,
)
from proxy.proto.quickwit import metastore_pb2 as pb
from proxy.routing.catalogue import RPCS
from proxy.routing.members import BackendState, Snapshot
from tests.support.fake_node import FakeNode
from tests.support.waiting import until

REQUEST = pb.IndexMetadataRequest(index_id="hdfs-logs")


@dataclass
class Nodes:
    """A primary and two replicas."""

    primary: FakeNode
    one: FakeNode
    two: FakeNode

    def client(self, **arguments: Any) -> RoutingClient:
        replicas = [self.one.address, self.two.address]
        return RoutingClient([self.primary.address], replicas, **arguments)


@pytest.fixture
async def nodes() -> AsyncIterator[Nodes]:
    async with (
        FakeNode("p", role="metastore", lag=None) as primary,
        FakeNode("one") as one,
        FakeNode("two") as two,
    ):
        yield Nodes(primary, one, two)


def serving(client: RoutingClient) -> set[str]:
    now = client.backends()
    return {b.address for b in (*now.serving_primaries, *now.serving_replicas)}


async def all_serve(client: RoutingClient) -> None:
    await client.wait_until(lambda now: all(b.is_serving for b in now.backends))


async def serves(client: RoutingClient, node: FakeNode, expected: bool = True) -> None:
    def settled(now: Snapshot) -> bool:
        backend = now.get(node.address)
        return backend is not None and backend.is_serving is expected

    await client.wait_until(settled)


async def served(client: RoutingClient, count: int = 40) -> Counter[tuple[str, str]]:
    answers = [await client.index_metadata(REQUEST) for _ in range(count)]
    return Counter((answer.served_by, answer.route) for answer in answers)


async def test_stale_tolerant_reads_are_spread_over_the_replicas(nodes: Nodes) -> None:
    async with nodes.client() as client:
        await all_serve(client)
        spread = await served(client, 100)
    assert set(spread) == {("one", "replica"), ("two", "replica")}
    assert min(spread.values()) >= 20
    assert nodes.primary.calls.total() == 0


async def test_the_first_read_waits_for_a_replica_to_settle(nodes: Nodes) -> None:
    async with nodes.client() as client:
        assert (await client.index_metadata(REQUEST)).route == "replica"


async def test_answers_say_who_served_them(nodes: Nodes) -> None:
    await nodes.two.stop()
    async with nodes.client(allow_writes=True) as client:
        await serves(client, nodes.one)
        read = await client.index_metadata(REQUEST)
        write = await client.create_index(pb.CreateIndexRequest())
    assert (read.served_by, read.role, read.route) == ("one", "metastore_read_replica", "replica")
    assert (read.lag, read.backend) == (0.25, nodes.one.address)
    assert (write.served_by, write.role, write.route) == ("p", "metastore", "primary")
    assert (write.lag, write.backend) == (None, nodes.primary.address)
    assert isinstance(read.response, pb.IndexMetadataResponse)


async def test_a_node_that_does_not_say_who_it_is_is_named_by_its_address() -> None:
    async with FakeNode("q", says_who=False) as node, RoutingClient([node.address]) as client:
        answer = await client.index_metadata(REQUEST)
    assert answer.served_by == answer.backend == node.address
    assert (answer.role, answer.route, answer.lag) == ("primary", "fallback", None)


@pytest.mark.parametrize("name", [rpc.name for rpc in RPCS.values() if not rpc.is_streaming])
async def test_every_rpc_goes_where_the_catalogue_says(nodes: Nodes, name: str) -> None:
    method = pb.DESCRIPTOR.services_by_name["MetastoreService"].methods_by_name[name]
    request = getattr(pb, method.input_type.name)()
    async with nodes.client(allow_writes=True) as client:
        await all_serve(client)
        typed = getattr(client, RPCS[name].metric_name)
        answer = await typed(request)
    assert answer.route == ("replica" if RPCS[name].is_stale_tolerant else "primary")
    assert type(answer.response).DESCRIPTOR is method.output_type
    assert sum((nodes.primary.calls, nodes.one.calls, nodes.two.calls), Counter()) == {name: 1}


async def test_list_splits_goes_to_a_replica(nodes: Nodes) -> None:
    async with nodes.client() as client:
        await all_serve(client)
        stream = client.list_splits(pb.ListSplitsRequest(query_json="{}"))
        assert [message async for message in stream] == []
    assert stream.route == "replica"
    assert stream.served_by in {"one", "two"}
    assert stream.lag == 0.25


@pytest.mark.parametrize("value", ["true", " TRUE "])
async def test_a_caller_may_let_a_replica_serve_a_fresh_read(nodes: Nodes, value: str) -> None:
    async with nodes.client() as client:
        await all_serve(client)
        answer = await client.list_index_stats(
            pb.ListIndexStatsRequest(), metadata=[("x-metastore-allow-replica", value.strip())]
        )
        assert answer.route == "replica"
        with pytest.raises(errors.InvalidArgument, match="x-metastore-allow-replica"):
            await client.list_index_stats(
                pb.ListIndexStatsRequest(), metadata=[("x-metastore-allow-replica", "yes")]
            )


async def test_metadata_of_the_caller_reaches_the_node(nodes: Nodes) -> None:
    async with nodes.client() as client:
        await client.list_shards(pb.ListShardsRequest(), metadata=[("traceparent", "00-1-2-03")])
    assert nodes.primary.metadata[0]["traceparent"] == "00-1-2-03"


async def test_reads_go_on_through_the_loss_and_return_of_every_replica(nodes: Nodes) -> None:
    async with nodes.client() as client:
        await all_serve(client)
        await nodes.one.stop()
        assert set(await served(client)) == {("two", "replica")}
        await nodes.two.stop()
        assert set(await served(client)) == {("p", "fallback")}
        await nodes.one.start()
        await serves(client, nodes.one)
        assert set(await served(client)) == {("one", "replica")}


async def test_a_replica_that_says_not_serving_is_left_at_once_and_taken_back(nodes: Nodes) -> None:
    async with nodes.client() as client:
        await all_serve(client)
        await nodes.one.show(False)
        await serves(client, nodes.one, expected=False)
        found = client.backends().get(nodes.one.address)
        assert found is not None
        assert found.state is BackendState.NOT_SERVING
        assert set(await served(client)) == {("two", "replica")}
        await nodes.one.show(True)
        await serves(client, nodes.one)
        assert ("one", "replica") in await served(client)


async def test_a_slow_replica_does_not_get_everything(nodes: Nodes) -> None:
    gate = asyncio.Event()

    async def slow(_name: str, _raw: bytes, _context: object) -> bytes:
        await gate.wait()
        return b""

    nodes.one.unary = slow
    async with nodes.client(options=ClientOptions(share_reads=False)) as client:
        await all_serve(client)
        # Each caller makes its next call when its last one is answered.
        stuck: set[asyncio.Task[Counter[tuple[str, str]]]] = set()
        callers = [asyncio.create_task(served(client, 50)) for _ in range(4)]
        await until(lambda: nodes.two.calls.total() >= 50)
        stuck = {caller for caller in callers if not caller.done()}
        assert nodes.one.calls.total() <= 4
        assert stuck
        gate.set()
        await asyncio.gather(*callers)


async def test_two_metastore_nodes_share_the_primary_s_calls(nodes: Nodes) -> None:
    async with RoutingClient([nodes.one.address, nodes.two.address], allow_writes=True) as client:
        await all_serve(client)
        answers = [await client.create_index(pb.CreateIndexRequest()) for _ in range(40)]
        assert {answer.served_by for answer in answers} == {"one", "two"}
        await nodes.one.stop()
        await serves(client, nodes.one, expected=False)
        answers = [await client.create_index(pb.CreateIndexRequest()) for _ in range(10)]
        assert {answer.served_by for answer in answers} == {"two"}


async def test_a_backend_without_a_health_service_serves_while_connected() -> None:
    async with FakeNode("q", has_health=False) as node, RoutingClient([], [node.address]) as client:
        await client.wait_ready()
        assert (await client.index_metadata(REQUEST)).route == "replica"
        await node.stop()
        await serves(client, node, expected=False)
        await node.start()
        await serves(client, node)
        assert (await client.index_metadata(REQUEST)).served_by == "q"


async def test_writes_are_refused_unless_asked_for(nodes: Nodes) -> None:
    async with nodes.client() as client:
        with pytest.raises(errors.Forbidden, match="allow_writes=True"):
            await client.create_index(pb.CreateIndexRequest())
        with pytest.raises(errors.Forbidden):
            await client.get_cluster_identity(pb.GetClusterIdentityRequest())
    assert nodes.primary.calls.total() == 0


def test_the_reader_has_the_reads_and_nothing_else() -> None:
    reader = RoutingClient(["p:7281"], allow_writes=True).reader
    reads = {rpc.metric_name for rpc in RPCS.values() if rpc.is_read}
    assert len(reads) == 14
    assert {name for name in dir(reader) if not name.startswith("_")} == reads
    assert type(reader) is MetastoreReader
    all_methods = {name for name in dir(MetastoreWriter) if not name.startswith("_")}
    assert all_methods == {rpc.metric_name for rpc in RPCS.values()}


async def test_the_application_hears_of_everything(nodes: Nodes) -> None:
    events: list[Event] = []
    async with nodes.client(listener=events.append) as client:
        await all_serve(client)
        await client.index_metadata(REQUEST)
        await nodes.one.stop()
        await nodes.two.stop()
        await serves(client, nodes.one, expected=False)
        await serves(client, nodes.two, expected=False)
        await client.index_metadata(REQUEST)
    changes = [
        (e.before, e.after)
        for e in events
        if isinstance(e, BackendChanged) and e.address == nodes.one.address
    ]
    assert changes == [
        (None, BackendState.CONNECTING),
        (BackendState.CONNECTING, BackendState.SERVING),
        (BackendState.SERVING, BackendState.DOWN),
    ]
    assert [e.route.value for e in events if isinstance(e, CallRouted)] == ["replica", "fallback"]
    assert [e.backend for e in events if isinstance(e, CallFellBack)] == [nodes.primary.address]
    assert [e.code.name for e in events if isinstance(e, CallFinished)] == ["OK", "OK"]


async def test_a_listener_that_fails_does_not_fail_the_call(
    nodes: Nodes, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(_event: Event) -> None:
        raise LookupError("from the listener")

    async with nodes.client(listener=broken) as client:
        await client.index_metadata(REQUEST)
    assert "from the listener" in caplog.text


async def test_open_and_close_are_idempotent_and_leave_nothing(nodes: Nodes) -> None:
    before = asyncio.all_tasks()
    client = nodes.client(options=ClientOptions())
    with pytest.raises(errors.Unavailable, match="closed"):
        await client.index_metadata(REQUEST)
    for _ in range(2):
        await client.open()
        await client.open()
        assert (await client.index_metadata(REQUEST)).route == "replica"
        await client.close()
        await client.close()
        assert client.backends() == Snapshot()
    # The servers' own tasks for the calls end a moment later.
    await until(lambda: not {t for t in asyncio.all_tasks() - before if "client" in t.get_name()})


async def test_wait_ready_says_what_is_missing() -> None:
    async with RoutingClient(["127.0.0.1:1"], ["127.0.0.1:2"]) as client:
        with pytest.raises(errors.Unavailable, match=r"replica 127\.0\.0\.1:2 down"):
            await client.wait_until(
                lambda now: bool(now.serving_replicas or now.serving_primaries), timeout=0.3
            )
