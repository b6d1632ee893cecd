"""Frames that make no sense where they come: what becomes of the stream, or the connection."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from proxy.http2 import frames
from proxy.http2.frames import ErrorCode
from proxy.http2.server import ServerLimits
from tests.support import raw_http2 as raw
from tests.support.raw_http2 import RawPeer, message, raw_peer, serving

# What is sent on a stream that is open (1), closed (3) or has never been (5), and what comes of it:
# the code for the stream, or of the connection's end.
ILL_TIMED = {
    "a body behind the end": (1, raw.data(1, b"x"), ErrorCode.STREAM_CLOSED, None),
    "fields behind the end": (1, raw.headers(1), ErrorCode.STREAM_CLOSED, None),
    "a body behind an answer": (3, raw.data(3, b"x"), ErrorCode.STREAM_CLOSED, None),
    "trailers behind an answer": (
        3,
        frames.frame(frames.HEADERS, 5, 3, raw.block(head=((b"x", b"1"),))),
        ErrorCode.STREAM_CLOSED,
        None,
    ),
    "the number of an older stream": (3, raw.headers(3), None, ErrorCode.STREAM_CLOSED),
    "a body without a head": (5, raw.data(5, b"x"), None, ErrorCode.PROTOCOL_ERROR),
    "a reset without a head": (5, frames.rst_stream(5, 8), None, ErrorCode.PROTOCOL_ERROR),
    "a window without a head": (5, frames.window_update(5, 1), None, ErrorCode.PROTOCOL_ERROR),
    "an even number": (6, raw.headers(6), None, ErrorCode.PROTOCOL_ERROR),
    "a body of an even number": (2, raw.data(2, b""), None, ErrorCode.PROTOCOL_ERROR),
    "an increment of zero": (1, frames.window_update(1, 0), ErrorCode.PROTOCOL_ERROR, None),
    "zero for the connection": (0, frames.window_update(0, 0), None, ErrorCode.PROTOCOL_ERROR),
    "a window too large": (
        1,
        frames.window_update(1, frames.LARGEST_WINDOW),
        ErrorCode.FLOW_CONTROL_ERROR,
        None,
    ),
    "the connection's too large": (
        0,
        frames.window_update(0, frames.LARGEST_WINDOW),
        None,
        ErrorCode.FLOW_CONTROL_ERROR,
    ),
    "windows too large": (
        0,
        frames.settings({frames.INITIAL_WINDOW_SIZE: 2**31}),
        None,
        ErrorCode.FLOW_CONTROL_ERROR,
    ),
    "windows that become too large": (
        0,
        frames.window_update(1, 1) + frames.settings({4: frames.LARGEST_WINDOW}),
        None,
        ErrorCode.FLOW_CONTROL_ERROR,
    ),
    "small frames": (0, frames.settings({5: 16_383}), None, ErrorCode.PROTOCOL_ERROR),
    "a push of two": (0, frames.settings({2: 2}), None, ErrorCode.PROTOCOL_ERROR),
}


@pytest.mark.parametrize(("stream", "sent", "reset", "goaway"), ILL_TIMED.values(), ids=ILL_TIMED)
async def test_what_comes_at_a_wrong_time_has_the_code_of_the_rfc(
    peer: RawPeer,
    stream: int,
    sent: bytes,
    reset: ErrorCode | None,
    goaway: ErrorCode | None,
) -> None:
    peer.send(raw.call(1, "Wait"), raw.call(3))
    await peer.done(3)
    peer.send(sent)
    if goaway is not None:
        await peer.closed()
        assert peer.goaways == [(3, goaway)]
        return
    await peer.until(lambda: peer.of(frames.RST_STREAM, stream))
    assert [frame.word for frame in peer.of(frames.RST_STREAM)] == [reset]
    peer.send(raw.call(7))
    await peer.done(7)
    assert peer.status(7) == 0


MALFORMED = {
    "a head without a path": raw.headers(1, (b":path", b"")),
    "a body longer than it said": raw.headers(1, (b"content-length", b"3"))
    + raw.data(1, message(b"hello"), end=True),
    "a body shorter than it said": raw.headers(1, (b"content-length", b"30"))
    + raw.data(1, message(b"hello"), end=True),
    "no body where one was said": raw.headers(1, (b"content-length", b"3"), end=True),
    "fields between bodies": raw.headers(1) + raw.headers(1),
    "trailers with a pseudo field": raw.headers(1) + raw.headers(1, end=True),
}


@pytest.mark.parametrize("sent", MALFORMED.values(), ids=MALFORMED)
async def test_a_malformed_request_is_reset(peer: RawPeer, sent: bytes) -> None:
    peer.send(sent, raw.call(3))
    await peer.done(3)
    assert [frame.word for frame in peer.of(frames.RST_STREAM, 1)] == [ErrorCode.PROTOCOL_ERROR]
    assert peer.status(3) == 0


async def test_more_than_a_window_allows_ends_the_stream() -> None:
    # The handler takes nothing, so that the window is not opened again.
    limit = ServerLimits(message=16 * 1024 * 1024)
    taken = asyncio.Event()

    async def idle(_requests: Any, _context: Any) -> bytes:
        await taken.wait()
        return b""

    async with serving(limit, Idle=("stream_unary", idle)) as (_, port), raw_peer(port) as other:
        other.send(raw.headers(1, (b":path", b"/t.T/Idle")))
        for _ in range(5):
            other.send(raw.data(1, message(b"x" * 700_000)))
        await other.until(lambda: other.of(frames.RST_STREAM, 1))
        assert other.of(frames.RST_STREAM, 1)[0].word == ErrorCode.FLOW_CONTROL_ERROR
        taken.set()


async def test_a_window_is_opened_as_the_handler_takes_requests(port: int) -> None:
    async with raw_peer(port) as peer:
        peer.send(raw.headers(1, (b":path", b"/t.T/Total")))
        sent, allowed = 0, 1024 * 1024
        while sent < 3_000_000:
            size = min(allowed - sent, 100_000)
            if size > 5:
                peer.send(raw.data(1, message(b"x" * (size - 5))))
                sent += size
            await asyncio.sleep(0)
            allowed = 1024 * 1024 + sum(f.word for f in peer.of(frames.WINDOW_UPDATE, 1))
        peer.send(frames.window_update(1, 10**8), frames.window_update(0, 10**8))
        peer.send(raw.data(1, b"", end=True))
        await peer.done(1)
        assert peer.status(1) == 0
        assert len(peer.body(1)) > 2_900_000
