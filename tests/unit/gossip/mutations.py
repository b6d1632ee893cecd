"""Datagrams that nobody should send, made from ones that somebody could."""

from __future__ import annotations

from collections.abc import Iterator
from random import Random

import zstandard

from proxy.gossip.blocks import BlockCodec
from proxy.gossip.identity import MemberId
from proxy.gossip.messages import Ack, KeyRecord, Message, NodeDelta, Syn, SynAck, encode
from tests.unit.gossip.making import VECTORS, digest_of, member

NAME = "quickwit-default-cluster"
ME = member("me")
PEERS = [member(f"peer-{n}", host=n) for n in range(2, 6)]
_MOST = 2**64 - 1


def node(who: MemberId, last_gc: int, start: int, *versions: int, status: int = 0) -> NodeDelta:
    """Return a part of a delta with a key for each version."""
    records = [KeyRecord(f"key-{n % 5}", f"value-{n}", n, status) for n in versions]
    return NodeDelta(who.raw, last_gc, start, versions[-1] if versions else 0, records)


def messages() -> list[Message]:
    """Return messages that each do something to a node that is `ME`."""
    one, two = PEERS[:2]
    rising = [digest_of(*((each, n, 0, n) for each in PEERS)) for n in (1, 2, 3, 900)]
    return [
        *(Syn(version, digest, NAME) for digest in rising for version in (0, 1)),
        Syn(0, rising[0], "another-cluster"),
        Syn(0, digest_of((ME, _MOST, _MOST, _MOST), (one, _MOST, _MOST, _MOST)), NAME),
        Syn(1, digest_of(*((member(f"spoofed-{n}", n), 1, 0, 1) for n in range(15))), NAME),
        SynAck(0, rising[3], [node(one, 0, 0, 1, 2, 3), node(two, 0, 2, 3, 4, status=2)]),
        SynAck(1, {}, [node(one, 5, 0, 7, 9), node(two, 0, 0, 1, status=1)]),
        Ack(0, [node(one, 0, 3, 4, 5, 6, 7)]),
        Ack(0, [node(ME, 0, 0, 1, 2, 3), node(two, _MOST, 0, 4, 5)]),
        Ack(0, [node(ME, 9, 0), node(one, 0, 0, _MOST)]),
        Ack(1, [node(each, 0, 0, *range(1, 20)) for each in PEERS[1:3]]),
    ]


def bombs() -> list[bytes]:
    """Return datagrams that are small and claim to be large."""
    frame = zstandard.ZstdCompressor().compress(bytes(65_535))
    block = b"\1" + len(frame).to_bytes(2, "little") + frame
    liar = bytes.fromhex("28b52ffde0ffffffffffffff7f010000")
    return [
        b"\x53\xb0\0\2" + block * (60_000 // len(block)) + b"\0",
        b"\x53\xb0\1\0" + block * 40 + b"\0",
        b"\x53\xb0\0\2\1" + len(liar).to_bytes(2, "little") + liar + b"\0",
        b"\x53\xb0\0\0\xff\xff" + PEERS[0].raw + bytes(24),
        b"\x53\xb0\0\0\xff\xff" + bytes(60_000),
        b"\x53\xb0\0\2" + b"\2\0\0" * 20_000 + b"\0",
        b"\x53\xb0\0\2\2\xff\xff" + b"\0" * 65_000,
        b"\x53\xb0\0\2" + BlockCodec().write(b"\0" + PEERS[0].raw + bytes(16) + b"\2" + bytes(8)),
    ]


def corpus() -> list[bytes]:
    """Return well-formed datagrams of all kinds."""
    codec = BlockCodec()
    made = [encode(message, codec) for message in messages()]
    return made + [bytes.fromhex(vector["bytes"]) for vector in VECTORS]


def mutated(count: int, seed: int) -> Iterator[bytes]:
    """Return so many datagrams: mutated, cut, spliced, random, doubled, and some bombs."""
    rng = Random(seed)
    whole, dangerous = corpus(), bombs()
    size = len(whole)
    for _ in range(count):
        # One draw for all choices: this must cost less than what it tests.
        bits = rng.getrandbits(80)
        data, kind = whole[(bits & 0xFFFF) % size], bits >> 16 & 15
        at = (bits >> 20 & 0xFFFF) % len(data)
        if kind < 6:
            copy = bytearray(data)
            copy[at] ^= 1 << (bits >> 36 & 7)
            if kind < 2:
                copy[(bits >> 40 & 0xFFFF) % len(copy)] = (0, 255, 127, 1)[bits >> 56 & 3]
            yield bytes(copy)
        elif kind < 8:
            yield data[:at]
        elif kind < 10:
            yield data[:at] + whole[(bits >> 36 & 0xFFFF) % size][at:]
        elif kind < 12:
            yield data[:at] + (bits >> 36).to_bytes(6, "little") + data[at + (kind & 1) * 6 :]
        elif kind == 12:
            yield data[:4] + rng.randbytes(bits >> 36 & 63)
        elif kind == 13:
            yield rng.randbytes(bits >> 36 & 127)
        elif kind == 14 and bits >> 36 & 1023 == 0:
            yield dangerous[(bits >> 46 & 0xFFFF) % len(dangerous)]
        else:
            yield data
