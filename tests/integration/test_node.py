"""Nodes on the real pair: readiness, health vector, HTTP endpoints, reads and writes, drain."""

from __future__ import annotations

import asyncio
import json
import math
import os
import signal
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import aiohttp
import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2

from proxy import errors
from proxy.demo import dataset
from proxy.demo.postgres import PostgresPair
from proxy.demo.postgres_host import free_port
from proxy.node import Node
from proxy.proto.quickwit import metastore_pb2 as pb
from proxy.roles import Role
from tests.support.nodes import address, node_config, running
from tests.support.pairs import QuickPair
from tests.support.postgres import Credentials, Scratch, opened
from tests.support.remote_access import GrpcWay
from tests.support.waiting import until


@asynccontextmanager
async def channel_to(node: Node) -> AsyncIterator[grpc.aio.Channel]:
    async with grpc.aio.insecure_channel(address(node)) as channel:
        yield channel


async def http_get(node: Node, path: str) -> tuple[int, str]:
    url = f"http://{node.config.listen_address}:{node.config.rest_listen_port}{path}"
    async with aiohttp.ClientSession() as session, session.get(url) as response:
        return response.status, await response.text()


async def health_of(channel: grpc.aio.Channel, service: str) -> str:
    stub = health_pb2_grpc.HealthStub(channel)
    answer = await stub.Check(health_pb2.HealthCheckRequest(service=service))
    return health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status)


async def create_index(way: GrpcWay, index_id: str = "hdfs-logs") -> pb.CreateIndexResponse:
    config = json.loads(dataset.index_config()) | {"index_id": index_id}
    return await way.call(
        "CreateIndex", pb.CreateIndexRequest(index_config_json=json.dumps(config))
    )


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


async def test_a_replica_without_the_schema_is_not_ready_and_says_why(
    pg: PostgresPair, fresh_database: Scratch
) -> None:
    replica = node_config(Role.READ_REPLICA, fresh_database.standby_uri)
    async with running(replica, wait=False) as node, channel_to(node) as channel:

        async def reason() -> str:
            status, body = await http_get(node, "/health/readyz")
            assert status == 503
            failures: dict[str, str] = json.loads(body)["failures"]
            return failures.get("schema_complete", "")

        async def says_so() -> bool:
            return "metastore-proxy migrate" in await reason()

        await until(says_so, lambda: node.readiness.failures)
        assert await health_of(channel, "") == "NOT_SERVING"
        with pytest.raises(errors.Unavailable, match="not ready"):
            await GrpcWay(channel).call("ListIndexTemplates", pb.ListIndexTemplatesRequest())
        async with running(node_config(Role.METASTORE, fresh_database.primary_uri)):
            await until(lambda: node.readiness.is_ready, lambda: node.readiness.failures)
        assert await health_of(channel, "") == "SERVING"


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ("DELETE FROM _sqlx_migrations WHERE version = 17", "17"),
        ("UPDATE _sqlx_migrations SET checksum = '\\x00' WHERE version = 9", "9"),
        ("UPDATE _sqlx_migrations SET success = false WHERE version = 28", "28"),
    ],
    ids=["missing", "other checksum", "dirty"],
)
async def test_a_replica_names_the_migration_that_is_wrong(
    pg: PostgresPair, migrated_database: Scratch, change: str, expected: str
) -> None:
    await migrated_database.execute(change)
    await pg.wait_caught_up()
    replica = node_config(Role.READ_REPLICA, migrated_database.standby_uri)
    async with running(replica, wait=False) as node:
        await until(lambda: f"migration {expected}" in node.readiness.failures["schema_complete"])
        assert not node.readiness.is_ready


async def test_a_metastore_node_ends_on_a_database_with_another_checksum(
    migrated_database: Scratch,
) -> None:
    await migrated_database.execute(
        "UPDATE _sqlx_migrations SET checksum = '\\x00' WHERE version = 9"
    )
    node = Node(node_config(Role.METASTORE, migrated_database.primary_uri))
    with pytest.raises(errors.Internal, match="migration 9"):
        await node.run()


async def test_two_metastore_nodes_at_once_on_an_empty_database(fresh_database: Scratch) -> None:
    first = node_config(Role.METASTORE, fresh_database.primary_uri, node_id="first")
    second = node_config(Role.METASTORE, fresh_database.primary_uri, node_id="second")
    async with running(first, wait=False) as one, running(second, wait=False) as two:
        await until(lambda: one.readiness.is_ready and two.readiness.is_ready)
        counted = "SELECT count(*) FROM _sqlx_migrations WHERE version <= 28 AND success"
        assert await fresh_database.value(counted) == 28


async def test_the_deferred_migration_follows_by_itself(fresh_database: Scratch) -> None:
    async with running(node_config(Role.METASTORE, fresh_database.primary_uri)):
        applied = "SELECT success FROM _sqlx_migrations WHERE version = 29"
        await until(lambda: fresh_database.value(applied))


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


async def test_a_replica_uri_that_names_the_primary_is_served_with_a_warning(
    migrated_database: Scratch, caplog: pytest.LogCaptureFixture
) -> None:
    replica = node_config(Role.READ_REPLICA, migrated_database.primary_uri)
    async with running(replica) as node:
        assert "not in recovery" in caplog.text
        _, text = await http_get(node, "/metrics")
        assert "metastore_proxy_replica_not_in_recovery 1.0" in text.splitlines()


