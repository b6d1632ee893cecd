"""A PostgreSQL primary and its streaming hot standbys, for the demo and the tests.

Everything lives in one temporary directory and ends with the process that made it, even when
that process is killed: see `proxy.demo.watchdog`. Logins need a password (SCRAM-SHA-256).
"""

from __future__ import annotations

import asyncio
import atexit
import secrets
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from proxy.demo.postgres_host import PostgresError, choose_account, find_binaries
from proxy.demo.postgres_server import POLL, SUPERUSER, PostgresServer, Workspace
from proxy.demo.postgres_setup import PostgresSetup
from proxy.demo.watchdog import Watchdog

__all__ = ["PostgresError", "PostgresPair", "PostgresServer", "find_binaries"]

CATCH_UP_BOUND: Final = 30.0


class PostgresPair:
    """A primary and a hot standby that streams from it; `add_standby` makes it a trio.

    `async with PostgresPair() as pair` starts both and, at its end, leaves neither process nor
    directory. A failed or cancelled start cleans up as well.
    """

    def __init__(
        self,
        directory: Path | None = None,
        *,
        binaries: Path | None = None,
        setup: Path | None = None,
        settings: Mapping[str, str] | None = None,
    ) -> None:
        """Prepare a pair in a new temporary directory, made inside `directory` when given.

        `setup` is a directory with the files of `config/postgres`, which then set the pair up.
        `settings` are of PostgreSQL and go before those for small data.
        """
        self._given = settings or {}
        self._parent = directory
        self._binaries = binaries
        self.setup = None if setup is None else PostgresSetup(setup)
        self._password = secrets.token_urlsafe(18)
        self._servers: list[PostgresServer] = []
        self._watchdog: Watchdog | None = None
        self._workspace: Workspace | None = None

    @property
    def primary(self) -> PostgresServer:
        """The server that takes writes (until a standby is promoted)."""
        return self._server(0)

    @property
    def standby(self) -> PostgresServer:
        """The first standby."""
        return self._server(1)

    @property
    def standbys(self) -> tuple[PostgresServer, ...]:
        """All standbys, in the order they were added."""
        return tuple(self._servers[1:])

    @property
    def directory(self) -> Path:
        """The directory with data and logs; removed by `stop`."""
        return self._started().directory

    @property
    def password(self) -> str:
        """The superuser's random password."""
        return self._password

    def _started(self) -> Workspace:
        if self._workspace is None:
            raise PostgresError("the PostgreSQL pair is not started")
        return self._workspace

    def _server(self, position: int) -> PostgresServer:
        if len(self._servers) <= position:
            raise PostgresError("the PostgreSQL pair is not started")
        return self._servers[position]

    def primary_uri(
        self, database: str = "postgres", *, user: str = SUPERUSER, password: str | None = None
    ) -> str:
        """Return a URI of a database on the primary."""
        return self.primary.uri(database, user=user, password=password)

    def standby_uri(
        self, database: str = "postgres", *, user: str = SUPERUSER, password: str | None = None
    ) -> str:
        """Return a URI of a database on the first standby."""
        return self.standby.uri(database, user=user, password=password)

    async def start(self) -> None:
        """Start both servers and wait until both take connections; about one second."""
        if self._watchdog is not None:
            return
        binaries = self._binaries or find_binaries()
        directory = Path(tempfile.mkdtemp(prefix="metastore-proxy-pg-", dir=self._parent))
        watchdog = self._watchdog = Watchdog(directory)
        # The watchdog acts when this process is gone; this makes a normal exit wait for it.
        atexit.register(watchdog.close)
        try:
            account, binaries = await asyncio.to_thread(choose_account, binaries, directory)
            self._workspace = Workspace(binaries, directory, account, watchdog, self._password)
            if self.setup is not None:
                self.setup.copy_to(directory / "setup")
            primary = PostgresServer("primary", self._workspace, settings=self._settings)
            self._servers.append(primary)
            await self._initialise(primary)
            await primary.start()
            await self.add_standby()
        except BaseException:
            await self.stop()
            raise

    async def _initialise(self, primary: PostgresServer) -> None:
        await primary.initialise()

    async def add_standby(self) -> PostgresServer:
        """Clone the primary into one more standby, start it and return it."""
        primary = self.primary
        name = f"standby{len(self._servers)}"
        server = PostgresServer(name, self._started(), settings=self._settings)
        if self.setup is not None:
            await self.setup.clone(primary, server)
        else:
            await self._clone(primary, server)
        self._servers.append(server)
        await server.start()
        return server

    @property
    def _settings(self) -> dict[str, str]:
        return {**({} if self.setup is None else self.setup.settings), **self._given}

    async def _clone(self, primary: PostgresServer, server: PostgresServer) -> None:
        name = server.name
        server.prepare_data()
        await server.run(
            "pg_basebackup",
            f"--pgdata={server.data}",
            "--write-recovery-conf",
            "--wal-method=stream",
            "--create-slot",
            f"--slot={name}",
            "--checkpoint=fast",
            "--no-sync",
            "--no-password",
            f"--dbname=host=127.0.0.1 port={primary.port} user={SUPERUSER} application_name={name}",
            PGPASSWORD=self._password,
        )

    async def stop(self) -> None:
        """End all servers and remove the directory. Idempotent."""
        watchdog, self._watchdog = self._watchdog, None
        if watchdog is None:
            return
        try:
            # Nobody reads the data again, so nothing is gained by an orderly shutdown.
            for server in reversed(self._servers):
                await server.stop("immediate")
        finally:
            self._servers.clear()
            self._workspace = None
            await asyncio.to_thread(watchdog.close)
            atexit.unregister(watchdog.close)

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.stop()

    async def create_database(self, name: str, *, template: str | None = None) -> None:
        """Create a database on the primary; `wait_caught_up` makes it visible on the standbys."""
        clause = f" TEMPLATE {quoted(template)}" if template else ""
        await self.primary.execute(f"CREATE DATABASE {quoted(name)}{clause}")

    async def drop_database(self, name: str) -> None:
        """Drop a database if it exists, ending the connections to it, on the standbys as well."""
        await self.primary.execute(f"DROP DATABASE IF EXISTS {quoted(name)} WITH (FORCE)")

    async def wait_caught_up(self, timeout: float = CATCH_UP_BOUND) -> None:
        """Wait until the standbys show everything that is committed on the primary now.

        Raises `PostgresError` when one does not within `timeout` seconds, as with paused replay.
        """
        target = await self.primary.value("SELECT pg_current_wal_lsn()::text")
        await asyncio.gather(*(_replayed(server, target, timeout) for server in self.standbys))

    async def pause_replay(self) -> None:
        """Make the standby keep its present state while the primary goes on."""
        await self.standby.execute("SELECT pg_wal_replay_pause()")
        deadline = time.monotonic() + CATCH_UP_BOUND
        # The request is taken up by the recovery process a moment later.
        while await self.standby.value("SELECT pg_get_wal_replay_pause_state()") != "paused":
            if time.monotonic() > deadline:
                raise PostgresError(f"{self.standby.name} did not pause its replay")
            await asyncio.sleep(POLL)

    async def resume_replay(self) -> None:
        """Let the standby follow again; does nothing when it does."""
        await self.standby.execute("SELECT pg_wal_replay_resume()")

    async def promote(self) -> None:
        """Make the standby a primary of its own and wait until it takes writes."""
        if not await self.standby.value("SELECT pg_promote(true, 60)"):
            raise PostgresError(f"{self.standby.name} was not promoted: {self.standby.log_tail()}")


async def _replayed(server: PostgresServer, target: str, timeout: float) -> None:
    deadline = time.monotonic() + timeout
    connection = await server.connect()
    try:
        while not await connection.fetchval(
            "SELECT pg_last_wal_replay_lsn() >= $1::text::pg_lsn", target
        ):
            if time.monotonic() > deadline:
                raise PostgresError(f"{server.name} has not replayed {target} in {timeout:g} s")
            await asyncio.sleep(POLL / 5)
    finally:
        await connection.close()


def quoted(name: str) -> str:
    """Return an SQL identifier that stands for exactly this name."""
    return '"' + name.replace('"', '""') + '"'
