"""What is refused of a datagram that is not cut short."""

from __future__ import annotations

from ipaddress import IPv6Address

import pytest

from proxy.gossip.blocks import BlockCodec
from proxy.gossip.identity import DecodeError, MemberId
from proxy.gossip.messages import (
    KeyRecord,
    Message,
    Syn,
    decode,
    encode_digest,
    join_digest,
    max_version_operation,
    node_operation,
    record_operation,
)
from proxy.gossip.wire import Digest, write_string
from tests.unit.gossip.making import NODE_1, digest_of, member

CODEC = BlockCodec()
V6 = IPv6Address("2001:db8::1")
NODE = node_operation(NODE_1.raw, 0, 0)
KEY = record_operation(KeyRecord("a", "1", 5, 0))
NAMELESS = b"\2\0\xff\xfe" + bytes(8) + b"\4" + bytes(6)
HEADER = b"\x53\xb0\0"


def ack(content: bytes) -> bytes:
    """Return an ACK with these operations."""
    return HEADER + b"\2" + CODEC.write(content)


def digest_in(message: Message) -> Digest:
    """Return a SYN's digest."""
    assert isinstance(message, Syn)
    return message.digest


def syn(entries: bytes, count: int) -> bytes:
    """Return a SYN of version 0 with these entries."""
    return HEADER + b"\0" + count.to_bytes(2, "little") + entries + write_string("cluster")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"\x53\xb1\0\3", "begins with 0xb153, not with 0xb053"),
        (HEADER + b"\4", "message type 4 is none of 0 to 3"),
        (ack(KEY), "begins with operation 1, not with a member"),
        (ack(max_version_operation(1)), "begins with operation 2"),
        (ack(NODE + b"\3"), "operation 3 is none of 0, 1 and 2"),
        (ack(NODE + KEY + NODE), "names a member twice"),
        (ack(NODE + KEY + KEY), "versions of a member's keys do not increase"),
        (ack(NODE + KEY + max_version_operation(4)), "highest version below that of a key"),
        (ack(NODE + KEY[:-1] + b"\3"), "status 3 of a key"),
        (ack(NODE + KEY[:5]), "cut short"),
        (ack(NODE + b"\1\1\0\xff"), "text that is not UTF-8"),
        (ack(b"\0" + NAMELESS + bytes(16)), "text that is not UTF-8"),
        (ack(b"".join(node_operation(member("n", n).raw, 0, 0) for n in range(65_537))), "65536"),
        (syn(NAMELESS + bytes(24), 1), "text that is not UTF-8"),
        (syn(NODE_1.raw[:-7] + b"\5" + bytes(30), 1), "address tag 5 is neither 4 nor 6"),
        (syn((NODE_1.raw + bytes(24)) * 20_000, 20_000), "more than 16384 entries"),
        (HEADER[:2] + b"\1\0" + CODEC.write((NODE_1.raw + bytes(24)) * 20_000), "more than 16384"),
        (HEADER + b"\0\0\0\xff\xff", "string of 65535 bytes is cut short"),
    ],
)
def test_what_is_refused(data: bytes, message: str) -> None:
    with pytest.raises(DecodeError, match=message):
        decode(data, CODEC)


def test_the_last_of_two_digest_entries_wins() -> None:
    twice = NODE_1.raw + (1).to_bytes(24, "little") + NODE_1.raw + (2).to_bytes(24, "little")
    message = decode(syn(twice, 2), CODEC)
    assert digest_in(message) == digest_of((NODE_1, 2, 0, 0))


def test_digests_of_16384_members_are_read_in_version_1() -> None:
    many = digest_of(*((member("n", generation), 1, 2, 3) for generation in range(16_384)))
    data = HEADER[:2] + b"\1\0" + encode_digest(many, 1, CODEC) + write_string("cluster")
    assert digest_in(decode(data, CODEC)) == many


@pytest.mark.parametrize("raw", [b"", b"\0\0", NODE_1.raw[:-1], NODE_1.raw + b"x", NAMELESS])
def test_an_identity_fills_its_bytes(raw: bytes) -> None:
    with pytest.raises(DecodeError):
        MemberId.from_raw(raw)


def test_what_has_no_encoding_is_refused() -> None:
    with pytest.raises(ValueError, match="65536 bytes; at most 65535"):
        write_string("x" * 65_536)
    with pytest.raises(ValueError, match="65536 entries; at most 65535"):
        join_digest([b""] * 65_536, 0, CODEC)
    with pytest.raises(ValueError, match="node id has 65536 bytes"):
        member("x" * 65_536)


def test_identities_are_ordered_as_digests_are() -> None:
    ordered = [
        MemberId("", 9, NODE_1.ip, 1),
        member("a", 2, 1),
        member("a", 10, 1),
        member("a", 10, 2),
        MemberId("a", 10, member("x", 1, 2).ip, 7281),
        MemberId("a", 10, IPv6Address(0), 1),
        MemberId("a", 10, V6, 1),
        member("aa", 1, 1),
        member("b", 1, 1),
        member("é", 1, 1),
        member("\U0001f600", 1, 1),
    ]
    shuffled = [*ordered[5:], *ordered[4::-1]]
    assert sorted(shuffled) == ordered
    assert [each.address for each in ordered[4:7]] == ["10.0.0.2:7281", "[::]:1", "[2001:db8::1]:1"]
    assert ordered[6].endpoint == ("2001:db8::1", 1)
    assert ordered[0] != "no identity"
