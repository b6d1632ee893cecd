"""What failures lead to: reads are repeated elsewhere, writes are not, deadlines hold."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from random import Random
from typing import Any

import grpc
import pytest

from proxy import errors
from proxy.client import CallRetried, ClientOptions, Event, RoutingClient
from proxy.client.connection import Connection
from proxy.errors import MetastoreError
from proxy.proto.quickwit import metastore_pb2 as pb
from proxy.routing.members import BackendState
from tests.support.fake_node import FakeNode, Tunnel, Unary, fail
from tests.support.waiting import until

REQUEST = pb.IndexMetadataRequest(index_id="hdfs-logs")
WRITE = pb.CreateIndexRequest(index_config_json="{}")


@dataclass
class Pair:
    """A primary and one replica, and a client for both."""

    primary: FakeNode
    replica: FakeNode
    client: RoutingClient
    events: list[Event]

    @property
    def retried(self) -> list[str]:
        return [event.error for event in self.events if isinstance(event, CallRetried)]

    async def settled(self) -> None:
        await self.client.wait_until(lambda now: all(b.is_serving for b in now.backends))


@pytest.fixture
async def pair() -> AsyncIterator[Pair]:
    events: list[Event] = []
    async with (
        FakeNode("p", role="metastore") as primary,
        FakeNode("r") as replica,
        RoutingClient(
            [primary.address], [replica.address], allow_writes=True, listener=events.append
        ) as client,
    ):
        made = Pair(primary, replica, client, events)
        await made.settled()
        yield made


def raising(error: MetastoreError) -> Unary:
    async def unary(_name: str, _raw: bytes, context: Any) -> bytes:
        await fail(context, error)
        return b""

    return unary


def aborting(code: grpc.StatusCode) -> Unary:
    async def unary(_name: str, _raw: bytes, context: Any) -> bytes:
        await context.abort(code, "from the test")
        return b""

    return unary


def dying(node: FakeNode) -> Unary:
    async def unary(_name: str, _raw: bytes, _context: Any) -> bytes:
        death = asyncio.create_task(node.stop())
        await asyncio.shield(death)
        await asyncio.Event().wait()
        return b""

    return unary


async def hanging(_name: str, _raw: bytes, _context: Any) -> bytes:
    await asyncio.Event().wait()
    return b""


BACKEND_ERRORS = [
    errors.Connection("x"),
    errors.Db("x"),
    errors.Internal("x"),
    errors.Io("x"),
    errors.Timeout("x"),
    errors.TooManyRequests(),
    errors.Unavailable("x"),
]
ANSWERS = [
    errors.NotFound(errors.index("hdfs-logs")),
    errors.InvalidArgument("x"),
    errors.Forbidden("x"),
    errors.FailedPrecondition(errors.splits(["a"]), "x"),
    errors.JsonDeserializeError("IndexMetadata", "x"),
]


@pytest.mark.parametrize("error", BACKEND_ERRORS, ids=lambda error: error.variant)
async def test_a_read_that_a_replica_fails_goes_to_the_primary(
    pair: Pair, error: MetastoreError
) -> None:
    pair.replica.unary = raising(error)
    answer = await pair.client.index_metadata(REQUEST)
    assert (answer.served_by, answer.route) == ("p", "fallback")
    assert pair.retried == [error.variant]


@pytest.mark.parametrize(
    "code",
    [
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.CANCELLED,
        grpc.StatusCode.INTERNAL,
        grpc.StatusCode.UNKNOWN,
        grpc.StatusCode.UNIMPLEMENTED,
    ],
    ids=lambda code: code.name,
)
async def test_a_read_that_breaks_without_detail_goes_to_the_primary(
    pair: Pair, code: grpc.StatusCode
) -> None:
    pair.replica.unary = aborting(code)
    assert (await pair.client.index_metadata(REQUEST)).served_by == "p"


@pytest.mark.parametrize("error", ANSWERS, ids=lambda error: error.variant)
async def test_an_answer_that_is_an_error_is_not_repeated(
    pair: Pair, error: MetastoreError
) -> None:
    pair.replica.unary = raising(error)
    with pytest.raises(type(error)) as caught:
        await pair.client.index_metadata(REQUEST)
    assert str(caught.value) == str(error)
    assert caught.value.to_json() == error.to_json()
    assert isinstance(caught.value.__cause__, grpc.aio.AioRpcError)
    assert pair.primary.calls.total() == 0


def too_busy(refusals: int) -> Unary:
    """Refuse the first calls as too many, as a node does that has no permit left."""
    left = refusals

    async def unary(_name: str, _raw: bytes, context: Any) -> bytes:
        nonlocal left
        left -= 1
        if left >= 0:
            await fail(context, errors.TooManyRequests())
        return b""

    return unary


async def test_a_read_comes_back_to_backends_that_were_too_busy(pair: Pair) -> None:
    pair.replica.unary = too_busy(1_000)
    pair.primary.unary = too_busy(3)
    answer = await pair.client.index_metadata(REQUEST)
    assert (answer.served_by, answer.route) == ("p", "fallback")
    assert set(pair.retried) == {"TooManyRequests"}
    assert (pair.replica.calls.total(), pair.primary.calls.total()) == (4, 4)


async def test_a_read_comes_back_after_it_waited_longer_for_a_backend_that_froze() -> None:
    options = ClientOptions(attempt_timeout=0.5, shed_timeout=0.4)
    async with (
        FakeNode("p") as primary,
        FakeNode("r") as replica,
        RoutingClient([primary.address], [replica.address], options=options) as client,
    ):
        await client.wait_until(lambda now: all(b.is_serving for b in now.backends))
        replica.unary = hanging
        primary.unary = too_busy(1)
        assert (await client.index_metadata(REQUEST)).served_by == "p"
        assert primary.calls.total() == 2


async def test_a_read_for_which_all_stay_too_busy_fails_after_a_bound(pair: Pair) -> None:
    pair.replica.unary = pair.primary.unary = raising(errors.TooManyRequests())
    started = time.monotonic()
    with pytest.raises(errors.TooManyRequests):
        await pair.client.index_metadata(REQUEST)
    assert time.monotonic() - started < pair.client.options.shed_timeout + 0.5
    assert 4 <= pair.primary.calls.total() <= 8


async def test_a_write_that_is_one_too_many_is_not_repeated(pair: Pair) -> None:
    pair.primary.unary = too_busy(1)
    with pytest.raises(errors.TooManyRequests):
        await pair.client.create_index(WRITE)
    assert pair.primary.calls.total() == 1


async def test_an_answer_that_is_too_large_is_not_asked_for_twice(pair: Pair) -> None:
    pair.replica.unary = aborting(grpc.StatusCode.RESOURCE_EXHAUSTED)
    with pytest.raises(errors.Internal, match="from the test"):
        await pair.client.index_metadata(REQUEST)
    assert pair.primary.calls.total() == 0


async def test_when_all_fail_the_last_error_is_raised(pair: Pair) -> None:
    pair.replica.unary = raising(errors.Db("of the replica"))
    pair.primary.unary = raising(errors.Db("of the primary"))
    with pytest.raises(errors.Db, match="of the primary"):
        await pair.client.index_metadata(REQUEST)
    assert pair.replica.calls.total() == pair.primary.calls.total() == 1


async def test_a_replica_that_dies_with_the_call_in_hand_loses_nothing(pair: Pair) -> None:
    pair.replica.unary = dying(pair.replica)
    answers = await asyncio.gather(*(pair.client.index_metadata(REQUEST) for _ in range(20)))
    assert {answer.served_by for answer in answers} == {"p"}


async def test_a_reset_connection_loses_nothing() -> None:
    async with FakeNode("p") as primary, FakeNode("r") as replica, Tunnel(replica) as tunnel:
        replica.unary = hanging
        async with RoutingClient([primary.address], [tunnel.address]) as client:
            call = asyncio.create_task(_read(client))
            await until(lambda: replica.calls.total() == 1)
            tunnel.cut()
            assert await call == "p"


async def test_a_frozen_replica_is_left_when_pings_go_unanswered() -> None:
    options = ClientOptions(keepalive_interval=0.2, keepalive_timeout=0.2)
    async with (
        FakeNode("p") as primary,
        FakeNode("r") as replica,
        Tunnel(replica) as tunnel,
        RoutingClient([primary.address], [tunnel.address], options=options) as client,
    ):
        assert await _read(client) == "r"
        tunnel.freeze()
        started = time.monotonic()
        assert await _read(client) == "p"
        assert time.monotonic() - started < 3.0


async def test_unavailable_takes_a_replica_out_until_it_says_that_it_serves(pair: Pair) -> None:
    pair.replica.unary = raising(errors.Unavailable("draining"))
    await pair.client.index_metadata(REQUEST)
    found = pair.client.backends().get(pair.replica.address)
    assert found is not None
    assert found.state is BackendState.DOWN
    pair.replica.unary = FakeNode("").unary
    await pair.settled()
    assert await _read(pair.client) == "r"


async def test_one_slow_attempt_does_not_use_up_the_deadline() -> None:
    options = ClientOptions(attempt_timeout=0.2)
    async with FakeNode("p") as primary, FakeNode("r") as replica:
        replica.unary = hanging
        async with RoutingClient([primary.address], [replica.address], options=options) as client:
            await client.wait_until(lambda now: all(b.is_serving for b in now.backends))
            answer = await client.index_metadata(REQUEST, timeout=20.0)
            assert answer.served_by == "p"
            await until(lambda: replica.cancelled == 1)


async def test_the_deadline_holds_over_all_attempts() -> None:
    options = ClientOptions(attempt_timeout=0.2)
    async with FakeNode("p") as primary, FakeNode("r") as one, FakeNode("s") as two:
        for node in (primary, one, two):
            node.unary = hanging
        replicas = [one.address, two.address]
        async with RoutingClient([primary.address], replicas, options=options) as client:
            await client.wait_until(lambda now: all(b.is_serving for b in now.backends))
            started = time.monotonic()
            with pytest.raises(errors.Timeout, match=r"IndexMetadata .* within 0\.6 s"):
                await client.index_metadata(REQUEST, timeout=0.6)
            assert 0.55 < time.monotonic() - started < 1.5
            assert one.calls.total() == two.calls.total() == primary.calls.total() == 1


@pytest.mark.parametrize("error", BACKEND_ERRORS, ids=lambda error: error.variant)
async def test_a_write_is_sent_once_whatever_comes_back(error: MetastoreError) -> None:
    async with FakeNode("p") as one, FakeNode("q") as two:
        one.unary = two.unary = raising(error)
        async with RoutingClient([one.address, two.address], allow_writes=True) as client:
            with pytest.raises(type(error)):
                await client.create_index(WRITE)
        assert one.calls.total() + two.calls.total() == 1


async def test_a_write_is_sent_once_when_the_server_dies_with_it() -> None:
    async with FakeNode("p") as one, FakeNode("q") as two:
        one.unary, two.unary = dying(one), dying(two)
        async with RoutingClient([one.address, two.address], allow_writes=True) as client:
            await client.wait_until(lambda now: len(now.serving_primaries) == 2)
            with pytest.raises(MetastoreError) as caught:
                await client.create_index(WRITE)
        assert not caught.value.is_certainly_aborted
        assert one.calls.total() + two.calls.total() == 1


async def test_a_write_is_sent_once_when_the_connection_is_reset() -> None:
    async with FakeNode("p") as primary, Tunnel(primary) as tunnel:
        primary.unary = hanging
        async with RoutingClient([tunnel.address], allow_writes=True) as client:
            call = asyncio.create_task(_write(client))
            await until(lambda: primary.calls.total() == 1)
            tunnel.cut()
            with pytest.raises(errors.Unavailable):
                await call
            primary.unary = FakeNode("").unary
            await client.create_index(WRITE)
    assert primary.calls.total() == 2


async def test_a_write_that_cannot_be_sent_waits_for_a_primary_that_comes_back(pair: Pair) -> None:
    await pair.primary.stop()
    await pair.client.wait_until(lambda now: not now.serving_primaries)
    call = asyncio.create_task(_write(pair.client))
    await pair.primary.start()
    assert await call == "p"
    assert pair.primary.calls.total() == 1


async def test_a_write_right_after_the_primary_broke_waits_too(pair: Pair) -> None:
    await pair.primary.stop()
    call = asyncio.create_task(_write(pair.client))
    await pair.client.wait_until(lambda now: not now.serving_primaries)
    await pair.primary.start()
    assert await call == "p"
    assert pair.primary.calls.total() == 1


async def test_without_a_primary_a_write_says_so_soon(pair: Pair) -> None:
    await pair.primary.stop()
    started = time.monotonic()
    with pytest.raises(errors.Unavailable, match=f"primary {pair.primary.address}"):
        await pair.client.create_index(WRITE)
    assert time.monotonic() - started < 4.0
    assert await _read(pair.client) == "r"


async def test_with_nothing_left_a_read_says_so_soon(pair: Pair) -> None:
    await pair.primary.stop()
    await pair.replica.stop()
    started = time.monotonic()
    with pytest.raises(errors.Unavailable):
        await pair.client.index_metadata(REQUEST)
    assert time.monotonic() - started < 4.0


async def test_cancelling_a_call_cancels_it_at_the_node(pair: Pair) -> None:
    pair.replica.unary = hanging
    call = asyncio.create_task(_read(pair.client))
    await until(lambda: pair.replica.calls.total() == 1)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    await until(lambda: pair.replica.cancelled == 1)
    assert pair.primary.calls.total() == 0


async def test_close_cuts_off_the_calls_that_do_not_end(pair: Pair) -> None:
    pair.replica.unary = hanging
    call = asyncio.create_task(_read(pair.client))
    await until(lambda: pair.replica.calls.total() == 1)
    await pair.client.close(timeout=0.05)
    with pytest.raises(errors.Unavailable, match="closed"):
        await call
    assert pair.primary.calls.total() == 0


async def test_close_lets_calls_end_within_its_bound(pair: Pair) -> None:
    gate = asyncio.Event()

    async def slow(_name: str, _raw: bytes, _context: Any) -> bytes:
        await gate.wait()
        return b""

    pair.replica.unary = slow
    call = asyncio.create_task(_read(pair.client))
    await until(lambda: pair.replica.calls.total() == 1)
    closing = asyncio.create_task(pair.client.close(timeout=20.0))
    await until(lambda: pair.client.backends().backends == ())
    gate.set()
    assert await call == "r"
    await closing


async def test_a_response_that_does_not_parse_is_an_internal_error(pair: Pair) -> None:
    async def garbage(_name: str, _raw: bytes, _context: Any) -> bytes:
        return b"\xff\xff\xff"

    pair.replica.unary = garbage
    with pytest.raises(errors.Internal, match="does not parse"):
        await pair.client.index_metadata(REQUEST)


async def _read(client: RoutingClient) -> str:
    return (await client.index_metadata(REQUEST)).served_by


async def _write(client: RoutingClient) -> str:
    return (await client.create_index(WRITE)).served_by


async def test_close_ends_a_call_that_waits_for_a_connection() -> None:
    options = ClientOptions(connect_timeout=60.0)
    async with FakeNode("p") as primary, Tunnel(primary) as tunnel:
        tunnel.freeze()
        client = RoutingClient([tunnel.address], allow_writes=True, options=options)
        await client.open()
        calls = [asyncio.create_task(_read(client)), asyncio.create_task(_write(client))]
        await client.wait_until(lambda now: bool(now.backends))
        await client.close(timeout=0.05)
        for call in calls:
            with pytest.raises(errors.Unavailable, match="closed"):
                await call
    assert primary.calls.total() == 0


async def test_close_ends_a_write_that_connects() -> None:
    async with FakeNode("p") as primary, Tunnel(primary) as tunnel:
        tunnel.freeze()
        options = ClientOptions(connect_timeout=60.0)
        connection = Connection(tunnel.address, lambda *_: None, options=options, rng=Random(1))
        connection.open()
        connecting = asyncio.create_task(connection.connect(60.0))
        await until(lambda: connection._tasks)
        for _ in range(5):
            await asyncio.sleep(0)
        await connection.close()
        await connection.close()
        assert await connecting is False
        connection.open()
        with pytest.raises(RuntimeError, match="is not open"):
            await connection.connect(1.0)


async def test_a_write_to_a_black_hole_ends_at_the_connect_timeout() -> None:
    async with FakeNode("p") as primary, Tunnel(primary) as tunnel:
        tunnel.freeze()
        options = ClientOptions(connect_timeout=0.2, reconnect_max=30.0)
        async with RoutingClient([tunnel.address], allow_writes=True, options=options) as client:
            started = time.monotonic()
            with pytest.raises(errors.Unavailable, match="no connection to primary"):
                await client.create_index(WRITE)
            assert time.monotonic() - started < 3.0
    assert primary.calls.total() == 0
