"""A real PgBouncer in transaction mode on the loopback interface, in front of the tests' servers.

It is taken from PATH or `METASTORE_PROXY_PGBOUNCER`, else from Debian's package.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from proxy.demo.postgres_host import HOST, free_port
from proxy.demo.watchdog import Watchdog
from tests.support import debian
from tests.support.waiting import until


@dataclass(frozen=True)
class PgBouncer:
    """A running pooler. Every session of it has one user."""

    port: int
    user: str
    password: str
    process: subprocess.Popen[bytes]
    log_path: Path

    def uri(self, name: str, *, setting: str = "?pgbouncer=true") -> str:
        """Return the URI of one of its databases, with the setting for it unless told not to."""
        return f"postgresql://{self.user}:{self.password}@{HOST}:{self.port}/{name}{setting}"

    def log(self) -> str:
        """Return what it has logged."""
        return self.log_path.read_text(encoding="utf-8", errors="replace")


@asynccontextmanager
async def pgbouncer(databases: Mapping[str, str], *, pool_size: int) -> AsyncIterator[PgBouncer]:
    """Run a pooler for databases, each a URI by its name, with `pool_size` servers for each.

    Skips the test where PgBouncer cannot be had. All URIs are of one user.
    """
    program, libraries = await asyncio.to_thread(_program)
    directory = _directory()
    parts = {name: urlsplit(uri) for name, uri in databases.items()}
    first = next(iter(parts.values()))
    user, password = str(first.username), str(first.password)
    port = free_port()
    lines = [f"{n} = host={u.hostname} port={u.port} dbname={u.path[1:]}" for n, u in parts.items()]
    config, users, log = (directory / name for name in ("bouncer.ini", "users", "log"))
    users.write_text(f'"{user}" "{password}"\n', encoding="utf-8")
    config.write_text(_config(lines, port, users, pool_size), encoding="utf-8")
    watchdog = Watchdog(directory)
    process = _start([str(program), str(config)], log, libraries)
    watchdog.started(process.pid)
    running = PgBouncer(port, user, password, process, log)
    try:
        await until(lambda: _answers(running), running.log)
        yield running
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait()
        watchdog.ended(process.pid)
        await asyncio.to_thread(watchdog.close)
        shutil.rmtree(directory, ignore_errors=True)


def _directory() -> Path:
    directory = Path(tempfile.mkdtemp(prefix="metastore-proxy-pgbouncer-"))
    # As root it becomes another user.
    directory.chmod(0o755)
    return directory


def _start(command: list[str], log: Path, libraries: str) -> subprocess.Popen[bytes]:
    with log.open("wb") as output:
        return subprocess.Popen(
            command,
            cwd=log.parent,
            env={**os.environ, "LD_LIBRARY_PATH": libraries},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
        )


def _config(databases: list[str], port: int, users: Path, pool_size: int) -> str:
    settings = {
        "listen_addr": HOST,
        "listen_port": port,
        "unix_socket_dir": "",
        "auth_type": "scram-sha-256",
        "auth_file": users,
        "pool_mode": "transaction",
        "default_pool_size": pool_size,
        "max_client_conn": 200,
        # Nothing is forgiven that a node does not say to be forgiven.
        "ignore_startup_parameters": "",
        "query_wait_timeout": 30,
    }
    if os.geteuid() == 0:
        settings["user"] = "nobody"
    rest = [f"{name} = {value}" for name, value in settings.items()]
    return "\n".join(["[databases]", *databases, "[pgbouncer]", *rest, ""])


async def _answers(running: PgBouncer) -> bool:
    try:
        reader, writer = await asyncio.open_connection(HOST, running.port)
    except OSError:
        return False
    writer.close()
    with suppress(OSError):
        await writer.wait_closed()
    del reader
    return True


def _program() -> tuple[Path, str]:
    """Return the program, and where it finds libraries that the system may lack."""
    given = os.environ.get("METASTORE_PROXY_PGBOUNCER") or shutil.which("pgbouncer")
    if given:
        return Path(given), os.environ.get("LD_LIBRARY_PATH", "")
    try:
        root = debian.unpacked("pgbouncer", holds="usr/sbin/pgbouncer", with_dependencies=True)
    except debian.Missing as error:
        pytest.skip(f"{error}; set `METASTORE_PROXY_PGBOUNCER`")
    libraries = sorted({str(path.parent) for path in (root / "usr/lib").rglob("lib*.so*")})
    return root / "usr/sbin/pgbouncer", ":".join(libraries)
