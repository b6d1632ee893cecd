"""What a node makes of who else stamps its database, and of what gossip says."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv4Address

import pytest

from proxy.alarms import GONE, MEMORY, OLDEST, ClusterAlarms
from proxy.gossip.identity import MemberId
from proxy.gossip.view import ClusterView, MemberView, member_view
from proxy.store.lag import Heartbeat, Writer

ME = Writer("me", "cluster-a", 100, "10.0.0.1:7280")
OTHER = Writer("other", "cluster-a", 90, "10.0.0.2:7280")
PATIENCE = 3.0

NO_SEEDS = "`peer_seeds` is not set: set it (or QW_PEER_SEEDS) to [10.0.0.2:7280]"
OTHER_CLUSTER = "its `cluster_id` is `cluster-b`, that of this node `cluster-a`"
SAME_NODE_ID = "two nodes have the `node_id` `me`"


def alarms(me: Writer = ME, *, has_seeds: bool = False) -> ClusterAlarms:
    return ClusterAlarms(me, has_seeds=has_seeds, patience=PATIENCE)


def stamp(
    found: ClusterAlarms, writer: Writer | None, *, seconds: int, start: float = 0.0
) -> tuple[str, ...]:
    """Let a writer stamp every second; return what is wrong in the end."""
    for now in range(seconds + 1):
        heartbeat = Heartbeat(1_000_000.0 + start + now, 1, writer)
        found.stamped(heartbeat, 0.1, start + now)
    return found.current(start + seconds)


def member(node_id: str, *, is_live: bool = True) -> MemberView:
    who = MemberId(node_id, 1, IPv4Address("10.0.0.9"), 7280)
    return member_view(who, {}, is_self=False, is_live=is_live)


def view(*members: MemberView, duplicates: tuple[str, ...] = ()) -> ClusterView:
    me = MemberId("me", 100, IPv4Address("10.0.0.1"), 7280)
    return ClusterView("cluster-a", me, members, duplicates)


@pytest.mark.parametrize(
    ("writer", "text"),
    [
        (OTHER, NO_SEEDS),
        (replace(OTHER, cluster_id="cluster-b"), OTHER_CLUSTER),
        (replace(OTHER, cluster_id="cluster-b", gossip_address=""), OTHER_CLUSTER),
        (replace(OTHER, node_id="me"), SAME_NODE_ID),
        (replace(OTHER, node_id="me", generation=110), SAME_NODE_ID),
        (replace(OTHER, node_id="me", cluster_id="cluster-b"), SAME_NODE_ID),
    ],
)
def test_a_node_that_goes_on_stamping_is_judged(writer: Writer, text: str) -> None:
    (problem,) = stamp(alarms(), writer, seconds=5)
    assert text in problem


@pytest.mark.parametrize(
    ("me", "has_seeds", "writer"),
    [
        # The node itself, and a stamp of an earlier version.
        (ME, False, ME),
        (ME, False, None),
        (ME, True, OTHER),
        # One that is in no cluster on purpose.
        (ME, False, replace(OTHER, gossip_address="")),
        (replace(ME, gossip_address=""), False, OTHER),
    ],
)
def test_what_is_in_order(me: Writer, has_seeds: bool, writer: Writer | None) -> None:
    assert stamp(alarms(me, has_seeds=has_seeds), writer, seconds=60) == ()


def test_a_seed_needs_no_seeds_itself() -> None:
    found = alarms()
    found.viewed(view(member("other")))
    assert stamp(found, OTHER, seconds=5) == ()
    found.viewed(view(member("other", is_live=False)))
    (problem,) = found.current(5.0)
    assert NO_SEEDS in problem


def test_gossip_is_given_time_to_find_the_other() -> None:
    assert stamp(alarms(), OTHER, seconds=int(PATIENCE)) == ()
    assert stamp(alarms(), OTHER, seconds=int(PATIENCE) + 1) != ()


@pytest.mark.parametrize("stamps", [1, 2])
def test_a_restart_raises_nothing(stamps: int) -> None:
    """The run before this one left its stamp, and one more may have been on its way."""
    found = alarms()
    before = replace(ME, generation=90, cluster_id="cluster-b")
    for now in range(60):
        found.stamped(Heartbeat(1000.0 + min(now, stamps - 1), 1, before), 0.1, float(now))
        assert found.current(float(now)) == ()


def test_a_standby_that_replays_the_past_raises_nothing() -> None:
    found = alarms()
    for now in range(20):
        heartbeat = Heartbeat(1000.0 + now, 1, replace(OTHER, cluster_id="cluster-b"))
        found.stamped(heartbeat, OLDEST + 0.1, float(now))
    assert found.current(20.0) == ()


def test_an_alarm_ends_when_the_other_has_gone() -> None:
    found = alarms()
    assert stamp(found, OTHER, seconds=5) != ()
    for now in range(6, 16):
        found.stamped(Heartbeat(1_000_005.0, 1, OTHER), 0.1, float(now))
    assert found.current(5.0 + GONE - 0.1) != ()
    assert found.current(5.0 + GONE) == ()


def test_an_alarm_ends_when_this_node_takes_over() -> None:
    found = alarms()
    assert stamp(found, OTHER, seconds=5) != ()
    found.stamped(Heartbeat(1_000_006.0, 1, ME), 0.1, 6.0)
    assert found.current(6.0) == ()


def test_gossip_tells_of_two_nodes_with_one_id() -> None:
    found = alarms(has_seeds=True)
    found.viewed(view(duplicates=("me", "other")))
    first, second = found.current(0.0)
    assert SAME_NODE_ID in first
    assert "two nodes have the `node_id` `other`" in second
    # The same from both sources is told once.
    assert stamp(found, replace(ME, generation=1), seconds=5) == (first, second)


def test_a_peer_of_another_cluster_is_named_for_as_long_as_it_refuses() -> None:
    found = alarms()
    found.refused("10.0.0.7:7280", 0.0)
    found.refusals(1, 0.0)
    (problem,) = found.current(MEMORY - 1.0)
    assert "the node at 10.0.0.7:7280 is of another cluster than `cluster-a`" in problem
    found.refusals(5, MEMORY - 1.0)
    assert found.current(MEMORY + 1.0) == (problem,)
    found.refusals(5, 2 * MEMORY)
    assert found.current(2 * MEMORY) == ()
