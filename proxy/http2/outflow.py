"""Sending on one connection: what the peer's windows and the socket's buffer leave room for.

A stream sends at most `_TURN` bytes, then those that wait before it get theirs, so that a large
answer does not hold up small ones beside it, and no more than a turn of each is in memory twice.

Facts: RFC 9113, 5.2 and 6.9: only DATA counts; a window may become negative by a change of the
peer's settings; more than 2^31-1 is a fault.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Final

from proxy.http2 import frames
from proxy.http2.faults import ConnectionFault, StreamEndedError, StreamFault
from proxy.http2.frames import ErrorCode

# A turn is a good part of what a socket takes at once.
_TURN: Final = 256 * 1024
# What the transport holds before streams wait for the socket.
_HIGH_WATER: Final = 256 * 1024
# What a peer that reads nothing may make us hold in answers to its frames.
_MOST_WAITING: Final = 1024 * 1024


class SendSide:
    """The sending side of one stream: its window, and who waits for it to open."""

    __slots__ = ("_opens", "ended", "stream_id", "window")

    def __init__(self, stream_id: int, window: int) -> None:
        self.stream_id = stream_id
        self.window = window
        self.ended: StreamEndedError | None = None
        self._opens: asyncio.Future[None] | None = None

    def widen(self, increment: int) -> None:
        """Take note of a WINDOW_UPDATE, or of a change of all windows."""
        self.window += increment
        if self.window > frames.LARGEST_WINDOW:
            raise StreamFault(ErrorCode.FLOW_CONTROL_ERROR, "the stream's window is too large")
        if self.window > 0:
            self._wake()

    def end(self, error: StreamEndedError) -> None:
        """Let whoever sends know that the stream is over."""
        if self.ended is None:
            self.ended = error
        self._wake()

    def _wake(self) -> None:
        if self._opens is not None and not self._opens.done():
            self._opens.set_result(None)

    async def opens(self) -> None:
        """Wait until there is a window, or the stream is over."""
        if self.window > 0 or self.ended is not None:
            return
        self._opens = asyncio.get_running_loop().create_future()
        try:
            await self._opens
        finally:
            self._opens = None


class Outflow:
    """Writes the frames of one connection, in turns of its streams."""

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        self._write = transport.write
        transport.set_write_buffer_limits(high=_HIGH_WATER)
        self.window = frames.DEFAULT_WINDOW
        self.frame_size = frames.DEFAULT_FRAME_SIZE
        self._is_open = True
        self._is_writable = True
        self._waiting: deque[asyncio.Future[None]] = deque()

    def write(self, data: bytes) -> None:
        """Write frames that no window holds back."""
        if self._is_open:
            self._write(data)

    def answer(self, data: bytes) -> None:
        """Write what answers a frame of the peer. `ConnectionFault` for one that never reads."""
        self.write(data)
        if (
            not self._is_writable
            and self._transport.get_write_buffer_size() > _HIGH_WATER + _TURN + _MOST_WAITING
        ):
            raise ConnectionFault(ErrorCode.ENHANCE_YOUR_CALM, "too many answers are not read")

    def try_send(
        self, side: SendSide, before: bytes, data: tuple[bytes, bytes], after: bytes, flags: int = 0
    ) -> bool:
        """Write `data` as one DATA frame, between other frames, if there is room; tell whether."""
        size = len(data[0]) + len(data[1])
        if (
            size > side.window
            or size > self.window
            or size > self.frame_size
            or not self._is_writable
            or not self._is_open
            or side.ended is not None
            or self._waiting
        ):
            return False
        side.window -= size
        self.window -= size
        head = frames.header(size, frames.DATA, flags, side.stream_id)
        self._write(b"".join((before, head, *data, after)))
        return True

    async def send(self, side: SendSide, data: bytes) -> None:
        """Write `data` as DATA, as there is room. `StreamEndedError` when the stream is over."""
        view, position, size = memoryview(data), 0, len(data)
        while position < size:
            room = await self._room(side)
            part = min(size - position, room, _TURN)
            self._write_data(side, view[position : position + part])
            position += part
            if self._waiting and position < size:
                self._pass_on()
                await self._turn()
        self._pass_on()

    def _write_data(self, side: SendSide, part: memoryview) -> None:
        size, frame_size = len(part), self.frame_size
        parts: list[bytes | memoryview] = []
        side.window -= size
        self.window -= size
        for start in range(0, size, frame_size):
            piece = part[start : start + frame_size]
            parts.append(frames.header(len(piece), frames.DATA, 0, side.stream_id))
            parts.append(piece)
        self._write(b"".join(parts))

    async def _room(self, side: SendSide) -> int:
        while True:
            if side.ended is not None:
                self._pass_on()
                # A new one: one that is raised again and again would keep every trace.
                raise StreamEndedError(side.ended.code, str(side.ended))
            if side.window <= 0:
                self._pass_on()
                await side.opens()
            elif not self._can_go_on():
                await self._turn()
            else:
                return min(side.window, self.window)

    def _can_go_on(self) -> bool:
        return self._is_writable and self.window > 0

    async def _turn(self) -> None:
        """Wait for what holds back all streams, and for those that have waited longer."""
        turn = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self._pass_on()
            raise

    def _pass_on(self) -> None:
        """Wake the next that waits, if it could go on."""
        while self._waiting and (not self._is_open or self._can_go_on()):
            turn = self._waiting.popleft()
            if not turn.done():
                turn.set_result(None)
                return

    def pause(self) -> None:
        """Take note that the socket takes no more."""
        self._is_writable = False

    def resume(self) -> None:
        """Take note that the socket takes more."""
        self._is_writable = True
        self._pass_on()

    def widen(self, increment: int) -> None:
        """Take note of a WINDOW_UPDATE of the connection."""
        self.window += increment
        if self.window > frames.LARGEST_WINDOW:
            raise ConnectionFault(
                ErrorCode.FLOW_CONTROL_ERROR, "the connection's window is too large"
            )
        self._pass_on()

    def close(self) -> None:
        """Write nothing any more; streams have been told that they are over."""
        self._is_open = False
        while self._waiting:
            turn = self._waiting.popleft()
            if not turn.done():
                turn.set_result(None)
