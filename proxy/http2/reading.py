"""From bytes to frames, and from frames to what they say: the reading half of a connection.

Facts: RFC 9113, sections 4 and 6, for the sizes and places of frames; unknown ones are ignored.
What a peer may send that holds nothing is bounded, so that nobody is kept busy by it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from proxy.http2 import frames
from proxy.http2.faults import ConnectionFault, StreamFault
from proxy.http2.fields import FieldReader, FieldsError
from proxy.http2.frames import ErrorCode

# What a header block may take as it comes; decoded (as RFC 9113 counts), twice as much.
BLOCK_LIMIT: Final = 64 * 1024
# How many frames are read before other connections have their turn: one peer can send thousands of
# small ones at once, and each may be a call.
TURN_FRAMES: Final = 512
# How many frames that hold nothing a peer may send between others that do.
_EMPTY_FRAMES: Final = 10_000
_ITSELF: Final = "a stream cannot depend on itself"


class FrameReader:
    """Takes bytes, and calls a method of the subclass for each frame that means something.

    A frame that breaks the protocol raises: `StreamFault` where the stream alone is at fault, which
    goes to `stream_fault`, else `ConnectionFault`.
    """

    block_limit = BLOCK_LIMIT

    def __init__(self, *, expects_preface: bool) -> None:
        self.has_preface = not expects_preface
        self.has_settings = False
        self._fields = FieldReader(2 * self.block_limit)
        self._rest = b""
        self._block: _Block | None = None
        self._empty = 0
        self._is_over = False
        self._is_cut = False

    # What a subclass does with frames

    def wrong_protocol(self, data: bytes) -> None:
        """Take note that the peer speaks something else."""
        raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "the peer does not speak HTTP/2")

    def on_preface(self) -> None:
        """Take note that the peer speaks HTTP/2."""

    def on_data(self, stream_id: int, data: bytes, size: int, *, is_end: bool) -> None:
        """Take a part of a body; `size` counts for the windows."""
        raise NotImplementedError

    def on_fields(
        self, stream_id: int, fields: Sequence[tuple[bytes, bytes]], *, is_end: bool
    ) -> None:
        """Take a block of fields."""
        raise NotImplementedError

    def on_window_update(self, stream_id: int, increment: int) -> None:
        """Take note that the peer takes more."""
        raise NotImplementedError

    def on_reset(self, stream_id: int, code: int) -> None:
        """Take note that the peer has ended a stream."""
        raise NotImplementedError

    def on_settings(self, values: list[tuple[int, int]]) -> None:
        """Take the peer's settings."""
        raise NotImplementedError

    def on_ping(self, payload: bytes, *, is_answer: bool) -> None:
        """Take a ping, or the answer to one."""
        raise NotImplementedError

    def on_goaway(self, last_stream: int, code: int, text: bytes) -> None:
        """Take note that the peer takes no streams after the last that it names."""
        raise NotImplementedError

    def stream_fault(self, stream_id: int, fault: StreamFault) -> None:
        """End a stream at fault."""
        raise NotImplementedError

    # Reading

    def read(self, data: bytes) -> None:
        """Take the bytes that came, and keep what is no whole frame yet."""
        if self._rest:
            data = self._rest + data
        start = 0 if self.has_preface else self._read_preface(data)
        if not self.has_preface:
            self._rest = data
            return
        end = self._read_frames(data, start)
        self._rest = b"" if self._is_over else data[end:]

    @property
    def has_more(self) -> bool:
        """Whether `read` has stopped at the end of its turn; `read(b"")` goes on."""
        return self._is_cut and not self._is_over

    def read_no_more(self) -> None:
        """Forget what is left, and read nothing that follows."""
        self._is_over = True
        self._rest = b""

    def _read_preface(self, data: bytes) -> int:
        size = len(frames.PREFACE)
        if data[:size] != frames.PREFACE[: len(data)]:
            self.wrong_protocol(data)
        elif len(data) >= size:
            self.has_preface = True
            self.on_preface()
        return size

    def _read_frames(self, data: bytes, position: int) -> int:
        end, left = len(data), TURN_FRAMES
        while end - position >= frames.HEADER_SIZE and not self._is_over and left:
            left -= 1
            high, low, kind, flags, stream_id = frames.unpack_header(data, position)
            length = high << 8 | low
            if length > frames.DEFAULT_FRAME_SIZE:
                raise ConnectionFault(ErrorCode.FRAME_SIZE_ERROR, f"a frame has {length} bytes")
            after = position + frames.HEADER_SIZE + length
            if after > end:
                break
            payload = data[position + frames.HEADER_SIZE : after]
            position = after
            stream_id &= frames.LARGEST_STREAM
            try:
                self._read_frame(kind, flags, stream_id, payload)
            except StreamFault as fault:
                self.stream_fault(stream_id, fault)
        self._is_cut = not left
        return position

    def _read_frame(self, kind: int, flags: int, stream_id: int, payload: bytes) -> None:
        if not self.has_settings or self._block is not None:
            self._check_order(kind, flags, stream_id)
        if kind == frames.DATA:
            self._read_data(flags, stream_id, payload)
        elif kind == frames.HEADERS:
            self._read_headers(flags, stream_id, payload)
        elif kind == frames.WINDOW_UPDATE:
            self.on_window_update(stream_id, _word(payload, "WINDOW_UPDATE"))
        elif kind == frames.CONTINUATION:
            self._read_continuation(flags, payload)
        elif kind == frames.RST_STREAM:
            _of_a_stream(stream_id)
            self.on_reset(stream_id, _word(payload, "RST_STREAM", frames.ANY_WORD))
        elif kind == frames.PRIORITY:
            self._read_priority(stream_id, payload)
        elif kind in (frames.SETTINGS, frames.PING, frames.GOAWAY, frames.PUSH_PROMISE):
            self._read_of_connection(kind, flags, stream_id, payload)

    def _check_order(self, kind: int, flags: int, stream_id: int) -> None:
        if not self.has_settings and (kind != frames.SETTINGS or flags & frames.ACK):
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "the first frame must be SETTINGS")
        block = self._block
        if block is not None and (kind != frames.CONTINUATION or stream_id != block.stream_id):
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "a header block was left unfinished")

    def _read_data(self, flags: int, stream_id: int, payload: bytes) -> None:
        _of_a_stream(stream_id)
        size = len(payload)
        if flags & frames.PADDED:
            payload = _unpadded(payload)
        is_end = bool(flags & frames.END_STREAM)
        if payload or is_end:
            self._empty = 0
        else:
            self._count_empty()
        self.on_data(stream_id, payload, size, is_end=is_end)

    def _count_empty(self) -> None:
        self._empty += 1
        if self._empty > _EMPTY_FRAMES:
            raise ConnectionFault(ErrorCode.ENHANCE_YOUR_CALM, "too many empty frames")

    def _read_headers(self, flags: int, stream_id: int, payload: bytes) -> None:
        _of_a_stream(stream_id)
        if flags & frames.PADDED:
            payload = _unpadded(payload)
        if flags & frames.WITH_PRIORITY:
            if len(payload) < 5:
                raise ConnectionFault(ErrorCode.FRAME_SIZE_ERROR, "a priority has five bytes")
            if _dependency(payload) == stream_id:
                raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, _ITSELF)
            payload = payload[5:]
        is_end = bool(flags & frames.END_STREAM)
        if flags & frames.END_HEADERS:
            self._read_block(stream_id, payload, is_end=is_end)
        else:
            self._block = _Block(stream_id, is_end=is_end, first=payload)

    def _read_continuation(self, flags: int, payload: bytes) -> None:
        block = self._block
        if block is None:
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "there is nothing to continue")
        if not payload:
            self._count_empty()
        block.parts += payload
        if len(block.parts) > self.block_limit:
            raise ConnectionFault(ErrorCode.ENHANCE_YOUR_CALM, "the header fields are too large")
        if flags & frames.END_HEADERS:
            self._block = None
            self._read_block(block.stream_id, bytes(block.parts), is_end=block.is_end)

    def _read_block(self, stream_id: int, block: bytes, *, is_end: bool) -> None:
        # Read in any case, whatever becomes of the stream: later blocks build on it.
        try:
            fields = self._fields.read(block)
        except FieldsError as error:
            code = (
                ErrorCode.ENHANCE_YOUR_CALM if error.is_too_large else ErrorCode.COMPRESSION_ERROR
            )
            raise ConnectionFault(code, str(error)) from error
        self.on_fields(stream_id, fields, is_end=is_end)

    def _read_priority(self, stream_id: int, payload: bytes) -> None:
        _of_a_stream(stream_id)
        if len(payload) != 5:
            raise StreamFault(ErrorCode.FRAME_SIZE_ERROR, "a priority has five bytes")
        if _dependency(payload) == stream_id:
            raise StreamFault(ErrorCode.PROTOCOL_ERROR, _ITSELF)

    def _read_of_connection(self, kind: int, flags: int, stream_id: int, payload: bytes) -> None:
        if kind == frames.PUSH_PROMISE:
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "nothing may be pushed")
        if stream_id != 0:
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "the frame belongs to no stream")
        size, is_answer = len(payload), bool(flags & frames.ACK)
        if kind == frames.PING:
            if size != 8:
                raise ConnectionFault(ErrorCode.FRAME_SIZE_ERROR, "a ping has eight bytes")
            self.on_ping(payload, is_answer=is_answer)
        elif kind == frames.GOAWAY:
            if size < 8:
                raise ConnectionFault(ErrorCode.FRAME_SIZE_ERROR, "GOAWAY has eight bytes or more")
            last_stream, code = frames.unpack_word(payload)[0], frames.unpack_word(payload, 4)[0]
            self.on_goaway(last_stream & frames.LARGEST_STREAM, code, payload[8:])
        elif size % 6 or (is_answer and size):
            raise ConnectionFault(ErrorCode.FRAME_SIZE_ERROR, f"SETTINGS of {size} bytes")
        elif not is_answer:
            self.has_settings = True
            self.on_settings(list(frames.iter_settings(payload)))


class _Block:
    """A header block that comes in parts."""

    __slots__ = ("is_end", "parts", "stream_id")

    def __init__(self, stream_id: int, *, is_end: bool, first: bytes) -> None:
        self.stream_id = stream_id
        self.is_end = is_end
        self.parts = bytearray(first)


def _of_a_stream(stream_id: int) -> None:
    if stream_id == 0:
        raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "the frame belongs to a stream")


def _word(payload: bytes, what: str, mask: int = frames.LARGEST_WINDOW) -> int:
    if len(payload) != 4:
        raise ConnectionFault(ErrorCode.FRAME_SIZE_ERROR, f"{what} has four bytes")
    word: int = frames.unpack_word(payload)[0]
    return word & mask


def _unpadded(payload: bytes) -> bytes:
    if not payload or payload[0] >= len(payload):
        raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "there is more padding than payload")
    return payload[1 : len(payload) - payload[0]]


def _dependency(payload: bytes) -> int:
    word: int = frames.unpack_word(payload)[0]
    return word & frames.LARGEST_STREAM
