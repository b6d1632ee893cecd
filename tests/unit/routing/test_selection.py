"""Which backend takes a call: cases as data, and what must hold for all."""

from __future__ import annotations

from collections import Counter
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.routing.catalogue import RPCS, Rpc
from proxy.routing.consistency import Need
from proxy.routing.members import Backend, BackendRole, BackendState, Load, Snapshot
from proxy.routing.selection import Choice, Route, may_use_replica
from proxy.routing.selection import choose as choose_by_view
from proxy.routing.view import View

STALE, FRESH, WRITE = RPCS["ListSplits"], RPCS["ListShards"], RPCS["CreateIndex"]
_STATES = {
    "+": BackendState.SERVING,
    "-": BackendState.DOWN,
    "!": BackendState.NOT_SERVING,
    "?": BackendState.CONNECTING,
}


def choose(
    rpc: Rpc,
    backends: Snapshot,
    loads: dict[str, Load],
    rng: Random,
    tried: frozenset[str] | set[str] = frozenset(),
    *,
    allow_replica: bool = False,
) -> Choice | None:
    """Choose with nothing known of the data."""
    need = Need(allow_replica=allow_replica)
    return choose_by_view(rpc, View(backends, loads, {}), rng, tried, need)


def snapshot(text: str) -> Snapshot:
    """Read `p1+ r1- r2?`: name (its first letter is the role) and state."""
    return Snapshot.of(
        Backend(
            word[:-1],
            BackendRole.PRIMARY if word.startswith("p") else BackendRole.REPLICA,
            _STATES[word[-1]],
        )
        for word in text.split()
    )


@pytest.mark.parametrize(
    ("rpc", "backends", "tried", "expected"),
    [
        # A stale-tolerant read goes to a serving replica, else to the primary.
        (STALE, "p1+ r1+", "", ("r1", "replica")),
        (STALE, "p1+ r1- r2+ r3! r4?", "", ("r2", "replica")),
        (STALE, "p1+ r1- r2! r3?", "", ("p1", "fallback")),
        (STALE, "p1+", "", ("p1", "fallback")),
        (STALE, "r1+", "", ("r1", "replica")),
        # What was tried is not chosen again; the primary comes after the last replica.
        (STALE, "p1+ r1+ r2+", "r1", ("r2", "replica")),
        (STALE, "p1+ r1+ r2+", "r1 r2", ("p1", "fallback")),
        (STALE, "p1+ r1+", "r1 p1", None),
        (STALE, "p1+ r1+", "p1", ("r1", "replica")),
        # A replica that does not serve is no last resort.
        (STALE, "r1- r2! r3?", "", None),
        (STALE, "p1- r1-", "p1", None),
        # A primary that is not known to serve is: the likeliest to answer first.
        (STALE, "p1- r1-", "", ("p1", "fallback")),
        (WRITE, "p1- p2! p3?", "", ("p3", "primary")),
        (WRITE, "p1- p2!", "", ("p2", "primary")),
        (WRITE, "p1-", "", ("p1", "primary")),
        (WRITE, "p1+ p2?", "p1", ("p2", "primary")),
        # Everything else goes to the primary.
        (FRESH, "p1+ r1+", "", ("p1", "primary")),
        (WRITE, "p1+ r1+", "", ("p1", "primary")),
        (WRITE, "p1- p2+ r1+", "", ("p2", "primary")),
        (WRITE, "p1+ p2+", "p1", ("p2", "primary")),
        (FRESH, "r1+", "", None),
        (WRITE, "r1+", "", None),
        (WRITE, "", "", None),
    ],
)
def test_choice(rpc, backends: str, tried: str, expected: tuple[str, str] | None) -> None:
    for seed in range(10):
        choice = choose(rpc, snapshot(backends), {}, Random(seed), set(tried.split()))
        found = None if choice is None else (choice.backend.address, choice.route.value)
        assert found == expected


@pytest.mark.parametrize(
    ("rpc", "expected"), [(FRESH, ("r1", Route.REPLICA)), (WRITE, ("p1", Route.PRIMARY))]
)
def test_a_caller_s_leave_counts_for_reads_only(rpc, expected: tuple[str, Route]) -> None:
    choice = choose(rpc, snapshot("p1+ r1+"), {}, Random(1), allow_replica=True)
    assert choice is not None
    assert (choice.backend.address, choice.route) == expected


def test_with_leave_a_read_at_the_primary_is_a_fallback() -> None:
    choice = choose(FRESH, snapshot("p1+ r1-"), {}, Random(1), allow_replica=True)
    assert choice is not None
    assert choice.route is Route.FALLBACK


def test_no_write_may_ever_use_a_replica() -> None:
    for rpc in RPCS.values():
        assert may_use_replica(rpc, allow_replica=True) is rpc.is_read
        assert may_use_replica(rpc) is rpc.is_stale_tolerant


