"""Choice among many: as right as among few, and remembered only for a moment."""

from __future__ import annotations

from random import Random

import pytest

from proxy.routing.catalogue import RPCS
from proxy.routing.consistency import Need
from proxy.routing.freshness import Freshness
from proxy.routing.members import Backend, BackendRole, BackendState, Facts, Load, Snapshot
from proxy.routing.selection import Choice, Route, choose
from proxy.routing.view import Policy, Shortlists, View

READ, NEED, NOW = RPCS["ListSplits"], Need(max_lag=1.0), 100.0
COUNT = 1_000


class Many:
    """A primary and a thousand replicas that are all too old, until told else."""

    def __init__(self, zone: str = "") -> None:
        replicas = [
            Backend(
                f"r{n}",
                BackendRole.REPLICA,
                BackendState.SERVING,
                facts=Facts(zone="a" if n < 100 else "b"),
            )
            for n in range(COUNT)
        ]
        primary = Backend("p", BackendRole.PRIMARY, BackendState.SERVING)
        self.snapshot = Snapshot.of([primary, *replicas])
        self.freshness = {f"r{n}": Freshness(NOW - 60.0, 1) for n in range(COUNT)}
        self.loads: dict[str, Load] = {}
        self.shortlists: Shortlists = {}
        self.policy = Policy(zone=zone)
        self.rng = Random(1)

    def freshen(self, *numbers: int) -> None:
        for number in numbers:
            self.freshness[f"r{number}"] = Freshness(NOW, 5)

    def choose(self, now: float = NOW, tried: frozenset[str] = frozenset()) -> Choice:
        view = View(
            self.snapshot,
            self.loads,
            self.freshness,
            now,
            True,
            self.policy,
            self.shortlists,
        )
        choice = choose(READ, view, self.rng, tried, NEED)
        assert choice is not None
        return choice

    def found(self, count: int = 300, now: float = NOW) -> set[str]:
        return {self.choose(now).backend.address for _ in range(count)}


@pytest.mark.parametrize("fresh", [(7,), (7, 8), (1, 500, 999), tuple(range(0, COUNT, 50))])
def test_the_few_that_are_fresh_are_all_found(fresh: tuple[int, ...]) -> None:
    many = Many()
    many.freshen(*fresh)
    assert many.found() == {f"r{n}" for n in fresh}


def test_none_that_is_fresh_is_a_fallback() -> None:
    assert {Many().choose().route for _ in range(50)} == {Route.FALLBACK}


def test_all_that_are_fresh_are_used() -> None:
    many = Many()
    many.freshen(*range(COUNT))
    assert len(many.found(20_000)) > 990


def test_what_turned_fresh_is_seen_a_moment_later() -> None:
    many = Many()
    assert many.choose().route is Route.FALLBACK
    many.freshen(3)
    assert many.choose(NOW + 0.101).backend.address == "r3"


def test_what_turned_old_is_not_taken_from_memory() -> None:
    many = Many()
    many.freshen(3)
    assert many.choose().backend.address == "r3"
    many.freshness["r3"] = Freshness(NOW - 60.0, 5)
    assert many.choose().route is Route.FALLBACK


def test_what_left_is_not_taken_from_memory() -> None:
    many = Many()
    many.freshen(3)
    assert many.choose().backend.address == "r3"
    many.snapshot = many.snapshot.with_state("r3", BackendState.DOWN, NOW)
    assert many.choose().route is Route.FALLBACK


def test_what_was_tried_is_not_taken_from_memory() -> None:
    many = Many()
    many.freshen(3, 4)
    many.found()
    tried = frozenset({"r3"})
    assert {many.choose(tried=tried).backend.address for _ in range(50)} == {"r4"}


def test_a_zone_goes_first_among_many_too() -> None:
    many = Many(zone="a")
    many.freshen(5, 500)
    assert many.found() == {"r5"}
    many.freshness["r5"] = Freshness(None, None)
    assert many.found() == {"r500"}


def test_the_less_busy_of_two_wins_from_memory_too() -> None:
    many = Many()
    many.freshen(3, 4)
    many.loads = {"r3": Load(5), "r4": Load(1)}
    picks = [many.choose().backend.address for _ in range(300)]
    # Two draws may be the same one; the busier is then taken, seldom.
    assert picks.count("r4") > 280


def test_memory_is_bounded() -> None:
    many = Many()
    for number in range(1_000):
        view = View(many.snapshot, {}, many.freshness, NOW, True, many.policy, many.shortlists)
        choose(READ, view, many.rng, need=Need(max_lag=number / 1_000))
    assert len(many.shortlists) <= 64
