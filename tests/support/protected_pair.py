"""A primary and a replica with scripted answers, and a client in front of them."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any

from proxy import errors
from proxy.client import ClientOptions, Event, RoutingClient
from proxy.proto.quickwit import metastore_pb2 as pb
from tests.support.fake_node import FakeNode, Unary, fail

WRITE = pb.CreateIndexRequest(index_config_json="{}")


def request(number: int = 0) -> pb.IndexMetadataRequest:
    return pb.IndexMetadataRequest(index_id=f"index-{number}")


@dataclass
class Pair:
    primary: FakeNode
    replica: FakeNode
    events: list[Event]

    def client(self, **options: Any) -> RoutingClient:
        return RoutingClient(
            [self.primary.address],
            [self.replica.address],
            allow_writes=True,
            options=ClientOptions(**options),
            listener=self.events.append,
        )

    def count(self, kind: type) -> int:
        return sum(isinstance(event, kind) for event in self.events)


async def settled(client: RoutingClient) -> None:
    await client.wait_until(lambda now: all(b.is_serving for b in now.backends))


class Gate:
    """Holds calls until it is opened, and counts the most that were in at once."""

    def __init__(self, answer: bytes = b"") -> None:
        self._open = asyncio.Event()
        self._answer = answer
        self.inside = self.most = 0

    def open(self) -> None:
        self._open.set()

    async def __call__(self, _name: str, _raw: bytes, _context: Any) -> bytes:
        self.inside += 1
        self.most = max(self.most, self.inside)
        try:
            await self._open.wait()
        finally:
            self.inside -= 1
        return self._answer


def raising(error: errors.MetastoreError) -> Unary:
    async def unary(_name: str, _raw: bytes, context: Any) -> bytes:
        await fail(context, error)
        return b""

    return unary
