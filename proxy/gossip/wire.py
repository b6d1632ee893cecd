"""The primitives of the protocol: strings, identities, digests.

Facts: `serialize.rs` and `digest.rs` of chitchat: little-endian, fixed width, no alignment; a
string is its length in 16 bits and UTF-8. A digest has one entry for each member: identity,
heartbeat, last garbage-collected version, highest version.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from typing import Final, TypeAlias

from proxy.gossip.identity import MAX_U16, DecodeError

MAX_DATAGRAM: Final = 65_507

# Heartbeat, last garbage-collected version, highest version.
Summary: TypeAlias = tuple[int, int, int]
# By an identity's encoding.
Digest: TypeAlias = dict[bytes, Summary]
# What a digest says of a member that it does not name.
NOTHING: Final[Summary] = (0, 0, 0)

U16: Final = struct.Struct("<H")
U64: Final = struct.Struct("<Q")
TWO_U64: Final = struct.Struct("<QQ")
SUMMARY: Final = struct.Struct("<QQQ")

# Where the tag of an address is, but for the node id before it, and how much follows from there.
_TAG: Final = 10
_FROM_TAG: Final = {4: 7, 6: 19}
# A digest that names more members than this is no digest of a cluster.
MAX_ENTRIES: Final = 16_384


def id_end(data: bytes, at: int) -> int:
    """Return where the identity that starts at `at` ends, having checked it.

    Raise DecodeError, or IndexError and struct.error where `data` is too short to tell.
    """
    tag_at: int = at + _TAG + U16.unpack_from(data, at)[0]
    size = _FROM_TAG.get(data[tag_at])
    if size is None:
        raise DecodeError(f"address tag {data[tag_at]} is neither 4 nor 6")
    data[at + 2 : tag_at - 8].decode()
    return tag_at + size


def read_digest(data: bytes, at: int, count: int | None) -> tuple[Digest, int]:
    """Return `count` entries, or all up to the end of `data`, and where they end.

    The last of several entries for one identity wins. Raise DecodeError, IndexError, struct.error
    or UnicodeDecodeError.
    """
    digest: Digest = {}
    left, end = MAX_ENTRIES if count is None else min(count, MAX_ENTRIES), len(data)
    while left and (count is not None or at < end):
        stop = id_end(data, at)
        digest[data[at:stop]] = SUMMARY.unpack_from(data, stop)
        at = stop + 24
        left -= 1
    if left == 0 and (at < end if count is None else count > MAX_ENTRIES):
        raise DecodeError(f"digest has more than {MAX_ENTRIES} entries")
    return digest, at


def write_digest(entries: Iterable[tuple[bytes, Summary]]) -> list[bytes]:
    """Return the encoded entries, each on its own."""
    return [raw + SUMMARY.pack(*summary) for raw, summary in entries]


def read_string(data: bytes, at: int) -> tuple[str, int]:
    """Return a string and where it ends. Raise DecodeError, struct.error or UnicodeDecodeError."""
    start = at + 2
    end: int = start + U16.unpack_from(data, at)[0]
    if end > len(data):
        raise DecodeError(f"string of {end - start} bytes is cut short")
    return data[start:end].decode(), end


def write_string(text: str) -> bytes:
    """Encode a string. Raise ValueError if its length has no encoding."""
    encoded = text.encode()
    if len(encoded) > MAX_U16:
        raise ValueError(f"string has {len(encoded)} bytes; at most {MAX_U16} can be sent")
    return U16.pack(len(encoded)) + encoded
