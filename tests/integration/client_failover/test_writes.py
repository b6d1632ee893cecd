"""A write is sent once, and waits for a primary."""

from __future__ import annotations

import asyncio
import socket
import time
from typing import Any

import pytest

from proxy import errors
from proxy.client import ClientOptions, RoutingClient
from proxy.client.connection import Connection, Method
from proxy.errors import MetastoreError
from proxy.http2.channel import Channel
from tests.support.failing_pair import (
    BACKEND_ERRORS,
    WRITE,
    Pair,
    dying,
    hanging,
    raising,
    read,
    too_busy,
    write,
)
from tests.support.fake_node import FakeNode, Tunnel
from tests.support.waiting import until


async def test_a_write_that_is_one_too_many_is_not_repeated(pair: Pair) -> None:
    pair.primary.unary = too_busy(1)
    with pytest.raises(errors.TooManyRequests):
        await pair.client.create_index(WRITE)
    assert pair.primary.calls.total() == 1


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
            call = asyncio.create_task(write(client))
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
    call = asyncio.create_task(write(pair.client))
    await pair.primary.start()
    assert await call == "p"
    assert pair.primary.calls.total() == 1


async def test_a_write_right_after_the_primary_broke_waits_too(pair: Pair) -> None:
    await pair.primary.stop()
    call = asyncio.create_task(write(pair.client))
    await pair.client.wait_until(lambda now: not now.serving_primaries)
    await pair.primary.start()
    assert await call == "p"
    assert pair.primary.calls.total() == 1


async def test_a_write_that_never_left_is_sent_again(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The connection breaks between its being found whole and the call."""
    start, failed = Connection.start_unary, []
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        port = nobody.getsockname()[1]
        limits = ClientOptions().channel_limits()
        async with Channel(f"127.0.0.1:{port}", limits=limits) as broken:

            def start_first(
                _: object, method: Method[Any, Any], *_args: Any, **_options: Any
            ) -> Any:
                monkeypatch.setattr(Connection, "start_unary", start)
                failed.append(method.path)
                return broken.unary(method.path, b"", method.decode)

            monkeypatch.setattr(Connection, "start_unary", start_first)
            assert await write(pair.client) == "p"
    assert len(failed) == pair.primary.calls.total() == 1


async def test_without_a_primary_a_write_says_so_soon(pair: Pair) -> None:
    await pair.primary.stop()
    started = time.monotonic()
    with pytest.raises(errors.Unavailable, match=f"primary {pair.primary.address}"):
        await pair.client.create_index(WRITE)
    assert time.monotonic() - started < 4.0
    assert await read(pair.client) == "r"


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
