"""The bytes of the protocol, against vectors that chitchat 0.13.0 has read and written."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import zstandard

from proxy.gossip.blocks import BlockCodec, BlockWriter
from proxy.gossip.identity import DecodeError, MemberId
from proxy.gossip.messages import (
    Ack,
    KeyRecord,
    NodeDelta,
    SynAck,
    decode,
    decode_delta,
    encode,
    encode_delta,
    encode_digest,
    node_operation,
    record_operation,
)
from proxy.gossip.wire import SUMMARY, U64
from tests.unit.gossip.making import NODE_1, NODE_2, VECTORS, digest_of, member, message_of

CODEC = BlockCodec()
ZSTD_MAGIC = bytes.fromhex("28b52ffd")
BY_NAME = {vector["name"]: vector for vector in VECTORS}


@pytest.mark.parametrize("vector", VECTORS, ids=lambda vector: str(vector["name"]))
def test_a_vector_decodes_to_its_meaning(vector: dict[str, Any]) -> None:
    data = bytes.fromhex(vector["bytes"])
    assert len(data) == vector["length"]
    assert decode(data, CODEC) == message_of(vector)
    # What follows a complete message is ignored.
    assert decode(data + b"more", CODEC) == message_of(vector)


@pytest.mark.parametrize("vector", VECTORS, ids=lambda vector: str(vector["name"]))
def test_a_vector_encodes_to_its_bytes(vector: dict[str, Any]) -> None:
    """The frames of the vectors are libzstd 1.5.4's, and 1.5.7 makes the same; another may not.

    What chitchat itself would not write (stored where it would compress) we do not either.
    """
    encoded = encode(message_of(vector), CODEC)
    assert decode(encoded, CODEC) == message_of(vector)
    if not vector["encodes"]:
        assert len(encoded) < vector["length"]
    elif ZSTD_MAGIC not in encoded or zstandard.ZSTD_VERSION in ((1, 5, 4), (1, 5, 7)):
        assert encoded.hex() == vector["bytes"]


@pytest.mark.parametrize("vector", VECTORS, ids=lambda vector: str(vector["name"]))
def test_no_beginning_of_a_vector_is_a_message(vector: dict[str, Any]) -> None:
    data = bytes.fromhex(vector["bytes"])
    for end in range(len(data)):
        with pytest.raises(DecodeError):
            decode(data[:end], CODEC)


def test_the_first_datagram_is_what_the_bytes_say() -> None:
    """A second reading of V10, field by field."""
    data = bytes.fromhex(BY_NAME["V10"]["bytes"])
    assert data[:4] == b"\x53\xb0\x00\x01"
    assert data[4:6] == b"\x01\x00"
    assert data[6:22] == b"\x0e\x00metastore-py-0"
    assert int.from_bytes(data[22:30], "little") == 1787000000123456789
    assert data[30:37] == b"\x04\x0a\x00\x00\x05\x70\x1c"
    assert SUMMARY.unpack_from(data, 37) == (42, 0, 5)
    assert data[61:64] == b"\x02\x4c\x00"
    assert data[-1] == 0


def test_lengths() -> None:
    assert len(MemberId("node-id", 1, NODE_1.ip, 7280).raw) == 24
    assert len(member("node-id").raw) == 24
    assert (SUMMARY.size, U64.size) == (24, 8)
    assert len(message_digest(NODE_1, NODE_2)) == 104
    delta = [NodeDelta(NODE_1.raw, 0, 0, 1, [KeyRecord("key", "value", 1, 1)])]
    assert len(encode_delta(delta, CODEC)) == 70
    assert len(encode(SynAck(0, digest_of((NODE_1, 0, 0, 0)), delta), CODEC)) == 127
    assert encode_digest({}, 0, CODEC) == b"\0\0"
    assert encode_digest({}, 1, CODEC) == b"\0"


def message_digest(*members: MemberId) -> bytes:
    """Return a digest of members of which nothing is known."""
    return encode_digest(digest_of(*((each, 0, 0, 0) for each in members)), 0, CODEC)


HEAD_1 = node_operation(NODE_1.raw, 0, 0)
HEAD_1_FROM_1 = node_operation(NODE_1.raw, 0, 1)
HEAD_2 = node_operation(NODE_2.raw, 0, 0)
HEAD_2_FROM_1 = node_operation(NODE_2.raw, 0, 1)
KEY_11 = record_operation(KeyRecord("key11", "val11", 1, 0))
KEY_12 = record_operation(KeyRecord("key12", "val12", 2, 0))
LONG_KEY_12 = record_operation(KeyRecord("key12", "val12aaaaaaaaaabcc", 2, 0))


@pytest.mark.parametrize(
    ("budget", "items", "fitting", "length", "block"),
    [
        (140, [HEAD_1, KEY_11, KEY_12, HEAD_2], 4, 80, 1),
        (155, [HEAD_1, KEY_11, KEY_12, HEAD_2], 4, 80, 1),
        (139, [HEAD_1, KEY_11, KEY_12, HEAD_2], 3, 72, 1),
        (100, [HEAD_1, KEY_11, KEY_12, HEAD_2_FROM_1], 3, 72, 1),
        (100, [HEAD_1_FROM_1, KEY_11, LONG_KEY_12], 2, 72, 2),
    ],
)
def test_what_fits_into_a_budget(
    budget: int, items: list[bytes], fitting: int, length: int, block: int
) -> None:
    writer = BlockWriter(CODEC, budget)
    assert [writer.add(item) for item in items] == [n < fitting for n in range(len(items))]
    stream = writer.finish()
    assert (len(stream), stream[0]) == (length, block)
    assert CODEC.read(stream, 0) == (b"".join(items[:fitting]), length)


FRAME = CODEC.block(b"a" * 64)
BLOCKS = {0: b"", 1: FRAME[1:] + b"\0", 2: b"\1\0a\0"}
OPERATIONS = {0: HEAD_2[1:], 1: KEY_11[1:], 2: bytes(8)}


@pytest.mark.parametrize(
    "read",
    [
        lambda code: CODEC.read(bytes([code]) + BLOCKS.get(code, bytes(4)), 0),
        lambda code: decode_delta(HEAD_1 + bytes([code]) + OPERATIONS.get(code, bytes(60))),
        lambda code: decode_delta(HEAD_1 + KEY_11[:-1] + bytes([code])),
    ],
    ids=["block type", "delta operation", "deletion status"],
)
def test_three_codes_of_256_are_valid(read: Callable[[int], object]) -> None:
    refused = []
    for code in range(256):
        try:
            read(code)
        except DecodeError:
            refused.append(code)
    assert refused == list(range(3, 256))


def test_versions_are_echoed_by_the_codec_and_unknown_ones_are_refused() -> None:
    assert decode(bytes.fromhex("53b0010200"), CODEC) == Ack(1, [])
    with pytest.raises(DecodeError, match="protocol version 2 is neither 0 nor 1"):
        decode(bytes.fromhex("53b0020200"), CODEC)
