"""All replicas down, then everything down: what the primary and the callers are spared.

The sizes are those that the project promises; `METASTORE_PROXY_TEST_SCALE` makes them smaller.
"""

from __future__ import annotations

import asyncio
import logging
import re
import time
from collections import Counter
from typing import Any

import aiohttp

from proxy import errors
from proxy.client import (
    Answer,
    CallFinished,
    CallRouted,
    ClientOptions,
    Event,
    RoutingClient,
)
from proxy.demo.processes import NodeProcess
from proxy.proto.quickwit import metastore_pb2 as pb
from tests.support.disturbing import serves
from tests.support.fleet import fleet, scaled
from tests.support.readers import Read, kinds, read_many
from tests.support.waiting import until

log = logging.getLogger(__name__)

READS = 20_000
OUTAGE_READS = 600
OUTAGE_CALLERS = 32
OUTAGE_DEADLINE = 1.0
CALLERS = 64
CAP = 8
SLOW_START = 5.0
_IN_FLIGHT = re.compile(
    r'^quickwit_grpc_requests_in_flight\{.*rpc="index_metadata".*\} ([0-9.e+]+)$', re.MULTILINE
)


class Watcher:
    """Counts from the client's events: attempts, and calls in flight by backend."""

    def __init__(self) -> None:
        self.attempts = 0
        self.in_flight: Counter[str] = Counter()
        self.most: Counter[str] = Counter()
        self.history: list[tuple[float, str, int]] = []

    def __call__(self, event: Event) -> None:
        if isinstance(event, CallRouted):
            self.attempts += 1
            count = self.in_flight[event.backend] = self.in_flight[event.backend] + 1
            self.most[event.backend] = max(self.most[event.backend], count)
            self.history.append((time.monotonic(), event.backend, count))
        elif isinstance(event, CallFinished):
            self.in_flight[event.backend] -= 1


def reads_of(client: RoutingClient, names: list[str], **options: Any) -> Read:
    async def read(number: int) -> Answer[pb.IndexMetadataResponse]:
        request = pb.IndexMetadataRequest(index_id=names[number % len(names)])
        return await client.index_metadata(request, **options)

    return read


async def most_in_flight(node: NodeProcess, seen: list[float]) -> None:
    """Look at a node's own gauge again and again, until cancelled."""
    async with aiohttp.ClientSession() as http:
        while True:
            async with http.get(f"{node.rest_url}/metrics") as response:
                found = _IN_FLIGHT.search(await response.text())
            assert found is not None
            seen.append(float(found[1]))
            await asyncio.sleep(0.02)


async def test_the_primary_is_protected_while_all_replicas_are_down() -> None:
    watcher = Watcher()
    options = ClientOptions(fallback_concurrency=CAP, share_reads=False, slow_start=SLOW_START)
    async with (
        fleet(nodes_per_standby=2) as running,
        running.client(options=options, listener=watcher) as client,
    ):
        await client.wait_ready()
        await until(lambda: all(serves(client, one) for one in running.replicas))
        names = await running.create_indexes(client, CALLERS)
        for replica in running.replicas:
            replica.kill()
        await until(lambda: not any(serves(client, one) for one in running.replicas))
        watcher.most.clear()
        gauge: list[float] = []
        looking = asyncio.create_task(most_in_flight(running.primary, gauge))
        down = await read_many(scaled(READS), CALLERS, reads_of(client, names, timeout=10.0))
        looking.cancel()
        await asyncio.wait({looking})
        log.info("replicas down: %s; %s", down, kinds(down.failures))
        assert watcher.most[running.primary.address] == CAP
        assert gauge
        assert max(gauge) <= CAP
        assert set(kinds(down.failures)) <= {"TooManyRequests"}
        assert set(down.routes) == {"fallback"}
        assert down.routes["fallback"] > 0
        assert down.slowest < 5.0


async def test_a_replica_that_returns_is_filled_up_bit_by_bit() -> None:
    watcher = Watcher()
    options = ClientOptions(fallback_concurrency=CALLERS, share_reads=False, slow_start=SLOW_START)
    async with (
        fleet(nodes_per_standby=1) as running,
        running.client(options=options, listener=watcher) as client,
    ):
        await client.wait_ready()
        names = await running.create_indexes(client, CALLERS)
        (replica,) = running.replicas
        await until(lambda: serves(client, replica))
        replica.kill()
        await until(lambda: not serves(client, replica))
        read = reads_of(client, names, timeout=10.0)
        load = asyncio.create_task(read_many(10_000_000, CALLERS, read))
        try:
            replica.start()
            await until(lambda: serves(client, replica))
            # The moment that the client counts from, not that at which a busy test saw it.
            backend = client.backends().get(replica.address)
            assert backend is not None
            returned = backend.returned
            assert returned is not None
            await asyncio.sleep(SLOW_START + 1.0)
        finally:
            load.cancel()
            await asyncio.wait({load})
    filled = [
        (moment - returned, count)
        for moment, backend, count in watcher.history
        if backend == replica.address and moment >= returned
    ]
    most = [
        max((count for after, count in filled if start <= after < start + 1.0), default=0)
        for start in range(int(SLOW_START) + 1)
    ]
    log.info("in flight on the returned replica, by second: %s", most)
    early = [(after, count) for after, count in filled if after < SLOW_START]
    assert all(count <= 2 + CALLERS * after / SLOW_START + 1 for after, count in early)
    assert most[0] <= 2 + CALLERS / SLOW_START + 1
    assert most[0] < most[2] < most[-1]


async def test_retries_stay_within_their_budget_in_a_total_outage() -> None:
    watcher = Watcher()
    options = ClientOptions(share_reads=False)
    async with (
        fleet(nodes_per_standby=2) as running,
        running.client(options=options, listener=watcher) as client,
    ):
        await client.wait_ready()
        await until(lambda: all(serves(client, one) for one in running.replicas))
        names = await running.create_indexes(client, CALLERS)
        read = reads_of(client, names, timeout=OUTAGE_DEADLINE)
        before = watcher.attempts
        await running.pair.standby.kill()
        await running.pair.primary.kill()
        # The nodes live: each attempt reaches one, which has no database to ask.
        report = await read_many(OUTAGE_READS, OUTAGE_CALLERS, read)
        attempts = watcher.attempts - before
        log.info("databases down: %d attempts, %s; %s", attempts, report, kinds(report.failures))
        assert len(report.failures) == report.total
        assert all(isinstance(error, errors.MetastoreError) for error in report.failures)
        assert attempts <= 1.2 * report.total + options.retry_reserve
        for node in running.nodes:
            node.kill()
        before = watcher.attempts
        report = await read_many(OUTAGE_READS // 5, OUTAGE_CALLERS, read)
        attempts = watcher.attempts - before
        log.info("nodes down: %d attempts, %s; %s", attempts, report, kinds(report.failures))
        assert len(report.failures) == report.total
        assert attempts <= 1.2 * report.total + options.retry_reserve
        assert report.slowest < OUTAGE_DEADLINE + 0.5
