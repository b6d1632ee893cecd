"""A steady load of stale-tolerant reads by the routing client, and who served them."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final

from google.protobuf.message import Message

from proxy import errors
from proxy.client import RoutingClient
from proxy.routing.catalogue import RPCS

CALLS_PER_SECOND: Final = 50.0


@dataclass(frozen=True)
class Served:
    """One answered read. `lag` is the bound on the age of its data, `seconds` what it took."""

    rpc: str
    served_by: str
    route: str
    lag: float | None
    seconds: float
    answer: Any


async def read(client: RoutingClient, rpc_name: str, request: Message) -> Served:
    """Make one read; the answer of a stream is the list of its messages."""
    started = time.perf_counter()
    if RPCS[rpc_name].is_streaming:
        stream = client.stream(rpc_name, request)
        answer: Any = [message async for message in stream]
        facts: Any = stream
    else:
        facts = await client.call(rpc_name, request)
        answer = facts.response
    seconds = time.perf_counter() - started
    return Served(rpc_name, facts.served_by, facts.route, facts.lag, seconds, answer)


class ReadLoad:
    """Reads in turn from `requests` at a fixed rate; a slow call does not hold up the next one."""

    def __init__(self, client: RoutingClient, requests: Sequence[tuple[str, Message]]) -> None:
        self._client = client
        self._requests = itertools.cycle(requests)
        self.total = 0
        self.failures: list[str] = []
        self._served: Counter[tuple[str, str]] = Counter()

    def peek(self) -> Counter[tuple[str, str]]:
        """Return what `since_last` would, and leave it there."""
        return Counter(self._served)

    def since_last(self) -> Counter[tuple[str, str]]:
        """Return how many reads each (node, route) served since the last call of this."""
        served, self._served = self._served, Counter()
        return served

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Keep the load up inside the block; at its end the calls in flight finish."""
        calls: set[asyncio.Task[None]] = set()
        pacer = asyncio.create_task(self._pace(calls), name="read-load")
        try:
            yield
        finally:
            pacer.cancel()
            await asyncio.wait({pacer})
            if calls:
                await asyncio.wait(calls)

    async def _pace(self, calls: set[asyncio.Task[None]]) -> None:
        due = time.monotonic()
        for rpc_name, request in self._requests:
            task = asyncio.create_task(self._once(rpc_name, request), name=f"read-{rpc_name}")
            calls.add(task)
            task.add_done_callback(calls.discard)
            due += 1 / CALLS_PER_SECOND
            await asyncio.sleep(max(0.0, due - time.monotonic()))

    async def _once(self, rpc_name: str, request: Message) -> None:
        self.total += 1
        try:
            served = await read(self._client, rpc_name, request)
        except errors.MetastoreError as error:
            self.failures.append(f"{rpc_name}: {error}")
        else:
            self._served[served.served_by, served.route] += 1
