"""The pool against real servers: its sessions and its transactions."""

from __future__ import annotations

import asyncio
import time

import asyncpg
import pytest

from proxy.config import PoolSettings
from proxy.store.pool import PoolStats
from tests.support.pools import SMALL, is_sleeping
from tests.support.postgres import Scratch, opened
from tests.support.waiting import until


class TestSessionSettings:
    @pytest.mark.parametrize(
        ("setting", "expected"),
        [
            ("application_name", "quickwit-metastore"),
            ("TimeZone", "UTC"),
            ("DateStyle", "ISO, MDY"),
            ("client_encoding", "UTF8"),
            ("extra_float_digits", "2"),
            ("default_transaction_read_only", "off"),
            ("transaction_isolation", "read committed"),
            ("default_transaction_isolation", "read committed"),
        ],
    )
    async def test_a_session_has_the_settings_that_the_sql_relies_on(
        self, fresh_database: Scratch, setting: str, expected: str
    ) -> None:
        uri = (
            f"{fresh_database.primary_uri}?application_name=other"
            "&options[TimeZone]=Asia/Tokyo&options[DateStyle]=German"
        )
        async with opened(uri, SMALL) as database, database.acquire() as session:
            assert await session.fetchval("SELECT current_setting($1)", setting) == expected

    async def test_other_settings_of_the_uri_are_kept(self, fresh_database: Scratch) -> None:
        uri = f"{fresh_database.primary_uri}?options[work_mem]=7MB"
        async with opened(uri, SMALL) as database, database.acquire() as session:
            assert await session.fetchval("SHOW work_mem") == "7MB"

    async def test_a_read_only_session_refuses_writes_on_a_primary(
        self, fresh_database: Scratch
    ) -> None:
        async with opened(fresh_database.primary_uri, SMALL, read_only=True) as database:
            with pytest.raises(asyncpg.ReadOnlySQLTransactionError) as caught:
                async with database.acquire() as session:
                    await session.execute("CREATE TABLE t (n int)")
            assert caught.value.sqlstate == "25006"
            with pytest.raises(asyncpg.ReadOnlySQLTransactionError):
                async with database.transaction() as session:
                    await session.execute("CREATE TABLE t (n int)")

    async def test_a_standby_refuses_writes(self, fresh_database: Scratch) -> None:
        async with opened(fresh_database.standby_uri, SMALL) as database:
            with pytest.raises(asyncpg.ReadOnlySQLTransactionError):
                async with database.acquire() as session:
                    await session.execute("CREATE TABLE t (n int)")

    @pytest.mark.parametrize(
        "option",
        ["options=-c%20default_transaction_read_only%3Doff", "options=-c%20timezone%3DAsia/Tokyo"],
    )
    async def test_options_of_the_uri_cannot_undo_the_settings(
        self, fresh_database: Scratch, option: str
    ) -> None:
        uri = f"{fresh_database.primary_uri}?{option}"
        async with opened(uri, SMALL, read_only=True) as database, database.acquire() as session:
            assert await session.fetchval("SHOW default_transaction_read_only") == "on"
            assert await session.fetchval("SHOW timezone") == "UTC"

    async def test_settings_of_the_role_cannot_undo_the_settings(
        self, fresh_database: Scratch
    ) -> None:
        await fresh_database.execute(
            f"ALTER DATABASE {fresh_database.name} SET default_transaction_read_only = off;"
            f"ALTER DATABASE {fresh_database.name} SET timezone = 'Asia/Tokyo'"
        )
        uri = fresh_database.primary_uri
        async with opened(uri, SMALL, read_only=True) as database, database.acquire() as session:
            assert await session.fetchval("SHOW default_transaction_read_only") == "on"
            assert await session.fetchval("SHOW timezone") == "UTC"


