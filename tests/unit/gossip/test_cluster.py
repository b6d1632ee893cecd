"""One member's part in exchanges, whom it asks, and whom it takes for alive."""

from __future__ import annotations

import pytest

from proxy.gossip.cluster import (
    KeyRecord,
    MemberRecord,
    Outgoing,
)
from proxy.gossip.limits import Count, EventKind, Limits
from proxy.gossip.messages import Ack, BadCluster, NodeDelta, Syn, SynAck, decode, encode
from tests.unit.gossip.making import SOMEBODY, digest_of, gossiper, member
from tests.unit.gossip.talking import (
    CODEC,
    KEYS,
    ME,
    NAME,
    OTHER,
    PEER,
    ask,
    give,
    hear,
    live,
    make_live,
)

# The exchange


@pytest.mark.parametrize("version", [0, 1])
def test_an_answer_has_the_version_of_the_question(version: int) -> None:
    for own in (0, 1):
        node = gossiper(ME, protocol_version=own)
        assert isinstance(answer := ask(node, Syn(version, {}, NAME)), SynAck)
        assert answer.version == version
        assert ask(node, SynAck(version, {}, [])) == Ack(version, [])
        assert ask(node, Syn(version, {}, "another")) == BadCluster(version)
        (syn,) = node.tick(0.0, [("10.0.0.9", 7280)])
        assert isinstance(sent := decode(syn.data, CODEC), Syn)
        assert (sent.version, sent.cluster_id, syn.to) == (own, NAME, ("10.0.0.9", 7280))


def test_an_exchange_tells_both_what_they_lack() -> None:
    one, two = gossiper(ME, keys={"a": "1"}), gossiper(PEER, keys={"b": "2"})
    (syn,) = one.tick(0.0, [PEER.endpoint])
    (syn_ack,) = two.receive(0.0, syn.data, ME.endpoint)
    (ack,) = one.receive(0.0, syn_ack.data, PEER.endpoint)
    assert two.receive(0.0, ack.data, ME.endpoint) == []
    assert isinstance(told := decode(ack.data, CODEC), Ack)
    assert [each.raw for each in told.delta] == [ME.raw]
    for node in (one, two):
        assert {each.node_id: dict(each.keys) for each in node.view().members} == {
            "me": {"a": "1"},
            "peer": {"b": "2"},
        }
        assert live(node) == [node.self_id.node_id]


def test_a_heartbeat_starts_at_one_and_rises_with_each_tick_and_message() -> None:
    node = gossiper(ME)
    assert hear(node)[ME.raw] == (2, 0, 0)
    node.tick(0.0)
    assert hear(node)[ME.raw][0] == 4
    node.receive(0.0, b"rubbish", SOMEBODY)
    assert hear(node)[ME.raw][0] == 5


def test_another_cluster_is_refused_and_told_once() -> None:
    node = gossiper(ME)
    for port in (1, 2):
        syn = Syn(0, digest_of((PEER, 1, 0, 0)), "another")
        node.receive(0.0, encode(syn, CODEC), ("192.0.2.7", port))
        node.receive(0.0, encode(BadCluster(0), CODEC), ("192.0.2.7", port))
    assert (node.counters[Count.WRONG_CLUSTER], node.counters[Count.BAD_CLUSTER]) == (2, 2)
    assert [(each.kind, each.detail) for each in node.events()] == [
        (EventKind.WRONG_CLUSTER, "another"),
        (EventKind.BAD_CLUSTER, ""),
    ]
    assert node.events() == []
    assert len(node.view().members) == 1


def test_nobody_else_writes_our_state() -> None:
    node = gossiper(ME, keys={"a": "1"})
    give(node, ME, {"a": "2", "b": "3"})
    assert dict(node.view().me.keys) == {"a": "1"}
    assert node.counters[Count.OWN_DELTAS] == 1
    assert [each.kind for each in node.events()] == [EventKind.OWN_ID]


def test_states_come_from_digests_never_from_deltas() -> None:
    node = gossiper(ME)
    give(node, PEER, KEYS)
    assert node.view().get("peer") is None
    assert node.counters[Count.UNKNOWN_DELTAS] == 1


# Liveness


def test_a_member_lives_after_three_rising_heartbeats() -> None:
    node = gossiper(ME)
    for now, heartbeat, expected in [
        (0.0, 7, ["me"]),
        (1.0, 7, ["me"]),
        (2.0, 8, ["me"]),
        (3.0, 8, ["me"]),
        (4.0, 9, ["me", "peer"]),
        # Of somebody else's digest, late.
        (5.0, 3, ["me", "peer"]),
    ]:
        hear(node, (PEER, heartbeat), now=now)
        node.tick(now)
        assert live(node) == expected, now
    # One interval of 2 s, a prior of 1 s: 8 * (2 + 5) / 6 = 9.33 s.
    node.tick(4.0 + 9.3)
    assert live(node) == ["me", "peer"]
    node.tick(4.0 + 9.4)
    assert live(node) == ["me"]
    # It returns by one interval of at most 10 s.
    hear(node, (PEER, 10), now=20.0)
    node.tick(20.0)
    assert live(node) == ["me"]
    hear(node, (PEER, 11), now=29.0)
    node.tick(29.0)
    assert live(node) == ["me", "peer"]


