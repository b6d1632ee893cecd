"""A member of a cluster as one state machine: datagrams and ticks in, datagrams and views out.

Facts: `server.rs` and `lib.rs` of chitchat. An exchange is SYN (what I know, in short), SYN-ACK
(what you lack, and what I know), ACK (what you lack). Nobody remembers what was sent, so that any
message may be lost, doubled, late or invented.
"""

from __future__ import annotations

import math
from collections import Counter, deque
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from random import Random
from typing import Final, NamedTuple

from proxy.gossip.blocks import BlockCodec
from proxy.gossip.identity import DecodeError, Endpoint, MemberId
from proxy.gossip.limits import Count, Event, EventKind, Limits
from proxy.gossip.messages import (
    VERSIONS,
    Ack,
    KeyRecord,
    MessageKind,
    NodeDelta,
    Syn,
    SynAck,
    decode,
    header,
    join_digest,
)
from proxy.gossip.reconcile import build_delta
from proxy.gossip.registry import Member, Registry
from proxy.gossip.state import Applied, MemberRecord, cost, is_sound
from proxy.gossip.view import ClusterView
from proxy.gossip.wire import MAX_DATAGRAM, NOTHING, SUMMARY, Digest, write_string

__all__ = [
    "ClusterView",
    "GossipCluster",
    "GossipSettings",
    "KeyRecord",
    "MemberRecord",
    "Outgoing",
]

# How many peers are asked in a tick, besides a dead one and a seed.
FANOUT: Final = 3
# Bytes that a digest may take of a datagram. Chitchat sets no limit and fails near the datagram's
# end; the rest is for the delta, and for the cluster's name.
DIGEST_ROOM: Final = 60_000
MAX_NAME: Final = 1_024
MAX_OWN_KEY: Final = 4_096
_MAX_EVENTS: Final = 1_000


class Outgoing(NamedTuple):
    """A datagram to send. Never longer than 65,507 bytes."""

    to: Endpoint
    data: bytes


@dataclass(frozen=True, slots=True)
class GossipSettings:
    """How a node gossips. Times are in seconds; the defaults are Quickwit's.

    `protocol_version` (0 or 1) is that of the exchanges this node begins; it answers in the one it
    was asked in. `interval` is how often `tick` is called. An observer tells nobody of itself: it
    is answered, but no other node ever knows of it. Raise ValueError for what cannot be.
    """

    cluster_id: str = "quickwit-default-cluster"
    interval: float = 1.0
    protocol_version: int = 0
    member_grace: float = 900.0
    key_grace: float = 900.0
    limits: Limits = field(default_factory=Limits)
    is_observer: bool = False

    def __post_init__(self) -> None:
        """Check what would make every datagram wrong."""
        if self.protocol_version not in VERSIONS:
            raise ValueError(f"gossip protocol version {self.protocol_version} is neither 0 nor 1")
        if not 0.0 < self.interval < math.inf:
            raise ValueError(
                f"gossip interval {self.interval!r} is not a positive number of seconds"
            )
        if len(self.cluster_id.encode()) > MAX_NAME:
            raise ValueError(f"cluster_id is longer than {MAX_NAME} bytes")


