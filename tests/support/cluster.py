"""A cluster of node processes on addresses of their own: two metastores, three replicas, a router.

`Loopback` gives each node an address of the loopback network; `Namespaces` a network namespace
behind a bridge, which can be cut off.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import shutil
import subprocess
import tempfile
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from typing import Any, Final, Protocol

import grpc

from proxy.client import RoutingClient
from proxy.demo.postgres import PostgresPair
from proxy.demo.processes import NodeProcess
from proxy.demo.watchdog import Watchdog
from proxy.joining import GossipSource
from proxy.proto.metastore_proxy.v1 import proxy_pb2 as pb
from proxy.roles import Role
from tests.support.pairs import QuickPair
from tests.support.servers import end_server

DATABASE: Final = "quickwit"
CLUSTER_ID: Final = "cluster-of-the-test"
# Quickwit's default ports: nodes on addresses of their own need no others.
PORTS: Final = (7280, 7281)
ROLES: Final = {
    "metastore-1": Role.METASTORE,
    "metastore-2": Role.METASTORE,
    "replica-1": Role.READ_REPLICA,
    "replica-2": Role.READ_REPLICA,
    "replica-3": Role.READ_REPLICA,
    "router-1": Role.ROUTER,
}
# A node is dead to others after 1.5 to 2 s of silence: a machine that is busy does not cause that.
INTERVAL: Final = 0.25
INFO: Final = "/metastore.proxy.v1.ProxyService/GetClusterInfo"


class Site(Protocol):
    """Where nodes run: their hosts, what starts a process there, where servers of this host are."""

    database_host: str

    def host(self, node_id: str) -> str: ...

    def launcher(self, node_id: str) -> Sequence[str]: ...

    async def database_port(self, port: int) -> int: ...


class Loopback:
    """Each node has an address in a network of this test's own, such as 127.83.7.3."""

    database_host = "127.0.0.1"

    def __init__(self) -> None:
        self._network = f"127.{random.randint(1, 254)}.{random.randint(0, 254)}"

    def host(self, node_id: str) -> str:
        return f"{self._network}.{list(ROLES).index(node_id) + 1}"

    def launcher(self, node_id: str) -> Sequence[str]:
        return ()

    async def database_port(self, port: int) -> int:
        return port


