"""What peers of other make do that ours never do, over a real socket."""

from __future__ import annotations

import asyncio
import socket
import struct

import pytest

from proxy.http2 import frames
from proxy.http2.faults import StreamFault
from proxy.http2.frames import ErrorCode
from proxy.http2.reading import TURN_FRAMES, FrameReader
from proxy.http2.request import read_request
from tests.support.h2_peer import END, echo_server, message, raw_client
from tests.support.waiting import until

POST = [(b":method", b"POST"), (b":scheme", b"http"), (b":path", b"/raw.Echo/Echo")]


@pytest.mark.parametrize("size", [0, 100])
async def test_a_peer_with_a_small_table_is_told_that_nothing_is_kept_in_it(size: int) -> None:
    settings = {frames.HEADER_TABLE_SIZE: size}
    async with echo_server() as (_, port), raw_client(port, settings, table_size=size) as client:
        for stream in (1, 3):
            client.call(stream, b"abc")
            await client.until(lambda stream=stream: client.answer(stream).is_whole)
            assert client.answer(stream).fields["grpc-status"] == "0"
            assert client.answer(stream).body == message(b"abc")


async def test_who_sends_an_unknown_encoding_hears_which_are_known() -> None:
    async with echo_server() as (_, port), raw_client(port) as client:
        client.call(1, b"abc", [("grpc-encoding", "zstd")])
        await client.until(lambda: client.answer(1).is_whole)
        fields = client.answer(1).fields
        assert fields["grpc-status"] == "12"
        assert fields["grpc-accept-encoding"] == "identity,deflate,gzip"


@pytest.mark.parametrize("name", [b"", b"a b", b"a:b", b"a\n", b"X-Upper", b"caf\xe9", b"\x7f"])
def test_a_name_that_http2_forbids_makes_a_request_malformed(name: bytes) -> None:
    with pytest.raises(StreamFault):
        read_request([*POST, (name, b"1")])


async def test_a_stream_is_reset_once_whatever_of_it_is_under_way() -> None:
    async with echo_server() as (_, port), raw_client(port) as client:
        client.head(1, [("content-length", "3")])
        for _ in range(100):
            client.send(frames.DATA, 0, 1, b"abcd")
        client.head(1, flags=END)
        client.call(3, b"next")
        await client.until(lambda: client.answer(3).is_whole)
        assert client.answer(1).resets == [ErrorCode.PROTOCOL_ERROR]
        assert client.goaways == []


class Frames(FrameReader):
    """Counts pings."""

    def __init__(self) -> None:
        super().__init__(expects_preface=True)
        self.pings = 0

    def on_settings(self, values: list[tuple[int, int]]) -> None:
        """Take them."""

    def on_ping(self, payload: bytes, *, is_answer: bool) -> None:
        """Count."""
        self.pings += 1


@pytest.mark.parametrize(("count", "turns"), [(10, 1), (TURN_FRAMES, 2), (3 * TURN_FRAMES + 7, 4)])
def test_many_small_frames_are_read_in_turns(count: int, turns: int) -> None:
    reader = Frames()
    reader.read(frames.PREFACE + frames.settings({}))
    data, taken = frames.frame(frames.PING, 0, 0, bytes(8)) * count + b"\0\0", 0
    while taken == 0 or reader.has_more:
        reader.read(data)
        data, taken = b"", taken + 1
        assert reader.pings <= taken * TURN_FRAMES
    assert (reader.pings, taken) == (count, turns)


async def test_a_flood_of_pings_is_answered_whole() -> None:
    async with echo_server() as (_, port), raw_client(port) as client:
        client.writer.write(frames.frame(frames.PING, 0, 0, bytes(8)) * 5000)
        client.call(1, b"after")
        await client.until(lambda: client.answer(1).is_whole)
        assert client.pongs == 5000
        assert client.answer(1).body == message(b"after")


async def test_calls_that_a_peer_sends_after_the_first_ping_of_a_drain_are_served() -> None:
    async with echo_server() as (server, port), raw_client(port) as client:
        await until(lambda: any(one.has_settings for one in server.connections))
        stopped = asyncio.create_task(server.stop(10.0))
        await client.until(lambda: client.pings)
        client.send(frames.PING, frames.ACK, 0, client.pings.pop())
        client.call(1, b"begun before")
        await client.until(lambda: client.answer(1).is_whole)
        assert client.answer(1).body == message(b"begun before")
        await client.until(lambda: client.pings)
        client.send(frames.PING, frames.ACK, 0, client.pings.pop())
        await stopped
        with pytest.raises(asyncio.IncompleteReadError):
            await client.until(lambda: False)
        assert client.goaways == [(frames.LARGEST_STREAM, 0), (1, 0)]


async def test_a_connection_that_the_peer_has_reset_can_be_ended() -> None:
    async with echo_server() as (server, port):
        with socket.create_connection(("127.0.0.1", port)) as peer:
            peer.sendall(frames.PREFACE + frames.settings({}))
            await until(lambda: any(one.has_settings for one in server.connections))
            (connection,) = server.connections
            # Closed over what it has not read: its end says so by a reset, not by an end.
            peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        connection.leave("test")
        await until(lambda: not server.connections)
