"""The life of one embedded PostgreSQL server: made, started, disturbed, stopped.

Facts: `postmaster.pid` in the data directory carries the
server's state on its eighth line: `ready` for a primary, `standby` for a hot standby that takes
connections. SIGINT is a fast shutdown, SIGQUIT an immediate one. Times are seconds.
"""

from __future__ import annotations

import asyncio
import signal
import subprocess
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal
from urllib.parse import quote

import asyncpg

from proxy.demo.postgres_host import HOST, Account, PostgresError, environment, free_port
from proxy.demo.watchdog import Watchdog, signal_all, wait_gone

SUPERUSER: Final = "postgres"
START_BOUND: Final = 60.0
STOP_BOUND: Final = 20.0
POLL: Final = 0.005

SETTINGS: Final = {
    "fsync": "off",
    "shared_buffers": "32MB",
    "max_connections": "200",
    "wal_level": "replica",
    "max_wal_senders": "10",
    "max_replication_slots": "10",
    "hot_standby": "on",
    "wal_retrieve_retry_interval": "200ms",
    # In the data directory, so that nothing stays behind in /dev/shm after a SIGKILL.
    "dynamic_shared_memory_type": "mmap",
    "log_line_prefix": "%m [%p] %a ",
    "timezone": "UTC",
    "log_timezone": "UTC",
}

StopMode = Literal["fast", "immediate"]
_STOP_SIGNALS: Final = {"fast": signal.SIGINT, "immediate": signal.SIGQUIT}


@dataclass(frozen=True)
class Workspace:
    """What the servers of one directory share."""

    binaries: Path
    directory: Path
    account: Account
    watchdog: Watchdog
    password: str


