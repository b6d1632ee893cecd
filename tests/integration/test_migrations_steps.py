"""Single steps: stopped anywhere and finished later, gaps, failures, and what they do to data."""

from __future__ import annotations

import json

import pytest

from proxy import errors
from proxy.config import PoolSettings
from proxy.store import migrations
from proxy.store.migration_manifest import Migration, Track, known_migrations, migrations_of
from proxy.store.pool import Database
from tests.support import schema
from tests.support.postgres import Scratch, opened, parsed

REQUIRED = migrations_of(Track.REQUIRED)


def _unopened(scratch: Scratch) -> Database:
    return Database(parsed(scratch.primary_uri), PoolSettings(), read_only=False)


async def _apply_up_to(scratch: Scratch, version: int) -> None:
    steps = [step for step in REQUIRED if step.version <= version]
    await migrations.apply(_unopened(scratch), migrations=steps)


async def _versions(scratch: Scratch) -> object:
    return await scratch.value("SELECT array_agg(version ORDER BY version) FROM _sqlx_migrations")


def _broken(version: int, sql: str) -> Migration:
    return Migration(version, "broken", b"\x01" * 48, Track.REQUIRED, sql)


@pytest.mark.parametrize("stop", range(1, 29))
async def test_a_database_stopped_at_any_step_is_finished(
    fresh_database: Scratch, stop: int
) -> None:
    await _apply_up_to(fresh_database, stop)
    assert await _versions(fresh_database) == list(range(1, stop + 1))
    report = await migrations.apply(_unopened(fresh_database))
    assert [step.version for step in report.applied] == list(range(stop + 1, 29))
    await migrations.apply_deferred(_unopened(fresh_database))
    async with opened(fresh_database.primary_uri) as database, database.acquire() as session:
        found = await schema.schema_of(session)
    for section in schema.SECTIONS:
        assert found[section] == schema.facts()[section]


@pytest.mark.parametrize(
    ("version", "undo"),
    [
        (13, "SELECT 1"),
        (15, "DROP TABLE index_templates"),
        (17, "DROP INDEX splits_time_range_start_idx, splits_time_range_end_idx"),
        (24, "DROP TABLE kv"),
        (25, "ALTER TABLE splits DROP COLUMN split_size_bytes"),
        (28, "DROP TABLE sketch_splits"),
    ],
)
async def test_a_gap_below_applied_versions_is_filled(
    migrated_database: Scratch, version: int, undo: str
) -> None:
    await migrated_database.execute(
        f"{undo}; DELETE FROM _sqlx_migrations WHERE version = {version}"
    )
    report = await migrations.apply(_unopened(migrated_database))
    assert [step.version for step in report.applied] == [version]
    assert await _versions(migrated_database) == list(range(1, 29))


async def test_versions_of_newer_programs_are_tolerated_and_reported(
    migrated_database: Scratch,
) -> None:
    await migrated_database.execute(
        "INSERT INTO _sqlx_migrations VALUES (30, 'from-the-future', now(), true, '\\x00', 1)"
    )
    report = await migrations.apply(_unopened(migrated_database))
    assert (report.applied, report.unknown) == ((), (30,))


async def test_a_dirty_migration_is_refused(migrated_database: Scratch) -> None:
    await migrated_database.execute(
        "UPDATE _sqlx_migrations SET success = false WHERE version = 27"
    )
    with pytest.raises(errors.Internal) as caught:
        await migrations.apply(_unopened(migrated_database))
    assert caught.value.message == "failed to run PostgreSQL migrations"
    assert caught.value.cause.startswith("migration 27 is dirty")


async def test_another_checksum_is_refused_before_anything_is_applied(
    fresh_database: Scratch,
) -> None:
    await _apply_up_to(fresh_database, 20)
    await fresh_database.execute(
        "UPDATE _sqlx_migrations SET checksum = '\\xabcd' WHERE version = 4"
    )
    with pytest.raises(errors.Internal) as caught:
        await migrations.apply(_unopened(fresh_database))
    assert caught.value.cause.startswith("migration 4 (create-delete tasks) differs")
    assert "abcd..." in caught.value.cause
    assert await _versions(fresh_database) == list(range(1, 21))


async def test_a_failing_step_is_rolled_back_whole(fresh_database: Scratch) -> None:
    steps = [*REQUIRED[:3], _broken(4, "CREATE TABLE half_done (n int); SELECT 1 / 0")]
    with pytest.raises(errors.Internal) as caught:
        await migrations.apply(_unopened(fresh_database), migrations=steps)
    assert caught.value.cause == "migration 4 (broken) failed: division by zero"
    assert await _versions(fresh_database) == [1, 2, 3]
    assert await fresh_database.value("SELECT to_regclass('half_done')") is None
    await migrations.apply(_unopened(fresh_database))
    assert await _versions(fresh_database) == list(range(1, 29))


