"""Calls: how they end from here, and what streams let a peer send."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import grpc
import pytest

from proxy.http2 import frames
from proxy.http2.answer import CallError
from proxy.http2.connection import STREAM_WINDOW
from proxy.http2.frames import ErrorCode
from tests.support.scripted_peer import (
    HEAD,
    OK,
    STATUS_3,
    Frame,
    Talk,
    block,
    failure,
    message,
    talking,
)
from tests.support.waiting import until

Code = grpc.StatusCode


@pytest.fixture
async def talk() -> AsyncIterator[Talk]:
    async with talking() as talk:
        yield talk


async def test_a_deadline_ends_a_call_on_both_sides(talk: Talk) -> None:
    call = talk.channel.unary("/s/M", b"", bytes, timeout=0.05)
    stream = await talk.side.request()
    error = await failure(call)
    assert (error.code(), error.details()) == (Code.DEADLINE_EXCEEDED, "the deadline has passed")
    reset = await talk.reset()
    assert (reset.stream, reset.word) == (stream, ErrorCode.CANCEL)
    # What the peer sends before it hears of that is of no consequence.
    talk.side.answer(stream, b"late")
    again = talk.unary()
    talk.side.answer(await talk.side.request(), b"answer")
    assert await again == b"answer"


@pytest.mark.parametrize("is_task", [False, True])
async def test_a_cancelled_call_is_reset(talk: Talk, is_task: bool) -> None:
    call, told = talk.unary(), list[object]()
    call.add_done_callback(told.append)

    async def wait() -> bytes:
        return await call

    waiting = asyncio.create_task(wait())
    stream = await talk.side.request()
    assert waiting.cancel() if is_task else call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert call.cancelled()
    assert told == [call]
    call.add_done_callback(told.append)
    assert told == [call, call]
    reset = await talk.reset()
    assert (reset.stream, reset.word) == (stream, ErrorCode.CANCEL)


async def test_a_large_request_that_is_cancelled_is_sent_no_further(talk: Talk) -> None:
    call = talk.unary(bytes(1_000_000))
    stream, _ = await talk.side.head()
    assert call.cancel()
    while (found := await talk.side.frame()).kind == frames.DATA:
        assert not found.ends_stream
    assert (found.kind, found.stream) == (frames.RST_STREAM, stream)
    again = talk.unary()
    talk.side.say(frames.window_update(0, 1_000_000))
    talk.side.answer((await talk.side.head())[0], b"answer")
    assert await again == b"answer"


# Streams


async def test_a_stream_is_read_to_its_end(talk: Talk) -> None:
    call = talk.stream()
    stream = await talk.side.request()
    talk.side.fields(stream, HEAD + block(("x-head", "1")))
    talk.side.data(stream, message(b"1") + message(b"") + message(b"3")[:3])
    assert await call.read() == b"1"
    assert call.headers == (("x-head", "1"),)
    assert await call.read() == b""
    talk.side.data(stream, message(b"3")[3:])
    talk.side.fields(stream, OK + block(("x-tail", "2")), end=True)
    assert [one async for one in call] == [b"3"]
    assert await call.read() is None
    assert call.trailers == (("x-tail", "2"),)


async def test_an_empty_stream_has_no_message(talk: Talk) -> None:
    call = talk.stream()
    talk.side.fields(await talk.side.request(), HEAD + OK, end=True)
    assert await call.read() is None


async def test_what_came_before_a_failed_status_is_read_first(talk: Talk) -> None:
    call = talk.stream()
    stream = await talk.side.request()
    talk.side.fields(stream, HEAD)
    talk.side.data(stream, message(b"1") + message(b"2"))
    talk.side.fields(stream, STATUS_3, end=True)
    await until(call.done)
    assert [await call.read(), await call.read()] == [b"1", b"2"]
    for _ in range(2):
        with pytest.raises(CallError, match="so bäd"):
            await call.read()


@pytest.mark.parametrize("how", ["cancel", "cut", "deadline"])
async def test_a_stream_that_is_broken_off_gives_nothing_more(talk: Talk, how: str) -> None:
    call = talk.channel.stream("/s/M", b"x", bytes, timeout=0.2 if how == "deadline" else 10)
    stream = await talk.side.request()
    talk.side.fields(stream, HEAD)
    talk.side.data(stream, message(b"1") + message(b"2"))
    assert await call.read() == b"1"
    if how == "cancel":
        call.cancel()
    elif how == "cut":
        talk.side.cut()
    await until(call.done)
    with pytest.raises(asyncio.CancelledError if how == "cancel" else CallError):
        await call.read()


async def test_cancelling_a_reader_cancels_its_call(talk: Talk) -> None:
    call = talk.stream()
    stream = await talk.side.request()
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.01):
            await call.read()
    assert call.cancelled()
    assert (await talk.reset()).stream == stream


def room_of(found: Frame) -> int:
    assert found.kind == frames.WINDOW_UPDATE
    return found.word


async def test_a_peer_is_ahead_of_a_slow_reader_by_one_window(talk: Talk) -> None:
    call = talk.stream()
    stream = await talk.side.request()
    talk.side.fields(stream, HEAD)
    # As many messages as fill the window, each in one frame.
    size, sent = 16 * 1024 - 5, 0
    for _ in range(STREAM_WINDOW // (size + 5)):
        talk.side.data(stream, message(bytes(size)))
        sent += 1
    await until(lambda: len(call._inbox) == sent)
    # Only the first, which was not held back by another.
    updates = []
    for _ in range(sent):
        assert await call.read() == bytes(size)
    talk.side.say(frames.frame(frames.PING, 0, 0, b"the end."))
    while (found := await talk.side.frame()).kind != frames.PING:
        if found.stream == stream:
            updates.append(room_of(found))
    assert sum(updates) <= STREAM_WINDOW
    assert sum(updates) >= STREAM_WINDOW // 2
    assert call.receive_window <= STREAM_WINDOW
    assert call.cancel()


async def test_a_reader_that_takes_nothing_is_sent_nothing_more(talk: Talk) -> None:
    call = talk.stream()
    stream = await talk.side.request()
    talk.side.fields(stream, HEAD)
    for _ in range(STREAM_WINDOW // 16_384):
        talk.side.data(stream, message(bytes(16_379)))
    talk.side.say(frames.frame(frames.PING, 0, 0, b"the end."))
    while (found := await talk.side.frame()).kind != frames.PING:
        assert found.stream == 0
    # One more byte is against the rules.
    talk.side.data(stream, b"x")
    reset = await talk.reset()
    assert (reset.stream, reset.word) == (stream, ErrorCode.FLOW_CONTROL_ERROR)
    with pytest.raises(CallError, match="more than the window allows"):
        await call.read()


@pytest.mark.parametrize("is_stream", [False, True])
async def test_a_message_may_be_larger_than_the_window(talk: Talk, is_stream: bool) -> None:
    call, unary = talk.stream(), talk.unary()
    first, second = await talk.side.request(), await talk.side.request()
    stream = first if is_stream else second
    talk.side.fields(stream, HEAD)
    body, window = message(bytes(3 * STREAM_WINDOW)), STREAM_WINDOW
    while body:
        part, body = body[: min(window, 16_384)], body[min(window, 16_384) :]
        talk.side.data(stream, part)
        window -= len(part)
        while window < 16_384 and body:
            found = await talk.side.frame(frames.WINDOW_UPDATE)
            window += found.word if found.stream == stream else 0
    talk.side.fields(stream, OK, end=True)
    answer = await (call.read() if is_stream else unary)
    assert answer == bytes(3 * STREAM_WINDOW)


async def test_a_stream_that_is_left_gives_its_window_back(talk: Talk) -> None:
    """What was sent of it does not count against the others of the connection."""
    part = message(bytes(16_379))
    for _ in range(20):
        call = talk.stream()
        stream = await talk.side.request()
        talk.side.fields(stream, HEAD)
        for _ in range(STREAM_WINDOW // 16_384):
            talk.side.data(stream, part)
        assert await call.read() == bytes(16_379)
        call.cancel()
        await talk.reset()
    unary = talk.unary()
    talk.side.answer(await talk.side.request(), b"answer")
    assert await unary == b"answer"
