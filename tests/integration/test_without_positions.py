"""Nodes on servers that refuse to tell their position in the WAL, as managed services do."""

from __future__ import annotations

import gc
import weakref
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace

import aiohttp
import asyncpg
import pytest

from proxy import errors
from proxy.client import ClientOptions, Consistency, RoutingClient
from proxy.config import PoolSettings
from proxy.node import Node
from proxy.proto.quickwit import metastore_pb2 as pb
from proxy.roles import Role
from proxy.store import positions
from proxy.store.lag import HEARTBEAT_KEY
from proxy.store.pool import Database
from proxy.store.servers import Wanted
from tests.support.nodes import address, node_config, running
from tests.support.pgbouncer import pgbouncer
from tests.support.postgres import Credentials, Scratch, parsed
from tests.support.replication import Told, telling
from tests.support.waiting import until
from tests.support.wal_refusing import READER, WRITER, Refusal, refuse

EVERYWHERE = replace(WRITER, where="true")
WARNING = "does not tell its position in the WAL"
CREATE = pb.CreateIndexRequest(
    index_config_json='{"version": "0.9", "index_id": "logs", "index_uri": "ram:///logs", '
    '"doc_mapping": {"field_mappings": []}}'
)
READ = pb.IndexMetadataRequest(index_id="logs")
LIST = pb.ListIndexesMetadataRequest(index_id_patterns=["*"])
STAMP = "SELECT value::json ->> $2 FROM kv WHERE key = $1"


@asynccontextmanager
async def serving(
    role: Role, uri: str, node_id: str = "node-1", heartbeat: float | None = 0.2
) -> AsyncIterator[Node]:
    config = node_config(role, uri, node_id=node_id)
    proxy = replace(config.proxy, heartbeat_interval=heartbeat, probe_interval=0.1)
    async with running(replace(config, proxy=proxy)) as node:
        yield node


@pytest.fixture
async def blind(migrated_database: Scratch) -> Scratch:
    """A database whose standby tells no position."""
    await refuse(migrated_database, READER)
    return migrated_database


@pytest.fixture
async def primary(blind: Scratch) -> AsyncIterator[Node]:
    """A `metastore` node that stamps the heartbeat."""
    async with serving(Role.METASTORE, blind.primary_uri, "primary") as node:
        yield node


@asynccontextmanager
async def replica_of(scratch: Scratch) -> AsyncIterator[tuple[Node, Told]]:
    async with (
        serving(Role.READ_REPLICA, scratch.standby_uri, "replica") as node,
        telling(node) as told,
    ):
        yield node, told


async def test_its_node_is_ready_serves_and_says_once_what_is_lost(
    blind: Scratch, caplog: pytest.LogCaptureFixture
) -> None:
    async with replica_of(blind) as (node, told):
        await told.call("ListIndexesMetadata", LIST)
        # More than one look is taken before it is judged how often it warned.
        looks = [0]
        node._supervisor._on_probe = lambda: looks.__setitem__(0, looks[0] + 1)
        await until(lambda: looks[0] >= 3)
        warnings = [record.message for record in caplog.records if WARNING in record.message]
        assert len(warnings) == 1
        assert f"({READER.message})" in warnings[0]
        assert "reads with a token, monotonic ones" in warnings[0]
        url = f"http://127.0.0.1:{node.config.rest_listen_port}/health/readyz?verbose"
        async with aiohttp.ClientSession() as session, session.get(url) as answer:
            assert answer.status == 200
            told_there = (await answer.json())["conditions"]["probe_answers"]
        assert told_there == f"ok, but {warnings[0]}"
        findings = [one.text for one in node.status.look().findings]
        assert any(WARNING in text for text in findings)


async def test_without_a_heartbeat_the_age_is_unknown_and_too_old(blind: Scratch) -> None:
    async with replica_of(blind) as (node, told):
        assert await told.lag() is None
        vector = node.vector()
        assert (vector.ready, vector.stale, vector.fresh) == (True, True, False)
        assert "x-metastore-lag" not in await told.call("ListIndexesMetadata", LIST)
        with pytest.raises(errors.Unavailable, match="is of unknown age"):
            await told.call("ListIndexesMetadata", LIST, max_lag="3600")


