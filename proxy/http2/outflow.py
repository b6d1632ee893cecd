"""Sending on one connection: what the peer's windows and the socket's buffer leave room for.

A stream sends at most `_TURN` bytes, then those that wait before it get theirs, so that a large
answer does not hold up small ones beside it, and no more than a turn of each is in memory twice.

Facts: RFC 9113, 5.2 and 6.9: only DATA counts; a window may become negative by a change of the
peer's settings; more than 2^31-1 is a fault.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from typing import Final

from proxy.http2 import fields, frames
from proxy.http2.faults import ConnectionFault, StreamEndedError, StreamFault
from proxy.http2.frames import ErrorCode
from proxy.http2.writes import Writes

# A turn is a good part of what a socket takes at once.
_TURN: Final = 256 * 1024
# What the transport holds before streams wait for the socket.
_HIGH_WATER: Final = 256 * 1024
# What a peer that reads nothing may make us hold in answers to its frames, and with the heads and
# ends of calls.
_MOST_WAITING: Final = 1024 * 1024
_MOST_UNREAD: Final = 8 * 1024 * 1024


class SendSide:
    """The sending side of one stream: its window, and who waits for it to open.

    `is_midway` is set with the first byte that `Outflow.send` writes, and cleared by the owner:
    what was sent so far ends inside a message, so that nothing but its `rest` may follow.
    """

    __slots__ = ("_opens", "ended", "is_midway", "rest", "stream_id", "window")

    def __init__(self, stream_id: int, window: int) -> None:
        self.stream_id = stream_id
        self.window = window
        self.is_midway = False
        self.rest: bytes | memoryview = b""
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
        self._writes = Writes(transport)
        self._write = self._writes.add
        self._write_at_once = self._writes.at_once
        self.flush = self._writes.flush
        transport.set_write_buffer_limits(high=_HIGH_WATER)
        self.window = frames.DEFAULT_WINDOW
        self.frame_size = frames.DEFAULT_FRAME_SIZE
        self._block_start = b""
        self._is_open = True
        self._is_writable = True
        self._waiting: OrderedDict[asyncio.Future[None], None] = OrderedDict()
        # How many were woken and have not run since: nobody goes before them.
        self._woken = 0

    def write(self, data: bytes) -> None:
        """Write frames that no window holds back."""
        # The transport complains of what is written after it has given the socket up.
        if self._is_open and not self._transport.is_closing():
            self._write(data)

    def limit_table(self, size: int) -> None:
        """Take note of how much of earlier header blocks the peer remembers.

        Facts: RFC 7541, 4.2: who is to use less must say so at the start of the next block. Ours
        use nothing, and say so in each: then it does not matter which is the next.
        """
        if size < frames.DEFAULT_TABLE_SIZE:
            self._block_start = fields.TABLE_SIZE_0

    def block(self, stream_id: int, block: bytes, *, end_stream: bool) -> bytes:
        """Return the frames of a header block."""
        return frames.header_block(
            stream_id,
            self._block_start + block,
            end_stream=end_stream,
            frame_size=self.frame_size,
        )

    def answer(self, data: bytes) -> None:
        """Write what answers a frame of the peer. `ConnectionFault` for one that never reads."""
        self.write(data)
        if not self._is_writable and self._unread() > _HIGH_WATER + _TURN + _MOST_WAITING:
            raise ConnectionFault(ErrorCode.ENHANCE_YOUR_CALM, "too many answers are not read")

    def is_flooded(self) -> bool:
        """Tell whether the peer reads so little that what waits for it takes too much memory."""
        return not self._is_writable and self._unread() > _MOST_UNREAD

    def _unread(self) -> int:
        return self._transport.get_write_buffer_size() + self._writes.size

    def try_send(
        self,
        side: SendSide,
        before: bytes,
        data: tuple[bytes, bytes],
        after: bytes,
        flags: int = 0,
        *,
        at_once: bool = False,
    ) -> bool:
        """Write `data` as one DATA frame, between other frames, if there is room; tell whether.

        `at_once` where nothing else is to be expected in this turn.
        """
        size = len(data[0]) + len(data[1])
        if (
            size > side.window
            or size > self.window
            or size > self.frame_size
            or not self._is_writable
            or not self._is_open
            or side.ended is not None
            or self._waiting
            or self._woken
        ):
            return False
        side.window -= size
        self.window -= size
        head = frames.header(size, frames.DATA, flags, side.stream_id)
        write = self._write_at_once if at_once else self._write
        write(b"".join((before, head, *data, after)))
        return True

    async def send(self, side: SendSide, data: bytes | memoryview, before: bytes = b"") -> None:
        """Write `before` and `data` as DATA, as there is room; if cancelled, `side.rest` is left.

        `StreamEndedError` when the stream is over.
        """
        rest = memoryview(data)
        try:
            while before or rest:
                room = min(await self._room(side), _TURN)
                first, before = before[:room], before[room:]
                part, rest = rest[: room - len(first)], rest[room - len(first) :]
                self._write_data(side, first, part)
                self._pass_on()
        except asyncio.CancelledError:
            side.rest = before + rest if before else rest
            raise

    def _write_data(self, side: SendSide, first: bytes, part: memoryview) -> None:
        size = len(first) + len(part)
        side.is_midway = True
        side.window -= size
        self.window -= size
        parts: list[bytes | memoryview] = []
        while size:
            length = min(size, self.frame_size)
            size -= length
            end = length - len(first)
            parts += (frames.header(length, frames.DATA, 0, side.stream_id), first, part[:end])
            first, part = b"", part[end:]
        self._write(b"".join(parts))

    async def _room(self, side: SendSide) -> int:
        has_turn = False
        while True:
            if side.ended is not None:
                self._pass_on()
                # A new one: one that is raised again and again would keep every trace.
                raise StreamEndedError(side.ended.code, str(side.ended))
            if not self._is_open:
                raise StreamEndedError(ErrorCode.CANCEL, "the connection is closed")
            if side.window <= 0:
                self._pass_on()
                has_turn = False
                await side.opens()
            elif not self._can_go_on() or (not has_turn and (self._waiting or self._woken)):
                await self._turn(is_first=has_turn)
                has_turn = True
            else:
                return min(side.window, self.window)

    def _can_go_on(self) -> bool:
        return self._is_writable and self.window > 0

    async def _turn(self, *, is_first: bool) -> None:
        """Wait for what holds back all streams, and for those that have waited longer."""
        turn = asyncio.get_running_loop().create_future()
        self._waiting[turn] = None
        self._waiting.move_to_end(turn, last=not is_first)
        try:
            await turn
        except asyncio.CancelledError:
            if turn.cancelled():
                self._waiting.pop(turn, None)
            else:
                self._woken -= 1
                self._pass_on()
            raise
        self._woken -= 1

    def _pass_on(self) -> None:
        """Wake the next that waits, if it could go on. Who is woken does so in its turn."""
        while self._waiting and self._can_go_on():
            if self._wake_next():
                return

    def _wake_next(self) -> bool:
        turn, _ = self._waiting.popitem(last=False)
        if turn.done():
            # Cancelled, and not told yet.
            return False
        self._woken += 1
        turn.set_result(None)
        return True

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
        self.flush()
        while self._waiting:
            self._wake_next()
