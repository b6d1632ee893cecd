"""The snapshot of the backends, and loads."""

from __future__ import annotations

import pytest

from proxy.routing.members import Backend, BackendRole, BackendState, Facts, Load, Snapshot

P, R = BackendRole.PRIMARY, BackendRole.REPLICA


def test_a_snapshot_is_in_order_and_knows_who_serves() -> None:
    snapshot = Snapshot.of(
        [
            Backend("r2", R, BackendState.SERVING),
            Backend("r1", R, BackendState.DOWN),
            Backend("p1", P, BackendState.SERVING),
            Backend("p2", P, BackendState.NOT_SERVING),
        ]
    )
    assert [b.address for b in snapshot.backends] == ["p1", "p2", "r1", "r2"]
    assert [b.address for b in snapshot.primaries] == ["p1", "p2"]
    assert [b.address for b in snapshot.serving_primaries] == ["p1"]
    assert [b.address for b in snapshot.replicas()] == ["r1", "r2"]
    assert [b.address for b in snapshot.serving_replicas] == ["r2"]
    assert snapshot.get("r1") == Backend("r1", R, BackendState.DOWN)
    assert snapshot.get("r3") is None


def test_an_address_occurs_once() -> None:
    with pytest.raises(ValueError, match="twice"):
        Snapshot.of([Backend("a", P), Backend("a", R)])


def test_a_change_makes_a_new_snapshot_and_says_when() -> None:
    before = Snapshot.of([Backend("p", P), Backend("r", R)])
    after = before.with_state("r", BackendState.SERVING, 7.0)
    assert after.get("r") == Backend("r", R, BackendState.SERVING, 7.0)
    assert after.get("p") is before.get("p")
    assert before.serving_replicas == ()


@pytest.mark.parametrize("address", ["r", "gone"])
def test_no_change_is_the_same_snapshot(address: str) -> None:
    before = Snapshot.of([Backend("r", R, BackendState.SERVING, 1.0)])
    assert before.with_state(address, BackendState.SERVING, 2.0) is before


def test_members_come_and_go_and_those_that_stay_keep_their_state() -> None:
    before = Snapshot.of(
        [
            Backend("a", R, BackendState.SERVING, 1.0),
            Backend("b", R, BackendState.SERVING, 1.0),
            Backend("c", R, BackendState.SERVING, 1.0),
        ]
    )
    after = before.with_members({"a": R, "b": P, "d": R}, 5.0)
    assert after.backends == (
        Backend("b", P, BackendState.CONNECTING, 5.0),
        Backend("a", R, BackendState.SERVING, 1.0),
        Backend("d", R, BackendState.CONNECTING, 5.0),
    )


def test_loads_count_and_smooth() -> None:
    load = Load().begun().begun()
    assert load == Load(2, 0.0)
    first = load.ended(0.1)
    assert first == Load(1, 0.1)
    second = first.ended(0.2)
    assert second.in_flight == 0
    assert second.latency == pytest.approx(0.12)


def test_a_failure_is_not_measured() -> None:
    assert Load(1, 0.5).ended(None) == Load(0, 0.5)


def test_calls_in_flight_never_fall_below_none() -> None:
    assert Load().ended(None) == Load(0)


def test_a_return_is_noted_and_a_first_start_is_not() -> None:
    started = Snapshot.of([Backend("r", R)]).with_state("r", BackendState.SERVING, 1.0)
    assert started.serving_replicas[0].returned is None
    down = started.with_state("r", BackendState.DOWN, 2.0)
    back = down.with_state("r", BackendState.SERVING, 3.0)
    assert back.serving_replicas[0].returned == 3.0


def test_an_ejected_replica_serves_but_is_not_ready() -> None:
    before = Snapshot.of([Backend("r", R, BackendState.SERVING)])
    ejected = before.with_ejected("r", True, 1.0)
    assert ejected.with_ejected("r", True, 2.0) is ejected
    assert [b.address for b in ejected.serving_replicas] == ["r"]
    assert ejected.ready_replicas == ()
    assert [b.address for b in ejected.ejected_replicas] == ["r"]
    assert ejected.serving_replicas[0].returned is None
    assert ejected.with_ejected("r", False, 3.0).ready_replicas[0].returned == 3.0
    assert before.with_ejected("gone", True, 1.0) is before


def test_facts_make_zones_and_keep_strangers_out() -> None:
    before = Snapshot.of([Backend("r", R, BackendState.SERVING), Backend("p", P)])
    after = before.with_facts("r", Facts(zone="a"))
    assert [b.address for b in after.ready_in["a"]] == ["r"]
    assert after.with_facts("r", Facts(zone="a")) is after
    assert after.with_facts("gone", Facts()) is after
    foreign = after.with_facts("r", Facts(zone="a", is_foreign=True))
    assert foreign.serving_replicas == foreign.ready_replicas == ()
    assert "a" not in foreign.ready_in


@pytest.mark.parametrize(
    ("role", "in_recovery", "expected"),
    [(P, True, True), (P, False, False), (P, None, False), (R, True, False)],
)
def test_only_a_primary_s_node_can_be_on_a_standby(
    role: BackendRole, in_recovery: bool | None, expected: bool
) -> None:
    assert Backend("b", role, facts=Facts(in_recovery=in_recovery)).is_standby is expected
