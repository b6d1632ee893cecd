"""From the bytes of a request to its message, or to an error that names the field at fault.

Facts: a peer's decoder refuses a field whose wire type is not that of its number. The library here
takes such a field for an unknown one and goes on without it, so that a list of another type would
read as an empty list. Fields with unknown numbers are what newer callers send: they are ignored.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, TypeVar, cast

from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import DecodeError, Message

from proxy.errors import InvalidArgument

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_WIRE_NAMES: Final = {
    _VARINT: "a varint",
    _FIXED64: "a 64-bit value",
    _BYTES: "a length-delimited value",
    _FIXED32: "a 32-bit value",
}
_LENGTHS: Final = {_FIXED64: 8, _FIXED32: 4}
_WIRE_TYPES: Final = {
    FieldDescriptor.TYPE_DOUBLE: _FIXED64,
    FieldDescriptor.TYPE_FLOAT: _FIXED32,
    FieldDescriptor.TYPE_FIXED64: _FIXED64,
    FieldDescriptor.TYPE_SFIXED64: _FIXED64,
    FieldDescriptor.TYPE_FIXED32: _FIXED32,
    FieldDescriptor.TYPE_SFIXED32: _FIXED32,
    FieldDescriptor.TYPE_STRING: _BYTES,
    FieldDescriptor.TYPE_BYTES: _BYTES,
    FieldDescriptor.TYPE_MESSAGE: _BYTES,
}

_M = TypeVar("_M", bound=Message)
# The number of a field, its wire type, and its content if that is a string of bytes.
_Field = tuple[int, int, bytes]


class _MalformedError(Exception):
    """The bytes are not those of a protobuf message; `number` is the field's, if it is known."""

    def __init__(self, reason: str, number: int | None = None) -> None:
        super().__init__(reason)
        self.number = number


def decode(message_class: type[_M], raw: bytes) -> _M:
    """Return the message of a request. `InvalidArgument` naming the field that is malformed."""
    descriptor = cast("Descriptor", message_class.DESCRIPTOR)
    try:
        message = message_class.FromString(raw)
    except DecodeError as error:
        problem = _problem(descriptor, raw, "") or str(error)
        raise _refused(descriptor, problem) from error
    found = _problem(descriptor, raw, "") if _had_unknown_fields(message) else None
    if found is not None:
        raise _refused(descriptor, found)
    return message


def _refused(descriptor: Descriptor, problem: str) -> InvalidArgument:
    return InvalidArgument(f"the request is not a {descriptor.full_name}: {problem}")


def _had_unknown_fields(message: Message) -> bool:
    """Whether a message has fields that are unknown here; it has none of them afterwards."""
    size = message.ByteSize()
    message.DiscardUnknownFields()
    return message.ByteSize() != size


def _problem(descriptor: Descriptor, raw: bytes, path: str) -> str | None:
    """Return what is wrong with the first bad field of a message, or None if none is found."""
    try:
        for number, wire_type, content in _fields(raw):
            field = descriptor.fields_by_number.get(number)
            if field is not None:
                problem = _field_problem(field, wire_type, content, f"{path}{field.name}")
                if problem is not None:
                    return problem
    except _MalformedError as error:
        field = descriptor.fields_by_number.get(error.number or 0)
        name = f"{path}{field.name}" if field is not None else path[:-1]
        return f"malformed protobuf{f' in field `{name}`' if name else ''}: {error}"
    return None


def _field_problem(field: FieldDescriptor, wire_type: int, content: bytes, name: str) -> str | None:
    expected = _WIRE_TYPES.get(field.type, _VARINT)
    is_packed = field.is_repeated and expected != _BYTES and wire_type == _BYTES
    if wire_type != expected and not is_packed:
        found = _WIRE_NAMES.get(wire_type, f"wire type {wire_type}")
        return f"field `{name}` is {found}, expected {_WIRE_NAMES[expected]}"
    if field.type == FieldDescriptor.TYPE_STRING:
        try:
            content.decode()
        except UnicodeDecodeError as error:
            return f"field `{name}` is a string that is not UTF-8: {error.reason}"
    if field.message_type is not None:
        return _problem(field.message_type, content, f"{name}.")
    return None


def _fields(raw: bytes) -> Iterator[_Field]:
    position = 0
    while position < len(raw):
        tag, position = _varint(raw, position, None)
        number, wire_type = tag >> 3, tag & 7
        content = b""
        if wire_type == _VARINT:
            _, position = _varint(raw, position, number)
        elif wire_type in _WIRE_NAMES:
            length = _LENGTHS.get(wire_type)
            if length is None:
                length, position = _varint(raw, position, number)
            content = raw[position : position + length]
            if len(content) < length:
                raise _MalformedError(f"it ends after {len(content)} of {length} bytes", number)
            position += length
        yield number, wire_type, content
        if wire_type not in _WIRE_NAMES:
            # Where a group ends is of no interest: no message of this service has one.
            return


def _varint(raw: bytes, position: int, number: int | None) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if position == len(raw):
            raise _MalformedError("the bytes end inside a number", number)
        byte = raw[position]
        value |= (byte & 0x7F) << shift
        position += 1
        if byte < 0x80:
            return value, position
    raise _MalformedError("a number has more than ten bytes", number)
