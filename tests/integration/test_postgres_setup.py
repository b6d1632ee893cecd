"""The files of `config/postgres` in the hands of operators: who is what, from where, again."""

from __future__ import annotations

import asyncio
import os
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import asyncpg
import pytest

from proxy.demo.postgres import PostgresPair, quoted
from proxy.demo.postgres_setup import PostgresSetup
from tests.support.granted import OWNER, READ_ONLY, READ_WRITE, Granted, granted_database
from tests.support.postgres import SETUP
from tests.support.waiting import until

REPLICATION = "quickwit_replication"
# An address of this machine that is not the one that `pg_hba.conf` trusts with the superuser.
ELSEWHERE = "127.0.0.2"


@pytest.fixture(scope="module")
async def granted(pg: PostgresPair) -> AsyncIterator[Granted]:
    """A database that `roles.sql` made."""
    async with granted_database(pg) as made:
        yield made


def setup_of(pair: PostgresPair) -> PostgresSetup:
    """Return the files that set the pair up."""
    assert pair.setup is not None
    return pair.setup


async def test_no_role_is_more_than_it_must_be(pg: PostgresPair, granted: Granted) -> None:
    connection = await pg.primary.connect()
    try:
        rows = await connection.fetch(
            """
            SELECT rolname, rolcanlogin, rolreplication,
                   rolsuper OR rolcreaterole OR rolcreatedb OR rolbypassrls AS is_powerful,
                   ARRAY(SELECT roleid::regrole::text FROM pg_auth_members
                         WHERE member = pg_roles.oid) AS member_of
            FROM pg_roles WHERE rolname LIKE 'quickwit%' ORDER BY rolname
            """
        )
    finally:
        await connection.close()
    assert [tuple(row) for row in rows] == [
        (OWNER, True, False, False, []),
        (REPLICATION, True, True, False, []),
        (READ_ONLY, True, False, False, []),
        (READ_WRITE, True, False, False, []),
    ]


async def test_everything_in_the_database_is_the_owners(granted: Granted) -> None:
    owners = await granted.scratch.value(
        """
        SELECT array_agg(DISTINCT tableowner ORDER BY tableowner) FROM pg_tables
        WHERE schemaname = 'public'
        """
    )
    assert owners == [OWNER]


async def test_whoever_was_granted_nothing_gets_nothing(granted: Granted) -> None:
    await granted.scratch.execute("CREATE ROLE stranger LOGIN PASSWORD 'x'")
    try:
        uri = granted.scratch.pair.primary_uri(granted.scratch.name, user="stranger", password="x")
        with pytest.raises(asyncpg.InsufficientPrivilegeError, match="permission denied for data"):
            await asyncpg.connect(uri, ssl=False)
    finally:
        await granted.scratch.execute("DROP ROLE stranger")


async def test_repeating_it_changes_nothing(pg: PostgresPair, granted: Granted) -> None:
    query = """
        SELECT json_build_array(
            (SELECT json_agg(relacl::text ORDER BY oid) FROM pg_class
             WHERE relnamespace = 'public'::regnamespace),
            (SELECT json_agg(defaclacl::text ORDER BY oid) FROM pg_default_acl),
            (SELECT datacl::text FROM pg_database WHERE datname = current_database()),
            (SELECT nspacl::text FROM pg_namespace WHERE nspname = 'public')
        )::text
    """
    before = await granted.scratch.value(query)
    await setup_of(pg).make_roles(pg.primary, granted.scratch.name)
    assert await granted.scratch.value(query) == before


async def test_the_administrator_of_a_managed_service_can_run_it(pg: PostgresPair) -> None:
    database = f"managed_{os.getpid()}"
    await pg.primary.execute("CREATE ROLE administrator LOGIN CREATEROLE CREATEDB PASSWORD 'x'")
    try:
        # As whoever made the roles may: he does not make them here, where others use them.
        await pg.primary.execute(
            f"GRANT {OWNER}, {READ_WRITE}, {READ_ONLY} TO administrator WITH ADMIN OPTION"
        )
        for _ in range(2):
            await psql(pg, database, user="administrator", password="x")
        owner = await pg.primary.value(
            "SELECT datdba::regrole::text FROM pg_database WHERE datname = $1", database
        )
        assert owner == OWNER
    finally:
        await pg.drop_database(database)
        await pg.primary.execute("DROP OWNED BY administrator; DROP ROLE administrator")


