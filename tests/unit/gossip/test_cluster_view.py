"""What one member shows of the others, and what it takes of what it is sent."""

from __future__ import annotations

import math
from ipaddress import ip_address

import pytest

from proxy.gossip.cluster import (
    GossipSettings,
    KeyRecord,
    MemberRecord,
)
from proxy.gossip.identity import MemberId
from proxy.gossip.limits import Count, EventKind, Limits
from proxy.gossip.messages import Syn, SynAck, decode, encode
from tests.unit.gossip.making import SOMEBODY, gossiper, member
from tests.unit.gossip.talking import (
    CODEC,
    KEYS,
    ME,
    NAME,
    OTHER,
    PEER,
    give,
    hear,
    live,
    make_live,
)

# The view


def test_what_a_view_shows() -> None:
    node = gossiper(ME, keys={"readiness": "READY"})
    make_live(node, PEER)
    give(
        node,
        PEER,
        {
            "enabled_services": "metastore-read-replica,control_plane,novelty,metastore_router",
            "grpc_advertise_addr": "[2001:DB8::1]:7281",
            "readiness": "READY",
            "availability_zone": "zone-a",
            "indexer.task:01J": "noise",
        },
    )
    view = node.view()
    assert (view.cluster_id, view.self_id, view.duplicates) == (NAME, ME, ())
    peer = view.get("peer")
    assert peer is not None
    assert peer.services == {"metastore_read_replica", "control-plane"}
    assert (peer.grpc_address, peer.availability_zone) == ("[2001:db8::1]:7281", "zone-a")
    assert (peer.gossip_address, peer.generation) == ("10.0.0.2:7280", 1)
    assert (peer.is_live, peer.is_ready, peer.is_self) == (True, True, False)
    assert "indexer.task:01J" not in peer.keys
    # Without the two keys that Quickwit requires nobody is ready.
    assert (view.me.is_live, view.me.is_ready, view.me.is_self) == (True, False, True)


def test_a_view_is_the_same_object_until_something_changes() -> None:
    node = gossiper(ME)
    make_live(node, PEER)
    give(node, PEER, KEYS)
    before = node.view()
    hear(node, (PEER, 10), now=3.0)
    node.tick(3.0)
    assert node.view() is before
    node.set("readiness", "NOT_READY")
    after = node.view()
    assert after is not before
    assert after.get("peer") is before.get("peer")


def test_the_highest_generation_that_lives_stands_for_its_node() -> None:
    node = gossiper(ME)
    first, second = member("peer", 1, 2), member("peer", 2, 2)
    make_live(node, first)
    hear(node, (second, 1), now=3.0)
    assert [each.generation for each in node.view().members] == [1, 1]
    make_live(node, second, now=4.0, first=2)
    assert [each.generation for each in node.view().members] == [1, 2]
    # Both are dead: the highest.
    node.tick(100.0)
    assert [each.generation for each in node.view().members] == [1, 2]


@pytest.mark.parametrize("name", ["peer", "me"])
def test_two_processes_with_one_node_id_are_noticed(name: str) -> None:
    node = gossiper(member("me", 5))
    one, two = member(name, 4, 8), member(name, 6, 9)
    seconds = None
    for now in range(40):
        hear(node, (one, now + 1), (two, now + 1), now=float(now))
        node.tick(float(now))
        if seconds is None and node.view().duplicates:
            seconds = now
    assert node.view().duplicates == (name,)
    assert seconds == 15
    node.tick(100.0)
    assert node.view().duplicates == ()


def test_a_restart_is_no_duplicate() -> None:
    node = gossiper(ME)
    old, new = member("peer", 1, 2), member("peer", 2, 2)
    for now in range(60):
        # The old one's last heartbeats still come in by others, long after the new one started.
        heartbeats = [(old, min(now, 20) + (now > 32))]
        if now > 20:
            heartbeats.append((new, now))
        hear(node, *heartbeats, now=float(now))
        node.tick(float(now))
        assert node.view().duplicates == ()


# FetchClusterState


def test_a_snapshot_carries_over_to_another_node() -> None:
    node = gossiper(ME, keys=KEYS)
    node.delete("readiness", 0.0)
    hear(node, (OTHER, 1))
    (record,) = node.snapshot()
    assert record.records[-1] == ("readiness", "", 4, 1)
    new = gossiper(PEER)
    assert new.merge(0.0, [record]) == 1
    assert new.merge(0.0, [record]) == 0
    assert new.snapshot() == [record]
    assert live(new) == ["peer"]
    assert node.merge(0.0, [record._replace(max_version=9)]) == 0


