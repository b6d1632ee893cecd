"""Many long lists at once: all go on in turn, and leave sessions to other calls."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import AsyncExitStack, aclosing

import pytest

from proxy import errors
from proxy.config import PoolSettings
from proxy.proto.quickwit import metastore_pb2 as pb
from proxy.store import split_lists
from proxy.store.pool import Database
from proxy.store.turns import LOOKS, OPENINGS
from tests.support.many_splits import filled_with, numbers
from tests.support.postgres import Scratch, opened
from tests.support.splitting import query
from tests.support.waiting import until

MANY = 6_000


@pytest.fixture
async def filled(clean: Scratch) -> Scratch:
    """A database with a long list."""
    return await filled_with(clean, MANY)


@pytest.fixture
async def small(filled: Scratch) -> AsyncIterator[Database]:
    """A pool of five sessions, of which long lists may have four."""
    bounds = PoolSettings(max_connections=5, acquire_timeout=2.0)
    async with opened(filled.primary_uri, bounds) as database:
        yield database


def begin(database: Database) -> AsyncGenerator[pb.ListSplitsResponse, None]:
    return split_lists.list_splits(database, query())


async def rest(stream: AsyncGenerator[pb.ListSplitsResponse, None]) -> int:
    return sum([len(numbers(message)) async for message in stream])


async def held(database: Database, count: int) -> list[AsyncGenerator[pb.ListSplitsResponse]]:
    """Return long lists of which one message was read."""
    streams = [begin(database) for _ in range(count)]
    await asyncio.gather(*map(anext, streams))
    return streams


async def test_lists_that_nobody_reads_leave_a_session_to_others(small: Database) -> None:
    streams = await held(small, 4)
    late = asyncio.create_task(rest(begin(small)))
    await until(lambda: small.stats().waiting == 1)
    async with small.acquire() as session:
        assert await session.fetchval("SELECT 1") == 1
    assert await rest(split_lists.list_splits(small, query(limit=10))) == 10
    with pytest.raises(errors.Db) as caught:
        await late
    assert caught.value.message == "pool timed out while waiting for an open connection"
    assert [await rest(stream) for stream in streams] == [MANY - 100] * 4
    assert await rest(begin(small)) == MANY


@pytest.mark.parametrize("how", ["closed", "cancelled", "cut"])
async def test_a_list_that_ends_half_way_lets_the_next_one_in(
    small: Database, filled: Scratch, how: str
) -> None:
    streams = await held(small, 3)
    left = asyncio.Event()

    async def read() -> None:
        async with aclosing(begin(small)) as stream:
            async for _ in stream:
                left.set()
                await asyncio.sleep(3600)

    reading = asyncio.create_task(read())
    await left.wait()
    waiting = asyncio.create_task(rest(begin(small)))
    await until(lambda: small.stats().waiting == 1)
    if how == "closed":
        await streams[0].aclose()
    elif how == "cancelled":
        reading.cancel()
    else:
        await filled.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE datname = current_database() AND state = 'idle in transaction'"
        )
        with pytest.raises(errors.Internal):
            await rest(streams[0])
    assert await waiting == MANY
    reading.cancel()
    await asyncio.wait((reading,))
    for stream in streams:
        await stream.aclose()
    assert small.stats().open == small.stats().idle
    # All places and turns are free again: as many lists as ever begin at once.
    for stream in await held(small, 4):
        await stream.aclose()


async def test_one_that_stops_waiting_takes_no_place(small: Database) -> None:
    streams = await held(small, 4)
    waiting = [asyncio.create_task(rest(begin(small))) for _ in range(2)]
    await until(lambda: small.stats().waiting == 2)
    waiting[0].cancel()
    await until(lambda: small.stats().waiting == 1)
    await streams[0].aclose()
    assert await waiting[1] == MANY
    for stream in streams:
        await stream.aclose()


async def test_all_wait_as_long_as_others_come_to_an_end(small: Database) -> None:
    streams = await held(small, 4)
    waiting = [asyncio.create_task(rest(begin(small))) for _ in range(3)]
    await until(lambda: small.stats().waiting == 3)
    # Each wait is shorter than the bound, and all of them are longer.
    for stream in streams[:3]:
        await asyncio.sleep(0.8)
        await stream.aclose()
    assert await asyncio.gather(*waiting) == [MANY] * 3
    await streams[3].aclose()


async def test_lists_take_turns(small: Database) -> None:
    streams = await held(small, 4)
    progress = Counter(dict.fromkeys(range(4), 100))
    furthest = 0

    async def read(number: int) -> None:
        nonlocal furthest
        async for message in streams[number]:
            progress[number] += len(numbers(message))
            if progress[number] < MANY:
                furthest = max(furthest, progress[number] - min(progress.values()))

    await asyncio.gather(*map(read, range(4)))
    assert progress == dict.fromkeys(range(4), MANY)
    # Two batches are made at once: while another list waits for one, none gets more than two.
    assert furthest <= 3 * split_lists.BATCH_ROWS


async def test_short_lists_wait_for_no_turn_to_open_a_session_while_one_is_idle(
    filled: Scratch,
) -> None:
    bounds = PoolSettings(max_connections=20, acquire_timeout=2.0)
    async with opened(filled.primary_uri, bounds) as database, AsyncExitStack() as held_open:
        for _ in range(OPENINGS + 1):
            await held_open.enter_async_context(database.acquire())
        await held_open.aclose()
        # Nobody may open one now; there are enough for as many as are idle.
        openings = [database.lists.openings.taken() for _ in range(OPENINGS)]
        assert all(map(database.lists.openings.try_enter, openings))
        lists = (rest(split_lists.list_splits(database, query(limit=10))) for _ in range(5))
        assert await asyncio.gather(*lists) == [10] * 5


async def test_first_rows_open_few_sessions_at_once(filled: Scratch) -> None:
    bounds = PoolSettings(max_connections=20, acquire_timeout=2.0)
    async with opened(filled.primary_uri, bounds) as database:
        most = 0
        looks = [
            asyncio.create_task(rest(split_lists.list_splits(database, query(limit=10))))
            for _ in range(LOOKS)
        ]
        while not all(task.done() for task in looks):
            most = max(most, database.stats().waiting)
            await asyncio.sleep(0)
        assert [task.result() for task in looks] == [10] * LOOKS
        assert 0 < most <= OPENINGS