async def test_the_heartbeat_tells_the_age(blind: Scratch, primary: Node) -> None:
    async with replica_of(blind) as (node, told):
        await until(lambda: node.vector().fresh)
        assert (
            float((await told.call("ListIndexesMetadata", LIST, max_lag="60"))["x-metastore-lag"])
            < 60
        )
        await blind.pair.pause_replay()
        try:
            before = await told.lag()
            assert before is not None

            async def grown() -> bool:
                lag = await told.lag()
                return lag is not None and lag > before + 1.0

            await until(grown)
        finally:
            await blind.pair.resume_replay()


async def test_a_token_is_refused_at_once(blind: Scratch) -> None:
    async with replica_of(blind) as (_, told):
        with pytest.raises(errors.Unavailable, match="cannot tell its position") as caught:
            await told.call("ListIndexesMetadata", LIST, min_lsn="0/1")
        assert READER.message in str(caught.value)
        assert "x-metastore-lsn" not in await told.call(
            "ListIndexesMetadata", LIST, want_lsn="true"
        )
        answer = await told.replication()
        assert (answer.lsn, answer.in_recovery, answer.database_reachable) == ("", True, True)


async def test_reads_that_need_a_position_go_to_the_primary(blind: Scratch, primary: Node) -> None:
    async with (
        replica_of(blind) as (replica, _),
        RoutingClient(
            [address(primary)],
            [address(replica)],
            allow_writes=True,
            options=ClientOptions(freshness_interval=0.05),
        ) as client,
    ):
        await client.wait_until(lambda now: all(one.is_serving for one in now.backends))
        created = await client.create_index(CREATE)
        assert created.lsn is not None
        for wanted in (
            Consistency.READ_YOUR_WRITES,
            Consistency.MONOTONIC,
            Consistency.PRIMARY,
        ):
            for _ in range(5):
                answer = await client.index_metadata(READ, consistency=wanted)
                assert answer.served_by == "primary", wanted
        answer = await client.index_metadata(READ, min_lsn=created.lsn)
        assert answer.served_by == "primary"
        await blind.pair.wait_caught_up()
        answer = await client.index_metadata(READ, consistency=Consistency.EVENTUAL)
        assert answer.served_by == "replica"


@pytest.mark.parametrize("refusal", [WRITER, EVERYWHERE], ids=["one", "both"])
async def test_a_primary_that_refuses_serves_and_stamps(
    migrated_database: Scratch, refusal: Refusal, caplog: pytest.LogCaptureFixture
) -> None:
    scratch = migrated_database
    await refuse(scratch, refusal)
    async with (
        serving(Role.METASTORE, scratch.primary_uri, "primary") as primary,
        telling(primary) as told,
    ):
        created = await told.call("CreateIndex", CREATE, want_lsn="true")
        assert "x-metastore-lsn" not in created
        # A token from before: what a primary shows is the newest there is.
        await told.call("IndexMetadata", READ, min_lsn="0/1", max_lag="1")
        assert len([one for one in caplog.records if WARNING in one.message]) == 1
        await until(lambda: scratch.value(STAMP, HEARTBEAT_KEY, "node"))
        assert await scratch.value(STAMP, HEARTBEAT_KEY, "lsn") is None
        async with replica_of(scratch) as (replica, _):
            await until(lambda: replica.vector().fresh)