async def test_a_metastore_uri_that_names_a_standby_is_not_ready_and_says_so(
    migrated_database: Scratch,
) -> None:
    config = node_config(Role.METASTORE, migrated_database.standby_uri)
    async with running(config, wait=False) as node:
        await until(lambda: "standby in recovery" in str(node.readiness.failures))


async def test_a_metastore_node_whose_primary_becomes_a_standby_is_not_ready() -> None:
    async with QuickPair() as pair:
        await pair.create_database("quickwit")
        async with running(node_config(Role.METASTORE, pair.primary_uri("quickwit"))) as node:
            await pair.primary.stop()
            (pair.primary.data / "standby.signal").touch()
            await pair.primary.start()
            await until(
                lambda: "standby in recovery" in node.readiness.failures.get("probe_answers", ""),
                lambda: node.readiness.failures,
            )
            assert not node.readiness.is_ready
            await pair.primary.execute("SELECT pg_promote(true, 60)")
            await until(lambda: node.readiness.is_ready, lambda: node.readiness.failures)


async def test_wrong_credentials_are_said_without_the_password(
    migrated_database: Scratch, caplog: pytest.LogCaptureFixture
) -> None:
    uri = migrated_database.pair.primary_uri(migrated_database.name, password="hunter2-secret")
    async with running(node_config(Role.METASTORE, uri), wait=False) as node:
        await until(lambda: "password authentication failed" in str(node.readiness.failures))
        _, body = await http_get(node, "/health/readyz")
        assert "password authentication failed" in body
        assert "hunter2-secret" not in body + caplog.text


async def test_a_node_whose_database_appears_later_becomes_ready(
    pg: PostgresPair, fresh_database: Scratch
) -> None:
    name = f"{fresh_database.name}_late"
    async with running(node_config(Role.METASTORE, pg.primary_uri(name)), wait=False) as node:
        await until(lambda: "does not exist" in str(node.readiness.failures))
        await pg.create_database(name)
        try:
            await until(lambda: node.readiness.is_ready, lambda: node.readiness.failures)
        finally:
            await node.close()
            await pg.drop_database(name)


async def test_a_port_in_use_is_an_error_that_names_the_key(migrated_database: Scratch) -> None:
    config = node_config(Role.METASTORE, migrated_database.primary_uri)
    taken = {
        "QW_REST_LISTEN_PORT": str(config.rest_listen_port),
        "QW_GRPC_LISTEN_PORT": str(config.grpc_listen_port),
    }
    async with running(config):
        for variable, key in (
            ("QW_REST_LISTEN_PORT", "rest.listen_port"),
            ("QW_GRPC_LISTEN_PORT", "grpc_listen_port"),
        ):
            other = node_config(
                Role.METASTORE, migrated_database.primary_uri, **{variable: taken[variable]}
            )
            node = Node(other)
            with pytest.raises(errors.Io, match=key):
                await node.open()
            await node.close()


async def test_draining_lets_calls_in_flight_finish(migrated_database: Scratch) -> None:
    config = node_config(Role.METASTORE, migrated_database.primary_uri)
    async with running(config) as node, channel_to(node) as channel:
        way = GrpcWay(channel)
        uid = (await create_index(way)).index_uid
        async with opened(migrated_database.primary_uri) as database:
            async with database.transaction() as session:
                await session.execute("SELECT 1 FROM indexes FOR UPDATE")
                blocked = asyncio.create_task(
                    way.call("DeleteIndex", pb.DeleteIndexRequest(index_uid=uid))
                )
                waiting = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
                await until(lambda: migrated_database.value(waiting))
                closing = asyncio.create_task(node.close())
                await until(lambda: node.readiness.is_draining)
                assert not blocked.done()
            await blocked
        await closing


async def test_a_second_signal_ends_the_drain(migrated_database: Scratch, tmp_path: Path) -> None:
    config = node_config(Role.METASTORE, migrated_database.primary_uri, QW_DATA_DIR=str(tmp_path))
    node = Node(config)
    running_node = asyncio.create_task(node.run())
    await until(lambda: node.readiness.is_ready, lambda: node.readiness.failures)
    async with channel_to(node) as channel, opened(migrated_database.primary_uri) as database:
        way = GrpcWay(channel)
        uid = (await create_index(way)).index_uid
        async with database.transaction() as session:
            await session.execute("SELECT 1 FROM indexes FOR UPDATE")
            blocked = asyncio.create_task(
                way.call("DeleteIndex", pb.DeleteIndexRequest(index_uid=uid))
            )
            waiting = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
            await until(lambda: migrated_database.value(waiting))
            # The first from whoever stops it, the second from a person who will not wait.
            os.kill(os.getpid(), signal.SIGTERM)
            await until(lambda: node.readiness.is_draining)
            assert not blocked.done()
            os.kill(os.getpid(), signal.SIGINT)
            async with asyncio.timeout(config.proxy.drain_timeout / 2):
                with pytest.raises(errors.MetastoreError):
                    await blocked
                await running_node


async def test_a_watcher_hears_of_the_drain_before_calls_are_refused(
    migrated_database: Scratch,
) -> None:
    config = node_config(Role.METASTORE, migrated_database.primary_uri)
    async with running(config) as node, channel_to(node) as channel:
        watch = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest(service=""))
        assert (await watch.read()).status == health_pb2.HealthCheckResponse.SERVING
        closing = asyncio.create_task(node.close())
        assert (await watch.read()).status == health_pb2.HealthCheckResponse.NOT_SERVING
        await GrpcWay(channel).call("ListIndexTemplates", pb.ListIndexTemplatesRequest())
        watch.cancel()
        await closing


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
