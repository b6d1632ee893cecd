"""Nodes behind a real PgBouncer in transaction mode that has two servers for all of them."""

from __future__ import annotations

import asyncio
import signal
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import cast

import asyncpg
import grpc
import pytest

from proxy import errors
from proxy.config import PoolSettings
from proxy.demo.postgres import PostgresPair
from proxy.identifiers import index_uid_text
from proxy.node import Node
from proxy.roles import Role
from proxy.routing.catalogue import RPCS, Access
from proxy.store import migrations
from proxy.store.heartbeat import Heart
from proxy.store.lag import Writer
from proxy.store.metastore import STREAMING, UNARY
from proxy.store.pool import Database
from proxy.store.split_lists import BATCH_ROWS
from tests.support.access import Metastore
from tests.support.complete_requests import REQUESTS, make_world
from tests.support.making import make_index
from tests.support.nodes import address, node_config, running
from tests.support.pgbouncer import PgBouncer, pgbouncer
from tests.support.postgres import Scratch, empty_tables, parsed, scratch_database
from tests.support.remote_access import GrpcWay
from tests.support.splitting import found, mark, published
from tests.support.waiting import until

SERVERS = 2
CALLERS = 20
SIZE = 20 * 1024 * 1024
# Beside those that make the data of a test.
WRITES = (
    "AcquireShards",
    "DeleteIndex",
    "DeleteSplits",
    "MarkSplitsForDeletion",
    "PublishMetricsSplits",
    "PublishSplits",
    "ResetSourceCheckpoint",
    "UpdateIndex",
)
LEFT = {
    "prepared": "SELECT count(*) FROM pg_prepared_statements WHERE name <> ''",
    "locks": "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid()",
    "read_only": "SHOW default_transaction_read_only",
    "digits": "SHOW extra_float_digits",
    "commit": "SHOW synchronous_commit",
    "timeout": "SHOW idle_session_timeout",
}


@dataclass
class Rig:
    """A pooler, and the database behind it under two names: on the primary and on the standby."""

    bouncer: PgBouncer
    scratch: Scratch

    @property
    def primary(self) -> str:
        return self.bouncer.uri("on_primary")

    @property
    def standby(self) -> str:
        return self.bouncer.uri("on_standby")

    async def servers_in_use(self) -> dict[str, int]:
        """Return how many sessions the pooler has on each server."""
        found = {}
        for server in (self.scratch.pair.primary, self.scratch.pair.standby):
            sql = f"SELECT count(*) FROM pg_stat_activity WHERE {self._others}"
            found[server.name] = await server.value(sql, database=self.scratch.name)
        return found

    async def runs(self, text: str) -> bool:
        """Whether a statement runs on the primary."""
        sql = f"SELECT count(*) FROM pg_stat_activity WHERE {self._others} AND query ~ $1"
        sql += " AND state = 'active'"
        count = await self.scratch.value(sql, text)
        return bool(count)

    @property
    def _others(self) -> str:
        return f"datname = '{self.scratch.name}' AND pid <> pg_backend_pid()"


@pytest.fixture(scope="module")
async def rig(pg: PostgresPair) -> AsyncIterator[Rig]:
    async with scratch_database(pg) as scratch:
        targets = {"on_primary": scratch.primary_uri, "on_standby": scratch.standby_uri}
        async with pgbouncer(targets, pool_size=SERVERS) as bouncer:
            yield Rig(bouncer, scratch)


def pool_on(uri: str, *, read_only: bool = False, most: int = CALLERS) -> Database:
    return Database(parsed(uri), PoolSettings(max_connections=most), read_only=read_only)


@pytest.fixture(scope="module")
async def nodes(rig: Rig) -> AsyncIterator[tuple[Node, Node]]:
    """A metastore node, which has migrated the database, and a replica's node."""
    primary = node_config(Role.METASTORE, rig.primary, node_id="primary")
    replica = node_config(Role.READ_REPLICA, rig.standby, node_id="replica")
    async with running(primary) as primary_node, running(replica) as replica_node:
        yield primary_node, replica_node


