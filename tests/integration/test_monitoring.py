"""Every expression that config/prometheus and config/grafana ship returns data of real nodes."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
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
Metadata = tuple[tuple[str, str], ...]
WORKERS: Final = 8
# A node admits twice as many of one RPC as its pool has connections.
CONNECTIONS: Final = 10
BURST: Final = 60
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

    async def burst(self) -> None:
        """Make more calls at once than a node takes, again and again."""
        while True:
            await asyncio.gather(*(self.call("IndexMetadata", KNOWN) for _ in range(BURST)))
            await asyncio.sleep(1)


async def read_all(running: Fleet, ca: Path, stack: AsyncExitStack) -> None:
    """Load all nodes until the stack ends."""
    callers = {node.node_id: Caller(node, ca) for node in running.nodes}
    for caller in callers.values():
        await stack.enter_async_context(caller.channel)
    made = pb.CreateIndexRequest(index_config_json=dataset.index_config())
    assert await callers["metastore-1"].call("CreateIndex", made.SerializeToString())
    work = [callers[node.node_id].work() for node in running.routers for _ in range(WORKERS)]
    bursts = [callers[node.node_id].burst() for node in (running.primary, running.replicas[0])]
    tasks = [asyncio.create_task(one) for one in (*work, *bursts)]

    async def end() -> None:
        for task in tasks:
            task.cancel()
        # What is not a cancellation fails the test.
        for found in await asyncio.gather(*tasks, return_exceptions=True):
            if not isinstance(found, asyncio.CancelledError):
                raise AssertionError(f"the load ended: {found!r}")

    stack.push_async_callback(end)


@asynccontextmanager
async def nodes(directory: Path) -> AsyncIterator[tuple[Fleet, Prometheus]]:
    """Nodes of all roles with TLS under load, and a server that scrapes them by our rules."""
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
        await read_all(running, authority.ca, stack)
        targets = {node.node_id: f"{node.host}:{node.rest_port}" for node in running.nodes}
        yield running, await stack.enter_async_context(prometheus(targets, *RULES, interval=1.0))


async def provoke(running: Fleet, server: Prometheus) -> None:
    """Let happen what some of the series count, and wait until the server has seen it."""

    async def seen(*names: str) -> None:
        async def all_seen() -> bool:
            queries = (server.returns_data(f"rate({name}[1h]) > 0") for name in names)
            return all(await asyncio.gather(*queries))

        await until(all_seen, lambda: (names, server.log()[-500:]), timeout=60)

    await seen("quickwit_grpc_requests_total")
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
    async with nodes(tmp_path) as (running, server):
        await provoke(running, server)
        by_role: dict[str | None, str] = {None: ".+"}
        for node in running.nodes:
            known = by_role.get(node.role.value)
            address = f"{node.host}:{node.rest_port}"
            by_role[node.role.value] = address if known is None else f"{known}|{address}"
        wanting = [filled(one, by_role[one.role]) for one in panel_expressions()]
        assert {one.role for one in wanting} == by_role.keys()
        wanting += rule_expressions()

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
