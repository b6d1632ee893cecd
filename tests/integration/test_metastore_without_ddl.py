"""A `metastore` node as `quickwit_rw`, which may not change the schema, where migrations lack."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from proxy import errors
from proxy.config import NodeConfig
from proxy.demo.postgres import PostgresPair
from proxy.node import Node
from proxy.roles import Role
from proxy.store import migrations
from tests.support.granted import OWNER, READ_WRITE, Granted, granted_database
from tests.support.nodes import node_config, running
from tests.support.postgres import opened
from tests.support.waiting import until

BY_OWNER = "run `metastore-proxy migrate` as the user who owns the tables"
WAITING = "nodes of other users wait for that with `QW_POSTGRES_SKIP_MIGRATIONS=true`"


@pytest.fixture
async def incomplete(pg: PostgresPair) -> AsyncIterator[Granted]:
    """A database made by `roles.sql` whose last two required migrations lack."""
    async with granted_database(pg, lacking=2) as made:
        yield made


def config_of(granted: Granted, *, skip: bool) -> NodeConfig:
    uri = granted.primary_uri(READ_WRITE)
    return node_config(Role.METASTORE, uri, QW_POSTGRES_SKIP_MIGRATIONS=str(skip).lower())


async def end_of(config: NodeConfig) -> str:
    """Run a node until it ends itself; return why."""
    with pytest.raises(errors.Internal) as caught:
        await Node(config).run()
    return caught.value.cause


async def test_a_node_that_migrates_ends_and_says_who_may(incomplete: Granted) -> None:
    cause = await end_of(config_of(incomplete, skip=False))
    assert cause == (
        "migration 27 (add-compaction-metadata): must be owner of table metrics_splits: "
        f"{BY_OWNER}; {WAITING}"
    )


async def test_in_an_empty_database_it_is_told_the_grant_as_well(incomplete: Granted) -> None:
    await incomplete.scratch.execute(
        "DROP SCHEMA public CASCADE; CREATE SCHEMA public;"
        f"GRANT USAGE ON SCHEMA public TO {READ_WRITE}"
    )
    cause = await end_of(config_of(incomplete, skip=False))
    assert cause == (
        "permission denied for schema public: run `GRANT USAGE, CREATE ON SCHEMA public TO "
        f"{READ_WRITE}` as its owner, or {BY_OWNER}; {WAITING}"
    )


async def test_a_node_that_does_not_migrate_waits_and_says_what_is_missing(
    incomplete: Granted,
) -> None:
    missing = "missing required migration 27 (add-compaction-metadata), and 1 more (28): run"
    async with running(config_of(incomplete, skip=True), wait=False) as node:
        await until_said(node, missing)
        assert not node.readiness.is_ready
        async with opened(incomplete.primary_uri(OWNER)) as owner:
            await migrations.apply(owner)
        await until(lambda: node.readiness.is_ready, lambda: node.readiness.failures)


async def test_it_waits_for_a_schema_that_was_never_made(incomplete: Granted) -> None:
    await incomplete.scratch.execute("DROP TABLE _sqlx_migrations")
    async with running(config_of(incomplete, skip=True), wait=False) as node:
        await until_said(node, "`_sqlx_migrations` does not exist, the schema was never created")
        assert not node.readiness.is_ready


async def until_said(node: Node, text: str) -> None:
    await until(
        lambda: text in node.readiness.failures.get("schema_complete", ""),
        lambda: node.readiness.failures,
    )
