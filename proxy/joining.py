"""Backends from the cluster: gossip's view of the members, as the routing client's `MemberSource`.

Backends are the members that are alive and ready and advertise a metastore's services, but for the
node itself and routers: a call that a router passes on never reaches another router. A member that
starts again is another backend, also at its old address.

A node that sees no live member at all is most likely cut off itself, as by a firewall that drops
UDP. It keeps the backends that it knew, and their health over TCP decides.
"""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from secrets import token_hex
from typing import Final, Protocol

from proxy.client import ClientOptions, EventListener, Member, RoutingClient
from proxy.client.discovery import MembersListener
from proxy.config import NodeConfig
from proxy.gossip.addresses import listen_ip
from proxy.gossip.agent import AgentSettings, GossipAgent
from proxy.gossip.cluster import GossipSettings
from proxy.gossip.services import is_primary, is_replica
from proxy.gossip.view import ClusterView, MemberView
from proxy.routing.members import BackendRole
from proxy.routing.targets import join_address, parse_seed

# How long a client waits for the members that it hears of to show that they are alive: intervals,
# and no less than so many seconds.
_SETTLE: Final = 5.0
_SETTLE_LEAST: Final = 2.0


class Cluster(Protocol):
    """Whoever has a view of the cluster, such as a node's membership."""

    def on_view(self, listener: Callable[[ClusterView], None], /) -> Callable[[], None]:
        """Call `listener` now, if there is a view, and after each change; return what ends that."""


def backends_of(view: ClusterView) -> dict[str, Member]:
    """Return the members that calls can be sent to, by address.

    Of two at one address the later start holds; at the node's own address there is the node alone,
    whatever others claim or it was called before.
    """
    found: dict[str, Member] = {}
    own = {member.grpc_address for member in view.members if member.is_self}
    for member in sorted(view.members, key=lambda one: one.generation):
        role, address = _backend_role(member), member.grpc_address
        if role is not None and address is not None and address not in own:
            found[address] = Member(
                role,
                incarnation=member.generation,
                node_id=member.node_id,
                zone=member.availability_zone or "",
            )
    return found


def _backend_role(member: MemberView) -> BackendRole | None:
    if member.is_self or not member.is_ready:
        return None
    if is_primary(member):
        return BackendRole.PRIMARY
    return BackendRole.REPLICA if is_replica(member) else None


class _Teller:
    """Tells a listener the backends of each view, where they changed."""

    def __init__(self, on_members: MembersListener) -> None:
        self._on_members = on_members
        self._told: Mapping[str, Member] = {}

    def __call__(self, view: ClusterView) -> None:
        if not any(member.is_live and not member.is_self for member in view.members):
            return
        found = backends_of(view)
        if found != self._told:
            self._told = found
            self._on_members(found)


class ClusterSource:
    """The backends in the cluster of a node, which is itself a member."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._stop: Callable[[], None] | None = None

    async def open(self, on_members: MembersListener, /) -> None:
        """Begin to tell."""
        if self._stop is None:
            self._stop = self._cluster.on_view(_Teller(on_members))

    async def close(self) -> None:
        """Tell no more. Idempotent."""
        stop, self._stop = self._stop, None
        if stop is not None:
            stop()


class GossipSource:
    """The backends in a cluster that this process looks at without being one of its members.

    `peer_seeds` are the gossip addresses of some members, `host:port`. While open it asks members
    from a port of the system's choice and tells them nothing of itself. `listen_address` is `::`
    where members have IPv6 addresses. ValueError for seeds and settings that cannot be.
    """

    def __init__(
        self,
        peer_seeds: Sequence[str],
        *,
        cluster_id: str,
        listen_address: str = "0.0.0.0",  # noqa: S104 - a name of its own, on a port of its own
        interval: float = 1.0,
        protocol_version: int = 0,
        gossip_port: int = 7280,
    ) -> None:
        if isinstance(peer_seeds, str):
            raise ValueError(f"peer_seeds must be a list of addresses, got the text {peer_seeds!r}")
        self._seeds = tuple(parse_seed(seed, gossip_port).address for seed in peer_seeds)
        self._listen = listen_address
        self._gossip = GossipSettings(
            cluster_id=cluster_id,
            interval=interval,
            protocol_version=protocol_version,
            is_observer=True,
        )
        self._agent: GossipAgent | None = None
        self._settled = asyncio.Event()

    @classmethod
    def from_config(cls, config: NodeConfig) -> GossipSource:
        """Return a source for a node's cluster: its `peer_seeds`, and the node itself."""
        host = config.advertise_address or config.listen_address
        return cls(
            (*config.peer_seeds, join_address(host, config.gossip_listen_port or 7280)),
            cluster_id=config.cluster_id,
            # The node may listen where only its own host reaches it, and its seeds be elsewhere.
            listen_address="::" if ":" in config.listen_address else "0.0.0.0",  # noqa: S104
            interval=config.gossip_interval,
            protocol_version=config.gossip_protocol_version,
            gossip_port=config.gossip_listen_port or 7280,
        )

    @property
    def view(self) -> ClusterView | None:
        """The cluster as it is seen now; None while not open."""
        return None if self._agent is None else self._agent.view

    async def open(self, on_members: MembersListener, /) -> None:
        """Begin to gossip and to tell. `Io` when no port can be bound.

        Gives the members some intervals, and two seconds at least, to show that they are alive.
        With none that is known to be dead it takes two or three intervals.
        """
        if self._agent is not None:
            return
        listen = await listen_ip(self._listen)
        settings = AgentSettings(
            node_id=f"client-{socket.gethostname().partition('.')[0]}-{token_hex(4)}",
            generation=time.time_ns(),
            listen=listen,
            port=0,
            # Never told to anybody: those who are asked answer to where the question came from.
            advertise=listen,
            gossip=self._gossip,
            seeds=self._seeds,
        )
        tell = _Teller(on_members)

        def hear(view: ClusterView) -> None:
            tell(view)
            others = [member for member in view.members if not member.is_self]
            if others and all(member.is_live for member in others):
                self._settled.set()

        self._settled.clear()
        agent = GossipAgent(settings, {}, hear)
        await agent.open()
        self._agent = agent
        with suppress(TimeoutError):
            bound = max(_SETTLE * self._gossip.interval, _SETTLE_LEAST)
            await asyncio.wait_for(self._settled.wait(), bound)

    async def close(self) -> None:
        """Leave the cluster. Idempotent."""
        agent, self._agent = self._agent, None
        if agent is not None:
            await agent.close()


def gossip_client(
    config: NodeConfig,
    *,
    allow_writes: bool = False,
    options: ClientOptions | None = None,
    listener: EventListener | None = None,
) -> RoutingClient:
    """Return a client whose backends are the members of the node's cluster.

    What `proxy.primary` and `proxy.replicas` name are backends as well. `open` takes two or three
    gossip intervals, until the members are known.
    """
    return RoutingClient.from_config(
        config,
        allow_writes=allow_writes,
        options=options,
        listener=listener,
        members=GossipSource.from_config(config),
    )
