"""Which repeated lines are let through, and how many were not."""

from __future__ import annotations

from proxy.repeats import BURST, Repeats


def test_a_key_is_let_through_once_per_interval_and_says_how_often_it_was_not() -> None:
    repeats: Repeats[str] = Repeats(interval=10)
    assert [repeats.admit("down", "a", now) for now in (0, 1, 9.9, 10, 11)] == [
        0,
        None,
        None,
        2,
        None,
    ]


def test_what_was_held_back_of_several_keys_is_told_by_itself() -> None:
    repeats: Repeats[str] = Repeats(interval=10)
    assert [repeats.admit("down", key, 0) for key in "abab"] == [0, 0, None, None]
    assert repeats.admit("down", "a", 10) == 0
    assert repeats.due(10) == [("down", 2)]
    assert repeats.due(10) == []


def test_an_event_is_let_through_for_so_many_keys() -> None:
    repeats: Repeats[str] = Repeats(interval=10)
    admitted = [repeats.admit("slow", number, 0) for number in range(BURST + 5)]
    assert admitted == [0] * BURST + [None] * 5
    assert repeats.admit("other", 0, 0) == 0
    assert repeats.due(10) == [("slow", 5)]


def test_what_was_held_back_is_told_when_its_interval_is_over() -> None:
    repeats: Repeats[str] = Repeats(interval=10)
    for event, now in (("a", 0), ("a", 1), ("b", 2), ("c", 3), ("c", 4)):
        repeats.admit(event, "key", now)
    assert repeats.due(9) == []
    assert repeats.due(12) == [("a", 1)]
    assert repeats.due(13) == [("c", 1)]
    assert repeats.due(99) == []


def test_the_oldest_of_too_many_events_is_forgotten() -> None:
    repeats: Repeats[int] = Repeats(interval=10)
    assert {repeats.admit(number, "key", 0) for number in range(1001)} == {0}
    assert repeats.admit(0, "key", 0) == 0
    assert repeats.admit(1000, "key", 0) is None
