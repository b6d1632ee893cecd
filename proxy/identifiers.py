"""Identifiers of the metastore: ULIDs, index UIDs, and the rules that IDs and patterns follow.

Facts: an index UID is `<index_id>:<ULID>`; on the wire the ULID is 16 bytes, big-endian, and a
missing field is the nil ULID. Text is Crockford base32, 26 upper-case characters; lower case is
accepted, the aliases I, L, O and U are not.
"""

from __future__ import annotations

import os
import re
import time
from typing import Final

from proxy.errors import InvalidArgument
from proxy.proto.quickwit import common_pb2

_ALPHABET: Final = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
# Two characters at a time: half as many steps for a ULID.
_PAIRS: Final = [first + second for first in _ALPHABET for second in _ALPHABET]
_VALUES: Final = {char: value for value, char in enumerate(_ALPHABET)} | {
    char.lower(): value for value, char in enumerate(_ALPHABET)
}
_ULID_CHARS: Final = 26
_ULID_BYTES: Final = 16
MAX_IDENTIFIER_CHARS: Final = 255
# Enough of a wrong ID to recognise it, and short enough for the reason to fit beside it.
_SHOWN_CHARS: Final = 300
NIL_ULID: Final = "0" * _ULID_CHARS

_IDENTIFIER: Final = re.compile(r"[a-zA-Z][a-zA-Z0-9\-_.]{2,254}")
_INDEX_PATTERN: Final = re.compile(r"[a-zA-Z*][a-zA-Z0-9\-_.*]{0,254}")


def new_ulid() -> str:
    """Return a new random ULID: 48 bits of Unix milliseconds, 80 bits of randomness."""
    milliseconds = time.time_ns() // 1_000_000
    return encode_ulid(milliseconds.to_bytes(6, "big") + os.urandom(10))


def encode_ulid(raw: bytes) -> str:
    """Return the text of a ULID given as 16 big-endian bytes. `ValueError` on another length."""
    if len(raw) != _ULID_BYTES:
        raise ValueError(f"a ULID has {_ULID_BYTES} bytes, got {len(raw)}")
    number = int.from_bytes(raw, "big")
    return "".join([_PAIRS[(number >> shift) & 1023] for shift in range(120, -1, -10)])


def decode_ulid(text: str) -> bytes:
    """Return the 16 bytes of a ULID's text. `ValueError` if it is not one."""
    number = 0
    if len(text) != _ULID_CHARS:
        raise ValueError(f"a ULID has {_ULID_CHARS} characters, got {len(text)}")
    for char in text:
        value = _VALUES.get(char)
        if value is None:
            raise ValueError(f"{char!r} is not a character of a ULID")
        number = number << 5 | value
    if number >> 128:
        raise ValueError("the ULID is larger than 128 bits")
    return number.to_bytes(_ULID_BYTES, "big")


def index_uid_text(uid: common_pb2.IndexUid, field: str = "index_uid") -> str:
    """Return `<index_id>:<ULID>` for a UID from the wire.

    `InvalidArgument` naming `field` when the incarnation is neither absent nor 16 bytes, or when
    the index ID is empty, holds a `:`, or is longer than an index ID can be.
    """
    if len(uid.index_id) > MAX_IDENTIFIER_CHARS:
        raise InvalidArgument(
            f"field `{field}.index_id` must have at most {MAX_IDENTIFIER_CHARS} characters, "
            f"got {len(uid.index_id)}"
        )
    if not uid.index_id or ":" in uid.index_id:
        raise InvalidArgument(
            f"field `{field}.index_id` must be a non-empty ID without `:`, got {uid.index_id!r}"
        )
    return f"{uid.index_id}:{ulid_from_wire(uid.incarnation_id, f'{field}.incarnation_id')}"


def ulid_from_wire(raw: bytes, field: str) -> str:
    """Return the text of a ULID field; empty is nil. `InvalidArgument` on another length."""
    if not raw:
        return NIL_ULID
    if len(raw) != _ULID_BYTES:
        raise InvalidArgument(f"field `{field}` must be {_ULID_BYTES} bytes, got {len(raw)}")
    return encode_ulid(raw)


def index_uid_message(text: str) -> common_pb2.IndexUid:
    """Return the wire form of `<index_id>:<ULID>`. `ValueError` if the text is not an index UID."""
    index_id, colon, ulid = text.partition(":")
    if not colon or not index_id:
        raise ValueError(f"{text!r} is not an index UID (`<index_id>:<ULID>`)")
    return common_pb2.IndexUid(index_id=index_id, incarnation_id=decode_ulid(ulid))


def doc_mapping_uid_message(text: str) -> common_pb2.DocMappingUid:
    """Return the wire form of a doc mapping UID (a ULID). `ValueError` if it is not one."""
    return common_pb2.DocMappingUid(doc_mapping_uid=decode_ulid(text))


def identifier_problem(label: str, value: str) -> str | None:
    """Return why `value` is not a valid identifier, or None. `label` is `index`, `source`, ..."""
    if _IDENTIFIER.fullmatch(value):
        return None
    return (
        f"{label} ID `{value[:_SHOWN_CHARS]}` is invalid: identifiers must match the following "
        r"regular expression: `^[a-zA-Z][a-zA-Z0-9-_\.]{2,254}$`"
    )


def index_pattern_problem(pattern: str) -> str | None:
    """Return why an index ID pattern (without a leading `-`) is not valid, or None."""
    subject = f"index ID pattern `{pattern[:_SHOWN_CHARS]}` is invalid"
    if not _INDEX_PATTERN.fullmatch(pattern):
        return (
            f"{subject}: patterns must match the following regular expression: "
            r"`^[a-zA-Z\*][a-zA-Z0-9-_\.\*]{0,254}$`"
        )
    if "**" in pattern:
        return f"{subject}: patterns must not contain `**`"
    if "*" not in pattern and len(pattern) < 3:
        return f"{subject}: an index ID must have at least 3 characters"
    return None
