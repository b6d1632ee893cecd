"""How calls end when they are cancelled, and when the client closes."""

from __future__ import annotations

import asyncio
from random import Random
from typing import Any

import pytest

from proxy import errors
from proxy.client import ClientOptions, RoutingClient
from proxy.client.connection import Connection
from tests.support.failing_pair import Pair, hanging, read, write
from tests.support.fake_node import FakeNode, Tunnel
from tests.support.waiting import until


async def test_cancelling_a_call_cancels_it_at_the_node(pair: Pair) -> None:
    pair.replica.unary = hanging
    call = asyncio.create_task(read(pair.client))
    await until(lambda: pair.replica.calls.total() == 1)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    await until(lambda: pair.replica.cancelled == 1)
    assert pair.primary.calls.total() == 0


async def test_close_cuts_off_the_calls_that_do_not_end(pair: Pair) -> None:
    pair.replica.unary = hanging
    call = asyncio.create_task(read(pair.client))
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
    call = asyncio.create_task(read(pair.client))
    await until(lambda: pair.replica.calls.total() == 1)
    closing = asyncio.create_task(pair.client.close(timeout=20.0))
    await until(lambda: pair.client.backends().backends == ())
    gate.set()
    assert await call == "r"
    await closing


async def test_close_ends_a_call_that_waits_for_a_connection() -> None:
    options = ClientOptions(connect_timeout=60.0)
    async with FakeNode("p") as primary, Tunnel(primary) as tunnel:
        tunnel.freeze()
        client = RoutingClient([tunnel.address], allow_writes=True, options=options)
        await client.open()
        calls = [asyncio.create_task(read(client)), asyncio.create_task(write(client))]
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
