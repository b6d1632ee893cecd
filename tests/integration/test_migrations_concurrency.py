"""Several nodes at once: the locks, waiting for them, and the deferred track."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import asyncpg
import pytest

from proxy import errors
from proxy.config import PoolSettings
from proxy.store import migrations
from proxy.store.migration_manifest import Migration, Track
from proxy.store.migrations import DeferredOutcome, DeferredReport
from proxy.store.pool import Database
from tests.support.postgres import Scratch, parsed

BOUND = 30.0
INDEX = "splits_maturity_timestamp_idx"
INDEX_IS_VALID = f"SELECT indisvalid FROM pg_index WHERE indexrelid = to_regclass('{INDEX}')"
# Of this database only, and not of the session that asks.
BUSY_SESSIONS = """
    SELECT count(*) FROM pg_stat_activity
    WHERE datname = current_database() AND pid <> pg_backend_pid()
        AND backend_type = 'client backend' AND query ILIKE '%' || $1 || '%'
"""
RECORDED = "SELECT array_agg(version ORDER BY version) FROM _sqlx_migrations"


def _unopened(scratch: Scratch) -> Database:
    return Database(parsed(scratch.primary_uri), PoolSettings(), read_only=False)


async def _until(scratch: Scratch, sql: str, expected: object, *arguments: object) -> None:
    async with asyncio.timeout(BOUND):
        found = await scratch.value(sql, *arguments)
        while found != expected:
            await asyncio.sleep(0.02)
            found = await scratch.value(sql, *arguments)


@asynccontextmanager
async def _other_session(scratch: Scratch) -> AsyncIterator[asyncpg.Connection]:
    connection = await scratch.pair.primary.connect(scratch.name)
    try:
        yield connection
    finally:
        await connection.close()


@asynccontextmanager
async def _old_writer(scratch: Scratch) -> AsyncIterator[None]:
    """Keep a transaction open that a concurrent build has to wait for."""
    async with _other_session(scratch) as connection:
        writer = connection.transaction()
        await writer.start()
        await connection.execute("LOCK TABLE splits IN ROW EXCLUSIVE MODE")
        yield
        await writer.rollback()


@pytest.mark.parametrize(
    ("name", "key"),
    [("quickwit-metastore", 4209402429826479886), ("", 0), ("a", 0xE8B7BE43 * 0x3D32AD9E)],
)
def test_the_lock_key_is_the_one_of_sqlx(name: str, key: int) -> None:
    assert migrations.lock_key(name) == key


@pytest.mark.parametrize("nodes", [2, 5])
async def test_nodes_starting_at_once_migrate_once(fresh_database: Scratch, nodes: int) -> None:
    reports = await asyncio.gather(
        *(migrations.apply(_unopened(fresh_database)) for _ in range(nodes))
    )
    counts = sorted(len(report.applied) for report in reports)
    assert counts == [0] * (nodes - 1) + [28]
    assert await fresh_database.value(RECORDED) == list(range(1, 29))


async def test_the_lock_is_waited_for_beyond_the_timeouts_of_the_role(
    fresh_database: Scratch,
) -> None:
    await fresh_database.execute(
        f"""
        ALTER DATABASE {fresh_database.name} SET statement_timeout = '500ms';
        ALTER DATABASE {fresh_database.name} SET lock_timeout = '500ms';
        """
    )
    key = migrations.lock_key(fresh_database.name)
    async with _other_session(fresh_database) as holder:
        await holder.execute("SELECT pg_advisory_lock($1)", key)
        waiting = asyncio.create_task(migrations.apply(_unopened(fresh_database)))
        overdue = f"""
            {BUSY_SESSIONS}
            AND state = 'active' AND clock_timestamp() - query_start > interval '700 ms'
        """
        await _until(fresh_database, overdue, 1, "pg_advisory_lock(")
        assert not waiting.done()
        assert await fresh_database.value("SELECT to_regclass('_sqlx_migrations')") is None
        await holder.execute("SELECT pg_advisory_unlock($1)", key)
        report = await waiting
    assert len(report.applied) == 28


async def test_a_cancelled_wait_leaves_no_session_behind(fresh_database: Scratch) -> None:
    key = migrations.lock_key(fresh_database.name)
    async with _other_session(fresh_database) as holder:
        await holder.execute("SELECT pg_advisory_lock($1)", key)
        waiting = asyncio.create_task(migrations.apply(_unopened(fresh_database)))
        await _until(fresh_database, BUSY_SESSIONS, 1, "SELECT pg_advisory_lock($1)\n")
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        await _until(fresh_database, BUSY_SESSIONS, 0, "SELECT pg_advisory_lock($1)\n")
    assert len((await migrations.apply(_unopened(fresh_database))).applied) == 28


async def test_without_lock_nobody_is_waited_for(fresh_database: Scratch) -> None:
    async with _other_session(fresh_database) as holder:
        await holder.execute(
            "SELECT pg_advisory_lock($1)", migrations.lock_key(fresh_database.name)
        )
        report = await migrations.apply(_unopened(fresh_database), lock=False)
    assert len(report.applied) == 28


async def test_the_lock_is_given_back_after_a_failure(fresh_database: Scratch) -> None:
    broken = Migration(1, "broken", b"\x01" * 48, Track.REQUIRED, "SELECT 1 / 0")
    with pytest.raises(errors.Internal, match="division by zero"):
        await migrations.apply(_unopened(fresh_database), migrations=[broken])
    free = await fresh_database.value(
        "SELECT pg_try_advisory_lock($1)", migrations.lock_key(fresh_database.name)
    )
    assert free is True


async def test_a_cancelled_step_is_rolled_back(fresh_database: Scratch) -> None:
    slow = Migration(
        1, "slow", b"\x01" * 48, Track.REQUIRED, "CREATE TABLE half_done (); SELECT pg_sleep(600)"
    )
    task = asyncio.create_task(migrations.apply(_unopened(fresh_database), migrations=[slow]))
    await _until(fresh_database, BUSY_SESSIONS, 1, "pg_sleep(600)")
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await _until(fresh_database, BUSY_SESSIONS, 0, "pg_sleep(600)")
    assert await fresh_database.value("SELECT to_regclass('half_done')") is None
    assert len((await migrations.apply(_unopened(fresh_database))).applied) == 28


async def test_exactly_one_of_two_nodes_applies_the_deferred_track(
    migrated_database: Scratch,
) -> None:
    async with _old_writer(migrated_database):
        first = asyncio.create_task(migrations.apply_deferred(_unopened(migrated_database)))
        await _until(migrated_database, INDEX_IS_VALID, False)
        second = await migrations.apply_deferred(_unopened(migrated_database))
        assert second == DeferredReport(DeferredOutcome.ELSEWHERE)
        assert not first.done()
    report = await first
    assert report.outcome is DeferredOutcome.APPLIED
    assert [step.version for step in report.applied] == [29]
    assert await migrated_database.value(RECORDED) == list(range(1, 30))


async def test_two_deferred_runs_racing_build_one_index(migrated_database: Scratch) -> None:
    reports = await asyncio.gather(
        *(migrations.apply_deferred(_unopened(migrated_database)) for _ in range(2))
    )
    assert sorted(len(report.applied) for report in reports) == [0, 1]
    assert all(report.outcome is not DeferredOutcome.FAILED for report in reports)
    assert await migrated_database.value(INDEX_IS_VALID) is True


async def test_writers_are_not_blocked_by_the_deferred_track(migrated_database: Scratch) -> None:
    async with _old_writer(migrated_database):
        build = asyncio.create_task(migrations.apply_deferred(_unopened(migrated_database)))
        await _until(migrated_database, INDEX_IS_VALID, False)
        await migrated_database.execute(
            "SET lock_timeout = '5s'; UPDATE splits SET split_state = 'Published'"
        )
        assert not build.done()
    assert (await build).outcome is DeferredOutcome.APPLIED


async def _interrupt_build(scratch: Scratch) -> None:
    async with _old_writer(scratch):
        build = asyncio.create_task(migrations.apply_deferred(_unopened(scratch)))
        await _until(scratch, INDEX_IS_VALID, False)
        build.cancel()
        with pytest.raises(asyncio.CancelledError):
            await build
        await _until(scratch, BUSY_SESSIONS, 0, "CREATE INDEX CONCURRENTLY")
    assert await scratch.value(INDEX_IS_VALID) is False


async def test_an_index_left_invalid_is_built_again(migrated_database: Scratch) -> None:
    await _interrupt_build(migrated_database)
    assert await migrated_database.value(RECORDED) == list(range(1, 29))
    report = await migrations.apply_deferred(_unopened(migrated_database))
    assert (report.outcome, report.rebuilt) == (DeferredOutcome.APPLIED, (INDEX,))
    assert await migrated_database.value(INDEX_IS_VALID) is True
    assert await migrated_database.value(RECORDED) == list(range(1, 30))


async def test_an_invalid_index_is_built_again_although_recorded_as_applied(
    migrated_database: Scratch,
) -> None:
    await migrations.apply_deferred(_unopened(migrated_database))
    await migrated_database.execute(f"DROP INDEX {INDEX}")
    await migrated_database.execute("CREATE TABLE kept AS TABLE _sqlx_migrations")
    await migrated_database.execute("DELETE FROM _sqlx_migrations WHERE version = 29")
    await _interrupt_build(migrated_database)
    await migrated_database.execute(
        "INSERT INTO _sqlx_migrations SELECT * FROM kept WHERE version = 29"
    )
    report = await migrations.apply_deferred(_unopened(migrated_database))
    assert report == DeferredReport(DeferredOutcome.APPLIED, (), (INDEX,))
    assert await migrated_database.value(INDEX_IS_VALID) is True
    again = await migrations.apply_deferred(_unopened(migrated_database))
    assert again == DeferredReport(DeferredOutcome.UP_TO_DATE)


async def test_an_index_that_someone_builds_by_hand_is_left_alone(
    migrated_database: Scratch,
) -> None:
    async with _other_session(migrated_database) as operator:
        async with _old_writer(migrated_database):
            build = asyncio.create_task(
                operator.execute(
                    f"CREATE INDEX CONCURRENTLY {INDEX} ON splits (maturity_timestamp, split_id)"
                )
            )
            await _until(migrated_database, INDEX_IS_VALID, False)
            report = await migrations.apply_deferred(_unopened(migrated_database))
            assert report == DeferredReport(DeferredOutcome.ELSEWHERE)
        await build
    report = await migrations.apply_deferred(_unopened(migrated_database))
    assert [step.version for step in report.applied] == [29]
    assert report.rebuilt == ()


async def test_a_failed_deferred_track_is_reported_not_raised(fresh_database: Scratch) -> None:
    report = await migrations.apply_deferred(_unopened(fresh_database))
    assert report.outcome is DeferredOutcome.FAILED
    assert 'relation "splits" does not exist' in report.error
    await migrations.apply(_unopened(fresh_database))
    report = await migrations.apply_deferred(_unopened(fresh_database))
    assert report.outcome is DeferredOutcome.APPLIED


async def test_a_deferred_migration_with_another_checksum_is_reported(
    migrated_database: Scratch,
) -> None:
    await migrated_database.execute(
        "INSERT INTO _sqlx_migrations VALUES (29, 'other', now(), true, '\\x00', 1)"
    )
    report = await migrations.apply_deferred(_unopened(migrated_database))
    assert report.outcome is DeferredOutcome.FAILED
    assert "migration 29" in report.error