class TestTransactions:
    async def test_a_transaction_is_read_committed_whatever_the_default_is(
        self, fresh_database: Scratch
    ) -> None:
        uri = f"{fresh_database.primary_uri}?options[default_transaction_isolation]=serializable"
        async with opened(uri, SMALL) as database, database.transaction() as session:
            assert await session.fetchval("SHOW transaction_isolation") == "read committed"

    async def test_a_single_statement_is_read_committed_whatever_the_default_is(
        self, fresh_database: Scratch
    ) -> None:
        await fresh_database.execute(
            f"ALTER DATABASE {fresh_database.name} SET default_transaction_isolation = serializable"
        )
        await fresh_database.pair.wait_caught_up()
        # A standby refuses every statement in a serializable transaction.
        for uri in (fresh_database.primary_uri, fresh_database.standby_uri):
            async with opened(uri, SMALL) as database, database.acquire() as session:
                assert await session.fetchval("SHOW transaction_isolation") == "read committed"

    async def test_a_transaction_commits_on_success(self, fresh_database: Scratch) -> None:
        async with (
            opened(fresh_database.primary_uri, SMALL) as database,
            database.transaction() as session,
        ):
            await session.execute("CREATE TABLE t (n int)")
        assert await fresh_database.value("SELECT count(*) FROM t") == 0

    async def test_a_transaction_is_rolled_back_on_an_error(self, fresh_database: Scratch) -> None:
        async with opened(fresh_database.primary_uri, SMALL) as database:

            async def work() -> None:
                async with database.transaction() as session:
                    await session.execute("CREATE TABLE t (n int)")
                    raise ValueError("mine")

            with pytest.raises(ValueError, match="mine"):
                await work()
        assert await fresh_database.value("SELECT to_regclass('t')::text") is None

    async def test_a_cancelled_statement_is_ended_and_its_transaction_rolled_back(
        self, fresh_database: Scratch
    ) -> None:
        await fresh_database.execute("CREATE TABLE t (n int)")
        settings = PoolSettings(max_connections=1, acquire_timeout=5.0)
        async with opened(fresh_database.primary_uri, settings) as database:
            inserted = asyncio.Event()

            async def work() -> None:
                async with database.transaction() as session:
                    await session.execute("INSERT INTO t VALUES (1)")
                    inserted.set()
                    await session.execute("SELECT pg_sleep(60)")

            task = asyncio.create_task(work())
            await inserted.wait()
            await until(lambda: is_sleeping(fresh_database))
            task.cancel()
            started = time.monotonic()
            with pytest.raises(asyncio.CancelledError):
                await task
            # The only session is free again, outside a transaction, and was not replaced.
            async with database.acquire() as session:
                assert await session.fetchval("SELECT count(*) FROM t") == 0
                assert not session.is_in_transaction()
            assert time.monotonic() - started < 5
            assert database.stats() == PoolStats(open=1, idle=1, max=1, waiting=0)
        assert not await is_sleeping(fresh_database)

    async def test_a_statement_timeout_of_the_driver_leaves_the_session_usable(
        self, fresh_database: Scratch
    ) -> None:
        settings = PoolSettings(max_connections=1, acquire_timeout=5.0)
        async with opened(fresh_database.primary_uri, settings) as database:
            with pytest.raises(TimeoutError):
                async with database.acquire() as session:
                    await session.execute("SELECT pg_sleep(60)", timeout=0.05)
            async with database.acquire() as session:
                assert await session.fetchval("SELECT 1") == 1

    async def test_many_cancellations_at_any_moment_leak_nothing(
        self, fresh_database: Scratch
    ) -> None:
        settings = PoolSettings(max_connections=2, acquire_timeout=5.0)
        async with opened(fresh_database.primary_uri, settings) as database:

            async def work() -> None:
                async with database.transaction() as session:
                    await session.fetchval("SELECT 1")

            for delay in range(150):
                tasks = [asyncio.create_task(work()) for _ in range(4)]
                await asyncio.sleep(delay * 0.00005)
                for task in tasks:
                    task.cancel()
                for outcome in await asyncio.gather(*tasks, return_exceptions=True):
                    assert outcome is None or isinstance(outcome, asyncio.CancelledError)
            stats = database.stats()
            assert (stats.idle, stats.waiting) == (stats.open, 0)
            async with database.acquire() as one, database.acquire() as two:
                assert await one.fetchval("SELECT 1") == await two.fetchval("SELECT 1") == 1
