"""A primary and a replica that fail as a test says, and a client in front of them."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any

import grpc

from proxy import errors
from proxy.client import CallRetried, Event, RoutingClient
from proxy.errors import MetastoreError
from proxy.proto.quickwit import metastore_pb2 as pb
from tests.support.fake_node import FakeNode, Unary, fail

REQUEST = pb.IndexMetadataRequest(index_id="hdfs-logs")
WRITE = pb.CreateIndexRequest(index_config_json="{}")


@dataclass
class Pair:
    """A primary and one replica, and a client for both."""

    primary: FakeNode
    replica: FakeNode
    client: RoutingClient
    events: list[Event]

    @property
    def retried(self) -> list[str]:
        return [event.error for event in self.events if isinstance(event, CallRetried)]

    async def settled(self) -> None:
        await self.client.wait_until(lambda now: all(b.is_serving for b in now.backends))


def raising(error: MetastoreError) -> Unary:
    async def unary(_name: str, _raw: bytes, context: Any) -> bytes:
        await fail(context, error)
        return b""

    return unary


def aborting(code: grpc.StatusCode) -> Unary:
    async def unary(_name: str, _raw: bytes, context: Any) -> bytes:
        await context.abort(code, "from the test")
        return b""

    return unary


def dying(node: FakeNode) -> Unary:
    async def unary(_name: str, _raw: bytes, _context: Any) -> bytes:
        death = asyncio.create_task(node.stop())
        await asyncio.shield(death)
        await asyncio.Event().wait()
        return b""

    return unary


async def hanging(_name: str, _raw: bytes, _context: Any) -> bytes:
    await asyncio.Event().wait()
    return b""


BACKEND_ERRORS = [
    errors.Connection("x"),
    errors.Db("x"),
    errors.Internal("x"),
    errors.Io("x"),
    errors.Timeout("x"),
    errors.TooManyRequests(),
    errors.Unavailable("x"),
]


def too_busy(refusals: int) -> Unary:
    """Refuse the first calls as too many, as a node does that has no permit left."""
    left = refusals

    async def unary(_name: str, _raw: bytes, context: Any) -> bytes:
        nonlocal left
        left -= 1
        if left >= 0:
            await fail(context, errors.TooManyRequests())
        return b""

    return unary


async def read(client: RoutingClient) -> str:
    return (await client.index_metadata(REQUEST)).served_by


async def write(client: RoutingClient) -> str:
    return (await client.create_index(WRITE)).served_by
