"""The sessions of a pool on a real server: who gets which, and what makes up for a lost one."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import asyncpg
import pytest

from proxy.config import PoolSettings
from proxy.store import sessions
from proxy.store.connections import CheckedConnection
from proxy.store.sessions import SessionPool
from tests.support.postgres import Scratch, opened
from tests.support.waiting import until


class Maker:
    """Connects; fails while `broken`, and waits while `held` is not set."""

    def __init__(self, uri: str) -> None:
        self.uri = uri
        self.made = 0
        self.broken = False
        self.held = asyncio.Event()
        self.held.set()

    async def __call__(self) -> CheckedConnection:
        await self.held.wait()
        if self.broken:
            raise ConnectionRefusedError
        self.made += 1
        return await asyncpg.connect(self.uri, connection_class=CheckedConnection)


@pytest.fixture
async def maker(fresh_database: Scratch) -> Maker:
    return Maker(fresh_database.primary_uri)


@pytest.fixture
async def pool(maker: Maker) -> AsyncIterator[SessionPool]:
    pool = SessionPool(maker, least=0, most=2, idle_timeout=None)
    await pool.start()
    try:
        yield pool
    finally:
        pool.terminate()


async def test_the_session_given_back_last_is_lent_first(pool: SessionPool) -> None:
    one, two = await pool.take(), await pool.take()
    pool.put_back(two)
    pool.put_back(one)
    assert await pool.take() is one
    assert await pool.take() is two


async def test_waiters_are_served_in_order_and_before_who_comes_later(pool: SessionPool) -> None:
    lent = [await pool.take(), await pool.take()]
    waiting = [asyncio.create_task(pool.take()) for _ in range(3)]
    await asyncio.sleep(0)
    pool.put_back(lent[0])
    assert pool.take_idle() is None
    assert await waiting[0] is lent[0]
    pool.put_back(lent[1])
    assert await waiting[1] is lent[1]
    assert not waiting[2].done()
    waiting[2].cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting[2]


async def test_what_a_cancelled_waiter_was_handed_goes_to_the_next(pool: SessionPool) -> None:
    lent = [await pool.take(), await pool.take()]
    first, second = (asyncio.create_task(pool.take()) for _ in range(2))
    await asyncio.sleep(0)
    # In one turn of the loop: the session is handed over, and its taker cancelled.
    pool.put_back(lent[0])
    first.cancel()
    assert await second is lent[0]
    assert first.cancelled()


async def test_a_waiter_makes_up_for_a_session_that_was_lost(pool: SessionPool) -> None:
    lost, _kept = await pool.take(), await pool.take()
    waiting = asyncio.create_task(pool.take())
    await asyncio.sleep(0)
    lost.terminate()
    made = await asyncio.wait_for(waiting, 10)
    assert await made.fetchval("SELECT 1") == 1
    assert pool.open == 2


async def test_a_failed_attempt_leaves_room_for_the_next(pool: SessionPool, maker: Maker) -> None:
    await pool.take()
    maker.held.clear()
    failing = asyncio.create_task(pool.take())
    await asyncio.sleep(0)
    waiting = asyncio.create_task(pool.take())
    await asyncio.sleep(0)
    failing.cancel()
    maker.held.set()
    assert await (await asyncio.wait_for(waiting, 10)).fetchval("SELECT 1") == 1
    assert failing.cancelled()


async def test_a_session_that_is_made_while_the_pool_closes_is_ended(
    pool: SessionPool, maker: Maker
) -> None:
    pool.put_back(await pool.take())
    lent = await pool.take()
    maker.held.clear()
    late = asyncio.create_task(pool.take())
    await asyncio.sleep(0)
    closing = asyncio.create_task(pool.close())
    await asyncio.sleep(0)
    pool.put_back(lent)
    maker.held.set()
    with pytest.raises(asyncpg.InterfaceError, match="the pool is closed"):
        await late
    await asyncio.wait_for(closing, 10)
    assert (pool.open, maker.made) == (0, 2)
    with pytest.raises(asyncpg.InterfaceError, match="the pool is closed"):
        await pool.take()


async def test_those_to_keep_open_are_made_again_when_the_server_ended_them(
    maker: Maker, fresh_database: Scratch, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sessions, "FIRST_DELAY", 0.01)
    pool = SessionPool(maker, least=2, most=3, idle_timeout=None)
    await pool.start()
    try:
        before = {one.get_server_pid() for one in pool.sessions}
        maker.broken = True
        for pid in before:
            await fresh_database.value("SELECT pg_terminate_backend($1, 5000)", pid)
        await until(lambda: pool.open == 0)
        maker.broken = False
        await until(lambda: pool.idle == 2)
        assert before.isdisjoint(one.get_server_pid() for one in pool.sessions)
    finally:
        pool.terminate()


async def test_a_session_left_in_a_transaction_is_rolled_back(pool: SessionPool) -> None:
    session = await pool.take()
    transaction = session.transaction()
    await transaction.start()
    await session.execute("CREATE TABLE t (n int)")
    told: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _loop, context: told.append(context))
    await pool.take_back(session)
    asyncio.get_running_loop().set_exception_handler(None)
    assert len(told) == 1
    assert await pool.take() is session
    assert session.is_clean
    assert await session.fetchval("SELECT to_regclass('t')::text") is None


async def test_a_column_that_changed_its_type_is_no_error_in_any_session(
    fresh_database: Scratch,
) -> None:
    """One session finds it out, and retries; the others drop what they have prepared as well."""
    await fresh_database.execute("CREATE TABLE t (n int); INSERT INTO t VALUES (1)")
    settings = PoolSettings(max_connections=2, acquire_timeout=5.0)
    async with (
        opened(fresh_database.primary_uri, settings) as database,
        database.acquire() as one,
        database.acquire() as two,
    ):
        assert await one.fetchval("SELECT n FROM t") == 1
        assert await two.fetchval("SELECT n FROM t") == 1
        await fresh_database.execute("ALTER TABLE t ALTER n TYPE text")
        assert await one.fetchval("SELECT n FROM t") == "1"
        # In a transaction there is no second attempt.
        async with two.transaction():
            assert await two.fetchval("SELECT n FROM t") == "1"
