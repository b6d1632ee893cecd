"""How the tests of one gossip member talk to it."""

from __future__ import annotations

from proxy.gossip.blocks import BlockCodec
from proxy.gossip.cluster import (
    GossipCluster,
    KeyRecord,
)
from proxy.gossip.identity import MemberId
from proxy.gossip.messages import Ack, Message, NodeDelta, Syn, SynAck, decode, encode
from proxy.gossip.wire import Digest
from tests.unit.gossip.making import SOMEBODY, digest_of, member

CODEC = BlockCodec()
NAME = "quickwit-default-cluster"
ME, PEER, OTHER = member("me", host=1), member("peer", host=2), member("other", host=3)
KEYS = {
    "enabled_services": "metastore",
    "grpc_advertise_addr": "10.0.0.2:7281",
    "readiness": "READY",
}


def ask(node: GossipCluster, message: Message, now: float = 0.0) -> Message | None:
    """Hand a message to a node; return its answer, which must go to whom it came from."""
    answers = node.receive(now, encode(message, CODEC), SOMEBODY)
    assert all(to == SOMEBODY for to, _ in answers)
    return decode(answers[0].data, CODEC) if answers else None


def hear(node: GossipCluster, *heartbeats: tuple[MemberId, int], now: float = 0.0) -> Digest:
    """Tell a node of heartbeats; return the digest in its answer."""
    digest = digest_of(*((each, heartbeat, 0, 0) for each, heartbeat in heartbeats))
    answer = ask(node, Syn(0, digest, NAME), now)
    assert isinstance(answer, SynAck)
    return answer.digest


def make_live(node: GossipCluster, who: MemberId, now: float = 0.0, first: int = 1) -> None:
    """Let a node hear three rising heartbeats, one a second, and look at who lives."""
    for number in range(3):
        hear(node, (who, first + number), now=now + number)
    node.tick(now + 2.0)


def give(node: GossipCluster, who: MemberId, keys: dict[str, str]) -> None:
    """Give a node a member's keys."""
    records = [KeyRecord(key, value, n, 0) for n, (key, value) in enumerate(keys.items(), 1)]
    assert ask(node, Ack(0, [NodeDelta(who.raw, 0, 0, len(records), records)])) is None


def live(node: GossipCluster) -> list[str]:
    """Return the node ids of those that live."""
    return [each.node_id for each in node.view().members if each.is_live]
