"""Promotion of a standby under a write load: nodes whose URI names both servers follow it."""

from __future__ import annotations

import asyncio
import itertools
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field

import grpc
import pytest

from proxy import errors
from proxy.config import PoolSettings, PostgresUri, parse_postgres_uri
from proxy.demo import dataset
from proxy.demo.postgres import PostgresPair
from proxy.demo.postgres_server import PostgresServer
from proxy.node import Node
from proxy.proto.metastore_proxy.v1 import proxy_pb2
from proxy.proto.quickwit import metastore_pb2 as pb
from proxy.roles import Role
from proxy.store import migrations, sqlstate
from proxy.store.pool import Database
from proxy.store.servers import Wanted
from tests.support.nodes import address, node_config, running
from tests.support.pairs import QuickPair
from tests.support.remote_access import GrpcWay
from tests.support.waiting import until

RESUME_BOUND = 5.0
TIMELINE = "SELECT ('x' || left(pg_walfile_name(pg_current_wal_lsn()), 8))::bit(32)::int"


def uri_of(pair: PostgresPair, *servers: PostgresServer, database: str = "postgres") -> str:
    """Return a URI that names several servers."""
    hosts = ",".join(f"127.0.0.1:{server.port}" for server in servers)
    return f"postgresql://postgres:{pair.password}@{hosts}/{database}"


@pytest.fixture
async def pair() -> AsyncIterator[PostgresPair]:
    """A pair of the test's own with synchronous replication."""
    async with QuickPair() as own:
        await own.primary.execute("ALTER SYSTEM SET synchronous_standby_names = 'standby1'")
        await own.primary.execute("SELECT pg_reload_conf()")
        state = "SELECT count(*) FROM pg_stat_replication WHERE sync_state = 'sync'"
        await until(lambda: own.primary.value(state))
        yield own


@dataclass
class Load:
    """Writers that never stop: what was acknowledged, by whom and when."""

    acknowledged: dict[str, float] = field(default_factory=dict)
    by_node: dict[int, list[float]] = field(default_factory=dict)
    failures: list[errors.MetastoreError] = field(default_factory=list)
    numbers: itertools.count[int] = field(default_factory=itertools.count)

    async def write(self, place: int, way: GrpcWay, uid: pb.DeleteQuery) -> None:
        while True:
            mark = f"write-{next(self.numbers)}"
            query = pb.DeleteQuery(index_uid=uid.index_uid, query_ast=json.dumps({"mark": mark}))
            try:
                await way.call("CreateDeleteTask", query)
            except errors.MetastoreError as error:
                self.failures.append(error)
                await asyncio.sleep(0.02)
            else:
                now = time.monotonic()
                self.acknowledged[mark] = now
                self.by_node.setdefault(place, []).append(now)

    def last(self, place: int) -> float:
        return self.by_node.get(place, [0.0])[-1]


@asynccontextmanager
async def writing(nodes: list[Node], *, writers: int = 4) -> AsyncIterator[Load]:
    load = Load()
    async with AsyncExitStack() as stack:
        ways = []
        for node in nodes:
            channel = await stack.enter_async_context(grpc.aio.insecure_channel(address(node)))
            ways.append(GrpcWay(channel))
        created = await ways[0].call(
            "CreateIndex", pb.CreateIndexRequest(index_config_json=json.dumps(dataset_config()))
        )
        uid = pb.DeleteQuery(index_uid=created.index_uid)
        tasks = [
            asyncio.create_task(load.write(place, way, uid))
            for place, way in enumerate(ways)
            for _ in range(writers)
        ]
        try:
            yield load
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


def dataset_config() -> object:
    config: dict[str, object] = json.loads(dataset.index_config())
    return config | {"index_id": "hdfs-logs"}


async def kill(pair: PostgresPair) -> None:
    await pair.primary.kill()


async def freeze(pair: PostgresPair) -> None:
    pair.primary.pause()


async def leave_running(pair: PostgresPair) -> None:
    """Cut the primary off from its standby alone: it lives on and acknowledges nothing more."""


