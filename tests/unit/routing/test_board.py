"""What the board learns from calls and reports, and what it keeps in step."""

from __future__ import annotations

from random import Random
from typing import Any

import pytest

from proxy.routing.board import Board, BoardPolicy, Outcome
from proxy.routing.breaker import BreakerState
from proxy.routing.catalogue import RPCS
from proxy.routing.consistency import Need
from proxy.routing.freshness import Report
from proxy.routing.members import BackendRole, BackendState
from proxy.routing.selection import Choice, Route

READ = RPCS["ListSplits"]
SERVING, DOWN = BackendState.SERVING, BackendState.DOWN


def board(*names: str, **policy: Any) -> Board:
    """Return a board on which all serve since time 0."""
    made = Board(BoardPolicy(**policy), rng=Random(1))
    made.set_members({name: _role(name) for name in names}, 0.0)
    for name in names:
        made.set_state(name, SERVING, 0.0)
    return made


def _role(name: str) -> BackendRole:
    return BackendRole.PRIMARY if name.startswith("p") else BackendRole.REPLICA


def report(sent: float, lsn: int, **facts: Any) -> Report:
    said: dict[str, Any] = {"in_recovery": True, "timeline": 1, "identity": "ours", **facts}
    return Report(sent=sent, received=sent, lsn=lsn, **said)


def chosen(made: Board, now: float, need: Need | None = None) -> Choice:
    choice = made.choose(READ, now, need or Need())
    assert choice is not None
    return choice


def play(made: Board, outcome: Outcome, now: float) -> Choice:
    choice = chosen(made, now)
    made.begin(choice, now)
    made.end(choice, outcome, now, 0.001 if outcome is Outcome.ANSWERED else None)
    return choice


def test_three_failures_eject_a_replica_until_a_trial_succeeds() -> None:
    made = board("p1", "r1")
    for _ in range(3):
        assert play(made, Outcome.FAILED, 1.0).backend.address == "r1"
    assert play(made, Outcome.ANSWERED, 1.1).route is Route.FALLBACK
    # The pause is half a second at most.
    trial = chosen(made, 1.5)
    assert trial.backend.address == "r1"
    made.begin(trial, 1.5)
    assert chosen(made, 1.5).route is Route.FALLBACK
    made.end(trial, Outcome.ANSWERED, 1.6, 0.1)
    assert chosen(made, 1.6).backend.address == "r1"
    assert made.breaker("r1").state is BreakerState.CLOSED


def test_a_trial_that_fails_ejects_for_longer() -> None:
    made = board("p1", "r1")
    for _ in range(3):
        play(made, Outcome.FAILED, 1.0)
    assert play(made, Outcome.FAILED, 1.5).backend.address == "r1"
    assert chosen(made, 1.99).route is Route.FALLBACK
    assert chosen(made, 2.5).backend.address == "r1"


def test_a_trial_that_is_taken_back_leaves_the_next_call_to_be_one() -> None:
    made = board("p1", "r1")
    for _ in range(3):
        play(made, Outcome.FAILED, 1.0)
    assert play(made, Outcome.SILENT, 1.5).backend.address == "r1"
    assert play(made, Outcome.ANSWERED, 1.5).backend.address == "r1"
    assert made.breaker("r1").state is BreakerState.CLOSED


def test_a_new_connection_is_tried_at_once() -> None:
    made = board("p1", "r1")
    for _ in range(3):
        play(made, Outcome.FAILED, 1.0)
    made.set_state("r1", DOWN, 1.01)
    assert made.set_state("r1", SERVING, 1.02)
    assert chosen(made, 1.02).backend.address == "r1"


@pytest.mark.parametrize("outcome", [Outcome.ANSWERED, Outcome.SILENT])
def test_what_is_no_failure_never_ejects(outcome: Outcome) -> None:
    made = board("p1", "r1")
    for _ in range(50):
        assert play(made, outcome, 1.0).backend.address == "r1"


