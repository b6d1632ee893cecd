"""Every role as its manifest says: its command, environment, config and probes, and its updates.

The pods are processes on loopback addresses; see `tests.support.kubelet` for what stands for the
cluster's controllers. The databases are set up by `config/postgres`.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import grpc
import pytest
import yaml

from proxy.client import RoutingClient
from proxy.demo import dataset
from proxy.demo.postgres import PostgresPair
from proxy.identifiers import index_uid_message
from proxy.joining import GossipSource
from proxy.proto.quickwit import metastore_pb2 as pb
from tests.support.deployed import Container
from tests.support.image import image
from tests.support.kubelet import ClusterRun, cluster_run
from tests.support.main_job import SPLITS, call, list_published, publish, split_count
from tests.support.manifests import named, overlay
from tests.support.pods import database_uri, secrets_for
from tests.support.service_net import name_server, service_address

GRPC, GOSSIP = 7281, 7282
RATE = 50
# `minReadySeconds`, and the time that the gRPC library lets pass before it resolves a name again,
# pass so many times faster than a cluster's.
HASTE = float(os.environ.get("METASTORE_PROXY_TEST_HASTE", "5"))
RESOLUTION_MS = 30_000


@pytest.fixture
async def cluster(pair: PostgresPair) -> AsyncIterator[ClusterRun]:
    """The overlay `full`, applied."""
    async with cluster_run(overlay("full"), secrets_for(pair), HASTE) as run:
        await run.apply()
        yield run


def quickwit_metastore(pair: PostgresPair, directory: Path) -> Container:
    """Return what stands for the metastore pod of a release `quickwit` of Quickwit's chart.

    Facts: the chart's default `config`, and the environment that it gives its pods.
    """
    config = directory / "quickwit.yaml"
    document = {
        "version": "0.8",
        "listen_address": "0.0.0.0",
        "gossip_listen_port": GOSSIP,
        "data_dir": "/quickwit/qwdata",
        "default_index_root_uri": "s3://quickwit/indexes",
        "searcher": {"use_metastore_read_replica": True},
    }
    config.write_text(yaml.safe_dump(document), encoding="utf-8")
    environment = {
        "QW_CONFIG": "/quickwit/node.yaml",
        "QW_CLUSTER_ID": "quickwit-quickwit",
        "QW_NODE_ID": "quickwit-metastore-0",
        "QW_PEER_SEEDS": "quickwit-headless",
        "QW_METASTORE_URI": database_uri(pair, "quickwit_owner", pair.primary.port),
    }
    return Container(
        "quickwit",
        (*image().entrypoint, "run", "--service", "metastore"),
        environment,
        {"/quickwit/node.yaml": config},
    )


async def test_replicas_beside_a_quickwit_release(pair: PostgresPair) -> None:
    """They find its nodes by its headless Service, and its searchers find them."""
    async with AsyncExitStack() as stack:
        manifests = overlay("replicas-only")
        run = await stack.enter_async_context(cluster_run(manifests, secrets_for(pair)))
        run.deployed.start(quickwit_metastore(pair, run.deployed.directory))
        await run.apply()
        address = await stack.enter_async_context(
            service_address("metastore-proxy-router", GRPC, run.endpoints)
        )
        channel = await stack.enter_async_context(grpc.aio.insecure_channel(address))
        uid, position = await publish(channel, "beside")
        written = await list_published(channel, uid, x_metastore_min_lsn=position)
        assert split_count(written) == SPLITS
        answer = await list_published(channel, uid)
        assert answer.route == "replica"
        assert "read-replica" in answer.by
        quickwit = f"{run.deployed.addresses['quickwit']}:{GRPC}"
        await _searchers_read_from_replicas(run, uid, quickwit)


class Load:
    """Calls at a steady rate; every tenth is a write, the others are a searcher's reads."""

    def __init__(self, channel: grpc.aio.Channel, index_uid: str) -> None:
        self._channel = channel
        self._index_uid = index_uid
        self.failures: list[str] = []
        self.answers: Counter[str] = Counter()
        self._stop = asyncio.Event()

    async def run(self, rate: float) -> None:
        """Call until `stop`, then wait for the last answers."""
        loop = asyncio.get_running_loop()
        started = loop.time()
        async with asyncio.TaskGroup() as group:
            number = 0
            while not self._stop.is_set():
                group.create_task(self._call(number))
                number += 1
                await asyncio.sleep(max(0.0, started + number / rate - loop.time()))

    def stop(self) -> None:
        """Make no more calls."""
        self._stop.set()

    async def _call(self, number: int) -> None:
        try:
            if number % 10 == 0:
                served = await call(self._channel, "ToggleSource", self._write(number))
            else:
                served = await list_published(self._channel, self._index_uid)
                assert split_count(served) == SPLITS
        except grpc.aio.AioRpcError as error:
            self.failures.append(f"call {number}: {error.code().name} {error.details()}")
        else:
            self.answers[served.by] += 1

    def _write(self, number: int) -> pb.ToggleSourceRequest:
        return pb.ToggleSourceRequest(
            index_uid=index_uid_message(self._index_uid),
            source_id=dataset.SOURCE_ID,
            enable=number % 20 == 0,
        )