@pytest.mark.parametrize("lose", [kill, freeze, leave_running])
async def test_writes_resume_on_the_promoted_standby_and_none_is_lost(
    pair: PostgresPair, lose: Callable[[PostgresPair], Awaitable[None]]
) -> None:
    uri = uri_of(pair, pair.primary, pair.standby)
    configs = [node_config(Role.METASTORE, uri, node_id=name) for name in ("one", "two")]
    async with running(configs[0]) as one, running(configs[1]) as two, writing([one, two]) as load:
        await until(lambda: len(load.acknowledged) > 300, lambda: load.failures[-3:])
        await lose(pair)
        await pair.promote()
        promoted = time.monotonic()

        def reasons() -> object:
            return load.failures[-3:], one.readiness.failures, two.readiness.failures

        await until(lambda: min(load.last(0), load.last(1)) > promoted + 0.05, reasons)
        resumed = [
            min(at for at in load.by_node[place] if at > promoted) - promoted for place in (0, 1)
        ]
        assert max(resumed) < RESUME_BOUND
        await until(lambda: one.readiness.is_ready and two.readiness.is_ready)
        before = len(load.acknowledged)
        await until(lambda: len(load.acknowledged) > before + 100)
    new = pair.standby
    found = await new.value(
        "SELECT array_agg(delete_query_json::json ->> 'query_ast') FROM delete_tasks"
    )
    marks = {json.loads(text)["mark"] for text in found}
    assert set(load.acknowledged) <= marks
    assert await new.value(TIMELINE) == 2
    assert "read-only transaction" not in new.log_tail(100_000)


async def test_a_primary_that_was_left_behind_is_not_taken_back(pair: PostgresPair) -> None:
    uri = uri_of(pair, pair.primary, pair.standby)
    async with running(node_config(Role.METASTORE, uri)) as node:
        await pair.primary.kill()
        await pair.promote()
        await until(lambda: node.database.generation == 1)
        await until(lambda: node.readiness.is_ready)
        # The old primary comes back as one, and the new one goes away for a while.
        await pair.primary.start()
        await pair.standby.stop()
        reasons: list[str] = []

        async def refused() -> bool:
            try:
                await node.database.follow()
            except errors.Connection as error:
                reasons.append(str(error))
            return any("left behind" in reason for reason in reasons)

        await until(refused, lambda: reasons)
        assert node.database.generation == 1
        await pair.standby.start()
        await until(lambda: node.readiness.is_ready)
        async with node.database.acquire() as session:
            assert await session.fetchval(TIMELINE) == 2


async def test_a_node_reports_the_timeline_and_position_after_a_promotion(
    pair: PostgresPair,
) -> None:
    uri = uri_of(pair, pair.primary, pair.standby)
    async with (
        running(node_config(Role.METASTORE, uri)) as node,
        grpc.aio.insecure_channel(address(node)) as channel,
    ):
        before = await replication(channel)
        assert (before.in_recovery, before.timeline) == (False, 1)
        await pair.promote()

        async def moved() -> bool:
            return (await replication(channel)).timeline == 2

        await until(moved)
        after = await replication(channel)
        assert after.cluster_identity == before.cluster_identity != ""


async def replication(channel: grpc.aio.Channel) -> proxy_pb2.GetReplicationResponse:
    answer = await channel.unary_unary(
        "/metastore.proxy.v1.ProxyService/GetReplication",
        proxy_pb2.GetReplicationRequest.SerializeToString,
        proxy_pb2.GetReplicationResponse.FromString,
    )(proxy_pb2.GetReplicationRequest(), timeout=5)
    assert isinstance(answer, proxy_pb2.GetReplicationResponse)
    return answer


SMALL = PoolSettings(max_connections=2, acquire_timeout=2.0)


def parsed(pair: PostgresPair, *servers: PostgresServer, attrs: str = "") -> PostgresUri:
    text = uri_of(pair, *servers)
    return parse_postgres_uri(f"{text}?target_session_attrs={attrs}" if attrs else text)


