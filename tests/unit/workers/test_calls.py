"""The first worker shows the calls of all, and nothing leaps when one is started again."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import pytest

from proxy.errors import Code
from proxy.metrics.tally import Count, Tally
from proxy.routing.figures import ELIGIBLE, BackendFigures, Figures
from proxy.routing.members import Backend, BackendRole, Load
from proxy.workers.calls import NodeCalls, told_calls

REPLICA = "10.0.0.7:7281"


def figures(in_flight: int, *, limit: int | None = 4, address: str = REPLICA) -> Figures:
    """Return the figures of a worker with one replica."""
    backend = Backend(address, BackendRole.REPLICA)
    one = BackendFigures(backend, ELIGIBLE, 0.5, None, Load(in_flight, 0.002))
    return Figures((one,), 2.5, 1, limit, None)


def tally(calls: int, *, failed: int = 0, backend: str = REPLICA) -> Tally:
    """Return the counts of a worker that sent so many calls to one replica."""
    counts = Tally()
    for number in range(calls):
        code = Code.UNAVAILABLE if number < failed else Code.OK
        counts.routed("replica", code)
        counts.answered(backend, code)
    return counts


def told(counts: Tally, own: Figures | None = None, *, worker: int = 2, process: int = 7) -> Any:
    """Return what arrives at the first worker."""
    said = json.loads(json.dumps(told_calls(worker, counts, own)))
    return {**said, "process": process}


def plain(counts: Mapping[str, Count]) -> dict[str, tuple[int, int]]:
    """Return counts as pairs."""
    return {key: (one.calls, one.failed) for key, one in counts.items()}


def test_what_others_count_from_the_first_word_on_is_added() -> None:
    calls = NodeCalls(tally(3))
    # Counted before anybody listened: no rate is to show it as if it were now.
    calls.hear(told(tally(1000)))
    assert plain(calls.routes) == {"replica": (3, 0)}
    calls.hear(told(tally(1010, failed=2)))
    calls.hear(told(tally(50), worker=3))
    calls.hear(told(tally(51), worker=3))
    assert plain(calls.routes) == {"replica": (14, 2)}
    assert plain(calls.backends) == {REPLICA: (14, 2)}


def test_a_worker_that_is_started_again_takes_nothing_away() -> None:
    calls = NodeCalls(Tally())
    calls.hear(told(tally(100)))
    calls.hear(told(tally(110)))
    calls.ended(2)
    calls.hear(told(tally(2), process=8))
    calls.hear(told(tally(5), process=8))
    assert plain(calls.routes) == {"replica": (13, 0)}
    # Also where its end was not heard of before its successor.
    calls.hear(told(tally(1), process=9))
    assert plain(calls.routes) == {"replica": (13, 0)}


def test_a_backend_is_forgotten_once_no_worker_knows_it() -> None:
    calls = NodeCalls(Tally())
    calls.hear(told(tally(1)))
    calls.hear(told(tally(4)))
    assert plain(calls.backends) == {REPLICA: (3, 0)}
    calls.hear(told(Tally()))
    assert plain(calls.backends) == {}
    calls.hear(told(tally(2)))
    assert plain(calls.backends) == {REPLICA: (2, 0)}


def test_loads_are_those_of_all_workers_that_run() -> None:
    calls = NodeCalls(Tally())
    calls.hear(told(Tally(), figures(5)))
    calls.hear(told(Tally(), figures(7, address="10.0.0.9:7281"), worker=3))
    found = calls.figures(figures(1))
    assert found is not None
    assert [one.load for one in found.backends] == [Load(6, 0.002)]
    assert (found.retry_budget, found.fallbacks, found.fallback_limit) == (7.5, 3, 12)
    calls.ended(2)
    calls.ended(3)
    assert calls.figures(figures(1)) == figures(1)


@pytest.mark.parametrize(("own", "other"), [(None, 4), (4, None)])
def test_a_limit_that_one_does_not_have_is_none(own: int | None, other: int | None) -> None:
    calls = NodeCalls(Tally())
    calls.hear(told(Tally(), figures(0, limit=other)))
    found = calls.figures(figures(0, limit=own))
    assert found is not None
    assert found.fallback_limit is None


def test_a_node_that_passes_nothing_on_has_no_loads() -> None:
    calls = NodeCalls(Tally())
    calls.hear(told(tally(1)))
    assert calls.figures(None) is None
