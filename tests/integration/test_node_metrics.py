"""What a node's metrics tell of its database: migrations, heartbeat, position, waits for it."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from proxy import errors
from proxy.config import NodeConfig, PoolSettings
from proxy.demo.postgres import PostgresPair
from proxy.lifecycle import NodeLifecycle
from proxy.roles import Role
from tests.support.nodes import node_config, running
from tests.support.postgres import Scratch, opened
from tests.support.waiting import until


def value(node: NodeLifecycle, name: str, **labels: str) -> float:
    found = node.metrics.registry.get_sample_value(f"metastore_proxy_{name}", labels)
    return math.nan if found is None else found


def migrations_of(node: NodeLifecycle) -> dict[str, float]:
    states = ("applied", "pending", "failed", "unknown")
    return {
        state: count
        for state in states
        if (count := value(node, "migrations", state=state)) and not math.isnan(count)
    }


def quick(config: NodeConfig) -> NodeConfig:
    return replace(config, proxy=replace(config.proxy, heartbeat_interval=0.1, probe_interval=0.05))


async def test_migrations_are_counted_before_they_run_and_after(fresh_database: Scratch) -> None:
    replica = node_config(Role.READ_REPLICA, fresh_database.standby_uri)
    async with running(replica, wait=False) as waiting:
        await until(lambda: migrations_of(waiting) == {"pending": 29.0})
        async with running(node_config(Role.METASTORE, fresh_database.primary_uri)) as node:
            # The last of them is deferred, and follows by itself.
            await until(lambda: migrations_of(node) == {"applied": 29.0})
            await until(lambda: "applied" in migrations_of(waiting))
            series = "quickwit_metastore_deferred_migrations_apply_total"
            found = node.metrics.registry.get_sample_value(series, {"result": "success"})
            assert found == 1.0


@pytest.mark.parametrize(
    ("change", "counts"),
    [
        (
            "UPDATE _sqlx_migrations SET success = false WHERE version = 28",
            {"applied": 27.0, "failed": 1.0, "pending": 1.0},
        ),
        (
            "UPDATE _sqlx_migrations SET checksum = '\\x00' WHERE version = 9",
            {"applied": 27.0, "failed": 1.0, "pending": 1.0},
        ),
        (
            "UPDATE _sqlx_migrations SET version = 1000 WHERE version = 5",
            {"applied": 27.0, "pending": 2.0, "unknown": 1.0},
        ),
    ],
    ids=["dirty", "other checksum", "unknown"],
)
async def test_migrations_that_failed_or_are_unknown(
    pg: PostgresPair, migrated_database: Scratch, change: str, counts: dict[str, float]
) -> None:
    # All of them are recorded but the deferred one.
    await migrated_database.execute(change)
    await pg.wait_caught_up()
    replica = node_config(Role.READ_REPLICA, migrated_database.standby_uri)
    async with running(replica, wait=False) as node:
        await until(lambda: migrations_of(node) == counts, lambda: migrations_of(node))


async def test_the_heartbeat_ages_when_nobody_stamps_it(
    pg: PostgresPair, migrated_database: Scratch
) -> None:
    primary = quick(node_config(Role.METASTORE, migrated_database.primary_uri))
    other = quick(node_config(Role.METASTORE, migrated_database.primary_uri, node_id="node-2"))
    replica = quick(node_config(Role.READ_REPLICA, migrated_database.standby_uri))
    age = "heartbeat_age_seconds"
    async with running(replica) as node:
        assert math.isnan(value(node, age))
        async with running(primary) as first:
            await until(lambda: value(first, age) < 5.0)
            await until(lambda: value(node, age) < 5.0)
            async with running(other) as second:
                # One node at a time writes it: the second finds the lock taken.
                await until(lambda: second.vector().fresh)
                assert math.isnan(value(second, age))
                assert value(first, age) < 5.0
        before = value(node, age)
        await until(lambda: value(node, age) > before + 0.5)


async def test_a_position_is_a_number_of_bytes(
    pg: PostgresPair, migrated_database: Scratch
) -> None:
    primary = quick(node_config(Role.METASTORE, migrated_database.primary_uri))
    replica = quick(node_config(Role.READ_REPLICA, migrated_database.standby_uri))
    async with running(primary) as first, running(replica) as second:
        written = await migrated_database.value("SELECT pg_current_wal_lsn() - '0/0'::pg_lsn")
        least = float(str(written))
        await until(lambda: value(first, "lsn_bytes") >= least)
        await until(lambda: value(second, "lsn_bytes") >= least)
        query = "SELECT pg_current_wal_insert_lsn() - '0/0'::pg_lsn"
        assert value(second, "lsn_bytes") <= float(str(await migrated_database.value(query)))


async def test_every_wait_for_a_session_is_told(migrated_database: Scratch) -> None:
    settings = PoolSettings(max_connections=1, acquire_timeout=0.2)
    waits: list[float] = []
    async with opened(migrated_database.primary_uri, settings) as database:
        database.on_wait = waits.append
        async with database.acquire():
            with pytest.raises(errors.Db, match="pool timed out"):
                async with database.acquire():
                    pass
    at_once, in_vain = waits
    assert at_once < in_vain
    assert in_vain >= 0.19
