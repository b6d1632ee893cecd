"""Sending calls to other nodes: the client's settings, and a watch over what they serve."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

from proxy import errors
from proxy.client.raw import RawRoutingClient
from proxy.config import NodeConfig
from proxy.joining import Cluster, ClusterSource
from proxy.metrics import NodeMetrics
from proxy.routing.members import Snapshot

# A watch looks again after so many seconds without news, or at once after a change.
_QUIET: Final = 60.0
_PAUSE: Final = 0.1


def routing_client(config: NodeConfig, cluster: Cluster, metrics: NodeMetrics) -> RawRoutingClient:
    """Return the client that a node passes calls on with; what it does is counted in `metrics`.

    With `proxy.discovery: gossip` its backends are the other members of the node's cluster, and
    whatever the configuration names besides.
    """
    members = ClusterSource(cluster) if config.proxy.discovery == "gossip" else None
    routed = metrics.routing()
    client = RawRoutingClient.from_config(
        config, allow_writes=True, listener=routed, members=members
    )
    routed.watch(client.figures)
    return client


async def follow(client: RawRoutingClient, note: Callable[[Snapshot], None]) -> None:
    """Tell `note` of the backends, now and after each change, until cancelled."""
    seen: Snapshot | None = None

    def is_new(snapshot: Snapshot) -> bool:
        return snapshot is not seen

    while True:
        try:
            seen = await client.wait_until(is_new, timeout=_QUIET)
        except errors.Unavailable:
            # Nothing has changed for so long; a client that is closed must not spin here.
            await asyncio.sleep(_PAUSE)
        else:
            note(seen)
