"""Which run of a node stands for it, whatever heartbeats of earlier runs still go round."""

from __future__ import annotations

import pytest

from proxy.gossip.blocks import BlockCodec
from proxy.gossip.cluster import GossipCluster
from proxy.gossip.messages import Syn, encode
from tests.unit.gossip.making import SOMEBODY, digest_of, gossiper, member

CODEC = BlockCodec()
OLD, NEW = member("peer", 1, 2), member("peer", 2, 2)


def hear(node: GossipCluster, now: float, **heartbeats: int) -> tuple[int, bool]:
    """Tell a node of heartbeats; return which generation stands for the peer, and if it lives."""
    digest = digest_of(
        *(
            ({"old": OLD, "new": NEW}[name], heartbeat, 0, 0)
            for name, heartbeat in heartbeats.items()
        )
    )
    node.receive(now, encode(Syn(0, digest, "quickwit-default-cluster"), CODEC), SOMEBODY)
    node.tick(now)
    peer = node.view().get("peer")
    assert peer is not None
    return peer.generation, peer.is_live


def restarted() -> GossipCluster:
    """Return a node that has seen the old run live, die, and the new one live."""
    node = gossiper(member("me"))
    for now in range(40):
        found = hear(node, float(now), old=now + 1)
    assert found == (1, True)
    assert hear(node, 52.0, old=40) == (1, False)
    for now in range(53, 60):
        found = hear(node, float(now), old=40, new=now)
    assert found == (2, True)
    return node


@pytest.mark.parametrize("stragglers", [1, 2, 3])
def test_a_late_heartbeat_of_an_earlier_run_does_not_bring_it_back(stragglers: int) -> None:
    node = restarted()
    # Members that were frozen know a little more of the old run than those that saw it die.
    for number in range(stragglers):
        assert hear(node, 60.0 + number / 10, old=41 + number, new=60) == (2, True)
    # Nor does it when the new run dies as well.
    states = [hear(node, now, new=60) for now in (61.0, 65.0, 94.0)]
    assert states == [(2, True), (2, True), (2, False)]


def test_an_earlier_run_that_surely_lives_stands_for_its_node() -> None:
    node = restarted()
    found = {hear(node, float(now), old=now, new=59) for now in range(60, 110)}
    assert found == {(2, True), (1, True)}
    assert hear(node, 110.0, old=110, new=59) == (1, True)
