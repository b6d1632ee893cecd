"""The node as a member of its cluster: what it tells of itself, and what it knows of the others."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from proxy.alarms import ClusterAlarms
from proxy.config import NodeConfig
from proxy.gossip import keys
from proxy.gossip.addresses import advertised_ip, listen_ip
from proxy.gossip.agent import AgentSettings, GossipAgent
from proxy.gossip.cluster import GossipSettings, MemberRecord
from proxy.gossip.identity import IpAddress, MemberId
from proxy.gossip.limits import Count, Event, EventKind
from proxy.gossip.seeds import text_of
from proxy.gossip.view import ClusterView, member_view
from proxy.roles import Role
from proxy.routing.targets import join_address
from proxy.store.lag import Heartbeat, Writer
from proxy.version import VERSION

log = logging.getLogger(__name__)

# After NOT_READY a node goes on for so many intervals, so that callers have turned away.
FAREWELL: Final = 2.0
# Peers send something each interval; who hears nothing for so many of them has none.
_ALONE: Final = 5.0
# A lag that has become lower is told after so many seconds.
CALM: Final = 10.0
# How long a node that stamps the database may be unknown to gossip: intervals, and seconds more.
_PATIENCE: Final = (5.0, 2.0)

ViewListener = Callable[[ClusterView], None]

_last_generation = 0


def next_generation() -> int:
    """Return a number for one run of a node: nanoseconds since 1970, larger than any before."""
    global _last_generation  # noqa: PLW0603 - what must grow over all nodes of this process
    _last_generation = max(_last_generation + 1, time.time_ns())
    return _last_generation


@dataclass(frozen=True, slots=True)
class Endpoints:
    """Where others reach the node, each as `ip:port`; `gossip` is empty without gossip."""

    grpc: str
    rest: str
    gossip: str


class CalmLag:
    """The step of a replica's lag that is told: up at once, down after `CALM` seconds below.

    Pure; see `keys.LAG_STEPS`. So gossip stays quiet while a lag wobbles about a step.
    """

    def __init__(self) -> None:
        self._since: dict[str, float] = {}
        self.told = ""

    def note(self, lag: float | None, now: float) -> bool:
        """Take note of a lag in seconds, None for unknown; return whether `told` has changed."""
        step = keys.lag_at_most(lag)
        self._since[step] = now
        self._since = {one: when for one, when in self._since.items() if now - when < CALM}
        highest = max(self._since, key=_rank)
        changed = highest != self.told
        self.told = highest
        return changed


def _rank(step: str) -> float:
    seconds = keys.lag_of(step)
    return float("inf") if seconds is None else seconds


class Membership:
    """Gossips from `open` to `close`, where `proxy.gossip` is on; else knows only itself.

    `view` is None before `open`. Listeners are called on the event loop.
    """

    def __init__(self, config: NodeConfig) -> None:
        self._config = config
        self._interval = config.gossip_interval
        self.generation = next_generation()
        self._ready = False
        self._lag = CalmLag()
        self._agent: GossipAgent | None = None
        self._alone: ClusterView | None = None
        self._listeners: list[ViewListener] = []
        self._alarms: ClusterAlarms | None = None
        self._raised: tuple[str, ...] = ()
        self.endpoints: Endpoints | None = None

    @property
    def is_on(self) -> bool:
        """Whether the node gossips, by its config."""
        return self._config.proxy.gossip

    @property
    def view(self) -> ClusterView | None:
        """The cluster as this node sees it now; the node alone without gossip."""
        return self._alone if self._agent is None else self._agent.view

    @property
    def counters(self) -> Mapping[str, int]:
        """What gossip counts, by name."""
        return {} if self._agent is None else self._agent.counters

    def count(self) -> Mapping[str, int]:
        """Return how many members there are, by state; see `ClusterView.counts`."""
        return {} if self.view is None else self.view.counts()

    @property
    def alarms(self) -> tuple[str, ...]:
        """What is wrong with how this node and others are set up; each says what to do."""
        return () if self._alarms is None else self._alarms.current(time.monotonic())

    @property
    def writer(self) -> Writer:
        """What the heartbeat tells of this node."""
        config, endpoints = self._config, self.endpoints
        gossip = "" if endpoints is None else endpoints.gossip
        return Writer(config.node_id, config.cluster_id, self.generation, gossip)

    @property
    def farewell(self) -> float:
        """Seconds to go on after NOT_READY, until the others know; 0 when nobody is there."""
        # By what is heard, not by who is alive: a member that is new is not known to be, yet.
        is_alone = self._agent is None or self._agent.silence > _ALONE * self._interval
        return 0.0 if is_alone else FAREWELL * self._interval

    def on_view(self, listener: ViewListener) -> Callable[[], None]:
        """Call `listener` now, if there is a view, and after each change; return what ends that."""
        self._listeners.append(listener)
        if self.view is not None:
            listener(self.view)
        return lambda: self._listeners.remove(listener)

    async def open(self, *, grpc_port: int, rest_port: int) -> None:
        """Find the address that others are told, and join. `Io`, saying what to set, if it fails.

        The ports are those that are bound. Idempotent.
        """
        if self.endpoints is not None:
            return
        config = self._config
        listen = await listen_ip(config.listen_address)
        advertise = await advertised_ip(config.advertise_address, listen)
        grpc, rest = (join_address(str(advertise), port) for port in (grpc_port, rest_port))
        own = own_keys(config, grpc=grpc, rest=rest) | self._changing()
        gossip_port = 0
        if self.is_on:
            agent = GossipAgent(self._settings(listen, advertise), own, self._heard, self._met)
            await agent.open()
            self._agent, gossip_port = agent, agent.port
        gossip = join_address(str(advertise), gossip_port) if self.is_on else ""
        self.endpoints = Endpoints(grpc, rest, gossip)
        self._alarms = ClusterAlarms(
            self.writer,
            has_seeds=bool(config.peer_seeds),
            patience=_PATIENCE[0] * self._interval + _PATIENCE[1],
        )
        if self._agent is None:
            self._stand_alone(own, advertise)
        else:
            # What was told while the port was being bound.
            self._agent.set_keys(self._changing())
            self._heard(self._agent.view)

    async def close(self) -> None:
        """Leave: the others notice by our silence. Idempotent."""
        if self._agent is not None:
            await self._agent.close()

    def set_ready(self, ready: bool) -> None:
        """Tell the others at once whether they may send calls."""
        if ready is not self._ready:
            self._ready = ready
            self._publish()

    def note_lag(self, lag: float | None) -> None:
        """Tell the others, coarsely, how old this replica's data may be; None is unknown."""
        if self._lag.note(lag, time.monotonic()):
            self._publish()

    def note_heartbeat(self, heartbeat: Heartbeat, age: float) -> None:
        """Look at who stamps the database this node is on; `age` is by the database's clock."""
        if self._alarms is not None:
            self._alarms.stamped(heartbeat, age, time.monotonic())
            self._raise_alarms()

    async def snapshot(self) -> list[MemberRecord]:
        """Return the state of all members as gossip has it; none without gossip."""
        return [] if self._agent is None else await self._agent.snapshot()

    def _settings(self, listen: IpAddress, advertise: IpAddress) -> AgentSettings:
        config = self._config
        return AgentSettings(
            node_id=config.node_id,
            generation=self.generation,
            listen=listen,
            port=config.gossip_listen_port,
            advertise=advertise,
            seeds=config.peer_seeds,
            gossip=GossipSettings(
                cluster_id=config.cluster_id,
                interval=self._interval,
                protocol_version=config.gossip_protocol_version,
            ),
        )

    def _changing(self) -> dict[str, str]:
        """The keys that change while the node runs."""
        told = {keys.READINESS: keys.READY if self._ready else keys.NOT_READY}
        if self._config.role.is_read_only:
            told[keys.LAG_AT_MOST] = self._lag.told or keys.UNKNOWN_LAG
        return told

    def _publish(self) -> None:
        if self._agent is not None:
            self._agent.set_keys(self._changing())
        elif self._alone is not None:
            me = self._alone.self_id
            self._stand_alone({**self._alone.me.keys, **self._changing()}, me.ip)

    def _stand_alone(self, own: Mapping[str, str], advertise: IpAddress) -> None:
        me = MemberId(self._config.node_id, self.generation, advertise, 0)
        member = member_view(me, own, is_self=True, is_live=True)
        self._alone = ClusterView(self._config.cluster_id, me, (member,))
        self._heard(self._alone)

    def _heard(self, view: ClusterView) -> None:
        if self._alarms is not None:
            self._alarms.viewed(view)
            self._raise_alarms()
        for listener in tuple(self._listeners):
            listener(view)

    def _met(self, event: Event) -> None:
        if event.kind is EventKind.BAD_CLUSTER and self._alarms is not None:
            peer = "an unknown address" if event.peer is None else text_of(event.peer)
            self._alarms.refused(peer, time.monotonic())
            self._raise_alarms()

    def _raise_alarms(self) -> None:
        if self._alarms is None:
            return
        now = time.monotonic()
        self._alarms.refusals(self.counters.get(Count.BAD_CLUSTER, 0), now)
        before, self._raised = self._raised, self._alarms.current(now)
        for alarm in self._raised:
            if alarm not in before:
                log.error(alarm)


def own_keys(config: NodeConfig, *, grpc: str, rest: str) -> dict[str, str]:
    """Return the keys that a run of a node never changes, in the order in which they are written.

    Facts: Quickwit writes `enabled_services` and `grpc_advertise_addr` first, its readers need both
    in the first state that they see, and take no change of them while the run lasts.
    """
    is_router = config.role is Role.ROUTER
    services = config.proxy.router.advertise_as if is_router else (config.role.value,)
    own = {
        keys.ENABLED_SERVICES: ",".join(services),
        keys.GRPC_ADVERTISE_ADDR: grpc,
        keys.READINESS: keys.NOT_READY,
    }
    if config.availability_zone:
        own[keys.AVAILABILITY_ZONE] = config.availability_zone
    return own | {
        keys.STANDALONE_COMPACTORS: "false",
        keys.ROLE: config.role.value,
        keys.VERSION: VERSION,
        keys.REST_ADVERTISE_ADDR: rest,
    }
