"""A Service as Kubernetes has it: it spreads connections, and knows nothing of what they carry."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

from tests.support.servers import end_server


class Balancer:
    """Gives each new connection to the next of `endpoints`, which a test may change at any time.

    Connections that are there stay where they are.
    """

    def __init__(self) -> None:
        self.endpoints: list[tuple[str, int]] = []
        self.address = ""
        self._turns = itertools.count()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Carry one connection."""
        try:
            if not self.endpoints:
                return
            host, port = self.endpoints[next(self._turns) % len(self.endpoints)]
            inner_reader, inner_writer = await asyncio.open_connection(host, port)
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(_carry(reader, inner_writer))
                tasks.create_task(_carry(inner_reader, writer))
        except* OSError:
            pass
        finally:
            writer.close()


async def _carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    finally:
        writer.close()
        with suppress(OSError):
            await writer.wait_closed()


@asynccontextmanager
async def balancing() -> AsyncIterator[Balancer]:
    """Run a balancer."""
    balancer = Balancer()
    server = await asyncio.start_server(balancer.serve, "127.0.0.1", 0)
    host, port = server.sockets[0].getsockname()[:2]
    balancer.address = f"{host}:{port}"
    try:
        yield balancer
    finally:
        await end_server(server)