def spread(loads: dict[str, Load], backends: str = "r1+ r2+", count: int = 3000) -> Counter[str]:
    rng, now = Random(7), snapshot(backends)
    choices = [choose(STALE, now, loads, rng) for _ in range(count)]
    return Counter(choice.backend.address for choice in choices if choice is not None)


@pytest.mark.parametrize("backends", ["r1+ r2+", "r1+ r2+ r3+", "r1+ r2+ r3+ r4+ r5+ r6+ r7+"])
def test_equals_share_evenly(backends: str) -> None:
    found = spread({}, backends)
    names = [word[:-1] for word in backends.split()]
    fair = 3000 / len(names)
    assert all(0.8 * fair < found[name] < 1.2 * fair for name in names)


def test_calls_in_flight_decide_first() -> None:
    loads = {"r1": Load(in_flight=1, latency=0.001), "r2": Load(in_flight=0, latency=5.0)}
    assert spread(loads) == {"r2": 3000}


def test_the_busiest_of_three_is_never_taken() -> None:
    found = spread({"r1": Load(3), "r2": Load(1), "r3": Load(2)}, "r1+ r2+ r3+")
    assert found["r1"] == 0
    # r2 wins every pair it is in: two of the three pairs.
    assert 1800 < found["r2"] < 2200


def test_latency_gives_odds_and_never_starves() -> None:
    found = spread({"r1": Load(0, 0.100), "r2": Load(0, 0.050)})
    assert 850 < found["r1"] < 1150
    found = spread({"r1": Load(0, 1.0), "r2": Load(0, 0.010)})
    assert 0 < found["r1"] < 90


@pytest.mark.parametrize("latencies", [(0.0, 3.0), (0.0001, 0.0009)])
def test_unmeasured_and_tiny_latencies_count_as_equal(latencies: tuple[float, float]) -> None:
    found = spread({"r1": Load(0, latencies[0]), "r2": Load(0, latencies[1])})
    assert 1300 < found["r1"] < 1700


backend_lists = st.lists(
    st.tuples(
        st.integers(0, 30), st.sampled_from(list(BackendRole)), st.sampled_from(list(BackendState))
    ),
    max_size=12,
    unique_by=lambda item: item[0],
).map(lambda items: [Backend(f"b{n}", role, state) for n, role, state in items])


@given(
    rpc=st.sampled_from(list(RPCS.values())),
    backends=backend_lists,
    loads=st.dictionaries(
        st.integers(0, 30).map(lambda n: f"b{n}"),
        st.builds(Load, st.integers(0, 50), st.floats(0, 100)),
    ),
    tried=st.sets(st.integers(0, 30).map(lambda n: f"b{n}")),
    allow_replica=st.booleans(),
    seed=st.integers(0, 1000),
)
def test_what_always_holds(
    rpc, backends: list[Backend], loads, tried: set[str], allow_replica: bool, seed: int
) -> None:
    choice = choose(
        rpc, Snapshot.of(backends), loads, Random(seed), tried, allow_replica=allow_replica
    )
    left = [b for b in backends if b.address not in tried]
    primaries = [b for b in left if b.role is BackendRole.PRIMARY]
    wants_replica = rpc.is_stale_tolerant or (allow_replica and rpc.is_read)
    usable = [b for b in left if b.role is BackendRole.REPLICA and b.is_serving]
    if choice is None:
        assert not primaries
        assert not (wants_replica and usable)
        return
    backend = choice.backend
    assert backend in left
    if backend.role is BackendRole.REPLICA:
        assert wants_replica
        assert backend.is_serving
        assert choice.route is Route.REPLICA
    else:
        assert not (wants_replica and usable)
        assert choice.route is (Route.FALLBACK if wants_replica else Route.PRIMARY)
        assert backend.is_serving or not any(b.is_serving for b in primaries)
    rivals = usable if backend.role is BackendRole.REPLICA else primaries
    if backend.is_serving and len([b for b in rivals if b.is_serving]) == 2:
        in_flight = {
            b.address: loads.get(b.address, Load()).in_flight for b in rivals if b.is_serving
        }
        assert in_flight[backend.address] == min(in_flight.values())


@given(st.integers(2, 8), st.integers(0, 1000))
def test_closed_loop_load_is_spread_fairly(count: int, seed: int) -> None:
    """With calls that all take as long, no replica holds more than two calls over another."""
    now = Snapshot.of(
        Backend(f"r{n}", BackendRole.REPLICA, BackendState.SERVING) for n in range(count)
    )
    rng, loads = Random(seed), {}
    for _ in range(20 * count):
        choice = choose(STALE, now, loads, rng)
        assert choice is not None
        address = choice.backend.address
        loads[address] = loads.get(address, Load()).begun()
    in_flight = [loads.get(b.address, Load()).in_flight for b in now.backends]
    assert max(in_flight) - 20 <= 6
