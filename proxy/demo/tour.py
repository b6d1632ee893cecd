"""The guided tour: write through the primary, read from the replicas, kill them one by one."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

from proxy import errors
from proxy.client import RoutingClient
from proxy.demo import dataset
from proxy.demo.cluster import DemoCluster
from proxy.demo.postgres import PostgresError
from proxy.demo.processes import NodeError
from proxy.demo.reads import ReadLoad, Served, read
from proxy.proto.quickwit import metastore_pb2 as pb

SPLITS: Final = 1_000
BATCH: Final = 250
WAIT_BOUND: Final = 20.0
# Long enough for the steady load to show a new pattern.
LOOK: Final = 0.8


async def run_tour(*, leave_running: bool) -> int:
    """Run the tour; return the exit status. Everything it started is gone when it returns."""
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        loop.add_signal_handler(number, stopping.set)
    tour = Tour(leave_running=leave_running, stopping=stopping)
    walk = asyncio.create_task(tour.walk(), name="tour")
    stop = asyncio.create_task(stopping.wait(), name="signal")
    await asyncio.wait({walk, stop}, return_when=asyncio.FIRST_COMPLETED)
    if not walk.done() and not tour.is_waiting:
        walk.cancel()
    stop.cancel()
    try:
        return await walk
    except asyncio.CancelledError:
        _say("stopped; everything the demo started is removed")
        return 130
    except (errors.MetastoreError, PostgresError, NodeError) as error:
        _say(f"demo failed: {error}")
        return 1


class Tour:
    """The steps, in order; each says what it does and shows what came of it."""

    def __init__(self, *, leave_running: bool, stopping: asyncio.Event) -> None:
        self._leave_running = leave_running
        self._stopping = stopping
        self._step_number = 0
        self._reads = 0
        self._index_uid = ""
        self.is_waiting = False

    async def walk(self) -> int:
        """Take every step; return 0 if no read failed."""
        async with DemoCluster() as cluster:
            await self._start(cluster)
            addresses = [replica.address for replica in cluster.replicas]
            async with RoutingClient(
                [cluster.primary.address], addresses, allow_writes=True
            ) as client:
                await client.wait_ready(timeout=WAIT_BOUND)
                await self._write(client)
                load = ReadLoad(client, self._requests())
                async with load.running():
                    await self._read_and_kill(cluster, client, load)
                    if self._leave_running and not load.failures:
                        await self._wait(cluster)
        return self._conclude(load)

    async def _start(self, cluster: DemoCluster) -> None:
        self._step("Start a PostgreSQL primary and a streaming hot standby")
        started = time.monotonic()
        await cluster.start_databases()
        _say(f"  both up after {time.monotonic() - started:.1f} s")
        self._step("Start a metastore node on the primary and two replica nodes on the standby")
        started = time.monotonic()
        await cluster.start_nodes()
        for node in cluster.nodes:
            _say(f"  {node.node_id:<12} {node.role.value:<23} gRPC {node.address}")
        _say(f"  schema migrated and all ready after {time.monotonic() - started:.1f} s")

    async def _write(self, client: RoutingClient) -> None:
        self._step(f"Create the index `hdfs-logs`, stage and publish {SPLITS:,} splits")
        created = await client.call(
            "CreateIndex",
            pb.CreateIndexRequest(
                index_config_json=dataset.index_config(),
                source_configs_json=[dataset.source_config()],
            ),
        )
        uid = created.response.index_uid
        self._index_uid = json.loads(created.response.index_metadata_json)["index_uid"]
        for first in range(0, SPLITS, BATCH):
            batch = [dataset.split(self._index_uid, first + n) for n in range(BATCH)]
            await client.call(
                "StageSplits",
                pb.StageSplitsRequest(
                    index_uid=uid, split_metadata_list_serialized_json=json.dumps(batch)
                ),
            )
            await client.call(
                "PublishSplits",
                pb.PublishSplitsRequest(
                    index_uid=uid,
                    staged_split_ids=[split["split_id"] for split in batch],
                    index_checkpoint_delta_json_opt=dataset.checkpoint_delta(first, first + BATCH),
                ),
            )
        _say(f"  {self._index_uid}: all writes served by {created.served_by}")

    def _requests(self) -> list[tuple[str, pb.IndexMetadataRequest | pb.ListSplitsRequest]]:
        """Return the reads of the steady load: small ones, as a searcher makes them."""
        recent = {
            "start": {"Included": dataset.START},
            "end": {"Excluded": dataset.START + 10 * dataset.SPLIT_SECONDS},
        }
        return [
            ("IndexMetadata", pb.IndexMetadataRequest(index_id="hdfs-logs")),
            (
                "ListSplits",
                pb.ListSplitsRequest(
                    query_json=dataset.published_query(self._index_uid, time_range=recent)
                ),
            ),
        ]

    async def _read_and_kill(
        self, cluster: DemoCluster, client: RoutingClient, load: ReadLoad
    ) -> None:
        first, second = cluster.replicas
        self._step("Read it back through the routing client")
        await self._until(lambda: self._sees_all(client), "the replicas show all splits")
        await self._show_reads(client)
        await self._show_load(load)

        self._step(f"Kill {first.node_id} (SIGKILL) under the steady load")
        first.kill()
        await self._show_load(load)

        self._step(f"Kill {second.node_id} as well: reads fall back to the primary")
        second.kill()
        await self._show_reads(client)
        await self._show_load(load)

        self._step(f"Start {first.node_id} again: reads come back to it")
        first.start()
        await first.wait_ready()
        await self._until(
            lambda: self._is_served_by(client, first.node_id), f"{first.node_id} serves again"
        )
        load.since_last()
        await self._show_reads(client)
        await self._show_load(load)
        if self._leave_running:
            second.start()
            await second.wait_ready()

    async def _sees_all(self, client: RoutingClient) -> bool:
        served = await self._read_all(client)
        return served.route == "replica" and _count(served) == SPLITS

    async def _is_served_by(self, client: RoutingClient, node_id: str) -> bool:
        self._reads += 1
        served = await read(client, "IndexMetadata", pb.IndexMetadataRequest(index_id="hdfs-logs"))
        return served.served_by == node_id

    async def _read_all(self, client: RoutingClient) -> Served:
        self._reads += 1
        query = dataset.published_query(self._index_uid)
        return await read(client, "ListSplits", pb.ListSplitsRequest(query_json=query))

    async def _show_reads(self, client: RoutingClient) -> None:
        rows: list[Sequence[str]] = []
        for request in (
            pb.IndexMetadataRequest(index_id="hdfs-logs"),
            pb.ListIndexesMetadataRequest(index_id_patterns=["*"]),
        ):
            self._reads += 1
            rpc_name = request.DESCRIPTOR.name.removesuffix("Request")
            rows.append(_row(await read(client, rpc_name, request), "1 index"))
        for _ in range(2):
            served = await self._read_all(client)
            rows.append(_row(served, f"{_count(served):,} splits"))
        _table(("call", "served by", "route", "data at most", "took", "answer"), rows)

    async def _show_load(self, load: ReadLoad) -> None:
        await asyncio.sleep(LOOK)
        parts = [
            f"{node} {count} ({route})"
            for (node, route), count in sorted(load.since_last().items())
        ]
        _say(f"  steady load, 50 reads/s: {', '.join(parts)}; failed {len(load.failures)}")

    async def _until(self, condition: Callable[[], Awaitable[bool]], what: str) -> None:
        deadline = time.monotonic() + WAIT_BOUND
        while not await condition():
            if time.monotonic() > deadline:
                raise NodeError(f"it did not come true within {WAIT_BOUND:g} s that {what}")
            await asyncio.sleep(0.05)

    async def _wait(self, cluster: DemoCluster) -> None:
        self._step("Everything is left running; Ctrl-C ends it and removes every trace")
        for node in cluster.nodes:
            _say(f"  {node.node_id:<12} gRPC {node.address:<16}  HTTP {node.rest_url}")
        program = f"{sys.executable} -m proxy"
        _say("\n  Four commands to try from another terminal:")
        _say(
            f'  {program} call IndexMetadata \'{{"index_id": "hdfs-logs"}}\' '
            f"--config {cluster.config_path}"
        )
        _say(f"  {program} status --node {cluster.replicas[0].address}")
        _say(f"  curl -s '{cluster.replicas[0].rest_url}/health/readyz?verbose'")
        _say(f"  curl -s {cluster.primary.rest_url}/metrics | grep quickwit_grpc_requests_total")
        self.is_waiting = True
        await self._stopping.wait()
        _say("\nstopping")

    def _conclude(self, load: ReadLoad) -> int:
        total = self._reads + load.total
        for failure in load.failures[:5]:
            _say(f"  failed: {failure}")
        if load.failures:
            _say(f"demo failed: {total} reads, {len(load.failures)} failed")
            return 1
        _say(f"demo ok: {total} reads, 0 failed")
        return 0

    def _step(self, text: str) -> None:
        self._step_number += 1
        _say(f"\n{self._step_number}. {text}")


def _count(served: Served) -> int:
    return sum(len(json.loads(message.splits_serialized_json)) for message in served.answer)


def _row(served: Served, answer: str) -> Sequence[str]:
    age = "unknown" if served.lag is None else f"{served.lag:.2f} s old"
    took = f"{served.seconds * 1000:.1f} ms"
    return (served.rpc, served.served_by, served.route, age, took, answer)


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    widths = [max(len(row[column]) for row in [header, *rows]) for column in range(len(header))]
    for row in (header, ["-" * width for width in widths], *rows):
        cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        _say(f"  {'  '.join(cells)}".rstrip())


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()
