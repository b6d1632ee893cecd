"""A node's gRPC port with TLS and next to nothing behind it, and a client of it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import grpc

from proxy.client import ClientOptions, ClientTls, RoutingClient
from proxy.config import GrpcSettings, NodeConfig, TlsSettings
from proxy.metrics import NodeMetrics
from proxy.proto.quickwit import metastore_pb2 as pb
from proxy.roles import Role
from proxy.routing.catalogue import SERVICE
from proxy.server.grpc_server import GrpcServer
from proxy.server.health import Vector
from proxy.server.node_tls import NodeTls


@dataclass
class TlsNode:
    """The port, and what a node has to do with it. Calls wait for `hold`, counted by `held`."""

    tls: NodeTls
    metrics: NodeMetrics
    address: str = ""
    hold: asyncio.Event = field(default_factory=asyncio.Event)
    held: int = 0

    def refused(self, reason: str) -> float:
        """How many connections were refused for a reason, by the metrics."""
        labels = {"port": "grpc", "reason": reason}
        name = "metastore_proxy_tls_refused_connections_total"
        return self.metrics.registry.get_sample_value(name, labels) or 0.0

    async def index_metadata(self, _raw: bytes, _context: Any) -> bytes:
        """Answer, once calls are not held."""
        self.held += 1
        await self.hold.wait()
        self.held -= 1
        return pb.IndexMetadataResponse(index_metadata_serialized_json="{}").SerializeToString()


@asynccontextmanager
async def tls_node(settings: TlsSettings | None, *, port: int = 0) -> AsyncIterator[TlsNode]:
    """Serve `IndexMetadata` and health; without settings in plain text."""
    config = NodeConfig(role=Role.METASTORE, grpc_listen_port=port, grpc=GrpcSettings(tls=settings))
    metrics = NodeMetrics(config.role)
    node = TlsNode(NodeTls(config, metrics), metrics)
    node.hold.set()
    handler = grpc.unary_unary_rpc_method_handler(node.index_metadata)
    services = [
        (SERVICE, grpc.method_handlers_generic_handler(SERVICE, {"IndexMetadata": handler}))
    ]
    server = GrpcServer(config, services, tls=node.tls.grpc)
    try:
        await node.tls.open()
        await server.open()
        await server.show(Vector(ready=True, fresh=True, stale=True, write=True))
        node.address = f"127.0.0.1:{server.port}"
        yield node
    finally:
        await server.close(0.0)
        await node.tls.close()


def tls_client(
    address: str, tls: ClientTls | None, options: ClientOptions | None = None
) -> RoutingClient:
    """Return a client of the one node."""
    return RoutingClient([address], options=replace(options or ClientOptions(), tls=tls))


async def ask(client: RoutingClient) -> str:
    """Make a call; return who answered it."""
    answer = await client.index_metadata(pb.IndexMetadataRequest(index_id="logs"), timeout=10.0)
    return answer.backend


@asynccontextmanager
async def under_load(client: RoutingClient) -> AsyncIterator[Callable[[], int]]:
    """Call without a pause; fails at its end when a call has failed. Yields the number so far."""
    made = 0
    is_over = False

    async def work() -> None:
        nonlocal made
        while not is_over:
            await ask(client)
            made += 1

    async with asyncio.TaskGroup() as group:
        for _ in range(4):
            group.create_task(work())
        try:
            yield lambda: made
        finally:
            is_over = True
