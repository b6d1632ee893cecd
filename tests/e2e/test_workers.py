"""Nodes and a router of two workers each, as processes on a real pair."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path
from typing import Any, Final

import grpc
import psutil
import pytest

from proxy.client import ClientOptions, ClientTls, RoutingClient
from proxy.demo import dataset
from proxy.demo.reads import ReadLoad
from proxy.proto.metastore_proxy.v1 import proxy_pb2 as proxy
from proxy.proto.metastore_proxy.v1 import status_pb2
from proxy.proto.quickwit import cluster_pb2
from proxy.proto.quickwit import metastore_pb2 as pb
from proxy.roles import Role
from proxy.server.status.document import as_json
from tests.support.certificates import Authority
from tests.support.crews import CrewNode
from tests.support.postgres import Scratch
from tests.support.waiting import until as shortly

# Nine interpreters start at once, on a machine that may have other things to do.
BOUND: Final = 90.0
until = partial(shortly, timeout=BOUND)
REQUESTS: Final = "quickwit_grpc_requests_total{"
ALL_INDEXES: Final = pb.ListIndexesMetadataRequest(index_id_patterns=["*"])
Crew = dict[str, CrewNode]


@pytest.fixture
async def crew(fresh_database: Scratch, tmp_path: Path) -> AsyncIterator[Crew]:
    """A primary, a replica and a router, ready; the primary has migrated the database."""
    environ = {
        "QW_METASTORE_URI": fresh_database.primary_uri,
        "QW_METASTORE_READ_REPLICA_URI": fresh_database.standby_uri,
        "QW_GOSSIP_INTERVAL_MS": "100",
    }
    nodes = {"metastore-1": CrewNode("metastore-1", Role.METASTORE, tmp_path, environ)}
    environ["QW_PEER_SEEDS"] = nodes["metastore-1"].process.gossip_address
    nodes["replica-1"] = CrewNode("replica-1", Role.READ_REPLICA, tmp_path, environ)
    found = {"discovery": "gossip"}
    nodes["router-1"] = CrewNode("router-1", Role.ROUTER, tmp_path, environ, proxy=found)
    async with AsyncExitStack() as stack:
        for node in nodes.values():
            stack.callback(node.process.kill)
            node.process.start()
        for node in nodes.values():
            await node.process.wait_ready(BOUND)
        yield nodes


async def cluster_as_told(node: CrewNode, worker: int) -> tuple[str, dict[str, bool]]:
    """Return who the primary is and which members are ready, as one worker tells it."""
    async with node.connected(worker) as channel:
        info = channel.unary_unary(
            "/metastore.proxy.v1.ProxyService/GetClusterInfo",
            lambda message: message.SerializeToString(),
            proxy.GetClusterInfoResponse.FromString,
        )
        try:
            told = await info(proxy.GetClusterInfoRequest(), timeout=5)
        except grpc.aio.AioRpcError as error:
            return error.details() or "", {}
        state = channel.unary_unary(
            "/quickwit.cluster.ClusterService/FetchClusterState",
            lambda message: message.SerializeToString(),
            cluster_pb2.FetchClusterStateResponse.FromString,
        )
        asked = cluster_pb2.FetchClusterStateRequest(cluster_id="quickwit-default-cluster")
        members = {each.chitchat_id.node_id for each in (await state(asked)).node_states}
        assert told.answered_by == node.process.node_id
        return told.primaries[0].node_id, {
            **{one.node_id: one.ready for one in told.members},
            **dict.fromkeys(members - {one.node_id for one in told.members}, True),
        }


async def test_a_crew_serves_survives_and_drains(crew: Crew) -> None:
    # One test for one crew: what takes long is to start it.
    await every_worker_serves_and_knows_the_same(crew)
    await every_worker_shows_the_calls_of_all(crew["router-1"])
    await a_reload_reaches_every_worker(crew["metastore-1"])
    await a_worker_that_dies_is_replaced_and_no_count_is_lost(crew["metastore-1"])
    await no_call_fails_when_nodes_drain(crew)


async def every_worker_serves_and_knows_the_same(crew: Crew) -> None:
    everyone = dict.fromkeys(crew, True)
    for node in crew.values():
        for worker in (1, 2):
            await knows(node, worker, everyone)
    primary, router = crew["metastore-1"], crew["router-1"]
    async with RoutingClient([primary.process.address], allow_writes=True) as client:
        await client.call(
            "CreateIndex", pb.CreateIndexRequest(index_config_json=dataset.index_config())
        )
    for node, rpc in ((primary, "IndexMetadata"), (router, "ListIndexesMetadata")):
        await calls_reach_both_workers(node, rpc)
    # What passed the router reached both workers of the replica as well.
    assert crew["replica-1"].calls_by_worker("ListIndexesMetadata").keys() == {1, 2}


async def knows(node: CrewNode, worker: int, members: dict[str, bool]) -> None:
    """Wait until a worker names the primary and these members, each with its readiness."""

    async def agrees() -> bool:
        return await cluster_as_told(node, worker) == ("metastore-1", members)

    await until(agrees, lambda: (node.process.node_id, worker))


async def calls_reach_both_workers(node: CrewNode, rpc: str) -> None:
    """One client's calls are spread, and the metrics count each of them once."""
    request = pb.IndexMetadataRequest(index_id="hdfs-logs") if rpc[:5] == "Index" else ALL_INDEXES
    options = ClientOptions(share_reads=False)
    before, made = await node.count(REQUESTS), 0
    async with RoutingClient([node.process.address], options=options) as client:
        await client.wait_ready()
        while len(node.calls_by_worker(rpc)) < 2 or made < 100:
            answers = await asyncio.gather(*(client.call(rpc, request) for _ in range(10)))
            made += len(answers)
            assert made < 3000, node.calls_by_worker(rpc)
            if rpc == "IndexMetadata":
                assert {answer.served_by for answer in answers} == {node.process.node_id}
    await counts(node, before + made)