def test_heartbeat_zero_proves_nothing() -> None:
    node = gossiper(ME)
    for now, heartbeat in enumerate((0, 0, 1, 2)):
        hear(node, (PEER, heartbeat), now=float(now))
    node.tick(4.0)
    assert live(node) == ["me"]
    hear(node, (PEER, 3), now=4.0)
    node.tick(4.0)
    assert live(node) == ["me", "peer"]


def test_a_reset_makes_the_next_heartbeat_a_first_one() -> None:
    node = gossiper(ME)
    make_live(node, PEER)
    reset = NodeDelta(PEER.raw, 9, 0, 10, [KeyRecord("a", "1", 10, 0)])
    ask(node, Ack(0, [reset]))
    assert node.counters[Count.RESETS] == 1
    assert [(each.kind, each.detail) for each in node.events()] == [(EventKind.RESET, "peer")]
    assert hear(node)[PEER.raw] == (0, 9, 10)
    assert hear(node, (PEER, 2))[PEER.raw] == (2, 9, 10)


def test_the_dead_are_told_of_for_half_the_grace_period_and_then_forgotten() -> None:
    node = gossiper(ME)
    give_to = digest_of((PEER, 5, 0, 0))
    ask(node, Syn(0, give_to, NAME))
    give(node, PEER, KEYS)
    node.tick(100.0)
    # Found dead at 100 s: it has but one heartbeat.
    for now, is_told in ((550.0, True), (551.0, False), (999.0, False)):
        node.tick(now)
        answer = ask(node, Syn(0, {}, NAME))
        assert isinstance(answer, SynAck)
        assert (PEER.raw in answer.digest) is is_told
        assert (PEER.raw in [each.raw for each in answer.delta]) is is_told
        peer = node.view().get("peer")
        assert peer is not None
        assert peer.is_leaving is not is_told
        assert node.view().counts() == {"live": 1, "ready": 0, "dead": 1, "zombie": not is_told}
    node.tick(1_000.0)
    assert node.view().get("peer") is None
    assert node.counters[Count.MEMBERS_FORGOTTEN] == 1
    # Others may name it a while longer, and FetchClusterState too.
    assert PEER.raw not in hear(node, (PEER, 5))
    assert node.merge(0.0, [MemberRecord(PEER, (KeyRecord("a", "1", 99, 0),), 99, 0)]) == 0
    assert PEER.raw in hear(node, (PEER, 6))


def test_five_thousand_members_are_remembered_when_forgotten() -> None:
    node = gossiper(ME, limits=Limits(members=10_000))
    gone = [member(f"gone-{n:04}") for n in range(5_001)]
    for start in range(0, len(gone), 1_000):
        hear(node, *((each, 5) for each in gone[start : start + 1_000]))
    node.tick(0.0)
    node.tick(900.0)
    assert len(node.view().members) == 1
    digest = hear(node, *((each, 5) for each in gone[-1_000:]))
    assert len(digest) == 1
    digest = hear(node, *((each, 5) for each in gone[:1_000]))
    assert set(digest) == {ME.raw, gone[0].raw}


# Whom to ask


def test_up_to_three_live_members_are_asked_and_at_times_one_that_is_dead() -> None:
    node = gossiper(ME)
    alive = [member(f"live-{n}", host=10 + n) for n in range(6)]
    for now in range(3):
        hear(node, *((each, now + 1) for each in alive), (OTHER, 1), now=float(now))
    node.tick(2.0)
    rounds = [[sent.to for sent in node.tick(2.0)] for _ in range(700)]
    assert all(3 <= len(each) <= 4 for each in rounds)
    with_dead = [each for each in rounds if OTHER.endpoint in each]
    # One that is dead and six that live: 1 in 7.
    assert 70 <= len(with_dead) <= 130
    asked = {to for each in rounds for to in each}
    assert asked == {each.endpoint for each in (*alive, OTHER)}


def test_seeds_are_asked_when_nobody_lives_and_now_and_then_later() -> None:
    node = gossiper(ME)
    seeds = [ME.endpoint, ("10.0.0.99", 7280), ("10.0.0.98", 7280)]
    first = [tuple(node.tick(0.0, seeds)) for _ in range(20)]
    assert {sent.to for sents in first for sent in sents} == set(seeds[1:])
    assert all(len(each) == 1 for each in first)
    assert node.tick(0.0, [ME.endpoint]) == []
    for now in range(3):
        hear(node, *((member(f"m{n}", host=n), now + 1) for n in range(10, 30)), now=float(now))
    node.tick(2.0)
    rounds = [[sent.to for sent in node.tick(2.0, seeds)] for _ in range(700)]
    # Two seeds and twenty members: 1 in 10.
    assert 45 <= sum(len(each) == 4 for each in rounds) <= 100
    assert all(isinstance(each, Outgoing) for each in node.tick(2.0, seeds))
