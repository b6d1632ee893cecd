"""What the contract suite sees: a metastore reached by one of three ways, and SQL beside it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any, Protocol

import asyncpg
from google.protobuf.message import Message

from proxy.routing.catalogue import RPCS
from proxy.store.metastore import PostgresMetastore


class Way(Protocol):
    """One way to reach the metastore."""

    async def call(self, rpc_name: str, request: Message) -> Any:
        """Make a unary call; raises `MetastoreError`."""

    def stream(self, rpc_name: str, request: Message) -> AsyncIterator[Any]:
        """Make a streaming call; raises `MetastoreError`."""


class StoreWay:
    """Straight to the store, in the test's process."""

    def __init__(self, store: PostgresMetastore) -> None:
        self._store = store

    async def call(self, rpc_name: str, request: Message) -> Any:
        return await self._store.unary(RPCS[rpc_name], request)

    def stream(self, rpc_name: str, request: Message) -> AsyncIterator[Any]:
        return self._store.stream(RPCS[rpc_name], request)


class Metastore:
    """What a contract case gets: calls by one way, and SQL on the primary to look at the rows."""

    def __init__(self, way: Way, sql: asyncpg.Connection) -> None:
        self.way = way
        self.sql = sql

    async def call(self, rpc_name: str, request: Message) -> Any:
        """Make a unary call."""
        return await self.way.call(rpc_name, request)

    async def stream(self, rpc_name: str, request: Message) -> list[Any]:
        """Make a streaming call and return all messages."""
        return [message async for message in self.way.stream(rpc_name, request)]
