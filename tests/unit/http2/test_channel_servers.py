"""The channel in front of real servers: ours, and that of grpc.aio."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import pytest

from proxy.http2.answer import CallError
from proxy.http2.channel import Channel
from proxy.http2.dialled import ChannelLimits, Security
from proxy.http2.server import Server, ServerLimits
from proxy.server.listening import listening_sockets, local_listener
from proxy.tls import TlsFiles, load
from tests.support.certificates import Authority
from tests.support.waiting import until

Code = grpc.StatusCode
MIB = 1024 * 1024
LIMITS = ChannelLimits(message=32 * MIB, connect_timeout=5, reconnect_min=0.01, reconnect_max=0.1)


@dataclass
class Service:
    """Methods that a test calls, and what it may want to know of them."""

    begun: asyncio.Event = field(default_factory=asyncio.Event)
    cancelled: asyncio.Event = field(default_factory=asyncio.Event)
    left: float | None = None

    async def echo(self, raw: bytes, context: Any) -> bytes:
        self.left = context.time_remaining()
        sent = tuple(item for item in context.invocation_metadata() if item[0].startswith("x-"))
        await context.send_initial_metadata((("x-first", "1"),))
        context.set_trailing_metadata(sent)
        return raw

    async def hang(self, _raw: bytes, _context: Any) -> bytes:
        self.begun.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            self.cancelled.set()
            raise
        raise AssertionError

    async def fail(self, _raw: bytes, context: Any) -> bytes:
        await context.abort(Code.NOT_FOUND, "none of “these”", (("x-why-bin", b"\0\xff"),))
        raise AssertionError

    async def count(self, raw: bytes, context: Any) -> None:
        for number in range(int(raw)):
            await context.write(b"%d" % number * 20_000)

    def handlers(self) -> tuple[grpc.GenericRpcHandler, ...]:
        unary, stream = grpc.unary_unary_rpc_method_handler, grpc.unary_stream_rpc_method_handler
        methods: dict[str, Any] = {
            "Echo": unary(self.echo),
            "Hang": unary(self.hang),
            "Fail": unary(self.fail),
            "Count": stream(self.count),
        }
        return (grpc.method_handlers_generic_handler("s", methods),)


@asynccontextmanager
async def ours(service: Service) -> AsyncIterator[str]:
    server = Server(ServerLimits(message=32 * MIB))
    server.add_generic_rpc_handlers(service.handlers())
    sockets = listening_sockets("127.0.0.1", 0)
    await server.open(sockets)
    try:
        yield f"127.0.0.1:{sockets[0].getsockname()[1]}"
    finally:
        await server.stop(None)


@asynccontextmanager
async def theirs(service: Service, *options: tuple[str, Any], **tls: Any) -> AsyncIterator[str]:
    limit = ("grpc.max_receive_message_length", 32 * MIB)
    server = grpc.aio.server(options=[limit, *options], **tls)
    server.add_generic_rpc_handlers(service.handlers())
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        await server.stop(None)


@pytest.fixture
def service() -> Service:
    return Service()


@pytest.fixture(params=["ours", "grpc.aio"])
async def channel(request: pytest.FixtureRequest, service: Service) -> AsyncIterator[Channel]:
    serve = ours if request.param == "ours" else theirs
    async with serve(service) as address, Channel(address, limits=LIMITS) as channel:
        yield channel


@pytest.mark.parametrize("size", [0, 1, 16_379, 65_535, 300_000, 20 * MIB])
async def test_messages_of_any_size_go_there_and_back(channel: Channel, size: int) -> None:
    request = bytes(range(256)) * (size // 256) + bytes(size % 256)
    call = channel.unary("/s/Echo", request, bytes, timeout=60)
    assert await call == request


async def test_metadata_and_the_deadline_arrive(channel: Channel, service: Service) -> None:
    pairs = (("x-text", "a b"), ("x-bytes-bin", b"\0\xff"))
    call = channel.unary("/s/Echo", b"", bytes, timeout=50, metadata=pairs)
    await call
    assert call.headers == (("x-first", "1"),)
    assert sorted(call.trailers) == sorted(pairs)
    assert service.left is not None
    assert 20 < service.left <= 50


async def test_a_status_arrives_whole(channel: Channel) -> None:
    with pytest.raises(CallError) as caught:
        await channel.unary("/s/Fail", b"", bytes)
    error = caught.value
    assert (error.code(), error.details()) == (Code.NOT_FOUND, "none of “these”")
    assert tuple(error.trailing_metadata()) == (("x-why-bin", b"\0\xff"),)
    with pytest.raises(CallError) as caught:
        await channel.unary("/s/Unknown", b"", bytes)
    assert caught.value.code() is Code.UNIMPLEMENTED


@pytest.mark.parametrize("how", ["cancel", "deadline", "close"])
async def test_the_end_of_a_call_is_seen_by_its_handler(
    channel: Channel, service: Service, how: str
) -> None:
    call = channel.unary("/s/Hang", b"", bytes, timeout=0.2 if how == "deadline" else 60)
    await service.begun.wait()
    if how == "cancel":
        call.cancel()
    elif how == "close":
        await channel.close()
    await until(service.cancelled.is_set)
    with pytest.raises(CallError if how == "deadline" else asyncio.CancelledError):
        await call


async def test_streams_beside_each_other(channel: Channel) -> None:
    calls = [channel.stream("/s/Count", b"100", bytes) for _ in range(5)]
    for number in range(100):
        for call in calls:
            assert await call.read() == b"%d" % number * 20_000
    assert [await call.read() for call in calls] == [None] * 5


async def test_a_slow_reader_holds_up_nobody_else(channel: Channel) -> None:
    slow = [channel.stream("/s/Count", b"1000", bytes) for _ in range(20)]
    for call in slow:
        assert await call.read() == b"0" * 20_000
    assert [one async for one in channel.stream("/s/Count", b"2", bytes)] == [
        b"0" * 20_000,
        b"1" * 20_000,
    ]
    assert await channel.unary("/s/Echo", b"x", bytes, timeout=60) == b"x"
    for call in slow:
        call.cancel()


async def test_many_calls_at_once(channel: Channel) -> None:
    calls = [channel.unary("/s/Echo", b"%d" % n, bytes, timeout=60) for n in range(500)]
    assert [await call for call in calls] == [b"%d" % n for n in range(500)]


async def test_calls_beyond_what_the_server_takes_at_once_wait(service: Service) -> None:
    async with (
        theirs(service, ("grpc.max_concurrent_streams", 2)) as address,
        Channel(address, limits=LIMITS) as channel,
    ):
        calls = [channel.unary("/s/Echo", b"%d" % n, bytes, timeout=60) for n in range(50)]
        assert [await call for call in calls] == [b"%d" % n for n in range(50)]


@pytest.mark.parametrize("compression", [grpc.Compression.Gzip, grpc.Compression.Deflate])
async def test_compressed_answers_are_read(service: Service, compression: grpc.Compression) -> None:
    async with (
        theirs(service, compression=compression) as address,
        Channel(address, limits=LIMITS) as channel,
    ):
        assert await channel.unary("/s/Echo", b"x" * 100_000, bytes) == b"x" * 100_000
        call = channel.stream("/s/Count", b"20", bytes)
        assert [len(one) async for one in call] == [20_000] * 10 + [40_000] * 10


async def test_a_server_that_ages_its_connections_fails_no_call(service: Service) -> None:
    ages = (("grpc.max_connection_age_ms", 50), ("grpc.max_connection_age_grace_ms", 5000))
    async with theirs(service, *ages) as address, Channel(address, limits=LIMITS) as channel:
        loop = asyncio.get_running_loop()
        until_then, made = loop.time() + 1.0, 0
        while loop.time() < until_then:
            calls = [channel.unary("/s/Echo", b"x", bytes, timeout=60) for _ in range(10)]
            assert [await call for call in calls] == [b"x"] * 10
            made += 1
        assert made > 10


async def test_a_socket_of_this_machine(service: Service, tmp_path: Path) -> None:
    server = Server(ServerLimits(message=MIB))
    server.add_generic_rpc_handlers(service.handlers())
    await server.open([local_listener(f"{tmp_path}/socket")])
    async with Channel(f"unix:{tmp_path}/socket", limits=LIMITS) as channel:
        assert await channel.unary("/s/Echo", b"x", bytes, timeout=60) == b"x"
    await server.stop(None)


async def test_tls(service: Service, tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    own = authority.issue("server", "there.example")
    server = grpc.aio.server()
    server.add_generic_rpc_handlers(service.handlers())
    key, chain, roots = own.key.read_bytes(), own.cert.read_bytes(), authority.ca.read_bytes()
    credentials = grpc.ssl_server_credentials([(key, chain)], roots, require_client_auth=True)
    port = server.add_secure_port("127.0.0.1:0", credentials)
    await server.start()
    files = TlsFiles(
        cert_path=str(own.cert), key_path=str(own.key), ca_path=str(authority.ca), is_mutual=True
    )
    context = load(files).client
    assert context is not None
    address = f"127.0.0.1:{port}"
    try:
        security = Security(context, "there.example")
        async with Channel(
            address, limits=LIMITS, authority="there.example", security=security
        ) as channel:
            big = bytes(5 * MIB)
            assert await channel.unary("/s/Echo", big[: 3 * MIB], bytes) == big[: 3 * MIB]
            assert len([one async for one in channel.stream("/s/Count", b"50", bytes)]) == 50
        wrong = Security(context, "elsewhere.example")
        async with Channel(address, limits=LIMITS, security=wrong) as channel:
            with pytest.raises(CallError, match="certificate is not accepted") as caught:
                await channel.unary("/s/Echo", b"", bytes)
            assert caught.value.is_unsent
    finally:
        await server.stop(None)
