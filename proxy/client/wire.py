"""From gRPC's failures to the metastore's errors.

Facts: the JSON of an error is externally tagged, in the binary trailing metadata `qw-error-bin`,
and counts whatever the status code says. Without it CANCELLED and DEADLINE_EXCEEDED become
`Timeout`, UNAVAILABLE becomes `Unavailable`, and every other code `Internal`. What cannot be
decoded becomes `Internal`, so that a newer server's variants stay retryable.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import grpc

from proxy import errors
from proxy.errors import Code, Entity, MetastoreError
from proxy.http2.answer import CallError

_UNDECODABLE: Final = (
    "failed to deserialize error returned from server "
    "(this can happen during rolling upgrades): {problem}"
)
_ENTITY_FIELDS: Final[dict[str, tuple[tuple[str, type], ...]]] = {
    "checkpoint_delta": (("index_id", str), ("source_id", str)),
    "index": (("index_id", str),),
    "indexes": (("index_ids", list),),
    "source": (("index_id", str), ("source_id", str)),
    "shard": (("queue_id", str),),
    "split": (("split_id", str),),
    "splits": (("split_ids", list),),
    "index_template": (("template_id", str),),
}


class _UndecodableError(Exception):
    """The JSON is not an error that this version knows."""


@dataclass(frozen=True, slots=True)
class Failure:
    """A failed attempt. `is_explicit` tells an error of the node from one of the transport."""

    error: MetastoreError
    code: Code
    is_explicit: bool = True
    cause: grpc.aio.AioRpcError | None = None


# Of the transport's own codes, those that another backend need not share. The others speak of the
# request (too large, not permitted) and would come back from everywhere.
_TRANSPORT_CODES: Final = frozenset(
    {
        Code.ABORTED,
        Code.CANCELLED,
        Code.DATA_LOSS,
        Code.DEADLINE_EXCEEDED,
        Code.INTERNAL,
        Code.UNAVAILABLE,
        Code.UNIMPLEMENTED,
        Code.UNKNOWN,
    }
)


def is_shed(failure: Failure) -> bool:
    """Tell whether the backend refused the call before any work, as one too many."""
    return isinstance(failure.error, errors.TooManyRequests)


def is_unsent(failure: Failure) -> bool:
    """Tell whether the call certainly never came to a handler of the backend.

    There was no connection, or the backend said that it had not looked at the call. Whatever else
    happens to a call counts as sent.
    """
    cause = failure.cause
    return not failure.is_explicit and isinstance(cause, CallError) and cause.is_unsent


def is_backend_failure(failure: Failure) -> bool:
    """Tell a failure of the backend, which another may not have, from an answer to the request."""
    if failure.is_explicit:
        return failure.error.is_retryable or is_shed(failure)
    return failure.code in _TRANSPORT_CODES


def read_failure(error: grpc.aio.AioRpcError) -> Failure:
    """Return what a failed call means. Never raises."""
    code = Code(error.code().value[0])
    for key, value in error.trailing_metadata() or ():
        if key == errors.ERROR_METADATA_KEY:
            raw = value if isinstance(value, bytes) else value.encode()
            return Failure(decode_error(raw), code, cause=error)
    message = error.details() or code.name.lower().replace("_", " ")
    return Failure(_without_detail(code, message), code, is_explicit=False, cause=error)


def _without_detail(code: Code, message: str) -> MetastoreError:
    if code in (Code.CANCELLED, Code.DEADLINE_EXCEEDED):
        return errors.Timeout(message)
    if code is Code.UNAVAILABLE:
        return errors.Unavailable(message)
    return errors.Internal(message)


def decode_error(raw: bytes) -> MetastoreError:
    """Return the error that `qw-error-bin` holds; `Internal` when it is none that is known."""
    try:
        return _variant(json.loads(raw))
    except (ValueError, RecursionError) as error:
        problem = f"not JSON: {error}"
    except _UndecodableError as error:
        problem = str(error)
    return errors.Internal(_UNDECODABLE.format(problem=problem))


def _variant(value: object) -> MetastoreError:
    name, content = (value, None) if isinstance(value, str) else _single(value, "an error")
    build = _VARIANTS.get(name)
    if build is None:
        raise _UndecodableError(f"unknown variant {name[:64]!r}")
    return build(content)


def _single(value: object, what: str) -> tuple[str, object]:
    if isinstance(value, dict) and len(value) == 1:
        ((name, content),) = value.items()
        return str(name), content
    raise _UndecodableError(f"{what} must be an object with one key")


def _get(content: object, key: str) -> object:
    if not isinstance(content, dict) or key not in content:
        raise _UndecodableError(f"field `{key}` is missing")
    return content[key]


def _text(content: object, key: str) -> str:
    return _as_text(_get(content, key), f"field `{key}`")


def _as_text(value: object, what: str) -> str:
    if not isinstance(value, str):
        raise _UndecodableError(f"{what} must be a string")
    return value


def _entity(value: object) -> Entity:
    kind, content = _single(value, "an entity")
    expected = _ENTITY_FIELDS.get(kind)
    if expected is None:
        raise _UndecodableError(f"unknown entity {kind[:64]!r}")
    found: list[tuple[str, str | tuple[str, ...]]] = []
    for key, kind_of_value in expected:
        item = _get(content, key)
        if kind_of_value is str:
            found.append((key, _as_text(item, f"field `{key}`")))
        elif isinstance(item, list):
            found.append((key, tuple(_as_text(entry, f"`{key}` entry") for entry in item)))
        else:
            raise _UndecodableError(f"field `{key}` must be a list")
    return Entity(kind, tuple(found))


def _too_many_requests(content: object) -> MetastoreError:
    if content is not None:
        raise _UndecodableError("`TooManyRequests` has no content")
    return errors.TooManyRequests()


_VARIANTS: Final[dict[str, Callable[[object], MetastoreError]]] = {
    "AlreadyExists": lambda content: errors.AlreadyExists(_entity(content)),
    "Connection": lambda content: errors.Connection(_text(content, "message")),
    "Db": lambda content: errors.Db(_text(content, "message")),
    "FailedPrecondition": lambda content: errors.FailedPrecondition(
        _entity(_get(content, "entity")), _text(content, "message")
    ),
    "Forbidden": lambda content: errors.Forbidden(_text(content, "message")),
    "Internal": lambda content: errors.Internal(_text(content, "message"), _text(content, "cause")),
    "InvalidArgument": lambda content: errors.InvalidArgument(_text(content, "message")),
    "InvalidPublishToken": lambda content: errors.InvalidPublishToken(_text(content, "queue_id")),
    "Io": lambda content: errors.Io(_text(content, "message")),
    "JsonDeserializeError": lambda content: errors.JsonDeserializeError(
        _text(content, "struct_name"), _text(content, "message")
    ),
    "JsonSerializeError": lambda content: errors.JsonSerializeError(
        _text(content, "struct_name"), _text(content, "message")
    ),
    "NotFound": lambda content: errors.NotFound(_entity(content)),
    "Timeout": lambda content: errors.Timeout(_as_text(content, "`Timeout`")),
    "TooManyRequests": _too_many_requests,
    "Unavailable": lambda content: errors.Unavailable(_as_text(content, "`Unavailable`")),
}
