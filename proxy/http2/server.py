"""The server: listening sockets, what is served on them, and an end that lets calls finish.

Facts: RFC 9113, 6.8: a connection ends in two steps, so that no call is lost that was sent before
the peer could know; gRPC: a server that ages its connections draws each one's age within a tenth.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable, Coroutine, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from random import Random
from typing import Any, Final

import grpc

from proxy.http2 import fields, frames, messages, metadata
from proxy.http2.call import ServerCall
from proxy.http2.connection import Connection
from proxy.http2.faults import StreamFault
from proxy.http2.frames import ErrorCode
from proxy.http2.keepalive import KeepAlive
from proxy.http2.request import Request, read_request
from proxy.http2.sockets import BACKLOG

log = logging.getLogger(__name__)

_UNAVAILABLE: Final = grpc.StatusCode.UNAVAILABLE.value[0]
_UNIMPLEMENTED: Final = grpc.StatusCode.UNIMPLEMENTED.value[0]
_EXHAUSTED: Final = grpc.StatusCode.RESOURCE_EXHAUSTED.value[0]
_INTERNAL: Final = grpc.StatusCode.INTERNAL.value[0]

_MOST_STREAMS: Final = 10_000
# Facts: gRPC, "Compression": who cannot read an encoding says which ones it can.
_ACCEPTS: Final = fields.literal(b"grpc-accept-encoding", messages.ACCEPTED)
_AGE_JITTER: Final = 0.1
_KEEP_ALIVE_TIMEOUT: Final = 20.0
# How long the answer to a ping is waited for before calls under way are taken for all there are.
_LAST_CALLS: Final = 1.0
_FIRST_PING: Final = b"draining"
_LAST_PING: Final = b"drained?"
# How many turns of the event loop it takes to accept a connection.
_ACCEPTING: Final = 3
# How long callers have to take what was sent last (seconds).
_LAST_BYTES: Final = 2.0
# How TLS and HTTP/1 begin, and what the latter is told.
_TLS: Final = b"\x16"
_HTTP_1: Final = (b"GET ", b"POST ", b"HEAD ", b"PUT ", b"OPTIONS ")
_HTTP_1_TEXT: Final = b"this port speaks gRPC, over HTTP/2\n"
_HTTP_1_ANSWER: Final = (
    b"HTTP/1.1 400 Bad Request\r\nContent-Type: text/plain\r\nConnection: close\r\n"
    b"Content-Length: %d\r\n\r\n%s" % (len(_HTTP_1_TEXT), _HTTP_1_TEXT)
)


@dataclass(frozen=True)
class ServerLimits:
    """What callers may do. Sizes in bytes, times in seconds; None is no limit, and no pings."""

    message: int
    metadata: int = 16 * 1024
    keep_alive_interval: float | None = None
    keep_alive_timeout: float | None = None
    max_age: float | None = None
    max_age_grace: float | None = None
    # How long a peer has to say that it speaks HTTP/2.
    handshake: float = 20.0


class Server:
    """Serves `handlers` on sockets, from `open` until `stop`. For one event loop."""

    def __init__(self, limits: ServerLimits, *, rng: Random | None = None) -> None:
        self.limits = limits
        self.rng = rng or Random()  # noqa: S311 - nobody is to be kept from guessing
        self.connections: set[ServerConnection] = set()
        self.is_stopping = False
        self._handlers: list[grpc.GenericRpcHandler] = []
        self._methods: dict[str, grpc.RpcMethodHandler[Any, Any]] = {}
        self._servers: list[asyncio.Server] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._quiet = asyncio.Event()
        self._loop: asyncio.AbstractEventLoop | None = None

    def add_generic_rpc_handlers(self, handlers: Iterable[grpc.GenericRpcHandler]) -> None:
        """Serve what the handlers know."""
        self._handlers += handlers

    def add_registered_method_handlers(self, _service: str, _methods: object) -> None:
        """Do nothing: what the library's services register is known by their handlers already."""

    async def open(self, sockets: Sequence[socket.socket]) -> None:
        """Take connections."""
        loop = self._loop = asyncio.get_running_loop()
        for one in sockets:
            if one.family is socket.AF_UNIX:
                made = await loop.create_unix_server(self._connect, sock=one)
            else:
                made = await loop.create_server(self._connect, sock=one)
            # asyncio listens with less, which is also how many it accepts at a time.
            one.listen(BACKLOG)
            self._servers.append(made)

    def _connect(self) -> ServerConnection:
        return ServerConnection(self)

    def find(self, path: str) -> grpc.RpcMethodHandler[Any, Any] | None:
        """Return what serves a path; None if nothing does."""
        found = self._methods.get(path)
        if found is None:
            details = _Details(path)
            for handler in self._handlers:
                if (found := handler.service(details)) is not None:
                    self._methods[path] = found
                    break
        return found

    def start(self, work: Coroutine[Any, Any, None], name: str) -> asyncio.Task[None]:
        """Run a call's handler."""
        task = (self._loop or asyncio.get_running_loop()).create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def left(self, connection: ServerConnection) -> None:
        """Take note that a connection is gone."""
        self.connections.discard(connection)
        if not self.connections:
            self._quiet.set()

    async def stop(self, grace: float | None) -> None:
        """Take no new connections and calls; end those under way after `grace` seconds.

        With None at once. Returns when no handler runs any more. A second call may be shorter.
        """
        self.is_stopping = True
        await self._shut()
        for connection in tuple(self.connections):
            connection.drain()
        if grace is not None:
            await self._until_quiet(grace)
        for connection in tuple(self.connections):
            connection.end("the node is shutting down")
        if self._tasks:
            await asyncio.wait(tuple(self._tasks))
        await self._until_quiet(_LAST_BYTES)
        for connection in tuple(self.connections):
            connection.abort("the node is shutting down")
        await self._until_quiet(_LAST_BYTES)

    async def _shut(self) -> None:
        """Accept no more, once the connections that were just accepted are known.

        Python 3.11 forgets a connection whose transport is made after its server was closed: the
        peer hears nothing of it.
        """
        loop = asyncio.get_running_loop()
        for one in self._servers:
            for listening in one.sockets:
                loop.remove_reader(listening.fileno())
        for _ in range(_ACCEPTING):
            await asyncio.sleep(0)
        for one in self._servers:
            one.close()

    async def _until_quiet(self, timeout: float) -> None:
        """Wait up to `timeout` seconds until there is no connection."""
        if not self.connections:
            return
        self._quiet.clear()
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout):
                await self._quiet.wait()


