"""Who the primary is: the same answer everywhere, and never an empty one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest
from google.protobuf.json_format import MessageToDict

from proxy import errors
from proxy.gossip.view import ClusterView, MemberView
from proxy.proto.metastore_proxy.v1 import proxy_pb2 as pb
from proxy.routing.targets import Target, parse_target
from proxy.server.cluster_info import Answers, ClusterInfo, NamedPrimary
from tests.support.views import CLUSTER, cluster, ours, quickwit

PRIMARY = ours("metastore-1", "metastore", host="10.0.0.5", generation=7, availability_zone="a")
REPLICA = ours("replica-1", "metastore_read_replica", host="10.0.0.6", lag_at_most="5")
ROUTER = ours("router-1", "metastore_router", host="10.0.0.7")
SEARCHER = quickwit("searcher-1", "searcher")


async def nobody(target: Target, /, *, timeout: float) -> Answers:
    raise AssertionError(f"{target} was asked")


def info(
    view: ClusterView | None,
    named: Sequence[str] = (),
    *,
    node_id: str = "replica-1",
    is_on: bool = True,
) -> ClusterInfo:
    """Return what answers at a node that is no primary and asks nobody."""
    return ClusterInfo(
        cluster_id=CLUSTER,
        node_id=node_id,
        is_on=is_on,
        view=lambda: view,
        named=lambda: [NamedPrimary(parse_target(text)) for text in named],
        ask=nobody,
    )


async def refusal(asked: ClusterInfo) -> str:
    with pytest.raises(errors.Unavailable) as caught:
        await asked.answer()
    return caught.value.message


async def test_an_answer_has_the_primary_with_every_endpoint_and_all_other_members() -> None:
    dead = ours("replica-2", "metastore_read_replica", host="10.0.0.8", is_live=False)
    view = cluster(SEARCHER, dead, ROUTER, REPLICA, PRIMARY)
    assert MessageToDict(await info(view).answer(), preserving_proto_field_name=True) == {
        "cluster_id": CLUSTER,
        "answered_by": "replica-1",
        "source": "gossip",
        "primaries": [
            {
                "node_id": "metastore-1",
                "role": "metastore",
                "services": ["metastore"],
                "live": True,
                "ready": True,
                "generation": "7",
                "grpc_address": "10.0.0.5:7281",
                "rest_address": "10.0.0.5:7280",
                "gossip_address": "10.0.0.5:7280",
                "availability_zone": "a",
                "version": "0.1.0",
            }
        ],
        "members": [
            {
                "node_id": "replica-1",
                "role": "metastore_read_replica",
                "services": ["metastore_read_replica"],
                "live": True,
                "ready": True,
                "generation": "1",
                "grpc_address": "10.0.0.6:7281",
                "rest_address": "10.0.0.6:7280",
                "gossip_address": "10.0.0.6:7280",
                "version": "0.1.0",
                "lag_at_most": 5.0,
            },
            {
                "node_id": "replica-2",
                "role": "metastore_read_replica",
                "services": ["metastore_read_replica"],
                "live": False,
                "ready": False,
                "generation": "1",
                "grpc_address": "10.0.0.8:7281",
                "rest_address": "10.0.0.8:7280",
                "gossip_address": "10.0.0.8:7280",
                "version": "0.1.0",
                "problem": "it gives no sign of life",
            },
            {
                "node_id": "router-1",
                "role": "metastore_router",
                "services": ["metastore_read_replica"],
                "live": True,
                "ready": True,
                "generation": "1",
                "grpc_address": "10.0.0.7:7281",
                "rest_address": "10.0.0.7:7280",
                "gossip_address": "10.0.0.7:7280",
                "version": "0.1.0",
            },
            {
                "node_id": "searcher-1",
                "role": "searcher",
                "services": ["searcher"],
                "live": True,
                "ready": True,
                "generation": "1",
                "grpc_address": "10.0.0.9:7281",
                "gossip_address": "10.0.0.9:7280",
            },
        ],
    }


async def test_all_nodes_answer_the_same_but_for_who_answers() -> None:
    members = [PRIMARY, REPLICA, ROUTER, SEARCHER]
    answers: list[pb.GetClusterInfoResponse] = []
    for observer in members:
        # Each node meets the others in another order, and knows a client that only listens.
        seen = [replace(one, is_self=one is observer) for one in members]
        listener = replace(ours(f"client-{observer.node_id}", ""), keys={}, services=frozenset())
        answer = await info(cluster(*reversed(seen), listener), node_id=observer.node_id).answer()
        assert answer.answered_by == observer.node_id
        answer.answered_by = ""
        answers.append(answer)
    assert len(answers[0].members) == 3
    assert all(answer == answers[0] for answer in answers)


async def test_of_a_primary_that_is_quickwits_own_the_rest_address_is_not_known() -> None:
    node = quickwit("node-1", "metastore,control-plane", host="10.0.0.4")
    (primary,) = (await info(cluster(node)).answer()).primaries
    assert primary.grpc_address == "10.0.0.4:7281"
    assert primary.gossip_address == "10.0.0.4:7280"
    assert primary.role == "control-plane,metastore"
    assert not primary.HasField("rest_address")
    assert not primary.HasField("version")


async def test_primaries_are_all_that_can_be_used_and_the_rest_are_members() -> None:
    waiting = ours("metastore-0", "metastore", readiness="NOT_READY")
    second = ours("metastore-2", "metastore", host="10.0.0.2")
    answer = await info(cluster(second, PRIMARY, waiting)).answer()
    assert [one.node_id for one in answer.primaries] == ["metastore-1", "metastore-2"]
    assert [(one.node_id, one.ready, one.problem) for one in answer.members] == [
        ("metastore-0", False, "it says that it is not ready")
    ]


async def test_a_node_id_that_two_processes_have_is_named() -> None:
    answer = await info(cluster(PRIMARY, REPLICA, duplicates=("replica-1",))).answer()
    assert answer.members[0].problem == "two processes have its node ID"


def metastore(**changes: str | None) -> MemberView:
    return ours("metastore-1", "metastore", **changes)


@pytest.mark.parametrize(
    ("primary", "expected"),
    [
        (ours("metastore-1", "metastore", is_live=False), "it gives no sign of life"),
        (metastore(readiness="NOT_READY"), "it says that it is not ready"),
        (metastore(readiness=None), "its key `readiness` is missing"),
        (metastore(grpc_advertise_addr=None), "its key `grpc_advertise_addr` is missing"),
        (
            metastore(grpc_advertise_addr="metastore:7281"),
            "its key `grpc_advertise_addr` holds no address `ip:port`, but 'metastore:7281'",
        ),
        (
            metastore(rest_advertise_addr=None),
            "its key `metastore_proxy.rest_advertise_addr` is missing",
        ),
        (
            metastore(rest_advertise_addr="10.0.0.5:http"),
            (
                "its key `metastore_proxy.rest_advertise_addr` holds no address `ip:port`, "
                "but '10.0.0.5:http'"
            ),
        ),
        (metastore(enabled_services=None), "its key `enabled_services` is missing"),
        (
            quickwit("metastore-1", "metastore", grpc_advertise_addr=""),
            "its key `grpc_advertise_addr` holds no address `ip:port`, but ''",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
async def test_a_primary_that_cannot_be_named_is_unavailable_and_says_why(
    primary: MemberView, expected: str
) -> None:
    told = await refusal(info(cluster(primary, REPLICA)))
    assert told == f"no primary can be named (`metastore-1`: {expected})"


async def test_of_several_primaries_that_cannot_be_named_each_is_told() -> None:
    dead = ours("metastore-2", "metastore", is_live=False)
    told = await refusal(info(cluster(metastore(readiness="NOT_READY"), dead)))
    assert told == (
        "no primary can be named (`metastore-1`: it says that it is not ready; "
        "`metastore-2`: it gives no sign of life)"
    )


async def test_a_cluster_without_a_primary_is_unavailable() -> None:
    router = ours("router-1", "metastore_router", enabled_services="metastore")
    told = await refusal(info(cluster(REPLICA, router, SEARCHER)))
    assert told == (
        "no primary is known: no member of cluster `test-cluster` has the service `metastore`: "
        "start one"
    )


@pytest.mark.parametrize("others", [(), (replace(ROUTER, is_live=False),)], ids=["none", "dead"])
async def test_a_node_that_is_alone_says_so(others: tuple[MemberView, ...]) -> None:
    told = await refusal(info(cluster(replace(REPLICA, is_self=True), *others)))
    assert told == (
        "no primary is known: this node sees no other member of cluster `test-cluster`: check "
        "`peer_seeds`, `cluster_id`, and that UDP gets through to the gossip ports"
    )


async def test_without_gossip_and_without_a_primary_in_the_config_it_says_so() -> None:
    assert await refusal(info(None, is_on=False)) == (
        "no primary is known: gossip is off (`proxy.gossip`) and `proxy.primary` names no node: "
        "turn gossip on, or name the `metastore` nodes"
    )


async def test_before_a_node_has_joined_it_says_so() -> None:
    told = await refusal(info(None))
    assert told == "no primary is known: node `replica-1` has not joined its cluster yet"


async def test_texts_of_others_do_not_fill_the_answer() -> None:
    long = quickwit("node-1", "searcher", version="v" * 4000, role="r" * 4000)
    answer = await info(cluster(PRIMARY, long)).answer()
    assert len(answer.members[0].version) == 128
    assert len(answer.SerializeToString()) < 1000


@pytest.mark.parametrize(
    ("view", "static", "expected"),
    [
        (cluster(PRIMARY, ours("metastore-2", "metastore")), ("10.0.0.4:7281",), "10.0.0.5:7281"),
        (cluster(replace(PRIMARY, is_self=True)), (), None),
        (cluster(REPLICA), (), None),
        (cluster(REPLICA), ("10.0.0.4:7281",), "10.0.0.4:7281"),
        (cluster(metastore(readiness="NOT_READY")), ("10.0.0.4:7281",), "10.0.0.4:7281"),
        (cluster(metastore(readiness="NOT_READY")), (), None),
        (None, ("10.0.0.4:7281", "10.0.0.3:7281"), "10.0.0.4:7281"),
        (None, (), None),
    ],
)
def test_the_address_of_a_primary_to_send_a_call_to(
    view: ClusterView | None, static: tuple[str, ...], expected: str | None
) -> None:
    assert info(view, static).primary_address() == expected
