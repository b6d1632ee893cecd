"""Callers that stop reading a list of splits: what they hold, and for how long."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import grpc
import pytest

from proxy.node import Node
from proxy.proto.quickwit import metastore_pb2 as pb
from proxy.roles import Role
from tests.support.many_splits import filled_with
from tests.support.nodes import address, node_config, running
from tests.support.postgres import Scratch
from tests.support.splitting import query
from tests.support.waiting import until

MANY = 20_000
PATH = "/quickwit.metastore.MetastoreService/ListSplits"


@pytest.fixture
async def filled(clean: Scratch) -> Scratch:
    """A database with more splits than a connection takes unread."""
    return await filled_with(clean, MANY)


async def stalled(node: Node) -> AsyncIterator[Any]:
    """A stream of which one message was read."""
    async with grpc.aio.insecure_channel(address(node)) as channel:
        call: Any = channel.unary_stream(
            PATH, pb.ListSplitsRequest.SerializeToString, pb.ListSplitsResponse.FromString
        )(query())
        assert await call.read() is not grpc.aio.EOF
        yield call
        call.cancel()


def in_use(node: Node) -> int:
    stats = node.database.stats()
    return stats.open - stats.idle


async def read_on(call: Any) -> None:
    while await call.read() is not grpc.aio.EOF:
        pass


async def test_the_session_goes_back_after_the_bound(filled: Scratch) -> None:
    config = node_config(Role.METASTORE, filled.primary_uri, heartbeat=False)
    proxy = replace(config.proxy, stalled_stream_timeout=0.3, shutdown_delay=0.0)
    async with running(replace(config, proxy=proxy)) as node:
        async for call in stalled(node):
            await until(lambda: in_use(node) == 1)
            await until(lambda: in_use(node) == 0 and node.in_flight == 0)
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await read_on(call)
            assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
            assert caught.value.details() == (
                "request timed out: the caller took no message of the answer for 0.3 s "
                "(`proxy.stalled_stream_timeout`)"
            )


async def test_without_a_bound_it_waits(filled: Scratch) -> None:
    config = node_config(Role.METASTORE, filled.primary_uri, heartbeat=False)
    proxy = replace(config.proxy, stalled_stream_timeout=None, shutdown_delay=0.0)
    async with running(replace(config, proxy=proxy)) as node:
        async for call in stalled(node):
            await until(lambda: in_use(node) == 1)
            await read_on(call)
            assert in_use(node) == 0
