"""The channel: when it connects, what becomes of calls as connections come and go."""

from __future__ import annotations

import asyncio
import socket
from dataclasses import replace

import grpc
import pytest

from proxy.http2 import frames
from proxy.http2.channel import Channel
from tests.support.scripted_peer import (
    LIMITS,
    Peer,
    begin,
    channel_to,
    failure,
    in_state,
    message,
)

State = grpc.ChannelConnectivity
Code = grpc.StatusCode


@pytest.fixture
def closed_port() -> str:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{nobody.getsockname()[1]}"


async def test_a_call_connects_and_is_answered() -> None:
    async with Peer() as peer, channel_to(peer.address) as channel:
        assert channel.get_state() is State.IDLE
        call = begin(channel, b"question")
        assert channel.get_state() is State.CONNECTING
        side = await peer.greeted()
        stream, fields = await side.head()
        body = await side.frame(frames.DATA)
        side.answer(stream, b"answer")
        assert await call == b"answer"
        assert channel.get_state() is State.READY
    assert (stream, body.payload, body.ends_stream) == (1, message(b"question"), True)
    timeout = fields.pop("grpc-timeout")
    assert timeout.endswith("u")
    assert 0 < int(timeout[:-1]) <= 10_000_000
    assert fields.pop("user-agent").startswith("grpc-python-")
    assert fields == {
        ":method": "POST",
        ":scheme": "http",
        ":path": "/s/Method",
        ":authority": peer.address,
        "te": "trailers",
        "content-type": "application/grpc",
    }


async def test_calls_are_for_the_name_that_the_address_came_from() -> None:
    async with (
        Peer() as peer,
        Channel(peer.address, limits=LIMITS, authority="metastore.example:7281") as channel,
    ):
        call = begin(channel)
        side = await peer.greeted()
        stream, fields = await side.head()
        assert fields[":authority"] == "metastore.example:7281"
        side.answer(stream, b"answer")
        assert await call == b"answer"


async def test_the_request_leaves_in_one_piece(monkeypatch: pytest.MonkeyPatch) -> None:
    async with Peer() as peer, channel_to(peer.address) as channel:
        channel.get_state(try_to_connect=True)
        side = await peer.greeted()
        await in_state(channel, State.READY)
        written: list[bytes] = []
        connection = channel._connection
        assert connection is not None
        write = connection.transport.write

        def note(data: bytes) -> None:
            written.append(data)
            write(data)

        monkeypatch.setattr(connection.transport, "write", note)
        call = begin(channel)
        side.answer(await side.request(), b"")
        await call
        assert len(written) == 1


async def test_nothing_is_sent_before_the_peer_has_spoken() -> None:
    async with Peer() as peer, channel_to(peer.address) as channel:
        call = begin(channel)
        side = await peer.accept()
        assert channel.get_state() is State.CONNECTING
        side.cut()
        assert (await failure(call)).is_unsent


async def test_without_a_peer_a_call_fails_at_once(closed_port: str) -> None:
    async with channel_to(closed_port, replace(LIMITS, reconnect_min=30.0)) as channel:
        for _ in range(2):
            error = await failure(begin(channel))
            assert error.code() is Code.UNAVAILABLE
            assert error.details() == f"failed to connect to {closed_port}: connection refused"
            assert error.is_unsent
            assert channel.get_state(try_to_connect=True) is State.TRANSIENT_FAILURE


async def test_a_call_that_waits_outlasts_failures(closed_port: str) -> None:
    async with channel_to(closed_port) as channel:
        call = begin(channel, wait_for_ready=True)
        assert (await failure(begin(channel))).is_unsent
        async with Peer(port=int(closed_port.rpartition(":")[2])) as peer:
            side = await peer.greeted()
            side.answer(await side.request(), b"answer")
            assert await call == b"answer"


async def test_the_deadline_counts_while_a_call_waits(closed_port: str) -> None:
    async with channel_to(closed_port) as channel:
        call = channel.unary("/s/M", b"", bytes, timeout=0.05, wait_for_ready=True)
        assert (await failure(call)).code() is Code.DEADLINE_EXCEEDED


