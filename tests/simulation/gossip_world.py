"""A network of gossiping members on a clock that only the simulation moves.

Datagrams are lost, doubled, delayed and overtaken; the network splits and heals; members are killed
and started again. Owners write and delete keys all the while, and every state that any member
holds is compared with what its owner wrote.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from heapq import heappop, heappush
from ipaddress import IPv4Address
from itertools import count
from random import Random

from proxy.gossip.blocks import BlockCodec
from proxy.gossip.cluster import GossipCluster, GossipSettings, MemberRecord, Outgoing
from proxy.gossip.identity import Endpoint, MemberId
from proxy.gossip.messages import DELETED, SET

KEYS = [f"key-{number}" for number in range(6)]


@dataclass(frozen=True)
class Network:
    """How bad the network is. Delays are up to so many seconds."""

    loss: float = 0.3
    doubled: float = 0.1
    delay: float = 0.4


class Owner:
    """One run of one node, and everything it ever wrote: (key, value or None) by version."""

    def __init__(self, cluster: GossipCluster, name: int) -> None:
        self.cluster = cluster
        self.name = name
        self.id = cluster.self_id
        self.log: dict[int, tuple[str, str | None]] = {}
        self.is_up = True

    @property
    def record(self) -> MemberRecord:
        """The node's own state."""
        record = self.cluster.record_of(self.id)
        assert record is not None
        return record

    def write(self, key: str, value: str | None, now: float) -> None:
        """Set a key, or delete it."""
        before = self.record.max_version
        if value is None:
            self.cluster.delete(key, now)
        else:
            self.cluster.set(key, value)
        if self.record.max_version > before:
            self.log[before + 1] = (key, value)


def states_at(node: Owner) -> list[MemberId]:
    """Return whose keys a node holds."""
    return [each.member_id for each in node.cluster.snapshot()]


def tombstones(node: Owner) -> int:
    """Return how many deleted keys a node holds."""
    records = (record for each in node.cluster.snapshot() for record in each.records)
    return sum(record.status == DELETED for record in records)


def summary(record: MemberRecord) -> tuple[dict[str, str], int]:
    """Return the keys that a reader sees, and the highest version."""
    keys = {each.key: each.value for each in record.records if each.status == SET}
    return keys, record.max_version


