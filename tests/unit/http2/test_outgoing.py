"""Calls: what their answers mean, whole or broken, and what they let a peer send."""

from __future__ import annotations

import asyncio
import gzip
import time
import zlib
from collections.abc import AsyncIterator, Callable

import grpc
import pytest

from proxy.http2 import frames
from proxy.http2.channel import Channel
from proxy.http2.frames import ErrorCode
from tests.support.scripted_peer import (
    HEAD,
    LIMITS,
    OK,
    STATUS_3,
    Peer,
    Side,
    Talk,
    block,
    failure,
    message,
    talking,
)

Code = grpc.StatusCode
Answer = Callable[[Side, int], None]


@pytest.fixture
async def talk() -> AsyncIterator[Talk]:
    async with talking() as talk:
        yield talk


def said(*parts: bytes | tuple[bytes, bool]) -> Answer:
    """Return an answer of header blocks (with whether they end it) and of DATA."""

    def answer(side: Side, stream: int) -> None:
        for part in parts:
            if isinstance(part, tuple):
                side.fields(stream, part[0], end=part[1])
            else:
                side.data(stream, part)

    return answer


# Answers


@pytest.mark.parametrize(
    ("encoding", "raw"),
    [
        ("identity", message(b"answer")),
        ("gzip", message(b"answer")),
        ("gzip", b"\x01" + message(gzip.compress(b"answer", mtime=0))[1:]),
        ("deflate", b"\x01" + message(zlib.compress(b"answer"))[1:]),
    ],
)
@pytest.mark.parametrize("step", [1, 7, 1000])
async def test_an_answer_may_come_in_pieces(
    talk: Talk, encoding: str, raw: bytes, step: int
) -> None:
    call = talk.unary()
    stream = await talk.side.request()
    talk.side.fields(stream, HEAD + block(("grpc-encoding", encoding), ("x-head", "1")))
    for start in range(0, len(raw), step):
        talk.side.data(stream, raw[start : start + step])
    talk.side.fields(stream, OK + block(("x-tail-bin", "AAH/"), ("x-tail", "2")), end=True)
    assert await call == b"answer"
    assert call.headers == (("x-head", "1"),)
    assert call.trailers == (("x-tail-bin", b"\0\1\xff"), ("x-tail", "2"))
    assert call.done()
    assert not call.cancelled()
    assert not call.cancel()


async def test_the_bytes_of_a_connection_may_come_one_by_one(talk: Talk) -> None:
    call = talk.unary()
    stream = await talk.side.request()
    written: list[bytes] = []
    say, talk.side.say = talk.side.say, written.append  # type: ignore[method-assign]
    talk.side.answer(stream, b"answer")
    for byte in b"".join(written):
        say(bytes((byte,)))
        await talk.side.writer.drain()
        await asyncio.sleep(0)
    assert await call == b"answer"


async def test_an_informational_head_comes_before_the_head(talk: Talk) -> None:
    call = talk.unary()
    stream = await talk.side.request()
    talk.side.fields(stream, block((":status", "103"), ("link", "x")))
    talk.side.answer(stream, b"answer")
    assert await call == b"answer"


async def test_metadata_goes_along(talk: Talk) -> None:
    pairs = (("x-text", "a b"), ("x-bytes-bin", b"\0\xff"))
    call = talk.channel.unary("/s/M", b"", bytes, metadata=pairs)
    stream, fields = await talk.side.head()
    assert (fields["x-text"], fields["x-bytes-bin"]) == ("a b", "AP8")
    assert "grpc-timeout" not in fields
    talk.side.answer(stream, b"")
    assert await call == b""


@pytest.mark.parametrize("pair", [("X", "y"), ("grpc-status", "0"), ("x", "\n"), ("x", "ä")])
async def test_metadata_that_cannot_be_sent_is_refused(talk: Talk, pair: tuple[str, str]) -> None:
    with pytest.raises(ValueError, match="metadata"):
        talk.channel.unary("/s/M", b"", bytes, metadata=[pair])


# Failures


@pytest.mark.parametrize(
    ("answer", "headers"),
    [
        (said((HEAD + STATUS_3, True)), ()),
        (said((HEAD + block(("x-head", "1")), False), (STATUS_3, True)), (("x-head", "1"),)),
        (said((HEAD, False), message(b"half of it"), (STATUS_3, True)), ()),
    ],
)
async def test_a_failed_call_has_code_text_and_metadata(
    talk: Talk, answer: Answer, headers: tuple[tuple[str, str], ...]
) -> None:
    call = talk.unary()
    answer(talk.side, await talk.side.request())
    error = await failure(call)
    assert (error.code(), error.details()) == (Code.INVALID_ARGUMENT, "so bäd")
    assert tuple(error.initial_metadata()) == headers
    assert tuple(error.trailing_metadata()) == (("x-detail-bin", b"\0\1"),)
    assert not error.is_unsent


