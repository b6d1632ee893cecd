"""A peer of HTTP/2 that sends any frames, and a transport in memory, for tests of `proxy.http2`."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from typing import Any, NamedTuple

import grpc
import hpack

from proxy.http2 import frames
from proxy.http2.server import Server, ServerConnection, ServerLimits
from tests.support.waiting import until

SERVICE = "t.T"
HELLO = frames.PREFACE + frames.settings({})
LIMITS = ServerLimits(message=4 * 1024 * 1024)

Field = tuple[bytes, bytes]
HEAD: tuple[Field, ...] = (
    (b":method", b"POST"),
    (b":scheme", b"http"),
    (b":path", b"/t.T/Echo"),
    (b":authority", b"x"),
    (b"te", b"trailers"),
    (b"content-type", b"application/grpc"),
)


class Frame(NamedTuple):
    """A frame as it came."""

    kind: int
    flags: int
    stream: int
    payload: bytes

    @property
    def is_end(self) -> bool:
        return self.kind in (frames.DATA, frames.HEADERS) and bool(self.flags & frames.END_STREAM)

    @property
    def word(self) -> int:
        """The last four bytes: an error code, an increment."""
        return int(struct.unpack("!I", self.payload[-4:])[0])


def take_frames(data: bytes) -> tuple[list[Frame], bytes]:
    """Return the whole frames at the beginning, and the rest."""
    found: list[Frame] = []
    while len(data) >= frames.HEADER_SIZE:
        high, low, kind, flags, stream = frames.unpack_header(data)
        end = frames.HEADER_SIZE + (high << 8 | low)
        if len(data) < end:
            break
        found.append(Frame(kind, flags, stream, data[frames.HEADER_SIZE : end]))
        data = data[end:]
    return found, data


def block(*fields: Field, head: Iterable[Field] = HEAD) -> bytes:
    """Return a header block of a head in which `fields` replace those of the same name."""
    kept = [field for field in head if field[0] not in {name for name, _ in fields}]
    ordered = sorted([*kept, *fields], key=lambda field: field[0][:1] != b":")
    encoded: bytes = hpack.Encoder().encode(ordered)
    return encoded


def headers(stream: int, *fields: Field, end: bool = False) -> bytes:
    """Return the HEADERS of a call."""
    return frames.header_block(stream, block(*fields), end_stream=end, frame_size=16_384)


def data(stream: int, body: bytes, *, end: bool = False) -> bytes:
    """Return a body as DATA."""
    starts = range(0, len(body), 16_384) or (0,)
    return b"".join(
        frames.frame(
            frames.DATA,
            frames.END_STREAM if end and start + 16_384 >= len(body) else 0,
            stream,
            body[start : start + 16_384],
        )
        for start in starts
    )


def message(raw: bytes, flag: int = 0) -> bytes:
    """Return a message of gRPC with what precedes it."""
    return struct.pack("!BI", flag, len(raw)) + raw


def call(stream: int, path: str = "Echo", raw: bytes = b"hello", *fields: Field) -> bytes:
    """Return a whole call with one message."""
    name = (b":path", f"/{SERVICE}/{path}".encode())
    return headers(stream, name, *fields) + data(stream, message(raw), end=True)


def handlers(**methods: Any) -> grpc.GenericRpcHandler:
    """Return handlers of `t.T` for bytes: pairs of a kind, such as "unary_stream", and a function;
    a function alone is unary."""
    makers: dict[str, Any] = {
        kind: getattr(grpc, f"{kind}_rpc_method_handler")
        for kind in ("unary_unary", "unary_stream", "stream_unary", "stream_stream")
    }
    made = {}
    for name, method in methods.items():
        kind, function = method if isinstance(method, tuple) else ("unary_unary", method)
        made[name] = makers[kind](function)
    return grpc.method_handlers_generic_handler(SERVICE, made)


async def echo(request: bytes, _context: Any) -> bytes:
    return request


@asynccontextmanager
async def serving(
    limits: ServerLimits = LIMITS, **methods: Any
) -> AsyncIterator[tuple[Server, int]]:
    """Serve `methods` (besides Echo) on a port; end without a grace."""
    import socket

    server = Server(limits)
    server.add_generic_rpc_handlers((handlers(**{"Echo": echo, **methods}),))
    listening = socket.create_server(("127.0.0.1", 0))
    await server.open([listening])
    try:
        yield server, int(listening.getsockname()[1])
    finally:
        await server.stop(None)


class Log:
    """Frames that came, with the fields of header blocks decoded in their order."""

    def __init__(self) -> None:
        self.frames: list[Frame] = []
        self.fields: dict[int, list[list[Field]]] = {}
        self._rest = b""
        self._decode = hpack.Decoder().decode

    def feed(self, received: bytes) -> list[Frame]:
        """Take bytes; return the frames that are whole by them."""
        found, self._rest = take_frames(self._rest + received)
        for frame in found:
            self.frames.append(frame)
            if frame.kind == frames.HEADERS:
                fields = [tuple(field) for field in self._decode(frame.payload, raw=True)]
                self.fields.setdefault(frame.stream, []).append(fields)
        return found

    def of(self, kind: int, stream: int | None = None) -> list[Frame]:
        """Return the frames of a kind, and of a stream."""
        return [
            frame for frame in self.frames if frame.kind == kind and stream in (None, frame.stream)
        ]

    def body(self, stream: int) -> bytes:
        """Return what came as DATA of a stream."""
        return b"".join(frame.payload for frame in self.of(frames.DATA, stream))

    def trailers(self, stream: int) -> dict[bytes, bytes]:
        """Return the last block of fields of a stream."""
        return dict(self.fields[stream][-1])

    def status(self, stream: int) -> int:
        """Return the gRPC status of a stream."""
        return int(self.trailers(stream)[b"grpc-status"])

    def is_done(self, stream: int) -> bool:
        """Whether the peer has ended its side of a stream, or reset it."""
        return any(frame.is_end and frame.stream == stream for frame in self.frames) or bool(
            self.of(frames.RST_STREAM, stream)
        )

    @property
    def goaways(self) -> list[tuple[int, int]]:
        """The last stream and the code of each GOAWAY."""
        return [struct.unpack("!II", frame.payload[:8]) for frame in self.of(frames.GOAWAY)]


class RawPeer(Log):
    """A client on a socket. By itself it answers pings and settings, if `is_polite`."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        super().__init__()
        self.writer = writer
        self.is_polite = True
        self.is_closed = False
        self._reader = reader
        self._task = asyncio.create_task(self._read())

    async def _read(self) -> None:
        try:
            while received := await self._reader.read(65_536):
                for frame in self.feed(received):
                    if not self.is_polite or frame.flags & frames.ACK:
                        continue
                    if frame.kind == frames.PING:
                        self.send(frames.frame(frames.PING, frames.ACK, 0, frame.payload))
                    elif frame.kind == frames.SETTINGS:
                        self.send(frames.SETTINGS_ACK)
        except ConnectionError:
            pass
        self.is_closed = True
        self.writer.close()

    def send(self, *parts: bytes) -> None:
        """Send bytes."""
        self.writer.write(b"".join(parts))

    async def until(self, condition: Callable[[], object]) -> object:
        """Wait for what frames bring."""
        return await until(condition, lambda: self.frames[-10:])

    async def done(self, stream: int) -> None:
        """Wait for the end of a stream."""
        await self.until(lambda: self.is_done(stream))

    async def closed(self) -> None:
        """Wait until the server has closed the connection."""
        await self.until(lambda: self.is_closed)

    async def aclose(self) -> None:
        """Close the connection."""
        self.writer.close()
        await self._task


