"""Nodes on the real pair: when they are ready, and what they say while they are not."""

from __future__ import annotations

import json

import pytest

from proxy import errors
from proxy.demo.postgres import PostgresPair
from proxy.node import Node
from proxy.proto.quickwit import metastore_pb2 as pb
from proxy.roles import Role
from tests.support.node_calls import channel_to, health_of, http_get
from tests.support.nodes import node_config, running
from tests.support.pairs import QuickPair
from tests.support.postgres import Scratch
from tests.support.remote_access import GrpcWay
from tests.support.waiting import until


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
