"""Reads of single indexes that share statements, on a real server: each is a read of its own."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator

import asyncpg
import grpc
import pytest

from proxy import errors
from proxy.demo import dataset
from proxy.proto.quickwit import common_pb2
from proxy.proto.quickwit import metastore_pb2 as pb
from proxy.roles import Role
from proxy.store import gathering, indexes
from proxy.store.measured import MeasuredConnection
from proxy.store.pool import Database
from tests.support.nodes import address, node_config, running
from tests.support.postgres import Scratch
from tests.support.waiting import until

Uids = list[common_pb2.IndexUid]

PATH = "/quickwit.metastore.MetastoreService/IndexMetadata"
COUNT = 40


@pytest.fixture
async def uids(shared_database: Database, clean: Scratch) -> Uids:
    """The UIDs of indexes `logs-0` to `logs-39`."""
    made = []
    for number in range(COUNT):
        config = json.loads(dataset.index_config()) | {"index_id": f"logs-{number}"}
        answer = await indexes.create_index(
            shared_database, pb.CreateIndexRequest(index_config_json=json.dumps(config))
        )
        made.append(answer.index_uid)
    return made


@pytest.fixture
async def lock(clean: Scratch) -> AsyncIterator[asyncpg.Connection]:
    """A session of its own, to lock the table with."""
    connection = await asyncpg.connect(clean.primary_uri)
    yield connection
    await connection.close()


@pytest.fixture
def statements(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many keys each statement of reads by key asked for."""
    asked: list[int] = []
    fetch, fetchrow = MeasuredConnection.fetch, MeasuredConnection.fetchrow

    async def counted(self: MeasuredConnection, sql: str, *args: list[str]) -> list[object]:
        asked.append(sum(map(len, args)))
        return await fetch(self, sql, *args)

    async def counted_row(self: MeasuredConnection, sql: str, *args: str) -> object:
        # A new session is asked, without any, what server it is on.
        if args:
            asked.append(1)
        return await fetchrow(self, sql, *args)

    monkeypatch.setattr(MeasuredConnection, "fetch", counted)
    monkeypatch.setattr(MeasuredConnection, "fetchrow", counted_row)
    monkeypatch.setattr(gathering, "AT_ONCE", 1)
    monkeypatch.setattr(gathering, "BOUND", 600.0)
    return asked


async def read(database: Database, index_id: str) -> str:
    request = pb.IndexMetadataRequest(index_id=index_id)
    answer = await indexes.index_metadata(database, request)
    return answer.index_metadata_serialized_json


def reading(database: Database, *index_ids: str) -> list[asyncio.Task[str]]:
    return [asyncio.create_task(read(database, index_id)) for index_id in index_ids]


async def test_reads_at_once_are_two_statements_and_each_gets_its_own_index(
    shared_database: Database, uids: Uids, statements: list[int]
) -> None:
    by_id = reading(shared_database, *(f"logs-{number}" for number in range(COUNT)), "logs-9")
    by_uid = [
        asyncio.create_task(
            indexes.index_metadata(shared_database, pb.IndexMetadataRequest(index_uid=uid))
        )
        for uid in uids
    ]
    # An ID that looks like a UID names no index.
    (missing,) = reading(shared_database, f"logs-1:{'0' * 26}")
    for number in range(COUNT):
        assert f'"index_id":"logs-{number}"' in await by_id[number]
        answer = await by_uid[number]
        assert f'"index_id":"logs-{number}"' in answer.index_metadata_serialized_json
    assert await by_id[COUNT] == await by_id[9]
    with pytest.raises(errors.NotFound, match="logs-1"):
        await missing
    # All but the first wait. 64 reads go together at most, two of which are of one index.
    assert statements == [1, 63, 17]


async def test_a_read_sees_a_write_that_was_acknowledged_before(
    shared_database: Database, uids: Uids, clean: Scratch
) -> None:
    """Other reads are under way all the time, so that most of these share a statement."""
    stop = asyncio.Event()

    async def load(number: int) -> None:
        while not stop.is_set():
            await read(shared_database, f"logs-{number % 4}")

    others = [asyncio.create_task(load(number)) for number in range(8)]
    connection = await asyncpg.connect(clean.primary_uri)
    try:
        for moment in range(1, 200):
            await connection.execute(
                "UPDATE indexes SET create_timestamp = to_timestamp($1) AT TIME ZONE 'UTC' "
                "WHERE index_id = 'logs-0'",
                float(moment),
            )
            assert f'"create_timestamp":{moment},' in await read(shared_database, "logs-0")
    finally:
        stop.set()
        await asyncio.gather(*others)
        await connection.close()


