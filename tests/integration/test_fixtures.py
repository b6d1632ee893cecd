"""The fixtures keep what their docstrings promise; other tests rely on it."""

from __future__ import annotations

import asyncpg
import pytest

from proxy.store.pool import Database
from tests.support.postgres import Credentials, Scratch, empty_tables


async def test_clean_empties_all_tables_small_and_large_and_restarts_sequences(
    migrated_database: Scratch,
) -> None:
    connection = await migrated_database.pair.primary.connect(migrated_database.name)
    for rows in (1, 1, 60_000):
        await connection.execute(
            "INSERT INTO indexes (index_id, index_uid, index_metadata_json) VALUES ('i', 'i:1', '')"
        )
        await connection.execute(
            "INSERT INTO delete_tasks (index_uid, delete_query_json) "
            f"SELECT 'i:1', repeat('x', 50) FROM generate_series(1, {rows})"
        )
        assert await connection.fetchval("SELECT min(opstamp) FROM delete_tasks") == 1
        await empty_tables(connection)
        for table in ("indexes", "delete_tasks"):
            assert await connection.fetchval(f"SELECT count(*) FROM {table}") == 0
    assert await connection.fetchval("SELECT count(*) FROM _sqlx_migrations") > 20
    await connection.close()


async def test_the_shared_database_is_open_on_both_servers(
    clean: Scratch, shared_database: Database, shared_replica: Database
) -> None:
    assert (shared_database.read_only, shared_replica.read_only) == (False, True)
    for pool in (shared_database, shared_replica):
        async with pool.acquire() as session:
            assert await session.fetchval("SELECT current_database()") == clean.name
            assert await session.fetchval("SELECT count(*) FROM splits") == 0


async def test_a_migrated_database_is_open_on_both_servers(
    migrated_database: Scratch, database: Database, replica_database: Database
) -> None:
    for pool, in_recovery in ((database, False), (replica_database, True)):
        async with pool.acquire() as session:
            assert await session.fetchval("SELECT current_database()") == migrated_database.name
            assert await session.fetchval("SELECT pg_is_in_recovery()") is in_recovery


async def test_a_read_only_user_reads_and_does_nothing_else(
    migrated_database: Scratch, readonly_user: Credentials
) -> None:
    for uri in migrated_database.uris_as(readonly_user):
        connection = await asyncpg.connect(uri)
        assert await connection.fetchval("SELECT count(*) FROM _sqlx_migrations") > 20
        for statement in ("DELETE FROM splits", "CREATE TABLE t (n int)"):
            with pytest.raises(
                (asyncpg.InsufficientPrivilegeError, asyncpg.ReadOnlySQLTransactionError)
            ):
                await connection.execute(statement)
        await connection.close()


async def test_a_fresh_database_is_empty(fresh_database: Scratch) -> None:
    assert (
        await fresh_database.value("SELECT count(*) FROM pg_tables WHERE schemaname = 'public'")
        == 0
    )
