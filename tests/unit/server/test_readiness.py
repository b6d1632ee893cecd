"""The readiness vector: conditions, reasons, dampening, draining."""

from __future__ import annotations

from proxy.server.readiness import DAMPING, Readiness


def ready(*names: str) -> Readiness:
    readiness = Readiness(dict.fromkeys(names, "not yet"))
    for name in names:
        readiness.hold(name)
    return readiness


def test_it_starts_not_ready_with_the_reasons() -> None:
    readiness = Readiness({"schema": "not looked at", "probe": "not probed"})
    assert not readiness.is_ready
    assert readiness.failures == {"schema": "not looked at", "probe": "not probed"}


def test_it_is_ready_when_every_condition_holds() -> None:
    readiness = Readiness({"schema": "a", "probe": "b"})
    readiness.hold("schema")
    assert not readiness.is_ready
    readiness.hold("probe")
    assert readiness.is_ready
    assert readiness.failures == {}


def test_a_failure_counts_at_once() -> None:
    readiness = ready("schema", "probe")
    readiness.fail("schema", "migration 7 is missing")
    assert not readiness.is_ready
    assert readiness.failures == {"schema": "migration 7 is missing"}


def test_only_the_third_miss_in_a_row_makes_it_not_ready() -> None:
    readiness = ready("probe")
    for _ in range(DAMPING - 1):
        readiness.miss("probe", "timeout")
        assert readiness.is_ready
    readiness.miss("probe", "timeout")
    assert not readiness.is_ready


def test_a_good_probe_between_misses_starts_the_count_again() -> None:
    readiness = ready("probe")
    for _ in range(5):
        readiness.miss("probe", "timeout")
        readiness.miss("probe", "timeout")
        readiness.hold("probe")
    assert readiness.is_ready


def test_one_good_probe_makes_it_ready_again() -> None:
    readiness = ready("probe")
    for _ in range(DAMPING):
        readiness.miss("probe", "timeout")
    readiness.hold("probe")
    assert readiness.is_ready


def test_draining_is_final() -> None:
    readiness = ready("probe")
    readiness.drain()
    readiness.hold("probe")
    assert not readiness.is_ready
    assert readiness.failures == {"draining": "the node is shutting down"}


def test_listeners_hear_of_each_change_and_only_of_changes() -> None:
    readiness = Readiness({"probe": "not yet"})
    heard: list[bool] = []
    readiness.on_change(lambda state: heard.append(state.is_ready))
    readiness.hold("probe")
    readiness.hold("probe")
    readiness.fail("probe", "gone")
    readiness.drain()
    readiness.drain()
    assert heard == [False, True, False, False]
