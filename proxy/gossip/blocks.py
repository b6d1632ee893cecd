"""The block stream in which deltas travel, and digests of protocol version 1.

Facts: `serialize.rs` of chitchat. A stream is blocks and a zero byte; a block is a zstd frame or
stored bytes, and holds at most 65,535 bytes. Content is cut into blocks without regard to items.
Which of both a sender takes is its own choice; we compress what gets smaller by it.
"""

from __future__ import annotations

import struct
from typing import Final

import zstandard

from proxy.gossip.identity import DecodeError
from proxy.gossip.wire import U16

THRESHOLD: Final = 16_384
MAX_BLOCK: Final = 65_535
# What a stream may hold in all. An honest one is a datagram's worth of state, compressed some 5 to
# 10 times; a frame of 20 bytes can claim 65,535, so that one datagram could claim 200 MB.
MAX_CONTENT: Final = 4 << 20
# What a frame may ask a decoder to remember.
_MAX_WINDOW: Final = 8 << 20

# What a frame must save to be sent. Chitchat gives libzstd a buffer of the content's size, and
# libzstd needs 8 bytes of it free at the end: this makes our blocks the same as those of chitchat.
_SAVING: Final = 8

_END, _COMPRESSED, _STORED = 0, 1, 2
_HEAD: Final = struct.Struct("<BH")


class BlockCodec:
    """Compresses and decompresses blocks. Not for several threads: zstd's contexts are reused."""

    def __init__(self) -> None:
        self._compressor = zstandard.ZstdCompressor(level=3)
        self._decompressor = zstandard.ZstdDecompressor(max_window_size=_MAX_WINDOW)

    def read(self, data: bytes, at: int) -> tuple[bytes, int]:
        """Return the content of the stream that starts at `at`, and where the stream ends.

        Raise DecodeError, or IndexError and struct.error where `data` is too short to tell.
        """
        parts: list[bytes] = []
        total = 0
        while (kind := data[at]) != _END:
            if kind > _STORED:
                raise DecodeError(f"block type {kind} is none of 0, 1 and 2")
            start = at + 3
            at = start + U16.unpack_from(data, at + 1)[0]
            part = data[start:at]
            if len(part) != at - start:
                raise DecodeError(f"block of {at - start} bytes is cut short")
            if kind == _COMPRESSED:
                part = self._decompress(part)
            total += len(part)
            if total > MAX_CONTENT:
                raise DecodeError(f"stream holds more than {MAX_CONTENT} bytes")
            parts.append(part)
        return b"".join(parts), at + 1

    def write(self, content: bytes) -> bytes:
        """Return the stream with this content."""
        blocks = [
            self.block(content[start : start + THRESHOLD])
            for start in range(0, len(content), THRESHOLD)
        ]
        return b"".join(blocks) + b"\0"

    def block(self, content: bytes) -> bytes:
        """Return a block with this content, which must not exceed 65,535 bytes."""
        frame = self._compressor.compress(content)
        if len(frame) + _SAVING <= len(content):
            return _HEAD.pack(_COMPRESSED, len(frame)) + frame
        return _HEAD.pack(_STORED, len(content)) + content

    def _decompress(self, frame: bytes) -> bytes:
        """Return what a frame holds. The size it claims is looked at before memory is taken."""
        try:
            if zstandard.frame_content_size(frame) > MAX_BLOCK:
                raise DecodeError(f"block holds more than {MAX_BLOCK} bytes")
            return self._decompressor.decompress(
                frame, max_output_size=MAX_BLOCK, allow_extra_data=False
            )
        except zstandard.ZstdError as error:
            raise DecodeError(f"block of {len(frame)} bytes is no zstd frame: {error}") from error


class BlockWriter:
    """Writes items into a stream as long as they certainly fit into a budget of bytes.

    Facts: the rule of `CompressedStreamWriter` in chitchat. What is pending counts uncompressed, so
    a stream ends well below its budget where content compresses.
    """

    def __init__(self, codec: BlockCodec, budget: int) -> None:
        self._codec = codec
        self._budget = budget
        self._threshold = min(THRESHOLD, budget)
        self._out = bytearray()
        self._pending = bytearray()

    def add(self, item: bytes) -> bool:
        """Append an item, or return False and change nothing when it may not fit."""
        pending = len(self._pending) + len(item)
        # The end of the stream, the head of the last block, and that of one cut off before it.
        heads = 4 + (3 if pending > self._threshold else 0)
        if len(self._out) + pending + heads > self._budget:
            return False
        self._pending += item
        while len(self._pending) > self._threshold:
            self._out += self._codec.block(bytes(self._pending[: self._threshold]))
            del self._pending[: self._threshold]
        return True

    def finish(self) -> bytes:
        """Return the stream; nothing may be added to it any more."""
        if self._pending:
            self._out += self._codec.block(bytes(self._pending))
        return bytes(self._out) + b"\0"
