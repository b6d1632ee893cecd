"""The metastore's errors, their gRPC status and their wire form.

Facts: the variants, messages and codes are those of Quickwit's `MetastoreError`; a failed call
carries the gRPC code and message plus the compact JSON of the error in the binary trailing
metadata key `qw-error-bin`.

The tree::

    MetastoreError
    ├── AlreadyExists(entity)                 ALREADY_EXISTS
    ├── Connection(message)                   INTERNAL            retryable, outcome unknown
    ├── Db(message)                           INTERNAL            retryable, outcome unknown
    ├── FailedPrecondition(entity, message)   INVALID_ARGUMENT
    ├── Forbidden(message)                    PERMISSION_DENIED
    ├── Internal(message, cause)              INTERNAL            retryable, outcome unknown
    ├── InvalidArgument(message)              INVALID_ARGUMENT
    ├── InvalidPublishToken(queue_id)         INVALID_ARGUMENT
    ├── Io(message)                           INTERNAL            retryable, outcome unknown
    ├── JsonDeserializeError(struct, message) INTERNAL
    ├── JsonSerializeError(struct, message)   INTERNAL
    ├── NotFound(entity)                      NOT_FOUND
    ├── Timeout(message)                      DEADLINE_EXCEEDED   retryable, outcome unknown
    ├── TooManyRequests()                     RESOURCE_EXHAUSTED
    └── Unavailable(message)                  UNAVAILABLE         retryable, outcome unknown

"Outcome unknown" means that a write may have happened: `is_certainly_aborted` is False. Retries
read `is_retryable` and `is_certainly_aborted`, never a message text.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import ClassVar, Final

ERROR_METADATA_KEY: Final = "qw-error-bin"

# Peers limit the size of all trailing metadata (8 KiB in the gRPC core, 16 KiB in hyper), and an
# answer over the limit is lost whole. Texts and ID lists, which travel as base64 and in the status
# besides, are cut so that an error always arrives.
MAX_TEXT_BYTES: Final = 1024
MAX_IDS_BYTES: Final = 1024


class Code(IntEnum):
    """gRPC status codes by number, so that pure modules need no grpc import."""

    OK = 0
    CANCELLED = 1
    UNKNOWN = 2
    INVALID_ARGUMENT = 3
    DEADLINE_EXCEEDED = 4
    NOT_FOUND = 5
    ALREADY_EXISTS = 6
    PERMISSION_DENIED = 7
    RESOURCE_EXHAUSTED = 8
    FAILED_PRECONDITION = 9
    ABORTED = 10
    OUT_OF_RANGE = 11
    UNIMPLEMENTED = 12
    INTERNAL = 13
    UNAVAILABLE = 14
    DATA_LOSS = 15
    UNAUTHENTICATED = 16


def _cut_text(text: str, limit: int = MAX_TEXT_BYTES) -> str:
    raw = text.encode("utf-8", "replace")
    kept = raw[:limit].decode("utf-8", "ignore")
    # Control characters are six bytes each in JSON.
    while len(json.dumps(kept, ensure_ascii=False)) > 2 * limit:
        kept = kept[: len(kept) // 2]
    size = len(kept.encode())
    return kept if size == len(raw) else f"{kept}... ({len(raw)} bytes)"


def _cut_ids(ids: Sequence[str]) -> list[str]:
    kept: list[str] = []
    used = 0
    for position, item in enumerate(ids):
        used += len(item.encode("utf-8", "replace")) + 4
        if used > MAX_IDS_BYTES:
            kept.append(f"... and {len(ids) - position} more")
            break
        kept.append(item)
    return kept


@dataclass(frozen=True)
class Entity:
    """What an error is about: a kind (Quickwit's snake_case tag) and its identifying fields.

    Build one with the functions below (`index`, `source`, `splits`, ...).
    """

    kind: str
    fields: tuple[tuple[str, str | tuple[str, ...]], ...]

    def as_json(self) -> dict[str, dict[str, str | list[str]]]:
        """Return the externally tagged JSON value, ID lists cut to what fits on the wire."""
        return {
            self.kind: {
                key: _cut_text(value) if isinstance(value, str) else _cut_ids(value)
                for key, value in self.fields
            }
        }

    def __str__(self) -> str:
        values = [
            _cut_text(value) if isinstance(value, str) else ", ".join(_cut_ids(value))
            for _, value in self.fields
        ]
        return f"{self.kind.replace('_', ' ')} `{'/'.join(values)}`"


def index(index_id: str) -> Entity:
    """Name one index by its ID."""
    return Entity("index", (("index_id", index_id),))


def indexes(index_ids: Sequence[str]) -> Entity:
    """Name several indexes by their IDs."""
    return Entity("indexes", (("index_ids", tuple(index_ids)),))


def source(index_id: str, source_id: str) -> Entity:
    """Name one source of an index."""
    return Entity("source", (("index_id", index_id), ("source_id", source_id)))


def shard(queue_id: str) -> Entity:
    """Name one shard by its queue ID (`<index_uid>/<source_id>/<shard_id>`)."""
    return Entity("shard", (("queue_id", queue_id),))


def split(split_id: str) -> Entity:
    """Name one split."""
    return Entity("split", (("split_id", split_id),))


def splits(split_ids: Sequence[str]) -> Entity:
    """Name several splits."""
    return Entity("splits", (("split_ids", tuple(split_ids)),))


def index_template(template_id: str) -> Entity:
    """Name one index template."""
    return Entity("index_template", (("template_id", template_id),))


def checkpoint_delta(index_id: str, source_id: str) -> Entity:
    """Name the checkpoint delta that a publish request carried for a source."""
    return Entity("checkpoint_delta", (("index_id", index_id), ("source_id", source_id)))


class MetastoreError(Exception):
    """Base of all errors that reach a caller of the metastore. Never raised itself."""

    variant: ClassVar[str]
    code: ClassVar[Code]
    is_retryable: ClassVar[bool] = False
    is_certainly_aborted: ClassVar[bool] = True

    def payload(self) -> object:
        """Return the JSON value of the error, externally tagged by its variant."""
        raise NotImplementedError  # pragma: no cover

    def to_json(self) -> bytes:
        """Return the bytes of the `qw-error-bin` metadata value (compact JSON, UTF-8)."""
        return json.dumps(self.payload(), ensure_ascii=False, separators=(",", ":")).encode()


class _EntityError(MetastoreError):
    def __init__(self, entity: Entity) -> None:
        super().__init__(entity)
        self.entity = entity

    def payload(self) -> object:
        return {self.variant: self.entity.as_json()}


class AlreadyExists(_EntityError):
    """The entity to create is already there."""

    variant = "AlreadyExists"
    code = Code.ALREADY_EXISTS

    def __str__(self) -> str:
        return f"{self.entity} already exist(s)"


class NotFound(_EntityError):
    """The named entity does not exist (or only another incarnation of it does)."""

    variant = "NotFound"
    code = Code.NOT_FOUND

    def __str__(self) -> str:
        return f"{self.entity} not found"


class FailedPrecondition(MetastoreError):
    """The entity exists but is in a state that does not allow the operation."""

    variant = "FailedPrecondition"
    code = Code.INVALID_ARGUMENT

    def __init__(self, entity: Entity, message: str) -> None:
        super().__init__(entity, message)
        self.entity = entity
        self.message = _cut_text(message)

    def payload(self) -> object:
        return {self.variant: {"entity": self.entity.as_json(), "message": self.message}}

    def __str__(self) -> str:
        return f"precondition failed for {self.entity}: {self.message}"


class _MessageError(MetastoreError):
    prefix: ClassVar[str]

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = _cut_text(message)

    def payload(self) -> object:
        return {self.variant: {"message": self.message}}

    def __str__(self) -> str:
        return f"{self.prefix}: {self.message}"


class Connection(_MessageError):
    """The database could not be reached when the pool was opened."""

    variant = "Connection"
    code = Code.INTERNAL
    prefix = "connection error"
    is_retryable = True
    is_certainly_aborted = False


class Db(_MessageError):
    """The database answered with an error that has no variant of its own."""

    variant = "Db"
    code = Code.INTERNAL
    prefix = "database error"
    is_retryable = True
    is_certainly_aborted = False


class Forbidden(_MessageError):
    """A write was sent to a node or database session that only reads."""

    variant = "Forbidden"
    code = Code.PERMISSION_DENIED
    prefix = "access forbidden"


class InvalidArgument(_MessageError):
    """The request is wrong in itself; sending it again cannot help."""

    variant = "InvalidArgument"
    code = Code.INVALID_ARGUMENT
    prefix = "invalid argument"


class Io(_MessageError):
    """An input or output operation failed."""

    variant = "Io"
    code = Code.INTERNAL
    prefix = "IO error"
    is_retryable = True
    is_certainly_aborted = False


class Internal(MetastoreError):
    """Something failed that is not the caller's doing."""

    variant = "Internal"
    code = Code.INTERNAL
    is_retryable = True
    is_certainly_aborted = False

    def __init__(self, message: str, cause: str = "") -> None:
        super().__init__(message, cause)
        self.message = _cut_text(message)
        self.cause = _cut_text(cause)

    def payload(self) -> object:
        return {self.variant: {"message": self.message, "cause": self.cause}}

    def __str__(self) -> str:
        return f"internal error: {self.message}; cause: `{self.cause}`"


class InvalidPublishToken(MetastoreError):
    """The publish token presented is not the one that owns the shard."""

    variant = "InvalidPublishToken"
    code = Code.INVALID_ARGUMENT

    def __init__(self, queue_id: str) -> None:
        super().__init__(queue_id)
        self.queue_id = _cut_text(queue_id)

    def payload(self) -> object:
        return {self.variant: {"queue_id": self.queue_id}}

    def __str__(self) -> str:
        return f"invalid publish token for shard `{self.queue_id}`"


class _JsonError(MetastoreError):
    action: ClassVar[str]
    code = Code.INTERNAL

    def __init__(self, struct_name: str, message: str) -> None:
        super().__init__(struct_name, message)
        self.struct_name = struct_name
        self.message = _cut_text(message)

    def payload(self) -> object:
        return {self.variant: {"struct_name": self.struct_name, "message": self.message}}

    def __str__(self) -> str:
        before, after = self.action.split()
        return f"failed to {before} `{self.struct_name}` {after} JSON: {self.message}"


class JsonDeserializeError(_JsonError):
    """A JSON document (in a request, or stored) does not have the form it must have."""

    variant = "JsonDeserializeError"
    action = "deserialize from"


class JsonSerializeError(_JsonError):
    """A document could not be written as JSON."""

    variant = "JsonSerializeError"
    action = "serialize to"


class _TextError(MetastoreError):
    """A variant whose JSON holds the message directly."""

    prefix: ClassVar[str]
    is_retryable = True
    is_certainly_aborted = False

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = _cut_text(message)

    def payload(self) -> object:
        return {self.variant: self.message}

    def __str__(self) -> str:
        return f"{self.prefix}: {self.message}"


class Timeout(_TextError):
    """The call did not finish in time."""

    variant = "Timeout"
    code = Code.DEADLINE_EXCEEDED
    prefix = "request timed out"


class Unavailable(_TextError):
    """Nobody is there to serve the call now."""

    variant = "Unavailable"
    code = Code.UNAVAILABLE
    prefix = "service unavailable"


class TooManyRequests(MetastoreError):
    """The call was shed before any work was done for it."""

    variant = "TooManyRequests"
    code = Code.RESOURCE_EXHAUSTED

    def payload(self) -> object:
        return self.variant

    def __str__(self) -> str:
        return "too many requests"
