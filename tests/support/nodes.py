"""Nodes in the test's own process, on free ports of the loopback interface."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from tempfile import gettempdir

from proxy.config import NodeConfig, load_config
from proxy.demo.postgres_host import free_port
from proxy.lifecycle import NodeLifecycle
from proxy.node import Node
from proxy.roles import Role
from tests.support.waiting import until


def node_config(
    role: Role,
    uri: str,
    *,
    file: Path | None = None,
    node_id: str = "node-1",
    heartbeat: bool = True,
    **variables: str,
) -> NodeConfig:
    """Return the config of a node on a database; `variables` are `QW_*` environment variables."""
    key = "QW_METASTORE_READ_REPLICA_URI" if role.is_read_only else "QW_METASTORE_URI"
    environ = {
        key: uri,
        "QW_NODE_ID": node_id,
        "QW_REST_LISTEN_PORT": str(free_port()),
        "QW_GRPC_LISTEN_PORT": str(free_port()),
        # One that is there: none is made in the directory that the tests run in.
        "QW_DATA_DIR": gettempdir(),
        **variables,
    }
    config = load_config(file, environ=environ, services=[role.value])
    if heartbeat:
        return config
    return replace(config, proxy=replace(config.proxy, heartbeat_interval=None))


@asynccontextmanager
async def running(config: NodeConfig, *, wait: bool = True) -> AsyncIterator[Node]:
    """Run a node; wait until it is ready unless told not to."""
    node = Node(config)
    try:
        await node.open()
        if wait:
            await until(lambda: node.readiness.is_ready, lambda: node.readiness.failures)
        yield node
    finally:
        await node.close()


def address(node: NodeLifecycle) -> str:
    """Return the node's gRPC address."""
    return f"{node.config.listen_address}:{node.config.grpc_listen_port}"