async def test_without_tokens_a_client_reads_its_writes_from_the_primary(
    migrated_database: Scratch,
) -> None:
    scratch = migrated_database
    await refuse(scratch, WRITER)
    async with (
        serving(Role.METASTORE, scratch.primary_uri, "primary") as primary,
        replica_of(scratch) as (replica, _),
        RoutingClient([address(primary)], [address(replica)], allow_writes=True) as client,
    ):
        await client.wait_until(lambda now: all(one.is_serving for one in now.backends))
        assert (await client.create_index(CREATE)).lsn is None
        for wanted in (Consistency.READ_YOUR_WRITES, Consistency.MONOTONIC):
            answer = await client.index_metadata(READ, consistency=wanted)
            assert answer.served_by == "primary"
        answer = await client.list_indexes_metadata(LIST, consistency=Consistency.bounded(60))
        assert answer.served_by == "primary"


async def test_a_position_that_is_told_later_is_taken_up(
    blind: Scratch, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(positions, "ASK_AGAIN", 0.2)
    async with replica_of(blind) as (node, told):
        assert node.readiness.warnings
        await blind.execute(
            "DROP FUNCTION pg_catalog.pg_last_wal_replay_lsn();"
            "ALTER FUNCTION pg_catalog.own_pg_last_wal_replay_lsn()"
            " RENAME TO pg_last_wal_replay_lsn"
        )
        await until(lambda: not node.readiness.warnings)
        assert (await told.replication()).lsn


async def test_it_serves_through_a_pooler_as_well(migrated_database: Scratch) -> None:
    blind = migrated_database
    await refuse(blind, EVERYWHERE)
    targets = {"on_primary": blind.primary_uri, "on_standby": blind.standby_uri}
    async with (
        pgbouncer(targets, pool_size=2) as bouncer,
        serving(Role.METASTORE, bouncer.uri("on_primary"), "primary") as primary,
        serving(Role.READ_REPLICA, bouncer.uri("on_standby"), "replica") as replica,
        telling(replica) as told,
    ):
        await until(lambda: replica.vector().fresh)
        await told.call("ListIndexesMetadata", LIST, max_lag="60")
        assert primary.readiness.warnings.keys() == {"probe_answers"}
        assert replica.readiness.warnings.keys() == {"probe_answers"}


async def test_a_server_that_tells_neither_position_nor_cluster_is_served_from(
    blind: Scratch, readonly_user: Credentials, caplog: pytest.LogCaptureFixture
) -> None:
    await blind.execute("REVOKE EXECUTE ON FUNCTION pg_control_system() FROM PUBLIC")
    await blind.pair.wait_caught_up()
    uri = blind.uris_as(readonly_user)[1]
    async with serving(Role.READ_REPLICA, uri) as node, telling(node) as told:
        answer = await told.replication()
        assert (answer.lsn, answer.cluster_identity, answer.in_recovery) == ("", "", True)
        await until(lambda: "does not tell this node whose copy it is" in caplog.text)
        # The refusal of the position is told, not that of the control file.
        assert READER.message in node.readiness.warnings["probe_answers"]


async def test_new_sessions_on_a_primary_that_stops_to_tell_its_timeline(
    migrated_database: Scratch,
) -> None:
    """It has a single address: there is no other server that it could have been left behind for."""
    uri = parsed(migrated_database.primary_uri)
    settings = PoolSettings(min_connections=0, max_connections=1)
    database = Database(uri, settings, read_only=False, wanted=Wanted.PRIMARY)
    await database.open()
    try:
        assert database.server is not None
        timeline = database.server.timeline
        assert timeline > 0
        await refuse(migrated_database, WRITER)
        async with database.acquire() as session:
            before = await session.fetchval("SELECT pg_backend_pid()")
        await migrated_database.value("SELECT pg_terminate_backend($1)", before)
        await until(lambda: database.stats().open == 0)
        async with database.acquire() as session:
            assert await session.fetchval("SELECT pg_backend_pid()") != before
        assert database.server.timeline == timeline
    finally:
        await database.close()


async def test_what_is_remembered_of_a_connection_goes_with_it(blind: Scratch) -> None:
    connection = await asyncpg.connect(blind.standby_uri)
    told = await positions.read_position(connection)
    assert told.refused is not None
    await connection.close()
    gone = weakref.ref(connection)
    del connection
    gc.collect()
    assert gone() is None
