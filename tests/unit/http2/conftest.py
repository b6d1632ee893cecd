"""A server of the methods of `tests.support.raw_methods`, and a peer of it."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from tests.support.raw_http2 import RawPeer, raw_peer, serving
from tests.support.raw_methods import Methods
from tests.support.waiting import until


@pytest.fixture
async def methods() -> Methods:
    return Methods()


@pytest.fixture
async def port(methods: Methods) -> AsyncIterator[int]:
    async with serving(**methods.served()) as (server, port):
        yield port
        await until(lambda: not methods.running)
    assert not server.connections
    assert not server._tasks


@pytest.fixture
async def peer(port: int) -> AsyncIterator[RawPeer]:
    async with raw_peer(port) as peer:
        yield peer