async def test_a_connection_lost_in_a_step_leaves_nothing_of_it(fresh_database: Scratch) -> None:
    lost = "CREATE TABLE half_done (n int); SELECT pg_terminate_backend(pg_backend_pid())"
    with pytest.raises(errors.Connection, match=r"migration 2 \(broken\) failed"):
        await migrations.apply(
            _unopened(fresh_database), migrations=[REQUIRED[0], _broken(2, lost)]
        )
    assert await _versions(fresh_database) == [1]
    assert await fresh_database.value("SELECT to_regclass('half_done')") is None
    report = await migrations.apply(_unopened(fresh_database))
    assert len(report.applied) == 27


async def test_a_step_whose_time_was_never_recorded_counts_as_applied(
    migrated_database: Scratch,
) -> None:
    await migrated_database.execute(
        "UPDATE _sqlx_migrations SET execution_time = -1 WHERE version = 28"
    )
    report = await migrations.apply(_unopened(migrated_database))
    assert report.applied == ()


def _split(node_id: str, end: int) -> str:
    return json.dumps({"node_id": node_id, "footer_offsets": {"start": 0, "end": end}})


async def test_step_9_makes_the_index_id_the_first_uid(fresh_database: Scratch) -> None:
    await _apply_up_to(fresh_database, 8)
    await fresh_database.execute(
        f"""
        INSERT INTO indexes (index_id, index_metadata_json) VALUES ('logs', '{{}}'), ('b', '{{}}');
        INSERT INTO splits (split_id, split_state, tags, split_metadata_json, index_id)
        VALUES ('s1', 'Staged', '{{}}', '{_split("n", 1)}', 'logs');
        INSERT INTO delete_tasks (index_id, delete_query_json) VALUES ('logs', '{{}}');
        """
    )
    await _apply_up_to(fresh_database, 9)
    row = "SELECT string_agg(index_uid || '=' || index_id, ',' ORDER BY index_id) FROM indexes"
    assert await fresh_database.value(row) == "b=b,logs=logs"
    assert await fresh_database.value("SELECT index_uid FROM splits") == "logs"
    assert await fresh_database.value("SELECT index_uid FROM delete_tasks") == "logs"
    await fresh_database.execute("DELETE FROM indexes WHERE index_uid = 'logs'")
    assert await fresh_database.value("SELECT count(*) FROM splits") == 0
    assert await fresh_database.value("SELECT count(*) FROM delete_tasks") == 0


BASE64 = '{"a":{"input_format":"base64","output_format":"base64"},"b":{"output_format":"base64"}}'
HEX = '{"a":{"input_format":"hex","output_format":"hex"},"b":{"output_format":"hex"}}'
SPACED = '{"input_format": "base64"}'


@pytest.mark.parametrize(
    ("index_id", "before", "after"),
    [
        ("otel-logs-v0_6", BASE64, HEX),
        ("otel-traces-v0_6", BASE64, HEX),
        ("otel-logs-v0_6", SPACED, SPACED),
        ("otel-logs-v0_7", BASE64, BASE64),
        ("logs", BASE64, BASE64),
    ],
)
async def test_step_13_turns_the_old_otel_indexes_to_hexadecimal(
    fresh_database: Scratch, index_id: str, before: str, after: str
) -> None:
    await _apply_up_to(fresh_database, 12)
    await fresh_database.execute(
        f"INSERT INTO indexes (index_uid, index_id, index_metadata_json) "
        f"VALUES ('{index_id}:X', '{index_id}', '{before}')"
    )
    await _apply_up_to(fresh_database, 13)
    assert await fresh_database.value("SELECT index_metadata_json FROM indexes") == after


async def test_steps_19_and_25_derive_columns_from_split_metadata(fresh_database: Scratch) -> None:
    await _apply_up_to(fresh_database, 18)
    await fresh_database.execute(
        f"""
        INSERT INTO indexes (index_uid, index_id, index_metadata_json) VALUES ('i:X', 'i', '{{}}');
        INSERT INTO splits (split_id, split_state, tags, split_metadata_json, index_uid) VALUES
            ('s1', 'Staged', '{{}}', '{_split("node-é", 7)}', 'i:X'),
            ('s2', 'Published', '{{}}', '{_split("", 8_589_934_592)}', 'i:X');
        """
    )
    await migrations.apply(_unopened(fresh_database))
    row = "SELECT string_agg(node_id || split_size_bytes, ',' ORDER BY split_id) FROM splits"
    assert await fresh_database.value(row) == "node-é7,8589934592"
    stamp = await fresh_database.value("SELECT max(maturity_timestamp)::text FROM splits")
    assert stamp == "1970-01-01 00:00:00"


