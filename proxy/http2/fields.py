"""Header fields: from a header block to names and values, and back.

Blocks are read by the library `hpack`. Ours are written without the compression's memory of earlier
blocks, so that one that is the same each time is made once.

Facts: RFC 7541; a literal that is not indexed, with its name and value as they are, may stand
anywhere.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import hpack

Fields = list[tuple[bytes, bytes]]

# The indexed field `:status: 200` of the static table.
STATUS_200: Final = b"\x88"
# A block that begins so says that its writer remembers nothing of those before.
TABLE_SIZE_0: Final = b"\x20"


class FieldsError(Exception):
    """A header block that cannot be read; nothing that follows on the connection can be."""

    def __init__(self, message: str, *, is_too_large: bool = False) -> None:
        super().__init__(message)
        self.is_too_large = is_too_large


class FieldReader:
    """Reads the header blocks of one connection, in their order. `limit` bounds each, in bytes."""

    def __init__(self, limit: int) -> None:
        self._decode = hpack.Decoder(limit).decode

    def read(self, block: bytes) -> Sequence[tuple[bytes, bytes]]:
        """Return the fields of a block. `FieldsError` when it is broken or too large."""
        try:
            return list(self._decode(block, raw=True))
        except hpack.OversizedHeaderListError as error:
            raise FieldsError("the header fields are too large", is_too_large=True) from error
        # The library lets some faults of what it reads through as they come.
        except (hpack.HPACKError, IndexError, ValueError) as error:
            raise FieldsError("the header block cannot be decoded") from error


def literal(name: bytes, value: bytes) -> bytes:
    """Return a field that is not indexed, its name and value as they are."""
    return b"\x00" + _string(name) + _string(value)


def _string(text: bytes) -> bytes:
    size = len(text)
    if size < 0x7F:
        return bytes((size,)) + text
    rest, prefix = size - 0x7F, bytearray(b"\x7f")
    while rest > 0x7F:
        prefix.append(rest & 0x7F | 0x80)
        rest >>= 7
    prefix.append(rest)
    return bytes(prefix) + text
