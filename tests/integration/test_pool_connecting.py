"""The pool against real servers: how it connects, and how it closes."""

from __future__ import annotations

import asyncio
import time

import asyncpg
import pytest

from proxy import errors
from proxy.config import PoolSettings, parse_postgres_uri
from proxy.demo.postgres import PostgresPair
from proxy.store.pool import Database
from tests.support.pools import IMPATIENT, SMALL, has_no_sessions, is_sleeping
from tests.support.postgres import Scratch, opened
from tests.support.servers import end_server
from tests.support.waiting import until


class TestConnecting:
    @pytest.mark.parametrize(
        ("change", "reason"),
        [
            ({"password": "not-the-pass%word"}, "password authentication failed"),
            ({"database": "no_such_database"}, 'database "no_such_database" does not exist'),
            ({"user": "no_such_user"}, "authentication failed"),
        ],
    )
    async def test_a_refused_login_is_a_connection_error_without_the_password(
        self, pg: PostgresPair, change: dict[str, str], reason: str
    ) -> None:
        uri = pg.primary_uri(**change)
        secret = change.get("password", pg.password)
        await _assert_connection_error(uri, reason, secret)

    async def test_nobody_listening_is_a_connection_error(self) -> None:
        uri = "postgresql://quickwit:s3cr3t-pass@127.0.0.1:1/metastore"
        await _assert_connection_error(uri, "Connect call failed", "s3cr3t-pass")

    async def test_an_unknown_host_is_a_connection_error(self) -> None:
        uri = "postgresql://quickwit:s3cr3t-pass@no-such-host.invalid:5432/metastore"
        await _assert_connection_error(uri, "", "s3cr3t-pass")

    async def test_a_server_that_does_not_speak_is_a_connection_error_in_time(self) -> None:
        async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.read()
            writer.close()

        server = await asyncio.start_server(silent, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        started = time.monotonic()
        uri = f"postgresql://quickwit:s3cr3t-pass@127.0.0.1:{port}/metastore"
        await _assert_connection_error(uri, "within 1 s", "s3cr3t-pass", IMPATIENT)
        assert time.monotonic() - started < 3
        await end_server(server)

    async def test_a_password_echoed_by_the_server_is_redacted(self, pg: PostgresPair) -> None:
        # The server repeats the database name, which somebody may have confused.
        await pg.primary.execute("CREATE ROLE confused LOGIN PASSWORD 's3cr3t-name'")
        uri = pg.primary_uri("s3cr3t-name", user="confused", password="s3cr3t-name")
        await _assert_connection_error(uri, "does not exist", "s3cr3t-name")
        await pg.primary.execute("DROP ROLE confused")

    async def test_a_session_is_refused_before_open_and_after_close(
        self, fresh_database: Scratch
    ) -> None:
        database = Database(parse_postgres_uri(fresh_database.primary_uri), SMALL, read_only=False)
        for _ in range(2):
            assert not database.is_open
            with pytest.raises(errors.Unavailable):
                async with database.acquire():
                    pytest.fail("a session was lent")
            await database.open()
            await database.open()
            assert database.is_open
            await database.close()
            await database.close()

    async def test_open_can_be_tried_again(self, pg: PostgresPair) -> None:
        name = "comes_later"
        database = Database(parse_postgres_uri(pg.primary_uri(name)), SMALL, read_only=False)
        with pytest.raises(errors.Connection):
            await database.open()
        await pg.create_database(name)
        try:
            await database.open()
            async with database.acquire() as session:
                assert await session.fetchval("SELECT current_database()") == name
        finally:
            await database.close()
            await pg.drop_database(name)

    async def test_two_openers_share_one_pool(self, fresh_database: Scratch) -> None:
        database = Database(parse_postgres_uri(fresh_database.primary_uri), SMALL, read_only=False)
        await asyncio.gather(database.open(), database.open())
        assert database.stats().open == 1
        await database.close()
        await until(lambda: has_no_sessions(fresh_database))


async def _assert_connection_error(
    uri: str, reason: str, secret: str, settings: PoolSettings = SMALL
) -> None:
    database = Database(parse_postgres_uri(uri), settings, read_only=False)
    with pytest.raises(errors.Connection) as caught:
        await database.open()
    assert reason in str(caught.value)
    assert parse_postgres_uri(uri).redacted in str(caught.value)
    assert secret not in str(caught.value)
    assert secret not in caught.value.to_json().decode()
    assert not database.is_open


class TestClosing:
    async def test_close_leaves_no_session_behind(self, fresh_database: Scratch) -> None:
        async with (
            opened(fresh_database.primary_uri, SMALL) as database,
            database.acquire(),
            database.acquire(),
        ):
            assert not await has_no_sessions(fresh_database)
        await until(lambda: has_no_sessions(fresh_database))

    async def test_close_waits_for_a_session_in_use(self, fresh_database: Scratch) -> None:
        async with opened(fresh_database.primary_uri, SMALL) as database:
            async with database.acquire() as session:
                closing = asyncio.create_task(database.close(timeout=30))
                await asyncio.sleep(0)
                assert await session.fetchval("SELECT 1") == 1
                assert not closing.done()
            await asyncio.wait_for(closing, 10)

    async def test_close_cuts_a_session_in_use_at_its_bound(self, fresh_database: Scratch) -> None:
        async with opened(fresh_database.primary_uri, SMALL) as database:

            async def work() -> None:
                async with database.acquire() as session:
                    await session.execute("SELECT pg_sleep(60)")

            task = asyncio.create_task(work())
            await until(lambda: is_sleeping(fresh_database))
            started = time.monotonic()
            await database.close(timeout=0.2)
            assert time.monotonic() - started < 3
            with pytest.raises((asyncpg.PostgresError, asyncpg.InterfaceError, OSError)):
                await task

    async def test_a_waiter_is_told_when_the_pool_is_closed(self, fresh_database: Scratch) -> None:
        settings = PoolSettings(max_connections=1, acquire_timeout=20.0)
        async with opened(fresh_database.primary_uri, settings) as database:

            async def wait() -> None:
                async with database.acquire() as session:
                    await session.fetchval("SELECT 1")

            async with database.acquire():
                task = asyncio.create_task(wait())
                await until(lambda: database.stats().waiting == 1)
                started = time.monotonic()
                await database.close(timeout=0.1)
            with pytest.raises(errors.Db):
                await task
            assert time.monotonic() - started < 5