@pytest.mark.parametrize(
    ("answer", "code", "text"),
    [
        (said((block((":status", "404")), True)), Code.UNIMPLEMENTED, "HTTP status 404"),
        (said((block((":status", "401")), False)), Code.UNAUTHENTICATED, "HTTP status 401"),
        (said((block((":status", "403")), False)), Code.PERMISSION_DENIED, "HTTP status 403"),
        (said((block((":status", "400")), False)), Code.INTERNAL, "HTTP status 400"),
        (said((block((":status", "429")), False)), Code.UNAVAILABLE, "HTTP status 429"),
        (said((block((":status", "502")), False), b"<html>"), Code.UNAVAILABLE, "status 502"),
        (said((block((":status", "503")), False)), Code.UNAVAILABLE, "HTTP status 503"),
        (said((block((":status", "504")), False)), Code.UNAVAILABLE, "HTTP status 504"),
        (said((block((":status", "500")), False)), Code.UNKNOWN, "HTTP status 500"),
        (said((block((":status", "302")), False)), Code.UNKNOWN, "HTTP status 302"),
        (said((block((":status", "?")), False)), Code.INTERNAL, "no status of HTTP"),
        (said((block(("x", "y")), False)), Code.INTERNAL, "no status of HTTP"),
        (
            said((block((":status", "200"), ("content-type", "text/html")), False)),
            Code.UNKNOWN,
            "not gRPC, but 'text/html'",
        ),
        (said((block((":status", "200")), True)), Code.UNKNOWN, "not gRPC"),
        (said((HEAD, True)), Code.UNKNOWN, "no `grpc-status`"),
        (said((HEAD, False), message(b"x"), (block(("x", "y")), True)), Code.UNKNOWN, "no `grpc"),
        (said((HEAD + block(("grpc-status", "99")), True)), Code.UNKNOWN, "unknown status '99'"),
        (said((HEAD + block(("grpc-status", "x")), True)), Code.UNKNOWN, "unknown status 'x'"),
        (said((HEAD, False), (OK, True)), Code.INTERNAL, "the answer has no message"),
        (said((HEAD + OK, True)), Code.INTERNAL, "the answer has no message"),
        (said((HEAD, False), message(b"1") + message(b"2")), Code.INTERNAL, "more than one"),
        (said((HEAD, False), message(b"1"), message(b"2")), Code.INTERNAL, "more than one"),
        (said((HEAD, False), message(b"1")[:-1], (OK, True)), Code.INTERNAL, "in the middle of"),
        (said((HEAD, False), b"\x02\0\0\0\0"), Code.INTERNAL, "flag is 2"),
        (said((HEAD, False), b"\x01\0\0\0\x01x"), Code.INTERNAL, "does not say how"),
        (said((HEAD, False), b"\0\xff\0\0\0"), Code.RESOURCE_EXHAUSTED, "more than the 4194304"),
        (
            said((HEAD + block(("grpc-encoding", "snappy")), False)),
            Code.INTERNAL,
            "'snappy' is unknown",
        ),
        (
            said((HEAD + block(("grpc-encoding", "gzip")), False), b"\x01\0\0\0\x04none"),
            Code.INTERNAL,
            "cannot be decompressed",
        ),
        (
            said(
                (HEAD + block(("grpc-encoding", "gzip")), False),
                b"\x01" + message(gzip.compress(bytes(5_000_000)))[1:],
            ),
            Code.RESOURCE_EXHAUSTED,
            "more than the 4194304",
        ),
        (
            said((HEAD + block(*((f"x-{n}", "y" * 1000) for n in range(40))), False)),
            Code.RESOURCE_EXHAUSTED,
            "more than are taken",
        ),
        (said((HEAD + block(("x-bin", "?")), False)), Code.INTERNAL, "metadata b'x-bin'"),
        (said((HEAD + block(("X-Upper", "y")), False)), Code.INTERNAL, "malformed"),
        (said((HEAD, False), (HEAD, False)), Code.INTERNAL, "a second head"),
        (said(message(b"x")), Code.INTERNAL, "no head"),
    ],
)
async def test_an_answer_that_is_none_has_a_clear_status(
    talk: Talk, answer: Answer, code: grpc.StatusCode, text: str
) -> None:
    call = talk.unary()
    answer(talk.side, await talk.side.request())
    error = await failure(call)
    assert error.code() is code
    assert text in str(error.details())
    assert not error.is_unsent
    # The connection is as good as before.
    again = talk.unary()
    talk.side.answer(await talk.side.request(), b"answer")
    assert await again == b"answer"


async def test_data_that_end_an_answer_leave_it_without_status(talk: Talk) -> None:
    call = talk.unary()
    stream = await talk.side.request()
    talk.side.fields(stream, HEAD)
    talk.side.data(stream, message(b"x"), end=True)
    error = await failure(call)
    assert (error.code(), error.details()) == (Code.UNKNOWN, "the answer has no `grpc-status`")


