"""Header fields: from a header block to names and values, and back.

Of the library `hpack` are the table that all peers know and the code of Huffman; its reader takes
several times as long as the one here. Ours are written without the compression's memory of earlier
blocks, so that one that is the same each time is made once.

Facts: RFC 7541; a literal that is not indexed, with its name and value as they are, may stand
anywhere; a change of the table's size only before all fields.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import hpack
from hpack.huffman_table import decode_huffman
from hpack.table import HeaderTable

Field = tuple[bytes, bytes]
Fields = list[Field]

# Blocks that are remembered, of so many bytes and fields at most.
_MOST_KNOWN: Final = 16
_SHORT_BLOCK: Final = 512
_FEW_FIELDS: Final = 32

# The indexed field `:status: 200` of the static table.
STATUS_200: Final = b"\x88"
# A block that begins so says that its writer remembers nothing of those before.
TABLE_SIZE_0: Final = b"\x20"

_TABLE_SIZE: Final = 4096
# What each entry counts for besides its bytes, in a table and in a list.
FIELD_OVERHEAD: Final = 32
_STATIC: Final[Sequence[Field]] = tuple((bytes(n), bytes(v)) for n, v in HeaderTable.STATIC_TABLE)
_DYNAMIC: Final = len(_STATIC) + 1
# A number that takes more bytes than these is larger than anything that it could count.
_LARGEST_SHIFT: Final = 28


class FieldsError(Exception):
    """A header block that cannot be read; nothing that follows on the connection can be."""

    def __init__(self, message: str, *, is_too_large: bool = False) -> None:
        super().__init__(message)
        self.is_too_large = is_too_large


class FieldReader:
    """Reads the header blocks of one connection, in their order. `limit` bounds each, in bytes.

    A caller's next block mostly is the same as its last. What one says depends on its bytes and on
    the table of fields that earlier ones left: so one that left the table as it was says the same
    again, and need not be read, until another block changes the table.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        # The latest first.
        self._table: Fields = []
        self._size = 0
        self._room = _TABLE_SIZE
        self._changes = 0
        self._known: dict[bytes, Sequence[Field]] = {}

    def read(self, block: bytes) -> Sequence[Field]:
        """Return the fields of a block. `FieldsError` when it is broken or too large.

        They are the same object as long as they are known to be the same fields.
        """
        known = self._known.get(block)
        if known is not None:
            return known
        changes = self._changes
        try:
            fields = tuple(self._read(block))
        except (hpack.HPACKError, IndexError, ValueError) as error:
            raise FieldsError("the header block cannot be decoded") from error
        if changes != self._changes:
            self._known.clear()
        elif len(block) <= _SHORT_BLOCK and len(fields) <= _FEW_FIELDS:
            if len(self._known) >= _MOST_KNOWN:
                self._known.clear()
            self._known[block] = fields
        return fields

    def _read(self, block: bytes) -> Fields:
        found: Fields = []
        position, end, size = 0, len(block), 0
        while position < end:
            kind = block[position]
            if kind & 0x80:
                index, position = _number(block, position, 0x7F)
                field = self._entry(index)
            elif kind & 0x60 == 0x20:
                if found:
                    raise ValueError("the size of the table changes behind a field")
                position = self._resize(block, position)
                continue
            else:
                is_kept = kind & 0x40
                index, position = _number(block, position, 0x3F if is_kept else 0x0F)
                if index:
                    name = self._entry(index)[0]
                else:
                    name, position = _text(block, position)
                # Most values are short and as they are: this spares them two calls.
                length = block[position]
                if length < 0x7F:
                    start = position + 1
                    position = start + length
                    value = block[start:position]
                    if position > end:
                        raise ValueError("a text is cut short")
                else:
                    value, position = _text(block, position)
                field = (name, value)
                if is_kept:
                    self._keep(field)
            found.append(field)
            size += len(field[0]) + len(field[1]) + FIELD_OVERHEAD
            if size > self._limit:
                raise FieldsError("the header fields are too large", is_too_large=True)
        return found

    def _entry(self, index: int) -> Field:
        if index >= _DYNAMIC:
            return self._table[index - _DYNAMIC]
        if index == 0:
            raise ValueError("there is no entry 0")
        return _STATIC[index - 1]

    def _resize(self, block: bytes, position: int) -> int:
        room, position = _number(block, position, 0x1F)
        if room > _TABLE_SIZE:
            raise ValueError("the table is to be larger than was agreed")
        self._room = room
        self._changes += 1
        self._make_room()
        return position

    def _keep(self, field: Field) -> None:
        self._changes += 1
        self._table.insert(0, field)
        self._size += len(field[0]) + len(field[1]) + FIELD_OVERHEAD
        self._make_room()

    def _make_room(self) -> None:
        while self._size > self._room:
            name, value = self._table.pop()
            self._size -= len(name) + len(value) + FIELD_OVERHEAD


def _number(block: bytes, position: int, mask: int) -> tuple[int, int]:
    """Return the number whose first bits are those of `mask`, and where it ends."""
    number = block[position] & mask
    position += 1
    if number < mask:
        return number, position
    shift = 0
    while True:
        byte = block[position]
        position += 1
        number += (byte & 0x7F) << shift
        if byte < 0x80:
            return number, position
        shift += 7
        if shift > _LARGEST_SHIFT:
            raise ValueError("a number is too large")


def _text(block: bytes, position: int) -> tuple[bytes, int]:
    """Return a text, and where it ends."""
    first = block[position]
    length, start = _number(block, position, 0x7F)
    end = start + length
    if end > len(block):
        raise ValueError("a text is cut short")
    text = block[start:end]
    return (decode_huffman(text) if first & 0x80 else text), end


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
