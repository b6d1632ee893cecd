"""Who the primary is without gossip: a primary says so itself, every other node asks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
from google.protobuf.json_format import MessageToDict

from proxy import errors
from proxy.gossip.view import ClusterView
from proxy.proto.metastore_proxy.v1 import proxy_pb2 as pb
from proxy.routing.targets import Target, parse_target
from proxy.server.cluster_info import Answers, ClusterInfo, NamedPrimary
from proxy.unanswered import NoAnswerError
from tests.support.views import CLUSTER, cluster, ours

Came = pb.GetClusterInfoResponse | NoAnswerError | errors.MetastoreError

ALONE = cluster(ours("replica-1", "metastore_read_replica", is_self=True))


def metastore(node_id: str, host: str, **changes: Any) -> pb.ClusterMember:
    told = {"role": "metastore", "ready": True, "rest_address": f"{host}:7280", **changes}
    return pb.ClusterMember(node_id=node_id, **{"grpc_address": f"{host}:7281", **told})


def told(
    *primaries: pb.ClusterMember, by: str = "", of: str = CLUSTER
) -> pb.GetClusterInfoResponse:
    by = by or primaries[0].node_id
    return pb.GetClusterInfoResponse(cluster_id=of, answered_by=by, primaries=primaries)


FIRST = metastore("metastore-1", "10.0.0.4", version="0.1.0", availability_zone="a")
SECOND = metastore("metastore-2", "10.0.0.5")


class World:
    """Whom a replica's configuration names, and what comes of asking each."""

    def __init__(
        self, nodes: dict[str, Came], view: ClusterView | None = None, **known: str
    ) -> None:
        self.asked: list[tuple[str, float]] = []
        self._nodes = nodes
        self._problems = known
        self.info = ClusterInfo(
            cluster_id=CLUSTER,
            node_id="replica-1",
            is_on=view is not None,
            view=lambda: view,
            named=self._named,
            ask=self._ask,
        )

    def _named(self) -> Sequence[NamedPrimary]:
        targets = [parse_target(address) for address in self._nodes]
        return [NamedPrimary(one, self._problems.get(one.host, "")) for one in targets]

    async def _ask(self, target: Target, /, *, timeout: float) -> Answers:
        self.asked.append((str(target), timeout))
        return {target.address: self._nodes[target.address]}

    async def refusal(self) -> str:
        with pytest.raises(errors.Unavailable) as caught:
            await self.info.answer()
        return caught.value.message


@pytest.mark.parametrize("view", [None, ALONE], ids=["off", "alone"])
async def test_the_answer_is_what_the_primary_says_of_itself(view: ClusterView | None) -> None:
    answer = await World({"metastore:7281": told(FIRST)}, view).info.answer()
    assert MessageToDict(answer, preserving_proto_field_name=True) == {
        "cluster_id": CLUSTER,
        "answered_by": "replica-1",
        "source": "static",
        "primaries": [
            {
                "node_id": "metastore-1",
                "role": "metastore",
                "ready": True,
                "grpc_address": "10.0.0.4:7281",
                "rest_address": "10.0.0.4:7280",
                "availability_zone": "a",
                "version": "0.1.0",
            }
        ],
    }


async def test_every_primary_is_named_once_by_its_own_word_and_in_order() -> None:
    hearsay = of_version(FIRST, "older")
    world = World(
        {
            "a:1": told(SECOND, hearsay),
            "b:1": told(FIRST, of_version(SECOND, "older")),
            "c:1": errors.Unavailable("not now"),
            "d:1": told(SECOND),
        }
    )
    assert list((await world.info.answer()).primaries) == [FIRST, SECOND]


def of_version(member: pb.ClusterMember, version: str) -> pb.ClusterMember:
    changed = pb.ClusterMember()
    changed.CopyFrom(member)
    changed.version = version
    return changed


QUICKWITS = metastore("node-1", "10.0.0.6", role="metastore,searcher", rest_address=None)


async def test_a_primary_that_is_quickwits_own_is_named_by_who_knows_it_by_gossip() -> None:
    answer = await World({"a:1": told(QUICKWITS, by="metastore-1")}).info.answer()
    assert list(answer.primaries) == [QUICKWITS]


CANNOT_BE_READ = "its endpoints cannot be read: its answer does not have them all"


