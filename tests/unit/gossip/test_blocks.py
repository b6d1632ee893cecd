"""Blocks that are too large, lie about their size, or are no blocks."""

from __future__ import annotations

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from proxy.gossip.blocks import MAX_BLOCK, MAX_CONTENT, BlockCodec, BlockWriter
from proxy.gossip.identity import DecodeError

CODEC = BlockCodec()


def compressed(frame: bytes) -> bytes:
    """Return a stream of one compressed block."""
    return b"\1" + len(frame).to_bytes(2, "little") + frame + b"\0"


def frame_of(size: int, *, says_size: bool = True) -> bytes:
    """Return a frame of zeroes."""
    return zstandard.ZstdCompressor(write_content_size=says_size).compress(bytes(size))


@given(st.binary(max_size=200).map(lambda part: part * 400))
def test_any_content_comes_back(content: bytes) -> None:
    stream = CODEC.write(content)
    assert CODEC.read(b"head" + stream + b"tail", 4) == (content, 4 + len(stream))


@pytest.mark.parametrize("says_size", [True, False])
def test_a_block_holds_up_to_65535_bytes(says_size: bool) -> None:
    content, _ = CODEC.read(compressed(frame_of(MAX_BLOCK, says_size=says_size)), 0)
    assert content == bytes(MAX_BLOCK)
    for size in (MAX_BLOCK + 1, 200 << 20):
        with pytest.raises(DecodeError):
            CODEC.read(compressed(frame_of(size, says_size=says_size)), 0)


def test_all_blocks_together_are_bounded() -> None:
    block = compressed(frame_of(MAX_BLOCK))[:-1]
    most = MAX_CONTENT // MAX_BLOCK
    assert len(CODEC.read(block * most + b"\0", 0)[0]) == most * MAX_BLOCK
    with pytest.raises(DecodeError, match="more than 4194304 bytes"):
        CODEC.read(block * (most + 1) + b"\0", 0)


@pytest.mark.parametrize(
    "stream",
    [
        pytest.param(compressed(b""), id="nothing"),
        pytest.param(compressed(b"no frame at all"), id="no frame"),
        pytest.param(compressed(frame_of(1000)[:-1]), id="cut frame"),
        pytest.param(compressed(frame_of(1000) + b"x"), id="more than a frame"),
        pytest.param(compressed(frame_of(10) + frame_of(10)), id="two frames"),
        pytest.param(b"\2\x05\0four", id="cut block"),
        pytest.param(b"\3\0\0\0", id="unknown type"),
        # A window of 2 GB, and a size of 2^63: nothing of it may be taken.
        pytest.param(compressed(bytes.fromhex("28b52ffd00a8010000")), id="large window"),
        pytest.param(compressed(bytes.fromhex("28b52ffde0ffffffffffffff7f010000")), id="huge"),
    ],
)
def test_what_is_no_stream_is_refused(stream: bytes) -> None:
    with pytest.raises(DecodeError):
        CODEC.read(stream, 0)


@given(
    st.integers(4, 70_000),
    st.lists(st.binary(max_size=50).map(lambda part: part * 300), max_size=30),
)
def test_a_writer_never_exceeds_its_budget(budget: int, items: list[bytes]) -> None:
    writer = BlockWriter(CODEC, budget)
    kept = [item for item in items if writer.add(item)]
    stream = writer.finish()
    assert len(stream) <= budget
    assert CODEC.read(stream, 0) == (b"".join(kept), len(stream))
