"""Real processes on addresses of their own find each other by one seed and see who is there.

Killed, frozen, cut off or started again: all the others know within ten seconds, and a client that
knows nothing but gossip loses no stale-tolerant read meanwhile.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Collection, Iterable, Mapping
from contextlib import asynccontextmanager

import pytest

from proxy.client import RoutingClient
from proxy.demo import dataset
from proxy.demo.reads import ReadLoad
from proxy.proto.quickwit import metastore_pb2 as pb
from tests.support.cluster import ROLES, Cluster, Loopback, Namespaces, running_cluster
from tests.support.waiting import until

log = logging.getLogger(__name__)

BOUND = 10.0
EVERYONE = frozenset(ROLES)

# Who is killed, and who is frozen, at the same time: each node once, and never all of a kind.
ROUNDS = [
    ({"metastore-1", "replica-1"}, {"replica-2", "router-1"}),
    ({"replica-3", "router-1"}, {"metastore-1", "replica-1"}),
    ({"metastore-2", "replica-2"}, {"replica-3"}),
    (set[str](), {"metastore-2"}),
]


async def agreed(cluster: Cluster, what: str, gone: Iterable[str] = ()) -> None:
    """Wait until all nodes that are not `gone` say who is ready and who has gone."""
    gone = set(gone)
    began = time.monotonic()
    differing: dict[str, dict[str, str]] = {}

    async def all_agree() -> bool:
        nonlocal differing
        differing = await cluster.differing(EVERYONE - gone, gone)
        return not differing

    await until(all_agree, lambda: f"{what}: but {differing}", timeout=BOUND)
    log.info("%s seen by all after %.1f s", what, time.monotonic() - began)


@asynccontextmanager
async def read(cluster: Cluster) -> AsyncIterator[RoutingClient]:
    """Keep up a load of reads by a client that finds the nodes by gossip; not one may fail."""
    async with cluster.client() as client:
        await client.wait_ready(timeout=20)
        created = await client.call(
            "CreateIndex", pb.CreateIndexRequest(index_config_json=dataset.index_config())
        )
        await cluster.pair.wait_caught_up()
        uid = created.response.index_uid
        load = ReadLoad(
            client,
            [
                ("IndexMetadata", pb.IndexMetadataRequest(index_uid=uid)),
                ("ListIndexesMetadata", pb.ListIndexesMetadataRequest(index_id_patterns=["*"])),
            ],
        )
        async with load.running():
            yield client
    log.info("%d reads, %s", load.total, dict(load.peek()))
    assert load.failures == []
    assert load.total > 100


async def test_whoever_is_killed_frozen_or_started_again_is_seen_by_all() -> None:
    async with running_cluster(Loopback()) as cluster:
        await agreed(cluster, "the start")
        async with read(cluster):
            for killed, frozen in ROUNDS:
                before = await cluster.members("router-1")
                for name in killed:
                    cluster.nodes[name].kill()
                for name in frozen:
                    cluster.nodes[name].freeze()
                gone = killed | frozen
                await agreed(cluster, f"{sorted(killed)} killed, {sorted(frozen)} frozen", gone)
                for name in frozen:
                    cluster.nodes[name].thaw()
                await cluster.start(*killed)
                await agreed(cluster, f"{sorted(gone)} returned")
                await until(
                    lambda seen=before, new=killed: renewed(cluster, seen, new), timeout=BOUND
                )
            await stopped(cluster, "replica-1")


async def renewed(
    cluster: Cluster, before: Mapping[str, pb.ClusterMember], killed: Collection[str]
) -> bool:
    """Tell whether those that were killed, and nobody else, are seen in a later run.

    What was known of an earlier one may be handed round by members that were frozen, so that it
    seems to be alive for a moment.
    """
    after = await cluster.members("router-1")
    return after.keys() >= EVERYONE and all(
        (after[name].generation > before[name].generation) is (name in killed) for name in EVERYONE
    )


async def stopped(cluster: Cluster, name: str) -> None:
    """Stop a node in order: it says so itself, long before its silence would tell."""
    stopping = asyncio.create_task(cluster.nodes[name].terminate())

    async def said() -> bool:
        member = (await cluster.members("router-1"))[name]
        return member.live and not member.ready

    await until(said, timeout=BOUND)
    assert await stopping == 0
    await agreed(cluster, f"{name} stopped", {name})


@pytest.mark.skipif(bool(Namespaces.problem()), reason=Namespaces.problem() or "-")
async def test_whoever_is_cut_off_is_seen_by_all() -> None:
    async with Namespaces() as site, running_cluster(site) as cluster:
        await agreed(cluster, "the start")
        async with read(cluster):
            for names in (["metastore-1", "replica-1"], ["metastore-2", "router-1"]):
                for name in names:
                    site.partition(name)
                await agreed(cluster, f"{names} cut off", names)
                for name in names:
                    site.heal(name)
                await agreed(cluster, f"{names} back")
