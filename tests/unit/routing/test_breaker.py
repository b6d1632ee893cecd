"""When a breaker opens, for how long, and what closes it."""

from __future__ import annotations

from random import Random

import pytest

from proxy.routing.breaker import Breaker, BreakerPolicy, BreakerState

CLOSED, OPEN, HALF_OPEN = BreakerState.CLOSED, BreakerState.OPEN, BreakerState.HALF_OPEN
POLICY = BreakerPolicy()


def after(outcomes: str, breaker: Breaker | None = None, now: float = 0.0) -> Breaker:
    """Play `+` for a success, `-` for a failure."""
    found = breaker or Breaker()
    for outcome in outcomes:
        is_good = outcome == "+"
        found = found.succeeded() if is_good else found.failed(now, POLICY, Random(1))
    return found


@pytest.mark.parametrize(
    ("outcomes", "state"),
    [
        ("", CLOSED),
        ("+", CLOSED),
        ("--", CLOSED),
        ("---", OPEN),
        ("--+--", CLOSED),
        ("--+---", OPEN),
        # Half of many calls fail, never three in a row.
        ("+-" * 4, CLOSED),
        ("--+" * 12, OPEN),
        # One in four is not enough.
        ("+++-" * 50, CLOSED),
    ],
)
def test_what_opens_a_breaker(outcomes: str, state: BreakerState) -> None:
    assert after(outcomes).state is state


def test_a_pause_is_drawn_from_the_upper_half() -> None:
    ends = []
    for seed in range(100):
        breaker = Breaker()
        for _ in range(3):
            breaker = breaker.failed(10.0, POLICY, Random(seed))
        ends.append(breaker.until)
    assert min(ends) >= 10.25
    assert max(ends) <= 10.5
    assert len(set(ends)) > 50


def test_an_open_breaker_lets_nothing_through_until_its_pause_is_over() -> None:
    breaker = after("---")
    assert not breaker.allows(breaker.until - 0.001)
    assert breaker.allows(breaker.until)


@pytest.mark.parametrize("outcome", ["+", "-"])
def test_calls_from_before_it_opened_say_nothing(outcome: str) -> None:
    breaker = after("---")
    assert after(outcome, breaker) is breaker


def half_open(openings: int = 1) -> Breaker:
    breaker = Breaker(OPEN, openings=openings, until=5.0)
    return breaker.begun(5.0, POLICY)


def test_one_trial_at_a_time() -> None:
    breaker = half_open()
    assert breaker.state is HALF_OPEN
    assert not breaker.allows(5.001)
    # A trial that is never heard of does not keep the backend out for good.
    assert breaker.allows(5.0 + POLICY.trial_time)


def test_a_trial_that_succeeds_closes_it() -> None:
    assert half_open().succeeded().state is CLOSED


def test_each_trial_that_fails_doubles_the_pause_up_to_a_bound() -> None:
    pauses = []
    breaker = after("---")
    for _ in range(12):
        breaker = breaker.begun(breaker.until, POLICY)
        now = breaker.until
        breaker = breaker.failed(now, POLICY, Random(1))
        pauses.append(breaker.until - now)
    assert pauses[0] == pytest.approx(pauses[1] / 2)
    assert pauses == sorted(pauses)
    assert 5.0 <= pauses[-1] <= 10.0


def test_earlier_openings_are_remembered_until_it_has_gone_well_for_a_while() -> None:
    closed = half_open(openings=3).succeeded()
    assert closed.openings == 3
    assert after("---", closed).openings == 4
    assert after("+" * 8, closed).openings == 3
    assert after("+" * 9, closed).openings == 0


def test_a_new_connection_ends_the_pause() -> None:
    assert after("---").reconnected(0.01).allows(0.01)
    closed = after("--")
    assert closed.reconnected(1.0) is closed


def test_a_call_on_a_closed_breaker_changes_nothing() -> None:
    breaker = after("--")
    assert breaker.begun(1.0, POLICY) is breaker
