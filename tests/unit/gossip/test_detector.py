"""How long a member may be silent: the figures of chitchat's constants."""

from __future__ import annotations

import pytest

from proxy.gossip.detector import Sampler


def heard(intervals: int, seconds: float = 1.0) -> Sampler:
    """Return what is known of a member that spoke so many times after the first."""
    sampler = Sampler()
    for number in range(intervals + 1):
        sampler.add(100.0 + number * seconds)
    return sampler


@pytest.mark.parametrize(
    ("intervals", "timeout"), [(1, 34.67), (10, 18.67), (60, 10.46), (1_000, 8.16), (5_000, 8.16)]
)
def test_the_timeout_is_eight_mean_intervals(intervals: int, timeout: float) -> None:
    sampler = heard(intervals)
    assert sampler.timeout() == pytest.approx(timeout, abs=0.005)
    assert sampler.last == 100.0 + intervals
    assert sampler.is_alive(sampler.last + timeout - 0.01)
    assert not sampler.is_alive(sampler.last + timeout + 0.01)


@pytest.mark.parametrize(
    ("prior", "intervals", "timeout"), [(1.0, 1, 8.0), (0.2, 10, 5.87), (9.0, 1, 34.67)]
)
def test_a_shorter_prior_finds_members_that_have_just_started(
    prior: float, intervals: int, timeout: float
) -> None:
    sampler = Sampler(prior)
    for number in range(intervals + 1):
        sampler.add(float(number))
    assert sampler.timeout() == pytest.approx(timeout, abs=0.005)


def test_one_heartbeat_proves_nothing() -> None:
    assert not Sampler().is_alive(0.0)
    assert not heard(0).is_alive(100.0)
    assert heard(0).timeout() is None
    assert heard(1).is_alive(101.0)


def test_an_interval_beyond_ten_seconds_is_not_recorded_but_moves_the_clock() -> None:
    sampler = heard(0)
    sampler.add(110.1)
    assert not sampler.is_alive(110.1)
    sampler.add(120.1)
    # (10 + 25) / 6 * 8
    assert sampler.timeout() == pytest.approx(46.67, abs=0.005)


def test_the_window_is_a_thousand_intervals() -> None:
    sampler = heard(1_000, 10.0)
    for number in range(1_500):
        sampler.add(20_000.0 + number)
    # All the slow ones have left it.
    assert sampler.timeout() == pytest.approx(8 * (1_000 + 25) / 1_005)


def test_a_dead_member_needs_one_more_interval_only() -> None:
    sampler = heard(60)
    sampler.clear()
    assert not sampler.is_alive(160.0)
    sampler.add(169.0)
    assert sampler.timeout() == pytest.approx(8 * (9 + 25) / 6)
