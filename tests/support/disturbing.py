"""Disturbing a cluster again and again while something else goes on."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from proxy.client import RoutingClient
from proxy.demo.processes import NodeProcess
from proxy.routing.members import BackendState


@asynccontextmanager
async def disturbed(disturb: Callable[[], Awaitable[None]]) -> AsyncIterator[None]:
    """Repeat `disturb` until the block ends; what it raises fails the test."""

    async def repeat() -> None:
        while True:
            await disturb()

    task = asyncio.create_task(repeat(), name="disturbance")
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait({task})
        if not task.cancelled():
            task.result()


def serves(client: RoutingClient, node: NodeProcess) -> bool:
    """Tell whether the client would send calls to a node."""
    backend = client.backends().get(node.address)
    return backend is not None and backend.state is BackendState.SERVING and not backend.is_ejected
