"""The four messages, and the delta: what a member tells another of the states it holds.

Facts: `message.rs` and `delta.rs` of chitchat. A delta is a stream of operations: one that names a
member, followed by that member's keys in the order of their versions, or by its highest version
where there are none to send. Sending both has made receivers of chitchat 0.13 fail; we never do.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Final, NamedTuple, TypeAlias

from proxy.gossip.blocks import BlockCodec
from proxy.gossip.identity import MAX_U16, DecodeError
from proxy.gossip.wire import (
    TWO_U64,
    U16,
    U64,
    Digest,
    id_end,
    read_digest,
    read_string,
    write_digest,
    write_string,
)

MAGIC: Final = 0xB053
VERSIONS: Final = (0, 1)
# No delta of a cluster comes near this; it bounds the time that one datagram can take.
MAX_OPERATIONS: Final = 65_536

_HEADER: Final = struct.Struct("<HBB")
_VERSION_AND_STATUS: Final = struct.Struct("<QB")
_NODE, _RECORD, _MAX_VERSION = 0, 1, 2
EMPTY_STREAM: Final = b"\0"


class MessageKind(IntEnum):
    """What a message is, by its code."""

    SYN = 0
    SYN_ACK = 1
    ACK = 2
    BAD_CLUSTER = 3


class KeyRecord(NamedTuple):
    """The last write of a key. `status`: 0 set, 1 deleted, 2 set and to be deleted in a while."""

    key: str
    value: str
    version: int
    status: int

    @property
    def is_visible(self) -> bool:
        """Whether a reader sees the key."""
        return self.status != DELETED


SET, DELETED, EXPIRING = 0, 1, 2


@dataclass(slots=True)
class NodeDelta:
    """Writes of one member: each one with a version above `from_version`, up to `max_version`.

    The sender may have dropped deleted keys with versions up to `last_gc_version`.
    """

    raw: bytes
    last_gc_version: int
    from_version: int
    max_version: int = 0
    records: list[KeyRecord] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Syn:
    """The question: what the asking member knows, in short."""

    version: int
    digest: Digest
    cluster_id: str


@dataclass(frozen=True, slots=True)
class SynAck:
    """The answer: what the asking member lacks, and what the answering one knows, in short."""

    version: int
    digest: Digest
    delta: Sequence[NodeDelta]


@dataclass(frozen=True, slots=True)
class Ack:
    """The end of an exchange: what the answering member lacks."""

    version: int
    delta: Sequence[NodeDelta]


@dataclass(frozen=True, slots=True)
class BadCluster:
    """The refusal of a question from another cluster."""

    version: int


Message: TypeAlias = Syn | SynAck | Ack | BadCluster


def header(version: int, kind: MessageKind) -> bytes:
    """Return the four bytes that every message begins with."""
    return _HEADER.pack(MAGIC, version, kind)


def encode(message: Message, codec: BlockCodec) -> bytes:
    """Encode a message, whatever its length. Digests are written in the order they have."""
    match message:
        case Syn(version, digest, cluster_id):
            body = encode_digest(digest, version, codec) + write_string(cluster_id)
            return header(version, MessageKind.SYN) + body
        case SynAck(version, digest, delta):
            body = encode_digest(digest, version, codec) + encode_delta(delta, codec)
            return header(version, MessageKind.SYN_ACK) + body
        case Ack(version, delta):
            return header(version, MessageKind.ACK) + encode_delta(delta, codec)
        case BadCluster(version):
            return header(version, MessageKind.BAD_CLUSTER)


def encode_digest(digest: Digest, version: int, codec: BlockCodec) -> bytes:
    """Encode a digest as the protocol version has it. Raise ValueError past 65,535 entries."""
    return join_digest(write_digest(digest.items()), version, codec)


def join_digest(entries: Sequence[bytes], version: int, codec: BlockCodec) -> bytes:
    """Return the digest with these encoded entries. Raise ValueError past 65,535 entries."""
    if version == 1:
        return codec.write(b"".join(entries))
    if len(entries) > MAX_U16:
        raise ValueError(f"digest has {len(entries)} entries; at most {MAX_U16} can be sent")
    return U16.pack(len(entries)) + b"".join(entries)


def encode_delta(delta: Iterable[NodeDelta], codec: BlockCodec) -> bytes:
    """Encode a delta, whatever its length."""
    return codec.write(b"".join(b"".join(operations(node)) for node in delta))


def operations(node: NodeDelta) -> list[bytes]:
    """Return the encoded operations of one member's part of a delta."""
    head = node_operation(node.raw, node.last_gc_version, node.from_version)
    if node.records:
        return [head, *map(record_operation, node.records)]
    return [head, max_version_operation(node.max_version)] if node.max_version else [head]


