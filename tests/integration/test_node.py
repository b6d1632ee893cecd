"""Nodes on the real pair: what they serve, report and listen on."""

from __future__ import annotations

import asyncio
import json
import math
import socket
from dataclasses import replace

import aiohttp
import grpc
import pytest
from grpc_reflection.v1alpha import reflection_pb2

from proxy import errors
from proxy.demo import dataset
from proxy.demo.postgres import PostgresPair
from proxy.demo.postgres_host import free_port
from proxy.node import Node
from proxy.proto.quickwit import metastore_pb2 as pb
from proxy.roles import Role
from tests.support.node_calls import channel_to, create_index, health_of, http_get
from tests.support.nodes import node_config, running
from tests.support.postgres import Credentials, Scratch
from tests.support.remote_access import GrpcWay
from tests.support.waiting import until


async def test_a_metastore_node_migrates_serves_and_reports(fresh_database: Scratch) -> None:
    config = node_config(Role.METASTORE, fresh_database.primary_uri)
    async with running(config) as node, channel_to(node) as channel:
        created = await create_index(GrpcWay(channel))
        assert created.index_uid.index_id == "hdfs-logs"
        assert await http_get(node, "/health/livez") == (200, "true")
        assert await http_get(node, "/health/readyz") == (200, "true")
        status, body = await http_get(node, "/health/readyz?verbose")
        assert status == 200
        assert json.loads(body)["conditions"] == {
            "database_connected": "ok",
            "schema_complete": "ok",
            "probe_answers": "ok",
        }
        for service in (
            "",
            "quickwit.metastore.MetastoreService",
            "read.fresh",
            "read.stale",
            "write",
        ):
            assert await health_of(channel, service) == "SERVING"


async def test_metrics_have_quickwits_names_and_labels(migrated_database: Scratch) -> None:
    config = node_config(Role.METASTORE, migrated_database.primary_uri)
    async with running(config) as node, channel_to(node) as channel:
        with pytest.raises(errors.NotFound):
            await GrpcWay(channel).call(
                "IndexMetadata", pb.IndexMetadataRequest(index_id="missing")
            )
        _, text = await http_get(node, "/metrics")
    labels = (
        'grpc_service="metastore",kind="server",metastore_kind="primary",rpc="index_metadata",'
        'service="metastore"'
    )
    counted = 'code="not_found",' + labels + ',status="error"'
    lines = text.splitlines()
    assert f"quickwit_grpc_requests_total{{{counted}}} 1.0" in lines
    assert f"quickwit_grpc_requests_in_flight{{{labels}}} 0.0" in lines
    bucket = counted.replace(",metastore_kind", ',le="2.048",metastore_kind')
    assert f"quickwit_grpc_request_duration_seconds_bucket{{{bucket}}}" in text
    assert 'quickwit_metastore_max_connections{metastore_kind="primary"} 10.0' in lines
    for name in ("acquire", "active", "idle"):
        assert f'quickwit_metastore_{name}_connections{{metastore_kind="primary"}} ' in text
    assert "metastore_proxy_ready 1.0" in lines
    assert "_created" not in text


async def test_a_replica_node_reads_and_refuses_writes(
    pg: PostgresPair, migrated_database: Scratch
) -> None:
    primary = node_config(Role.METASTORE, migrated_database.primary_uri)
    replica = node_config(Role.READ_REPLICA, migrated_database.standby_uri, node_id="replica-1")
    async with (
        running(primary) as primary_node,
        running(replica) as replica_node,
        channel_to(primary_node) as primary_channel,
        channel_to(replica_node) as replica_channel,
    ):
        await create_index(GrpcWay(primary_channel))
        await pg.wait_caught_up()
        way = GrpcWay(replica_channel)
        answer = await way.call("IndexMetadata", pb.IndexMetadataRequest(index_id="hdfs-logs"))
        metadata = json.loads(answer.index_metadata_serialized_json)
        assert metadata["index_config"]["index_id"] == "hdfs-logs"
        with pytest.raises(errors.Forbidden, match="CreateIndex is a write"):
            await create_index(way, "another")
        with pytest.raises(errors.Forbidden, match="GetClusterIdentity"):
            await way.call("GetClusterIdentity", pb.GetClusterIdentityRequest())
        assert await health_of(replica_channel, "write") == "NOT_SERVING"
        assert await health_of(replica_channel, "read.stale") == "SERVING"


async def test_a_replica_says_how_old_its_data_may_be(
    pg: PostgresPair, migrated_database: Scratch
) -> None:
    primary = node_config(Role.METASTORE, migrated_database.primary_uri)
    replica = node_config(Role.READ_REPLICA, migrated_database.standby_uri)

    async def lag_of(channel: grpc.aio.Channel) -> float | None:
        call = channel.unary_unary("/quickwit.metastore.MetastoreService/ListIndexTemplates")(b"")
        await call
        value = dict(await call.trailing_metadata()).get("x-metastore-lag")
        return None if value is None else float(value)

    async with running(replica) as node, channel_to(node) as channel:
        assert await lag_of(channel) is None
        async with running(primary) as primary_node, channel_to(primary_node) as other:
            await until(lambda: lag_of(channel))
            assert await lag_of(other) == 0.0
            await pg.pause_replay()
            try:
                before = await lag_of(channel)
                assert before is not None

                async def grew() -> bool:
                    now = await lag_of(channel)
                    return now is not None and now > before + 1.5

                await until(grew)
            finally:
                await pg.resume_replay()


