"""Writing, copying and forgetting keys: which deltas are taken, and what becomes of the state."""

from __future__ import annotations

from collections.abc import Iterable

import pytest

from proxy.gossip.limits import Limits
from proxy.gossip.messages import KeyRecord, NodeDelta
from proxy.gossip.state import Applied, MemberState
from tests.unit.gossip.making import NODE_1

SET, DELETED, EXPIRING = 0, 1, 2
PLENTY = 1 << 30
NO_LIMITS = Limits()


def delta(
    last_gc: int, start: int, records: Iterable[tuple[str, str, int, int]] = (), most: int = 0
) -> NodeDelta:
    """Return a delta of NODE_1."""
    made = [KeyRecord(*record) for record in records]
    return NodeDelta(NODE_1.raw, last_gc, start, most or (made[-1].version if made else 0), made)


def put(
    state: MemberState, made: NodeDelta, limits: Limits = NO_LIMITS, room: int = PLENTY
) -> Applied:
    """Apply a delta at the time 0."""
    return state.apply(made, 0.0, limits, room)


def known(last_gc: int, max_version: int) -> MemberState:
    """Return a state with the keys a (1), b (2, deleted) and c (`max_version`)."""
    state = MemberState()
    records = [("a", "1", 1, SET), ("b", "", 2, DELETED), ("c", "3", max_version, SET)]
    state.replace([KeyRecord(*each) for each in records], (last_gc, max_version), 0.0)
    return state


def versions(state: MemberState) -> tuple[int, int]:
    """Return what must never decrease."""
    return state.last_gc_version, state.max_version


def test_an_owner_writes_one_version_after_the_other() -> None:
    state = MemberState()
    state.set("a", "1")
    state.set("b", "2")
    state.set("a", "1")
    assert versions(state) == (0, 2)
    state.set("a", "3")
    state.delete("b", 0.0)
    state.delete("b", 0.0)
    state.delete("nothing", 0.0)
    assert state.records() == [("a", "3", 3, SET), ("b", "", 4, DELETED)]
    assert (state.get("a"), state.get("b"), state.get("c")) == ("3", None, None)
    state.set("b", "")
    assert state.records()[1:] == [("b", "", 5, SET)]
    assert state.records_after(3) == [("b", "", 5, SET)]
    assert state.records_after(5) == []


@pytest.mark.parametrize(
    ("made", "applied", "after"),
    [
        pytest.param(delta(0, 5, [("d", "4", 6, SET)]), Applied.FUTURE, (1, 4), id="future"),
        pytest.param(delta(0, 0, [("d", "4", 4, SET)]), Applied.STALE, (1, 4), id="nothing new"),
        pytest.param(delta(0, 4), Applied.STALE, (1, 4), id="cut after the member"),
        pytest.param(delta(1, 4, [("d", "4", 5, SET)]), Applied.APPLIED, (1, 5), id="same gc"),
        pytest.param(delta(4, 4, [("d", "4", 5, SET)]), Applied.APPLIED, (1, 5), id="gc is max"),
        pytest.param(delta(5, 4, [("d", "4", 6, SET)]), Applied.GAP, (1, 4), id="gap"),
        pytest.param(delta(5, 0, [("d", "4", 6, SET)]), Applied.RESET, (5, 6), id="reset"),
        pytest.param(delta(9, 0, [("d", "4", 6, SET)]), Applied.RESET, (9, 6), id="gc above max"),
        pytest.param(delta(9, 0), Applied.RESET, (9, 0), id="reset to nothing"),
        pytest.param(delta(0, 4, most=9), Applied.APPLIED, (1, 9), id="highest version only"),
    ],
)
def test_which_deltas_are_taken(made: NodeDelta, applied: Applied, after: tuple[int, int]) -> None:
    state = known(1, 4)
    assert put(state, made) is applied
    assert versions(state) == after
    if applied is Applied.RESET:
        assert state.records() == made.records
    else:
        new = made.records if applied is Applied.APPLIED else []
        assert state.records() == [*known(1, 4).records(), *new]


