"""ListSplits as a stream: bounded memory, one snapshot, sessions given back, failures half-way."""

from __future__ import annotations

import asyncio
import tracemalloc
from collections.abc import AsyncIterator
from contextlib import aclosing

import asyncpg
import pytest

from proxy import errors
from proxy.config import PoolSettings
from proxy.demo.postgres import PostgresPair
from proxy.store import split_lists
from proxy.store.pool import Database
from tests.support.many_splits import fill, numbers
from tests.support.postgres import Scratch, opened
from tests.support.splitting import query
from tests.support.waiting import until

MANY = 20_000
MEBIBYTE = 1024 * 1024


@pytest.fixture
async def sql(clean: Scratch) -> AsyncIterator[asyncpg.Connection]:
    """A connection beside the pool."""
    connection = await asyncpg.connect(clean.primary_uri)
    yield connection
    await connection.close()


def in_use(database: Database) -> int:
    stats = database.stats()
    return stats.open - stats.idle


async def consumed(database: Database) -> list[int]:
    return [
        number
        async for message in split_lists.list_splits(database, query())
        for number in numbers(message)
    ]


async def test_a_large_list_takes_little_memory(
    sql: asyncpg.Connection, shared_database: Database
) -> None:
    await fill(sql, MANY)
    seen = 0
    messages = 0
    tracemalloc.start()
    try:
        async for message in split_lists.list_splits(shared_database, query()):
            messages += 1
            seen += message.splits_serialized_json.count('"split_id"')
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    # The first thousand splits a hundred at a time, the others in larger messages.
    assert (messages, seen) == (10 + (MANY - 1000) // 500, MANY)
    # The list itself is over 20 MiB.
    assert peak < 8 * MEBIBYTE


async def test_a_list_is_one_snapshot(sql: asyncpg.Connection, shared_database: Database) -> None:
    await fill(sql, MANY)
    stream = split_lists.list_splits(shared_database, query())
    seen = numbers(await anext(stream))
    await sql.execute("DELETE FROM splits")
    async for message in stream:
        seen += numbers(message)
    assert sorted(seen) == list(range(MANY))


async def test_the_session_is_lent_while_streaming_and_back_at_the_end(
    sql: asyncpg.Connection, shared_database: Database
) -> None:
    await fill(sql, 2050)
    held = []
    async for _ in split_lists.list_splits(shared_database, query()):
        held.append(in_use(shared_database))
    # The last 50 rows need no session any more.
    assert held == [1] * 12 + [0]
    assert in_use(shared_database) == 0


@pytest.mark.parametrize("limit", [None, 150, 1000])
async def test_a_short_list_holds_no_session_while_it_is_read(
    sql: asyncpg.Connection, shared_database: Database, limit: int | None
) -> None:
    await fill(sql, 150)
    async with aclosing(split_lists.list_splits(shared_database, query(limit=limit))) as stream:
        await anext(stream)
        assert in_use(shared_database) == 0


async def test_closing_the_stream_gives_the_session_back(
    sql: asyncpg.Connection, shared_database: Database
) -> None:
    await fill(sql, MANY)
    async with aclosing(split_lists.list_splits(shared_database, query())) as stream:
        await anext(stream)
        assert in_use(shared_database) == 1
    assert in_use(shared_database) == 0


async def test_a_stream_that_is_forgotten_gives_the_session_back(
    sql: asyncpg.Connection, shared_database: Database
) -> None:
    await fill(sql, MANY)
    stream = split_lists.list_splits(shared_database, query())
    await anext(stream)
    del stream
    await until(lambda: in_use(shared_database) == 0)


async def test_cancelling_the_consumer_gives_the_session_back(
    sql: asyncpg.Connection, shared_database: Database
) -> None:
    await fill(sql, MANY)
    started = asyncio.Event()

    async def consume() -> None:
        async with aclosing(split_lists.list_splits(shared_database, query())) as stream:
            async for _ in stream:
                started.set()
                await asyncio.sleep(3600)

    task = asyncio.create_task(consume())
    await started.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert in_use(shared_database) == 0
    assert len(await consumed(shared_database)) == MANY


async def test_cancelling_while_the_database_works_gives_the_session_back(
    sql: asyncpg.Connection, shared_database: Database
) -> None:
    await fill(sql, 10)
    async with sql.transaction():
        await sql.execute("LOCK TABLE splits IN ACCESS EXCLUSIVE MODE")
        task = asyncio.create_task(consumed(shared_database))
        await until(lambda: in_use(shared_database) == 1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await until(lambda: in_use(shared_database) == 0)
    assert len(await consumed(shared_database)) == 10


async def test_a_connection_lost_half_way_ends_the_stream(
    sql: asyncpg.Connection, shared_database: Database
) -> None:
    await fill(sql, MANY)
    stream = split_lists.list_splits(shared_database, query())
    await anext(stream)
    await sql.execute(
        """
        SELECT pg_terminate_backend(pid) FROM pg_stat_activity
        WHERE datname = current_database() AND xact_start IS NOT NULL AND pid <> pg_backend_pid()
        """
    )
    with pytest.raises(errors.Internal) as caught:
        async for _ in stream:
            pass
    assert caught.value.message == "failed to fetch splits"
    assert caught.value.cause != ""
    assert len(await consumed(shared_database)) == MANY


async def test_an_exhausted_pool(clean: Scratch, sql: asyncpg.Connection) -> None:
    await fill(sql, MANY)
    bounds = PoolSettings(max_connections=1, acquire_timeout=0.2)
    async with opened(clean.primary_uri, bounds) as small:
        async with aclosing(split_lists.list_splits(small, query())) as stream:
            await anext(stream)
            with pytest.raises(errors.Db) as caught:
                await consumed(small)
        assert caught.value.message == "pool timed out while waiting for an open connection"
        assert len(await consumed(small)) == MANY


async def test_more_streams_than_sessions_all_finish(
    sql: asyncpg.Connection, clean: Scratch
) -> None:
    await fill(sql, 3000)
    bounds = PoolSettings(max_connections=3, acquire_timeout=60)
    async with opened(clean.primary_uri, bounds) as small:
        results = await asyncio.gather(*(consumed(small) for _ in range(12)))
    assert [sorted(result) for result in results] == [list(range(3000))] * 12


async def test_a_replica_lists_the_same(
    pg: PostgresPair, sql: asyncpg.Connection, shared_replica: Database
) -> None:
    await fill(sql, 2500)
    await pg.wait_caught_up()
    assert sorted(await consumed(shared_replica)) == list(range(2500))


class TestMessageSize:
    @pytest.mark.parametrize("tag", ["a" * 1000, "é" * 500, '"' * 500, "\x01" * 200])
    @pytest.mark.parametrize("limit", [4000, 10_000, 60_000])
    async def test_no_message_is_larger(
        self, sql: asyncpg.Connection, shared_database: Database, tag: str, limit: int
    ) -> None:
        await fill(sql, 150, [tag])
        stream = split_lists.list_splits(shared_database, query(), max_message_size=limit)
        messages = [message async for message in stream]
        assert all(message.ByteSize() <= limit for message in messages)
        seen = [number for message in messages for number in numbers(message)]
        assert sorted(seen) == list(range(150))
        # Cut by size only: one more split would not have fitted.
        assert all(message.ByteSize() > limit - 2000 for message in messages[:-1])

    async def test_a_split_beyond_the_limit_goes_alone(
        self, sql: asyncpg.Connection, shared_database: Database
    ) -> None:
        await fill(sql, 3, ["a" * 5000])
        stream = split_lists.list_splits(shared_database, query(), max_message_size=100)
        assert [len(numbers(message)) async for message in stream] == [1, 1, 1]