@asynccontextmanager
async def raw_peer(port: int, hello: bytes = HELLO) -> AsyncIterator[RawPeer]:
    """Connect, and say `hello`."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    peer = RawPeer(reader, writer)
    peer.send(hello)
    try:
        yield peer
    finally:
        await peer.aclose()


class MemoryTransport(asyncio.Transport):
    """A socket that takes everything at once, or as long as `is_stuck` nothing."""

    def __init__(self, protocol: asyncio.Protocol) -> None:
        super().__init__()
        self.log = Log()
        self.written = bytearray()
        self.is_stuck = False
        self.is_eof = False
        self.is_reading = True
        self.is_aborted = False
        self.protocol = protocol
        self._buffer = bytearray()
        self._high = 64 * 1024
        self._is_paused = False

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return ("127.0.0.1", 7) if name == "peername" else default

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        self._high = high or self._high

    def get_write_buffer_size(self) -> int:
        return len(self._buffer)

    def write(self, data: Any) -> None:
        if self.is_eof:
            raise RuntimeError("Cannot call write() after write_eof()")
        self._buffer += data
        if not self.is_stuck:
            self.take()
        elif len(self._buffer) > self._high and not self._is_paused:
            self._is_paused = True
            self.protocol.pause_writing()

    def take(self, count: int | None = None) -> None:
        """Let the peer read."""
        part = bytes(self._buffer[:count])
        del self._buffer[:count]
        self.written += part
        self.log.feed(part)
        if self._is_paused and len(self._buffer) <= self._high // 4:
            self._is_paused = False
            self.protocol.resume_writing()

    def write_eof(self) -> None:
        self.is_eof = True

    def pause_reading(self) -> None:
        self.is_reading = False

    def resume_reading(self) -> None:
        self.is_reading = True

    def is_closing(self) -> bool:
        return self.is_aborted

    def abort(self) -> None:
        if not self.is_aborted:
            self.is_aborted = True
            self.protocol.connection_lost(None)


class MemoryServer:
    """A connection of a server whose socket is in memory; for tests without I/O."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.connection = ServerConnection(server)
        self.transport = MemoryTransport(self.connection)
        self.connection.connection_made(self.transport)

    @property
    def log(self) -> Log:
        """What was written, with what waits for the event loop's next turn."""
        self.connection.out.flush()
        return self.transport.log

    def send(self, *parts: bytes) -> None:
        """Let bytes arrive in one piece."""
        self.connection.data_received(b"".join(parts))

    async def settle(self) -> None:
        """Let what has come be read, and handlers run until none can go on by itself."""
        for turn in range(100_000):
            await asyncio.sleep(0)
            if turn >= 10 and not self.connection.has_more:
                return

    async def aclose(self) -> None:
        """Take the connection away, and let handlers end."""
        self.transport.abort()
        await self.server.stop(None)


@asynccontextmanager
async def memory_server(
    limits: ServerLimits = LIMITS, *, hello: Sequence[bytes] = (HELLO,), **methods: Any
) -> AsyncIterator[MemoryServer]:
    """Serve one connection in memory."""
    server = Server(limits)
    server.add_generic_rpc_handlers((handlers(**{"Echo": echo, **methods}),))
    served = MemoryServer(server)
    served.send(*hello)
    try:
        yield served
    finally:
        await served.aclose()
