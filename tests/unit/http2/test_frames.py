"""Frames as bytes, against the layouts of RFC 9113, sections 4.1 and 6."""

from __future__ import annotations

import pytest

from proxy.http2 import frames
from tests.support.raw_http2 import Frame, take_frames

# The frame, and what the RFC's pictures make of it.
WRITTEN = {
    "SETTINGS": (
        frames.settings({frames.INITIAL_WINDOW_SIZE: 65_536, frames.MAX_FRAME_SIZE: 16_384}),
        "00000c 04 00 00000000 0004 00010000 0005 00004000",
    ),
    "no settings": (frames.settings({}), "000000 04 00 00000000"),
    "the answer to SETTINGS": (frames.SETTINGS_ACK, "000000 04 01 00000000"),
    "WINDOW_UPDATE": (
        frames.window_update(5, frames.LARGEST_WINDOW),
        "000004 08 00 00000005 7fffffff",
    ),
    "RST_STREAM": (
        frames.rst_stream(3, frames.ErrorCode.CANCEL),
        "000004 03 00 00000003 00000008",
    ),
    "GOAWAY": (
        frames.goaway(7, frames.ErrorCode.ENHANCE_YOUR_CALM, "why"),
        "00000b 07 00 00000000 00000007 0000000b 776879",
    ),
    "a frame of the largest size": (
        frames.header(frames.LARGEST_FRAME_SIZE, frames.DATA, frames.END_STREAM, 0x7FFFFFFF),
        "ffffff 00 01 7fffffff",
    ),
    "PING": (
        frames.frame(frames.PING, frames.ACK, 0, b"12345678"),
        "000008 06 01 00000000 3132333435363738",
    ),
}


@pytest.mark.parametrize(("written", "expected"), WRITTEN.values(), ids=WRITTEN)
def test_a_frame_has_the_layout_of_the_rfc(written: bytes, expected: str) -> None:
    assert written.hex() == expected.replace(" ", "")


# The size of the block, whether it ends the stream; the kind, flags and size of each frame.
BLOCKS = [
    (0, True, [(frames.HEADERS, 0x5, 0)]),
    (9, False, [(frames.HEADERS, 0x4, 9)]),
    (10, True, [(frames.HEADERS, 0x5, 10)]),
    (11, True, [(frames.HEADERS, 0x1, 10), (frames.CONTINUATION, 0x4, 1)]),
    (20, False, [(frames.HEADERS, 0x0, 10), (frames.CONTINUATION, 0x4, 10)]),
    (
        21,
        False,
        [(frames.HEADERS, 0x0, 10), (frames.CONTINUATION, 0x0, 10), (frames.CONTINUATION, 0x4, 1)],
    ),
]


@pytest.mark.parametrize(("size", "end", "expected"), BLOCKS)
def test_a_header_block_continues_where_it_does_not_fit(
    size: int, end: bool, expected: list[tuple[int, int, int]]
) -> None:
    block = bytes(range(size))
    found, rest = take_frames(frames.header_block(9, block, end_stream=end, frame_size=10))
    assert [(frame.kind, frame.flags, len(frame.payload)) for frame in found] == expected
    assert {frame.stream for frame in found} == {9}
    assert (b"".join(frame.payload for frame in found), rest) == (block, b"")


def test_a_frame_is_read_as_it_was_written() -> None:
    written = frames.frame(frames.DATA, frames.END_STREAM, 0x7FFFFFFF, b"x" * 70_000)
    assert take_frames(written) == ([Frame(0, 1, 0x7FFFFFFF, b"x" * 70_000)], b"")
    assert list(frames.iter_settings(frames.settings({1: 2, 3: 0xFFFFFFFF})[9:])) == [
        (1, 2),
        (3, 0xFFFFFFFF),
    ]


@pytest.mark.parametrize(
    ("code", "name"),
    [(0, "NO_ERROR"), (13, "HTTP_1_1_REQUIRED"), (14, "0xe"), (2**32 - 1, "0xffffffff")],
)
def test_a_code_has_a_name(code: int, name: str) -> None:
    assert frames.code_name(code) == name