@asynccontextmanager
async def opened(uri: PostgresUri, wanted: Wanted) -> AsyncIterator[Database]:
    database = Database(uri, SMALL, read_only=wanted is not Wanted.PRIMARY, wanted=wanted)
    try:
        await database.open()
        yield database
    finally:
        await database.close()


async def test_a_pool_finds_the_primary_wherever_it_stands(pair: PostgresPair) -> None:
    for servers in ((pair.primary, pair.standby), (pair.standby, pair.primary)):
        async with (
            opened(parsed(pair, *servers), Wanted.PRIMARY) as database,
            database.acquire() as session,
        ):
            assert await session.fetchval("SELECT pg_is_in_recovery()") is False


async def test_migrations_run_on_the_primary_wherever_it_stands(pair: PostgresPair) -> None:
    uri = parsed(pair, pair.standby, pair.primary)
    # Before the pool is open, and with it.
    closed = Database(uri, SMALL, read_only=False, wanted=Wanted.PRIMARY)
    assert (await migrations.apply(closed)).applied
    async with opened(uri, Wanted.PRIMARY) as database:
        assert not (await migrations.apply(database)).applied


async def test_a_replica_prefers_a_standby_and_takes_the_primary_when_there_is_none(
    pair: PostgresPair,
) -> None:
    uri = parsed(pair, pair.primary, pair.standby)
    async with opened(uri, Wanted.PREFER_STANDBY) as database:
        async with database.acquire() as session:
            assert await session.fetchval("SELECT pg_is_in_recovery()") is True
        await pair.standby.stop()
        assert await database.follow()
        async with database.acquire() as session:
            assert await session.fetchval("SELECT pg_is_in_recovery()") is False
        await pair.standby.start()
        assert await database.follow()
        async with database.acquire() as session:
            assert await session.fetchval("SELECT pg_is_in_recovery()") is True


async def test_no_session_on_a_standby_is_lent_where_a_primary_is_wanted(
    pair: PostgresPair,
) -> None:
    with pytest.raises(errors.Connection, match="standby in recovery"):
        async with opened(parsed(pair, pair.standby), Wanted.PRIMARY):
            pass


async def test_hosts_of_two_clusters_are_refused(pair: PostgresPair) -> None:
    async with PostgresPair() as other:
        # Both passwords are needed to get that far, so the other takes this one's.
        await other.primary.execute(f"ALTER ROLE postgres PASSWORD '{pair.password}'")
        uri = parsed(pair, pair.primary, other.primary)
        with pytest.raises(errors.Connection, match="different clusters"):
            async with opened(uri, Wanted.PRIMARY):
                pass
        async with opened(parsed(pair, pair.primary, pair.standby), Wanted.PRIMARY) as database:
            # What was one cluster's stays there.
            assert database.server is not None
            assert not await database.follow()


async def test_who_waits_for_a_session_gets_one_on_the_new_primary(pair: PostgresPair) -> None:
    async def timeline(database: Database) -> object:
        async with database.acquire() as session:
            return await session.fetchval(TIMELINE)

    uri = parsed(pair, pair.primary, pair.standby)
    async with opened(uri, Wanted.PRIMARY) as database, AsyncExitStack() as stack:
        for _ in range(SMALL.max_connections):
            await stack.enter_async_context(database.acquire())
        waiting = asyncio.create_task(timeline(database))
        await until(lambda: database.stats().waiting == 1)
        await pair.promote()
        assert await database.follow()
        assert await waiting == 2


async def test_a_statement_on_the_server_that_is_left_fails_at_once(pair: PostgresPair) -> None:
    async def sleep(database: Database) -> None:
        with sqlstate.raw():
            async with database.acquire() as session:
                await session.execute("SELECT pg_sleep(60)")

    uri = parsed(pair, pair.primary, pair.standby)
    async with opened(uri, Wanted.PRIMARY) as database:
        sleeping = asyncio.create_task(sleep(database))
        active = "SELECT count(*) FROM pg_stat_activity WHERE query LIKE '%pg_sleep(60)%'"
        await until(lambda: pair.primary.value(active))
        await pair.promote()
        assert await database.follow()
        with pytest.raises(errors.Db):
            await asyncio.wait_for(sleeping, 2)
