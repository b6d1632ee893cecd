"""Checks of request messages that come before any database access.

Facts: callers of the metastore always set the message fields that an RPC needs; a request
without one is answered with `InvalidArgument` (not retryable).
"""

from __future__ import annotations

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
