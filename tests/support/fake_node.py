"""A node without a database: real gRPC server, real health service, scripted answers."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, Self

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from proxy import errors
from proxy.proto.metastore_proxy.v1 import proxy_pb2
from proxy.routing import consistency
from proxy.routing.catalogue import RPCS, SERVICE
from tests.support.servers import end_server

Context = Any
Unary = Callable[[str, bytes, Context], Awaitable[bytes]]
Stream = Callable[[bytes, Context], AsyncIterator[bytes]]
Position = Callable[[], Awaitable[proxy_pb2.GetReplicationResponse]]

PROXY_SERVICE = "metastore.proxy.v1.ProxyService"

SERVER_OPTIONS = [
    ("grpc.so_reuseport", 0),
    ("grpc.http2.min_recv_ping_interval_without_data_ms", 100),
    ("grpc.http2.max_ping_strikes", 0),
    ("grpc.keepalive_permit_without_calls", 1),
]


async def empty(_name: str, _raw: bytes, _context: Context) -> bytes:
    return b""


async def no_messages(_raw: bytes, _context: Context) -> AsyncIterator[bytes]:
    for message in ():
        yield message


def at(lsn: str, **facts: Any) -> Position:
    """Say always the same of one's data: of cluster `ours`, on timeline 1, unless told else."""
    said: dict[str, Any] = {
        "timeline": 1,
        "cluster_identity": "ours",
        "database_reachable": True,
        "in_recovery": True,
        **facts,
    }

    async def position() -> proxy_pb2.GetReplicationResponse:
        return proxy_pb2.GetReplicationResponse(lsn=lsn, **said)

    return position


async def fail(context: Context, error: errors.MetastoreError) -> None:
    """End a call as a node does: status, message and `qw-error-bin`."""
    codes = {code.value[0]: code for code in grpc.StatusCode}
    metadata = ((errors.ERROR_METADATA_KEY, error.to_json()),)
    await context.abort(codes[int(error.code)], str(error), metadata)


class FakeNode:
    """Answers all RPCs with `unary` and `stream`, which a test may replace at any time.

    `calls` counts what arrived, `cancelled` what the client took back. `position` is asked by
    `GetReplication`; without one the node has no such service, as a node of Quickwit. With `lsn`
    it tells that position to calls that want one.
    """

    def __init__(
        self,
        name: str,
        *,
        role: str = "metastore_read_replica",
        lag: str | None = "0.250",
        has_health: bool = True,
        says_who: bool = True,
        host: str = "127.0.0.1",
        port: int = 0,
        position: Position | None = None,
    ) -> None:
        self.name = name
        self.host = host
        self.port = port
        self.unary: Unary = empty
        self.stream: Stream = no_messages
        self.calls: Counter[str] = Counter()
        self.metadata: list[dict[str, Any]] = []
        self.cancelled = 0
        self.position = position
        self.asked = 0
        self.lsn: str | None = None
        lag_part = ((consistency.LAG, lag),) if lag is not None else ()
        facts = ((consistency.SERVED_BY, name), (consistency.ROLE, role), *lag_part)
        self._facts = facts if says_who else ()
        self._has_health = has_health
        self._server: grpc.aio.Server | None = None
        self._health: Any = None
        self.is_serving = True

    @property
    def address(self) -> str:
        return f"{self.host}:{self.port}"

    def say(self, *facts: tuple[str, str]) -> None:
        """Tell more in every answer."""
        self._facts = (*self._facts, *facts)

    async def start(self) -> Self:
        server = grpc.aio.server(options=SERVER_OPTIONS)
        handlers = {name: self._handler(name) for name in RPCS}
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, handlers),))
        proxy_handlers = {
            "GetReplication": grpc.unary_unary_rpc_method_handler(
                self._get_replication,
                response_serializer=proxy_pb2.GetReplicationResponse.SerializeToString,
            )
        }
        server.add_generic_rpc_handlers(
            (grpc.method_handlers_generic_handler(PROXY_SERVICE, proxy_handlers),)
        )
        if self._has_health:
            self._health = health.aio.HealthServicer()
            health_pb2_grpc.add_HealthServicer_to_server(self._health, server)
            await self.show(self.is_serving)
        self.port = server.add_insecure_port(self.address)
        await server.start()
        self._server = server
        return self

    async def show(self, is_serving: bool) -> None:
        """Change what the health service says."""
        self.is_serving = is_serving
        status = health_pb2.HealthCheckResponse
        await self._health.set("", status.SERVING if is_serving else status.NOT_SERVING)

    async def stop(self) -> None:
        """End at once; calls in flight break."""
        server, self._server = self._server, None
        if server is not None:
            await server.stop(None)

    async def __aenter__(self) -> Self:
        return await self.start()

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def _get_replication(
        self, _raw: bytes, context: Context
    ) -> proxy_pb2.GetReplicationResponse:
        self.asked += 1
        if self.position is None:
            await context.abort(grpc.StatusCode.UNIMPLEMENTED, "no such service")
            raise AssertionError
        return await self.position()

    def _handler(self, name: str) -> Any:
        async def unary(raw: bytes, context: Context) -> bytes:
            self._note(name, context)
            try:
                return await self.unary(name, raw, context)
            except asyncio.CancelledError:
                self.cancelled += 1
                raise

        async def stream(raw: bytes, context: Context) -> AsyncIterator[bytes]:
            self._note(name, context)
            try:
                async for message in self.stream(raw, context):
                    yield message
            except (asyncio.CancelledError, GeneratorExit):
                self.cancelled += 1
                raise

        if RPCS[name].is_streaming:
            return grpc.unary_stream_rpc_method_handler(stream)
        return grpc.unary_unary_rpc_method_handler(unary)

    def _note(self, name: str, context: Context) -> None:
        self.calls[name] += 1
        self.metadata.append(dict(context.invocation_metadata() or ()))
        facts = self._facts
        if self.lsn is not None and consistency.WANT_LSN in self.metadata[-1]:
            facts = (*facts, (consistency.LSN, self.lsn))
        context.set_trailing_metadata(facts)


class Tunnel:
    """A TCP forwarder in front of a node that a test can cut (reset) or freeze (black hole)."""

    def __init__(self, node: FakeNode) -> None:
        self._node = node
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._writers: set[asyncio.StreamWriter] = set()
        self._flows = asyncio.Event()
        self._flows.set()
        self._is_closed = False
        self.port = 0

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._is_closed = True
        if self._server is not None:
            await end_server(self._server)
        # A connection that was accepted just before is handed over a few steps later.
        for _ in range(5):
            self.cut()
            for task in tuple(self._tasks):
                task.cancel()
            if self._tasks:
                await asyncio.wait(self._tasks)
            await asyncio.sleep(0)

    def freeze(self) -> None:
        """Let nothing through any more, without closing."""
        self._flows.clear()

    def cut(self) -> None:
        """Reset every connection."""
        for writer in self._writers:
            writer.transport.abort()
        self._writers.clear()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._is_closed:
            writer.transport.abort()
            return
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self._writers.add(writer)
        try:
            onward = await asyncio.open_connection("127.0.0.1", self._node.port)
            self._writers.add(onward[1])
            async with asyncio.TaskGroup() as group:
                group.create_task(self._pump(reader, onward[1]))
                group.create_task(self._pump(onward[0], writer))
        except (OSError, asyncio.CancelledError):
            writer.transport.abort()
        finally:
            self._tasks.discard(task)

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while data := await reader.read(65536):
                await self._flows.wait()
                writer.write(data)
                await writer.drain()
        except OSError:
            pass
        finally:
            writer.transport.abort()