class PostgresServer:
    """A server on its own data directory and port, which it keeps over restarts.

    Not for concurrent use: one caller starts and stops it. After `kill` or `stop` it can be
    started again; the data is as a crash or a shutdown leaves it.
    """

    def __init__(
        self,
        name: str,
        workspace: Workspace,
        *,
        settings: Mapping[str, str] | None = None,
    ) -> None:
        self.name = name
        self.data = workspace.directory / name
        self.log_path = workspace.directory / f"{name}.log"
        self.port = 0
        self.settings = {**SETTINGS, **(settings or {})}
        self._workspace = workspace
        self._process: subprocess.Popen[bytes] | None = None

    def uri(
        self, database: str = "postgres", *, user: str = SUPERUSER, password: str | None = None
    ) -> str:
        """Return a URI of this server, by default with the superuser's password."""
        return uri(
            self.port, database, user, self._workspace.password if password is None else password
        )

    @property
    def binaries(self) -> Path:
        """The directory of the server's programs."""
        return self._workspace.binaries

    @property
    def superuser_password(self) -> str:
        """The superuser's password."""
        return self._workspace.password

    @property
    def pid(self) -> int | None:
        """The server's process id, None while it does not run."""
        if self._process is None or self._process.poll() is not None:
            return None
        return self._process.pid

    @property
    def is_running(self) -> bool:
        """Whether the process lives; it may not take connections yet."""
        return self.pid is not None

    @property
    def is_ready(self) -> bool:
        """Whether the server says that it takes connections."""
        if self.pid is None:
            return False
        try:
            lines = (self.data / "postmaster.pid").read_text().splitlines()
        except OSError:
            return False
        return (
            len(lines) >= 8
            and lines[0].strip() == str(self.pid)
            and lines[7].strip() in ("ready", "standby")
        )

    def log_tail(self, lines: int = 20) -> str:
        """Return the last lines of the server's log, without the superuser's password."""
        try:
            text = self.log_path.read_text(encoding="utf-8", errors="replace")
        except FileNotFoundError:
            return ""
        return "\n".join(text.splitlines()[-lines:]).replace(
            self._workspace.password, "***redacted***"
        )

    async def run(self, program: str, *arguments: str, **variables: str) -> None:
        """Run one of the other programs to its end; its output goes to the server's log."""
        command = [program, *arguments]
        process = self._spawn(command, environment() | variables)
        try:
            status = await _ended(process, START_BOUND)
        except BaseException:
            process.kill()
            raise
        finally:
            process.wait()
            self._workspace.watchdog.ended(process.pid)
        if status != 0:
            raise PostgresError(f"{program} failed with status {status}: {self.log_tail()}")

    def _spawn(
        self, command: Sequence[str], variables: Mapping[str, str]
    ) -> subprocess.Popen[bytes]:
        account = self._workspace.account
        program = str(self._workspace.binaries / command[0])
        # Errors and statements in it may repeat what a client sent.
        self.log_path.touch(mode=0o600)
        with self.log_path.open("ab") as log:
            process = subprocess.Popen(
                [*account.prefix, program, *command[1:]],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=dict(variables),
                cwd="/",
                # Ctrl-C on the terminal is for the owner, who then stops the servers in order.
                start_new_session=True,
            )
        self._workspace.watchdog.started(process.pid)
        return process

    async def initialise(self) -> None:
        """Create the data directory of a new server; every login needs the password (SCRAM)."""
        self.prepare_data()
        secret = self.data.with_suffix(".password")
        secret.touch(mode=0o600)
        self._workspace.account.own(secret)
        secret.write_text(self._workspace.password)
        try:
            await self.run(
                "initdb",
                f"--pgdata={self.data}",
                f"--username={SUPERUSER}",
                f"--pwfile={secret}",
                "--auth=scram-sha-256",
                "--encoding=UTF8",
                "--locale=C",
                "--no-sync",
                "--no-instructions",
            )
        finally:
            secret.unlink()

    def own(self, path: Path) -> None:
        """Make the server's account the owner of a file."""
        self._workspace.account.own(path)

    def prepare_data(self) -> None:
        """Make the empty data directory, private to the account."""
        self.data.mkdir(mode=0o700)
        self._workspace.account.own(self.data)

    async def start(self) -> None:
        """Start the server and wait until it takes connections.

        The first start chooses the port. Raises `PostgresError` with the end of the log.
        """
        if self.is_running:
            return
        attempts = 1 if self.port else 10
        for attempt in range(attempts):
            port = self.port or free_port()
            log_size = self.log_path.stat().st_size if self.log_path.exists() else 0
            try:
                await self._start(port)
            except PostgresError:
                with self.log_path.open("rb") as log:
                    log.seek(log_size)
                    collided = b"Address already in use" in log.read()
                if not collided or attempt + 1 == attempts:
                    raise
            else:
                self.port = port
                return

    async def _start(self, port: int) -> None:
        options = [f"--{name.replace('_', '-')}={value}" for name, value in self.settings.items()]
        command = ["postgres", "-D", str(self.data), "-h", HOST, "-p", str(port), "-k", ""]
        # The state of an earlier run that was killed must not be taken for this one's.
        self._process = self._spawn([*command, *options], environment())
        deadline = time.monotonic() + START_BOUND
        try:
            while not self.is_ready:
                if not self.is_running:
                    raise PostgresError(f"{self.name} did not start: {self.log_tail()}")
                if time.monotonic() > deadline:
                    raise PostgresError(
                        f"{self.name} did not get ready in {START_BOUND:g} s: {self.log_tail()}"
                    )
                await asyncio.sleep(POLL)
        except BaseException:
            await self.kill()
            raise

    async def stop(self, mode: StopMode = "fast") -> None:
        """Shut the server down and wait for it; killed when it takes over 20 s. Idempotent."""
        process = self._process
        if process is None:
            return
        self.resume()
        process.send_signal(_STOP_SIGNALS[mode])
        try:
            await _ended(process, STOP_BOUND)
        except TimeoutError:
            process.kill()
        self._reap(process)

    async def kill(self) -> None:
        """SIGKILL the server and all its processes, as a crash of the machine does."""
        process = self._process
        if process is None:
            return
        # Frozen first, so that it makes no process that the list lacks.
        process.send_signal(signal.SIGSTOP)
        children = _children(process.pid)
        process.kill()
        signal_all(children, signal.SIGKILL)
        self._reap(process)
        # A start refuses to share memory with a process that is still on its way out.
        await asyncio.to_thread(wait_gone, children, STOP_BOUND)

    def _reap(self, process: subprocess.Popen[bytes]) -> None:
        process.wait()
        self._workspace.watchdog.ended(process.pid)
        self._process = None

    async def restart(self, mode: StopMode = "fast") -> None:
        """Stop and start on the same port."""
        await self.stop(mode)
        await self.start()

    def pause(self) -> None:
        """Freeze the server and its processes: connections stay open and nothing answers."""
        self._signal_all(signal.SIGSTOP)

    def resume(self) -> None:
        """Let a frozen server go on."""
        self._signal_all(signal.SIGCONT)

    def _signal_all(self, number: signal.Signals) -> None:
        if self.pid is not None:
            # The server first: while it is frozen it makes no new processes.
            signal_all([self.pid], number)
            signal_all(_children(self.pid), number)

    async def connect(self, database: str = "postgres") -> asyncpg.Connection[asyncpg.Record]:
        """Open a superuser connection; the caller closes it."""
        return await asyncpg.connect(
            host=HOST,
            port=self.port,
            user=SUPERUSER,
            password=self._workspace.password,
            database=database,
            ssl=False,
            timeout=10,
        )

    async def execute(self, statement: str, *, database: str = "postgres") -> None:
        """Run statements as the superuser."""
        connection = await self.connect(database)
        try:
            await connection.execute(statement)
        finally:
            await connection.close()

    async def value(self, statement: str, *arguments: object, database: str = "postgres") -> Any:
        """Return the first value of a query run as the superuser."""
        connection = await self.connect(database)
        try:
            return await connection.fetchval(statement, *arguments)
        finally:
            await connection.close()


def uri(port: int, database: str, user: str, password: str) -> str:
    """Return a connection URI; every part may hold any character."""
    parts = [quote(part, safe="") for part in (user, password, database)]
    return f"postgresql://{parts[0]}:{parts[1]}@{HOST}:{port}/{parts[2]}"


async def _ended(process: subprocess.Popen[bytes], bound: float) -> int:
    deadline = time.monotonic() + bound
    while (status := process.poll()) is None:
        if time.monotonic() > deadline:
            raise TimeoutError
        await asyncio.sleep(POLL)
    return status


def _children(pid: int) -> list[int]:
    """Return the direct children; PostgreSQL's processes all are the server's direct children."""
    pairs: Iterable[tuple[str, str]]
    if Path("/proc/self/stat").exists():
        pairs = _pairs_of_proc()
    else:
        listing = subprocess.run(
            ["ps", "-A", "-o", "pid=,ppid="], capture_output=True, text=True, check=True
        )
        pairs = ((line.split()[0], line.split()[1]) for line in listing.stdout.splitlines())
    return [int(child) for child, parent in pairs if parent == str(pid)]


def _pairs_of_proc() -> Iterator[tuple[str, str]]:
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with suppress(OSError):
                # The program's name, in parentheses, may hold anything.
                stat = (entry / "stat").read_text(encoding="utf-8", errors="replace")
                yield entry.name, stat.rpartition(")")[2].split()[1]
