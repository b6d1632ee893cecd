"""Checking without applying: what is refused, how it is told, and with how few rights it works."""

from __future__ import annotations

import pytest

from proxy import errors
from proxy.config import PoolSettings
from proxy.store import migrations
from proxy.store.migration_manifest import Track, migrations_of
from proxy.store.migrations import MigrationStatus, State
from proxy.store.pool import Database
from tests.support import schema
from tests.support.postgres import Credentials, Scratch, opened, parsed

REMEDY = "run `metastore-proxy migrate` or start a metastore node on the primary"
SELECT_MISSING = "grant the user of this node SELECT on all tables of the schema"


async def _cause(uri: str) -> str:
    """Return why the check fails on a read-only session."""
    async with opened(uri, read_only=True) as database, database.acquire() as session:
        with pytest.raises(errors.Internal) as caught:
            await migrations.check(session)
    assert caught.value.message == "failed to validate PostgreSQL migrations"
    return caught.value.cause


async def _states(uri: str) -> dict[int, State]:
    async with opened(uri, read_only=True) as database, database.acquire() as session:
        return {item.version: item.state for item in await migrations.status(session)}


async def test_a_migrated_standby_passes(migrated_database: Scratch) -> None:
    uri = migrated_database.standby_uri
    async with opened(uri, read_only=True) as database, database.acquire() as session:
        await migrations.check(session)
        assert await session.fetchval("SELECT pg_is_in_recovery()") is True


async def test_a_user_with_only_select_passes_on_both_servers(
    migrated_database: Scratch, readonly_user: Credentials
) -> None:
    for uri in migrated_database.uris_as(readonly_user):
        async with opened(uri, read_only=True) as database, database.acquire() as session:
            await migrations.check(session)
            assert len(await migrations.status(session)) == 29


async def test_checking_changes_nothing(migrated_database: Scratch) -> None:
    async with opened(migrated_database.primary_uri) as database, database.acquire() as session:
        before = await schema.fingerprint(session)
        await migrations.check(session)
        await migrations.status(session)
        assert await schema.fingerprint(session) == before


async def test_a_plain_connection_can_be_checked(migrated_database: Scratch) -> None:
    connection = await migrated_database.pair.primary.connect(migrated_database.name)
    try:
        await migrations.check(connection)
    finally:
        await connection.close()


@pytest.mark.parametrize("version", [1, 9, 28])
async def test_a_missing_migration_is_named(migrated_database: Scratch, version: int) -> None:
    await migrated_database.execute(f"DELETE FROM _sqlx_migrations WHERE version = {version}")
    await migrated_database.pair.wait_caught_up()
    cause = await _cause(migrated_database.standby_uri)
    assert cause.startswith(f"missing required migration {version} (")
    assert cause.endswith(f"): {REMEDY}")
    states = await _states(migrated_database.standby_uri)
    assert [v for v, state in states.items() if state is State.MISSING] == [version, 29]


async def test_a_database_stopped_early_tells_how_many_are_missing(
    fresh_database: Scratch,
) -> None:
    database = Database(parsed(fresh_database.primary_uri), PoolSettings(), read_only=False)
    await migrations.apply(database, migrations=migrations_of(Track.REQUIRED)[:26])
    assert await _cause(fresh_database.primary_uri) == (
        f"missing required migration 27 (add-compaction-metadata), and 1 more (28): {REMEDY}"
    )


@pytest.mark.parametrize("version", [1, 28])
async def test_another_checksum_is_named(migrated_database: Scratch, version: int) -> None:
    await migrated_database.execute(
        f"UPDATE _sqlx_migrations SET checksum = '\\xbeef' WHERE version = {version}"
    )
    await migrated_database.pair.wait_caught_up()
    cause = await _cause(migrated_database.standby_uri)
    assert cause.startswith(f"migration {version} (")
    assert "differs between database and expected value" in cause
    assert "beef..." in cause
    states = await _states(migrated_database.standby_uri)
    assert [v for v, state in states.items() if state is State.MISMATCH] == [version]


@pytest.mark.parametrize("version", [3, 28])
async def test_a_dirty_migration_is_named(migrated_database: Scratch, version: int) -> None:
    await migrated_database.execute(
        f"UPDATE _sqlx_migrations SET success = false WHERE version = {version}"
    )
    cause = await _cause(migrated_database.primary_uri)
    assert cause.startswith(f"migration {version} is dirty (")
    states = await _states(migrated_database.primary_uri)
    assert [v for v, state in states.items() if state is State.DIRTY] == [version]


async def test_a_dirty_unknown_migration_is_refused_too(migrated_database: Scratch) -> None:
    await migrated_database.execute(
        "INSERT INTO _sqlx_migrations VALUES (40, 'later', now(), false, '\\x00', -1)"
    )
    cause = await _cause(migrated_database.primary_uri)
    assert cause.startswith("migration 40 is dirty (later was begun and not finished)")


async def test_unknown_versions_and_the_deferred_one_do_not_matter(
    migrated_database: Scratch,
) -> None:
    await migrated_database.execute(
        """
        INSERT INTO _sqlx_migrations VALUES
            (29, 'another deferred one', now(), true, '\\x00', 1),
            (999999, 'later', now(), true, '\\x00', 1)
        """
    )
    async with opened(migrated_database.primary_uri) as database, database.acquire() as session:
        await migrations.check(session)
        found = await migrations.status(session)
    assert found[-2:] == [
        MigrationStatus(
            29, "create-index-splits-maturity-timestamp", Track.DEFERRED, State.MISMATCH
        ),
        MigrationStatus(999999, "later", None, State.UNKNOWN),
    ]
    assert {item.state for item in found[:-2]} == {State.APPLIED}


async def test_an_empty_database_is_told_to_be_one(fresh_database: Scratch) -> None:
    for uri in (fresh_database.primary_uri, fresh_database.standby_uri):
        assert await _cause(uri) == (
            f"table `_sqlx_migrations` does not exist, the schema was never created: {REMEDY}"
        )
        assert set((await _states(uri)).values()) == {State.MISSING}


async def test_a_user_that_may_not_read_the_record_is_told_so(
    migrated_database: Scratch, readonly_user: Credentials
) -> None:
    await migrated_database.execute(
        f'REVOKE SELECT ON _sqlx_migrations FROM "{readonly_user.user}"'
    )
    primary, _ = migrated_database.uris_as(readonly_user)
    cause = await _cause(primary)
    assert cause.startswith(f"permission denied for table _sqlx_migrations: {SELECT_MISSING}")
    async with opened(primary, read_only=True) as database, database.acquire() as session:
        with pytest.raises(errors.Internal, match="permission denied for table _sqlx_migrations"):
            await migrations.status(session)


async def test_a_broken_session_fails_the_check(migrated_database: Scratch) -> None:
    connection = await migrated_database.pair.primary.connect(migrated_database.name)
    await connection.close()
    with pytest.raises(errors.Connection, match="failed to validate PostgreSQL migrations"):
        await migrations.check(connection)
