"""Peers that mean no good: what they cost is bounded, and others are served meanwhile."""

from __future__ import annotations

import asyncio
import gzip
import logging
import os
import tracemalloc
from collections.abc import AsyncIterator
from typing import Any

import pytest

from proxy.http2 import frames
from proxy.http2.frames import ErrorCode
from tests.support import raw_http2 as raw
from tests.support.raw_http2 import (
    HEAD,
    LIMITS,
    MemoryServer,
    RawPeer,
    memory_server,
    message,
    raw_peer,
    serving,
)
from tests.support.raw_methods import Methods
from tests.support.waiting import until

F = frames.frame
CALM = ErrorCode.ENHANCE_YOUR_CALM
MIB = 1024 * 1024


async def flood(served: MemoryServer, frame: bytes, most: int = 400_000) -> int:
    """Send a frame again and again until the connection is over; return how much was sent."""
    sent = 0
    many = frame * max(1, 20_000 // len(frame))
    while not served.connection.is_closed and sent < most * len(frame):
        served.send(many)
        sent += len(many)
        await served.settle()
    return sent


ANSWERED = {
    "pings": F(frames.PING, 0, 0, bytes(8)),
    "settings": frames.settings({}),
    "faults of streams": frames.window_update(1, 0),
    "calls that are no gRPC": raw.headers(1, (b"content-type", b"text/html"), end=True),
}


@pytest.mark.parametrize("name", ANSWERED)
async def test_answers_that_are_not_read_are_not_kept(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("proxy.http2.outflow._MOST_WAITING", 64 * 1024)
    async with memory_server() as served:
        served.send(raw.call(1))
        await served.settle()
        served.transport.is_stuck = True
        if name == "calls that are no gRPC":
            await flood_with_calls(served, [(b"content-type", b"text/html")])
        else:
            await flood(served, ANSWERED[name])
        assert served.connection.is_closed
        assert served.transport.get_write_buffer_size() < 600 * 1024


async def flood_with_calls(served: MemoryServer, fields: list[tuple[bytes, bytes]]) -> None:
    stream = 3
    block = raw.block(*fields)
    while not served.connection.is_closed and stream < 200_000:
        parts = []
        for _ in range(500):
            parts.append(F(frames.HEADERS, 5, stream, block))
            stream += 2
        served.send(*parts)
        await served.settle()


async def test_calls_whose_ends_are_not_read_end_the_connection(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("proxy.http2.outflow._MOST_UNREAD", 512 * 1024)
    caplog.set_level(logging.INFO)
    async with memory_server() as served:
        served.transport.is_stuck = True
        await flood_with_calls(served, [(b":path", b"/t.T/Missing")])
        assert served.transport.is_aborted
        assert served.transport.get_write_buffer_size() < 600 * 1024
        (line,) = caplog.records
        assert vars(line)["reason"] == "the peer does not read its answers"


async def test_pings_of_a_peer_that_reads_are_answered() -> None:
    async with memory_server() as served:
        await flood(served, F(frames.PING, 0, 0, bytes(8)), most=50_000)
        await served.settle()
        assert not served.connection.is_closed
        assert len(served.log.of(frames.PING)) >= 50_000


async def test_settings_may_change_a_hundred_times_a_second() -> None:
    async with memory_server() as served:
        for window in range(99):
            served.send(frames.settings({frames.INITIAL_WINDOW_SIZE: window}))
        assert not served.connection.is_closed
        served.connection._settings_since -= 2
        await flood(served, frames.settings({frames.INITIAL_WINDOW_SIZE: 7}), most=200)
        assert served.log.goaways == [(0, CALM)]
        assert len(served.log.of(frames.SETTINGS)) <= 202


async def test_unknown_settings_are_not_kept() -> None:
    async with memory_server() as served:
        for first in range(0, 60_000, 2_500):
            served.send(frames.settings(dict.fromkeys(range(first + 7, first + 2_507), 1)))
        assert not served.connection.is_closed
        assert not served.connection.peer_settings


BLOCK = raw.block()
OF_FRAMES = {
    "parts of a block without end": (F(frames.HEADERS, 0, 1) + F(9, 0, 1, b"x" * 16_384) * 5, CALM),
    "empty parts of a block": (F(frames.HEADERS, 0, 1) + F(9, 0, 1) * 10_001, CALM),
    "a block that grows": (
        F(frames.HEADERS, 4, 1, b"\x40\x01x\x7f\xbd\x1e" + b"v" * 4028 + b"\xbe" * 40),
        CALM,
    ),
    "empty bodies": (raw.headers(1) + F(frames.DATA, 0, 1) * 10_001, CALM),
    "bodies of padding": (raw.headers(1) + F(frames.DATA, 8, 1, b"\0") * 10_001, CALM),
}


@pytest.mark.parametrize(("sent", "code"), OF_FRAMES.values(), ids=OF_FRAMES)
async def test_what_holds_nothing_is_bounded(sent: bytes, code: ErrorCode) -> None:
    async with memory_server() as served:
        served.send(sent)
        await served.settle()
        assert [goaway[1] for goaway in served.log.goaways] == [code]
        assert not served.connection.streams


async def test_resets_leave_nothing_behind() -> None:
    methods = Methods()
    # Answers that the windows hold back, so that each call waits when it is reset.
    async with memory_server(
        hello=(frames.PREFACE + frames.settings({4: 0}),), **methods.served()
    ) as served:
        stream = 1
        for _ in range(50):
            for _ in range(20):
                served.send(raw.call(stream, "Large", b"40000"), raw.headers(stream + 2))
                served.send(raw.call(stream + 4, "Wait"))
                if stream % 8 == 1:
                    await asyncio.sleep(0)
                for one in (stream, stream + 2, stream + 4):
                    served.send(frames.rst_stream(one, ErrorCode.CANCEL))
                stream += 6
            await served.settle()
            assert not served.server._tasks
            assert not served.connection.streams
        assert not served.connection.is_closed
        assert not served.connection.out._waiting
        assert served.connection.out._woken == 0
        assert methods.running == 0


async def test_resets_of_calls_that_wait_for_the_socket_leave_nothing_behind() -> None:
    methods = Methods()
    wide = frames.settings({4: 2**30}) + frames.window_update(0, 2**30)
    async with memory_server(**methods.served()) as served:
        served.send(wide)
        served.transport.is_stuck = True
        for stream in range(1, 400, 2):
            served.send(raw.call(stream, "Large", b"100000"))
            await served.settle()
            if stream > 20:
                served.send(frames.rst_stream(stream, ErrorCode.CANCEL))
                await served.settle()
        assert len(served.connection.out._waiting) <= 10
        assert served.transport.get_write_buffer_size() < MIB
        served.transport.is_stuck = False
        served.transport.take()
        await served.settle()
        assert not served.connection.streams
        assert not served.connection.out._waiting


async def test_more_streams_than_are_allowed_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("proxy.http2.server._MOST_STREAMS", 100)
    async with memory_server() as served:
        settings = dict(frames.iter_settings(served.log.of(frames.SETTINGS)[0].payload))
        assert settings[frames.MAX_CONCURRENT_STREAMS] == 100
        served.send(*(raw.headers(stream) for stream in range(1, 401, 2)))
        assert len(served.connection.streams) == 100
        refused = served.log.of(frames.RST_STREAM)
        assert [frame.stream for frame in refused] == list(range(201, 401, 2))
        assert {frame.word for frame in refused} == {ErrorCode.REFUSED_STREAM}
        # One that ends makes room.
        served.send(raw.data(1, message(b"x"), end=True))
        await served.settle()
        served.send(raw.call(401))
        await served.settle()
        assert (served.log.status(1), served.log.status(401)) == (0, 0)


async def test_a_stream_of_requests_is_not_read_ahead_without_bound() -> None:
    go = asyncio.Event()

    async def idle(requests: AsyncIterator[bytes], _context: Any) -> bytes:
        async for _ in requests:
            await go.wait()
        return b""

    async with memory_server(Idle=("stream_unary", idle)) as served:
        served.send(raw.headers(1, (b":path", b"/t.T/Idle")))
        served.send(*([raw.data(1, message(b""))] * 200))
        sent = 0
        for _ in range(200):
            allowed = MIB + sum(frame.word for frame in served.log.of(frames.WINDOW_UPDATE, 1))
            while sent + 16_389 + 1_000 < allowed:
                served.send(raw.data(1, message(b"x" * 16_379)))
                sent += 16_384
            await served.settle()
        assert MIB <= sent <= 3 * MIB
        # As the handler goes on, so does the caller.
        go.set()
        await served.settle()
        allowed = MIB + sum(frame.word for frame in served.log.of(frames.WINDOW_UPDATE, 1))
        assert allowed > sent + MIB // 2


async def test_a_body_without_end_is_refused_at_the_limit() -> None:
    async with memory_server() as served:
        served.send(raw.headers(1), raw.data(1, b"\0\xff\xff\xff\xff"))
        assert served.log.status(1) == 8
        served.send(raw.headers(3), raw.data(3, message(b"x" * 100) * 2))
        assert served.log.status(3) == 13
        # What still comes of them costs nothing, and says nothing.
        before = len(served.log.frames)
        for _ in range(100):
            served.send(raw.data(1, b"x" * 16_384), raw.data(3, b"x" * 16_384))
        assert not served.connection.is_closed
        assert {frame.kind for frame in served.log.frames[before:]} <= {frames.WINDOW_UPDATE}
        assert not served.connection.streams


async def test_a_bomb_in_a_message_takes_no_more_than_the_limit() -> None:
    bomb = message(gzip.compress(bytes(64 * MIB)), 1)
    async with memory_server() as served:
        tracemalloc.start()
        try:
            served.send(raw.headers(1, (b"grpc-encoding", b"gzip")), raw.data(1, bomb, end=True))
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert served.log.status(1) == 8
        assert peak < 3 * LIMITS.message


async def test_a_caller_that_reads_nothing_holds_a_turn_at_most() -> None:
    async def endless(_request: bytes, _context: Any) -> AsyncIterator[bytes]:
        while True:
            yield b"x" * 100_000

    wide = frames.settings({4: 2**30}) + frames.window_update(0, 2**30)
    async with memory_server(Endless=("unary_stream", endless)) as served:
        served.transport.is_stuck = True
        served.send(wide, *(raw.call(stream, "Endless") for stream in range(1, 41, 2)))
        for _ in range(20):
            await served.settle()
        assert served.transport.get_write_buffer_size() < MIB
        assert len(served.connection.streams) == 20


async def test_others_are_served_while_one_floods() -> None:
    async with serving() as (_, port), raw_peer(port) as bad, raw_peer(port) as good:
        bad.is_polite = False
        bad.send(F(frames.PING, 0, 0, bytes(8)) * 20_000)
        good.send(raw.call(1))
        await good.done(1)
        assert good.status(1) == 0


async def test_connections_of_all_ends_leave_no_descriptor_and_no_task() -> None:
    methods = Methods()

    async def end(peer: RawPeer, how: int) -> None:
        peer.send(raw.call(1, "Wait"), raw.call(3))
        if how % 5 == 0:
            peer.send(F(frames.PING, 0, 3, b""))
        elif how % 5 == 1:
            peer.writer.transport.abort()
        elif how % 5 == 2:
            peer.writer.write_eof()
        elif how % 5 == 3:
            await peer.done(3)
            peer.send(b"\xff" * 20)
        # The fifth leaves without a word.

    async with serving(**methods.served()) as (server, port):
        before = len(os.listdir("/proc/self/fd"))
        for how in range(50):
            async with raw_peer(port) as peer:
                await end(peer, how)
        await until(lambda: not server.connections and not server._tasks)
        assert len(os.listdir("/proc/self/fd")) <= before
        assert methods.running == 0


async def test_secrets_of_callers_are_in_no_log(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, logger="proxy")
    secret = (b"authorization", b"Bearer s3cr3t")
    async with memory_server() as served:
        served.send(raw.call(1, "Echo", b"x", secret, (b"x-bin", b"*s3cr3t")))
        served.send(raw.call(3, "Missing", b"s3cr3t", secret))
        served.send(raw.headers(5, secret, (b"x", b"s3cr3t\n")))
        served.send(raw.headers(7, secret, (b"te", b"s3cr3t")))
        served.send(F(frames.HEADERS, 4, 9, raw.block(secret, head=HEAD) + b"\x80"))
        await served.settle()
        assert served.connection.is_closed
    assert "s3cr3t" not in caplog.text
    assert not any("s3cr3t" in repr(vars(record)) for record in caplog.records)
    assert caplog.records