async def test_a_user_with_nothing_but_select_serves_every_read(
    pg: PostgresPair, migrated_database: Scratch, readonly_user: Credentials
) -> None:
    config = node_config(Role.METASTORE, migrated_database.primary_uri)
    async with running(config) as primary, channel_to(primary) as channel:
        uid = (await create_index(GrpcWay(channel))).index_uid
    await pg.wait_caught_up()
    _, standby_uri = migrated_database.uris_as(readonly_user)
    reads = {
        "IndexMetadata": pb.IndexMetadataRequest(index_id="hdfs-logs"),
        "IndexesMetadata": pb.IndexesMetadataRequest(
            subrequests=[pb.IndexMetadataSubrequest(index_id="hdfs-logs")]
        ),
        "ListIndexesMetadata": pb.ListIndexesMetadataRequest(index_id_patterns=["*"]),
        "ListIndexStats": pb.ListIndexStatsRequest(index_id_patterns=["*"]),
        "LastDeleteOpstamp": pb.LastDeleteOpstampRequest(index_uid=uid),
        "ListDeleteTasks": pb.ListDeleteTasksRequest(index_uid=uid),
        "ListStaleSplits": pb.ListStaleSplitsRequest(index_uid=uid, delete_opstamp=1, num_splits=9),
        "ListShards": pb.ListShardsRequest(
            subrequests=[pb.ListShardsSubrequest(index_uid=uid, source_id="kafka")]
        ),
        "FindIndexTemplateMatches": pb.FindIndexTemplateMatchesRequest(index_ids=["hdfs-logs"]),
        "ListIndexTemplates": pb.ListIndexTemplatesRequest(),
    }
    replica = node_config(Role.READ_REPLICA, standby_uri)
    async with running(replica) as node, channel_to(node) as channel:
        way = GrpcWay(channel)
        for rpc_name, request in reads.items():
            await way.call(rpc_name, request)
        with pytest.raises(errors.NotFound):
            await way.call("GetIndexTemplate", pb.GetIndexTemplateRequest(template_id="nope"))
        query = dataset.published_query("hdfs-logs:" + "0" * 26)
        listed = way.stream("ListSplits", pb.ListSplitsRequest(query_json=query))
        assert [message async for message in listed] == []


@pytest.mark.skipif(not socket.has_dualstack_ipv6(), reason="this host has no IPv6")
async def test_every_interface_means_both_families_on_both_ports(
    migrated_database: Scratch,
) -> None:
    config = node_config(
        Role.METASTORE,
        migrated_database.primary_uri,
        QW_LISTEN_ADDRESS="::",
        QW_ADVERTISE_ADDRESS="127.0.0.1",
    )
    async with running(config), aiohttp.ClientSession() as session:
        for host in ("127.0.0.1", "[::1]"):
            url = f"http://{host}:{config.rest_listen_port}/health/livez"
            async with session.get(url) as response:
                assert response.status == 200
            async with grpc.aio.insecure_channel(f"{host}:{config.grpc_listen_port}") as channel:
                assert await health_of(channel, "") == "SERVING"


async def test_the_lag_series_shows_the_age_at_the_scrape(
    pg: PostgresPair, migrated_database: Scratch
) -> None:
    async def shown(node: Node) -> float:
        _, text = await http_get(node, "/metrics")
        name = "metastore_proxy_replica_lag_seconds "
        return float(next(line for line in text.splitlines() if line.startswith(name)).split()[1])

    primary = node_config(Role.METASTORE, migrated_database.primary_uri)
    replica = node_config(Role.READ_REPLICA, migrated_database.standby_uri)
    slow = replace(replica, proxy=replace(replica.proxy, probe_interval=3600.0))
    async with running(primary):
        async with running(replica) as node:
            await until(lambda: node._supervisor.lag is not None)
        async with running(slow) as node:
            before = await shown(node)
            await asyncio.sleep(0.05)
            assert await shown(node) > before
    nobody_there = node_config(Role.READ_REPLICA, f"postgresql://u@127.0.0.1:{free_port()}/db")
    async with running(nobody_there, wait=False) as node:
        assert math.isnan(await shown(node))


@pytest.mark.parametrize("version", ["v1", "v1alpha"])
async def test_reflection_lists_the_service(migrated_database: Scratch, version: str) -> None:
    config = node_config(Role.METASTORE, migrated_database.primary_uri)
    async with running(config) as node, channel_to(node) as channel:
        call = channel.stream_stream(
            f"/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo",
            request_serializer=reflection_pb2.ServerReflectionRequest.SerializeToString,
            response_deserializer=reflection_pb2.ServerReflectionResponse.FromString,
        )()
        await call.write(reflection_pb2.ServerReflectionRequest(list_services=""))
        answer = await call.read()
        names = {service.name for service in answer.list_services_response.service}
        await call.done_writing()
        assert {"quickwit.metastore.MetastoreService", "grpc.health.v1.Health"} <= names
        while await call.read() is not grpc.aio.EOF:
            pass


async def test_health_has_a_port_of_its_own_when_asked(migrated_database: Scratch) -> None:
    port = free_port()
    config = node_config(
        Role.METASTORE, migrated_database.primary_uri, QW_HEALTH_LISTEN_PORT=str(port)
    )
    async with running(config), aiohttp.ClientSession() as session:
        async with session.get(f"http://127.0.0.1:{port}/health/readyz") as response:
            assert (response.status, await response.text()) == (200, "true")
        async with session.get(f"http://127.0.0.1:{port}/metrics") as response:
            assert response.status == 404
