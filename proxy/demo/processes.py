"""Nodes as processes of their own, as an operator runs them: start, wait, stop, kill, restart."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

import aiohttp

from proxy.demo.postgres_host import HOST, free_port
from proxy.demo.watchdog import Watchdog
from proxy.roles import Role

START_BOUND: Final = 30.0
STOP_BOUND: Final = 40.0
POLL: Final = 0.02


class NodeError(Exception):
    """A node process could not be started or did not do what it was told; holds its last log."""


class NodeProcess:
    """One `metastore-proxy run` on ports that it keeps over restarts.

    `environment` is added to the caller's own, without its `QW_*` and `PG*` variables. The log of
    all runs is appended to `<directory>/<node_id>.log`. `host` is what the node listens on, `ports`
    its HTTP and gRPC ports where they are not to be free ones; `launcher` stands in front of the
    command.
    """

    def __init__(
        self,
        node_id: str,
        role: Role,
        directory: Path,
        environment: Mapping[str, str],
        *,
        config: Path | None = None,
        watchdog: Watchdog | None = None,
        host: str = HOST,
        ports: tuple[int, int] | None = None,
        launcher: Sequence[str] = (),
    ) -> None:
        self.node_id = node_id
        self.role = role
        self.log_path = directory / f"{node_id}.log"
        self.host = host
        self.rest_port, self.grpc_port = ports or (free_port(), free_port())
        self._launcher = tuple(launcher)
        self._config = config
        self._watchdog = watchdog
        self._process: subprocess.Popen[bytes] | None = None
        inherited = {
            name: value for name, value in os.environ.items() if not name.startswith(("QW_", "PG"))
        }
        self._environment = {
            **inherited,
            "QW_NODE_ID": node_id,
            "QW_LISTEN_ADDRESS": host,
            "QW_REST_LISTEN_PORT": str(self.rest_port),
            "QW_GRPC_LISTEN_PORT": str(self.grpc_port),
            "QW_DATA_DIR": str(directory),
            **environment,
        }

    @property
    def address(self) -> str:
        """The node's gRPC address."""
        return f"{self.host}:{self.grpc_port}"

    @property
    def gossip_address(self) -> str:
        """The node's gossip address, an item of `peer_seeds`."""
        return f"{self.host}:{self.rest_port}"

    @property
    def rest_url(self) -> str:
        """The node's HTTP address."""
        return f"http://{self.host}:{self.rest_port}"

    @property
    def pid(self) -> int | None:
        """The process id, None while it does not run."""
        if self._process is None or self._process.poll() is not None:
            return None
        return self._process.pid

    def start(self) -> None:
        """Start the process; `wait_ready` tells when it serves."""
        if self.pid is not None:
            return
        command = [*self._launcher, sys.executable, "-m", "proxy", "run"]
        command += ["--service", self.role.value]
        if self._config is not None:
            command += ["--config", str(self._config)]
        with self.log_path.open("ab") as log:
            self._process = subprocess.Popen(
                command,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                # Ctrl-C in the terminal is for the owner, which then stops its nodes in order.
                start_new_session=True,
            )
        if self._watchdog is not None:
            self._watchdog.started(self._process.pid)

    async def wait_ready(self, timeout: float = START_BOUND) -> None:
        """Wait until `/health/readyz` says so. `NodeError` with the log's end when it does not."""
        await self.wait_status(200, timeout)

    async def wait_status(self, status: int, timeout: float = START_BOUND) -> str:
        """Wait until `/health/readyz` answers with a status; return its body."""
        deadline = time.monotonic() + timeout
        async with aiohttp.ClientSession() as http:
            while True:
                answer = await self._readyz(http)
                if answer is not None and answer[0] == status:
                    return answer[1]
                if self.pid is None:
                    raise NodeError(f"{self.node_id} has ended: {self.log_tail()}")
                if time.monotonic() > deadline:
                    raise NodeError(
                        f"{self.node_id} did not answer {status} within {timeout:g} s "
                        f"(last answer {answer}): {self.log_tail()}"
                    )
                await asyncio.sleep(POLL)

    async def _readyz(self, http: aiohttp.ClientSession) -> tuple[int, str] | None:
        try:
            async with http.get(f"{self.rest_url}/health/readyz") as response:
                return response.status, await response.text()
        except (aiohttp.ClientError, OSError):
            return None

    def kill(self) -> None:
        """SIGKILL, as a crash does."""
        self._signal(signal.SIGKILL)
        self._reap(STOP_BOUND)

    def reload(self) -> None:
        """SIGHUP: read the configuration again."""
        self._signal(signal.SIGHUP)

    def freeze(self) -> None:
        """SIGSTOP: connections stay open and nothing answers, as when packets are dropped."""
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Let a frozen process go on."""
        self._signal(signal.SIGCONT)

    async def terminate(self, timeout: float = STOP_BOUND) -> int:
        """SIGTERM, as Kubernetes does; return the exit status of the drained process."""
        self._signal(signal.SIGTERM)
        self.thaw()
        return await asyncio.to_thread(self._reap, timeout)

    def _signal(self, number: int) -> None:
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(number)

    def _reap(self, timeout: float) -> int:
        process = self._process
        if process is None:
            return 0
        try:
            status = process.wait(timeout)
        except subprocess.TimeoutExpired:
            process.kill()
            status = process.wait()
        if self._watchdog is not None:
            self._watchdog.ended(process.pid)
        self._process = None
        return status

    def log_tail(self, lines: int = 15) -> str:
        """Return the last lines of the log."""
        try:
            text = self.log_path.read_text(encoding="utf-8", errors="replace")
        except FileNotFoundError:
            return "(no log)"
        return "\n".join(text.splitlines()[-lines:])
