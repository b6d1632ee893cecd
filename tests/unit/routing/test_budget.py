"""What retries cost, and which failures may be followed by one."""

from __future__ import annotations

from random import Random

import pytest

from proxy.routing.budget import RetryBudget, may_repeat
from proxy.routing.catalogue import RPCS


def spent(budget: RetryBudget, wanted: int) -> int:
    return sum(budget.spend() for _ in range(wanted))


def test_a_new_client_has_its_reserve_and_no_more() -> None:
    assert spent(RetryBudget(), 100) == 10


@pytest.mark.parametrize(("calls", "left"), [(0, 10), (5, 10), (6, 11), (103, 28), (10_000, 50)])
def test_calls_earn_up_to_a_cap(calls: int, left: int) -> None:
    budget = RetryBudget()
    for _ in range(calls):
        budget.earn()
    assert spent(budget, 10_000) == left


def test_the_cap_covers_the_calls_that_are_in_flight() -> None:
    budget = RetryBudget()
    for _ in range(10_000):
        budget.earn(in_flight=200)
    budget.earn(in_flight=1)
    assert spent(budget, 10_000) == 200


@pytest.mark.parametrize("calls", [500, 1_000, 100_000])
def test_when_every_call_fails_retries_add_at_most_a_fifth(calls: int) -> None:
    budget = RetryBudget()
    for _ in range(calls):
        budget.earn(in_flight=16)
        spent(budget, 3)
    assert budget.spent <= 0.2 * calls


def test_over_any_course_no_more_is_spent_than_was_earned() -> None:
    rng, budget = Random(3), RetryBudget(0.5, 2)
    for _ in range(5_000):
        if rng.random() < 0.5:
            budget.earn(rng.randrange(300))
        else:
            spent(budget, rng.randrange(5))
        assert budget.balance >= 0.0
        assert budget.spent <= 2 + 0.5 * budget.calls


READ, WRITE, IDEMPOTENT = RPCS["ListSplits"], RPCS["CreateIndex"], RPCS["StageSplits"]


@pytest.mark.parametrize(
    ("rpc", "failure", "sent", "left", "expected"),
    [
        (READ, True, True, 1.0, True),
        (READ, True, False, 1.0, True),
        (READ, False, True, 1.0, False),
        (READ, True, True, 0.005, False),
        (READ, True, True, -1.0, False),
        (WRITE, True, True, 1.0, False),
        (IDEMPOTENT, True, True, 1.0, False),
        (WRITE, True, False, 1.0, True),
        (WRITE, False, False, 1.0, False),
    ],
)
def test_what_may_be_repeated(rpc, failure: bool, sent: bool, left: float, expected: bool) -> None:
    found = may_repeat(rpc, is_backend_failure=failure, was_sent=sent, time_left=left)
    assert found is expected


def test_another_reserve_counts_as_of_the_start() -> None:
    budget = RetryBudget(ratio=0.5, reserve=10.0)
    for _ in range(3):
        assert budget.spend()
    budget.reconfigure(0.25, 4.0)
    assert budget.balance == 1.0
    budget.earn()
    assert budget.balance == 1.25
    budget.reconfigure(0.25, 0.0)
    assert budget.balance == 0.0
    budget.reconfigure(0.25, 10.0)
    assert budget.balance == 10.0
