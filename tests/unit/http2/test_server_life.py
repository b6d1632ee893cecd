"""How connections live: their age, signs of life, and what ends them from the other side."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from random import Random
from typing import Any

import pytest

from proxy.http2 import frames
from proxy.http2.frames import ErrorCode
from proxy.http2.server import Server
from tests.support import raw_http2 as raw
from tests.support.raw_http2 import (
    HELLO,
    LIMITS,
    MemoryServer,
    memory_server,
    message,
    raw_peer,
    serving,
)
from tests.support.raw_methods import Gate, Methods
from tests.support.waiting import until

LAST = frames.LARGEST_STREAM

# Age, and signs of life


async def test_a_connection_that_has_reached_its_age_lets_calls_finish() -> None:
    gate = Gate()
    limits = replace(LIMITS, max_age=0.05)
    async with serving(limits, Gate=gate.pass_through) as (server, port), raw_peer(port) as peer:
        peer.send(raw.call(1, "Gate"))
        await peer.until(lambda: len(peer.goaways) == 2)
        assert not peer.is_closed
        gate.open.set()
        await peer.closed()
        assert (peer.status(1), peer.body(1)) == (0, message(b"hello"))
        assert peer.goaways == [(LAST, 0), (1, 0)]
        await until(lambda: not server.connections or peer.is_closed)


async def test_the_age_has_a_grace() -> None:
    limits = replace(LIMITS, max_age=0.02, max_age_grace=0.05)
    methods = Methods()
    async with serving(limits, **methods.served()) as (_, port), raw_peer(port) as peer:
        peer.send(raw.call(1, "Wait"))
        await peer.closed()
        assert peer.status(1) == 14
        assert peer.trailers(1)[b"grpc-message"] == b"the connection has reached its age"
        assert methods.ended == ["cancelled"]


async def test_ages_differ_by_a_tenth() -> None:
    loop = asyncio.get_running_loop()
    server = Server(replace(LIMITS, max_age=1000.0), rng=Random(7))
    ages = []
    for _ in range(50):
        served = MemoryServer(server)
        ages.append(served.connection._timers["age"].when() - loop.time())
        served.transport.abort()
        assert not served.connection._timers
    assert 899 < min(ages) < 950
    assert 1050 < max(ages) < 1101


async def test_an_aged_connection_that_said_nothing_leaves_no_timer() -> None:
    async with memory_server(replace(LIMITS, max_age_grace=1000.0), hello=()) as served:
        served.connection._age()
        assert served.transport.is_eof
        assert not served.connection._timers


async def test_a_peer_that_answers_no_ping_is_cut_off() -> None:
    limits = replace(LIMITS, keep_alive_interval=0.02, keep_alive_timeout=0.05)
    methods = Methods()
    async with serving(limits, **methods.served()) as (_, port), raw_peer(port) as peer:
        peer.send(raw.call(1, "Wait"))
        await peer.until(lambda: len(peer.of(frames.PING)) >= 3)
        assert not methods.ended
        peer.is_polite = False
        await peer.closed()
        await until(lambda: methods.ended == ["cancelled"])


async def test_a_peer_that_sends_anything_is_alive() -> None:
    limits = replace(LIMITS, keep_alive_interval=0.001, keep_alive_timeout=1000.0)
    async with memory_server(limits) as served:
        for count in (1, 2):
            await until(lambda count=count: len(served.log.of(frames.PING)) == count)
            asked: Any = served.connection._keep_alive._timer
            if count == 1:
                served.send(frames.window_update(0, 1))
            asked._callback()
            assert served.transport.is_aborted is (count == 2)


@pytest.mark.parametrize("said", [b"", HELLO[:10], frames.PREFACE])
async def test_a_peer_that_does_not_greet_is_sent_away(said: bytes) -> None:
    limits = replace(LIMITS, handshake=0.05)
    async with serving(limits) as (server, port), raw_peer(port, said) as peer:
        peer.is_polite = False
        await peer.closed()
        assert peer.goaways == [(0, ErrorCode.SETTINGS_TIMEOUT)]
        await peer.aclose()
        await until(lambda: not server.connections)


async def test_a_peer_that_greets_in_time_may_be_silent() -> None:
    limits = replace(LIMITS, handshake=0.02)
    async with serving(limits) as (server, port), raw_peer(port) as peer:
        await until(lambda: server.connections)
        (connection,) = server.connections
        timer = connection._timers["handshake"]
        await until(lambda: connection.now() > timer.when() + 0.01)
        peer.send(raw.call(1))
        await peer.done(1)
        assert peer.status(1) == 0


# The peer's end


@pytest.mark.parametrize("how", ["close", "half", "reset"])
async def test_a_peer_that_leaves_ends_its_calls(how: str) -> None:
    methods = Methods()
    async with serving(**methods.served()) as (server, port), raw_peer(port) as peer:
        peer.send(raw.call(1, "Wait"), raw.headers(3, (b":path", b"/t.T/Chat")))
        await until(lambda: methods.running and len(server._tasks) == 2)
        if how == "close":
            peer.writer.close()
        elif how == "half":
            peer.writer.write_eof()
        else:
            peer.writer.transport.abort()
        await until(lambda: methods.ended == ["cancelled"] and not server._tasks)
        await until(lambda: not server.connections)


async def test_a_peer_that_shuts_its_side_and_reads_nothing_is_not_kept(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("proxy.http2.connection._FAREWELL", 0.01)

    async def endless(_request: bytes, _context: Any) -> AsyncIterator[bytes]:
        while True:
            yield b"x" * 100_000

    async with memory_server(Endless=("unary_stream", endless)) as served:
        served.transport.is_stuck = True
        served.send(frames.settings({4: 2**30}), frames.window_update(0, 2**30))
        served.send(raw.call(1, "Endless"))
        await served.settle()
        assert served.transport.get_write_buffer_size() > 256 * 1024
        assert served.connection.eof_received() is False
        await served.settle()
        assert not served.server._tasks
        await until(lambda: served.transport.is_aborted)


async def test_what_comes_after_the_end_is_dropped_and_the_end_is_said_once() -> None:
    async with memory_server() as served:
        served.send(raw.call(1), frames.window_update(0, 0) * 3, raw.call(3))
        await served.settle()
        assert served.log.goaways == [(1, ErrorCode.PROTOCOL_ERROR)]
        served.connection.fail(ErrorCode.INTERNAL_ERROR, "again")
        served.connection.abort("again")
        assert len(served.log.goaways) == 1
        assert not served.connection._timers
