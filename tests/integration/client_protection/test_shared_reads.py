"""Identical reads in flight share a call."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from proxy import errors
from proxy.client import CallShared
from proxy.proto.quickwit import metastore_pb2 as pb
from tests.support.fake_node import at, fail
from tests.support.protected_pair import Gate, Pair, raising, request, settled
from tests.support.waiting import until


async def test_identical_reads_in_flight_share_one_call(pair: Pair) -> None:
    answer = pb.IndexMetadataResponse(index_metadata_serialized_json="{}")
    gate = Gate(answer.SerializeToString())
    pair.replica.unary = gate
    async with pair.client() as client:
        await settled(client)
        same = [asyncio.create_task(client.index_metadata(request())) for _ in range(10)]
        other = asyncio.create_task(client.index_metadata(request(1)))
        await until(lambda: gate.inside == 2 and pair.count(CallShared) == 9)
        gate.open()
        answers = [await call for call in same]
        await other
        assert pair.replica.calls.total() == 2
        # Each caller has a message of its own.
        answers[0].response.index_metadata_serialized_json = "changed"
        assert all(a.response == answer for a in answers[1:])
        # What is over is not shared.
        await client.index_metadata(request())
        assert pair.replica.calls.total() == 3


@pytest.mark.parametrize(
    "arguments",
    [
        {"metadata": [("x-metastore-max-lag", "9")]},
        {"metadata": [("x-user", "somebody")]},
        {"min_lsn": "0/0"},
    ],
    ids=["bound", "metadata", "token"],
)
async def test_reads_that_ask_for_more_are_not_shared(pair: Pair, arguments: Any) -> None:
    pair.replica.position = at("0/10")
    pair.primary.position = at("0/10", in_recovery=False)
    gate = Gate()
    pair.replica.unary = gate
    async with pair.client(freshness_interval=0.02) as client:
        await settled(client)
        await until(lambda: client.lag(pair.replica.address) is not None)
        first = asyncio.create_task(client.index_metadata(request()))
        await until(lambda: gate.inside == 1)
        second = asyncio.create_task(client.index_metadata(request(), **arguments))
        await until(lambda: gate.inside == 2)
        gate.open()
        await asyncio.gather(first, second)


async def test_a_trace_does_not_keep_reads_apart(pair: Pair) -> None:
    gate = Gate()
    pair.replica.unary = gate
    async with pair.client() as client:
        await settled(client)
        traces = [[("traceparent", str(n))] for n in range(3)]
        calls = [
            asyncio.create_task(client.index_metadata(request(), metadata=trace))
            for trace in traces
        ]
        await until(lambda: pair.count(CallShared) == 2)
        gate.open()
        await asyncio.gather(*calls)
    assert pair.replica.calls.total() == 1


async def test_a_caller_that_leaves_leaves_the_others_their_call(pair: Pair) -> None:
    gate = Gate()
    pair.replica.unary = gate
    async with pair.client() as client:
        await settled(client)
        calls = [asyncio.create_task(client.index_metadata(request())) for _ in range(3)]
        await until(lambda: gate.inside == 1 and pair.count(CallShared) == 2)
        calls[0].cancel()
        calls[1].cancel()
        await asyncio.wait(calls[:2])
        assert gate.inside == 1
        gate.open()
        assert (await calls[2]).served_by == "r"
    assert pair.replica.calls.total() == 1


async def test_the_last_caller_to_leave_cancels_the_call(pair: Pair) -> None:
    pair.replica.unary = Gate()
    async with pair.client() as client:
        await settled(client)
        calls = [asyncio.create_task(client.index_metadata(request())) for _ in range(3)]
        await until(lambda: pair.count(CallShared) == 2)
        for call in calls:
            call.cancel()
        await asyncio.wait(calls)
        await until(lambda: pair.replica.cancelled == 1)


async def test_an_error_goes_to_all_who_share(pair: Pair) -> None:
    pair.replica.unary = raising(errors.NotFound(errors.index("index-0")))
    async with pair.client() as client:
        await settled(client)
        calls = [client.index_metadata(request()) for _ in range(5)]
        found = await asyncio.gather(*calls, return_exceptions=True)
    assert [type(one) for one in found] == [errors.NotFound] * 5


async def test_who_has_more_time_asks_again_and_who_has_less_does_not_wait(pair: Pair) -> None:
    gate = Gate()
    pair.replica.unary = gate
    pair.primary.unary = gate
    async with pair.client() as client:
        await settled(client)
        short = asyncio.create_task(client.index_metadata(request(), timeout=0.3))
        long = asyncio.create_task(client.index_metadata(request(), timeout=20.0))
        tiny = asyncio.create_task(client.index_metadata(request(), timeout=0.1))
        await until(lambda: pair.count(CallShared) == 2)
        with pytest.raises(errors.Timeout, match=r"0\.1 s"):
            await tiny
        with pytest.raises(errors.Timeout, match=r"0\.3 s"):
            await short
        gate.open()
        await long


async def test_who_has_more_time_does_not_share_an_error_that_came_of_haste(pair: Pair) -> None:
    async def late(_name: str, _raw: bytes, context: Any) -> bytes:
        if pair.replica.calls.total() + pair.primary.calls.total() > 1:
            return b""
        await asyncio.sleep(context.time_remaining() - 0.004)
        await fail(context, errors.Unavailable("from the test"))
        return b""

    pair.replica.unary = pair.primary.unary = late
    async with pair.client() as client:
        await settled(client)
        short = asyncio.create_task(client.index_metadata(request(), timeout=0.3))
        long = asyncio.create_task(client.index_metadata(request(), timeout=20.0))
        with pytest.raises((errors.Unavailable, errors.Timeout)):
            await short
        await long
        assert pair.count(CallShared) == 1
