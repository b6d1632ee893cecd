"""One connection of HTTP/2, of either side: its streams, settings, windows and end.

What a stream means is its owner's affair: see `Stream`, and `Connection.begin` for streams that the
peer opens. Nothing here waits: what arrives is dealt with as it arrives.

How a connection ends::

    the peer breaks the protocol    GOAWAY that says so, then as below
    it is done (`leave`)            what was written goes out, our side is shut, the peer closes its
    the peer is gone                at once
    `abort`                         at once
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Iterable, Sequence
from typing import Final, Protocol, cast

from proxy.http2 import frames
from proxy.http2.faults import ConnectionFault, StreamEndedError, StreamFault
from proxy.http2.frames import ErrorCode
from proxy.http2.outflow import Outflow, SendSide
from proxy.http2.reading import FrameReader
from proxy.http2.sockets import send_at_once

log = logging.getLogger(__name__)

# What a peer may send before it hears of us: of each stream, and of all together.
STREAM_WINDOW: Final = 1024 * 1024
CONNECTION_WINDOW: Final = 16 * 1024 * 1024
# Facts: RFC 9113, 5.4.2: a stream is reset once, whatever of it is still under way.
_RESETS_KNOWN: Final = 256
# How long a peer has to close its side once ours is shut (seconds), and to take what was written.
_FAREWELL: Final = 1.0
_MOST_FAREWELLS: Final = 10

# How often a peer may change its settings within a second.
_MOST_SETTINGS: Final = 100

_ALIVE_PING: Final = b"alive?\0\0"


class Stream(Protocol):
    """What a connection tells the owner of a stream."""

    side: SendSide
    # What the peer may still send.
    receive_window: int

    def fields_received(self, fields: Sequence[tuple[bytes, bytes]], *, is_end: bool) -> None:
        """Take a later block of fields: trailers, or of an answer its head."""

    def data_received(self, data: bytes, *, is_end: bool) -> None:
        """Take a part of the body."""

    def ended(self, error: StreamEndedError) -> None:
        """Take note that the stream is over before its time; nothing else follows."""


class Connection(FrameReader, asyncio.Protocol):
    """Keeps one connection. The owner's subclass says what streams of the peer become."""

    is_client = False

    def __init__(self, local: dict[int, int]) -> None:
        super().__init__(expects_preface=not self.is_client)
        self._local = {frames.INITIAL_WINDOW_SIZE: STREAM_WINDOW, **local}
        self._peer_window = frames.DEFAULT_WINDOW
        self._receive_window = CONNECTION_WINDOW
        self.streams: dict[int, Stream] = {}
        # What is under way to these says nothing new, and is not answered.
        self._reset: deque[int] = deque(maxlen=_RESETS_KNOWN)
        self.last_stream = 0
        self.last_read = 0.0
        self.is_closed = False
        self.peer_settings: dict[int, int] = {}
        self._settings_since = 0.0
        self._settings_count = 0
        self._farewell: asyncio.TimerHandle | None = None
        # Set with the connection.
        self.transport: asyncio.Transport
        self.out: Outflow
        self._loop: asyncio.AbstractEventLoop

    # What a subclass adds

    def begin(self, stream_id: int, fields: Sequence[tuple[bytes, bytes]], *, is_end: bool) -> None:
        """Take a stream that the peer opens."""
        raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "this side's streams are its own to open")

    def went_away(self, last_stream: int, code: int, text: bytes) -> None:
        """Take note of the peer's GOAWAY."""

    def ping_answered(self, payload: bytes) -> None:
        """Take note of the answer to a PING."""

    def settings_received(self) -> None:
        """Take note of the peer's settings."""

    def last_taken(self) -> int:
        """Return the last of the peer's streams that is not to be sent again elsewhere."""
        return 0 if self.is_client else self.last_stream

    def stream_ended(self) -> None:
        """Take note that there is one stream less."""

    def over(self, reason: str) -> None:
        """Take note that nothing more happens on the connection; its streams have been told."""

    def lost(self) -> None:
        """Take note that the socket is closed."""

    # Of asyncio

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Greet the peer."""
        self.transport = cast("asyncio.Transport", transport)
        self._loop = asyncio.get_running_loop()
        self.last_read = self._loop.time()
        send_at_once(transport)
        self.out = Outflow(self.transport)
        if self.is_client:
            self.out.write(frames.PREFACE)
            self.on_preface()

    def on_preface(self) -> None:
        """Say what we take; before, the peer may not even speak HTTP/2."""
        self.out.write(
            frames.settings(self._local)
            + frames.window_update(0, CONNECTION_WINDOW - frames.DEFAULT_WINDOW)
        )

    def data_received(self, data: bytes) -> None:
        """Deal with the whole frames, in turn with other connections if there are very many."""
        self.last_read = self._loop.time()
        if self.is_closed:
            return
        try:
            self.read(data)
        except ConnectionFault as fault:
            self.fail(fault.code, str(fault))
        if self.has_more:
            self.transport.pause_reading()
            self._loop.call_soon(self._read_on)

    def _read_on(self) -> None:
        self.data_received(b"")
        if not self.has_more:
            self.transport.resume_reading()

    def eof_received(self) -> bool:
        """Close, too: a peer has nothing to hear after it has said its last."""
        self._end("the peer closed the connection")
        self._say_farewell(0)
        return False

    def pause_writing(self) -> None:
        """Take note that the socket takes no more."""
        self.out.pause()

    def resume_writing(self) -> None:
        """Take note that the socket takes more."""
        self.out.resume()

    def connection_lost(self, error: Exception | None) -> None:
        """End all streams."""
        self._end("the connection was lost" + (f": {error}" if error is not None else ""))
        if self._farewell is not None:
            self._farewell.cancel()
        self.lost()

    # Ends

    def fail(self, code: ErrorCode, text: str) -> None:
        """Tell the peer what it did wrong, and end the connection."""
        if self.is_closed:
            return
        if code is not ErrorCode.NO_ERROR:
            log.info("connection ended", extra={"reason": text, "code": code.name})
        self.out.write(frames.goaway(self.last_taken(), code, text))
        self.leave(text)

    def leave(self, reason: str) -> None:
        """End the connection so that the peer gets what was written.

        A socket that is closed over unread bytes is reset, and the peer may lose what came last:
        so our side is shut, and the peer's waited for.
        """
        self._end(reason)
        if not self.transport.is_closing():
            try:
                self.transport.write_eof()
            except OSError:
                # The peer has reset the connection, and asyncio has not told yet.
                self.transport.abort()
            else:
                self._say_farewell(0)

    def _say_farewell(self, count: int) -> None:
        def act() -> None:
            if self.transport.get_write_buffer_size() and count < _MOST_FAREWELLS:
                self._say_farewell(count + 1)
            else:
                self.transport.abort()

        if self._farewell is not None:
            self._farewell.cancel()
        self._farewell = self._loop.call_later(_FAREWELL, act)

    def abort(self, reason: str) -> None:
        """End the connection at once, with all its streams."""
        self._end(reason)
        self.transport.abort()

    def _end(self, reason: str) -> None:
        if self.is_closed:
            return
        self.is_closed = True
        self.read_no_more()
        streams, self.streams = self.streams, {}
        error = StreamEndedError(ErrorCode.CANCEL, reason)
        for stream in streams.values():
            stream.side.end(error)
            stream.ended(error)
        self.out.close()
        self.over(reason)

    # Streams

    def open_side(self, stream_id: int) -> SendSide:
        """Return the sending side of a new stream."""
        return SendSide(stream_id, self._peer_window)

    def forget(self, stream: Stream) -> None:
        """Take note that a stream is over for both sides."""
        if self.streams.pop(stream.side.stream_id, None) is not None:
            if not self.streams:
                # Nothing will come along with what is written.
                self.out.flush()
            self.stream_ended()

    def reset(self, stream: Stream, code: ErrorCode) -> None:
        """End a stream before its time."""
        if stream.side.stream_id in self.streams:
            self._reset.append(stream.side.stream_id)
            self.out.write(frames.rst_stream(stream.side.stream_id, code))
            self.forget(stream)

    def make_room(self, stream: Stream, held: int = 0) -> None:
        """Let the peer send more on a stream, of which `held` bytes wait for their reader.

        Once it is half a window more, so that not each part of a body is answered.
        """
        increment = STREAM_WINDOW - held - stream.receive_window
        if increment >= STREAM_WINDOW // 2 and stream.side.stream_id in self.streams:
            stream.receive_window += increment
            self.out.write(frames.window_update(stream.side.stream_id, increment))

    def ping(self, payload: bytes = _ALIVE_PING) -> None:
        """Ask the peer for a sign of life."""
        self.out.write(frames.frame(frames.PING, 0, 0, payload))

    def _lookup(self, stream_id: int) -> Stream | None:
        """Return a stream that was opened, None once it is over; a fault if it never was."""
        stream = self.streams.get(stream_id)
        if stream is None and (stream_id > self.last_stream or stream_id % 2 == 0):
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, f"stream {stream_id} is not open")
        return stream

    # Frames

    def on_data(self, stream_id: int, data: bytes, size: int, *, is_end: bool) -> None:
        """Count against the windows, and tell the stream."""
        stream = self._lookup(stream_id)
        self._receive_window -= size
        if self._receive_window < 0:
            raise ConnectionFault(ErrorCode.FLOW_CONTROL_ERROR, "more than the window allows")
        if self._receive_window < CONNECTION_WINDOW // 2:
            self.out.answer(frames.window_update(0, CONNECTION_WINDOW - self._receive_window))
            self._receive_window = CONNECTION_WINDOW
        if stream is None:
            if self.is_client or stream_id in self._reset:
                # What the peer sent before it heard of our reset.
                return
            raise StreamFault(ErrorCode.STREAM_CLOSED, "the stream is closed")
        stream.receive_window -= size
        if stream.receive_window < 0:
            raise StreamFault(ErrorCode.FLOW_CONTROL_ERROR, "more than the window allows")
        stream.data_received(data, is_end=is_end)

    def on_fields(
        self, stream_id: int, fields: Sequence[tuple[bytes, bytes]], *, is_end: bool
    ) -> None:
        """Tell the stream, or begin a new one."""
        stream = self.streams.get(stream_id)
        if stream is not None:
            stream.fields_received(fields, is_end=is_end)
        elif self.is_client:
            # What the peer sent before it heard of our reset.
            self._lookup(stream_id)
        elif stream_id % 2 == 0:
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "a client's streams have odd numbers")
        elif stream_id > self.last_stream:
            self.last_stream = stream_id
            self.begin(stream_id, fields, is_end=is_end)
        elif stream_id not in self._reset:
            fault = StreamFault if _are_trailers(fields) else ConnectionFault
            raise fault(ErrorCode.STREAM_CLOSED, f"stream {stream_id} is closed")

    def on_window_update(self, stream_id: int, increment: int) -> None:
        """Widen a window."""
        if stream_id == 0:
            if increment == 0:
                raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "an increment of zero")
            self.out.widen(increment)
            return
        stream = self._lookup(stream_id)
        if increment == 0:
            raise StreamFault(ErrorCode.PROTOCOL_ERROR, "an increment of zero")
        if stream is not None:
            stream.side.widen(increment)

    def on_reset(self, stream_id: int, code: int) -> None:
        """End a stream."""
        stream = self._lookup(stream_id)
        if stream is not None:
            self._end_stream(stream, StreamEndedError(code))

    def stream_fault(self, stream_id: int, fault: StreamFault) -> None:
        """Reset a stream, and end it if it is still there."""
        self._reset.append(stream_id)
        self.out.answer(frames.rst_stream(stream_id, fault.code))
        stream = self.streams.get(stream_id)
        if stream is not None:
            self._end_stream(stream, StreamEndedError(fault.code, str(fault)))

    def _end_stream(self, stream: Stream, error: StreamEndedError) -> None:
        stream.side.end(error)
        self.forget(stream)
        stream.ended(error)

    def on_settings(self, values: list[tuple[int, int]]) -> None:
        """Apply the peer's settings, and say so."""
        self._count_settings()
        # Of each the last counts.
        for key, value in dict(values).items():
            self._apply(key, value)
        self.out.answer(frames.SETTINGS_ACK)
        self.settings_received()

    def _count_settings(self) -> None:
        """Bound how often settings change: each change goes through all streams."""
        if self.last_read - self._settings_since > 1.0:
            self._settings_since, self._settings_count = self.last_read, 0
        self._settings_count += 1
        if self._settings_count > _MOST_SETTINGS:
            raise ConnectionFault(ErrorCode.ENHANCE_YOUR_CALM, "the settings change too often")

    def _apply(self, key: int, value: int) -> None:
        if key <= frames.MAX_HEADER_LIST_SIZE:
            self.peer_settings[key] = value
        if key == frames.INITIAL_WINDOW_SIZE:
            if value > frames.LARGEST_WINDOW:
                raise ConnectionFault(ErrorCode.FLOW_CONTROL_ERROR, "the window is too large")
            change, self._peer_window = value - self._peer_window, value
            for stream in tuple(self.streams.values()):
                try:
                    stream.side.widen(change)
                except StreamFault as fault:
                    raise ConnectionFault(fault.code, str(fault)) from fault
        elif key == frames.MAX_FRAME_SIZE:
            if not frames.DEFAULT_FRAME_SIZE <= value <= frames.LARGEST_FRAME_SIZE:
                raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, f"a frame size of {value}")
            self.out.frame_size = value
        elif key == frames.HEADER_TABLE_SIZE:
            self.out.limit_table(value)
        elif key == frames.ENABLE_PUSH and value not in (0, 1):
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, f"{value} for ENABLE_PUSH")

    def on_ping(self, payload: bytes, *, is_answer: bool) -> None:
        """Answer a ping."""
        if is_answer:
            self.ping_answered(payload)
        else:
            self.out.answer(frames.frame(frames.PING, frames.ACK, 0, payload))

    def on_goaway(self, last_stream: int, code: int, text: bytes) -> None:
        """Take note that the peer leaves."""
        self.went_away(last_stream, code, text)


def _are_trailers(fields: Iterable[tuple[bytes, bytes]]) -> bool:
    """Tell whether fields are no head: of a stream that is over, they were sent before that was
    known."""
    return not any(name[:1] == b":" for name, _ in fields)
