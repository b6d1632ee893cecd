"""Streams: held until complete, repeated from the start or not at all, never spliced."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest

from proxy import errors
from proxy.client import ClientOptions, RoutingClient
from proxy.proto.quickwit import metastore_pb2 as pb
from tests.support.fake_node import FakeNode, Stream, Tunnel, at, fail
from tests.support.waiting import until

REQUEST = pb.ListSplitsRequest(query_json="{}")


def message(text: str) -> bytes:
    return pb.ListSplitsResponse(splits_serialized_json=text).SerializeToString()


def sending(*texts: str, then: Any = None) -> Stream:
    """A stream of these messages that then awaits `then(context)`."""

    async def stream(_raw: bytes, context: Any) -> AsyncIterator[bytes]:
        for text in texts:
            yield message(text)
        if then is not None:
            await then(context)

    return stream


async def hang(_context: Any) -> None:
    await asyncio.Event().wait()


async def abort_db(context: Any) -> None:
    await fail(context, errors.Db("conflict with recovery"))


async def abort_unavailable(context: Any) -> None:
    await context.abort(grpc.StatusCode.UNAVAILABLE, "gone")


async def abort_json(context: Any) -> None:
    await fail(context, errors.JsonDeserializeError("SplitMetadata", "x"))


@pytest.fixture
async def primary() -> AsyncIterator[FakeNode]:
    async with FakeNode("p", role="metastore", lag=None) as node:
        node.stream = sending("p1", "p2")
        yield node


@pytest.fixture
async def replica() -> AsyncIterator[FakeNode]:
    async with FakeNode("r") as node:
        yield node


@pytest.fixture
async def client(primary: FakeNode, replica: FakeNode) -> AsyncIterator[RoutingClient]:
    options = ClientOptions(hold_bytes=100)
    async with RoutingClient([primary.address], [replica.address], options=options) as made:
        await made.wait_until(lambda now: all(b.is_serving for b in now.backends))
        yield made


def in_flight(client: RoutingClient) -> int:
    pool = client._pool
    return sum(load.in_flight for load in pool.loads.values()) if pool is not None else 0


async def texts(client: RoutingClient) -> list[str]:
    return [m.splits_serialized_json async for m in client.list_splits(REQUEST)]


async def test_a_whole_stream_comes_from_one_replica(
    client: RoutingClient, replica: FakeNode
) -> None:
    replica.stream = sending("r1", "x" * 200, "r3", "r4")
    stream = client.list_splits(REQUEST)
    assert stream.served_by is None
    first = await anext(stream)
    assert first.splits_serialized_json == "r1"
    assert (stream.route, stream.backend) == ("replica", replica.address)
    rest = [m.splits_serialized_json async for m in stream]
    assert rest == ["x" * 200, "r3", "r4"]
    assert (stream.served_by, stream.role, stream.lag) == ("r", "metastore_read_replica", 0.25)
    assert in_flight(client) == 0
    with pytest.raises(StopAsyncIteration):
        await anext(stream)


@pytest.mark.parametrize("then", [abort_db, abort_unavailable])
@pytest.mark.parametrize("sent", [0, 2])
async def test_a_break_before_the_hand_over_is_repeated_from_the_start(
    client: RoutingClient, replica: FakeNode, then: Any, sent: int
) -> None:
    replica.stream = sending(*("r1", "r2")[:sent], then=then)
    assert await texts(client) == ["p1", "p2"]
    assert in_flight(client) == 0


@pytest.mark.parametrize("then", [abort_db, abort_unavailable])
async def test_a_break_after_the_hand_over_is_unavailable(
    client: RoutingClient, primary: FakeNode, replica: FakeNode, then: Any
) -> None:
    replica.stream = sending("r1", "x" * 200, "r3", then=then)
    received: list[str] = []
    with pytest.raises(errors.Unavailable, match="ListSplits broke after 3 messages") as caught:
        async for m in client.list_splits(REQUEST):
            received.append(m.splits_serialized_json)
    assert received == ["r1", "x" * 200, "r3"]
    assert isinstance(caught.value.__cause__, grpc.aio.AioRpcError)
    assert primary.calls.total() == 0
    assert in_flight(client) == 0


async def test_a_reset_after_the_hand_over_is_unavailable(
    primary: FakeNode, replica: FakeNode
) -> None:
    replica.stream = sending("x" * 200, then=hang)
    options = ClientOptions(hold_bytes=100)
    async with (
        Tunnel(replica) as tunnel,
        RoutingClient([primary.address], [tunnel.address], options=options) as client,
    ):
        await client.wait_until(lambda now: bool(now.serving_replicas))
        stream = client.list_splits(REQUEST)
        await anext(stream)
        tunnel.cut()
        with pytest.raises(errors.Unavailable, match="after 1 messages"):
            await anext(stream)
    assert primary.calls.total() == 0


async def test_a_reset_before_the_hand_over_is_repeated(
    primary: FakeNode, replica: FakeNode
) -> None:
    replica.stream = sending("r1", then=hang)
    async with (
        Tunnel(replica) as tunnel,
        RoutingClient([primary.address], [tunnel.address]) as client,
    ):
        await client.wait_until(lambda now: bool(now.serving_replicas))
        reading = asyncio.create_task(texts(client))
        await until(lambda: replica.calls.total() == 1)
        tunnel.cut()
        assert await reading == ["p1", "p2"]


@pytest.mark.parametrize("sent", [(), ("x" * 200,)])
async def test_an_error_of_the_application_is_raised_as_it_is(
    client: RoutingClient, primary: FakeNode, replica: FakeNode, sent: tuple[str, ...]
) -> None:
    replica.stream = sending(*sent, then=abort_json)
    with pytest.raises(errors.JsonDeserializeError):
        await texts(client)
    assert primary.calls.total() == 0


async def test_a_stream_that_does_not_begin_is_tried_elsewhere(
    primary: FakeNode, replica: FakeNode
) -> None:
    replica.stream = sending(then=hang)
    options = ClientOptions(attempt_timeout=0.2)
    async with RoutingClient([primary.address], [replica.address], options=options) as client:
        await client.wait_until(lambda now: all(b.is_serving for b in now.backends))
        assert await texts(client) == ["p1", "p2"]
        await until(lambda: replica.cancelled == 1)


@pytest.mark.parametrize("sent", [(), ("r1",), ("x" * 200,)])
async def test_the_deadline_ends_a_stream(
    client: RoutingClient, primary: FakeNode, replica: FakeNode, sent: tuple[str, ...]
) -> None:
    primary.stream = replica.stream = sending(*sent, then=hang)
    with pytest.raises(errors.Timeout, match=r"0\.4 s"):
        [m async for m in client.list_splits(REQUEST, timeout=0.4)]
    assert primary.calls.total() == 0
    assert in_flight(client) == 0


async def test_no_more_is_read_than_the_caller_takes(
    client: RoutingClient, replica: FakeNode
) -> None:
    sent = 0

    async def endless(_raw: bytes, _context: Any) -> AsyncIterator[bytes]:
        nonlocal sent
        while True:
            yield message("x" * 100_000)
            sent += 1

    replica.stream = endless
    async with client.list_splits(REQUEST) as stream:
        await anext(stream)
        # Pressure reaches the node when the transport's windows are full.
        seen = -1
        while seen != sent and sent < 400:
            seen = sent
            for _ in range(20):
                await client.index_metadata(pb.IndexMetadataRequest())
        assert sent < 400
    await until(lambda: replica.cancelled == 1)


async def test_aclose_cancels_the_call(client: RoutingClient, replica: FakeNode) -> None:
    replica.stream = sending("x" * 200, then=hang)
    stream = client.list_splits(REQUEST)
    await anext(stream)
    assert in_flight(client) == 1
    await stream.aclose()
    await stream.aclose()
    assert in_flight(client) == 0
    await until(lambda: replica.cancelled == 1)
    with pytest.raises(StopAsyncIteration):
        await anext(stream)


async def test_a_stream_that_is_dropped_is_cancelled(
    client: RoutingClient, replica: FakeNode
) -> None:
    replica.stream = sending("x" * 200, then=hang)
    async for _ in client.list_splits(REQUEST):
        break
    gc.collect()
    assert in_flight(client) == 0
    await until(lambda: replica.cancelled == 1)


async def test_a_stream_that_was_repeated_is_cancelled_when_it_is_dropped(
    client: RoutingClient, primary: FakeNode, replica: FakeNode
) -> None:
    replica.stream = sending(then=abort_db)
    primary.stream = sending("x" * 200, then=hang)
    async for _ in client.list_splits(REQUEST):
        break
    gc.collect()
    assert in_flight(client) == 0
    await until(lambda: primary.cancelled == 1)


async def test_a_stream_that_is_never_read_makes_no_call(
    client: RoutingClient, replica: FakeNode
) -> None:
    stream = client.list_splits(REQUEST)
    await stream.aclose()
    assert [m async for m in stream] == []
    assert replica.calls.total() == 0


@pytest.mark.parametrize("sent", [("r1",), ("x" * 200,)])
async def test_cancelling_the_reader_cancels_the_call(
    client: RoutingClient, primary: FakeNode, replica: FakeNode, sent: tuple[str, ...]
) -> None:
    replica.stream = sending(*sent, then=hang)
    reading = asyncio.create_task(texts(client))
    await until(lambda: replica.calls.total() == 1)
    reading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reading
    await until(lambda: replica.cancelled == 1)
    assert primary.calls.total() == 0
    assert in_flight(client) == 0


@pytest.mark.parametrize("sent", [(), ("x" * 200,)])
async def test_close_ends_a_stream_with_unavailable(
    client: RoutingClient, replica: FakeNode, sent: tuple[str, ...]
) -> None:
    replica.stream = sending(*sent, then=hang)
    reading = asyncio.create_task(texts(client))
    await until(lambda: replica.calls.total() == 1)
    await client.close(timeout=0.05)
    with pytest.raises(errors.Unavailable, match="closed"):
        await reading


async def test_a_message_that_does_not_parse_is_an_internal_error(
    client: RoutingClient, replica: FakeNode
) -> None:
    async def garbage(_raw: bytes, _context: Any) -> AsyncIterator[bytes]:
        yield b"\xff\xff\xff"

    replica.stream = garbage
    with pytest.raises(errors.Internal, match="does not parse"):
        await texts(client)
    assert in_flight(client) == 0


async def test_a_node_that_sends_is_not_hung_however_late_it_is_with_other_answers(
    primary: FakeNode, replica: FakeNode
) -> None:
    is_busy = False
    given_up = 0

    async def position() -> Any:
        nonlocal given_up
        if is_busy:
            try:
                await asyncio.Event().wait()
            finally:
                given_up += 1
        return await at("0/1")()

    async def busy(_raw: bytes, _context: Any) -> AsyncIterator[bytes]:
        nonlocal is_busy
        is_busy = True
        while given_up < 4:
            yield message("")
            await asyncio.sleep(0.001)
        yield message("r")

    primary.position, replica.position, replica.stream = at("0/1"), position, busy
    options = ClientOptions(freshness_timeout=0.2, freshness_interval=0.01)
    async with RoutingClient([primary.address], [replica.address], options=options) as client:
        await client.wait_until(lambda now: all(b.is_serving for b in now.backends))
        stream = client.list_splits(REQUEST)
        received = [m.splits_serialized_json async for m in stream]
    assert (stream.served_by, received[-1]) == ("r", "r")