@pytest.fixture
async def clean(rig: Rig, nodes: tuple[Node, Node]) -> None:
    connection = await rig.scratch.pair.primary.connect(rig.scratch.name)
    try:
        await empty_tables(connection)
    finally:
        await connection.close()


@asynccontextmanager
async def calling(node: Node) -> AsyncIterator[Metastore]:
    async with grpc.aio.insecure_channel(address(node)) as channel:
        yield Metastore(GrpcWay(channel), cast("asyncpg.Connection", None))


async def run(rpc: str, database: Database, request: object) -> list[object]:
    if rpc in UNARY:
        return [await UNARY[rpc](database, request)]
    stream = STREAMING[rpc](database, request, max_message_size=SIZE)
    return [message async for message in stream]


async def test_both_migration_tracks_are_complete(rig: Rig, nodes: tuple[Node, Node]) -> None:
    async def unfinished() -> Counter[migrations.State]:
        async with nodes[0].database.acquire() as session:
            found = Counter(each.state for each in await migrations.status(session))
        found.pop(migrations.State.APPLIED)
        return found

    async def is_done() -> bool:
        return not await unfinished()

    await until(is_done, unfinished)


async def test_every_read_is_served_and_every_write_refused_on_a_read_only_session(
    rig: Rig, clean: None, nodes: tuple[Node, Node]
) -> None:
    """On the primary, where nothing but the transaction itself would refuse a write."""
    world = await make_world(nodes[0].database)
    read_only = pool_on(rig.primary, read_only=True)
    await read_only.open()
    try:
        for rpc, facts in RPCS.items():
            if facts.access is not Access.WRITE:
                assert await run(rpc, read_only, REQUESTS[rpc](world)), rpc
                continue
            with pytest.raises(errors.Forbidden) as caught:
                await run(rpc, read_only, REQUESTS[rpc](world))
            assert isinstance(caught.value.__cause__, asyncpg.PostgresError)
            assert caught.value.__cause__.sqlstate == "25006"
    finally:
        await read_only.close()


@pytest.mark.parametrize("rpc", WRITES)
async def test_writes_are_served(clean: None, nodes: tuple[Node, Node], rpc: str) -> None:
    world = await make_world(nodes[0].database)
    assert await run(rpc, nodes[0].database, REQUESTS[rpc](world))


async def test_many_callers_share_two_servers(
    rig: Rig, clean: None, nodes: tuple[Node, Node]
) -> None:
    async def work(number: int) -> None:
        async with AsyncExitStack() as stack:
            write, read = [await stack.enter_async_context(calling(node)) for node in nodes]
            uid = await make_index(write, f"logs-{number}")
            # One list is of more than one batch.
            size = 50 if number else BATCH_ROWS + 50
            ids = {f"{number}-{split}" for split in range(size)}
            await published(write, uid, *ids)
            wanted = {"index_uids": [index_uid_text(uid)]}
            assert await found(write, **wanted) == ids
            await rig.scratch.pair.wait_caught_up()
            assert await found(read, **wanted) == ids
            with pytest.raises(errors.Forbidden):
                await mark(read, uid, *ids)

    await asyncio.gather(*(work(number) for number in range(CALLERS)))
    assert await rig.servers_in_use() == {"primary": SERVERS, "standby1": SERVERS}
    assert [node.readiness.failures for node in nodes] == [{}, {}]


@pytest.mark.parametrize("name", ["on_primary", "on_standby"])
async def test_nothing_of_a_session_is_left_on_a_server(
    rig: Rig, clean: None, nodes: tuple[Node, Node], name: str
) -> None:
    """Other programs behind the same pooler get these servers after us."""
    world = await make_world(nodes[0].database)
    await run("ListSplits", nodes[0].database, REQUESTS["ListSplits"](world))
    async with AsyncExitStack() as stack:
        for _ in range(SERVERS):
            # Each in a transaction, so that together they have all servers there are.
            other = await asyncpg.connect(rig.bouncer.uri(name, setting=""), statement_cache_size=0)
            stack.push_async_callback(other.close)
            await stack.enter_async_context(other.transaction())
            left = {key: await other.fetchval(ask) for key, ask in LEFT.items()}
            assert left == {
                "prepared": 0,
                "locks": 0,
                "read_only": "off",
                "digits": "1",
                "commit": "on",
                "timeout": "0",
            }


