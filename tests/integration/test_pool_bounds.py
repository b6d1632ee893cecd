"""The pool against real servers: its bounds."""

from __future__ import annotations

import asyncio
import logging
import time

import pytest

from proxy import errors
from proxy.config import PoolSettings, parse_postgres_uri
from proxy.store.pool import EXHAUSTED, Database, PoolStats
from tests.support.pools import IMPATIENT
from tests.support.postgres import Scratch, opened
from tests.support.waiting import until


class TestBounds:
    async def test_exhaustion_is_the_exact_error_within_the_acquire_timeout(
        self, fresh_database: Scratch
    ) -> None:
        async with opened(fresh_database.primary_uri, IMPATIENT) as database:
            async with database.acquire(), database.acquire():
                started = time.monotonic()
                with pytest.raises(errors.Db) as caught:
                    async with database.acquire():
                        pytest.fail("a third session was lent")
                waited = time.monotonic() - started
            assert caught.value.message == "pool timed out while waiting for an open connection"
            assert caught.value.message == EXHAUSTED
            assert 0.9 < waited < 5.0
            async with database.acquire() as session:
                assert await session.fetchval("SELECT 1") == 1

    async def test_a_waiter_gets_the_session_that_becomes_free(
        self, fresh_database: Scratch
    ) -> None:
        settings = PoolSettings(max_connections=1, acquire_timeout=10.0)
        async with opened(fresh_database.primary_uri, settings) as database:

            async def wait() -> int:
                async with database.acquire() as session:
                    return int(await session.fetchval("SELECT 5"))

            async with database.acquire():
                task = asyncio.create_task(wait())
                await until(lambda: database.stats().waiting == 1)
                assert not task.done()
            assert await task == 5

    async def test_a_cancelled_waiter_leaks_nothing(self, fresh_database: Scratch) -> None:
        settings = PoolSettings(max_connections=1, acquire_timeout=10.0)
        async with opened(fresh_database.primary_uri, settings) as database:

            async def wait() -> None:
                async with database.acquire():
                    pytest.fail("the only session was lent twice")

            async with database.acquire():
                tasks = [asyncio.create_task(wait()) for _ in range(3)]
                await until(lambda: database.stats().waiting == 3)
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)
                assert all(task.cancelled() for task in tasks)
                assert database.stats().waiting == 0
            assert database.stats() == PoolStats(open=1, idle=1, max=1, waiting=0)

    async def test_a_long_wait_is_logged(
        self,
        fresh_database: Scratch,
        caplog: pytest.LogCaptureFixture,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        monkeypatch.setattr("proxy.store.pool.SLOW_ACQUIRE", 0.05)
        settings = PoolSettings(max_connections=1, acquire_timeout=1.0)
        async with opened(fresh_database.primary_uri, settings) as database:
            with caplog.at_level(logging.WARNING, "proxy.store.pool"):
                async with database.acquire():
                    assert not caplog.records
                    with pytest.raises(errors.Db):
                        async with database.acquire():
                            pytest.fail("the only session was lent twice")
        assert [record.getMessage() for record in caplog.records] == [
            "slow to get a database connection"
        ]

    async def test_stats_follow_the_sessions(self, fresh_database: Scratch) -> None:
        settings = PoolSettings(max_connections=3, acquire_timeout=5.0)
        database = Database(
            parse_postgres_uri(fresh_database.primary_uri), settings, read_only=False
        )
        assert database.stats() == PoolStats(open=0, idle=0, max=3, waiting=0)
        await database.open()
        assert database.stats() == PoolStats(open=1, idle=1, max=3, waiting=0)
        async with database.acquire(), database.acquire():
            assert database.stats() == PoolStats(open=2, idle=0, max=3, waiting=0)
        assert database.stats() == PoolStats(open=2, idle=2, max=3, waiting=0)
        await database.close()
        assert database.stats() == PoolStats(open=0, idle=0, max=3, waiting=0)

    async def test_the_minimum_is_connected_at_once(self, fresh_database: Scratch) -> None:
        settings = PoolSettings(min_connections=3, max_connections=5, acquire_timeout=5.0)
        async with opened(fresh_database.primary_uri, settings) as database:
            assert database.stats() == PoolStats(open=3, idle=3, max=5, waiting=0)

    @pytest.mark.parametrize("minimum", [0, 2])
    async def test_idle_sessions_above_the_minimum_are_closed(
        self, fresh_database: Scratch, minimum: int
    ) -> None:
        settings = PoolSettings(
            min_connections=minimum, max_connections=3, acquire_timeout=5.0, idle_timeout=0.05
        )
        async with opened(fresh_database.primary_uri, settings) as database:
            async with database.acquire(), database.acquire(), database.acquire():
                assert database.stats().open == 3
            await until(lambda: database.stats().open == minimum)
            async with database.acquire() as session:
                assert await session.fetchval("SELECT 1") == 1

    async def test_an_idle_timeout_of_none_is_never(self, fresh_database: Scratch) -> None:
        settings = PoolSettings(max_connections=2, acquire_timeout=5.0, idle_timeout=None)
        async with opened(fresh_database.primary_uri, settings) as database:
            async with database.acquire() as one, database.acquire() as two:
                pids = {one.get_server_pid(), two.get_server_pid()}
            pool = database._pool
            assert pool is not None
            assert not pool.watches_idle
            async with database.acquire() as one, database.acquire() as two:
                assert {one.get_server_pid(), two.get_server_pid()} == pids

    async def test_a_session_past_its_lifetime_is_replaced_when_asked_for(
        self, fresh_database: Scratch
    ) -> None:
        settings = PoolSettings(max_connections=1, acquire_timeout=5.0, max_lifetime=0.05)
        async with opened(fresh_database.primary_uri, settings) as database:
            async with database.acquire() as session:
                first = session.get_server_pid()
            ends = time.monotonic() + 0.06
            await until(lambda: time.monotonic() > ends)
            async with database.acquire() as session:
                assert session.get_server_pid() != first
            assert database.stats() == PoolStats(open=1, idle=1, max=1, waiting=0)

    @pytest.mark.parametrize("lifetime", [None, 3600.0])
    async def test_a_session_within_its_lifetime_is_kept(
        self, fresh_database: Scratch, lifetime: float | None
    ) -> None:
        settings = PoolSettings(max_connections=1, acquire_timeout=5.0, max_lifetime=lifetime)
        async with opened(fresh_database.primary_uri, settings) as database:
            pids = set()
            for _ in range(3):
                async with database.acquire() as session:
                    pids.add(session.get_server_pid())
            assert len(pids) == 1
