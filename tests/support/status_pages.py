"""The cluster whose status page is looked at: a primary, two replicas, a router, and a load."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Final

import grpc

from proxy import errors
from proxy.demo import dataset
from proxy.demo.processes import NodeProcess
from proxy.proto.quickwit import metastore_pb2 as pb
from tests.support.fleet import Fleet, fleet
from tests.support.routers import Caller

# Between two calls of the load.
_PAUSE: Final = 0.02


class Shown:
    """A cluster under load, and the router whose page shows it."""

    def __init__(self, cluster: Fleet, router: NodeProcess) -> None:
        self.cluster = cluster
        self.router = router

    @property
    def url(self) -> str:
        """Where the router's page is."""
        return f"{self.router.rest_url}/"

    async def hold_replay(self, number: int) -> None:
        """Have a standby replay nothing any more."""
        await self.cluster.pair.standbys[number].execute("SELECT pg_wal_replay_pause()")

    async def let_replay(self, number: int) -> None:
        """Have a standby replay again."""
        await self.cluster.pair.standbys[number].execute("SELECT pg_wal_replay_resume()")


@asynccontextmanager
async def shown(**settings: str) -> AsyncIterator[Shown]:
    """Run the cluster; `settings` are keys of the router's `proxy`."""
    async with fleet(standbys=2, is_cluster=True) as cluster:
        async with cluster.client() as client:
            await cluster.create_indexes(client, 1)
        router = await cluster.start_router(**settings)
        async with Caller(router.address) as caller:
            load = asyncio.create_task(_call(caller), name="load")
            try:
                yield Shown(cluster, router)
            finally:
                load.cancel()
                await asyncio.wait({load})


async def _call(caller: Caller) -> None:
    """Read and write; what fails fails, for that is what the page is to show."""
    read = pb.IndexMetadataRequest(index_id="index-0").SerializeToString()
    config = json.loads(dataset.index_config())
    number = 0
    while True:
        number += 1
        with suppress(grpc.aio.AioRpcError, errors.MetastoreError):
            await caller.unary("IndexMetadata", read, timeout=2.0)
        if number % 50 == 0:
            config["index_id"] = f"written-{number}"
            config["index_uri"] = f"ram:///written-{number}"
            made = pb.CreateIndexRequest(index_config_json=json.dumps(config))
            with suppress(grpc.aio.AioRpcError, errors.MetastoreError):
                await caller.unary("CreateIndex", made.SerializeToString(), timeout=2.0)
        await asyncio.sleep(_PAUSE)