async def test_step_19_refuses_splits_without_a_node_and_names_itself(
    fresh_database: Scratch,
) -> None:
    await _apply_up_to(fresh_database, 18)
    await fresh_database.execute(
        """
        INSERT INTO indexes (index_uid, index_id, index_metadata_json) VALUES ('i:X', 'i', '{}');
        INSERT INTO splits (split_id, split_state, tags, split_metadata_json, index_uid)
        VALUES ('s1', 'Staged', '{}', '{}', 'i:X');
        """
    )
    with pytest.raises(errors.Internal, match=r"migration 19 \(add-split-node-id-field\) failed"):
        await migrations.apply(_unopened(fresh_database))
    assert await _versions(fresh_database) == list(range(1, 19))


async def test_steps_12_to_21_keep_shards(fresh_database: Scratch) -> None:
    await _apply_up_to(fresh_database, 12)
    await fresh_database.execute(
        """
        INSERT INTO indexes (index_uid, index_id, index_metadata_json) VALUES ('i:X', 'i', '{}');
        INSERT INTO shards
            (index_uid, source_id, leader_id, shard_state, publish_position_inclusive)
        VALUES ('i:X', 'src', 'ingester', 'closed', '42');
        """
    )
    await migrations.apply(_unopened(fresh_database))
    row = await fresh_database.value("SELECT shards::text FROM shards")
    assert (
        row == '(i:X,src,1,ingester,,closed,42,,00000000000000000000000000,"2024-01-01 00:00:00")'
    )
    await fresh_database.execute("DELETE FROM indexes")
    assert await fresh_database.value("SELECT count(*) FROM shards") == 0


@pytest.mark.parametrize(
    ("version", "changes"),
    [
        (1, []),
        (3, ["index", "publish", "split"]),
        (6, ["publish", "split"]),
        (7, []),
    ],
)
async def test_old_triggers_act_until_they_are_dropped(
    fresh_database: Scratch, version: int, changes: list[str]
) -> None:
    await _apply_up_to(fresh_database, version)
    await fresh_database.execute(
        "INSERT INTO indexes VALUES ('i', '{}', '2020-01-01', '2020-01-01')"
    )
    found = []
    if version > 1:
        await fresh_database.execute(
            """
            INSERT INTO splits (split_id, split_state, tags, split_metadata_json, index_id,
                create_timestamp, update_timestamp)
            VALUES ('s', 'Staged', '{}', '{}', 'i', '2020-01-01', '2020-01-01');
            UPDATE splits SET split_state = 'Published';
            """
        )
        for name, sql in {
            "publish": "SELECT publish_timestamp IS NOT NULL FROM splits",
            "split": "SELECT update_timestamp > '2024-01-01' FROM splits",
        }.items():
            if await fresh_database.value(sql):
                found.append(name)
    if await fresh_database.value("SELECT update_timestamp > '2024-01-01' FROM indexes"):
        found.append("index")
    assert sorted(found) == changes


@pytest.mark.parametrize("table", ["metrics_splits", "sketch_splits"])
@pytest.mark.parametrize(
    ("before", "after", "stamped"),
    [
        ("Staged", "Published", True),
        ("Staged", "MarkedForDeletion", False),
        ("MarkedForDeletion", "Published", False),
    ],
)
async def test_parquet_splits_are_stamped_when_published(
    migrated_database: Scratch, table: str, before: str, after: str, stamped: bool
) -> None:
    await migrated_database.execute(
        f"""
        INSERT INTO indexes (index_uid, index_id, index_metadata_json) VALUES ('i:X', 'i', '{{}}');
        INSERT INTO {table} (split_id, split_state, index_uid, time_range_start, time_range_end,
            metric_names, num_rows, size_bytes, split_metadata_json)
        VALUES ('s', '{before}', 'i:X', 1, 2, '{{}}', 1, 1, '{{}}');
        UPDATE {table} SET split_state = '{after}';
        """
    )
    sql = f"SELECT publish_timestamp IS NOT NULL FROM {table}"
    assert await migrated_database.value(sql) is stamped


async def test_a_database_of_the_diesel_era_is_taken_over_from_its_last_version(
    fresh_database: Scratch,
) -> None:
    await fresh_database.execute(
        "CREATE TABLE __diesel_schema_migrations (version varchar(50) PRIMARY KEY)"
    )
    with pytest.raises(errors.Internal) as caught:
        await migrations.apply(_unopened(fresh_database))
    assert "start Quickwit 0.3.1 on it once" in caught.value.cause
    assert await fresh_database.value("SELECT to_regclass('indexes')") is None
    await fresh_database.execute("INSERT INTO __diesel_schema_migrations VALUES ('20211217102648')")
    report = await migrations.apply(_unopened(fresh_database))
    assert len(report.applied) == 28
    assert await fresh_database.value("SELECT to_regclass('__diesel_schema_migrations')") is None


def test_only_the_deferred_track_builds_concurrently() -> None:
    concurrent = [m.version for m in known_migrations() if m.concurrent_index is not None]
    assert concurrent == [29]
