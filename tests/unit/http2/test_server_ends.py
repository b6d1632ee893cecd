"""How connections end with their server: in steps by which no call is lost."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest

from proxy.http2 import frames
from proxy.http2.frames import ErrorCode
from proxy.http2.server import Server
from tests.support import raw_http2 as raw
from tests.support.raw_http2 import (
    HELLO,
    LIMITS,
    handlers,
    memory_server,
    raw_peer,
    serving,
)
from tests.support.raw_methods import Gate, Methods
from tests.support.waiting import until

LAST = frames.LARGEST_STREAM
# The answers to the pings of a drain.
DRAINING = frames.frame(frames.PING, frames.ACK, 0, b"draining")
DRAINED = frames.frame(frames.PING, frames.ACK, 0, b"drained?")
Code = grpc.StatusCode


# The steps of a drain


async def test_a_drain_serves_what_was_sent_before_the_caller_could_know() -> None:
    gate = Gate()
    async with memory_server(Gate=gate.pass_through) as served:
        served.send(raw.call(1, "Gate"))
        await served.settle()
        served.connection.drain()
        served.connection.drain()
        assert served.log.goaways == [(LAST, 0)]
        # In the air when the first GOAWAY was sent: served.
        served.send(raw.call(3, "Gate"), DRAINING)
        assert served.log.goaways == [(LAST, 0)]
        # Begun before as well, but sent only behind the answer.
        served.send(raw.call(5, "Gate"), DRAINED)
        assert served.log.goaways == [(LAST, 0), (5, 0)]
        # The caller knew: refused, to be sent elsewhere.
        served.send(raw.call(7))
        assert [frame.word for frame in served.log.of(frames.RST_STREAM, 7)] == [
            ErrorCode.REFUSED_STREAM
        ]
        assert not served.transport.is_eof
        gate.open.set()
        await served.settle()
        assert [served.log.status(stream) for stream in (1, 3, 5)] == [0, 0, 0]
        assert served.transport.is_eof
        assert not served.transport.is_aborted
        # What was promised once stays, and is said once.
        served.connection.end("the end")
        assert served.log.goaways == [(LAST, 0), (5, 0)]


async def test_what_is_refused_moves_no_promise() -> None:
    async with memory_server(Large=Methods().large) as served:
        served.send(raw.call(1, "Large", b"1000000"))
        await served.settle()
        served.connection.drain()
        served.send(DRAINING, DRAINED, raw.call(3))
        served.connection.end("the end")
        assert served.log.goaways == [(LAST, 0), (1, 0), (1, 0)]
        assert served.transport.is_eof


async def test_a_drain_without_calls_ends_with_the_answer_to_its_ping() -> None:
    async with memory_server() as served:
        served.connection.drain()
        assert not served.transport.is_eof
        served.send(DRAINING)
        assert not served.transport.is_eof
        served.send(DRAINED)
        assert served.transport.is_eof
        # It is too late for anything.
        served.send(raw.call(1), frames.window_update(0, 0))
        assert [frame.stream for frame in served.log.of(frames.HEADERS)] == []


async def test_a_drain_before_the_greeting_ends_at_once() -> None:
    async with memory_server(hello=(HELLO[:7],)) as served:
        served.connection.drain()
        assert served.log.goaways == [(0, 0)]
        assert served.transport.is_eof


async def test_a_peer_that_does_not_answer_the_ping_is_not_waited_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("proxy.http2.server._LAST_CALLS", 0.01)
    async with serving() as (server, port), raw_peer(port) as peer:
        peer.is_polite = False
        peer.send(raw.call(1))
        await peer.done(1)
        stopped = asyncio.create_task(server.stop(20.0))
        await peer.closed()
        assert peer.goaways == [(LAST, 0), (1, 0)]
        await peer.aclose()
        await stopped


# The server's end


async def test_a_server_without_connections_stops_at_once() -> None:
    server = Server(LIMITS)
    await server.stop(20.0)
    await server.stop(None)


async def test_stop_waits_for_calls_within_its_grace() -> None:
    gate = Gate()
    async with serving(Gate=gate.pass_through) as (server, port):
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            call: Any = channel.unary_unary("/t.T/Gate")(b"x")
            await until(lambda: server._tasks)
            stopped = asyncio.create_task(server.stop(20.0))
            await until(lambda: not server._servers[0].sockets)
            late = socket.socket()
            with late:
                late.setblocking(False)
                with pytest.raises(ConnectionRefusedError):
                    await asyncio.get_running_loop().sock_connect(late, ("127.0.0.1", port))
            gate.open.set()
            assert await call == b"x"
        await stopped
        assert not server.connections


async def test_connections_that_meet_a_stop_are_ended_by_it() -> None:
    loop = asyncio.get_running_loop()
    for turns in range(24):
        server = Server(LIMITS)
        listening = socket.create_server(("127.0.0.1", 0))
        await server.open([listening])
        clients = [socket.socket() for _ in range(4)]
        for client in clients:
            client.setblocking(False)
            await loop.sock_connect(client, listening.getsockname())
        for _ in range(turns % 6):
            await asyncio.sleep(0)
        for client in clients[: turns % 5]:
            await loop.sock_sendall(client, HELLO + raw.call(1))
        stopped = asyncio.create_task(server.stop(20.0 if turns % 2 else None))
        await asyncio.sleep(0)
        for client in clients:
            client.close()
        await stopped
        assert not server.connections
        assert not server._tasks


async def failed(call: Any) -> grpc.aio.AioRpcError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return caught.value


@pytest.mark.parametrize("is_hurried", [True, False])
async def test_calls_that_outlast_the_grace_are_unavailable(is_hurried: bool) -> None:
    methods = Methods()
    async with serving(**methods.served()) as (server, port):
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            call: Any = channel.unary_unary("/t.T/Wait")(b"")
            await until(lambda: methods.running)
            stopped = asyncio.create_task(server.stop(20.0 if is_hurried else 0.05))
            if is_hurried:
                await asyncio.sleep(0)
                await server.stop(None)
            error = await failed(call)
            assert (error.code(), error.details()) == (
                Code.UNAVAILABLE,
                "the node is shutting down",
            )
            assert methods.ended == ["cancelled"]
        await stopped


async def test_a_call_inside_a_message_is_unavailable_as_well() -> None:
    async def endless(_request: bytes, _context: Any) -> AsyncIterator[bytes]:
        while True:
            yield b"x" * 1_000_000

    async def read_on(call: Any) -> None:
        while await call.read() is not grpc.aio.EOF:
            pass

    async with (
        serving(Endless=("unary_stream", endless)) as (server, port),
        grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel,
    ):
        call: Any = channel.unary_stream("/t.T/Endless")(b"")
        assert len(await call.read()) == 1_000_000
        (stream,) = one_connection(server).streams.values()
        await until(lambda: stream.side.is_midway)
        await server.stop(None)
        error = await failed(read_on(call))
        assert error.code() is Code.UNAVAILABLE


def one_connection(server: Server) -> Any:
    (connection,) = server.connections
    return connection


async def test_a_handler_that_does_not_end_keeps_stop_waiting() -> None:
    leave = asyncio.Event()

    async def stubborn(_request: bytes, _context: Any) -> bytes:
        while not leave.is_set():
            try:
                await leave.wait()
            except asyncio.CancelledError:
                continue
        return b""

    async with serving(Stubborn=stubborn) as (server, port), raw_peer(port) as peer:
        peer.send(raw.call(1, "Stubborn"))
        await until(lambda: server._tasks)
        stopped = asyncio.create_task(server.stop(None))
        await peer.until(lambda: peer.is_done(1))
        assert peer.status(1) == 14
        assert not stopped.done()
        leave.set()
        await stopped


async def test_no_call_fails_while_its_server_is_replaced() -> None:
    """A caller that never stops, on servers that follow each other on one port."""
    listening = socket.create_server(("127.0.0.1", 0))
    port = int(listening.getsockname()[1])
    is_over = False
    answered = 0
    address = f"127.0.0.1:{port}"
    options = [("grpc.initial_reconnect_backoff_ms", 100), ("grpc.min_reconnect_backoff_ms", 100)]

    async def slow(request: bytes, _context: Any) -> bytes:
        await asyncio.sleep(0.001)
        return request

    async def ask(call: Any) -> None:
        nonlocal answered
        while not is_over:
            assert await call(b"x" * 100, wait_for_ready=True, timeout=20) == b"x" * 100
            answered += 1

    async with grpc.aio.insecure_channel(address, options=options) as channel:
        call: Any = channel.unary_unary("/t.T/Slow")
        asking = [asyncio.create_task(ask(call)) for _ in range(8)]
        for _ in range(4):
            server = Server(LIMITS)
            server.add_generic_rpc_handlers((handlers(Slow=slow),))
            # The next one listens before this one leaves: no caller meets a closed port.
            await server.open([listening.dup()])
            enough = answered + 100
            await until(lambda enough=enough: answered >= enough or any(t.done() for t in asking))
            await server.stop(20.0)
            assert not server._tasks
        is_over = True
        server = Server(LIMITS)
        server.add_generic_rpc_handlers((handlers(Slow=slow),))
        await server.open([listening])
        await asyncio.gather(*asking)
        await server.stop(None)
    assert answered >= 400


async def test_a_slow_reader_gets_the_last_bytes() -> None:
    size = 400_000
    methods = Methods()
    async with serving(**methods.served()) as (server, port):
        sock = socket.socket()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        sock.setblocking(False)
        loop = asyncio.get_running_loop()
        with sock:
            await loop.sock_connect(sock, ("127.0.0.1", port))
            await until(lambda: server.connections)
            connection = one_connection(server)
            served = connection.transport.get_extra_info("socket")
            served.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
            wide = frames.settings({4: 10**6, 5: 10**6}) + frames.window_update(0, 10**6)
            await loop.sock_sendall(
                sock, frames.PREFACE + wide + raw.call(1, "Large", b"%d" % size)
            )
            # The answer is written, and the call over, long before it is read.
            await until(lambda: connection.last_stream == 1 and not connection.streams)
            assert connection.transport.get_write_buffer_size() > 100_000
            stopped = asyncio.create_task(server.stop(20.0))
            log = raw.Log()
            while received := await loop.sock_recv(sock, 10_000):
                for frame in log.feed(received):
                    if frame.kind == frames.PING:
                        answer = frames.frame(frames.PING, frames.ACK, 0, frame.payload)
                        await loop.sock_sendall(sock, answer)
            assert len(log.body(1)) == size // 256 * 256 + 5
            assert log.status(1) == 0
            assert log.goaways == [(LAST, 0), (1, 0)]
        await stopped
