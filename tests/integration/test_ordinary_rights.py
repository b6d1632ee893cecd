"""Nodes whose database users are no superusers, as on managed databases."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

import asyncpg
import pytest

from proxy import errors
from proxy.config import PoolSettings
from proxy.node import Node
from proxy.roles import Role
from proxy.store import grants, migrations
from proxy.store.heartbeat import Heart
from proxy.store.lag import Writer
from proxy.store.pool import Database
from tests.support.complete_requests import make_world
from tests.support.nodes import node_config, running
from tests.support.postgres import Credentials, Scratch, parsed
from tests.support.waiting import until

OWNER = Credentials(f"owner_{os.getpid()}", "owner-password")
READER = Credentials(f"reader_{os.getpid()}", "reader-password")


@pytest.fixture
async def scratch(fresh_database: Scratch) -> AsyncIterator[Scratch]:
    """A database that an ordinary user owns; another one may log in, and no more."""
    for who in (OWNER, READER):
        await fresh_database.execute(f"CREATE ROLE {who.user} LOGIN PASSWORD '{who.password}'")
    yield fresh_database
    await fresh_database.execute(
        f"ALTER DATABASE {fresh_database.name} OWNER TO postgres;"
        f"DROP OWNED BY {OWNER.user}, {READER.user}; DROP ROLE {OWNER.user}, {READER.user}"
    )


async def give_away(scratch: Scratch) -> None:
    await scratch.execute(f"ALTER DATABASE {scratch.name} OWNER TO {OWNER.user}")


def uri_of(scratch: Scratch, who: Credentials, *, standby: bool = False) -> str:
    return scratch.uris_as(who)[standby]


async def test_the_owner_of_a_database_and_a_reader_need_no_superuser(scratch: Scratch) -> None:
    await give_away(scratch)
    metastore = node_config(Role.METASTORE, uri_of(scratch, OWNER))
    replica = node_config(Role.READ_REPLICA, uri_of(scratch, READER, standby=True))
    async with AsyncExitStack() as stack:
        primary: Node = await stack.enter_async_context(running(metastore))
        deferred = "SELECT success FROM _sqlx_migrations WHERE version = 29"
        await until(lambda: scratch.value(deferred))
        await make_world(primary.database)
        waiting: Node = await stack.enter_async_context(running(replica, wait=False))
        await until(lambda: "SELECT on all tables" in str(waiting.readiness.failures))
        # As the README says, by the owner.
        connection = await asyncpg.connect(uri_of(scratch, OWNER))
        await connection.execute(f"GRANT SELECT ON ALL TABLES IN SCHEMA public TO {READER.user}")
        await connection.close()
        await until(lambda: waiting.vector().fresh, lambda: waiting.readiness.failures)


async def test_a_metastore_node_that_does_not_migrate_needs_the_rows_alone(
    migrated_database: Scratch, readonly_user: Credentials
) -> None:
    await migrated_database.execute(
        f"GRANT INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO {readonly_user.user};"
        f"GRANT USAGE ON ALL SEQUENCES IN SCHEMA public TO {readonly_user.user}"
    )
    uri = migrated_database.uris_as(readonly_user)[0]
    config = node_config(Role.METASTORE, uri, QW_POSTGRES_SKIP_MIGRATIONS="true")
    async with running(config) as node:
        await make_world(node.database)
        stamped = "SELECT count(*) FROM kv WHERE key = 'metastore-proxy/heartbeat'"
        await until(lambda: migrated_database.value(stamped))


async def test_a_metastore_node_that_may_not_create_is_told_the_grant(scratch: Scratch) -> None:
    database = Database(parsed(uri_of(scratch, READER)), PoolSettings(), read_only=False)
    with pytest.raises(errors.Internal) as caught:
        await migrations.apply(database)
    grant = f"`GRANT USAGE, CREATE ON SCHEMA public TO {READER.user}`"
    assert f"schema public: run {grant} as its owner, or run `metastore-proxy" in str(caught.value)


async def test_migrations_by_another_than_the_owner_are_told_so(scratch: Scratch) -> None:
    await give_away(scratch)
    owner = Database(parsed(uri_of(scratch, OWNER)), PoolSettings(), read_only=False)
    last = migrations.migrations_of(migrations.Track.REQUIRED)[-1]
    await migrations.apply(owner)
    await scratch.execute(
        f"DELETE FROM _sqlx_migrations WHERE version = {last.version};"
        f"GRANT CREATE, USAGE ON SCHEMA public TO {READER.user};"
        f"GRANT ALL ON ALL TABLES IN SCHEMA public TO {READER.user}"
    )
    database = Database(parsed(uri_of(scratch, READER)), PoolSettings(), read_only=False)
    alter = migrations.Migration(
        last.version, "alter", last.checksum, last.track, "ALTER TABLE splits ADD COLUMN x int"
    )
    with pytest.raises(
        errors.Internal, match="must be owner of table splits: run `metastore-proxy"
    ):
        await migrations.apply(database, migrations=[alter])


async def test_a_heartbeat_that_may_not_be_written_is_told_the_grant(scratch: Scratch) -> None:
    await give_away(scratch)
    owner = Database(parsed(uri_of(scratch, OWNER)), PoolSettings(), read_only=False)
    await migrations.apply(owner)
    await scratch.execute(f"GRANT SELECT ON ALL TABLES IN SCHEMA public TO {READER.user}")
    database = Database(parsed(uri_of(scratch, READER)), PoolSettings(), read_only=False)
    heart = Heart(database, Writer("node", "cluster", 1), interval=1.0)
    grant = "GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public"
    with pytest.raises(errors.Db, match=f"denied for table kv: run `{grant} TO {READER.user}`"):
        await heart.beat()
    heart.close()


@pytest.mark.parametrize(
    ("function", "signs"),
    [
        ("pg_last_wal_replay_lsn", "does not tell its position"),
        *((name, "does not tell this node whose copy it is") for name in grants.CONTROL_FUNCTIONS),
    ],
)
async def test_a_function_that_may_not_be_called_is_told_and_done_without(
    migrated_database: Scratch,
    readonly_user: Credentials,
    function: str,
    signs: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    await migrated_database.execute(f"REVOKE EXECUTE ON FUNCTION {function}() FROM PUBLIC")
    await migrated_database.pair.wait_caught_up()
    uri = migrated_database.uris_as(readonly_user)[1]
    async with running(node_config(Role.READ_REPLICA, uri)):
        await until(lambda: signs in caplog.text)
        (told,) = [record for record in caplog.records if signs in record.message]
        remedy = told.message + str(told.__dict__.get("remedy", ""))
        assert "GRANT EXECUTE ON FUNCTION" in remedy
        assert f"{function}()" in remedy


@pytest.mark.parametrize("function", ["pg_walfile_name", "pg_walfile_name_offset"])
async def test_the_grant_that_is_told_for_a_function_with_an_argument_works(
    migrated_database: Scratch, readonly_user: Credentials, function: str
) -> None:
    await migrated_database.execute(f"REVOKE EXECUTE ON FUNCTION {function}(pg_lsn) FROM PUBLIC")
    uri = migrated_database.uris_as(readonly_user)[0]
    connection = await asyncpg.connect(uri)
    statement = f"SELECT {function}('0/1000000')"
    with pytest.raises(asyncpg.InsufficientPrivilegeError) as caught:
        await connection.fetchval(statement)
    told = grants.explain(caught.value, parsed(uri))
    await migrated_database.execute(told.split("`")[1])
    assert await connection.fetchval(statement)
    await connection.close()
