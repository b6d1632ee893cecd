"""Nodes that tell how old their data may be, and tests that wait for it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace

from proxy.demo.postgres import PostgresPair
from proxy.node import Node
from proxy.roles import Role
from tests.support.nodes import node_config, running
from tests.support.replication import Told, telling
from tests.support.waiting import until

BEAT = 0.2
AGE = "SELECT extract(epoch FROM now()) - (value::json ->> 'at')::float8 FROM kv WHERE key = $1"


@asynccontextmanager
async def serving(
    role: Role, uri: str, *, node_id: str = "node-1", heartbeat: float | None = BEAT
) -> AsyncIterator[tuple[Node, Told]]:
    """Run a node with a short heartbeat and probe; connect to it."""
    config = node_config(role, uri, node_id=node_id)
    proxy = replace(config.proxy, heartbeat_interval=heartbeat, probe_interval=0.1)
    async with running(replace(config, proxy=proxy)) as node, telling(node) as told:
        yield node, told


@asynccontextmanager
async def paused(pair: PostgresPair) -> AsyncIterator[None]:
    await pair.pause_replay()
    try:
        yield
    finally:
        await pair.resume_replay()


async def lag_is(told: Told, condition: Callable[[float], bool], *, timeout: float = 20.0) -> None:
    async def holds() -> bool:
        lag = await told.lag()
        return lag is not None and condition(lag)

    await until(holds, timeout=timeout)
