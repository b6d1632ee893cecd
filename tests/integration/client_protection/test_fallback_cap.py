"""The primary's cap, and how a replica that returns fills up."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from typing import Any

import pytest

from proxy import errors
from proxy.client import CallShed, ClientOptions, RoutingClient
from proxy.proto.quickwit import metastore_pb2 as pb
from tests.support.fake_node import FakeNode
from tests.support.protected_pair import WRITE, Gate, Pair, request, settled
from tests.support.waiting import until


async def test_the_primary_takes_no_more_fallbacks_than_its_cap(pair: Pair) -> None:
    gate = Gate()
    pair.primary.unary = gate
    await pair.replica.stop()
    async with pair.client(fallback_concurrency=4) as client:
        await client.wait_until(lambda now: bool(now.serving_primaries))
        calls = [asyncio.create_task(client.index_metadata(request(n))) for n in range(20)]
        await until(lambda: gate.inside == 4 and pair.count(CallShed) == 16)
        # Neither writes nor reads outside the six are held back.
        write = asyncio.create_task(client.create_index(WRITE))
        shards = asyncio.create_task(client.list_shards(pb.ListShardsRequest()))
        await until(lambda: gate.inside == 6)
        gate.open()
        await asyncio.gather(write, shards)
        found = await asyncio.gather(*calls, return_exceptions=True)
        assert (await client.index_metadata(request())).route == "fallback"
    routes = Counter(getattr(one, "route", type(one).__name__) for one in found)
    assert routes == {"fallback": 4, "TooManyRequests": 16}


async def test_past_the_cap_a_replica_over_its_bound_answers_with_a_label(pair: Pair) -> None:
    gate = Gate()
    pair.primary.unary = gate
    async with pair.client(fallback_concurrency=2, max_lag=1.0) as client:
        await settled(client)
        calls = [asyncio.create_task(client.index_metadata(request(n))) for n in range(10)]
        await until(lambda: gate.inside == 2 and pair.replica.calls.total() == 8)
        gate.open()
        found = [await call for call in calls]
    assert Counter(answer.route for answer in found) == {"fallback": 2, "stale": 8}


async def test_without_replicas_the_primary_has_no_cap() -> None:
    gate = Gate()
    async with FakeNode("p") as primary:
        primary.unary = gate
        options = ClientOptions(fallback_concurrency=2)
        async with RoutingClient([primary.address], options=options) as client:
            calls = [asyncio.create_task(client.index_metadata(request(n))) for n in range(9)]
            await until(lambda: gate.inside == 9)
            gate.open()
            await asyncio.gather(*calls)


async def test_streams_count_towards_the_cap(pair: Pair) -> None:
    async def hang(_raw: bytes, _context: Any) -> AsyncIterator[bytes]:
        yield pb.ListSplitsResponse(splits_serialized_json="x" * 100).SerializeToString()
        await asyncio.Event().wait()

    pair.primary.stream = hang
    await pair.replica.stop()
    async with pair.client(fallback_concurrency=1, hold_bytes=10) as client:
        await client.wait_until(lambda now: bool(now.serving_primaries))
        async with client.list_splits(pb.ListSplitsRequest(query_json="{}")) as stream:
            await anext(stream)
            with pytest.raises(errors.TooManyRequests):
                await client.index_metadata(request())
        await client.index_metadata(request())


async def test_a_returning_replica_fills_up_slowly(pair: Pair) -> None:
    gate = Gate()
    async with pair.client(slow_start=600.0) as client:
        await settled(client)
        await pair.replica.stop()
        await client.wait_until(lambda now: not now.serving_replicas)
        pair.primary.unary = pair.replica.unary = gate
        await pair.replica.start()
        await client.wait_until(lambda now: bool(now.serving_replicas))
        calls = [asyncio.create_task(client.index_metadata(request(n))) for n in range(12)]
        await until(lambda: gate.inside == 12)
        assert pair.replica.calls.total() in (2, 3)
        gate.open()
        await asyncio.gather(*calls)
