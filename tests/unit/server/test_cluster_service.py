"""The state of the cluster as a message that always fits."""

from __future__ import annotations

import pytest

from proxy.gossip.cluster import KeyRecord, MemberRecord
from proxy.server.cluster_service import answer
from tests.unit.gossip.making import member


def record(name: str, size: int) -> MemberRecord:
    keys = (KeyRecord("k", "v" * size, 3, 0), KeyRecord("gone", "", 4, 1))
    return MemberRecord(member(name), keys, 5, 2)


SMALL, MIDDLE, LARGE = record("small", 10), record("middle", 1_000), record("large", 100_000)


def test_an_answer_has_all_of_a_member() -> None:
    (state,) = answer("c", [SMALL], 1_000).node_states
    who = state.chitchat_id
    assert (who.node_id, who.generation_id) == ("small", 1)
    assert who.gossip_advertise_addr == "10.0.0.1:7280"
    assert (state.max_version, state.last_gc_version) == (5, 2)
    told = [(one.key, one.value, one.version, one.status) for one in state.key_values]
    assert told == [("k", "v" * 10, 3, 0), ("gone", "", 4, 1)]


@pytest.mark.parametrize(
    ("limit", "names"),
    [
        (50, []),
        (200, ["small"]),
        (2_000, ["small", "middle"]),
        (200_000, ["small", "middle", "large"]),
    ],
)
def test_an_answer_over_the_limit_leaves_out_the_largest(limit: int, names: list[str]) -> None:
    response = answer("cluster-a", [LARGE, SMALL, MIDDLE], limit)
    assert [one.chitchat_id.node_id for one in response.node_states] == names
    assert response.ByteSize() <= limit
    assert response.cluster_id == "cluster-a"
