"""The pool when its servers break."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator

import asyncpg
import pytest

from proxy import errors
from proxy.config import PoolSettings
from proxy.demo.postgres import PostgresPair
from proxy.store.pool import PoolStats
from tests.support.pairs import QuickPair
from tests.support.pools import SMALL
from tests.support.postgres import Scratch, opened
from tests.support.waiting import until


@pytest.fixture(scope="module")
async def own_pair() -> AsyncIterator[PostgresPair]:
    """A pair whose servers these tests may stop."""
    async with QuickPair() as pair:
        yield pair


class TestBrokenServers:
    @pytest.mark.parametrize("mode", ["fast", "immediate", "kill"])
    async def test_a_restart_is_survived_by_the_next_caller(
        self, own_pair: PostgresPair, mode: str
    ) -> None:
        server = own_pair.primary
        settings = PoolSettings(max_connections=3, acquire_timeout=5.0)
        async with opened(server.uri(), settings) as database:
            async with database.acquire() as a, database.acquire() as b, database.acquire() as c:
                before = {s.get_server_pid() for s in (a, b, c)}
            if mode == "kill":
                await server.kill()
            else:
                await server.stop("fast" if mode == "fast" else "immediate")
            await server.start()
            for _ in range(6):
                async with database.acquire() as session:
                    assert session.get_server_pid() not in before
                    assert await session.fetchval("SELECT 1") == 1
            stats = database.stats()
            assert (stats.idle, stats.waiting) == (stats.open, 0)

    async def test_a_session_ended_behind_the_loops_back_is_not_handed_out(
        self, fresh_database: Scratch
    ) -> None:
        """The server's farewell has arrived, but the event loop has not had a turn to read it."""
        settings = PoolSettings(max_connections=1, acquire_timeout=5.0)
        async with opened(fresh_database.primary_uri, settings) as database:
            async with database.acquire() as session:
                before = session.get_server_pid()
            _end_session_blocking(fresh_database, before)
            async with database.acquire() as session:
                assert session.get_server_pid() != before
                assert await session.fetchval("SELECT 1") == 1
            assert database.stats() == PoolStats(open=1, idle=1, max=1, waiting=0)

    async def test_a_stopped_server_is_an_error_at_once_and_recovered_from(
        self, own_pair: PostgresPair
    ) -> None:
        server = own_pair.primary
        settings = PoolSettings(max_connections=2, acquire_timeout=20.0)
        async with opened(server.uri(), settings) as database:
            await server.stop()
            started = time.monotonic()
            for _ in range(5):
                with pytest.raises(errors.Db) as caught:
                    async with database.acquire():
                        pytest.fail("a session of a stopped server was lent")
                assert own_pair.password not in str(caught.value)
                assert "***redacted***" in str(caught.value)
            assert time.monotonic() - started < 10
            await server.start()
            async with database.acquire() as session:
                assert await session.fetchval("SELECT 1") == 1

    @pytest.mark.parametrize("in_transaction", [False, True])
    async def test_a_session_that_breaks_in_use_gives_the_drivers_error(
        self, fresh_database: Scratch, in_transaction: bool
    ) -> None:
        settings = PoolSettings(max_connections=1, acquire_timeout=5.0)
        async with opened(fresh_database.primary_uri, settings) as database:
            lend = database.transaction if in_transaction else database.acquire
            with pytest.raises(asyncpg.ConnectionDoesNotExistError, match="terminating"):
                async with lend() as session:
                    await session.execute("SELECT pg_terminate_backend(pg_backend_pid())")
            assert database.stats().idle == database.stats().open
            async with database.acquire() as session:
                assert await session.fetchval("SELECT 1") == 1

    @pytest.mark.parametrize("in_transaction", [False, True])
    @pytest.mark.parametrize("kind", [ValueError, errors.InvalidArgument, asyncio.CancelledError])
    async def test_an_error_of_the_caller_is_not_masked_by_a_broken_session(
        self, fresh_database: Scratch, in_transaction: bool, kind: type[BaseException]
    ) -> None:
        async with opened(fresh_database.primary_uri, SMALL) as database:
            lend = database.transaction if in_transaction else database.acquire

            async def work() -> None:
                async with lend() as session:
                    await fresh_database.value(
                        "SELECT pg_terminate_backend($1, 5000)", session.get_server_pid()
                    )
                    raise kind("mine")

            with pytest.raises(kind, match="mine"):
                await work()
            async with database.acquire() as session:
                assert await session.fetchval("SELECT 1") == 1

    async def test_a_commit_on_a_broken_session_fails(self, fresh_database: Scratch) -> None:
        async with opened(fresh_database.primary_uri, SMALL) as database:
            with pytest.raises((asyncpg.PostgresError, asyncpg.InterfaceError)):
                async with database.transaction() as session:
                    await fresh_database.value(
                        "SELECT pg_terminate_backend($1, 5000)", session.get_server_pid()
                    )

    async def test_a_deferred_constraint_fails_the_commit_with_its_sqlstate(
        self, fresh_database: Scratch
    ) -> None:
        await fresh_database.execute(
            "CREATE TABLE t (n int UNIQUE DEFERRABLE INITIALLY DEFERRED); INSERT INTO t VALUES (1)"
        )
        async with opened(fresh_database.primary_uri, SMALL) as database:
            with pytest.raises(asyncpg.UniqueViolationError):
                async with database.transaction() as session:
                    await session.execute("INSERT INTO t VALUES (1)")
            async with database.acquire() as session:
                assert not session.is_in_transaction()

    async def test_a_frozen_server_does_not_hold_a_cancelled_caller(
        self, own_pair: PostgresPair
    ) -> None:
        server = own_pair.primary
        settings = PoolSettings(max_connections=1, acquire_timeout=30.0)
        async with opened(server.uri(), settings) as database:

            async def work() -> None:
                async with database.acquire() as session:
                    await session.fetchval("SELECT 1")

            server.pause()
            try:
                task = asyncio.create_task(work())
                await until(lambda: database.stats().idle == 0)
                task.cancel()
                started = time.monotonic()
                with pytest.raises(asyncio.CancelledError):
                    await task
                assert time.monotonic() - started < 6
            finally:
                server.resume()
            async with database.acquire() as session:
                assert await session.fetchval("SELECT 1") == 1


def _end_session_blocking(scratch: Scratch, pid: int) -> None:
    """End a server process while this thread, and so its event loop, stands still."""

    async def end() -> None:
        await scratch.value("SELECT pg_terminate_backend($1, 5000)", pid)

    thread = threading.Thread(target=lambda: asyncio.run(end()))
    thread.start()
    thread.join()
