"""What the roles of `config/postgres` may do: enough for their nodes, and no more.

`quickwit_ro` serves every read of a replica node and is refused every write by the database itself;
`quickwit_rw` serves every RPC and changes no table; without any one of the grants an RPC fails.
"""

from __future__ import annotations

from collections.abc import AsyncIterator

import asyncpg
import grpc
import pytest
from google.protobuf.message import Message

from proxy import errors
from proxy.demo.postgres import PostgresPair, quoted
from proxy.roles import Role
from proxy.routing.catalogue import RPCS
from proxy.store.metastore import STREAMING, UNARY
from proxy.store.pool import Database
from tests.support.complete_requests import REQUESTS, World, make_world
from tests.support.granted import (
    OWNER,
    READ_ONLY,
    READ_WRITE,
    Granted,
    granted_database,
)
from tests.support.nodes import address, node_config, running
from tests.support.postgres import empty_tables, opened
from tests.support.remote_access import GrpcWay

READS = sorted(name for name, rpc in RPCS.items() if rpc.is_read)
WRITES = sorted(name for name, rpc in RPCS.items() if not rpc.is_read)
DENIED, UNSEEN = "42501", "42P01"
MESSAGE_BYTES = 20 * 1024 * 1024


@pytest.fixture(scope="module")
async def granted(pg: PostgresPair) -> AsyncIterator[Granted]:
    """The database of this module."""
    async with granted_database(pg) as made:
        yield made


@pytest.fixture(scope="module")
async def world(granted: Granted) -> World:
    """A row of every kind, written by the role of metastore nodes."""
    async with opened(granted.primary_uri(READ_WRITE)) as database:
        made = await make_world(database)
    await granted.scratch.pair.wait_caught_up()
    return made


@pytest.fixture(scope="module")
async def replica_node(granted: Granted, world: World) -> AsyncIterator[GrpcWay]:
    """A replica node on the standby, as the role for it."""
    config = node_config(Role.READ_REPLICA, granted.standby_uri(READ_ONLY))
    async with running(config) as node, grpc.aio.insecure_channel(address(node)) as channel:
        yield GrpcWay(channel)


@pytest.fixture(scope="module")
async def reader(granted: Granted) -> AsyncIterator[Database]:
    """Sessions of the replica nodes' role on the primary that nothing makes read-only."""
    async with opened(granted.primary_uri(READ_ONLY)) as database:
        yield database


@pytest.fixture(scope="module")
async def writer(granted: Granted) -> AsyncIterator[Database]:
    """Sessions of the metastore nodes' role on the primary."""
    async with opened(granted.primary_uri(READ_WRITE)) as database:
        yield database


async def run(rpc: str, database: Database, request: Message) -> list[Message]:
    """Call the store's handler; return all that it answers."""
    if rpc in UNARY:
        return [await UNARY[rpc](database, request)]
    stream = STREAMING[rpc](database, request, max_message_size=MESSAGE_BYTES)
    return [message async for message in stream]


async def refusal(rpc: str, database: Database, request: Message) -> str:
    """Return the SQLSTATE with which the database refuses an RPC, "" if it does not."""
    try:
        await run(rpc, database, request)
    except errors.MetastoreError as error:
        return str(getattr(error.__cause__, "sqlstate", error))
    return ""


def test_no_rpc_is_left_out() -> None:
    assert len(READS) + len(WRITES) == len(REQUESTS) == 43


@pytest.mark.parametrize("rpc", READS)
async def test_the_reader_serves_every_read_of_a_replica_node(
    rpc: str, replica_node: GrpcWay, world: World
) -> None:
    request = REQUESTS[rpc](world)
    if RPCS[rpc].is_streaming:
        answer = [message async for message in replica_node.stream(rpc, request)]
    else:
        answer = [await replica_node.call(rpc, request)]
    assert answer


@pytest.mark.parametrize("rpc", WRITES)
async def test_the_database_refuses_the_reader_every_write(
    rpc: str, reader: Database, world: World
) -> None:
    assert await refusal(rpc, reader, REQUESTS[rpc](world)) == DENIED


