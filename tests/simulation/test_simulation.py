"""A thousand seeded schedules of failures against the pure parts of routing.

In each one promises are checked at every step (see `World`), and over all of it: never an
ineligible replica, never a second sending of a write, never more retries than the budget.
"""

from __future__ import annotations

import pytest

from tests.simulation.world import World

SCHEDULES = 1000
GROUPS = 20


@pytest.mark.parametrize("group", range(GROUPS))
def test_promises_hold_whatever_fails(group: int) -> None:
    replicas = answers = 0
    for seed in range(group, SCHEDULES, GROUPS):
        world = World(seed)
        try:
            world.run(until=8.0)
            retries = world.board.budget.spent
            assert retries <= 10 + 0.18 * world.board.budget.calls
            assert world.board.in_flight == world.board.fallbacks == 0
            assert all(load.in_flight == 0 for load in world.board.loads.values())
        except AssertionError as error:
            raise AssertionError(f"seed {seed} at {world.now:.3f} s: {error}") from error
        replicas += world.by_replica
        answers += world.answers
    # The schedules are not so bad that nothing is served, nor so good that nothing fails.
    assert 0 < replicas < answers


def test_in_a_long_outage_retries_stay_under_a_fifth_of_the_calls() -> None:
    world = World(1)
    for node in world.nodes.values():
        node.health = "sick"
    world.run(until=200.0)
    assert world.calls > 2000
    assert world.attempts > 0
    assert world.board.budget.spent <= 0.2 * world.board.budget.calls
