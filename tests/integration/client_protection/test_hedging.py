"""A slow read is sent a second time."""

from __future__ import annotations

import asyncio

import pytest

from proxy import errors
from proxy.client import CallHedged, ClientOptions, RoutingClient
from tests.support.fake_node import FakeNode
from tests.support.protected_pair import WRITE, Gate, Pair, raising, request, settled
from tests.support.waiting import until


async def test_a_slow_read_is_hedged_and_the_loser_is_cancelled(pair: Pair) -> None:
    pair.replica.unary = Gate()
    async with pair.client(hedge_delay=0.02) as client:
        await settled(client)
        answer = await client.index_metadata(request())
        assert answer.served_by == "p"
        await until(lambda: pair.replica.cancelled == 1)
        assert pair.count(CallHedged) == 1
        board = client._pool.board if client._pool is not None else None
        assert board is not None
        assert (board.in_flight, board.budget.spent) == (0, 1)


async def test_a_fast_read_is_not_hedged(pair: Pair) -> None:
    async with pair.client(hedge_delay=5.0) as client:
        await settled(client)
        for number in range(10):
            assert (await client.index_metadata(request(number))).served_by == "r"
    assert pair.count(CallHedged) == 0
    assert pair.primary.calls.total() == 0


async def test_a_hedge_that_fails_leaves_the_first_attempt(pair: Pair) -> None:
    gate = Gate()
    pair.replica.unary = gate
    pair.primary.unary = raising(errors.Db("of the primary"))
    async with pair.client(hedge_delay=0.02) as client:
        await settled(client)
        call = asyncio.create_task(client.index_metadata(request()))
        await until(lambda: pair.primary.calls.total() == 1)
        gate.open()
        assert (await call).served_by == "r"


async def test_an_answer_that_is_an_error_ends_the_race(pair: Pair) -> None:
    pair.replica.unary = Gate()
    pair.primary.unary = raising(errors.NotFound(errors.index("x")))
    async with pair.client(hedge_delay=0.02) as client:
        await settled(client)
        with pytest.raises(errors.NotFound):
            await client.index_metadata(request())
        await until(lambda: pair.replica.cancelled == 1)


async def test_cancelling_a_hedged_call_cancels_both(pair: Pair) -> None:
    pair.replica.unary = pair.primary.unary = Gate()
    async with pair.client(hedge_delay=0.02) as client:
        await settled(client)
        call = asyncio.create_task(client.index_metadata(request()))
        await until(lambda: pair.primary.calls.total() == 1)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        await until(lambda: pair.replica.cancelled == pair.primary.cancelled == 1)


async def test_writes_are_never_hedged(pair: Pair) -> None:
    gate = Gate()
    async with FakeNode("q") as other:
        pair.primary.unary = other.unary = gate
        options = ClientOptions(hedge_delay=0.01)
        primaries = [pair.primary.address, other.address]
        async with RoutingClient(primaries, allow_writes=True, options=options) as client:
            await settled(client)
            call = asyncio.create_task(client.create_index(WRITE))
            await until(lambda: gate.inside == 1)
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(asyncio.shield(call), 0.2)
            assert gate.most == 1
            gate.open()
            await call
