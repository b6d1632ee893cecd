"""Nodes of one cluster in the test's own process, which gossip fast."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from typing import Any

from proxy.config import NodeConfig
from proxy.gossip.view import MemberView
from proxy.lifecycle import NodeLifecycle
from proxy.node import Node
from proxy.roles import Role
from tests.support.gossip import told
from tests.support.nodes import node_config
from tests.support.routers import router_config

BEAT = 0.1


def seed_of(*nodes: NodeLifecycle) -> tuple[str, ...]:
    """Return the gossip addresses of nodes, as items of `peer_seeds`."""
    return tuple(node.membership.endpoints.gossip for node in nodes if node.membership.endpoints)


def member_config(
    role: Role,
    uri: str,
    node_id: str,
    seeds: Sequence[str] = (),
    *,
    proxy: dict[str, Any] | None = None,
    **changes: Any,
) -> NodeConfig:
    """Return the config of a member; `proxy` are fields of `ProxySettings`."""
    config = router_config(["127.0.0.1:1"]) if role is Role.ROUTER else node_config(role, uri)
    settings = {"probe_interval": BEAT, "heartbeat_interval": BEAT, "shutdown_delay": 0.0}
    return replace(
        config,
        **{
            "node_id": node_id,
            "cluster_id": "cluster-a",
            "peer_seeds": tuple(seeds),
            "gossip_interval": 0.05,
            "proxy": replace(config.proxy, **settings, **(proxy or {})),
            **changes,
        },
    )


@asynccontextmanager
async def open_nodes(*configs: NodeConfig) -> AsyncIterator[list[Node]]:
    """Open nodes with a database; they are closed in the order in which they were opened."""
    async with AsyncExitStack() as stack:
        nodes = []
        for config in reversed(configs):
            node = Node(config)
            stack.push_async_callback(node.close)
            nodes.append(node)
        nodes.reverse()
        for node in nodes:
            await node.open()
        yield nodes


def seen(by: NodeLifecycle, node_id: str) -> MemberView:
    """Return what a node knows of a member, which it must know."""
    return told(by.membership.view, node_id)


def ready(by: NodeLifecycle) -> list[str]:
    """Return the node ids of the members that a node may send calls to."""
    view = by.membership.view
    return [] if view is None else [one.node_id for one in view.members if one.is_ready]
