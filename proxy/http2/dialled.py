"""A connection that we make, and the calls that are its streams."""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import os
import socket
import ssl
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, cast

from proxy.http2 import frames, messages
from proxy.http2.answer import Fields
from proxy.http2.connection import STREAM_WINDOW, Connection
from proxy.http2.faults import StreamEndedError
from proxy.http2.fields import literal
from proxy.http2.frames import ErrorCode
from proxy.http2.keepalive import KeepAlive

if TYPE_CHECKING:
    from proxy.http2.channel import Channel
    from proxy.http2.outgoing import OutgoingCall

log = logging.getLogger(__name__)

# With as many calls at most, one has none beside it that it could be sent along with.
_FEW: Final = 2
# What a header block of an answer may take before the connection counts as broken.
_BLOCK_LIMIT: Final = 512 * 1024
# Between attempts at two addresses of a name (seconds).
_NEXT_ADDRESS: Final = 0.25
# How long TLS has for its goodbye (seconds).
_FAREWELL: Final = 1.0
_UNIX: Final = "unix:"


class DialError(Exception):
    """There is no connection; the text says why."""


@dataclass(frozen=True)
class ChannelLimits:
    """How a channel keeps its connections. Sizes in bytes, times in seconds.

    connect_timeout     of one attempt, until the peer has said that it speaks HTTP/2
    reconnect_min, reconnect_max   bounds of the wait from one attempt to the next
    keep_alive_interval, keep_alive_timeout   of silence before a ping; None for no pings
    message             what a message may have
    metadata            what the metadata of an answer may take
    """

    message: int
    metadata: int = 128 * 1024
    connect_timeout: float = 20.0
    reconnect_min: float = 1.0
    reconnect_max: float = 120.0
    keep_alive_interval: float | None = None
    keep_alive_timeout: float = 20.0


@dataclass(frozen=True)
class Security:
    """What TLS needs: a context with ALPN, and the name that the certificate must be for."""

    context: ssl.SSLContext
    name: str


class DialledConnection(Connection):
    """A connection to the peer of a channel, which it tells of its beginning and its end."""

    is_client = True
    block_limit = _BLOCK_LIMIT

    def __init__(self, channel: Channel) -> None:
        super().__init__(
            {
                frames.ENABLE_PUSH: 0,
                frames.MAX_HEADER_LIST_SIZE: channel.limits.metadata // 2,
            }
        )
        self.ready: asyncio.Future[None] = channel.loop.create_future()
        self.gone: asyncio.Future[None] = channel.loop.create_future()
        self.is_leaving = False
        self._channel = channel
        self._next_stream = 1
        self._most_streams = frames.LARGEST_STREAM
        self._most_fields = frames.LARGEST_WINDOW
        self._farewell_text = ""
        self._keep_alive: KeepAlive | None = None
        # By whether they are trailers: most calls are answered with the same fields.
        self._latest: dict[bool, tuple[object, Fields]] = {}

    # Calls

    def fields_of(self, fields: Sequence[tuple[bytes, bytes]], *, is_end: bool) -> Fields:
        """Return what a block of an answer says. `StreamFault` when it is malformed."""
        known = self._latest.get(is_end)
        if known is None or known[0] is not fields:
            known = self._latest[is_end] = (fields, Fields(fields))
        return known[1]

    @property
    def has_room(self) -> bool:
        """Whether the peer takes another call at once."""
        return len(self.streams) < self._most_streams

    def submit(self, call: OutgoingCall) -> None:
        """Send a call. There must be room."""
        block = self._channel.head(call.path) + call.timeout_field() + call.fields
        if len(block) > self._most_fields:
            text = f"the metadata takes {len(block)} bytes, more than the peer takes"
            call.refuse(text)
            return
        stream_id = self._next_stream
        self._next_stream = stream_id + 2
        self.last_stream = stream_id
        side = call.side = self.open_side(stream_id)
        call.receive_window = STREAM_WINDOW
        self.streams[stream_id] = call
        call.sent_on(self)
        out, request = self.out, call.request
        head = out.block(stream_id, block, end_stream=False)
        # One besides it may be a watch, which says nothing of how busy the connection is.
        is_alone = len(self.streams) <= _FEW
        data = (messages.prefix(request), request)
        if out.try_send(side, head, data, b"", frames.END_STREAM, at_once=is_alone):
            call.sent()
        else:
            out.write(head)
            work = self._send(call, request)
            call.send_by(self._loop.create_task(work, name=f"{call.path} request"))
        if self._next_stream > frames.LARGEST_STREAM:
            self._leave_after_calls()

    async def _send(self, call: OutgoingCall, request: bytes) -> None:
        side = call.side
        try:
            await self.out.send(side, request, messages.prefix(request))
        except StreamEndedError:
            # The call has been told.
            return
        self.out.write(frames.frame(frames.DATA, frames.END_STREAM, side.stream_id))
        call.sent()

    def stream_ended(self) -> None:
        """Give the room to who waits for it, or leave after the last call."""
        if not self.is_leaving:
            self._channel.has_room(self)
        elif not self.streams:
            # Later: the call that has ended is told first.
            self._loop.call_soon(self.hang_up)

    # Beginning

    def settings_received(self) -> None:
        """Take note of what the peer takes; with its first settings the connection is ready."""
        settings = self.peer_settings
        self._most_streams = settings.get(frames.MAX_CONCURRENT_STREAMS, frames.LARGEST_STREAM)
        self._most_fields = settings.get(frames.MAX_HEADER_LIST_SIZE, frames.LARGEST_WINDOW)
        if not self.ready.done():
            self.ready.set_result(None)
            limits = self._channel.limits
            if limits.keep_alive_interval is not None:
                timeout = limits.keep_alive_timeout
                self._keep_alive = KeepAlive(self, limits.keep_alive_interval, timeout)
        else:
            self._channel.has_room(self)

    # Ends

    def went_away(self, last_stream: int, code: int, text: bytes) -> None:
        """Take no new calls; those that the peer has not looked at go elsewhere."""
        if code != ErrorCode.NO_ERROR:
            shown = text[:256].decode("utf-8", "replace")
            self._farewell_text = f"the peer left with {frames.code_name(code)}" + (
                f": {shown}" if shown else ""
            )
        self.is_leaving = True
        self._channel.left(self)
        for stream_id, stream in tuple(self.streams.items()):
            if stream_id > last_stream and self.streams.pop(stream_id, None) is not None:
                stream.side.end(StreamEndedError(ErrorCode.REFUSED_STREAM))
                cast("OutgoingCall", stream).not_begun("the peer takes no more calls")
        self._leave_after_calls()

    def _leave_after_calls(self) -> None:
        self.is_leaving = True
        self._channel.left(self)
        if not self.streams:
            self.hang_up()

    def describe_end(self, reason: str) -> str:
        """Return why calls ended with the connection."""
        return f"{self._channel.address}: {self._farewell_text or reason}"

    def hang_up(self) -> None:
        """Close the connection, and end what calls there are."""
        if not self.is_closed:
            self.out.write(frames.goaway(0, ErrorCode.NO_ERROR))
            self.leave("the connection was closed")

    def leave(self, reason: str) -> None:
        """Close the connection once what was written is sent."""
        self._end(reason)
        self.transport.close()

    def over(self, reason: str) -> None:
        """Tell the channel, and whoever waits for the beginning."""
        if self._keep_alive is not None:
            self._keep_alive.stop()
        if not self.ready.done():
            self.ready.set_exception(DialError(self._farewell_text or reason))
            # Seen here: whoever waited may be gone.
            self.ready.exception()
        self.is_leaving = True
        self._channel.left(self)

    def lost(self) -> None:
        """Take note that the socket is closed."""
        if not self.gone.done():
            self.gone.set_result(None)