async def test_the_main_job_and_a_rolling_restart(cluster: ClusterRun) -> None:
    async with AsyncExitStack() as stack:
        address = await stack.enter_async_context(
            service_address("metastore-proxy-router", GRPC, cluster.endpoints)
        )
        plain = await stack.enter_async_context(grpc.aio.insecure_channel(address))
        uid, position = await publish(plain, "orders")
        written = await list_published(plain, uid, x_metastore_min_lsn=position)
        assert split_count(written) == SPLITS
        await _searchers_read_from_replicas(cluster, uid)
        await _the_readme_s_commands_work_in_a_pod(cluster)

        dns = await stack.enter_async_context(name_server(cluster.endpoints))
        balanced = await stack.enter_async_context(_balanced_channel(dns))
        before = {pod.name for pod in cluster.pods}
        loads = [Load(plain, uid), Load(balanced, uid)]
        calling = [asyncio.create_task(load.run(RATE / len(loads))) for load in loads]
        await asyncio.gather(*(cluster.restart(one) for one in cluster.deployments))
        await cluster.settle()
        for load in loads:
            load.stop()
        await asyncio.gather(*calling)

        after = {pod.name for pod in cluster.pods}
        assert len(after) == len(before) == 6
        assert not before & after
        for load in loads:
            assert load.failures == []
            # Both generations have served, and reads came from replicas throughout.
            assert load.answers.keys() & before
            assert load.answers.keys() & after
            by_replicas = sum(n for by, n in load.answers.items() if "read-replica" in by)
            assert by_replicas >= 0.7 * load.answers.total()


def _balanced_channel(dns: str) -> grpc.aio.Channel:
    """Return what a caller opens on a headless Service: all its pods in turn, and nothing else."""
    return grpc.aio.insecure_channel(
        f"dns://{dns}/metastore-proxy-router-headless.quickwit:{GRPC}",
        options=[
            ("grpc.service_config", json.dumps({"loadBalancingConfig": [{"round_robin": {}}]})),
            ("grpc.dns_min_time_between_resolutions_ms", int(RESOLUTION_MS / HASTE)),
        ],
    )


async def _the_readme_s_commands_work_in_a_pod(cluster: ClusterRun) -> None:
    asked = [f"metastore-proxy-{role}" for role in ("router", "read-replica", "metastore")]
    command = ("metastore-proxy", "status", "--json")
    for said in await asyncio.gather(*(cluster.execute(one, *command) for one in asked)):
        told = json.loads(said)
        members = [*told["primaries"], *told["members"]]
        assert {member["node_id"] for member in members} == {pod.name for pod in cluster.pods}


async def _searchers_read_from_replicas(cluster: ClusterRun, index_uid: str, *others: str) -> None:
    """A searcher knows the cluster and its seeds, and finds replicas, not routers, by gossip."""
    config = named(cluster.manifests, "ConfigMap", "metastore-proxy-cluster")["data"]
    seeds = cluster.endpoints("metastore-proxy-gossip")
    members = GossipSource(
        [f"{seed}:{GOSSIP}" for seed in seeds], cluster_id=config["QW_CLUSTER_ID"]
    )
    async with RoutingClient([], members=members) as searcher:
        await searcher.wait_ready()
        found = {backend.address for backend in searcher.backends().backends}
        nodes = set(others)
        for deployment in cluster.deployments:
            name = deployment["metadata"]["name"]
            if name != "metastore-proxy-router":
                nodes |= {f"{address}:{GRPC}" for address in cluster.endpoints(name)}
        assert found == nodes
        request = pb.IndexMetadataRequest(index_uid=index_uid_message(index_uid))
        answer = await searcher.index_metadata(request)
        assert (answer.route, answer.role) == ("replica", "metastore_read_replica")
