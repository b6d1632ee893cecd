"""What comes back from a call: the fields of its answer, its status, and why it failed.

Facts: gRPC over HTTP/2, "Responses" and "Errors"; `doc/http-grpc-status-mapping.md` of gRPC: what
an answer means that has no `grpc-status`.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

import grpc

from proxy.http2 import metadata
from proxy.http2.faults import StreamFault
from proxy.http2.fields import FIELD_OVERHEAD
from proxy.http2.frames import ErrorCode
from proxy.http2.metadata import Metadata, Pair, read_pairs

_CODES: Final = {code.value[0]: code for code in grpc.StatusCode}
_OF_HTTP: Final = {
    400: grpc.StatusCode.INTERNAL,
    401: grpc.StatusCode.UNAUTHENTICATED,
    403: grpc.StatusCode.PERMISSION_DENIED,
    404: grpc.StatusCode.UNIMPLEMENTED,
    429: grpc.StatusCode.UNAVAILABLE,
    502: grpc.StatusCode.UNAVAILABLE,
    503: grpc.StatusCode.UNAVAILABLE,
    504: grpc.StatusCode.UNAVAILABLE,
}
_OF_RESETS: Final = {
    int(ErrorCode.STREAM_CLOSED): grpc.StatusCode.UNKNOWN,
    int(ErrorCode.REFUSED_STREAM): grpc.StatusCode.UNAVAILABLE,
    int(ErrorCode.CANCEL): grpc.StatusCode.CANCELLED,
    int(ErrorCode.ENHANCE_YOUR_CALM): grpc.StatusCode.RESOURCE_EXHAUSTED,
    int(ErrorCode.INADEQUATE_SECURITY): grpc.StatusCode.PERMISSION_DENIED,
}
# Of the transport, and not metadata of the call.
_OWN: Final = frozenset(
    {
        b":status",
        b"content-type",
        b"content-length",
        b"grpc-encoding",
        b"grpc-accept-encoding",
        b"grpc-status",
        b"grpc-message",
    }
)


class CallError(grpc.aio.AioRpcError):
    """A call that failed. `is_unsent` tells that it certainly never came to a handler.

    Then it may be made again, whatever it does: it found no connection, or the peer said that it
    has not looked at it.
    """

    def __init__(
        self,
        code: grpc.StatusCode,
        details: str,
        *,
        initial: Metadata = (),
        trailing: Metadata = (),
        is_unsent: bool = False,
    ) -> None:
        super().__init__(
            code, grpc.aio.Metadata(*initial), grpc.aio.Metadata(*trailing), details=details
        )
        self.is_unsent = is_unsent


class Fields:
    """A block of fields of an answer: those of the transport by name, and the metadata."""

    __slots__ = ("metadata", "own", "size")

    def __init__(self, fields: Iterable[tuple[bytes, bytes]]) -> None:
        self.own: dict[bytes, bytes] = {}
        pairs: list[Pair] = []
        self.size = 0
        for name, value in fields:
            self.size += len(name) + len(value) + FIELD_OVERHEAD
            if name in _OWN:
                self.own[name] = value
            elif not name or name[:1] == b":" or name != name.lower():
                raise StreamFault(ErrorCode.PROTOCOL_ERROR, "a field of the answer is malformed")
            else:
                try:
                    pairs += read_pairs(name, value)
                except ValueError as error:
                    text = f"the metadata {name[:64]!r} of the answer is malformed"
                    raise StreamFault(ErrorCode.PROTOCOL_ERROR, text) from error
        self.metadata: Metadata = tuple(pairs)


def refusal_of_head(head: Fields) -> tuple[grpc.StatusCode, str] | None:
    """Return why the answer is none of gRPC; None when it is one."""
    status = head.own.get(b":status", b"")
    if status != b"200":
        if not status.isdigit() or len(status) != 3:
            return grpc.StatusCode.INTERNAL, "the answer has no status of HTTP"
        code = _OF_HTTP.get(int(status), grpc.StatusCode.UNKNOWN)
        return code, f"the peer answered with HTTP status {status.decode()}"
    kind = head.own.get(b"content-type", b"")
    if not kind.startswith(b"application/grpc"):
        shown = kind[:64].decode("latin-1")
        return grpc.StatusCode.UNKNOWN, f"the peer's answer is not gRPC, but {shown!r}"
    return None


def read_status(own: dict[bytes, bytes]) -> tuple[grpc.StatusCode, str]:
    """Return the status that an answer ends with."""
    status = own.get(b"grpc-status")
    if status is None:
        return grpc.StatusCode.UNKNOWN, "the answer has no `grpc-status`"
    if status == b"0":
        return grpc.StatusCode.OK, ""
    text = metadata.read_text(own.get(b"grpc-message", b""))
    code = _CODES.get(int(status)) if status.isdigit() and len(status) < 4 else None
    if code is None:
        shown = status[:16].decode("latin-1")
        return grpc.StatusCode.UNKNOWN, text or f"the answer has the unknown status {shown!r}"
    return code, text


def code_of_reset(code: int) -> grpc.StatusCode:
    """Return what the code of a stream's reset means for its call."""
    return _OF_RESETS.get(code, grpc.StatusCode.INTERNAL)
