"""A router in the test's own process, and raw calls to it."""

from __future__ import annotations

import json
import tempfile
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc

from proxy.client import Answer
from proxy.client.wire import read_failure
from proxy.config import NodeConfig, load_config
from proxy.demo.postgres_host import free_port
from proxy.router_node import RouterNode
from proxy.routing.catalogue import RPCS
from tests.support.waiting import until


def router_config(
    primary: Sequence[str],
    replicas: Sequence[str] = (),
    *,
    node_id: str = "router-1",
    port: int | None = None,
    **settings: Any,
) -> NodeConfig:
    """Return the config of a router; `settings` are keys of `proxy`."""
    environ = {
        "QW_NODE_ID": node_id,
        "QW_REST_LISTEN_PORT": str(free_port()),
        "QW_GRPC_LISTEN_PORT": str(port or free_port()),
    }
    targets = {"primary": list(primary), "replicas": list(replicas)}
    document = {"version": "0.8", "proxy": {"shutdown_delay": "0s", **targets, **settings}}
    with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
        json.dump(document, file)
        file.flush()
        return load_config(Path(file.name), environ=environ, services=["metastore_router"])


@asynccontextmanager
async def routing(config: NodeConfig, *, wait: bool = True) -> AsyncIterator[RouterNode]:
    """Run a router; wait until it is ready unless told not to."""
    node = RouterNode(config)
    try:
        await node.open()
        if wait:
            await until(lambda: node.readiness.is_ready, lambda: node.readiness.failures)
        yield node
    finally:
        await node.close()


class Caller:
    """A channel to one address, for calls as bytes; `options` are the library's."""

    def __init__(self, address: str, **options: Any) -> None:
        self.channel = grpc.aio.insecure_channel(address, options=list(options.items()))

    async def unary(
        self, rpc: str, request: bytes = b"", *, timeout: float | None = 10.0, **metadata: str
    ) -> tuple[bytes, dict[str, Any]]:
        """Return the answer and its trailing metadata; `_` in a metadata key stands for `-`."""
        call = self.channel.unary_unary(RPCS[rpc].path)(
            request, timeout=timeout, metadata=_keys(metadata)
        )
        answer = await call
        return answer, dict(await call.trailing_metadata())

    async def read(self, rpc: str, request: bytes, *, timeout: float) -> Answer[bytes]:
        """Make a unary call as a client of ours does: an answer, or a `MetastoreError`."""
        try:
            response, facts = await self.unary(rpc, request, timeout=timeout)
        except grpc.aio.AioRpcError as error:
            raise read_failure(error).error from error
        return Answer(
            served_by=facts["x-metastore-served-by"],
            role=facts["x-metastore-role"],
            route=facts["x-metastore-route"],
            lag=None,
            backend="",
            lsn=None,
            metadata=(),
            headers=0,
            response=response,
        )

    def stream(
        self, rpc: str, request: bytes = b"", *, timeout: float | None = 10.0, **metadata: str
    ) -> grpc.aio.UnaryStreamCall[bytes, bytes]:
        """Begin a streaming call."""
        return self.channel.unary_stream(RPCS[rpc].path)(
            request, timeout=timeout, metadata=_keys(metadata)
        )

    async def __aenter__(self) -> Caller:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.channel.close()


def _keys(metadata: dict[str, str]) -> tuple[tuple[str, str], ...]:
    return tuple((key.replace("_", "-"), value) for key, value in metadata.items())
