"""What a node of each role takes of memory: at rest, and under reads of long lists.

    python -m tests.bench.memory [--splits 100000] [--callers 8] [--seconds 20]

A metastore node, a replica node and a router, as processes; the router is called.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import time
from collections import Counter
from collections.abc import Mapping
from typing import Any

import grpc
import psutil

from proxy.demo import dataset
from proxy.identifiers import index_uid_text
from proxy.proto.quickwit import metastore_pb2 as pb
from proxy.routing.catalogue import RPCS
from tests.support.fleet import Fleet, fleet
from tests.support.main_job import call

BATCH = 1000


def resident(running: Fleet) -> dict[str, float]:
    """Return the resident memory of each process, in MiB."""
    return {
        node.node_id: psutil.Process(node.pid).memory_info().rss / 2**20 for node in running.nodes
    }


async def publish(channel: grpc.aio.Channel, count: int) -> str:
    """Publish splits into a new index; return its UID."""
    created = await call(
        channel,
        "CreateIndex",
        pb.CreateIndexRequest(
            index_config_json=dataset.index_config(),
            source_configs_json=[dataset.source_config()],
        ),
    )
    uid = created.messages[0].index_uid
    for first in range(0, count, BATCH):
        splits = [dataset.split(index_uid_text(uid), first + number) for number in range(BATCH)]
        await call(
            channel,
            "StageSplits",
            pb.StageSplitsRequest(
                index_uid=uid, split_metadata_list_serialized_json=json.dumps(splits)
            ),
        )
        await call(
            channel,
            "PublishSplits",
            pb.PublishSplitsRequest(
                index_uid=uid,
                staged_split_ids=[split["split_id"] for split in splits],
                index_checkpoint_delta_json_opt=dataset.checkpoint_delta(first, first + BATCH),
            ),
        )
    return index_uid_text(uid)


async def measure(splits: int, callers: int, seconds: float) -> None:
    """Print the memory of all nodes at rest, under load and after it."""
    async with fleet() as running:
        router = await running.start_router()
        report("started", resident(running))
        async with grpc.aio.insecure_channel(router.address) as channel:
            uid = await publish(channel, splits)
            await running.pair.wait_caught_up()
            report(f"{splits:,} splits written", resident(running))
            highest = resident(running)
            deadline, codes = time.monotonic() + seconds, Counter[str]()
            request = pb.ListSplitsRequest(query_json=dataset.published_query(uid))
            # Bytes that nobody looks at: this process shares the processors with the nodes.
            invoke: Any = channel.unary_stream(RPCS["ListSplits"].path)

            async def read() -> None:
                while time.monotonic() < deadline:
                    try:
                        async for _ in invoke(request.SerializeToString(), timeout=60):
                            pass
                        codes["OK"] += 1
                    except grpc.aio.AioRpcError as error:
                        codes[error.code().name] += 1

            async def watch() -> None:
                while time.monotonic() < deadline:
                    for name, now in resident(running).items():
                        highest[name] = max(highest[name], now)
                    await asyncio.sleep(0.1)

            await asyncio.gather(watch(), *(read() for _ in range(callers)))
            report(f"{callers} callers, lists {dict(codes)}", highest)


def report(what: str, sizes: Mapping[str, float]) -> None:
    """Print one line."""
    figures = ", ".join(f"{name} {size:.0f} MiB" for name, size in sorted(sizes.items()))
    print(f"{what:<48} {figures}", flush=True)  # noqa: T201 - what a benchmark is for


def main() -> None:
    """Run by the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--splits", type=int, default=100_000)
    parser.add_argument("--callers", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=20)
    options = parser.parse_args()
    asyncio.run(measure(options.splits, options.callers, options.seconds))


if __name__ == "__main__":
    main()