def test_two_replicas_that_both_fail_leave_the_primary_then_the_least_bad() -> None:
    made = board("p1", "r1", "r2")
    for _ in range(6):
        play(made, Outcome.FAILED, 1.0)
    assert chosen(made, 1.01).route is Route.FALLBACK
    made.set_state("p1", DOWN, 1.02)
    assert chosen(made, 1.03).route is Route.REPLICA


def test_fallbacks_are_counted_and_capped() -> None:
    made = board("p1", "r1", fallback_concurrency=2)
    made.set_state("r1", DOWN, 1.0)
    under_way = [chosen(made, 1.0)]
    made.begin(under_way[0], 1.0)
    under_way.append(chosen(made, 1.0))
    made.begin(under_way[1], 1.0)
    assert made.choose(READ, 1.0) is None
    assert not made.view(1.0).has_room
    # What is meant for the primary is not held back.
    assert made.choose(RPCS["CreateIndex"], 1.0) is not None
    made.end(under_way[0], Outcome.FAILED, 1.1, None)
    assert made.choose(READ, 1.1) is not None
    assert (made.fallbacks, made.in_flight) == (1, 1)


def test_a_call_to_a_backend_that_left_still_ends() -> None:
    made = board("p1", "r1")
    choice = chosen(made, 1.0)
    made.begin(choice, 1.0)
    made.set_members({"p1": BackendRole.PRIMARY}, 1.1)
    made.end(choice, Outcome.FAILED, 1.2, None)
    assert made.in_flight == 0
    assert set(made.loads) == {"p1"}


def test_reports_make_lags_and_facts() -> None:
    made = board("p1", "r1")
    made.heard("p1", report(1.0, 100, in_recovery=False))
    made.heard("r1", report(1.1, 100, node_id="replica-1", zone="a"))
    assert made.ledger.freshness["r1"].lag(1.5) == pytest.approx(0.5)
    backend = made.snapshot.get("r1")
    assert backend is not None
    assert (backend.facts.node_id, backend.facts.zone) == ("replica-1", "a")
    assert chosen(made, 1.5, Need(max_lag=0.6)).route is Route.REPLICA
    assert chosen(made, 1.7, Need(max_lag=0.6)).route is Route.FALLBACK
    assert made.heard("gone", report(1.2, 1)) == ()


def test_a_backend_of_another_cluster_is_told_of_once_and_forgiven_when_it_is_ours() -> None:
    made = board("p1", "r1")
    assert made.heard("r1", report(0.9, 100, identity="theirs")) == ()
    found = made.heard("p1", report(1.0, 100, in_recovery=False))
    assert [backend.address for backend in found] == ["r1"]
    assert made.heard("r1", report(1.1, 100, identity="theirs")) == ()
    assert chosen(made, 1.2).route is Route.FALLBACK
    assert made.heard("r1", report(1.3, 100)) == ()
    assert chosen(made, 1.4).route is Route.REPLICA


def test_a_replica_that_comes_back_has_to_show_its_freshness_again() -> None:
    made = board("p1", "r1")
    made.heard("p1", report(1.0, 100, in_recovery=False))
    made.heard("r1", report(1.1, 100))
    made.set_state("r1", DOWN, 1.2)
    made.set_state("r1", SERVING, 1.3)
    assert chosen(made, 1.3, Need(max_lag=9.0)).route is Route.FALLBACK


def test_a_primary_that_is_gone_still_settles_which_cluster_this_is() -> None:
    made = board("p1", "p2", "r1")
    made.heard("p1", report(1.0, 100, in_recovery=False))
    made.heard("p2", report(1.0, 100, in_recovery=False, identity="theirs"))
    made.heard("r1", report(1.0, 100))
    made.set_state("p1", DOWN, 1.1)
    assert made.choose(RPCS["ListShards"], 1.2) == Choice(
        next(b for b in made.snapshot.backends if b.address == "p1"), Route.PRIMARY
    )
    assert chosen(made, 1.2).backend.address == "r1"


def test_a_state_that_is_known_is_no_change() -> None:
    made = board("r1")
    assert not made.set_state("r1", SERVING, 5.0)
    assert not made.set_state("gone", SERVING, 5.0)
    assert made.set_state("r1", DOWN, 5.0)
