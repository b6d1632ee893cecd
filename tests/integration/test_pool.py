"""The pool against real servers: its bounds, its errors, and what it does when things break."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import AsyncIterator

import asyncpg
import pytest

from proxy import errors
from proxy.config import PoolSettings, parse_postgres_uri
from proxy.demo.postgres import PostgresPair
from proxy.store.pool import EXHAUSTED, Database, PoolStats
from tests.support.postgres import Scratch, opened
from tests.support.servers import end_server
from tests.support.waiting import until

SMALL = PoolSettings(max_connections=2, acquire_timeout=5.0)
# For the test of exhaustion, which has to wait for it.
IMPATIENT = PoolSettings(max_connections=2, acquire_timeout=1.0)


@pytest.fixture(scope="module")
async def own_pair() -> AsyncIterator[PostgresPair]:
    """A pair whose servers these tests may stop."""
    async with PostgresPair() as pair:
        yield pair


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
            await until(lambda: _is_sleeping(fresh_database))
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
        assert not await _is_sleeping(fresh_database)

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


async def _is_sleeping(scratch: Scratch) -> bool:
    found = await scratch.value(
        "SELECT count(*) FROM pg_stat_activity WHERE datname = $1 AND wait_event = 'PgSleep'",
        scratch.name,
    )
    return bool(found)


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
            assert {holder._inactive_callback for holder in pool._holders} == {None}
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
        await until(lambda: _has_no_sessions(fresh_database))


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


async def _has_no_sessions(scratch: Scratch) -> bool:
    found = await scratch.pair.primary.value(
        "SELECT count(*) FROM pg_stat_activity WHERE datname = $1", scratch.name
    )
    return found == 0


class TestClosing:
    async def test_close_leaves_no_session_behind(self, fresh_database: Scratch) -> None:
        async with (
            opened(fresh_database.primary_uri, SMALL) as database,
            database.acquire(),
            database.acquire(),
        ):
            assert not await _has_no_sessions(fresh_database)
        await until(lambda: _has_no_sessions(fresh_database))

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
            await until(lambda: _is_sleeping(fresh_database))
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