async def test_after_its_back_off_a_channel_that_nobody_needs_is_idle(closed_port: str) -> None:
    async with channel_to(closed_port) as channel:
        await failure(begin(channel))
        await in_state(channel, State.IDLE)


async def test_ready_is_waited_for_over_failures(closed_port: str) -> None:
    async with channel_to(closed_port) as channel:
        waiting = asyncio.create_task(channel.channel_ready())
        await in_state(channel, State.TRANSIENT_FAILURE)
        async with Peer(port=int(closed_port.rpartition(":")[2])) as peer:
            await peer.greeted()
            await waiting
            assert channel.get_state() is State.READY


async def test_a_peer_that_says_nothing_is_given_up() -> None:
    limits = replace(LIMITS, connect_timeout=0.1)
    async with Peer() as peer, channel_to(peer.address, limits) as channel:
        error = await failure(begin(channel))
        assert error.details() == f"failed to connect to {peer.address}: no answer within 0.1 s"
        assert error.is_unsent


@pytest.mark.parametrize(
    "said", [b"HTTP/1.1 400 Bad Request\r\n\r\n", b"\x15\x03\x01\0\x02\x02\x46"]
)
async def test_a_peer_that_speaks_something_else_is_no_peer(said: bytes) -> None:
    async with Peer() as peer, channel_to(peer.address) as channel:
        call = begin(channel)
        (await peer.accept()).say(said.ljust(64, b"\0"))
        error = await failure(call)
        assert error.code() is Code.UNAVAILABLE
        assert error.is_unsent


@pytest.mark.parametrize("address", ["nowhere.invalid:1", "127.0.0.1:99999999", "unix:/no/such"])
async def test_an_address_that_is_none_fails_with_a_reason(address: str) -> None:
    async with channel_to(address) as channel:
        error = await failure(begin(channel))
        assert str(error.details()).startswith(f"failed to connect to {address}: ")
        assert error.is_unsent


async def test_all_addresses_of_a_name_are_tried() -> None:
    # `localhost` may be `::1` first, where nobody listens.
    async with Peer() as peer, channel_to(f"localhost:{peer.port}") as channel:
        call = begin(channel)
        side = await peer.greeted()
        side.answer(await side.request(), b"answer")
        assert await call == b"answer"


# The connection is lost


async def test_a_lost_connection_ends_its_calls_and_is_made_again_for_the_next() -> None:
    async with Peer() as peer, channel_to(peer.address) as channel:
        call = begin(channel)
        side = await peer.greeted()
        await side.request()
        side.cut()
        error = await failure(call)
        assert error.code() is Code.UNAVAILABLE
        assert not error.is_unsent
        assert error.details() == f"{peer.address}: the peer closed the connection"
        assert channel.get_state() is State.IDLE
        again = begin(channel)
        side = await peer.greeted()
        side.answer(await side.request(), b"answer")
        assert await again == b"answer"


async def test_a_peer_that_answers_no_ping_is_lost() -> None:
    limits = replace(LIMITS, keep_alive_interval=0.05, keep_alive_timeout=0.05)
    async with Peer() as peer, channel_to(peer.address, limits) as channel:
        call = begin(channel)
        side = await peer.greeted()
        ping = await side.frame(frames.PING)
        side.say(frames.frame(frames.PING, frames.ACK, 0, ping.payload))
        await side.frame(frames.PING)
        error = await failure(call)
        assert error.code() is Code.UNAVAILABLE
        assert "did not answer a ping within 0.05 s" in str(error.details())


async def test_pings_are_sent_without_calls_as_well() -> None:
    limits = replace(LIMITS, keep_alive_interval=0.02, keep_alive_timeout=5)
    async with Peer() as peer, channel_to(peer.address, limits) as channel:
        channel.get_state(try_to_connect=True)
        side = await peer.greeted()
        for _ in range(2):
            ping = await side.frame(frames.PING)
            side.say(frames.frame(frames.PING, frames.ACK, 0, ping.payload))
        assert channel.get_state() is State.READY