@pytest.mark.parametrize(
    "record",
    [
        MemberRecord(PEER, (KeyRecord("a", "1", 0, 0),), 5, 0),
        MemberRecord(PEER, (KeyRecord("a", "1", 6, 0),), 5, 0),
        MemberRecord(PEER, (KeyRecord("a", "1", 2, 0), KeyRecord("b", "1", 2, 0)), 5, 0),
        MemberRecord(PEER, (KeyRecord("a", "1", 1, 3),), 5, 0),
        MemberRecord(PEER, (KeyRecord("a" * 65_536, "1", 1, 0),), 5, 0),
        MemberRecord(PEER, (), 2**64, 0),
        MemberRecord(PEER, (KeyRecord("a", "1" * 9_000_000, 1, 0),), 5, 0),
    ],
)
def test_a_snapshot_that_gossip_could_not_pass_on_is_left_out(record: MemberRecord) -> None:
    node = gossiper(ME)
    assert node.merge(0.0, [record]) == 0
    assert len(node.view().members) == 1


# Bounds


def test_large_clusters_have_their_digest_cut() -> None:
    """The node itself, those that live, and the ones heard of last come first."""
    node = gossiper(ME)
    many = [member(f"member-with-quite-a-long-name-{n:05}") for n in range(2_000)]
    for start in range(0, len(many), 500):
        hear(node, *((each, 1) for each in many[start : start + 500]))
    make_live(node, member("the-only-one-alive", host=4))
    for version, least in ((0, 750), (1, 1_900)):
        (sent,) = node.receive(9.0, encode(Syn(version, {}, NAME), CODEC), SOMEBODY)
        assert len(sent.data) <= 65_507
        assert isinstance(answer := decode(sent.data, CODEC), SynAck)
        assert least < len(answer.digest) <= 2_002
        assert {ME.raw, member("the-only-one-alive", host=4).raw} <= set(answer.digest)
    assert node.counters[Count.DIGESTS_CUT] > 0
    assert EventKind.DIGEST_CUT in [each.kind for each in node.events()]
    assert all(len(each.data) <= 65_507 for each in node.tick(10.0, [("10.0.0.9", 1)]))


def test_members_beyond_the_limits_are_dropped() -> None:
    node = gossiper(ME, limits=Limits(members=3, node_id=10))
    hear(node, (member("n" * 11), 1), (PEER, 1), (OTHER, 1), (member("fourth"), 1))
    assert [each.node_id for each in node.view().members] == ["fourth", "me", "other"]
    assert node.counters[Count.MEMBERS_DROPPED] == 2
    for who in (OTHER, member("fourth")):
        make_live(node, who, first=2)
    hear(node, (PEER, 1), (PEER, 2), now=3.0)
    assert live(node) == ["fourth", "me", "other"]
    assert node.counters[Count.MEMBERS_DROPPED] == 3
    assert node.merge(0.0, [MemberRecord(member("fifth"), (), 1, 0)]) == 0


def test_made_up_names_keep_no_newcomer_out() -> None:
    node = gossiper(ME, limits=Limits(members=100))
    make_live(node, OTHER)
    made_up = [(member(f"spoofed-{n}"), 1) for n in range(300)]
    hear(node, *made_up, now=3.0)
    hear(node, (PEER, 5), now=3.5)
    # They are handed round for a while by whoever took them in as well.
    for number in range(3):
        hear(node, *made_up, (OTHER, 9 + number), (PEER, 6 + number), now=4.0 + number)
    node.tick(7.0)
    assert live(node) == ["me", "other", "peer"]
    assert len(node.view().members) == 100


def test_keys_beyond_the_limits_are_dropped() -> None:
    node = gossiper(ME, limits=Limits(total_bytes=3 * 266))
    hear(node, (PEER, 1))
    give(node, PEER, {f"key-{n}": "value" for n in range(9)})
    assert [len(each.records) for each in node.snapshot()] == [3]
    assert node.counters[Count.KEYS_DROPPED] == 1


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: GossipSettings(protocol_version=2), "gossip protocol version 2 is neither 0"),
        (lambda: GossipSettings(interval=0.0), "gossip interval 0.0 is not a positive number"),
        (lambda: GossipSettings(interval=math.nan), "gossip interval nan is not a positive number"),
        (lambda: GossipSettings(cluster_id="c" * 1_025), "cluster_id is longer than 1024 bytes"),
        (lambda: gossiper(member("n" * 1_025)), "node_id is longer than 1024 bytes"),
        (lambda: gossiper(ME, keys={"k": "v" * 4_096}), "gossip key 'k' has 4097 bytes"),
        (lambda: member("n", -1), "generation -1 is not an unsigned 64-bit number"),
        (lambda: MemberId("n", 1, ip_address("fe80::1%eth0"), 1), "gossip address has a zone"),
        (lambda: MemberId("n", 1, ip_address("::1"), 65_536), "gossip port 65536 is not between"),
    ],
)
def test_what_cannot_be_sent_is_refused(make: object, message: str) -> None:
    assert callable(make)
    with pytest.raises(ValueError, match=message):
        make()