async def psql(pair: PostgresPair, database: str, **login: str) -> None:
    """Run `roles.sql` by psql, as somebody else than the superuser."""
    primary = pair.primary
    await primary.run(
        "psql",
        "--no-psqlrc",
        "--quiet",
        f"--dbname=host=127.0.0.1 port={primary.port} user={login['user']} dbname=postgres",
        f"--file={pair.directory / 'setup' / 'roles.sql'}",
        PGPASSWORD=login["password"],
        METASTORE_DATABASE=database,
    )


async def test_a_database_that_quickwit_made_keeps_its_owner(pg: PostgresPair) -> None:
    database = f"existing_{os.getpid()}"
    await pg.primary.execute("CREATE ROLE quickwit_user LOGIN PASSWORD 'x'")
    await pg.primary.execute(f"CREATE DATABASE {quoted(database)} OWNER quickwit_user")
    try:
        await pg.primary.execute(
            "SET ROLE quickwit_user; CREATE TABLE splits (id int)", database=database
        )
        await pg.primary.run(
            "psql",
            "--no-psqlrc",
            "--quiet",
            f"--dbname=host=127.0.0.1 port={pg.primary.port} user=postgres dbname=postgres",
            f"--file={pg.directory / 'setup' / 'roles.sql'}",
            PGPASSWORD=pg.password,
            METASTORE_DATABASE=database,
            METASTORE_OWNER="quickwit_user",
        )
        for role, right in ((READ_ONLY, "SELECT"), (READ_WRITE, "DELETE")):
            assert await pg.primary.value(
                "SELECT has_table_privilege($1, 'splits', $2)", role, right, database=database
            )
    finally:
        await pg.drop_database(database)
        await pg.primary.execute("DROP ROLE quickwit_user")


