"""Nodes that are there before their database: they wait, say for what, and become ready."""

from __future__ import annotations

import asyncio
import json
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import aiohttp
import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from proxy import errors
from proxy.demo.postgres import PostgresPair
from proxy.demo.postgres_host import HOST, free_port
from proxy.node import Node
from proxy.proto.quickwit import metastore_pb2 as pb
from proxy.roles import Role
from proxy.store import migrations
from tests.support.nodes import address, node_config, running
from tests.support.postgres import Scratch, opened
from tests.support.remote_access import GrpcWay
from tests.support.servers import end_server
from tests.support.waiting import until


async def get(node: Node, path: str) -> tuple[int, str]:
    url = f"http://{HOST}:{node.config.rest_listen_port}{path}"
    async with aiohttp.ClientSession() as session, session.get(url) as response:
        return response.status, await response.text()


async def assert_waits(node: Node, condition: str, reason: str) -> None:
    """Every way to ask says that the node is not ready, and those for people say why."""
    await until(
        lambda: reason in (node.readiness.conditions[condition] or ""),
        lambda: node.readiness.conditions,
    )
    assert await get(node, "/health/livez") == (200, "true")
    status, body = await get(node, "/health/readyz")
    assert status == 503
    assert reason in json.loads(body)["failures"][condition]
    async with grpc.aio.insecure_channel(address(node)) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        for service in ("", "read.stale", "read.fresh", "write"):
            answer = await stub.Check(health_pb2.HealthCheckRequest(service=service))
            assert answer.status == health_pb2.HealthCheckResponse.NOT_SERVING
        with pytest.raises(errors.Unavailable) as caught:
            await GrpcWay(channel).call("IndexMetadata", pb.IndexMetadataRequest(index_id="x"))
    assert f"node {node.config.node_id} is not ready: " in str(caught.value)
    assert reason in str(caught.value)


@asynccontextmanager
async def starting_server() -> AsyncIterator[str]:
    """What PostgreSQL says while it starts, by a server that never gets beyond it; yields a URI."""
    fields = b"SFATAL\0VFATAL\0C57P03\0Mthe database system is starting up\0\0"

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1024)
        writer.write(b"E" + struct.pack("!i", 4 + len(fields)) + fields)
        writer.close()

    server = await asyncio.start_server(answer, HOST, 0)
    port = server.sockets[0].getsockname()[1]
    try:
        yield f"postgresql://u@{HOST}:{port}/d?sslmode=disable"
    finally:
        await end_server(server)


@pytest.mark.parametrize("role", [Role.METASTORE, Role.READ_REPLICA])
async def test_a_server_that_starts_is_waited_for(role: Role) -> None:
    async with starting_server() as uri, running(node_config(role, uri), wait=False) as node:
        await assert_waits(node, "database_connected", "the database system is starting up")


@pytest.mark.parametrize(
    ("host", "reason"),
    [
        (f"{HOST}:1", "Connect call failed"),
        ("no-such-host.invalid:5432", "cannot connect to postgresql://u@no-such-host.invalid"),
    ],
)
async def test_a_server_that_is_not_there_is_waited_for(host: str, reason: str) -> None:
    uri = f"postgresql://u@{host}/d"
    async with running(node_config(Role.METASTORE, uri), wait=False) as node:
        await assert_waits(node, "database_connected", reason)


async def _create_database(pair: PostgresPair, scratch: Scratch, name: str) -> None:
    await pair.create_database(name)


async def _create_role(pair: PostgresPair, scratch: Scratch, name: str) -> None:
    await scratch.execute(f"CREATE ROLE {name} SUPERUSER LOGIN PASSWORD 'right'")


async def _set_password(pair: PostgresPair, scratch: Scratch, name: str) -> None:
    await scratch.execute("ALTER ROLE rotated PASSWORD 'right'")


Mend = Callable[[PostgresPair, Scratch, str], Awaitable[None]]
CASES: dict[str, tuple[str, Mend]] = {
    "database": ("does not exist", _create_database),
    "role": ("password authentication failed", _create_role),
    "password": ("password authentication failed", _set_password),
}


@pytest.mark.parametrize("case", CASES)
async def test_what_the_server_lacks_is_waited_for(
    pg: PostgresPair, fresh_database: Scratch, case: str
) -> None:
    """A wrong password too: it may be the server that is to learn the new one."""
    reason, mend = CASES[case]
    late, user = f"{fresh_database.name}_late", f"{fresh_database.name}_role"
    await fresh_database.execute("CREATE ROLE rotated SUPERUSER LOGIN PASSWORD 'old'")
    uri = {
        "database": pg.primary_uri(late),
        "role": pg.primary_uri(fresh_database.name, user=user, password="right"),
        "password": pg.primary_uri(fresh_database.name, user="rotated", password="right"),
    }[case]
    name = late if case == "database" else user
    try:
        async with running(node_config(Role.METASTORE, uri), wait=False) as node:
            await assert_waits(node, "database_connected", reason)
            await mend(pg, fresh_database, name)
            await until(lambda: node.readiness.is_ready, lambda: node.readiness.failures)
            assert await get(node, "/health/readyz") == (200, "true")
    finally:
        await pg.drop_database(late)
        drop = "DROP OWNED BY {0}; DROP ROLE {0}"
        await fresh_database.execute("ALTER SCHEMA public OWNER TO postgres")
        for role in ("rotated", *([user] if case == "role" else [])):
            await fresh_database.execute(
                f"REASSIGN OWNED BY {role} TO postgres; {drop.format(role)}"
            )


async def test_a_replica_waits_for_the_schema(fresh_database: Scratch) -> None:
    config = node_config(Role.READ_REPLICA, fresh_database.standby_uri)
    async with running(config, wait=False) as node:
        await assert_waits(node, "schema_complete", "run `metastore-proxy migrate`")
        async with opened(fresh_database.primary_uri) as database:
            await migrations.apply(database)
        await until(lambda: node.readiness.is_ready, lambda: node.readiness.failures)


async def test_a_database_that_goes_away_in_a_migration_is_waited_for(
    fresh_database: Scratch, monkeypatch: pytest.MonkeyPatch
) -> None:
    apply, attempts = migrations.apply, 0

    async def broken_off_once(*arguments: object, **options: object) -> object:
        nonlocal attempts
        attempts += 1
        if attempts > 1:
            return await apply(*arguments, **options)

        def end_sessions(migration: migrations.Migration) -> None:
            if migration.version == 5:
                raise ConnectionResetError("connection reset by peer")

        return await apply(*arguments, progress=end_sessions, **options)

    monkeypatch.setattr(migrations, "apply", broken_off_once)
    async with running(node_config(Role.METASTORE, fresh_database.primary_uri)) as node:
        assert attempts == 2
        assert node.readiness.is_ready


async def test_what_is_waited_for_is_logged_when_it_changes_and_now_and_then(
    fresh_database: Scratch, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from proxy.server import supervisor

    monkeypatch.setattr(supervisor, "backoff", lambda _attempt, _jitter: 0.01)
    uri = f"postgresql://u@{HOST}:{free_port()}/d"

    def told() -> int:
        return sum(record.message == "not ready" for record in caplog.records)

    async with running(node_config(Role.METASTORE, uri), wait=False) as node:
        await assert_waits(node, "database_connected", "Connect call failed")
        assert told() == 1
        monkeypatch.setattr(supervisor, "REMINDER", 0.0)
        await until(lambda: told() > 1)