class _Details(grpc.HandlerCallDetails):
    """What the library's handlers want to know of a call."""

    def __init__(self, path: str) -> None:
        self.method = path
        self.invocation_metadata = ()


class ServerConnection(Connection):
    """A connection that a caller has made."""

    def __init__(self, server: Server) -> None:
        super().__init__(
            {
                frames.MAX_CONCURRENT_STREAMS: _MOST_STREAMS,
                frames.MAX_HEADER_LIST_SIZE: server.limits.metadata,
            }
        )
        self._server = server
        self.message_limit = server.limits.message
        self.peer = ""
        self._timers: dict[str, asyncio.TimerHandle] = {}
        self._keep_alive: KeepAlive | None = None
        self._last_taken: int | None = None
        self._last_request: tuple[Sequence[tuple[bytes, bytes]], Request | None] = (), None
        self._is_draining = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Greet the caller, and begin to count its time."""
        super().connection_made(transport)
        self._server.connections.add(self)
        self.peer = _peer_name(transport)
        limits = self._server.limits
        self._after("handshake", limits.handshake, self._check_handshake)
        if limits.max_age is not None:
            jitter = self._server.rng.uniform(1 - _AGE_JITTER, 1 + _AGE_JITTER)
            self._after("age", limits.max_age * jitter, self._age)
        if limits.keep_alive_interval is not None:
            timeout = limits.keep_alive_timeout or _KEEP_ALIVE_TIMEOUT
            self._keep_alive = KeepAlive(self, limits.keep_alive_interval, timeout)
        if self._server.is_stopping:
            self.drain()

    def over(self, reason: str) -> None:
        """Forget the timers."""
        for timer in self._timers.values():
            timer.cancel()
        self._timers.clear()
        if self._keep_alive is not None:
            self._keep_alive.stop()

    def lost(self) -> None:
        """Tell the server."""
        self._server.left(self)

    # Calls

    def now(self) -> float:
        """Return the event loop's time."""
        return self._loop.time()

    def call_later(self, delay: float, act: Callable[[], None]) -> asyncio.TimerHandle:
        """Run `act` in `delay` seconds."""
        return self._loop.call_later(delay, act)

    def start(self, work: Coroutine[Any, Any, None], name: str) -> asyncio.Task[None]:
        """Run a call's handler."""
        return self._server.start(work, name)

    def begin(self, stream_id: int, fields: Sequence[tuple[bytes, bytes]], *, is_end: bool) -> None:
        """Take a call."""
        if self._last_taken is not None or len(self.streams) >= _MOST_STREAMS:
            raise StreamFault(ErrorCode.REFUSED_STREAM, "no more calls are taken")
        request = self._read_request(fields)
        if is_end and request.content_length:
            raise StreamFault(ErrorCode.PROTOCOL_ERROR, "`content-length` is not that of the body")
        call = ServerCall(self, stream_id, request, is_half_closed=is_end)
        self.streams[stream_id] = call
        if request.http_status != 200:
            self._refuse_http(call, request.http_status)
            return
        method = self._server.find(request.path)
        refusal = self._refusal(request)
        if method is None:
            refusal = refusal or (_UNIMPLEMENTED, f"there is no method {request.path[:256]!r}", b"")
        if refusal is not None:
            call.end(*refusal)
        elif method is not None:
            call.begin(method)

    def _read_request(self, fields: Sequence[tuple[bytes, bytes]]) -> Request:
        # Fields that are the same object are the same fields: see `FieldReader`.
        known, request = self._last_request
        if request is None or known is not fields:
            request = read_request(fields)
            self._last_request = fields, request
        return request

    def _refusal(self, request: Request) -> tuple[int, str, bytes] | None:
        limit = self._server.limits.metadata
        if request.size > limit:
            text = f"the metadata takes {request.size} bytes, more than the {limit} that are taken"
            return _EXHAUSTED, text, b""
        if request.problem:
            return _INTERNAL, request.problem, b""
        if not messages.is_known(request.encoding):
            accepted = messages.ACCEPTED.decode()
            text = f"`grpc-encoding` {request.encoding[:64]!r} is none of {accepted}"
            return _UNIMPLEMENTED, text, _ACCEPTS
        return None

    def _refuse_http(self, call: ServerCall, status: int) -> None:
        block = fields.literal(b":status", b"%d" % status)
        text = "this port speaks gRPC: see `content-type` and `:method`"
        block += metadata.write_status(_INTERNAL, text)
        stream_id = call.side.stream_id
        self.out.answer(self.out.block(stream_id, block, end_stream=True))
        call.close()

    # Ends

    def wrong_protocol(self, data: bytes) -> None:
        """Say in the log what a caller spoke instead: it will not say itself."""
        spoken = "TLS" if data[:1] == _TLS else "something other than HTTP/2"
        log.warning(
            "connection refused",
            extra={"client": self.peer, "reason": f"it speaks {spoken} at a port of plain gRPC"},
        )
        if data.startswith(_HTTP_1):
            self.out.write(_HTTP_1_ANSWER)
            self.leave("the peer speaks HTTP/1")
        else:
            super().wrong_protocol(data)

    def drain(self) -> None:
        """Take no new calls, and close when those under way are done."""
        if self._is_draining or self.is_closed:
            return
        self._is_draining = True
        if not self.has_preface:
            self.fail(ErrorCode.NO_ERROR, "the node is shutting down")
            return
        self.out.write(frames.goaway(frames.LARGEST_STREAM, ErrorCode.NO_ERROR))
        self.ping(_FIRST_PING)
        self._after("drain", _LAST_CALLS, self._take_no_more)

    def ping_answered(self, payload: bytes) -> None:
        """Go on with what the answer was waited for.

        Peers answer a ping before they send calls that they have begun (hyper does): the answer to
        the first tells that no more are begun, that to the next that all of them have come.
        """
        if payload == _FIRST_PING:
            self.ping(_LAST_PING)
        elif payload == _LAST_PING:
            self._take_no_more()

    def _take_no_more(self) -> None:
        if self._last_taken is None and self._is_draining and not self.is_closed:
            self._last_taken = self.last_stream
            self.out.write(frames.goaway(self.last_stream, ErrorCode.NO_ERROR))
            self.stream_ended()

    def last_taken(self) -> int:
        """Return the last stream that is served: once promised, it stays."""
        return super().last_taken() if self._last_taken is None else self._last_taken

    def stream_ended(self) -> None:
        """Close a connection that drains after its last call, or whose peer reads nothing."""
        if self.out.is_flooded():
            log.info("connection ended", extra={"reason": "the peer does not read its answers"})
            self.abort("the peer does not read its answers")
        if self._last_taken is not None and not self.streams and not self.is_closed:
            self.leave("the connection was drained")

    def end(self, text: str) -> None:
        """End all calls with UNAVAILABLE, and the connection."""
        for stream in tuple(self.streams.values()):
            # Of one that is in the middle of a message the caller learns by the connection's end:
            # no code of a reset says "unavailable".
            if isinstance(stream, ServerCall) and not stream.side.is_midway:
                stream.end(_UNAVAILABLE, text)
        if not self.is_closed:
            self.fail(ErrorCode.NO_ERROR, text)

    def _after(self, name: str, delay: float, act: Callable[[], None]) -> None:
        self._timers[name] = self._loop.call_later(delay, act)

    def _check_handshake(self) -> None:
        if not self.has_settings:
            self.fail(ErrorCode.SETTINGS_TIMEOUT, "the peer said nothing in time")

    def _age(self) -> None:
        self.drain()
        grace = self._server.limits.max_age_grace
        if grace is not None and not self.is_closed:
            self._after("age", grace, lambda: self.end("the connection has reached its age"))


def _peer_name(transport: asyncio.BaseTransport) -> str:
    address = transport.get_extra_info("peername")
    if isinstance(address, tuple):
        host, port = address[:2]
        return f"ipv6:[{host}]:{port}" if ":" in host else f"ipv4:{host}:{port}"
    return "unix:"