def node_operation(raw: bytes, last_gc_version: int, from_version: int) -> bytes:
    """Return the operation that names a member."""
    return b"\0" + raw + TWO_U64.pack(last_gc_version, from_version)


def record_operation(record: KeyRecord) -> bytes:
    """Return the operation that sets or deletes a key."""
    tail = _VERSION_AND_STATUS.pack(record.version, record.status)
    return b"\1" + write_string(record.key) + write_string(record.value) + tail


def max_version_operation(version: int) -> bytes:
    """Return the operation that states a member's highest version."""
    return b"\2" + U64.pack(version)


def decode(data: bytes, codec: BlockCodec) -> Message:
    """Decode a datagram. What follows a complete message is ignored.

    Raise DecodeError, and nothing else, for any bytes that are no message.
    """
    try:
        return _decode(data, codec)
    except (IndexError, struct.error) as error:
        raise DecodeError(f"datagram of {len(data)} bytes is cut short") from error
    except UnicodeDecodeError as error:
        raise DecodeError(f"datagram has text that is not UTF-8: {error.reason}") from error


def _decode(data: bytes, codec: BlockCodec) -> Message:
    magic, version, kind = _HEADER.unpack_from(data)
    if magic != MAGIC:
        raise DecodeError(f"datagram begins with {magic:#06x}, not with {MAGIC:#06x}")
    if version not in VERSIONS:
        raise DecodeError(f"protocol version {version} is neither 0 nor 1")
    if kind == MessageKind.ACK:
        return Ack(version, decode_delta(codec.read(data, 4)[0]))
    if kind == MessageKind.BAD_CLUSTER:
        return BadCluster(version)
    if kind not in (MessageKind.SYN, MessageKind.SYN_ACK):
        raise DecodeError(f"message type {kind} is none of 0 to 3")
    if version == 0:
        digest, at = read_digest(data, 6, U16.unpack_from(data, 4)[0])
    else:
        content, at = codec.read(data, 4)
        digest, _ = read_digest(content, 0, None)
    if kind == MessageKind.SYN:
        return Syn(version, digest, read_string(data, at)[0])
    return SynAck(version, digest, decode_delta(codec.read(data, at)[0]))


def decode_delta(content: bytes) -> list[NodeDelta]:
    """Decode the operations of a delta.

    Raise DecodeError, IndexError, struct.error or UnicodeDecodeError. A member that is named twice
    and versions that do not increase are errors, as in chitchat.
    """
    nodes: dict[bytes, NodeDelta] = {}
    node: NodeDelta | None = None
    at, end, left = 0, len(content), MAX_OPERATIONS
    while at < end:
        tag = content[at]
        left -= 1
        if left < 0:
            raise DecodeError(f"delta has more than {MAX_OPERATIONS} operations")
        if tag == _NODE:
            stop = id_end(content, at + 1)
            raw = content[at + 1 : stop]
            if raw in nodes:
                raise DecodeError("delta names a member twice")
            node = nodes[raw] = NodeDelta(raw, *TWO_U64.unpack_from(content, stop))
            at = stop + 16
        elif node is None:
            raise DecodeError(f"delta begins with operation {tag}, not with a member")
        elif tag == _RECORD:
            at = _read_record(content, at + 1, node)
        elif tag == _MAX_VERSION:
            (version,) = U64.unpack_from(content, at + 1)
            if version < node.max_version:
                raise DecodeError("delta states a highest version below that of a key")
            node.max_version = version
            at += 9
        else:
            raise DecodeError(f"delta operation {tag} is none of 0, 1 and 2")
    return list(nodes.values())


def _read_record(content: bytes, at: int, node: NodeDelta) -> int:
    """Append a key to a member's part of a delta; return where it ends."""
    key, at = read_string(content, at)
    value, at = read_string(content, at)
    version, status = _VERSION_AND_STATUS.unpack_from(content, at)
    if status > EXPIRING:
        raise DecodeError(f"status {status} of a key is none of 0, 1 and 2")
    if version <= node.max_version:
        raise DecodeError("versions of a member's keys do not increase")
    node.max_version = version
    node.records.append(KeyRecord(key, value, version, status))
    return at + 9