async def every_worker_shows_the_calls_of_all(router: CrewNode) -> None:
    """Calls that the second worker takes stand on the status of the node, whoever is asked."""

    def shown(status: dict[str, Any]) -> float:
        """Return about how many calls to the primary a status shows."""
        routes = {one["route"]: one["history"] for one in status["routes"]}
        return float(sum(routes["primary"]))

    async def told(worker: int) -> float:
        async with router.connected(worker) as channel:
            ask = channel.unary_unary(
                "/metastore.proxy.v1.ProxyService/GetStatus",
                lambda message: message.SerializeToString(),
                status_pb2.GetStatusResponse.FromString,
            )
            return shown(as_json(await ask(status_pb2.GetStatusRequest(), timeout=5)))

    async def on_page() -> float:
        return shown(json.loads((await router.get("/status.json"))[1]))

    async with router.connected(2) as channel:
        call = channel.unary_unary("/quickwit.metastore.MetastoreService/ListIndexTemplates")
        for _ in range(200):
            await call(b"", timeout=10)
    for look in (on_page, lambda: told(1), lambda: told(2)):

        async def is_whole(look: Callable[[], Awaitable[float]] = look) -> bool:
            # The second before the first worker listened does not count.
            return 150 < await look() < 300

        await until(is_whole, router.process.log_tail)


async def counts(node: CrewNode, calls: float) -> None:
    """Wait until the metrics show so many calls: a scrape waits a second for a busy worker."""

    async def shows() -> bool:
        found = await node.count(REQUESTS)
        assert found <= calls
        return found == calls

    await until(shows, lambda: calls)


async def a_reload_reaches_every_worker(node: CrewNode) -> None:
    document = json.loads(node.config.read_text())
    document["proxy"]["slow_query_threshold"] = "7s"
    node.config.write_text(json.dumps(document))
    assert node.process.pid is not None
    os.kill(node.process.pid, signal.SIGHUP)
    said = "configuration reloaded"
    await until(lambda: {line["worker"] for line in node.logged(said)} == {1, 2}, node.logged)
    assert all("7s" in str(line["changed"]) for line in node.logged(said))


