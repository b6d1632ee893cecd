"""A hundred seeded clusters on a network that loses, doubles, delays and splits.

How many rounds agreement takes after healing, with 30% of all datagrams still lost: in a round a
node begins 3 exchanges and is drawn into 3. The answer of one gets through with 0.7², its last
message with 0.7³, so that a node is told news by 3 * 0.49 + 3 * 0.34 = 2.5 others a round: news
reach 3.5 times as many nodes each round, log2(n) / log2(3.5) = 0.55 * log2(n) rounds, and one node
is passed over in a round with e^-2.5 = 0.08, twice over in the last few nodes' case. Before, nodes
that take each other for dead must make contact: each asks a dead one or a seed with a probability
that falls with n, but all of them together at least one a round, which fails with 1 - 0.7² = 0.51:
10 rounds leave 10^-3. After it, three rising heartbeats make a node live: 3 more. So 16 + 2 *
log2(n): with 800 other seeds it took 10 at most.
"""

from __future__ import annotations

from math import ceil, log2
from random import Random

import pytest

from proxy.gossip.cluster import GossipSettings
from tests.simulation.gossip_world import Network, World, states_at, tombstones

SEEDS = 100
GROUPS = 10
# Short enough for members and tombstones to be forgotten while there is trouble.
SHORT = GossipSettings(member_grace=20.0, key_grace=6.0)


def bound(size: int) -> int:
    """Return how many rounds agreement may take after healing."""
    return 16 + 2 * ceil(log2(size))


def size_of(seed: int) -> int:
    """Return how many nodes a seed has: 100 in one, 40 in another, most often a handful."""
    if seed % 50 == 49:
        return 100 if seed == 99 else 40
    rng = Random(seed)
    return rng.randrange(8, 21) if rng.random() < 0.1 else rng.randrange(2, 8)


def trouble(world: World, size: int, seconds: float) -> None:
    """Let things go wrong for a while; write all the time."""
    rng, end = world.rng, world.now + seconds
    while world.now < end:
        match rng.randrange(8):
            case 0:
                world.split(rng.randrange(2, 4))
            case 1:
                world.heal()
            case 2 if len(world.nodes) > 1:
                world.kill(rng.choice(sorted(world.nodes)))
            case 3:
                down = sorted(set(range(size)) - set(world.nodes))
                name = rng.choice(down or sorted(world.nodes))
                if not down:
                    world.kill(name)
                world.start(name)
            case _:
                for _ in range(rng.randrange(1, 10)):
                    world.write(rng.choice(sorted(world.nodes)))
        world.run(rng.uniform(0.5, 6.0))


def recover(world: World, size: int) -> None:
    """End all trouble but the loss; the seeds come back, some others stay away."""
    world.heal()
    for name in range(min(3, size)):
        if name not in world.nodes:
            world.start(name)


@pytest.mark.parametrize("group", range(GROUPS))
def test_all_live_nodes_agree_after_trouble(group: int) -> None:
    states = 0
    for seed in range(group, SEEDS, GROUPS):
        size = size_of(seed)
        world = World(seed, size, SHORT, Network())
        try:
            if size <= 20:
                world.run_until(world.agree, bound(size))
            trouble(world, size, 6.0 if size > 20 else 45.0)
            states += world.check()
            recover(world, size)
            world.run_until(world.agree, bound(size))
            states += world.check()
        except AssertionError as error:
            raise AssertionError(f"seed {seed}, {size} nodes, at {world.now}: {error}") from error
    assert states > 200


@pytest.mark.parametrize(("seed", "size"), [(1, 4), (2, 6), (1013, 6), (1052, 8)])
def test_what_is_forgotten_stays_forgotten(seed: int, size: int) -> None:
    """Tombstones and dead members go everywhere, and neither they nor what they hid comes back.

    A node may learn of a dead member just before others fall silent about it, half a grace period
    after its death, and then keeps it for a whole one. In the last two seeds a cluster that follows
    chitchat to the letter serves a deleted key for ever.
    """
    world = World(seed, size, SHORT, Network())
    trouble(world, size, 60.0)
    recover(world, size)
    world.run_until(world.agree, bound(size))
    seen = {each: set(states_at(each)) for each in world.nodes.values()}
    world.run(1.5 * SHORT.member_grace + 40.0)
    assert world.agree()
    assert world.check() == len(world.nodes) ** 2
    assert not any(tombstones(each) for each in world.nodes.values())
    running = {each.id for each in world.nodes.values()}
    for node in world.nodes.values():
        assert set(states_at(node)) == running
        assert node.cluster.snapshot()
        assert seen[node] >= running
    world.run(SHORT.member_grace)
    assert all(set(states_at(node)) == running for node in world.nodes.values())


@pytest.mark.parametrize(("size", "loss"), [(2, 0.3), (5, 0.3), (12, 0.3), (12, 0.0)])
def test_the_dead_are_found_in_time_and_the_living_never_are(size: int, loss: float) -> None:
    """Silence may last eight times the mean interval that a node has seen of another.

    The intervals of 60 s add up to 60 s at most, so that n of them give 8 * (60 + 25) / (n + 5).
    The first seen of the last heartbeats are as old as they took to get round, some log2(size)
    rounds, and a tick passes before silence is noticed.
    """
    world = World(size, size, GossipSettings(), Network(loss=loss))
    world.run_until(world.agree, bound(size))
    for _ in range(30):
        world.run(2.0)
        assert world.agree(), "a living member was taken for dead"
    victim = world.kill(size - 1)
    killed, searching = world.now, set(world.nodes)
    timeouts = {name: world.timeout_of(name, victim) for name in searching}
    # Two heartbeats of three came through, directly or by others: 40 intervals, 15.1 s.
    assert max(timeouts.values()) <= 8 * (60 + 25) / (40 + 5)
    while searching:
        world.run(0.5)
        silence = world.now - killed
        for name in sorted(searching):
            seen = world.nodes[name].cluster.view().get(victim.id.node_id)
            assert seen is not None
            if not seen.is_live:
                searching.remove(name)
                assert silence > timeouts[name] / 2
            assert silence < timeouts[name] + log2(size) + 1.5
