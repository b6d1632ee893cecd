"""The identity of a member: one run of one node, reachable at one address.

Facts: chitchat's `ChitchatId`; all three parts together are the identity, and a node that starts
again takes a larger generation.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from functools import total_ordering
from ipaddress import IPv4Address, IPv6Address
from typing import Final, TypeAlias

IpAddress: TypeAlias = IPv4Address | IPv6Address

# What a datagram is sent to, and what it comes from: as in `socket.sendto`, an IPv6 source with
# its flow and scope.
Endpoint: TypeAlias = tuple[str, int] | tuple[str, int, int, int]

MAX_U16: Final = 0xFFFF
MAX_U64: Final = 0xFFFF_FFFF_FFFF_FFFF
_GENERATION_AND_TAG: Final = struct.Struct("<QB")
_LENGTH: Final = struct.Struct("<H")
# Octets of an address by its tag.
_OCTETS: Final = {4: 4, 6: 16}


class DecodeError(ValueError):
    """A datagram, or a part of one, is not what the protocol says it must be."""


@total_ordering
@dataclass(frozen=True, slots=True, eq=False)
class MemberId:
    """One run of one node.

    `generation` grows with each start (nanoseconds since 1970 in Quickwit). `raw` is the identity's
    encoding; it determines the identity, and is what maps inside this package are keyed by, since
    bytes hash faster than addresses do. Ordered by node id, generation, address (IPv4 before IPv6),
    port. Raise ValueError for a part that has no encoding.
    """

    node_id: str
    generation: int
    ip: IpAddress
    port: int
    raw: bytes = field(init=False, repr=False)

    def __post_init__(self) -> None:
        """Check the parts and encode them."""
        name = self.node_id.encode()
        if len(name) > MAX_U16:
            raise ValueError(f"node id has {len(name)} bytes; at most {MAX_U16} can be sent")
        if not 0 <= self.generation <= MAX_U64:
            raise ValueError(f"generation {self.generation} is not an unsigned 64-bit number")
        if not 0 <= self.port <= MAX_U16:
            raise ValueError(f"gossip port {self.port} is not between 0 and {MAX_U16}")
        if isinstance(self.ip, IPv6Address) and self.ip.scope_id is not None:
            raise ValueError("gossip address has a zone (%...); advertise one without")
        head = _LENGTH.pack(len(name)) + name
        tag = _GENERATION_AND_TAG.pack(self.generation, self.ip.version)
        raw = head + tag + self.ip.packed + _LENGTH.pack(self.port)
        object.__setattr__(self, "raw", raw)

    @classmethod
    def from_raw(cls, raw: bytes) -> MemberId:
        """Decode an identity that fills `raw`. Raise DecodeError if it does not."""
        try:
            end = 2 + _LENGTH.unpack_from(raw)[0]
            generation, tag = _GENERATION_AND_TAG.unpack_from(raw, end)
            octets = raw[end + 9 : -2]
            if len(octets) != _OCTETS.get(tag):
                raise DecodeError(f"member id of {len(raw)} bytes with address tag {tag}")
            ip = IPv4Address(octets) if tag == 4 else IPv6Address(octets)
            port = _LENGTH.unpack_from(raw, len(raw) - 2)[0]
            return cls(raw[2:end].decode(), generation, ip, port)
        except (struct.error, UnicodeDecodeError) as error:
            raise DecodeError(f"member id of {len(raw)} bytes is malformed: {error}") from error

    @property
    def address(self) -> str:
        """The advertised gossip address as text, `ip:port` or `[ip]:port`."""
        host = f"[{self.ip}]" if self.ip.version == 6 else str(self.ip)
        return f"{host}:{self.port}"

    @property
    def endpoint(self) -> tuple[str, int]:
        """The advertised gossip address, to send to."""
        return str(self.ip), self.port

    @property
    def sort_key(self) -> tuple[str, int, int, bytes, int]:
        """What identities are ordered by; code points order like their UTF-8 bytes."""
        return self.node_id, self.generation, self.ip.version, self.ip.packed, self.port

    def __eq__(self, other: object) -> bool:
        """Compare all parts."""
        return self.raw == other.raw if isinstance(other, MemberId) else NotImplemented

    def __lt__(self, other: MemberId) -> bool:
        """Order as digests are ordered."""
        return self.sort_key < other.sort_key

    def __hash__(self) -> int:
        """Agree with equality."""
        return hash(self.raw)
