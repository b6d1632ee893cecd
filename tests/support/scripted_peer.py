"""A peer of HTTP/2 that says what a test has it say, frame by frame."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Final, Self

import grpc
import hpack
import pytest

from proxy.http2 import frames, messages
from proxy.http2.answer import CallError
from proxy.http2.calls import StreamCall, UnaryCall
from proxy.http2.channel import Channel
from proxy.http2.dialled import ChannelLimits
from proxy.http2.fields import literal
from tests.support.servers import end_server
from tests.support.waiting import until

TEN_SECONDS: Final = 10.0
HEAD: Final = literal(b":status", b"200") + literal(b"content-type", b"application/grpc")
OK: Final = literal(b"grpc-status", b"0")


@dataclass(frozen=True)
class Frame:
    """A frame as it came."""

    kind: int
    flags: int
    stream: int
    payload: bytes

    @property
    def word(self) -> int:
        return int.from_bytes(self.payload[:4], "big")

    @property
    def ends_stream(self) -> bool:
        return bool(self.flags & frames.END_STREAM)


def block(*fields: tuple[str, str]) -> bytes:
    """Return a header block."""
    return b"".join(literal(name.encode(), value.encode()) for name, value in fields)


def message(raw: bytes) -> bytes:
    """Return a message as it is in a body."""
    return messages.prefix(raw) + raw


STATUS_3: Final = block(
    ("grpc-status", "3"), ("grpc-message", "so%20b%C3%A4d"), ("x-detail-bin", "AAE")
)


class Side:
    """The peer's side of one connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self.writer = writer
        self.decoder = hpack.Decoder()
        self.requests: dict[int, bytes] = {}

    async def greet(self, settings: Mapping[int, int] | None = None) -> None:
        """Take the preface and the settings, and say our own."""
        async with asyncio.timeout(TEN_SECONDS):
            assert await self._reader.readexactly(len(frames.PREFACE)) == frames.PREFACE
            assert (await self.frame()).kind == frames.SETTINGS
        self.say(frames.settings(dict(settings or {})) + frames.SETTINGS_ACK)

    async def frame(self, *kinds: int) -> Frame:
        """Return the next frame, of `kinds` where there are some."""
        async with asyncio.timeout(TEN_SECONDS):
            while True:
                head = await self._reader.readexactly(frames.HEADER_SIZE)
                high, low, kind, flags, stream = frames.unpack_header(head)
                found = Frame(kind, flags, stream, await self._reader.readexactly(high << 8 | low))
                if not kinds or kind in kinds:
                    return found

    async def head(self) -> tuple[int, dict[str, str]]:
        """Return the stream and the fields of the next call."""
        found = await self.frame(frames.HEADERS)
        fields = self.decoder.decode(found.payload)
        return found.stream, {str(name): str(value) for name, value in fields}

    async def request(self) -> int:
        """Return the stream of the next call once its request is there."""
        stream, _ = await self.head()
        body = b""
        while True:
            found = await self.frame(frames.DATA)
            assert found.stream == stream
            body += found.payload
            if found.ends_stream:
                self.requests[stream] = body
                return stream

    async def until_closed(self) -> list[Frame]:
        """Return what comes until the connection is closed."""
        found = []
        try:
            while True:
                found.append(await self.frame())
        except (asyncio.IncompleteReadError, ConnectionError):
            return found

    def say(self, data: bytes) -> None:
        """Send bytes."""
        self.writer.write(data)

    def fields(self, stream: int, fields: bytes, *, end: bool = False) -> None:
        """Send a header block."""
        self.say(frames.header_block(stream, fields, end_stream=end, frame_size=16_384))

    def data(self, stream: int, data: bytes, *, end: bool = False) -> None:
        """Send a part of a body."""
        self.say(frames.frame(frames.DATA, frames.END_STREAM if end else 0, stream, data))

    def answer(self, stream: int, raw: bytes) -> None:
        """Send a whole answer."""
        self.fields(stream, HEAD)
        self.data(stream, message(raw))
        self.fields(stream, OK, end=True)

    def cut(self) -> None:
        """Reset the connection."""
        transport = self.writer.transport
        assert isinstance(transport, asyncio.Transport)
        transport.abort()


@dataclass
class Peer:
    """Listens on a port of 127.0.0.1, and hands over each connection that is made."""

    port: int = 0
    sides: asyncio.Queue[Side] = field(default_factory=asyncio.Queue)
    _server: asyncio.Server | None = None
    _made: list[Side] = field(default_factory=list)

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._take, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    def _take(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        side = Side(reader, writer)
        self._made.append(side)
        self.sides.put_nowait(side)

    async def accept(self) -> Side:
        """Return the next connection."""
        async with asyncio.timeout(TEN_SECONDS):
            return await self.sides.get()

    async def greeted(self, settings: Mapping[int, int] | None = None) -> Side:
        """Return the next connection, after the greetings."""
        side = await self.accept()
        await side.greet(settings)
        return side

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        await end_server(self._server)
        for side in self._made:
            side.cut()


class Talk:
    """A channel to a scripted peer, connected."""

    def __init__(self, channel: Channel, side: Side) -> None:
        self.channel = channel
        self.side = side

    def unary(self, request: bytes = b"x") -> UnaryCall[bytes]:
        return self.channel.unary("/s/M", request, bytes, timeout=TEN_SECONDS)

    def stream(self) -> StreamCall[bytes]:
        return self.channel.stream("/s/M", b"x", bytes, timeout=TEN_SECONDS)

    async def reset(self) -> Frame:
        return await self.side.frame(frames.RST_STREAM)


LIMITS: Final = ChannelLimits(
    message=4 * 1024 * 1024,
    metadata=32 * 1024,
    connect_timeout=5,
    reconnect_min=0.01,
    reconnect_max=0.1,
)


@asynccontextmanager
async def talking() -> AsyncIterator[Talk]:
    """Have a channel that is connected to a peer."""
    async with Peer() as peer, Channel(peer.address, limits=LIMITS) as channel:
        channel.get_state(try_to_connect=True)
        side = await peer.greeted()
        await until(lambda: channel.get_state() is grpc.ChannelConnectivity.READY)
        yield Talk(channel, side)


async def failure(call: UnaryCall[bytes]) -> CallError:
    """Return why a call failed."""
    with pytest.raises(CallError) as caught:
        await call
    return caught.value


def channel_to(address: str, limits: ChannelLimits = LIMITS) -> Channel:
    """Return a channel that connects when it is used."""
    return Channel(address, limits=limits)


def begin(channel: Channel, request: bytes = b"x", **options: bool) -> UnaryCall[bytes]:
    """Begin a call."""
    return channel.unary("/s/Method", request, bytes, timeout=TEN_SECONDS, **options)


async def in_state(channel: Channel, state: grpc.ChannelConnectivity) -> None:
    """Wait until a channel is in a state."""
    async with asyncio.timeout(TEN_SECONDS):
        while (now := channel.get_state()) is not state:
            await channel.wait_for_state_change(now)
