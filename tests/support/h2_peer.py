"""A client of HTTP/2 that sends what a test says, right or wrong, and keeps what comes back."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field

import grpc
import hpack

from proxy.http2 import frames
from proxy.http2.server import Server, ServerLimits
from proxy.server.listening import listening_sockets

SERVICE = "raw.Echo"
HEAD = [
    (":method", "POST"),
    (":scheme", "http"),
    (":path", f"/{SERVICE}/Echo"),
    (":authority", "test"),
    ("te", "trailers"),
    ("content-type", "application/grpc"),
]
END_HEADERS = frames.END_HEADERS
END = frames.END_STREAM


def message(body: bytes, flag: int = 0) -> bytes:
    """Return a message as gRPC frames it."""
    return struct.pack("!BI", flag, len(body)) + body


async def _echo(request: bytes, _context: object) -> bytes:
    return request


@asynccontextmanager
async def echo_server(**limits: float) -> AsyncIterator[tuple[Server, int]]:
    """Serve `raw.Echo/Echo`; yields the server and its port."""
    server = Server(ServerLimits(message=1 << 20, **limits))
    handler = grpc.unary_unary_rpc_method_handler(_echo)
    server.add_generic_rpc_handlers(
        [grpc.method_handlers_generic_handler(SERVICE, {"Echo": handler})]
    )
    (listener, *_) = sockets = listening_sockets("127.0.0.1", 0)
    await server.open(sockets)
    try:
        yield server, listener.getsockname()[1]
    finally:
        await server.stop(None)


@dataclass
class Answer:
    """What came on one stream; `resets` are the codes of its RST_STREAM frames."""

    fields: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    is_whole: bool = False
    resets: list[int] = field(default_factory=list)


class RawClient:
    """One connection. Everything is written as it is given, and read by the time it is asked for.

    `table_size` is how much of earlier header blocks it remembers; the server is told by `settings`
    of the greeting.
    """

    def __init__(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        *,
        table_size: int,
    ) -> None:
        self.writer = writer
        self.answers: dict[int, Answer] = {}
        # The last stream and the code of each GOAWAY; pings, which the test answers.
        self.goaways: list[tuple[int, int]] = []
        self.pings: list[bytes] = []
        self.pongs = 0
        self._reader = reader
        self._decoder = hpack.Decoder()
        self._decoder.max_allowed_table_size = table_size

    def send(self, kind: int, flags: int, stream: int, payload: bytes = b"") -> None:
        """Write a frame."""
        self.writer.write(frames.frame(kind, flags, stream, payload))

    def head(self, stream: int, fields: Sequence[tuple[str, str]] = (), *, flags: int = 0) -> None:
        """Write HEADERS of a call that nothing is remembered of, with more fields."""
        block = [hpack.NeverIndexedHeaderTuple(*one) for one in (*HEAD, *fields)]
        self.send(frames.HEADERS, END_HEADERS | flags, stream, hpack.Encoder().encode(block))

    def call(self, stream: int, body: bytes = b"", fields: Sequence[tuple[str, str]] = ()) -> None:
        """Write a whole call."""
        self.head(stream, fields)
        self.send(frames.DATA, END, stream, message(body))

    def answer(self, stream: int) -> Answer:
        """Return what has come on a stream so far."""
        return self.answers.setdefault(stream, Answer())

    async def until(self, done: Callable[[], object]) -> None:
        """Read until something is so; `IncompleteReadError` when the connection ends before."""
        async with asyncio.timeout(20):
            while not done():
                await self._read_frame()

    async def _read_frame(self) -> None:
        high, low, kind, flags, stream = frames.unpack_header(await self._reader.readexactly(9))
        payload = await self._reader.readexactly(high << 8 | low)
        answer = self.answer(stream)
        if kind == frames.HEADERS:
            answer.fields.update((str(k), str(v)) for k, v in self._decoder.decode(payload))
        elif kind == frames.DATA:
            answer.body += payload
        elif kind == frames.RST_STREAM:
            answer.resets.append(int.from_bytes(payload, "big"))
        elif kind == frames.GOAWAY:
            self.goaways.append(struct.unpack("!II", payload[:8]))
        elif kind == frames.PING:
            if flags & frames.ACK:
                self.pongs += 1
            else:
                self.pings.append(payload)
        if kind in (frames.HEADERS, frames.DATA):
            answer.is_whole |= bool(flags & END)


@asynccontextmanager
async def raw_client(
    port: int, settings: dict[int, int] | None = None, *, table_size: int = 4096
) -> AsyncIterator[RawClient]:
    """Connect and greet."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(frames.PREFACE + frames.settings(settings or {}))
        yield RawClient(reader, writer, table_size=table_size)
    finally:
        writer.close()
        with suppress(OSError):
            await writer.wait_closed()
