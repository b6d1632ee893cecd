"""Agents on the loopback interface, and the datagrams of one that is not there."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from ipaddress import ip_address
from typing import Any

from proxy.gossip.agent import AgentSettings, GossipAgent
from proxy.gossip.cluster import GossipSettings
from proxy.gossip.view import ClusterView, MemberView
from proxy.membership import next_generation

# Fast enough for tests; detection then takes about a second.
INTERVAL = 0.05


def agent(
    node_id: str,
    *seeds: GossipAgent | str,
    keys: dict[str, str] | None = None,
    cluster_id: str = "cluster-a",
    port: int = 0,
    interval: float = INTERVAL,
    listen: str = "127.0.0.1",
    advertise: str | None = None,
    **listeners: Callable[..., None],
) -> GossipAgent:
    """Return an agent; of a seed that is an agent its address is taken."""
    addresses = [seed if isinstance(seed, str) else f"127.0.0.1:{seed.port}" for seed in seeds]
    settings = AgentSettings(
        node_id=node_id,
        generation=next_generation(),
        listen=ip_address(listen),
        port=port,
        advertise=ip_address(advertise or listen),
        gossip=GossipSettings(cluster_id=cluster_id, interval=interval),
        seeds=tuple(addresses),
    )
    return GossipAgent(settings, keys or {"readiness": "READY"}, **listeners)


@asynccontextmanager
async def gossiping(*arguments: Any, **options: Any) -> AsyncIterator[GossipAgent]:
    """Run an agent; see `agent`."""
    made = agent(*arguments, **options)
    await made.open()
    try:
        yield made
    finally:
        await made.close()


def alive(view: ClusterView | None) -> set[str]:
    """Return the node ids of the members that are alive."""
    return set() if view is None else {one.node_id for one in view.members if one.is_live}


def told(view: ClusterView | None, node_id: str) -> MemberView:
    """Return what is known of a member."""
    member = None if view is None else view.get(node_id)
    assert member is not None, f"{node_id} is not known"
    return member
