"""The channel: what becomes of calls when a peer leaves, or has no room, and at the end."""

from __future__ import annotations

import asyncio
from collections import Counter

import grpc
import pytest

from proxy.http2 import frames
from proxy.http2.frames import ErrorCode
from tests.support.scripted_peer import (
    Peer,
    begin,
    channel_to,
    failure,
    in_state,
    message,
)
from tests.support.waiting import until

State = grpc.ChannelConnectivity
Code = grpc.StatusCode


async def test_calls_end_on_the_old_connection_and_begin_on_a_new_one() -> None:
    async with Peer() as peer, channel_to(peer.address) as channel:
        first = begin(channel)
        old = await peer.greeted()
        stream = await old.request()
        old.say(frames.goaway(frames.LARGEST_STREAM, ErrorCode.NO_ERROR))
        await in_state(channel, State.IDLE)
        second = begin(channel)
        new = await peer.greeted()
        new.answer(await new.request(), b"new")
        assert await second == b"new"
        old.say(frames.goaway(stream, ErrorCode.NO_ERROR))
        old.answer(stream, b"old")
        assert await first == b"old"
        assert [one.kind for one in await old.until_closed()][-1] == frames.GOAWAY


async def test_an_idle_connection_that_the_peer_ends_is_left() -> None:
    async with Peer() as peer, channel_to(peer.address) as channel:
        channel.get_state(try_to_connect=True)
        side = await peer.greeted()
        await in_state(channel, State.READY)
        side.say(frames.goaway(0, ErrorCode.NO_ERROR))
        await in_state(channel, State.IDLE)
        await side.until_closed()


async def test_calls_that_the_peer_did_not_look_at_are_made_again() -> None:
    async with Peer() as peer, channel_to(peer.address) as channel:
        calls = [begin(channel, request) for request in (b"1", b"2", b"3")]
        old = await peer.greeted()
        for _ in calls:
            await old.request()
        old.say(frames.goaway(1, ErrorCode.NO_ERROR))
        new = await peer.greeted()
        for _ in calls[1:]:
            stream = await new.request()
            new.answer(stream, b"new " + new.requests[stream][5:])
        old.answer(1, b"old 1")
        assert [await call for call in calls] == [b"old 1", b"new 2", b"new 3"]


async def test_a_call_that_nobody_looked_at_twice_is_unsent() -> None:
    async with Peer() as peer, channel_to(peer.address) as channel:
        call = begin(channel)
        for _ in range(2):
            side = await peer.greeted()
            await side.request()
            side.say(frames.goaway(0, ErrorCode.ENHANCE_YOUR_CALM, "too many"))
        error = await failure(call)
        assert error.code() is Code.UNAVAILABLE
        assert error.is_unsent


async def test_why_a_peer_went_is_told() -> None:
    async with Peer() as peer, channel_to(peer.address) as channel:
        call = begin(channel)
        side = await peer.greeted()
        await side.request()
        side.say(frames.goaway(1, ErrorCode.ENHANCE_YOUR_CALM, "too_many_pings"))
        side.writer.close()
        error = await failure(call)
        assert not error.is_unsent
        assert str(error.details()) == (
            f"{peer.address}: the peer left with ENHANCE_YOUR_CALM: too_many_pings"
        )


async def test_a_refused_call_is_made_again_a_few_times() -> None:
    async with Peer() as peer, channel_to(peer.address) as channel:
        answered, refused = begin(channel, b"a"), begin(channel, b"b")
        side = await peer.greeted()
        asked: Counter[bytes] = Counter()
        while asked.total() < 9:
            stream = await side.request()
            request = side.requests[stream][5:]
            asked[request] += 1
            if asked[b"a"] == 4 and request == b"a":
                side.answer(stream, b"answer")
            else:
                side.say(frames.rst_stream(stream, ErrorCode.REFUSED_STREAM))
        assert await answered == b"answer"
        error = await failure(refused)
        assert (error.code(), error.is_unsent) == (Code.UNAVAILABLE, True)
        assert asked == {b"a": 4, b"b": 5}


async def test_a_refused_call_may_be_cancelled_before_it_is_made_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("proxy.http2.outgoing._REFUSED", (0.0, 60.0))
    async with Peer() as peer, channel_to(peer.address) as channel:
        call = begin(channel)
        side = await peer.greeted()
        for _ in range(2):
            side.say(frames.rst_stream(await side.request(), ErrorCode.REFUSED_STREAM))
        await until(lambda: call._connection is None and call._retries == 2)
        assert call.cancel()
        again = begin(channel, b"again")
        stream = await side.request()
        assert side.requests[stream] == message(b"again")
        side.answer(stream, b"answer")
        assert await again == b"answer"


async def test_what_was_answered_in_part_is_not_made_again() -> None:
    async with Peer() as peer, channel_to(peer.address) as channel:
        call = begin(channel)
        side = await peer.greeted()
        stream = await side.request()
        side.fields(stream, b"\x88\x0f\x10\x10application/grpc")
        side.say(frames.rst_stream(stream, ErrorCode.REFUSED_STREAM))
        error = await failure(call)
        assert (error.code(), error.is_unsent) == (Code.UNAVAILABLE, False)


# Room


