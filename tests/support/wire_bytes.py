"""Protobuf by hand: one field of a valid message replaced by any bytes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message

VARINT, FIXED64, BYTES, GROUP, FIXED32 = 0, 1, 2, 3, 5

Path = tuple[FieldDescriptor, ...]


def varint(value: int) -> bytes:
    """Return a varint; a negative number as its 64-bit two's complement."""
    value &= 2**64 - 1
    raw = bytearray()
    while value > 0x7F:
        raw.append(value & 0x7F | 0x80)
        value >>= 7
    raw.append(value)
    return bytes(raw)


def tag(field: FieldDescriptor, wire_type: int) -> bytes:
    """Return the tag of a field with any wire type."""
    return varint(field.number << 3 | wire_type)


def delimited(field: FieldDescriptor, content: bytes) -> bytes:
    """Return a length-delimited field."""
    return tag(field, BYTES) + varint(len(content)) + content


def number(field: FieldDescriptor, value: int) -> bytes:
    """Return a varint field."""
    return tag(field, VARINT) + varint(value)


def paths(descriptor: Descriptor, before: Path = ()) -> Iterator[Path]:
    """Yield the way to each field of a message, those of nested messages included."""
    for field in descriptor.fields:
        yield (*before, field)
        if field.message_type is not None:
            yield from paths(field.message_type, (*before, field))


def dotted(path: Path) -> str:
    """Return the name of a field with those of the messages around it."""
    return ".".join(field.name for field in path)


def child(message: Any, field: FieldDescriptor) -> Any:
    """Return the value of a field, of a repeated one the first element."""
    value = getattr(message, field.name)
    return value[0] if field.is_repeated else value


def value_at(message: Any, path: Sequence[FieldDescriptor]) -> Any:
    """Return the value at the end of a way, of repeated fields the first element."""
    for field in path:
        message = child(message, field)
    return message


def replaced(message: Message, path: Path, raw: bytes) -> bytes:
    """Return the bytes of a message with those of one field replaced, all others kept."""
    field, *inner = path
    if inner:
        raw = delimited(field, replaced(child(message, field), tuple(inner), raw))
    rest = type(message)()
    rest.CopyFrom(message)
    rest.ClearField(field.name)
    return rest.SerializeToString() + raw