@pytest.mark.parametrize(
    ("reset", "code"),
    [
        (ErrorCode.NO_ERROR, Code.INTERNAL),
        (ErrorCode.PROTOCOL_ERROR, Code.INTERNAL),
        (ErrorCode.INTERNAL_ERROR, Code.INTERNAL),
        (ErrorCode.FLOW_CONTROL_ERROR, Code.INTERNAL),
        (ErrorCode.SETTINGS_TIMEOUT, Code.INTERNAL),
        (ErrorCode.STREAM_CLOSED, Code.UNKNOWN),
        (ErrorCode.FRAME_SIZE_ERROR, Code.INTERNAL),
        (ErrorCode.CANCEL, Code.CANCELLED),
        (ErrorCode.COMPRESSION_ERROR, Code.INTERNAL),
        (ErrorCode.CONNECT_ERROR, Code.INTERNAL),
        (ErrorCode.ENHANCE_YOUR_CALM, Code.RESOURCE_EXHAUSTED),
        (ErrorCode.INADEQUATE_SECURITY, Code.PERMISSION_DENIED),
        (0xFEDC, Code.INTERNAL),
    ],
)
@pytest.mark.parametrize("has_head", [False, True])
async def test_a_reset_has_the_code_that_grpc_gives_it(
    talk: Talk, reset: int, code: grpc.StatusCode, has_head: bool
) -> None:
    call = talk.unary()
    stream = await talk.side.request()
    if has_head:
        talk.side.fields(stream, HEAD)
    talk.side.say(frames.rst_stream(stream, reset))
    error = await failure(call)
    assert error.code() is code
    assert frames.code_name(reset) in str(error.details())
    assert not error.is_unsent


def hold_up(until: Callable[[], bool]) -> None:
    """Let nothing else run on the event loop until something is so."""
    while not until():
        time.sleep(0.01)


async def test_a_peer_that_keeps_the_deadline_may_be_first(talk: Talk) -> None:
    call = talk.channel.unary("/s/M", b"x", bytes, timeout=0.2)
    over = talk.channel.loop.time() + 0.2
    talk.side.say(frames.rst_stream(await talk.side.request(), ErrorCode.CANCEL))
    # Both wait for the event loop now, which looks at sockets before it looks at the time.
    hold_up(lambda: talk.channel.loop.time() >= over)
    assert (await failure(call)).code() is Code.DEADLINE_EXCEEDED


@pytest.mark.parametrize("phase", range(5))
async def test_a_connection_may_be_lost_at_any_time(talk: Talk, phase: int) -> None:
    call = talk.unary(bytes(200_000))
    stream, _ = await talk.side.head()
    if phase > 0:
        while not (part := await talk.side.frame(frames.DATA)).ends_stream:
            talk.side.say(frames.window_update(0, len(part.payload) or 1))
            talk.side.say(frames.window_update(stream, len(part.payload) or 1))
    if phase > 1:
        talk.side.fields(stream, HEAD)
    if phase > 2:
        talk.side.data(stream, message(b"answer")[:7])
    if phase > 3:
        talk.side.data(stream, message(b"answer")[7:])
    await talk.side.writer.drain()
    talk.side.cut()
    error = await failure(call)
    assert error.code() is Code.UNAVAILABLE
    assert not error.is_unsent


async def test_a_request_over_the_limit_is_not_sent(talk: Talk) -> None:
    error = await failure(talk.unary(bytes(LIMITS.message + 1)))
    assert error.code() is Code.RESOURCE_EXHAUSTED
    assert (
        error.details() == "the request has 4194305 bytes, more than the 4194304 that may be sent"
    )


async def test_metadata_that_the_peer_does_not_take_are_not_sent() -> None:
    async with Peer() as peer, Channel(peer.address, limits=LIMITS) as channel:
        call = channel.unary("/s/M", b"", bytes, metadata=[("x", "y" * 300)])
        side = await peer.greeted({frames.MAX_HEADER_LIST_SIZE: 400})
        assert (await failure(call)).code() is Code.RESOURCE_EXHAUSTED
        small = channel.unary("/s/M", b"", bytes)
        side.answer(await side.request(), b"answer")
        assert await small == b"answer"


async def test_what_the_decoder_raises_goes_to_who_awaits(talk: Talk) -> None:
    def decode(raw: bytes) -> int:
        return int(raw)

    unary = talk.channel.unary("/s/M", b"", decode)
    talk.side.answer(await talk.side.request(), b"x")
    with pytest.raises(ValueError, match="invalid literal"):
        await unary
    stream = talk.channel.stream("/s/M", b"", decode)
    talk.side.answer(await talk.side.request(), b"x")
    with pytest.raises(ValueError, match="invalid literal"):
        await stream.read()
