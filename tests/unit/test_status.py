"""What `metastore-proxy status` shows."""

from __future__ import annotations

from proxy.commands.status import render
from proxy.gossip.view import MemberView
from proxy.proto.metastore_proxy.v1 import proxy_pb2 as pb
from proxy.routing.targets import Target
from proxy.server.cluster_info import Answers, ClusterInfo
from tests.support.views import cluster, ours, quickwit

EXPECTED = """\
cluster test-cluster, as router-1 knows it by gossip
primary: metastore-1 at 10.0.0.5:7281; 1 other metastore (0 ready); 3 replicas (2 ready); \
1 router; 1 other node

  node         role                    state      lag      version  zone    gRPC            \
REST           gossip
* metastore-1  metastore               ready      -        0.1.0    zone-a  10.0.0.5:7281   \
10.0.0.5:7280  10.0.0.5:7280
  metastore-2  metastore               not ready  -        0.1.0    -       10.0.0.1:7281   \
10.0.0.1:7280  10.0.0.1:7280
  replica-1    metastore_read_replica  ready      <= 5 s   0.1.0    -       10.0.0.6:7281   \
10.0.0.6:7280  10.0.0.6:7280
  replica-2    metastore_read_replica  dead       -        0.1.0    -       10.0.0.8:7281   \
10.0.0.8:7280  10.0.0.8:7280
  replica-3    metastore_read_replica  ready      unknown  0.1.0    -       10.0.0.7:7281   \
10.0.0.7:7280  10.0.0.7:7280
  router-1     metastore_router        ready      -        0.1.0    -       10.0.0.2:7281   \
10.0.0.2:7280  10.0.0.2:7280
  indexer-1    indexer,searcher        ready      -        -        -       10.0.0.11:7281  \
-              10.0.0.11:7280

what is wrong:
  metastore-2: it says that it is not ready
  replica-2: it gives no sign of life"""


async def shown(*members: MemberView) -> str:
    view = cluster(*members)

    async def nobody(target: Target, /, *, timeout: float) -> Answers:
        raise AssertionError(f"{target} was asked")

    info = ClusterInfo(
        cluster_id=view.cluster_id,
        node_id="router-1",
        is_on=True,
        view=lambda: view,
        ask=nobody,
    )
    return render(await info.answer())


async def test_the_primary_comes_first_and_what_is_wrong_last() -> None:
    text = await shown(
        quickwit("indexer-1", "indexer,searcher", host="10.0.0.11"),
        ours("metastore-1", "metastore", host="10.0.0.5", availability_zone="zone-a"),
        ours("metastore-2", "metastore", readiness="NOT_READY"),
        ours("router-1", "metastore_router", host="10.0.0.2"),
        ours("replica-1", "metastore_read_replica", host="10.0.0.6", lag_at_most="5"),
        ours("replica-2", "metastore_read_replica", host="10.0.0.8", is_live=False),
        ours("replica-3", "metastore_read_replica", host="10.0.0.7", lag_at_most="unknown"),
    )
    assert text == EXPECTED


async def test_what_others_call_themselves_moves_no_cursor() -> None:
    text = await shown(
        ours("metastore-1", "metastore", host="10.0.0.5"),
        ours("\x1b[2J\n", "metastore_read_replica", readiness="NOT_READY", version="\x1b[1A"),
    )
    assert "\x1b" not in text
    assert "\N{REPLACEMENT CHARACTER}[2J" in text


async def test_without_anything_wrong_nothing_is_said_of_it() -> None:
    text = await shown(ours("metastore-1", "metastore", host="10.0.0.5"))
    assert text.splitlines()[1] == "primary: metastore-1 at 10.0.0.5:7281"
    assert len(text.splitlines()) == 5
    assert "wrong" not in text


def test_of_a_static_answer_it_is_said_that_gossip_did_not_give_it() -> None:
    primary = pb.ClusterMember(
        node_id="metastore-1",
        role="metastore",
        ready=True,
        grpc_address="10.0.0.5:7281",
        rest_address="10.0.0.5:7280",
        version="0.1.0",
    )
    answer = pb.GetClusterInfoResponse(
        cluster_id="c", answered_by="replica-1", source="static", primaries=[primary]
    )
    assert render(answer).splitlines() == [
        "cluster c, as replica-1 knows it without gossip",
        "primary: metastore-1 at 10.0.0.5:7281",
        "",
        "  node         role       state  lag  version  zone  gRPC           REST           gossip",
        "* metastore-1  metastore  ready  -    0.1.0    -     10.0.0.5:7281  10.0.0.5:7280  -",
    ]
