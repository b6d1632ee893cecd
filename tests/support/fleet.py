"""A PostgreSQL primary with standbys, and nodes and routers as processes of their own."""

from __future__ import annotations

import asyncio
import json
import os
import tempfile
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

from proxy.client import RoutingClient
from proxy.demo import dataset
from proxy.demo.postgres import PostgresPair
from proxy.demo.processes import NodeProcess
from proxy.demo.watchdog import Watchdog
from proxy.proto.quickwit import metastore_pb2 as pb
from proxy.roles import Role
from tests.support.pairs import QuickPair
from tests.support.postgres import SETUP

DATABASE: Final = "quickwit"
# After so long callers of a router connect again.
ROUTER_AGE: Final = "2s"
# A part of the sizes that the acceptance tests have: `METASTORE_PROXY_TEST_SCALE=0.05` for a quick
# look on a machine that has other things to do.
SCALE: Final = float(os.environ.get("METASTORE_PROXY_TEST_SCALE", "1"))


def scaled(count: int, least: int = 1) -> int:
    """Return a size of a test, by the environment's scale; below `least` it would prove nothing."""
    return max(least, round(count * SCALE))


class Fleet:
    """One `metastore` node, and one replica node per entry of `nodes_per_standby` and standby.

    `sections` are parts of all nodes' configuration besides `proxy`.
    """

    def __init__(
        self,
        directory: Path,
        pair: PostgresPair,
        watchdog: Watchdog,
        sections: Mapping[str, Any] | None = None,
        *,
        is_cluster: bool,
    ) -> None:
        self._sections = sections or {}
        self.directory = directory
        self._is_cluster = is_cluster
        self.pair = pair
        self._watchdog = watchdog
        self.primary: NodeProcess
        self.standins: list[NodeProcess] = []
        self.replicas: list[NodeProcess] = []
        self.routers: list[NodeProcess] = []

    async def start_nodes(self, nodes_per_standby: int, **settings: Any) -> None:
        """Start the nodes, with `settings` as keys of `proxy`, and wait until they are ready."""
        self.primary = self._node("metastore-1", Role.METASTORE, self.pair.primary_uri(DATABASE))
        for number, standby in enumerate(self.pair.standbys, 1):
            for letter in "abcd"[:nodes_per_standby]:
                node_id = f"replica-{number}{letter}"
                self.replicas.append(
                    self._node(node_id, Role.READ_REPLICA, standby.uri(DATABASE), **settings)
                )
        self.primary.start()
        await self.primary.wait_ready()
        for replica in self.replicas:
            replica.start()
        for replica in self.replicas:
            await replica.wait_ready()

    async def start_standin(self) -> NodeProcess:
        """Start one more `metastore` node on the same primary."""
        number = len(self.standins) + 2
        uri = self.pair.primary_uri(DATABASE)
        node = self._node(f"metastore-{number}", Role.METASTORE, uri)
        self.standins.append(node)
        node.start()
        await node.wait_ready()
        return node

    def config_path(self, node: NodeProcess) -> Path:
        """Return the configuration file of a node."""
        return self.directory / f"{node.node_id}.json"

    async def start_router(self, **settings: Any) -> NodeProcess:
        """Start a router in front of all nodes, with `settings` as keys of `proxy`."""
        router = self._node(f"router-{len(self.routers) + 1}", Role.ROUTER, "", **settings)
        self.routers.append(router)
        router.start()
        await router.wait_ready()
        return router

    def _node(self, node_id: str, role: Role, uri: str, **settings: Any) -> NodeProcess:
        key = "metastore_read_replica_uri" if role.is_read_only else "metastore_uri"
        document: dict[str, Any] = {
            "version": "0.8",
            "metastore": {"postgres": {"max_connections": 40}},
            "proxy": {"heartbeat_interval": "250ms", "probe_interval": "250ms", **settings},
            **self._sections,
        }
        if uri:
            document[key] = uri
        if self._is_cluster and role is not Role.METASTORE:
            document["peer_seeds"] = [self.primary.gossip_address]
        if role is Role.ROUTER:
            primaries = [self.primary, *self.standins]
            document["proxy"]["primary"] = [one.address for one in primaries]
            document["proxy"]["replicas"] = [one.address for one in self.replicas]
            document["grpc"] = {"max_connection_age": ROUTER_AGE, **document.get("grpc", {})}
        path = self.directory / f"{node_id}.json"
        path.write_text(json.dumps(document), encoding="utf-8")
        return NodeProcess(node_id, role, self.directory, {}, config=path, watchdog=self._watchdog)

    @property
    def nodes(self) -> list[NodeProcess]:
        """All processes, the routers first."""
        return [*self.routers, *self.replicas, self.primary, *self.standins]

    def client(self, **options: Any) -> RoutingClient:
        """Return a client of the nodes, which may write."""
        replicas = [one.address for one in self.replicas]
        return RoutingClient([self.primary.address], replicas, allow_writes=True, **options)

    async def create_indexes(self, client: RoutingClient, count: int) -> list[str]:
        """Create as many indexes and wait until the standbys have them; return their IDs."""
        config = json.loads(dataset.index_config())
        names = [f"index-{number}" for number in range(count)]
        for name in names:
            config["index_id"] = name
            config["index_uri"] = f"ram:///{name}"
            await client.create_index(pb.CreateIndexRequest(index_config_json=json.dumps(config)))
        await self.pair.wait_caught_up()
        return names


@asynccontextmanager
async def fleet(
    standbys: int = 1,
    nodes_per_standby: int = 1,
    sections: Mapping[str, Any] | None = None,
    *,
    is_cluster: bool = False,
    **settings: Any,
) -> AsyncIterator[Fleet]:
    """Run a fleet, as one cluster by gossip if asked to; leaves neither process nor directory."""
    directory = Path(tempfile.mkdtemp(prefix="metastore-proxy-fleet-"))
    watchdog = Watchdog(directory)
    try:
        async with QuickPair(setup=SETUP) as pair:
            for _ in range(standbys - 1):
                await pair.add_standby()
            await pair.create_database(DATABASE)
            await pair.wait_caught_up()
            made = Fleet(directory, pair, watchdog, sections, is_cluster=is_cluster)
            try:
                await made.start_nodes(nodes_per_standby, **settings)
                yield made
            finally:
                await _stop(made.nodes)
    finally:
        watchdog.close()


async def _stop(nodes: Sequence[NodeProcess]) -> None:
    for node in nodes:
        node.thaw()
        node.kill()
    await asyncio.sleep(0)
