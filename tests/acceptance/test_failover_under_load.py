"""Reads from 16 callers go on while replica nodes are killed, or frozen, and come back.

The sizes are those that the project promises; `METASTORE_PROXY_TEST_SCALE` makes them smaller.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import time
from collections.abc import AsyncIterator

import pytest

from proxy.client import Answer, CallRouted, Event, RoutingClient
from proxy.proto.quickwit import metastore_pb2 as pb
from tests.support.disturbing import disturbed, serves
from tests.support.fleet import Fleet, fleet, scaled
from tests.support.readers import Read, read_many
from tests.support.routers import Caller
from tests.support.waiting import until

log = logging.getLogger(__name__)

READS = 100_000
# So that nodes are killed, or frozen, and back before the reads end.
LEAST = 20_000
CALLERS = 16
DEADLINE = 10.0
LEFT_WITHIN = 2.0


@pytest.fixture
async def running() -> AsyncIterator[Fleet]:
    async with fleet(nodes_per_standby=2) as made:
        yield made


class Sent:
    """Remembers when a call was last sent to each address."""

    def __init__(self) -> None:
        self.last: dict[str, float] = {}

    def __call__(self, event: Event) -> None:
        if isinstance(event, CallRouted):
            self.last[event.backend] = time.monotonic()


def reads_of(client: RoutingClient, names: list[str]) -> Read:
    async def read(number: int) -> Answer[pb.IndexMetadataResponse]:
        request = pb.IndexMetadataRequest(index_id=names[number % len(names)])
        return await client.index_metadata(request, timeout=DEADLINE)

    return read


async def test_no_read_fails_while_replicas_are_killed(running: Fleet) -> None:
    async with running.client() as client:
        await client.wait_ready()
        names = await running.create_indexes(client, CALLERS)
        await until(lambda: all(serves(client, one) for one in running.replicas))
        turns = itertools.cycle(running.replicas)
        killed = 0

        async def kill_one() -> None:
            nonlocal killed
            node = next(turns)
            node.kill()
            killed += 1
            await asyncio.sleep(1.0)
            node.start()
            await node.wait_ready()
            await until(lambda: serves(client, node))
            await asyncio.sleep(1.0)

        async with disturbed(kill_one):
            report = await read_many(scaled(READS, LEAST), CALLERS, reads_of(client, names))
    log.info("killed %d times: %s", killed, report)
    assert report.failures == []
    assert report.total == scaled(READS, LEAST)
    assert killed > 0
    assert report.routes["replica"] > 0.9 * report.total


async def test_no_read_fails_while_replicas_are_frozen(running: Fleet) -> None:
    sent = Sent()
    async with running.client(listener=sent) as client:
        await client.wait_ready()
        names = await running.create_indexes(client, CALLERS)
        await until(lambda: all(serves(client, one) for one in running.replicas))
        turns = itertools.cycle(running.replicas)
        left_after: list[float] = []

        async def freeze_one() -> None:
            node = next(turns)
            frozen = time.monotonic()
            node.freeze()
            try:
                await until(lambda: not serves(client, node))
                await asyncio.sleep(2 * LEFT_WITHIN)
                left_after.append(sent.last[node.address] - frozen)
            finally:
                node.thaw()
            await until(lambda: serves(client, node))
            await asyncio.sleep(1.0)

        async with disturbed(freeze_one):
            report = await read_many(scaled(READS, LEAST), CALLERS, reads_of(client, names))
    log.info("left after %s s: %s", [round(seconds, 2) for seconds in left_after], report)
    assert report.failures == []
    assert report.total == scaled(READS, LEAST)
    assert left_after
    assert max(left_after) < LEFT_WITHIN
    assert report.slowest < DEADLINE


async def test_no_read_through_a_router_fails_while_replicas_are_killed_and_frozen(
    running: Fleet,
) -> None:
    async with running.client() as client:
        await client.wait_ready()
        names = await running.create_indexes(client, CALLERS)
    router = await running.start_router()
    requests = [pb.IndexMetadataRequest(index_id=name).SerializeToString() for name in names]
    turns = itertools.cycle(running.replicas)

    async def kill_one_and_freeze_the_other() -> None:
        node = next(turns)
        node.kill()
        await asyncio.sleep(1.0)
        node.start()
        await node.wait_ready()
        await asyncio.sleep(1.0)
        node = next(turns)
        node.freeze()
        try:
            await asyncio.sleep(2 * LEFT_WITHIN)
        finally:
            node.thaw()
        await asyncio.sleep(1.0)

    async with Caller(router.address) as caller:

        async def read(number: int) -> Answer[bytes]:
            return await caller.read(
                "IndexMetadata", requests[number % len(requests)], timeout=DEADLINE
            )

        async with disturbed(kill_one_and_freeze_the_other):
            report = await read_many(scaled(READS // 5, LEAST // 5), CALLERS, read)
    log.info("through a router: %s", report)
    assert report.failures == []
    assert report.total == scaled(READS // 5, LEAST // 5)
    assert report.routes["replica"] > 0.9 * report.total
    assert report.slowest < DEADLINE