async def test_a_row_that_cannot_be_read_fails_only_its_own_read(
    shared_database: Database,
    uids: Uids,
    clean: Scratch,
    statements: list[int],
) -> None:
    await clean.execute(
        "UPDATE indexes SET create_timestamp = 'infinity' WHERE index_id = 'logs-1'"
    )
    first, broken, sound = reading(shared_database, "logs-0", "logs-1", "logs-2")
    assert '"logs-0"' in await first
    with pytest.raises(errors.Db, match="cannot convert infinity"):
        await broken
    assert '"logs-2"' in await sound
    assert statements == [1, 2, 1, 1]


async def test_a_session_that_breaks_fails_those_who_share_it_and_nobody_after(
    shared_database: Database,
    uids: Uids,
    lock: asyncpg.Connection,
    statements: list[int],
) -> None:
    async with lock.transaction():
        await lock.execute("LOCK TABLE indexes IN ACCESS EXCLUSIVE MODE")
        alone, *sharing = reading(shared_database, "logs-0", "logs-1", "logs-2")
        await until(lambda: _end_waiting(lock))
        with pytest.raises(errors.Db):
            await alone
        (later,) = reading(shared_database, "logs-3")
        await until(lambda: _end_waiting(lock))
        outcomes = await asyncio.gather(*sharing, return_exceptions=True)
        assert [type(outcome) for outcome in outcomes] == [errors.Db, errors.Db]
        # It came while that statement was under way, and goes out when it has failed.
        await until(lambda: len(statements) == 3)
    assert '"logs-3"' in await later
    assert statements == [1, 2, 1]


async def _end_waiting(sql: asyncpg.Connection) -> bool:
    """End the sessions that wait for the lock that `sql` holds."""
    ended = await sql.fetch(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
        "WHERE pg_backend_pid() = ANY(pg_blocking_pids(pid))"
    )
    return bool(ended)


async def _is_waiting(sql: asyncpg.Connection) -> bool:
    return bool(
        await sql.fetchval(
            "SELECT count(*) FROM pg_stat_activity "
            "WHERE pg_backend_pid() = ANY(pg_blocking_pids(pid))"
        )
    )


async def test_callers_who_leave_give_the_session_back(
    shared_database: Database,
    uids: Uids,
    lock: asyncpg.Connection,
    statements: list[int],
) -> None:
    async with lock.transaction():
        await lock.execute("LOCK TABLE indexes IN ACCESS EXCLUSIVE MODE")
        alone, *sharing = reading(shared_database, "logs-0", "logs-1", "logs-2")
        await until(lambda: _is_waiting(lock))
        alone.cancel()
        await until(lambda: len(statements) == 2)
        await until(lambda: _is_waiting(lock))
        for task in sharing:
            task.cancel()
        await asyncio.gather(alone, *sharing, return_exceptions=True)
        # The statement is ended though the table stays locked.
        await until(lambda: not shared_database.stats().open - shared_database.stats().idle)
        assert not await _is_waiting(lock)
    assert '"logs-5"' in await read(shared_database, "logs-5")


async def test_a_slow_statement_holds_up_those_that_come_after_it_for_a_moment_only(
    shared_database: Database,
    uids: Uids,
    lock: asyncpg.Connection,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(gathering, "AT_ONCE", 1)
    async with lock.transaction():
        await lock.execute("LOCK TABLE indexes IN ACCESS EXCLUSIVE MODE")
        tasks = reading(shared_database, "logs-0", "logs-1", "logs-2")
        # Two statements wait for the lock: the second did not wait for the end of the first.
        await until(lambda: _waiting_sessions(lock, 2))
    assert [f'"logs-{n}"' in text for n, text in enumerate(await asyncio.gather(*tasks))] == [
        True,
        True,
        True,
    ]


async def _waiting_sessions(sql: asyncpg.Connection, count: int) -> bool:
    return count == await sql.fetchval(
        "SELECT count(*) FROM pg_locks WHERE NOT granted AND relation = 'indexes'::regclass"
    )


async def test_bounds_on_the_age_hold_for_the_reads_that_ask_for_them(
    uids: Uids, clean: Scratch
) -> None:
    """Of reads at once on a replica, each is held to its own metadata and to nobody else's."""
    config = node_config(Role.READ_REPLICA, clean.standby_uri)
    async with (
        running(config) as node,
        grpc.aio.insecure_channel(address(node)) as channel,
    ):
        await clean.pair.wait_caught_up()
        unary = channel.unary_unary(PATH)
        wishes = [(), (("x-metastore-min-lsn", "FFFFFFF/0"),), (("x-metastore-max-lag", "bad"),)]
        calls = [
            unary(
                pb.IndexMetadataRequest(index_id=f"logs-{number}").SerializeToString(),
                metadata=wishes[number % 3],
            )
            for number in range(30)
        ]
        codes = [await call.code() for call in calls]
    ok, too_new, malformed = (
        grpc.StatusCode.OK,
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.INVALID_ARGUMENT,
    )
    assert codes == [ok, too_new, malformed] * 10