async def test_calls_wait_while_the_peer_takes_no_more() -> None:
    async with Peer() as peer, channel_to(peer.address) as channel:
        calls = [begin(channel, b"%d" % number) for number in range(3)]
        late = channel.unary("/s/Method", b"late", bytes, timeout=0.05)
        dropped = begin(channel, b"dropped")
        side = await peer.greeted({frames.MAX_CONCURRENT_STREAMS: 1})
        stream = await side.request()
        assert (await failure(late)).code() is Code.DEADLINE_EXCEEDED
        assert dropped.cancel()
        for number in range(3):
            assert side.requests[stream] == message(b"%d" % number)
            side.answer(stream, b"answer")
            if number < 2:
                stream = await side.request()
        assert [await call for call in calls] == [b"answer"] * 3
        # Room is made by the peer as well.
        more = [begin(channel), begin(channel)]
        stream = await side.request()
        side.say(frames.settings({frames.MAX_CONCURRENT_STREAMS: 2}))
        side.answer(await side.request(), b"second")
        side.answer(stream, b"first")
        assert [await call for call in more] == [b"first", b"second"]


async def test_a_waiting_call_goes_on_with_the_next_connection() -> None:
    async with Peer() as peer, channel_to(peer.address) as channel:
        first, waiting = begin(channel), begin(channel)
        side = await peer.greeted({frames.MAX_CONCURRENT_STREAMS: 1})
        await side.request()
        side.cut()
        assert not (await failure(first)).is_unsent
        side = await peer.greeted()
        side.answer(await side.request(), b"answer")
        assert await waiting == b"answer"


async def test_without_stream_numbers_left_a_new_connection_is_made() -> None:
    async with Peer() as peer, channel_to(peer.address) as channel:
        channel.get_state(try_to_connect=True)
        old = await peer.greeted()
        await in_state(channel, State.READY)
        connection = channel._connection
        assert connection is not None
        connection._next_stream = frames.LARGEST_STREAM
        last, next_one = begin(channel), begin(channel)
        stream = await old.request()
        assert stream == frames.LARGEST_STREAM
        new = await peer.greeted()
        new.answer(await new.request(), b"new")
        old.answer(stream, b"old")
        assert (await last, await next_one) == (b"old", b"new")
        await old.until_closed()


async def test_a_request_is_sent_as_the_windows_open() -> None:
    async with Peer() as peer, channel_to(peer.address) as channel:
        request = bytes(range(256)) * 1000
        call = begin(channel, request)
        side = await peer.greeted({frames.INITIAL_WINDOW_SIZE: 10})
        stream, _ = await side.head()
        body = b""
        while not (part := await side.frame(frames.DATA)).ends_stream:
            assert len(part.payload) <= 30_000
            body += part.payload
            for where in (0, stream):
                side.say(frames.window_update(where, 30_000))
        assert body == message(request)
        side.answer(stream, b"answer")
        assert await call == b"answer"


async def test_a_call_that_is_answered_early_is_sent_no_further() -> None:
    async with Peer() as peer, channel_to(peer.address) as channel:
        call = begin(channel, bytes(100_000))
        side = await peer.greeted({frames.INITIAL_WINDOW_SIZE: 10})
        stream, _ = await side.head()
        side.answer(stream, b"answer")
        assert await call == b"answer"
        reset = await side.frame(frames.RST_STREAM)
        assert (reset.stream, reset.word) == (stream, ErrorCode.NO_ERROR)


# The end


async def test_a_closed_channel_has_cancelled_its_calls() -> None:
    async with Peer() as peer:
        channel = channel_to(peer.address)
        sent, waiting = begin(channel), begin(channel)
        side = await peer.greeted({frames.MAX_CONCURRENT_STREAMS: 1})
        await side.request()
        await channel.close()
        for call in (sent, waiting):
            assert call.cancelled()
            with pytest.raises(asyncio.CancelledError):
                await call
        kinds = [one.kind for one in await side.until_closed()]
        assert kinds == [frames.RST_STREAM, frames.GOAWAY]
        assert channel.get_state(try_to_connect=True) is State.SHUTDOWN
        assert (await failure(begin(channel))).is_unsent
        with pytest.raises(RuntimeError, match="closed"):
            await channel.channel_ready()
        await channel.close()


@pytest.mark.parametrize("is_greeted", [False, True])
async def test_a_channel_may_be_closed_while_it_connects(is_greeted: bool) -> None:
    async with Peer() as peer:
        channel = channel_to(peer.address)
        call = begin(channel)
        side = await peer.accept()
        if is_greeted:
            side.say(frames.settings({}))
            await until(lambda: True)
        await channel.close()
        assert call.cancelled()
        await side.until_closed()


async def test_watchers_are_told_of_the_end() -> None:
    channel = channel_to("127.0.0.1:1")
    watching = asyncio.create_task(channel.wait_for_state_change(State.IDLE))
    await asyncio.sleep(0)
    await channel.close()
    await watching


async def test_the_peer_may_change_a_window_below_zero() -> None:
    async with Peer() as peer, channel_to(peer.address) as channel:
        call = begin(channel, bytes(59))
        side = await peer.greeted({frames.INITIAL_WINDOW_SIZE: 50})
        stream, _ = await side.head()
        body = b""
        while len(body) < 50:
            body += (await side.frame(frames.DATA)).payload
        # It is at -30 then, and 14 are left to send.
        side.say(frames.settings({frames.INITIAL_WINDOW_SIZE: 20}))
        await side.frame(frames.SETTINGS)
        side.say(frames.window_update(stream, 30) + frames.window_update(stream, 14))
        while not (part := await side.frame(frames.DATA)).ends_stream:
            body += part.payload
            assert len(body) <= 64
        assert body + part.payload == message(bytes(59))
        side.answer(stream, b"answer")
        assert await call == b"answer"