# What is taken away from whom, an RPC that then fails, and how: without the schema its tables are
# not to be seen.
NEEDED = [
    (READ_ONLY, "SELECT ON ALL TABLES IN SCHEMA public", "ListSplits", DENIED),
    (READ_ONLY, "USAGE ON SCHEMA public", "IndexMetadata", UNSEEN),
    (READ_WRITE, "SELECT ON ALL TABLES IN SCHEMA public", "ListShards", DENIED),
    (READ_WRITE, "INSERT ON ALL TABLES IN SCHEMA public", "CreateIndex", DENIED),
    (READ_WRITE, "UPDATE ON ALL TABLES IN SCHEMA public", "UpdateIndex", DENIED),
    (READ_WRITE, "DELETE ON ALL TABLES IN SCHEMA public", "DeleteIndex", DENIED),
    (READ_WRITE, "USAGE ON ALL SEQUENCES IN SCHEMA public", "CreateDeleteTask", DENIED),
    (READ_WRITE, "USAGE ON SCHEMA public", "StageSplits", UNSEEN),
]


@pytest.mark.parametrize(("role", "right", "rpc", "sqlstate"), NEEDED)
async def test_without_one_grant_a_call_fails(
    role: str, right: str, rpc: str, sqlstate: str, granted: Granted, world: World
) -> None:
    async with opened(granted.primary_uri(role)) as database:
        await granted.scratch.execute(f"REVOKE {right} FROM {role}")
        try:
            assert await refusal(rpc, database, REQUESTS[rpc](world)) == sqlstate
        finally:
            await granted.scratch.execute(f"GRANT {right} TO {role}")


@pytest.mark.parametrize("role", [READ_ONLY, READ_WRITE])
async def test_without_the_right_to_connect_nobody_does(role: str, granted: Granted) -> None:
    database = quoted(granted.scratch.name)
    await granted.scratch.execute(f"REVOKE CONNECT ON DATABASE {database} FROM {role}")
    try:
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await asyncpg.connect(granted.primary_uri(role), ssl=False)
    finally:
        await granted.scratch.execute(f"GRANT CONNECT ON DATABASE {database} TO {role}")


async def test_a_later_migration_needs_no_new_grant(
    granted: Granted, reader: Database, writer: Database
) -> None:
    async with opened(granted.primary_uri(OWNER)) as owner, owner.acquire() as session:
        await session.execute("CREATE TABLE later (id bigserial PRIMARY KEY, value text)")
        try:
            async with writer.acquire() as other:
                await other.execute("INSERT INTO later (value) VALUES ('a')")
                await other.execute("UPDATE later SET value = 'b'")
            async with reader.acquire() as other:
                assert await other.fetchval("SELECT value FROM later") == "b"
        finally:
            await session.execute("DROP TABLE later")


FORBIDDEN = [
    "CREATE ROLE another",
    "CREATE DATABASE another",
    "CREATE TABLE another ()",
    "CREATE TEMPORARY TABLE another ()",
    "CREATE SCHEMA another",
    "ALTER TABLE splits ADD COLUMN another text",
    "DROP TABLE splits",
    "TRUNCATE splits",
    "CREATE INDEX ON splits (split_id)",
    "SET ROLE quickwit_owner",
    "SET ROLE postgres",
    "COPY splits TO PROGRAM 'cat'",
    "SELECT pg_read_file('postgresql.conf')",
    "SELECT pg_switch_wal()",
    "ALTER SYSTEM SET work_mem = '1GB'",
    "SELECT pg_create_physical_replication_slot('another')",
]


@pytest.mark.parametrize("role", [READ_ONLY, READ_WRITE])
@pytest.mark.parametrize("statement", FORBIDDEN)
async def test_the_nodes_roles_may_do_nothing_else(
    statement: str, role: str, reader: Database, writer: Database
) -> None:
    database = reader if role == READ_ONLY else writer
    async with database.acquire() as session:
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await session.execute(statement)


async def test_the_writer_serves_every_rpc(granted: Granted, writer: Database) -> None:
    # The last test of the module: the others share what it removes.
    cleaner = await granted.scratch.pair.primary.connect(granted.scratch.name)
    try:
        for rpc in sorted(RPCS):
            await empty_tables(cleaner)
            assert await run(rpc, writer, REQUESTS[rpc](await make_world(writer))), rpc
    finally:
        await cleaner.close()