async def drained_by_command(node: CrewNode) -> None:
    """Drain a node by the command, which ends when all workers have drained."""
    command = [sys.executable, "-m", "proxy", "drain", "--config", str(node.config)]
    place = {"QW_NODE_ID": node.process.node_id, "QW_DATA_DIR": str(node.config.parent)}
    environ = {**os.environ, **place}
    drain = await asyncio.create_subprocess_exec(*command, env=environ)
    assert await drain.wait() == 0
    assert {line["worker"] for line in node.logged("node is not ready")} == {1, 2}
    status, body = await node.get("/health/readyz")
    assert (status, "draining" in body) == (503, True)


async def a_worker_that_dies_is_replaced_and_no_count_is_lost(node: CrewNode) -> None:
    for number in (2, 1):
        before = await node.count(REQUESTS)
        async with RoutingClient([node.process.address]) as client:
            for _ in range(20):
                await client.call("ListIndexTemplates", pb.ListIndexTemplatesRequest())
        counted = before + 20
        await counts(node, counted)
        await killed_and_replaced(node, number)
        assert await node.count(REQUESTS) >= counted
        status, body = await node.get("/health/readyz?verbose")
        words = json.loads(body)["conditions"]["workers_serve"]
        assert (status, words) == (200, "2 of 2 workers serve")
    # Those that were started again know what the others know.
    _, members = await cluster_as_told(node, 1)
    await knows(node, 2, members)


async def killed_and_replaced(node: CrewNode, number: int) -> None:
    """Kill a worker; wait until another is in its place."""
    node.workers()[number].kill()
    restarts = f'metastore_proxy_worker_restarts_total{{worker="{number}"}}'

    async def is_whole() -> bool:
        try:
            serving = await node.count('metastore_proxy_workers{state="serving"}')
            return serving == 2.0 and await node.count(restarts) == 1.0
        except OSError:
            # The first worker has the REST port.
            return False

    await until(is_whole, node.process.log_tail)


async def no_call_fails_when_nodes_drain(crew: Crew) -> None:
    primary, replica, router = crew.values()
    # When the router goes, its callers turn to the primary's node.
    targets = [router.process.address, primary.process.address]
    async with RoutingClient(targets) as client:
        await client.wait_ready()
        load = ReadLoad(client, [("ListIndexesMetadata", ALL_INDEXES)] * 2)
        async with load.running():
            await until(lambda: ("replica-1", "replica") in load.peek(), load.peek)
            await drained_by_command(replica)
            for node in (replica, router):
                assert await node.process.terminate() == 0
                load.since_last()
                await until(lambda: load.peek().total() > 20, load.peek)
        assert load.failures == []
        assert {name for name, _ in load.peek()} == {"metastore-1"}
    assert await primary.process.terminate() == 0


async def test_workers_behind_tls_end_with_their_parent(
    fresh_database: Scratch, tmp_path: Path
) -> None:
    environ = {"QW_METASTORE_URI": fresh_database.primary_uri, "QW_GOSSIP_LISTEN_PORT": "0"}
    authority = Authority(tmp_path)
    own = authority.issue("node")
    files = {"cert_path": str(own.cert), "key_path": str(own.key), "ca_path": str(authority.ca)}
    node = CrewNode("metastore-1", Role.METASTORE, tmp_path, environ, grpc={"tls": files})
    node.process.start()
    try:
        await node.process.wait_ready(BOUND)
        tls = ClientTls(ca_path=str(authority.ca))
        async with RoutingClient([node.process.address], options=ClientOptions(tls=tls)) as client:
            while len(node.calls_by_worker("ListIndexTemplates")) < 2:
                await client.call("ListIndexTemplates", pb.ListIndexTemplatesRequest())
        workers = list(node.workers().values())
        # One that hangs, so that its metrics cannot be had: a scrape does without.
        workers[1].send_signal(signal.SIGSTOP)
        counted = await asyncio.wait_for(node.count(REQUESTS), 10)
        assert counted > 0
        workers[1].send_signal(signal.SIGCONT)
        assert node.process.pid is not None
        os.kill(node.process.pid, signal.SIGKILL)
        gone, alive = await asyncio.to_thread(psutil.wait_procs, workers, 20)
        assert (len(gone), alive) == (2, [])
    finally:
        node.process.kill()
