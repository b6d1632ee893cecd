"""Checks of request messages that come before any database access.

Facts: callers of the metastore always set the message fields that an RPC needs; a request
without one is answered with `InvalidArgument` (not retryable).
"""

from __future__ import annotations

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

from proxy import identifiers
from proxy.errors import InvalidArgument
from proxy.proto.quickwit import common_pb2


def required(message: Message, field: str) -> Message:
    """Return the sub-message `field`. `InvalidArgument` naming the field when it is absent."""
    if not message.HasField(field):
        raise InvalidArgument(f"field `{field}` is required")
    value = getattr(message, field)
    if not isinstance(value, Message):
        raise TypeError(f"field `{field}` is no message")
    return value


def required_index_uid(message: Message, field: str = "index_uid") -> str:
    """Return the text `<index_id>:<ULID>` of an index UID field.

    `InvalidArgument` naming the field when it is absent, its ID empty or its ULID malformed.
    """
    uid = required(message, field)
    if not isinstance(uid, common_pb2.IndexUid):
        raise TypeError(f"field `{field}` is no index UID")
    return identifiers.index_uid_text(uid, field)


def index_id_of(index_uid: str) -> str:
    """Return the index ID of a UID in text form."""
    return index_uid.partition(":")[0]


def refuse_nul(message: Message) -> None:
    """Check that no string of a request holds a NUL character: PostgreSQL cannot store one.

    `InvalidArgument` naming the field. JSON texts have their own reader, which says more, and a
    query AST is stored as JSON, where the character is escaped.
    """
    if b"\0" in message.SerializeToString():
        _refuse_nul(message, "")


def _refuse_nul(message: Message, path: str) -> None:
    for field, value in message.ListFields():
        name = f"{path}{field.name}"
        if field.type == FieldDescriptor.TYPE_MESSAGE:
            for item in value if field.is_repeated else (value,):
                _refuse_nul(item, f"{name}.")
        elif field.type == FieldDescriptor.TYPE_STRING and not (
            "json" in field.name or field.name == "query_ast"
        ):
            texts = value if field.is_repeated else (value,)
            if any("\0" in text for text in texts):
                raise InvalidArgument(f"field `{name}` holds a NUL character, remove it")


def check_length(text: str, maximum: int, field: str) -> str:
    """Return a text of at most `maximum` characters. `InvalidArgument` naming the field."""
    if len(text) > maximum:
        raise InvalidArgument(
            f"field `{field}` must have at most {maximum} characters, got {len(text)}"
        )
    return text