class GossipCluster:
    """All that a node knows of its cluster, and how gossip changes it. Not for several threads.

    No clock and no socket: `now` is seconds on a monotonic clock.
    """

    def __init__(
        self,
        self_id: MemberId,
        settings: GossipSettings,
        *,
        now: float,
        rng: Random,
        keys: Mapping[str, str] | None = None,
        codec: BlockCodec | None = None,
    ) -> None:
        """Begin with the node's own keys, in this order. Raise ValueError as `set` does.

        Clusters of one thread may share a `codec`.
        """
        if len(self_id.node_id.encode()) > settings.limits.node_id:
            raise ValueError(f"node_id is longer than {settings.limits.node_id} bytes")
        self.counters: Counter[Count] = Counter()
        self.self_id = self_id
        self.settings = settings
        self._rng = rng
        self._codec = codec or BlockCodec()
        self._cluster_name = write_string(settings.cluster_id)
        self._registry = Registry(
            self_id,
            now=now,
            limits=settings.limits,
            interval=settings.interval,
            grace=settings.member_grace,
            counters=self.counters,
        )
        self._me = self._registry.me
        # What is leaving is in no digest and no delta.
        self._me.is_leaving = settings.is_observer
        self._events: deque[Event] = deque(maxlen=_MAX_EVENTS)
        self._told: set[tuple[EventKind, str]] = set()
        self._view: ClusterView | None = None
        for key, value in (keys or {}).items():
            self.set(key, value)

    # The node's own keys

    def set(self, key: str, value: str) -> None:
        """Write a key of this node; nothing happens if it has this value.

        Raise ValueError when key and value together exceed 4,096 bytes.
        """
        size = len(key.encode()) + len(value.encode())
        if size > MAX_OWN_KEY:
            raise ValueError(f"gossip key {key[:64]!r} has {size} bytes, more than {MAX_OWN_KEY}")
        self._me.state.set(key, value)

    def delete(self, key: str, now: float) -> None:
        """Delete a key of this node; nothing happens if it has no such key."""
        self._me.state.delete(key, now)

    # Gossip

    def tick(self, now: float, seeds: Collection[Endpoint] = ()) -> list[Outgoing]:
        """Do what is due each interval: choose peers to ask, notice the dead, forget what is old.

        `seeds` are (ip, port) pairs; the node's own address among them is harmless.
        """
        peers = self._choose_peers(seeds)
        self._me.heartbeat += 1
        for member in self._registry.members.values():
            member.state.collect(now, self.settings.key_grace)
        version = self.settings.protocol_version
        syn = b""
        if peers:
            digest = self._digest(version)
            syn = header(version, MessageKind.SYN) + digest + self._cluster_name
        self._registry.refresh(now)
        self.counters[Count.SENT] += len(peers)
        return [Outgoing(peer, syn) for peer in peers]

    def receive(self, now: float, data: bytes, source: Endpoint) -> list[Outgoing]:
        """Take a datagram in; return the answer, if any, to `source`. Never raises."""
        self.counters[Count.RECEIVED] += 1
        try:
            message = decode(data, self._codec)
        except DecodeError:
            self.counters[Count.MALFORMED] += 1
            return []
        self._me.heartbeat += 1
        match message:
            case Syn(version, digest, cluster_id):
                answer = self._answer(version, digest, cluster_id, now, source)
            case SynAck(version, digest, delta):
                self._registry.report(digest, now)
                self._apply(delta, digest, now, source)
                room = MAX_DATAGRAM - 4
                answer = header(version, MessageKind.ACK) + self._delta(digest, room)
            case Ack(_, delta):
                self._apply(delta, {}, now, source)
                return []
            case _:
                self.counters[Count.BAD_CLUSTER] += 1
                self._tell(EventKind.BAD_CLUSTER, source)
                return []
        self.counters[Count.SENT] += 1
        return [Outgoing(source, answer)]

    def _answer(
        self, version: int, digest: Digest, cluster_id: str, now: float, source: Endpoint
    ) -> bytes:
        """Return the answer to a SYN."""
        if cluster_id != self.settings.cluster_id:
            self.counters[Count.WRONG_CLUSTER] += 1
            self._tell(EventKind.WRONG_CLUSTER, source, cluster_id[:MAX_NAME])
            return header(version, MessageKind.BAD_CLUSTER)
        self._registry.report(digest, now)
        own = self._digest(version)
        room = MAX_DATAGRAM - 4 - len(own)
        return header(version, MessageKind.SYN_ACK) + own + self._delta(digest, room)

    def _choose_peers(self, seeds: Collection[Endpoint]) -> list[Endpoint]:
        """Return whom to ask: some that live, at times one that is dead, at times a seed."""
        mine, rng = self._me.endpoint, self._rng
        others = [each for each in self._registry.ordered() if each.endpoint != mine]
        # Dictionaries, as sets have no order that a seeded run could repeat.
        live = list(dict.fromkeys(each.endpoint for each in others if each.is_live))
        dead = list(dict.fromkeys(each.endpoint for each in others if not each.is_live))
        sources = list(dict.fromkeys(seed for seed in seeds if seed[:2] != mine))
        pool = live or dead
        chosen: list[Endpoint] = list(rng.sample(pool, min(FANOUT, len(pool))))
        has_seed = any(seed in chosen for seed in sources)
        if dead and len(dead) / (len(live) + 1) > rng.random():
            chosen.append(rng.choice(dead))
        if sources and (not has_seed or len(live) < len(sources)):
            known = len(live) + len(dead)
            if not live or len(sources) / known > rng.random():
                chosen.append(rng.choice(sources))
        return list(dict.fromkeys(chosen))

    def _digest(self, version: int) -> bytes:
        """Return the encoded digest of all members but those that are leaving."""
        pack = SUMMARY.pack
        members = [each for each in self._registry.ordered() if not each.is_leaving]
        entries = [
            each.raw + pack(each.heartbeat, each.state.last_gc_version, each.state.max_version)
            for each in members
        ]
        digest = join_digest(entries, version, self._codec)
        if len(digest) <= DIGEST_ROOM:
            return digest
        self.counters[Count.DIGESTS_CUT] += 1
        self._tell(EventKind.DIGEST_CUT, None, f"{len(members)} members, {len(digest)} bytes")
        return self._cut_digest(members, entries, version)

    def _cut_digest(self, members: list[Member], entries: list[bytes], version: int) -> bytes:
        """Return a digest that fits: of this node, then of the living, then of the latest heard."""
        order = sorted(range(len(members)), key=lambda each: self._rank(members[each]))
        kept = len(order)
        while True:
            chosen = [entries[each] for each in sorted(order[:kept])]
            digest = join_digest(chosen, version, self._codec)
            if len(digest) <= DIGEST_ROOM or kept == 1:
                return digest
            # What is left of 60,000 bytes of entries does not grow past them by a few too many.
            kept = max(1, int(kept * min(0.98, DIGEST_ROOM / len(digest))))

    def _rank(self, member: Member) -> tuple[bool, bool, float]:
        last = member.sampler.last
        return member is not self._me, not member.is_live, 0.0 if last is None else -last

    def _delta(self, digest: Digest, budget: int) -> bytes:
        """Return the encoded delta against a digest."""
        states = (
            (each.raw, each.state) for each in self._registry.ordered() if not each.is_leaving
        )
        return build_delta(states, digest, budget, rng=self._rng, codec=self._codec)

    def _apply(
        self, delta: Iterable[NodeDelta], digest: Digest, now: float, source: Endpoint
    ) -> None:
        """Take over what a delta brings of others; nobody else writes this node's state."""
        limits, counters, room = self.settings.limits, self.counters, self._room()
        for node in delta:
            member = self._registry.members.get(node.raw)
            if member is None:
                counters[Count.UNKNOWN_DELTAS] += 1
                continue
            if member is self._me:
                counters[Count.OWN_DELTAS] += 1
                self._tell(EventKind.OWN_ID, source)
                continue
            state = member.state
            before = state.size
            sent_version = digest.get(node.raw, NOTHING)[2]
            applied = state.apply(node, now, limits, room, sent_version)
            room -= state.size - before
            if applied is Applied.RESET:
                member.heartbeat = 0
                counters[Count.RESETS] += 1
                self._events.append(Event(EventKind.RESET, source, member.id.node_id))
            elif applied is not Applied.APPLIED:
                counters[Count.REJECTED_DELTAS] += 1
                continue
            if state.max_version < node.max_version:
                counters[Count.KEYS_DROPPED] += 1

    def _room(self) -> int:
        """Return how many bytes of keys may be added in all."""
        used = sum(each.state.size for each in self._registry.members.values())
        return self.settings.limits.total_bytes - used

    # What is known

    def view(self) -> ClusterView:
        """Return the members; the same object as long as nothing changed.

        Liveness changes only in `tick`, keys in `receive`, `merge`, `set` and `delete`.
        """
        members = tuple(each.view(is_self=each is self._me) for each in self._registry.current())
        known, duplicates = self._view, self._registry.duplicates()
        # Views of members are the same objects as before unless they changed.
        if known is None or known.members != members or known.duplicates != duplicates:
            cluster_id = self.settings.cluster_id
            self._view = known = ClusterView(cluster_id, self.self_id, members, duplicates)
        return known

    def timeout_of(self, member_id: MemberId) -> float | None:
        """Return the seconds of silence after which a member counts as dead; None if it does."""
        member = self._registry.members.get(member_id.raw)
        return None if member is None else member.sampler.timeout()

    def events(self) -> list[Event]:
        """Return what happened since the last call that is worth a log line, at most 1,000."""
        events = list(self._events)
        self._events.clear()
        return events

    def _tell(self, kind: EventKind, peer: Endpoint | None, detail: str = "") -> None:
        """Keep an event, the first time for a peer, whatever port it sends from."""
        about = (kind, peer[0] if peer else "")
        if about not in self._told and len(self._told) < _MAX_EVENTS:
            self._told.add(about)
            self._events.append(Event(kind, peer, detail))

    # FetchClusterState

    def snapshot(self) -> list[MemberRecord]:
        """Return the state of all members that have keys, tombstones included."""
        return [each.record() for each in self._registry.ordered() if len(each.state)]

    def record_of(self, member_id: MemberId) -> MemberRecord | None:
        """Return the state of one member, None if it is not known."""
        member = self._registry.members.get(member_id.raw)
        return None if member is None else member.record()

    def merge(self, now: float, records: Iterable[MemberRecord]) -> int:
        """Take over states that are newer than what is known; return how many.

        Not a sign of life: a member that is new here becomes live by its heartbeats. What is too
        large or contradicts itself is left to gossip.
        """
        return sum(self._merge(now, record) for record in records)

    def _merge(self, now: float, record: MemberRecord) -> bool:
        member_id, written, max_version, last_gc_version = record
        limits, raw = self.settings.limits, member_id.raw
        if raw == self._me.raw or self._registry.is_forgotten(raw):
            return False
        is_small = sum(map(cost, written)) <= min(limits.member_bytes, self._room())
        if not is_small or len(written) > limits.keys or not is_sound(record):
            return False
        member = self._registry.members.get(raw) or self._registry.add(member_id, now)
        if member is None:
            return False
        return member.state.replace(written, (last_gc_version, max_version), now)