class World:
    """All members of a cluster, and what is between them."""

    def __init__(self, seed: int, size: int, settings: GossipSettings, network: Network) -> None:
        self.rng = Random(seed)
        self.settings = settings
        self.network = network
        self.now = 1_000.0
        self.codec = BlockCodec()
        # Every run that ever was, by identity.
        self.owners: dict[MemberId, Owner] = {}
        self.nodes: dict[int, Owner] = {}
        # The side of the network that a node is on.
        self.side: dict[Endpoint, int] = {}
        self.sent = 0
        self._values = count()
        self._order = count()
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        for name in range(size):
            self.start(name)

    # Time

    def at(self, seconds: float, action: Callable[[], None]) -> None:
        """Do something so many seconds from now."""
        heappush(self._events, (self.now + seconds, next(self._order), action))

    def run(self, seconds: float) -> None:
        """Let time pass."""
        end = self.now + seconds
        while self._events[0][0] <= end:
            self.now, _, action = heappop(self._events)
            action()
        self.now = end

    def run_until(self, condition: Callable[[], bool], most: int) -> int:
        """Let rounds pass until a condition holds; return how many. Fail after `most` of them."""
        for rounds in range(most + 1):
            if condition():
                return rounds
            self.run(self.settings.interval)
        raise AssertionError(f"not within {most} rounds")

    # Nodes

    def start(self, name: int) -> Owner:
        """Start a node, or start it again with a new generation."""
        generation = 1_700_000_000_000 + int(self.now * 1000)
        address = MemberId(f"node-{name:03}", generation, IPv4Address(0x0A000000 + name), 7280)
        cluster = GossipCluster(
            address,
            self.settings,
            now=self.now,
            rng=Random(self.rng.random()),
            codec=self.codec,
        )
        owner = self.nodes[name] = self.owners[address] = Owner(cluster, name)
        self.side.setdefault(address.endpoint, 0)
        owner.write("enabled_services", "metastore_read_replica", self.now)
        owner.write("grpc_advertise_addr", f"{address.ip}:7281", self.now)
        owner.write("readiness", "READY", self.now)
        self.at(self.rng.random() * self.settings.interval, lambda: self.tick(owner))
        return owner

    def kill(self, name: int) -> Owner:
        """Stop a node without a word."""
        owner = self.nodes.pop(name)
        owner.is_up = False
        return owner

    def tick(self, owner: Owner) -> None:
        """Let a node gossip, and again an interval later as long as it is up."""
        if owner.is_up:
            seeds = [self.owners_endpoint(name) for name in (0, 1, 2)]
            self.send(owner, owner.cluster.tick(self.now, seeds))
            self.at(self.settings.interval * self.rng.uniform(0.95, 1.05), lambda: self.tick(owner))

    @staticmethod
    def owners_endpoint(name: int) -> Endpoint:
        """Return where a node is, whether it is up or not."""
        return str(IPv4Address(0x0A000000 + name)), 7280

    def write(self, name: int) -> None:
        """Let a node change one of its keys."""
        key = self.rng.choice(KEYS)
        value = None if self.rng.random() < 0.4 else f"value-{next(self._values)}"
        self.nodes[name].write(key, value, self.now)

    # The network

    def split(self, sides: int) -> None:
        """Split the network at random."""
        for endpoint in self.side:
            self.side[endpoint] = self.rng.randrange(sides)

    def heal(self) -> None:
        """Make it one network again."""
        self.side = dict.fromkeys(self.side, 0)

    def send(self, sender: Owner, datagrams: list[Outgoing]) -> None:
        """Carry datagrams as well as the network does."""
        source, rng, network = sender.id.endpoint, self.rng, self.network
        for to, data in datagrams:
            self.sent += 1
            for _ in range(1 + (rng.random() < network.doubled)):
                if rng.random() >= network.loss and self.side[source] == self.side.get(to):
                    self.at(rng.random() * network.delay, partial(self.arrive, source, to, data))

    def arrive(self, source: Endpoint, to: Endpoint, data: bytes) -> None:
        """Hand a datagram to whoever listens at an address, and carry the answer."""
        node = self.nodes.get(int(IPv4Address(to[0])) & 0xFFFFFF)
        if node is not None:
            self.send(node, node.cluster.receive(self.now, data, source))

    # What must hold

    def agree(self) -> bool:
        """Tell whether every node knows every other one as live, with exactly its keys."""
        nodes = self.nodes.values()
        truth = {each.id: summary(each.record) for each in nodes}
        for owner in nodes:
            live = {each.node_id for each in owner.cluster.view().members if each.is_live}
            if not live >= {each.node_id for each in truth}:
                return False
            for member_id, expected in truth.items():
                record = owner.cluster.record_of(member_id)
                if record is None or summary(record) != expected:
                    return False
        return True

    def timeout_of(self, name: int, other: Owner) -> float:
        """Return how long a node may hear nothing of another before it takes it for dead."""
        seconds = self.nodes[name].cluster.timeout_of(other.id)
        assert seconds is not None
        return seconds

    def check(self) -> int:
        """Compare every state held anywhere with what its owner wrote; return how many."""
        states = 0
        for node in self.nodes.values():
            for record in node.cluster.snapshot():
                self.check_record(record)
                states += 1
        return states

    def check_record(self, record: MemberRecord) -> None:
        """Nothing invented, and nothing visible whose deletion is known."""
        log = self.owners[record.member_id].log
        assert record.max_version <= max(log)
        for key, value, version, status in record.records:
            assert log[version] == (key, None if status == DELETED else value)
            later = [n for n in range(version + 1, record.max_version + 1) if log[n][0] == key]
            assert not later, f"{key} at {version} came back: it was written again at {later}"
