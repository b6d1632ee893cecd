"""Every expression that config/prometheus and config/grafana ship returns data of real nodes."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path
from typing import Final

import grpc

from proxy.demo import dataset
from proxy.demo.processes import NodeProcess
from proxy.proto.quickwit import metastore_pb2 as pb
from proxy.routing.catalogue import RPCS
from proxy.routing.consistency import MAX_LAG
from tests.support.certificates import Authority
from tests.support.fleet import Fleet, fleet
from tests.support.monitoring import (
    RULES,
    Expression,
    filled,
    panel_expressions,
    recorded,
    rule_expressions,
)
from tests.support.prometheus import Prometheus, prometheus
from tests.support.waiting import until

INDEX: Final = json.loads(dataset.index_config())["index_id"]
KNOWN: Final = pb.IndexMetadataRequest(index_id=INDEX).SerializeToString()
UNKNOWN: Final = pb.IndexMetadataRequest(index_id="missing").SerializeToString()
# Reads that replicas serve, one that has a bound, one that fails, one that belongs to the primary.
CALLS: Final = (
    ("IndexMetadata", KNOWN, ()),
    ("ListIndexesMetadata", b"", ((MAX_LAG, "1"),)),
    ("IndexMetadata", UNKNOWN, ()),
    ("ListIndexTemplates", b"", ()),
)
# What the metastore dashboard of Quickwit's repository asks for: see rules/quickwit.yml.
OF_QUICKWIT: Final = (
    'sum by (rpc) (rate(quickwit_metastore_grpc_requests_total{kind="server"}[1h]))',
    'sum (rate(quickwit_metastore_grpc_requests_total{kind="server", status="error"}[1h]))',
    (
        "histogram_quantile(0.95, sum by (le, rpc) (rate("
        'quickwit_metastore_grpc_request_duration_seconds_bucket{kind="server"}[1h])))'
    ),
)
Metadata = tuple[tuple[str, str], ...]
WORKERS: Final = 8
# A node admits twice as many of one RPC as its pool has connections.
CONNECTIONS: Final = 10
FLOOD: Final = 100
TLS: Final = {"cert_poll_interval": "1s"}


class Caller:
    """A channel to a node by TLS; calls go on whatever becomes of them."""

    def __init__(self, node: NodeProcess, ca: Path) -> None:
        credentials = grpc.ssl_channel_credentials(root_certificates=ca.read_bytes())
        self.channel = grpc.aio.secure_channel(node.address, credentials)

    async def call(self, rpc: str, request: bytes, metadata: Metadata = ()) -> bool:
        """Return whether a call succeeds."""
        try:
            method = self.channel.unary_unary(RPCS[rpc].path)
            await method(request, timeout=5, metadata=metadata)
        except grpc.aio.AioRpcError:
            return False
        return True

    async def work(self) -> None:
        """Make one call after the other, with pauses: the nodes share the processor with this."""
        for call in cycle(CALLS):
            await self.call(*call)
            await asyncio.sleep(0.02)

    async def flood(self, node: NodeProcess) -> None:
        """Make more calls than the node takes, which it finds all at once."""
        await self.call("IndexMetadata", KNOWN)
        node.freeze()
        calls = [asyncio.create_task(self.call("IndexMetadata", KNOWN)) for _ in range(FLOOD)]
        # They are on their way; what is not is made up for by the next flood.
        await asyncio.sleep(0.1)
        node.thaw()
        await asyncio.gather(*calls)


async def read_all(running: Fleet, callers: dict[str, Caller], stack: AsyncExitStack) -> None:
    """Read through the routers until the stack ends."""
    made = pb.CreateIndexRequest(index_config_json=dataset.index_config())
    assert await callers["metastore-1"].call("CreateIndex", made.SerializeToString())
    work = [callers[node.node_id].work() for node in running.routers for _ in range(WORKERS)]
    tasks = [asyncio.create_task(one) for one in work]

    async def end() -> None:
        for task in tasks:
            task.cancel()
        # What is not a cancellation fails the test.
        for found in await asyncio.gather(*tasks, return_exceptions=True):
            if not isinstance(found, asyncio.CancelledError):
                raise AssertionError(f"the load ended: {found!r}")

    stack.push_async_callback(end)


@dataclass
class Scraped:
    """Nodes of all roles with TLS under load, and a server that scrapes them by our rules."""

    fleet: Fleet
    callers: dict[str, Caller]
    server: Prometheus


@asynccontextmanager
async def nodes(directory: Path) -> AsyncIterator[Scraped]:
    """Run them; leaves nothing."""
    authority = Authority(directory)
    own = authority.issue("node")
    files = {"cert_path": str(own.cert), "key_path": str(own.key), "ca_path": str(authority.ca)}
    sections = {
        "grpc": {"tls": {**files, **TLS}},
        "metastore": {"postgres": {"max_connections": CONNECTIONS}},
    }
    async with AsyncExitStack() as stack:
        running = await stack.enter_async_context(fleet(nodes_per_standby=2, sections=sections))
        # One that helps its calls, and one that does nothing for them.
        await running.start_router(max_lag="1s", hedge_delay="1ms", fallback_concurrency=2)
        await running.start_router(
            serve_stale=False, fallback_concurrency=0, retry_ratio=0, retry_reserve=0
        )
        callers = {node.node_id: Caller(node, authority.ca) for node in running.nodes}
        for caller in callers.values():
            await stack.enter_async_context(caller.channel)
        await read_all(running, callers, stack)
        targets = {node.node_id: f"{node.host}:{node.rest_port}" for node in running.nodes}
        server = await stack.enter_async_context(prometheus(targets, *RULES, interval=0.5))
        yield Scraped(running, callers, server)


async def provoke(scraped: Scraped) -> None:
    """Let happen what some of the series count, and wait until the server has seen it."""
    running, server = scraped.fleet, scraped.server

    async def seen(*names: str) -> None:
        async def all_seen() -> bool:
            queries = (server.returns_data(f"rate({name}[1h]) > 0") for name in names)
            return all(await asyncio.gather(*queries))

        await until(all_seen, lambda: (names, server.log()[-500:]), timeout=60)

    async def shed(node: NodeProcess) -> None:
        async def has_shed() -> bool:
            await scraped.callers[node.node_id].flood(node)
            name = "metastore_proxy_shed_requests_total"
            return await server.returns_data(f'{name}{{job="{node.node_id}"}}')

        await until(has_shed, node.log_tail, timeout=60)

    await asyncio.gather(shed(running.primary), shed(running.replicas[0]))
    await running.pair.pause_replay()
    await seen(
        "metastore_proxy_fallback_answers_total",
        "metastore_proxy_stale_answers_total",
        "metastore_proxy_fallbacks_refused_total",
    )
    await running.pair.resume_replay()
    for node in running.nodes:
        # Plain text to a TLS port.
        reader, writer = await asyncio.open_connection(node.host, node.grpc_port)
        writer.write(b"GET / HTTP/1.1\r\n\r\n")
        await reader.read()
        writer.close()
    running.replicas[1].freeze()
    await seen("metastore_proxy_retries_total", "metastore_proxy_retries_denied_total")
    running.replicas[1].kill()


async def missing(server: Prometheus, expressions: list[Expression]) -> list[Expression]:
    """Return the expressions that return nothing."""
    found = await asyncio.gather(*(server.returns_data(one.unfiltered()) for one in expressions))
    return [one for one, has_data in zip(expressions, found, strict=True) if not has_data]


async def test_every_expression_that_we_ship_returns_data_under_load(tmp_path: Path) -> None:
    async with nodes(tmp_path) as scraped:
        running, server = scraped.fleet, scraped.server
        await provoke(scraped)
        by_role: dict[str | None, str] = {None: ".+"}
        for node in running.nodes:
            known = by_role.get(node.role.value)
            address = f"{node.host}:{node.rest_port}"
            by_role[node.role.value] = address if known is None else f"{known}|{address}"
        wanting = [filled(one, by_role[one.role]) for one in panel_expressions()]
        assert {one.role for one in wanting} == by_role.keys()
        wanting += [*rule_expressions(), *(Expression(name, name) for name in recorded())]
        wanting += [Expression("Quickwit's dashboard", text) for text in OF_QUICKWIT]

        async def all_found() -> bool:
            nonlocal wanting
            wanting = await missing(server, wanting)
            return not wanting

        await until(all_found, lambda: [(one.where, one.text) for one in wanting], timeout=60)
        assert await missing(server, [Expression("", "metastore_proxy_ready > 7")]) == []
        assert await missing(server, [Expression("", "metastore_proxy_raedy > 7")]) != []

        async def all_evaluated() -> bool:
            return set((await server.rules()).values()) == {"ok"}

        await until(all_evaluated, running.primary.log_tail)