async def test_a_cancelled_call_leaves_a_pooler_that_serves(
    rig: Rig, nodes: tuple[Node, Node]
) -> None:
    """Whoever is cancelled, its statement ends, and that of nobody else."""
    database = nodes[0].database

    async def sleep(seconds: float) -> None:
        async with database.transaction() as session:
            await session.execute("SELECT pg_sleep($1::float8)", seconds)

    for _ in range(3):
        kept = [asyncio.create_task(sleep(0.05)) for _ in range(CALLERS)]
        ended = [asyncio.create_task(sleep(60.0)) for _ in range(SERVERS)]
        await until(lambda: rig.runs("pg_sleep"))
        for task in ended:
            task.cancel()
        await asyncio.gather(*kept)
        await asyncio.gather(*ended, return_exceptions=True)
        assert all(task.cancelled() for task in ended)


async def test_a_pooler_that_hangs_holds_no_cancelled_call(
    rig: Rig, nodes: tuple[Node, Node]
) -> None:
    database = nodes[0].database

    async def read() -> object:
        async with database.acquire() as session:
            return await session.fetchval("SELECT 1")

    assert await read() == 1
    rig.bouncer.process.send_signal(signal.SIGSTOP)
    try:
        call = asyncio.create_task(read())
        _, unfinished = await asyncio.wait({call}, timeout=0.2)
        assert unfinished
        call.cancel()
        async with asyncio.timeout(15):
            await asyncio.wait({call})
        assert call.cancelled()
    finally:
        rig.bouncer.process.send_signal(signal.SIGCONT)
    assert await read() == 1


async def test_one_node_stamps_and_another_takes_over(migrated_database: Scratch) -> None:
    async with pgbouncer({"db": migrated_database.primary_uri}, pool_size=SERVERS) as bouncer:
        databases = [pool_on(bouncer.uri("db"), most=1) for _ in range(2)]
        first, second = (
            Heart(database, Writer(name, "cluster", 1), interval=0.1)
            for database, name in zip(databases, ("first", "second"), strict=True)
        )
        try:
            for database in databases:
                await database.open()
            assert await first.beat()
            assert not await second.beat()
            assert second.seen is not None
            assert second.seen.writer == Writer("first", "cluster", 1)
            # The first falls silent, for a second at least.
            await until(second.beat)
            assert not await first.beat()
        finally:
            for heart in (first, second):
                heart.close()
            for database in databases:
                await database.close()


async def test_a_replica_knows_the_age_of_its_data(nodes: tuple[Node, Node]) -> None:
    async def lag() -> object:
        return nodes[1].vector().fresh

    await until(lag)


async def test_migrations_wait_for_one_another(pg: PostgresPair) -> None:
    async with scratch_database(pg) as scratch:
        async with pgbouncer({"db": scratch.primary_uri}, pool_size=SERVERS) as bouncer:
            pooled = [Database(parsed(bouncer.uri("db")), PoolSettings(), read_only=False)] * 2
            direct = Database(parsed(scratch.primary_uri), PoolSettings(), read_only=False)
            reports = await asyncio.gather(*(migrations.apply(one) for one in (*pooled, direct)))
            outcomes = await asyncio.gather(
                *(migrations.apply_deferred(one) for one in (*pooled, direct))
            )
        assert sorted(len(report.applied) for report in reports)[:2] == [0, 0]
        assert max(len(report.applied) for report in reports) > 20
        assert Counter(each.outcome.value for each in outcomes)["failed"] == 0
        assert "applied" in {each.outcome.value for each in outcomes}


async def test_a_pooler_that_the_uri_does_not_name_is_said(rig: Rig) -> None:
    database = Database(
        parsed(rig.bouncer.uri("on_primary", setting="")), PoolSettings(), read_only=True
    )
    with pytest.raises(errors.Connection, match="add `pgbouncer=true` to the query of the URI"):
        await database.open()