class Namespaces:
    """Each node has a network namespace; a bridge connects them, with this process at one end."""

    def __init__(self) -> None:
        self._tag = f"mp{random.randrange(16**4):04x}"
        self._network = f"10.{random.randint(100, 250)}.{random.randint(0, 254)}"
        self._forwarders = AsyncExitStack()
        self.database_host = f"{self._network}.254"

    @staticmethod
    def problem() -> str:
        """Return why there can be no namespaces here, "" when there can."""
        if os.geteuid() != 0:
            return "network namespaces need root"
        if shutil.which("ip") is None:
            return "network namespaces need the program `ip`"
        name = f"mp-probe-{os.getpid()}"
        made = subprocess.run(["ip", "netns", "add", name], capture_output=True, check=False)
        if made.returncode:
            return f"network namespaces cannot be made here: {made.stderr.decode().strip()}"
        subprocess.run(["ip", "netns", "del", name], check=True)
        return ""

    def host(self, node_id: str) -> str:
        return f"{self._network}.{list(ROLES).index(node_id) + 1}"

    def launcher(self, node_id: str) -> Sequence[str]:
        return ("ip", "netns", "exec", self._name(node_id))

    async def database_port(self, port: int) -> int:
        """Return a port of the bridge's address that leads to one of this host's loopback."""

        async def forward(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            with suppress(OSError):
                there = await asyncio.open_connection("127.0.0.1", port)
                await asyncio.gather(_pump(reader, there[1]), _pump(there[0], writer))

        server = await asyncio.start_server(forward, self.database_host, 0)
        self._forwarders.push_async_callback(end_server, server)
        return int(server.sockets[0].getsockname()[1])

    def partition(self, node_id: str) -> None:
        """Cut a node off from everything, the database included."""
        self._ip("link", "set", self._link(node_id), "down")

    def heal(self, node_id: str) -> None:
        """Connect a node again."""
        self._ip("link", "set", self._link(node_id), "up")

    async def __aenter__(self) -> Namespaces:
        try:
            self._ip("link", "add", self._tag, "type", "bridge")
            self._ip("addr", "add", f"{self.database_host}/24", "dev", self._tag)
            self._ip("link", "set", self._tag, "up")
            for node_id in ROLES:
                self._add(node_id)
        except BaseException:
            await self.__aexit__()
            raise
        return self

    def _add(self, node_id: str) -> None:
        name, link = self._name(node_id), self._link(node_id)
        inside = ("-n", name)
        self._ip("netns", "add", name)
        self._ip("link", "add", link, "type", "veth", "peer", "name", "eth0", "netns", name)
        self._ip("link", "set", link, "master", self._tag, "up")
        self._ip(*inside, "addr", "add", f"{self.host(node_id)}/24", "dev", "eth0")
        for device in ("lo", "eth0"):
            self._ip(*inside, "link", "set", device, "up")

    async def __aexit__(self, *_: object) -> None:
        await self._forwarders.aclose()
        for node_id in ROLES:
            self._ip("netns", "del", self._name(node_id), check=False)
        self._ip("link", "del", self._tag, check=False)

    def _name(self, node_id: str) -> str:
        return f"{self._tag}-{node_id}"

    def _link(self, node_id: str) -> str:
        return f"{self._tag}v{list(ROLES).index(node_id)}"

    @staticmethod
    def _ip(*arguments: str, check: bool = True) -> None:
        subprocess.run(["ip", *arguments], check=check, capture_output=not check)


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(OSError):
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    writer.close()


def _state(member: pb.ClusterMember) -> str:
    return "ready" if member.ready else "live" if member.live else "gone"


class Cluster:
    """The processes by node id, and what each of them says of the others."""

    def __init__(self, nodes: dict[str, NodeProcess], pair: PostgresPair) -> None:
        self.nodes = nodes
        self.pair = pair
        self._channels = {
            name: grpc.aio.insecure_channel(node.address) for name, node in nodes.items()
        }

    async def start(self, *names: str) -> None:
        """Start nodes and wait until they are ready."""
        for name in names:
            self.nodes[name].start()
        for name in names:
            await self.nodes[name].wait_ready()

    async def members(self, by: str) -> dict[str, pb.ClusterMember]:
        """Return what a node says of all members; nothing when it cannot say."""
        ask = self._channels[by].unary_unary(
            INFO,
            request_serializer=pb.GetClusterInfoRequest.SerializeToString,
            response_deserializer=pb.GetClusterInfoResponse.FromString,
        )
        try:
            answer = await ask(pb.GetClusterInfoRequest(), timeout=2, wait_for_ready=True)
        except grpc.aio.AioRpcError:
            return {}
        return {one.node_id: one for one in (*answer.primaries, *answer.members)}

    async def differing(
        self, ready: Iterable[str], gone: Iterable[str] = ()
    ) -> dict[str, dict[str, str]]:
        """Return what nodes say that do not yet say that these are ready, and those gone."""
        expected = dict.fromkeys(ready, "ready") | dict.fromkeys(gone, "gone")
        askers = [name for name, state in expected.items() if state == "ready"]
        answers = await asyncio.gather(*(self.members(one) for one in askers))
        told = {
            asker: {name: _state(member) for name, member in members.items() if name in expected}
            for asker, members in zip(askers, answers, strict=True)
        }
        return {asker: states for asker, states in told.items() if states != expected}

    def client(self, **options: Any) -> RoutingClient:
        """Return a client that knows the gossip address of one node and nothing else."""
        seed = self.nodes["metastore-2"].gossip_address
        source = GossipSource([seed], cluster_id=CLUSTER_ID, interval=INTERVAL)
        return RoutingClient((), members=source, allow_writes=True, **options)

    async def close(self) -> None:
        """Kill the processes."""
        for channel in self._channels.values():
            await channel.close()
        for node in self.nodes.values():
            node.thaw()
            node.kill()


@asynccontextmanager
async def running_cluster(site: Site) -> AsyncIterator[Cluster]:
    """Run a cluster whose nodes know one seed; leaves neither process nor directory."""
    directory = Path(tempfile.mkdtemp(prefix="metastore-proxy-cluster-"))
    watchdog = Watchdog(directory)
    try:
        async with QuickPair() as pair:
            await pair.create_database(DATABASE)
            await pair.wait_caught_up()
            path = directory / "node.json"
            path.write_text(json.dumps(await _document(pair, site)), encoding="utf-8")
            nodes = {
                name: NodeProcess(
                    *(name, role, directory, {}),
                    config=path,
                    watchdog=watchdog,
                    host=site.host(name),
                    ports=PORTS,
                    launcher=site.launcher(name),
                )
                for name, role in ROLES.items()
            }
            cluster = Cluster(nodes, pair)
            try:
                await cluster.start(*nodes)
                yield cluster
            finally:
                await cluster.close()
    finally:
        watchdog.close()


async def _document(pair: PostgresPair, site: Site) -> dict[str, Any]:
    async def uri(direct: str, port: int) -> str:
        there = f"{site.database_host}:{await site.database_port(port)}"
        return direct.replace(f"127.0.0.1:{port}", there)

    return {
        "version": "0.8",
        "cluster_id": CLUSTER_ID,
        # One seed, without a port: the nodes' own gossip port is meant.
        "peer_seeds": [site.host("metastore-1")],
        "gossip_interval_ms": round(INTERVAL * 1000),
        "metastore_uri": await uri(pair.primary_uri(DATABASE), pair.primary.port),
        "metastore_read_replica_uri": await uri(pair.standby_uri(DATABASE), pair.standby.port),
        "proxy": {
            "discovery": "gossip",
            "heartbeat_interval": "250ms",
            "probe_interval": "250ms",
        },
    }
