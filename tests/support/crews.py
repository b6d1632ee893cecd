"""Nodes of several workers as processes, and what can be seen of the workers from outside."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import aiohttp
import grpc
import psutil

from proxy.demo.processes import NodeProcess
from proxy.proto.metastore_proxy.v1 import proxy_pb2 as pb
from proxy.roles import Role

_REPLICATION: Final = "/metastore.proxy.v1.ProxyService/GetReplication"


class CrewNode:
    """One node. `config` is added to its configuration file."""

    def __init__(
        self,
        node_id: str,
        role: Role,
        directory: Path,
        environ: Mapping[str, str],
        *,
        workers: int = 2,
        **config: Any,
    ) -> None:
        path = self.config = directory / f"{node_id}.json"
        proxy = {"log_level": "debug", "log_format": "json", "workers": workers}
        proxy |= config.pop("proxy", {})
        path.write_text(json.dumps({"version": "0.8", "proxy": proxy, **config}))
        self.process = NodeProcess(node_id, role, directory, environ, config=path)

    def workers(self) -> dict[int, psutil.Process]:
        """Return the worker processes by their numbers."""
        found = {}
        for child in psutil.Process(self.process.pid).children():
            # One that has ended has no command line.
            if named := re.search(r" (\d+):\d+:\S+$", " ".join(child.cmdline())):
                found[int(named[1])] = child
        return found

    async def get(self, path: str) -> tuple[int, str]:
        """Ask the REST port."""
        async with (
            aiohttp.ClientSession() as http,
            http.get(f"{self.process.rest_url}{path}") as response,
        ):
            return response.status, await response.text()

    async def count(self, series: str) -> float:
        """Return the sum of a series' samples that begin with these letters."""
        _, text = await self.get("/metrics")
        return sum(
            float(line.rsplit(" ", 1)[1]) for line in text.splitlines() if line.startswith(series)
        )

    def logged(self, message: str = "") -> list[dict[str, Any]]:
        """Return the lines of the log that have this message; all without one."""
        text = self.process.log_path.read_text()
        lines = [json.loads(line) for line in text.splitlines() if line.endswith("}")]
        return [line for line in lines if message in ("", line["message"])]

    def calls_by_worker(self, rpc: str) -> Counter[int]:
        """Return how many calls of an RPC each worker logged."""
        return Counter(line["worker"] for line in self.logged("call") if line["rpc"] == rpc)

    @asynccontextmanager
    async def connected(self, worker: int) -> AsyncIterator[grpc.aio.Channel]:
        """Have a connection to one worker; each attempt leads to any of them."""
        while True:
            options = [("grpc.use_local_subchannel_pool", 1)]
            async with grpc.aio.insecure_channel(self.process.address, options=options) as channel:
                ask = channel.unary_unary(
                    _REPLICATION,
                    lambda message: message.SerializeToString(),
                    pb.GetReplicationResponse.FromString,
                )
                answer = await ask(pb.GetReplicationRequest(), timeout=10)
                assert answer.node_id == self.process.node_id
                if answer.worker == worker:
                    yield channel
                    return