async def dial(channel: Channel) -> DialledConnection:
    """Connect, and wait until the peer has said its settings. `DialError` when that fails."""
    connection: DialledConnection | None = None
    limit = channel.limits.connect_timeout
    try:
        async with asyncio.timeout(limit):
            connection = await _connect(channel)
            await connection.ready
    except TimeoutError:
        reason = f"no answer within {limit:g} s"
    # Whatever keeps a connection from being made: who waits for it must be told.
    except Exception as error:
        log.debug("no connection", exc_info=error, extra={"address": channel.address})
        reason = _reason(error)
    except BaseException:
        _give_up(connection)
        raise
    else:
        return connection
    _give_up(connection)
    raise DialError(reason)


def _give_up(connection: DialledConnection | None) -> None:
    if connection is not None:
        connection.abort("the attempt to connect has ended")


async def _connect(channel: Channel) -> DialledConnection:
    loop, address, security = channel.loop, channel.address, channel.security

    def made() -> DialledConnection:
        return DialledConnection(channel)

    context = None if security is None else security.context
    name = None if security is None else security.name
    farewell = None if security is None else _FAREWELL
    if address.startswith(_UNIX):
        transport, connection = await loop.create_unix_connection(
            made,
            address.removeprefix(_UNIX),
            ssl=context,
            server_hostname=name,
            ssl_shutdown_timeout=farewell,
        )
    else:
        host, _, port = address.rpartition(":")
        host = host.strip("[]")
        transport, connection = await loop.create_connection(
            made,
            host,
            int(port),
            ssl=context,
            server_hostname=name,
            ssl_shutdown_timeout=farewell,
            happy_eyeballs_delay=None if _is_ip(host) else _NEXT_ADDRESS,
        )
    if security is not None:
        spoken = transport.get_extra_info("ssl_object").selected_alpn_protocol()
        if spoken != "h2":
            connection.abort("the peer does not speak HTTP/2")
            raise DialError("the peer speaks TLS, but not HTTP/2 in it")
    return connection


def _is_ip(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def _reason(error: Exception) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate is not accepted: {error.verify_message}"
    if isinstance(error, ssl.SSLError):
        return f"TLS: {(error.reason or str(error)).lower().replace('_', ' ')}"
    if isinstance(error, socket.gaierror):
        return f"the name is not resolved: {error.strerror}"
    if isinstance(error, OSError) and error.errno:
        return os.strerror(error.errno).lower()
    return str(error) or type(error).__name__


def head_of(path: str, authority: str, *, is_tls: bool) -> bytes:
    """Return the fields that all calls of a method have.

    Facts: Quickwit's servers compress whatever their caller says it can read, with which a list
    takes several times as long; its own callers say nothing, and get it as it is.
    """
    return (
        # Of the static table: `:method: POST`, `:scheme`.
        b"\x83"
        + (b"\x87" if is_tls else b"\x86")
        + literal(b":path", path.encode())
        + literal(b":authority", authority.encode())
        + literal(b"te", b"trailers")
        + literal(b"content-type", b"application/grpc")
        + literal(b"user-agent", _USER_AGENT)
    )


_USER_AGENT: Final = b"grpc-python-metastore-proxy"
