"""The frames of HTTP/2: their numbers, and how they become bytes.

Facts: RFC 9113, sections 4 to 7.
"""

from __future__ import annotations

import struct
from enum import IntEnum
from typing import Final

PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
HEADER_SIZE: Final = 9

DATA: Final = 0x0
HEADERS: Final = 0x1
PRIORITY: Final = 0x2
RST_STREAM: Final = 0x3
SETTINGS: Final = 0x4
PUSH_PROMISE: Final = 0x5
PING: Final = 0x6
GOAWAY: Final = 0x7
WINDOW_UPDATE: Final = 0x8
CONTINUATION: Final = 0x9

ACK: Final = 0x1
END_STREAM: Final = 0x1
END_HEADERS: Final = 0x4
PADDED: Final = 0x8
WITH_PRIORITY: Final = 0x20

HEADER_TABLE_SIZE: Final = 0x1
ENABLE_PUSH: Final = 0x2
MAX_CONCURRENT_STREAMS: Final = 0x3
INITIAL_WINDOW_SIZE: Final = 0x4
MAX_FRAME_SIZE: Final = 0x5
MAX_HEADER_LIST_SIZE: Final = 0x6

# What holds until a peer says otherwise.
DEFAULT_WINDOW: Final = 65_535
DEFAULT_TABLE_SIZE: Final = 4_096
DEFAULT_FRAME_SIZE: Final = 16_384
LARGEST_FRAME_SIZE: Final = 0xFFFFFF
LARGEST_WINDOW: Final = 0x7FFFFFFF
LARGEST_STREAM: Final = 0x7FFFFFFF
ANY_WORD: Final = 0xFFFFFFFF


class ErrorCode(IntEnum):
    """Why a stream or a connection ended."""

    NO_ERROR = 0x0
    PROTOCOL_ERROR = 0x1
    INTERNAL_ERROR = 0x2
    FLOW_CONTROL_ERROR = 0x3
    SETTINGS_TIMEOUT = 0x4
    STREAM_CLOSED = 0x5
    FRAME_SIZE_ERROR = 0x6
    REFUSED_STREAM = 0x7
    CANCEL = 0x8
    COMPRESSION_ERROR = 0x9
    CONNECT_ERROR = 0xA
    ENHANCE_YOUR_CALM = 0xB
    INADEQUATE_SECURITY = 0xC
    HTTP_1_1_REQUIRED = 0xD


def code_name(code: int) -> str:
    """Return the name of an error code, of an unknown one its number."""
    try:
        return ErrorCode(code).name
    except ValueError:
        return f"0x{code:x}"


_HEADER: Final = struct.Struct("!HBBBI")
# Length (in two parts), type, flags, stream.
unpack_header: Final = _HEADER.unpack_from
_pack_header: Final = _HEADER.pack
_SETTING: Final = struct.Struct("!HI")
_WORD: Final = struct.Struct("!I")
unpack_word: Final = _WORD.unpack_from
iter_settings: Final = _SETTING.iter_unpack


def header(length: int, kind: int, flags: int, stream: int) -> bytes:
    """Return the nine bytes before a frame's payload."""
    return _pack_header(length >> 8, length & 0xFF, kind, flags, stream)


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    """Return a frame, whole."""
    return header(len(payload), kind, flags, stream) + payload


def settings(values: dict[int, int]) -> bytes:
    """Return a SETTINGS frame."""
    return frame(SETTINGS, 0, 0, b"".join(_SETTING.pack(*item) for item in values.items()))


SETTINGS_ACK: Final = frame(SETTINGS, ACK, 0)


def window_update(stream: int, increment: int) -> bytes:
    """Return a WINDOW_UPDATE of a stream, or with 0 of the connection."""
    return frame(WINDOW_UPDATE, 0, stream, _WORD.pack(increment))


def rst_stream(stream: int, code: int) -> bytes:
    """Return an RST_STREAM."""
    return frame(RST_STREAM, 0, stream, _WORD.pack(code))


def goaway(last_stream: int, code: int, text: str = "") -> bytes:
    """Return a GOAWAY; `text` is for whoever debugs the peer."""
    return frame(GOAWAY, 0, 0, _WORD.pack(last_stream) + _WORD.pack(code) + text.encode())


def header_block(stream: int, block: bytes, *, end_stream: bool, frame_size: int) -> bytes:
    """Return a header block as HEADERS, and CONTINUATION where it does not fit."""
    last = END_STREAM if end_stream else 0
    if len(block) <= frame_size:
        return header(len(block), HEADERS, last | END_HEADERS, stream) + block
    parts = [frame(HEADERS, last, stream, block[:frame_size])]
    for start in range(frame_size, len(block), frame_size):
        part = block[start : start + frame_size]
        flags = END_HEADERS if start + frame_size >= len(block) else 0
        parts.append(frame(CONTINUATION, flags, stream, part))
    return b"".join(parts)
