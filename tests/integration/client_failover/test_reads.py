"""What failures lead to: reads are repeated elsewhere, deadlines hold."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import grpc
import pytest

from proxy import errors
from proxy.client import ClientOptions, RoutingClient
from proxy.errors import MetastoreError
from proxy.routing.members import BackendState
from tests.support.failing_pair import (
    BACKEND_ERRORS,
    REQUEST,
    Pair,
    aborting,
    dying,
    hanging,
    raising,
    read,
    too_busy,
)
from tests.support.fake_node import FakeNode, Tunnel
from tests.support.waiting import until

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
            call = asyncio.create_task(read(client))
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
        assert await read(client) == "r"
        tunnel.freeze()
        started = time.monotonic()
        assert await read(client) == "p"
        assert time.monotonic() - started < 3.0


async def test_unavailable_takes_a_replica_out_until_it_says_that_it_serves(pair: Pair) -> None:
    pair.replica.unary = raising(errors.Unavailable("draining"))
    await pair.client.index_metadata(REQUEST)
    found = pair.client.backends().get(pair.replica.address)
    assert found is not None
    assert found.state is BackendState.DOWN
    pair.replica.unary = FakeNode("").unary
    await pair.settled()
    assert await read(pair.client) == "r"


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


async def test_with_nothing_left_a_read_says_so_soon(pair: Pair) -> None:
    await pair.primary.stop()
    await pair.replica.stop()
    started = time.monotonic()
    with pytest.raises(errors.Unavailable):
        await pair.client.index_metadata(REQUEST)
    assert time.monotonic() - started < 4.0


async def test_a_response_that_does_not_parse_is_an_internal_error(pair: Pair) -> None:
    async def garbage(_name: str, _raw: bytes, _context: Any) -> bytes:
        return b"\xff\xff\xff"

    pair.replica.unary = garbage
    with pytest.raises(errors.Internal, match="does not parse"):
        await pair.client.index_metadata(REQUEST)
