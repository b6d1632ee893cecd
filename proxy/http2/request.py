"""The head of a call: what its header fields ask for.

Facts: RFC 9113, 8.2 and 8.3 say which fields make a request malformed; gRPC over HTTP/2, which ones
it has. A request of another content type is answered with status 415, of another method with 405.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from proxy.http2.faults import StreamFault
from proxy.http2.fields import FIELD_OVERHEAD
from proxy.http2.frames import ErrorCode
from proxy.http2.metadata import Metadata, Pair, read_pairs, read_timeout

_PSEUDO: Final = frozenset({b":method", b":scheme", b":path", b":authority"})
_OF_HTTP_1: Final = frozenset(
    {b"connection", b"proxy-connection", b"keep-alive", b"transfer-encoding", b"upgrade"}
)
_OF_NAMES: Final = b"abcdefghijklmnopqrstuvwxyz0123456789!#$%&'*+-.^_`|~"
_NEVER: Final = b"\0\r\n"
_GRPC: Final = b"application/grpc"


@dataclass(slots=True)
class Request:
    """A head that is well-formed; what may be wrong with it beyond that is in the last fields."""

    path: str
    metadata: Metadata
    timeout: float | None
    encoding: str
    content_length: int | None
    size: int
    http_status: int
    problem: str


def read_request(fields: Sequence[tuple[bytes, bytes]]) -> Request:
    """Return what a head says. `StreamFault` when it is malformed."""
    pseudo: dict[bytes, bytes] = {}
    own: dict[bytes, bytes] = {}
    pairs: list[Pair] = []
    size, problem = 0, ""
    for name, value in fields:
        size += len(name) + len(value) + FIELD_OVERHEAD
        if name[:1] == b":":
            if name not in _PSEUDO or name in pseudo or pairs or own:
                raise _malformed(f"the field {_shown(name)} cannot stand where it does")
            pseudo[name] = value
        elif name in _OWN:
            own[name] = value
        else:
            _check(name, value)
            try:
                pairs += read_pairs(name, value)
            except ValueError:
                problem = f"the metadata {_shown(name)} is malformed"
    method, path = pseudo.get(b":method", b""), pseudo.get(b":path", b"")
    if not (method and path and pseudo.get(b":scheme")):
        raise _malformed("`:method`, `:scheme` or `:path` is missing")
    if own.get(b"te", b"trailers") != b"trailers":
        raise _malformed("`te` must be trailers")
    timeout = None
    if (value := own.get(b"grpc-timeout", b"")) and (timeout := read_timeout(value)) is None:
        problem = f"the deadline `grpc-timeout` is malformed: {_shown(value)}"
    return Request(
        path.decode("latin-1"),
        tuple(pairs),
        timeout,
        own.get(b"grpc-encoding", b"identity").decode("latin-1"),
        _length(own.get(b"content-length")),
        size,
        _http_status(method, own.get(b"content-type", b"")),
        problem,
    )


_OWN: Final = frozenset(
    {
        b"te",
        b"content-type",
        b"content-length",
        b"grpc-timeout",
        b"grpc-encoding",
        b"grpc-accept-encoding",
    }
)


def _check(name: bytes, value: bytes) -> None:
    if name in _OF_HTTP_1 or not name or name.translate(None, _OF_NAMES):
        raise _malformed(f"the field {_shown(name)} is not of HTTP/2")
    if value.translate(None, _NEVER) != value:
        raise _malformed(f"the field {_shown(name)} has a line break or zero in it")


def _http_status(method: bytes, content_type: bytes) -> int:
    if method != b"POST":
        return 405
    is_grpc = content_type.startswith(_GRPC) and content_type[len(_GRPC) :][:1] in (b"", b"+", b";")
    return 200 if is_grpc else 415


def _length(value: bytes | None) -> int | None:
    if value is None:
        return None
    if not value.isdigit() or len(value) > 18:
        raise _malformed("`content-length` is not a number")
    return int(value)


def _malformed(text: str) -> StreamFault:
    return StreamFault(ErrorCode.PROTOCOL_ERROR, text)


def _shown(name: bytes) -> str:
    return repr(name[:64].decode("latin-1"))