@pytest.mark.parametrize(
    ("came", "why"),
    [
        (NoAnswerError("", reason="connection refused"), "it does not answer: connection refused"),
        (
            NoAnswerError("", reason="it is no node of this project's", is_stranger=True),
            "its endpoints cannot be read: it is no node of this project's",
        ),
        (errors.Unavailable("not yet"), "service unavailable: not yet"),
        (
            told(FIRST, of="other"),
            "it is of cluster `other`, and this node of `test-cluster`: check `cluster_id`",
        ),
        (told(by="metastore-1"), CANNOT_BE_READ),
        (told(metastore("metastore-1", "10.0.0.4", rest_address=None)), CANNOT_BE_READ),
        (told(metastore("metastore-1", "10.0.0.4", grpc_address=None)), CANNOT_BE_READ),
        (told(metastore("", "10.0.0.4"), by="metastore-1"), CANNOT_BE_READ),
        (errors.Unavailable("x" * 1000), f"service unavailable: {'x' * 235}"),
    ],
    ids=["silent", "stranger", "refusal", "cluster", "none", "rest", "grpc", "id", "long"],
)
async def test_one_that_cannot_be_named_is_told_with_the_reason(came: Came, why: str) -> None:
    assert await World({"a:1": came}).refusal() == f"no primary can be named (a:1: {why})"
    # It does not hide one that can.
    answer = await World({"a:1": came, "b:1": told(SECOND)}).info.answer()
    assert list(answer.primaries) == [SECOND]


async def test_one_whose_database_is_not_ours_is_not_asked() -> None:
    gone = NoAnswerError("", reason="refused")
    world = World({"a:1": told(FIRST), "b:1": gone}, a="it serves another cluster's database")
    assert await world.refusal() == (
        "no primary can be named (a:1: it serves another cluster's database; "
        "b:1: it does not answer: refused)"
    )
    assert world.asked == [("b:1", 2.0)]


@pytest.mark.parametrize(
    ("time_left", "bound"), [(None, 2.0), (30.0, 2.0), (1.0, 0.8), (-1.0, 0.0)]
)
async def test_the_question_leaves_time_to_answer(time_left: float | None, bound: float) -> None:
    world = World({"a:1": told(FIRST), "b:1": told(SECOND)})
    await world.info.answer(time_left=time_left)
    assert world.asked == [("a:1", bound), ("b:1", bound)]


@pytest.mark.parametrize("view", [None, cluster(ours("metastore-1", "metastore"))])
async def test_asked_for_itself_alone_a_node_that_is_no_primary_says_so(
    view: ClusterView | None,
) -> None:
    world = World({"a:1": told(FIRST)}, view)
    with pytest.raises(errors.Unavailable, match="node `replica-1` is no primary: name"):
        await world.info.answer(own_only=True)
    assert world.asked == []


async def test_what_gossip_says_of_a_primary_goes_before_the_configuration() -> None:
    world = World({"a:1": told(FIRST)}, cluster(ours("m", "metastore", readiness="NOT_READY")))
    assert await world.refusal() == "no primary can be named (`m`: it says that it is not ready)"
    assert world.asked == []


# A primary


def primary(me: pb.ClusterMember | None, view: ClusterView | None = None) -> ClusterInfo:
    return ClusterInfo(
        cluster_id=CLUSTER,
        node_id="metastore-1",
        is_on=view is not None,
        view=lambda: view,
        itself=lambda: me,
        ask=World({})._ask,
    )


@pytest.mark.parametrize("own_only", [False, True])
async def test_a_primary_names_itself(own_only: bool) -> None:
    answer = await primary(FIRST).answer(own_only=own_only)
    assert (answer.source, answer.answered_by) == ("static", "metastore-1")
    assert list(answer.primaries) == [FIRST]
    assert primary(FIRST).primary_address() is None


async def test_a_primary_that_is_a_member_answers_by_gossip_also_for_itself_alone() -> None:
    me = replace(ours("metastore-1", "metastore"), is_self=True)
    view = cluster(me, ours("metastore-2", "metastore", host="10.0.0.5"))
    answer = await primary(FIRST, view).answer(own_only=True)
    assert answer.source == "gossip"
    assert [one.node_id for one in answer.primaries] == ["metastore-1", "metastore-2"]


@pytest.mark.parametrize(
    ("me", "why"),
    [
        (None, "node `metastore-1` has not joined its cluster yet"),
        (
            metastore("metastore-1", "10.0.0.4", problem="it says that it is not ready"),
            "no primary can be named (`metastore-1`: it says that it is not ready)",
        ),
    ],
)
async def test_a_primary_that_is_not_ready_does_not_name_itself(
    me: pb.ClusterMember | None, why: str
) -> None:
    with pytest.raises(errors.Unavailable) as caught:
        await primary(me).answer()
    assert caught.value.message == why
