"""What was, a few minutes back."""

from __future__ import annotations

import math

import pytest

from proxy.server.status.history import KEPT, MOST, History, Rates


def test_lags_are_kept_for_three_minutes_and_only_of_nodes_that_are_there() -> None:
    history = History()
    for second in range(KEPT + 20):
        history.note_lags({"a": float(second), "b": math.nan})
    assert len(history.lags("a")) == KEPT == 180
    assert history.lags("a")[-1] == KEPT + 19
    assert all(map(math.isnan, history.lags("b")))
    history.note_lags({"a": 1.0})
    assert history.lags("b") == ()


def test_of_many_nodes_only_some_are_kept() -> None:
    history = History()
    for _ in range(3):
        history.note_lags({f"node-{number:03}": 1.0 for number in range(MOST + 10)})
    assert history.lags(f"node-{MOST - 1:03}")
    assert history.lags(f"node-{MOST:03}") == ()


def test_rates_are_of_the_last_five_seconds() -> None:
    rates = Rates()
    assert rates.now == (0.0, 0.0)
    for second in range(10):
        rates.note(100.0 + second, 20 * second, second)
    assert rates.now == (20.0, 1.0)
    for second in range(10, 15):
        rates.note(100.0 + second, 180, 9)
    assert rates.now == (0.0, 0.0)
    assert rates.history() == [20.0] * 9 + [0.0] * 5


def test_a_clock_that_stands_still_divides_nothing_by_zero() -> None:
    rates = Rates()
    rates.note(100.0, 0, 0)
    rates.note(100.0, 5, 0)
    assert rates.now == (0.0, 0.0)
    assert math.isfinite(rates.history()[0])


def test_routes_that_are_gone_are_forgotten() -> None:
    history = History()
    history.note_backends(1.0, {"a": (1, 0), "b": (1, 0)})
    history.note_backends(2.0, {"a": (3, 0)})
    assert list(history.backends) == ["a"]
    assert history.backends["a"].now == (2.0, 0.0)


def test_a_trouble_begins_anew_after_a_break() -> None:
    history = History()
    assert history.note_troubles(1.0, ["a"]) == {"a": 1.0}
    assert history.note_troubles(2.0, ["b", "a"]) == {"b": 2.0, "a": 1.0}
    assert history.note_troubles(3.0, ["b"]) == {"b": 2.0}
    assert history.note_troubles(4.0, ["a"]) == {"a": 4.0}


@pytest.mark.parametrize(
    ("states", "since"),
    [(["ready", "ready"], 1.0), (["ready", "dead"], 2.0), (["ready", "", "ready"], 3.0)],
)
def test_a_state_is_dated(states: list[str], since: float) -> None:
    history = History()
    for now, state in enumerate(states, 1):
        found = history.note_states(float(now), {"a": state} if state else {})
    assert found == {"a": since}
