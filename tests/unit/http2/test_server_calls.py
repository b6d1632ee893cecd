"""Calls as callers see them: by gRPC's own client, and by a peer that sends any frames."""

from __future__ import annotations

import asyncio
import gzip
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest

from proxy.http2 import frames
from proxy.http2.frames import ErrorCode
from tests.support import raw_http2 as raw
from tests.support.raw_http2 import RawPeer, message, raw_peer
from tests.support.raw_methods import Methods
from tests.support.waiting import until

Code = grpc.StatusCode


@pytest.fixture
async def channel(port: int) -> AsyncIterator[grpc.aio.Channel]:
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        yield channel


# By gRPC's own client


@pytest.mark.parametrize("size", [0, 1, 16_384, 100_000, 3_000_000])
async def test_a_message_of_any_size_comes_back(channel: grpc.aio.Channel, size: int) -> None:
    sent = bytes(range(256)) * (size // 256) + b"x" * (size % 256)
    echo: Any = channel.unary_unary("/t.T/Echo")
    assert await asyncio.gather(*(echo(sent) for _ in range(5))) == [sent] * 5


async def test_streams_of_all_kinds(channel: grpc.aio.Channel) -> None:
    call: Any = channel.unary_stream("/t.T/Count")(b"300")
    assert [part async for part in call] == [b"%d" % number for number in range(300)]
    assert dict(await call.initial_metadata()) == {"x-first": "1", "x-bin": b"\0"}
    assert dict(await call.trailing_metadata()) == {"x-last": "2"}
    parts = [b"a", b"", b"c" * 70_000] * 20
    total: Any = channel.stream_unary("/t.T/Total")(iter(parts))
    assert await total == b"".join(parts)
    chat: Any = channel.stream_stream("/t.T/Chat")()
    for word in (b"one", b"two"):
        await chat.write(word)
        assert await chat.read() == word.upper()
    await chat.done_writing()
    assert await chat.read() is grpc.aio.EOF
    assert await chat.code() is Code.OK


async def test_a_stream_of_nothing(channel: grpc.aio.Channel) -> None:
    call: Any = channel.unary_stream("/t.T/Count")(b"0")
    assert [part async for part in call] == []
    assert await call.code() is Code.OK


async def failed(call: Any) -> grpc.aio.AioRpcError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return caught.value


async def test_a_status_has_its_text_and_metadata(channel: grpc.aio.Channel) -> None:
    error = await failed(channel.unary_unary("/t.T/Refuse")(b""))
    assert (error.code(), error.details()) == (Code.NOT_FOUND, "no ä\n50%")
    assert dict(error.trailing_metadata()) == {"x-why": "so", "y-bin": b"\xff"}


async def test_a_defect_tells_the_caller_nothing_of_itself(
    channel: grpc.aio.Channel, caplog: pytest.LogCaptureFixture
) -> None:
    error = await failed(channel.unary_unary("/t.T/Fail")(b""))
    assert (error.code(), error.details()) == (Code.UNKNOWN, "unexpected error")
    assert [record.getMessage() for record in caplog.records] == ["unexpected error in a handler"]
    caplog.clear()


async def test_the_deadline_ends_a_call(channel: grpc.aio.Channel, methods: Methods) -> None:
    error = await failed(channel.unary_unary("/t.T/Wait")(b"", timeout=0.2))
    assert error.code() is Code.DEADLINE_EXCEEDED
    await until(lambda: methods.ended == ["cancelled"])


async def test_a_caller_that_leaves_ends_its_call(
    channel: grpc.aio.Channel, methods: Methods
) -> None:
    call: Any = channel.unary_unary("/t.T/Wait")(b"")
    await until(lambda: methods.running)
    call.cancel()
    await until(lambda: methods.ended == ["cancelled"])


async def test_a_handler_knows_its_caller(channel: grpc.aio.Channel) -> None:
    call: Any = channel.unary_unary("/t.T/Metadata")(b"", timeout=60, metadata=(("x-id", "7"),))
    found = (await call).decode()
    assert "('x-id', '7')" in found
    assert "False, 'ipv4:127.0.0.1:" in found
    assert "grpc-timeout" not in found
    assert "content-type" not in found


async def test_what_is_not_there_is_unimplemented(channel: grpc.aio.Channel) -> None:
    error = await failed(channel.unary_unary("/t.T/Missing")(b"x" * 100_000))
    assert (error.code(), error.details()) == (
        Code.UNIMPLEMENTED,
        "there is no method '/t.T/Missing'",
    )


async def test_metadata_over_the_limit_is_refused(channel: grpc.aio.Channel) -> None:
    echo: Any = channel.unary_unary("/t.T/Echo")
    assert await echo(b"x", metadata=(("x", "y" * 15_000),)) == b"x"
    error = await failed(echo(b"x", metadata=(("x", "y" * 17_000),)))
    assert error.code() is Code.RESOURCE_EXHAUSTED


async def test_a_message_over_the_limit_is_refused(channel: grpc.aio.Channel) -> None:
    error = await failed(channel.unary_unary("/t.T/Echo")(b"x" * (raw.LIMITS.message + 1)))
    assert error.code() is Code.RESOURCE_EXHAUSTED
    assert "a message has 4194305 bytes, more than the 4194304 that are taken" in str(error)


@pytest.mark.parametrize("algorithm", [grpc.Compression.Gzip, grpc.Compression.Deflate])
async def test_compressed_requests_are_taken(port: int, algorithm: grpc.Compression) -> None:
    address = f"127.0.0.1:{port}"
    async with grpc.aio.insecure_channel(address, compression=algorithm) as channel:
        echo: Any = channel.unary_unary("/t.T/Echo")
        assert await echo(b"x" * 50_000) == b"x" * 50_000


# By frames


async def test_an_answer_is_head_message_and_trailers(peer: RawPeer) -> None:
    peer.send(raw.call(1))
    await peer.done(1)
    assert peer.fields[1] == [
        [(b":status", b"200"), (b"content-type", b"application/grpc")],
        [(b"grpc-status", b"0")],
    ]
    assert peer.body(1) == message(b"hello")
    assert not peer.of(frames.RST_STREAM)


# The stream's window at first, and by how much it is opened each time.
@pytest.mark.parametrize(("initial", "step"), [(0, 7_000), (1, 20_000), (5, 65_535), (100, 33)])
async def test_a_large_answer_comes_through_small_windows(
    port: int, initial: int, step: int
) -> None:
    size = 10 * step // 256 * 256
    answer = message(bytes(range(256)) * (size // 256))
    hello = frames.PREFACE + frames.settings({frames.INITIAL_WINDOW_SIZE: initial})
    async with raw_peer(port, hello) as peer:
        peer.send(raw.call(1, "Large", b"%d" % size))
        await peer.until(lambda: 1 in peer.fields)
        opened = initial
        while opened < len(answer):
            await peer.until(lambda opened=opened: len(peer.body(1)) == opened)
            assert not peer.is_done(1)
            opened += step
            peer.send(frames.window_update(1, step), frames.window_update(0, step))
        await peer.done(1)
        assert (peer.body(1), peer.status(1)) == (answer, 0)
        assert max(len(frame.payload) for frame in peer.of(frames.DATA)) <= 16_384


async def test_small_answers_are_not_held_up_by_a_stalled_one(port: int) -> None:
    async with raw_peer(port) as peer:
        # Its stream's window is as large as the connection's, which is opened for others.
        peer.send(raw.call(1, "Large", b"1048576"))
        await peer.until(lambda: len(peer.body(1)) == frames.DEFAULT_WINDOW)
        peer.send(raw.call(3), frames.window_update(0, 1000))
        await peer.done(3)
        assert (peer.status(3), peer.body(3)) == (0, message(b"hello"))
        assert not peer.is_done(1)


async def test_a_body_may_come_in_any_pieces(peer: RawPeer) -> None:
    body = message(b"hello")
    peer.send(raw.headers(1))
    for place in range(len(body)):
        peer.send(raw.data(1, body[place : place + 1]))
        await asyncio.sleep(0)
    peer.send(raw.data(1, b"", end=True))
    await peer.done(1)
    assert peer.body(1) == body


async def test_trailers_may_end_a_request(peer: RawPeer) -> None:
    peer.send(raw.headers(1), raw.data(1, message(b"hello")))
    peer.send(frames.frame(frames.HEADERS, 5, 1, raw.block(head=((b"x-sum", b"1"),))))
    await peer.done(1)
    assert (peer.status(1), peer.body(1)) == (0, message(b"hello"))


BODIES = {
    "no message": (b"", 13, b"one message, and none has come"),
    "two messages": (message(b"a") * 2, 13, b"one message, and more have come"),
    "half a message": (message(b"abc")[:-1], 13, b"ends in the middle of a message"),
    "half a prefix": (b"\0\0", 13, b"ends in the middle of a message"),
    "a flag of two": (message(b"a", 2), 13, b"flag is 2"),
    "compressed by nothing": (message(gzip.compress(b"a"), 1), 13, b"does not say how"),
    "a message over the limit": (b"\0\xff\0\0\0", 8, b"more than the 4194304 that are taken"),
}


@pytest.mark.parametrize("is_whole", [True, False])
@pytest.mark.parametrize(("body", "code", "text"), BODIES.values(), ids=BODIES)
async def test_a_request_that_cannot_be_taken_gets_a_status(
    peer: RawPeer, body: bytes, code: int, text: bytes, is_whole: bool
) -> None:
    peer.send(raw.headers(1), raw.data(1, body, end=is_whole))
    if not is_whole and b"message" in text and b"more" not in text:
        # Nothing is wrong with it yet.
        peer.send(raw.data(1, b"", end=True))
    await peer.done(1)
    assert peer.status(1) == code
    assert text in peer.trailers(1)[b"grpc-message"]
    peer.send(raw.call(3))
    await peer.done(3)
    assert peer.status(3) == 0


Field = tuple[bytes, bytes]
HEADS: dict[str, tuple[Field, dict[bytes, bytes]]] = {
    "no gRPC": ((b"content-type", b"text/html"), {b":status": b"415", b"grpc-status": b"13"}),
    "GET": ((b":method", b"GET"), {b":status": b"405", b"grpc-status": b"13"}),
    "no method": ((b":path", b"/x"), {b":status": b"200", b"grpc-status": b"12"}),
    "an encoding": ((b"grpc-encoding", b"snappy"), {b"grpc-status": b"12"}),
    "a deadline": ((b"grpc-timeout", b"soon"), {b"grpc-status": b"13"}),
    "much metadata": ((b"x", b"y" * 17_000), {b"grpc-status": b"8"}),
}


@pytest.mark.parametrize("is_whole", [True, False])
@pytest.mark.parametrize(("field", "expected"), HEADS.values(), ids=HEADS)
async def test_a_head_that_cannot_be_served_is_answered_before_the_body(
    peer: RawPeer, field: Field, expected: dict[bytes, bytes], is_whole: bool
) -> None:
    peer.send(raw.headers(1, field, end=is_whole))
    await peer.done(1)
    assert expected.items() <= peer.trailers(1).items()
    if not is_whole:
        # The rest of the request is not wanted, nor a fault of anyone.
        await peer.until(lambda: peer.of(frames.RST_STREAM, 1))
        assert peer.of(frames.RST_STREAM, 1)[0].word == ErrorCode.NO_ERROR
        peer.send(raw.data(1, b"late" * 1000, end=True))
    peer.send(raw.call(3))
    await peer.done(3)
    assert peer.status(3) == 0
    assert not peer.of(frames.RST_STREAM, 3)


async def test_a_deadline_that_has_passed_ends_a_call_that_never_began(peer: RawPeer) -> None:
    peer.send(raw.headers(1, (b"grpc-timeout", b"1n")))
    await peer.done(1)
    assert peer.status(1) == 4