def test_a_delta_skips_what_is_known_and_tombstones_that_are_forgotten() -> None:
    state = MemberState()
    assert put(state, delta(10, 0, [("a", "1", 3, SET)])) is Applied.RESET
    records = [
        ("a", "old", 2, SET),
        ("b", "", 5, DELETED),
        ("c", "ttl", 10, EXPIRING),
        ("d", "4", 11, SET),
        ("e", "", 12, DELETED),
    ]
    assert put(state, delta(10, 1, records)) is Applied.APPLIED
    assert state.records() == [("a", "1", 3, SET), ("d", "4", 11, SET), ("e", "", 12, DELETED)]
    assert versions(state) == (10, 12)


def test_a_sender_older_than_a_reset_brings_no_deleted_key_back() -> None:
    """A reset to (17, 11) by a member that forgot the deletion, at 16, of a key set at 13."""
    state = MemberState()
    put(state, delta(17, 0, [("a", "1", 11, SET)]))
    assert versions(state) == (17, 11)
    stale = delta(0, 11, [("b", "deleted at 16", 13, SET)])
    assert put(state, stale) is Applied.OUTDATED
    # The same by one that knows of the deletion, though it was cut short, is fine.
    fine = delta(0, 11, [("c", "3", 12, SET)])
    assert state.apply(fine, 0.0, Limits(), PLENTY, sender_version=17) is Applied.APPLIED
    assert put(state, delta(17, 12, most=17)) is Applied.APPLIED
    assert state.plain_keys() == {"a": "1", "c": "3"}


def test_tombstones_are_dropped_after_the_grace_period() -> None:
    state = MemberState()
    state.set("a", "1")
    state.set("b", "2")
    state.delete("a", 100.0)
    put(state, delta(0, 3, [("c", "3", 4, EXPIRING), ("d", "4", 5, SET)]))
    # c came at the time 0 of this node's clock, the value is there until it is dropped.
    assert state.get("c") == "3"
    state.collect(899.9, 900.0)
    assert (len(state), versions(state)) == (4, (0, 5))
    state.collect(900.0 + 100.0 - 0.1, 900.0)
    assert (len(state), versions(state)) == (4, (0, 5))
    state.collect(900.0 + 100.0, 900.0)
    assert state.records() == [("b", "2", 2, SET), ("d", "4", 5, SET)]
    assert (versions(state), state.size) == ((4, 5), 2 * 258)


def test_a_whole_state_is_taken_only_if_it_is_newer() -> None:
    state = known(3, 5)
    assert not state.replace([], (3, 5), 0.0)
    assert not state.replace([], (2, 9), 0.0)
    assert len(state) == 3
    assert state.replace([KeyRecord("z", "1", 4, SET)], (4, 4), 0.0)
    assert state.records() == [("z", "1", 4, SET)]
    assert versions(state) == (4, 4)


@pytest.mark.parametrize(
    ("limits", "room", "kept"),
    [
        pytest.param(Limits(keys=3), PLENTY, 3, id="keys"),
        pytest.param(Limits(member_bytes=4 * 266), PLENTY, 4, id="bytes of the member"),
        pytest.param(Limits(), 5 * 266 + 265, 5, id="bytes of all"),
    ],
)
def test_what_exceeds_the_limits_is_left_off_the_end(limits: Limits, room: int, kept: int) -> None:
    state = MemberState()
    records = [(f"key-{n}", "value", 2 * n, SET) for n in range(1, 10)]
    assert put(state, delta(0, 0, records), limits, room) is Applied.APPLIED
    assert [record.key for record in state.records()] == [f"key-{n}" for n in range(1, kept + 1)]
    assert versions(state) == (0, 2 * kept)
    # The rest is asked for again, and is no nearer.
    assert put(state, delta(0, 2 * kept, records[kept:]), limits, 0) is Applied.APPLIED
    assert versions(state) == (0, 2 * kept)
    # A deletion makes room.
    state.collect(1.0, 1.0)
    assert (
        put(state, delta(0, 2 * kept, [("key-1", "", 99, DELETED)]), limits, 0) is Applied.APPLIED
    )
    assert versions(state) == (0, 99)


def test_only_plain_keys_change_the_revision() -> None:
    state = MemberState()
    state.set("readiness", "READY")
    revision = state.revision
    state.set("indexer.shard_positions:a:b:c", "1")
    assert state.revision == revision
    assert state.plain_keys() == {"readiness": "READY"}
    state.delete("readiness", 0.0)
    assert state.revision != revision
    assert state.plain_keys() == {}
