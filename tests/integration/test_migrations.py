"""The schema that the migrations leave, compared with the facts; and that they run only once."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

from proxy import errors
from proxy.config import PoolSettings
from proxy.demo.postgres import PostgresPair
from proxy.store import migrations
from proxy.store.migration_manifest import Track, known_migrations, migrations_of
from proxy.store.migrations import DeferredOutcome
from proxy.store.pool import Database
from tests.support import schema
from tests.support.postgres import Scratch, opened, parsed, scratch_database, select_only_user


@pytest.fixture(scope="module")
async def complete(pg: PostgresPair) -> AsyncIterator[Scratch]:
    """A database with both tracks applied."""
    async with scratch_database(pg) as scratch:
        async with opened(scratch.primary_uri) as database:
            await migrations.apply(database)
            report = await migrations.apply_deferred(database)
        assert report.outcome is DeferredOutcome.APPLIED
        yield scratch


@pytest.fixture(scope="module")
async def found(complete: Scratch) -> dict[str, Any]:
    async with opened(complete.primary_uri) as database, database.acquire() as session:
        return await schema.schema_of(session)


@pytest.mark.parametrize("section", schema.SECTIONS)
def test_the_catalog_is_as_the_facts_say(found: dict[str, Any], section: str) -> None:
    assert found[section] == schema.facts()[section]


def test_the_facts_have_every_section_that_is_compared() -> None:
    assert set(schema.facts()) - {"note"} == set(schema.SECTIONS)
    assert len(schema.facts()["migrations"]) == 29


def test_the_manifest_is_as_the_facts_say() -> None:
    ours = [
        {
            "version": migration.version,
            "description": migration.description,
            "sha384": migration.checksum.hex(),
            "track": str(migration.track),
        }
        for migration in known_migrations()
    ]
    assert ours == schema.facts()["migrations"]


@pytest.mark.parametrize("migration", known_migrations(), ids=lambda m: str(m.version))
def test_each_file_opens_with_its_purpose(migration: Any) -> None:
    assert migration.sql.startswith("-- ")
    assert "\n\n" in migration.sql


async def test_the_record_of_migrations_has_the_columns_of_sqlx(complete: Scratch) -> None:
    async with opened(complete.primary_uri) as database, database.acquire() as session:
        assert await schema.record_table(session) == [
            ("version", "bigint", True, None),
            ("description", "text", True, None),
            ("installed_on", "timestamp with time zone", True, "now()"),
            ("success", "boolean", True, None),
            ("checksum", "bytea", True, None),
            ("execution_time", "bigint", True, None),
        ]


async def test_execution_times_are_recorded_in_nanoseconds(complete: Scratch) -> None:
    low = await complete.value("SELECT min(execution_time) FROM _sqlx_migrations")
    high = await complete.value("SELECT max(execution_time) FROM _sqlx_migrations")
    assert isinstance(low, int)
    assert isinstance(high, int)
    assert 10_000 < low <= high < 60_000_000_000


async def test_a_migrated_database_is_not_changed_at_all(complete: Scratch) -> None:
    await complete.execute("INSERT INTO kv VALUES ('cluster_id', 'x')")
    async with opened(complete.primary_uri) as database, database.acquire() as session:
        before = await schema.fingerprint(session)
        report = await migrations.apply(database)
        deferred = await migrations.apply_deferred(database)
        assert await schema.fingerprint(session) == before
    assert report.applied == ()
    assert report.unknown == ()
    assert deferred == migrations.DeferredReport(DeferredOutcome.UP_TO_DATE)


async def test_a_migrated_database_needs_no_right_to_create(complete: Scratch) -> None:
    async with select_only_user(complete) as reader:
        uri, _ = complete.uris_as(reader)
        report = await migrations.apply(Database(parsed(uri), PoolSettings(), read_only=False))
    assert report.applied == ()


async def test_the_pool_need_not_be_open_and_progress_is_told(fresh_database: Scratch) -> None:
    database = Database(
        parsed(fresh_database.primary_uri), PoolSettings(max_connections=1), read_only=False
    )
    seen: list[int] = []
    report = await migrations.apply(database, progress=lambda step: seen.append(step.version))
    assert seen == list(range(1, 29))
    assert report.applied == migrations_of(Track.REQUIRED)
    assert 0 < report.seconds < 60
    assert not database.is_open


async def test_apply_works_while_the_only_session_of_the_pool_is_lent(
    fresh_database: Scratch,
) -> None:
    settings = PoolSettings(max_connections=1)
    async with (
        opened(fresh_database.primary_uri, settings) as database,
        database.acquire() as session,
    ):
        await migrations.apply(database)
        await migrations.check(session)


async def test_apply_refuses_a_read_only_session(fresh_database: Scratch) -> None:
    async with opened(fresh_database.primary_uri, read_only=True) as database:
        with pytest.raises(errors.Internal) as caught:
            await migrations.apply(database)
        deferred = await migrations.apply_deferred(database)
    assert caught.value.message == "failed to run PostgreSQL migrations"
    assert "QW_POSTGRES_READ_ONLY" in caught.value.cause
    assert deferred.outcome is DeferredOutcome.FAILED


async def test_apply_refuses_a_standby(complete: Scratch) -> None:
    await complete.pair.wait_caught_up()
    async with opened(complete.standby_uri) as database:
        with pytest.raises(errors.Internal, match="standby: point `metastore_uri` at the primary"):
            await migrations.apply(database)
        deferred = await migrations.apply_deferred(database)
    assert deferred.outcome is DeferredOutcome.FAILED


async def test_an_unreachable_database_is_told_without_the_password(
    fresh_database: Scratch,
) -> None:
    right = parsed(fresh_database.primary_uri)
    wrong = fresh_database.primary_uri.replace(str(right.password), "Tr0ub4dor-wrong")
    database = Database(parsed(wrong), PoolSettings(), read_only=False)
    with pytest.raises(errors.Connection) as caught:
        await migrations.apply(database)
    deferred = await migrations.apply_deferred(database)
    assert "Tr0ub4dor" not in str(caught.value)
    assert deferred.outcome is DeferredOutcome.FAILED
    assert "password authentication failed" in deferred.error
    assert "Tr0ub4dor" not in deferred.error
