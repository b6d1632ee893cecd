"""Replica nodes stopped and killed under a steady load: no stale-tolerant read is lost."""

from __future__ import annotations

import asyncio
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
