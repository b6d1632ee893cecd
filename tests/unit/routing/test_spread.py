"""How calls spread over replicas, with latencies drawn as they are on a busy machine."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from heapq import heappop, heappush
from itertools import count
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.routing.board import Board, Outcome
from proxy.routing.catalogue import RPCS
from proxy.routing.members import BackendRole, BackendState
from proxy.routing.selection import Choice

READ = RPCS["IndexMetadata"]
CALLS = 6_000


class Nodes:
    """Replicas in virtual time, and callers of which each calls again once it is answered.

    A call takes what its node takes at the moment, times noise: half of the calls are off by more
    than a third, one of a hundred by more than three times.
    """

    def __init__(self, means: Mapping[str, float], seed: int, noise: float = 0.5) -> None:
        self.means = dict(means)
        self.now = 0.0
        self.served: Counter[str] = Counter()
        self.most_in_flight: Counter[str] = Counter()
        self._noise = noise
        self._rng = Random(seed)
        self._board = Board(rng=Random(seed + 1))
        self._board.set_members(dict.fromkeys(means, BackendRole.REPLICA), 0.0)
        for name in means:
            self._board.set_state(name, BackendState.SERVING, 0.0)

    def run(self, callers: int, calls: int, meanwhile: Callable[[int], None] | None = None) -> None:
        order, ends = count(), list[tuple[float, int, Choice, float]]()
        for number in range(calls):
            if number >= callers:
                self.now, _, choice, began = heappop(ends)
                self._board.end(choice, Outcome.ANSWERED, self.now, self.now - began)
            if meanwhile is not None:
                meanwhile(number)
            choice_made = self._board.choose(READ, self.now)
            assert choice_made is not None
            name = choice_made.backend.address
            self._board.begin(choice_made, self.now)
            self.served[name] += 1
            in_flight = self._board.loads[name].in_flight
            self.most_in_flight[name] = max(self.most_in_flight[name], in_flight)
            took = self.means[name] * self._rng.lognormvariate(0.0, self._noise)
            heappush(ends, (self.now + took, next(order), choice_made, self.now))
        while ends:
            self.now, _, choice, began = heappop(ends)
            self._board.end(choice, Outcome.ANSWERED, self.now, self.now - began)

    def farthest_from_even(self) -> float:
        even = self.served.total() / len(self.means)
        return max(abs(self.served[name] / even - 1.0) for name in self.means)


@pytest.mark.parametrize("callers", [1, 2, 4, 16, 64])
@pytest.mark.parametrize("replicas", [2, 3, 5])
def test_equal_nodes_are_used_within_a_twentieth_of_even(callers: int, replicas: int) -> None:
    nodes = Nodes({f"r{n}": 0.004 for n in range(replicas)}, seed=1)
    nodes.run(callers, CALLS)
    assert nodes.farthest_from_even() < 0.05


@settings(max_examples=15, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    callers=st.sampled_from([1, 3, 8, 32]),
    noise=st.floats(0.0, 0.7),
    mean=st.floats(0.0002, 0.2),
)
def test_noise_never_makes_equal_nodes_uneven(
    seed: int, callers: int, noise: float, mean: float
) -> None:
    nodes = Nodes(dict.fromkeys(("r1", "r2", "r3"), mean), seed, noise)
    nodes.run(callers, CALLS)
    # Chance alone gives a share that is off by more than this in one of a million runs.
    assert nodes.farthest_from_even() < 0.075


@pytest.mark.parametrize("callers", [1, 4, 16, 64])
@pytest.mark.parametrize("factor", [0.75, 1.3])
def test_what_the_machine_favours_is_not_given_more(callers: int, factor: float) -> None:
    nodes = Nodes({"r1": 0.010, "r2": 0.010, "r3": 0.010 * factor}, seed=7, noise=0.3)
    nodes.run(callers, CALLS)
    assert nodes.farthest_from_even() < 0.05


def test_favours_that_change_hands_are_evened_out() -> None:
    nodes = Nodes({"r1": 0.010, "r2": 0.010, "r3": 0.010}, seed=8, noise=0.3)

    def favour(number: int) -> None:
        for n, name in enumerate(nodes.means):
            nodes.means[name] = 0.008 if number // 1_000 % 3 == n else 0.011

    nodes.run(16, CALLS, favour)
    assert nodes.farthest_from_even() < 0.05


@pytest.mark.parametrize("slow", ["r1", "r2", "r3"])
def test_one_caller_goes_evenly_to_nodes_of_nearly_the_same_speed(slow: str) -> None:
    means = {"r1": 0.010, "r2": 0.010, "r3": 0.010, slow: 0.012}
    nodes = Nodes(means, seed=2, noise=0.2)
    nodes.run(1, CALLS)
    assert nodes.farthest_from_even() < 0.05


@pytest.mark.parametrize(
    ("callers", "factor", "at_most"),
    [(1, 4.0, 0.55), (1, 20.0, 0.2), (16, 3.0, 0.7), (16, 6.0, 0.4), (16, 20.0, 0.2)],
)
def test_a_slow_node_gets_clearly_less_and_never_nothing(
    callers: int, factor: float, at_most: float
) -> None:
    nodes = Nodes({"r1": 0.004, "r2": 0.004, "slow": 0.004 * factor}, seed=3)
    nodes.run(callers, CALLS)
    share = nodes.served["slow"] / (CALLS / 3)
    assert 0.01 < share < at_most
    # What it does not get goes to the others in equal parts.
    assert nodes.served["r1"] == pytest.approx(nodes.served["r2"], rel=0.07)


@pytest.mark.parametrize("callers", [1, 16])
def test_a_node_that_was_slow_gets_its_share_back(callers: int) -> None:
    nodes = Nodes({"r1": 0.04, "r2": 0.04, "r3": 0.80}, seed=4)
    nodes.run(callers, 3_000)
    assert nodes.served["r3"] < 300
    nodes.means["r3"] = 0.04
    # Until it has been measured anew, and what it was not given is forgotten.
    nodes.run(callers, 2_000)
    nodes.served.clear()
    nodes.run(callers, CALLS)
    assert nodes.farthest_from_even() < 0.05


def test_one_slow_answer_does_not_cost_a_node_its_share() -> None:
    nodes = Nodes({"r1": 0.004, "r2": 0.004, "r3": 0.004}, seed=5)

    def stall(number: int) -> None:
        nodes.means["r3"] = 0.400 if number == 50 else 0.004

    nodes.run(4, CALLS, stall)
    assert nodes.farthest_from_even() < 0.05


def test_a_node_that_hangs_holds_no_more_than_half_of_the_callers() -> None:
    """It takes another call only while one that answers has as many under way."""
    nodes = Nodes({"r1": 0.004, "r2": 0.004, "hung": 1e6}, seed=6, noise=0.0)
    nodes.run(16, 1_000)
    assert nodes.most_in_flight["hung"] <= 8
    assert nodes.served["hung"] <= 8