@asynccontextmanager
async def from_elsewhere(port: int) -> AsyncIterator[int]:
    """Lend a port that passes connections on to a server, from another address of the machine."""

    async def pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        other_reader, other_writer = await asyncio.open_connection(
            "127.0.0.1", port, local_addr=(ELSEWHERE, 0)
        )

        async def copy(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
            try:
                while data := await source.read(65536):
                    target.write(data)
                    await target.drain()
            except ConnectionError:
                pass
            finally:
                target.close()

        await asyncio.gather(copy(reader, other_writer), copy(other_reader, writer))

    server = await asyncio.start_server(pass_on, "127.0.0.1", 0)
    async with server:
        yield server.sockets[0].getsockname()[1]


async def login(port: int, user: str, password: str, database: str) -> str:
    """Return "" when somebody may log in, else why not."""
    try:
        connection = await asyncpg.connect(
            host="127.0.0.1",
            port=port,
            user=user,
            password=password,
            database=database,
            ssl=False,
        )
    except asyncpg.PostgresError as error:
        return type(error).__name__
    await connection.close()
    return ""


async def test_from_other_machines_only_the_roles_reach_only_their_database(
    pg: PostgresPair,
) -> None:
    setup = setup_of(pg)
    refused, wrong = "InvalidAuthorizationSpecificationError", "InvalidPasswordError"
    await setup.make_roles(pg.primary, "quickwit")
    try:
        async with from_elsewhere(pg.primary.port) as port:
            found = {
                (user, database): await login(port, user, password, database)
                for user, password in {**setup.passwords, "postgres": pg.password}.items()
                for database in ("quickwit", "postgres")
            }
            found["a wrong password"] = await login(port, READ_ONLY, "wrong", "quickwit")
    finally:
        await pg.drop_database("quickwit")
    allowed = {(OWNER, "quickwit"), (READ_WRITE, "quickwit"), (READ_ONLY, "quickwit")}
    assert {key for key, problem in found.items() if not problem} == allowed
    assert found.pop("a wrong password") == wrong
    assert {problem for problem in found.values() if problem} == {refused}


@pytest.mark.parametrize("server", ["primary", "standby"])
async def test_the_servers_run_on_the_files(pg: PostgresPair, server: str) -> None:
    one = getattr(pg, server)
    assert await one.value("SHOW max_slot_wal_keep_size") == "4GB"
    assert await one.value("SHOW hot_standby_feedback") == "on"
    assert await one.value("SELECT count(*) FROM pg_hba_file_rules WHERE error IS NOT NULL") == 0
    # These servers are told on the command line to listen on one address alone.
    refused = "SELECT string_agg(name, ',') FROM pg_file_settings WHERE error IS NOT NULL"
    assert await one.value(refused) == "listen_addresses"


async def test_the_standby_streams_as_the_role_for_it_through_its_slot(pg: PostgresPair) -> None:
    connection = await pg.primary.connect()
    try:
        row = await connection.fetchrow(
            """
            SELECT usename, slot_name, active, wal_status
            FROM pg_stat_replication JOIN pg_replication_slots ON active_pid = pid
            """
        )
    finally:
        await connection.close()
    assert row is not None
    assert tuple(row) == (REPLICATION, "standby1", True, "reserved")


async def test_a_slot_that_was_given_up_is_replaced(pg: PostgresPair) -> None:
    """No clone can be made with it: PostgreSQL refuses to stream from it."""
    slot = f"lost_{os.getpid()}"
    state = "SELECT wal_status FROM pg_replication_slots WHERE slot_name = $1"

    async def is_lost() -> bool:
        await pg.primary.execute("SELECT pg_logical_emit_message(false, 'test', 'x')")
        await pg.primary.execute("SELECT pg_switch_wal()")
        await pg.wait_caught_up()
        await pg.primary.execute("CHECKPOINT")
        return bool(await pg.primary.value(state, slot) == "lost")

    await pg.primary.value("SELECT pg_create_physical_replication_slot($1, true)::text", slot)
    await pg.primary.execute("ALTER SYSTEM SET max_slot_wal_keep_size = '1MB'")
    try:
        await pg.primary.execute("SELECT pg_reload_conf()")
        await until(is_lost)
        await setup_of(pg).make_slot(pg.primary, slot)
        # As a new one is, until a replica comes.
        assert await pg.primary.value(state, slot) is None
    finally:
        await pg.primary.execute("ALTER SYSTEM RESET max_slot_wal_keep_size")
        await pg.primary.execute("SELECT pg_reload_conf()")
        await pg.primary.value("SELECT pg_drop_replication_slot($1)::text", slot)


def run_replica(data: Path, programs: Path, *command: str, **variables: str) -> tuple[int, str]:
    """Run `replica.sh` with other programs in the place of PostgreSQL's."""
    made = subprocess.run(
        ["/bin/sh", str(SETUP / "replica.sh"), *command],
        env={"PATH": f"{programs}:{os.environ['PATH']}", "PGDATA": str(data), **variables},
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
    )
    return made.returncode, made.stdout + made.stderr


@pytest.fixture
def programs(tmp_path: Path) -> Path:
    """A `pg_basebackup` that fails the first time, half done, and a `sleep` that does not."""
    made = tmp_path / "programs"
    made.mkdir()
    backup = """#!/bin/sh
        echo "$@" >>"$0.log"
        for one; do case $one in --pgdata=*) target=${one#--pgdata=} ;; esac; done
        mkdir "$target" && touch "$target/half"
        test -e "$0.done" && echo 18 >"$target/PG_VERSION" && exit
        touch "$0.done"
        exit 1
        """
    for name, text in (("pg_basebackup", backup), ("sleep", "#!/bin/sh\n")):
        (made / name).write_text(text)
        (made / name).chmod(0o755)
    return made


def test_a_clone_is_tried_until_it_is_whole_and_then_kept(tmp_path: Path, programs: Path) -> None:
    data = tmp_path / "18" / "data"
    where = {"PRIMARY_HOST": "primary", "REPLICATION_PASSWORD": "secret", "PRIMARY_PORT": "15432"}
    status, output = run_replica(data, programs, "echo", "started", **where)
    assert status == 0
    assert output.startswith("started")
    assert "cannot clone primary yet" in output
    assert sorted(path.name for path in data.parent.iterdir()) == ["data"]
    assert data.stat().st_mode & 0o777 == 0o700

    # Its data is its own from now on: no variable of the clone is asked for again.
    assert run_replica(data, programs, "echo", "again") == (0, "again\n")

    log = (programs / "pg_basebackup.log").read_text()
    assert log.count("host=primary port=15432 user=quickwit_replication") == 2
    assert log.count("--slot=replica_1") == 2
    assert "secret" not in log


@pytest.mark.parametrize("missing", ["PRIMARY_HOST", "REPLICATION_PASSWORD"])
def test_a_clone_says_what_it_needs(tmp_path: Path, programs: Path, missing: str) -> None:
    where = {"PRIMARY_HOST": "primary", "REPLICATION_PASSWORD": "secret", missing: ""}
    status, output = run_replica(tmp_path / "data", programs, "echo", **where)
    assert status != 0
    assert f"{missing}: set it to the" in output


def test_a_directory_with_other_files_is_not_cloned_into(tmp_path: Path, programs: Path) -> None:
    (tmp_path / "lost+found").mkdir()
    where = {"PRIMARY_HOST": "primary", "REPLICATION_PASSWORD": "secret"}
    status, output = run_replica(tmp_path, programs, "echo", **where)
    assert status == 1
    assert "use a directory below it" in output
