"""Replica nodes stopped and killed under a steady load: no stale-tolerant read is lost."""

from __future__ import annotations

import asyncio
import os
import signal
from collections import Counter

from proxy.client import RoutingClient
from proxy.demo import dataset
from proxy.demo.cluster import DemoCluster
from proxy.demo.reads import ReadLoad
from proxy.proto.quickwit import metastore_pb2 as pb
from tests.support.waiting import until


async def served_until(load: ReadLoad, expected: set[tuple[str, str]]) -> Counter[tuple[str, str]]:
    """Wait until the load is served by exactly these (node, route); return what came since."""

    async def settled() -> bool:
        load.since_last()
        await until(lambda: load.total >= before + 20)
        return set(load.peek()) == expected

    while True:
        before = load.total
        if await settled():
            return load.since_last()
        await asyncio.sleep(0)


async def test_no_read_is_lost_when_replicas_are_stopped_and_killed(cluster: DemoCluster) -> None:
    first, second = cluster.replicas
    on_first, on_second = (first.node_id, "replica"), (second.node_id, "replica")
    on_primary = (cluster.primary.node_id, "fallback")
    addresses = [replica.address for replica in cluster.replicas]
    async with RoutingClient([cluster.primary.address], addresses, allow_writes=True) as client:
        await client.wait_ready(timeout=20)
        created = await client.call(
            "CreateIndex", pb.CreateIndexRequest(index_config_json=dataset.index_config())
        )
        await cluster.pair.wait_caught_up()
        query = dataset.published_query(f"hdfs-logs:{'0' * 26}")
        load = ReadLoad(
            client,
            [
                ("IndexMetadata", pb.IndexMetadataRequest(index_uid=created.response.index_uid)),
                ("ListIndexesMetadata", pb.ListIndexesMetadataRequest(index_id_patterns=["*"])),
                ("ListSplits", pb.ListSplitsRequest(query_json=query)),
            ],
        )
        async with load.running():
            async with asyncio.timeout(60):
                await served_until(load, {on_first, on_second})
                for _ in range(2):
                    first.kill()
                    await served_until(load, {on_second})
                    first.start()
                    await served_until(load, {on_first, on_second})
                    await second.terminate()
                    await served_until(load, {on_first})
                    first.kill()
                    await served_until(load, {on_primary})
                    second.start()
                    first.start()
                    await served_until(load, {on_first, on_second})
    assert load.failures == []
    assert load.total > 200


async def test_no_read_is_lost_when_all_replicas_freeze(cluster: DemoCluster) -> None:
    # What they held reaches the primary all at once, which takes only so much of one RPC.
    load_of_one_rpc = [
        ("ListIndexesMetadata", pb.ListIndexesMetadataRequest(index_id_patterns=["*"]))
    ]
    addresses = [replica.address for replica in cluster.replicas]
    frozen = [replica.pid for replica in cluster.replicas if replica.pid is not None]
    async with RoutingClient([cluster.primary.address], addresses) as client:
        await client.wait_until(lambda now: all(b.is_serving for b in now.backends), 20)
        load = ReadLoad(client, load_of_one_rpc)
        async with load.running(), asyncio.timeout(60):
            await until(lambda: load.total >= 20)
            for pid in frozen:
                os.kill(pid, signal.SIGSTOP)
            try:
                await served_until(load, {(cluster.primary.node_id, "fallback")})
            finally:
                for pid in frozen:
                    os.kill(pid, signal.SIGCONT)
            await served_until(load, {(one.node_id, "replica") for one in cluster.replicas})
    assert load.failures == []
    assert len(frozen) == 2
