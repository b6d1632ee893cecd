"""The messages in a stream of gRPC: each is preceded by a flag and its length.

Facts: gRPC over HTTP/2, "Length-Prefixed-Message". A message may be split over frames in any way,
and a frame may hold several.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable, Iterator
from typing import Final

_PREFIX: Final = struct.Struct("!BI")
_PREFIX_SIZE: Final = 5

# By `grpc-encoding`: what `zlib` calls the format.
_FORMATS: Final = {"gzip": 16 + zlib.MAX_WBITS, "deflate": zlib.MAX_WBITS}
ACCEPTED: Final = b"identity,deflate,gzip"


class MessageError(Exception):
    """A message that cannot be taken."""

    def __init__(self, message: str, *, is_too_large: bool = False) -> None:
        super().__init__(message)
        self.is_too_large = is_too_large


def prefix(message: bytes) -> bytes:
    """Return what precedes a message that is not compressed."""
    return _PREFIX.pack(0, len(message))


def only_message(data: bytes) -> bytes | None:
    """Return the message of a body that is one whole message, as it is; None for any other."""
    if len(data) < _PREFIX_SIZE:
        return None
    flag, size = _PREFIX.unpack_from(data)
    return data[_PREFIX_SIZE:] if flag == 0 and size == len(data) - _PREFIX_SIZE else None


def is_known(encoding: str) -> bool:
    """Tell whether messages of an encoding can be read."""
    return encoding == "identity" or encoding in _FORMATS


class MessageReader:
    """Puts messages together from parts of a body. `limit` bounds each, in bytes."""

    def __init__(self, limit: int, encoding: str = "identity") -> None:
        self._limit = limit
        self._expand = _expander(encoding, limit)
        self._parts = bytearray()
        self._size = -1
        self._is_compressed = False

    @property
    def is_between(self) -> bool:
        """Whether nothing of a message is left over."""
        return not self._parts and self._size < 0

    def feed(self, data: bytes) -> Iterator[bytes]:
        """Take a part of the body, and return the messages that are whole by it.

        `MessageError` for one over the limit, as soon as its length is known.
        """
        self._parts += data
        while True:
            if self._size < 0:
                if len(self._parts) < _PREFIX_SIZE:
                    return
                self._begin()
            if len(self._parts) < self._size:
                return
            message = bytes(memoryview(self._parts)[: self._size])
            del self._parts[: self._size]
            self._size = -1
            yield self._expand(message) if self._is_compressed else message

    def _begin(self) -> None:
        flag, size = _PREFIX.unpack_from(self._parts)
        del self._parts[:_PREFIX_SIZE]
        if flag > 1:
            raise MessageError(f"a message's flag is {flag}, and must be 0 or 1")
        if size > self._limit:
            raise too_large(size, self._limit)
        self._is_compressed, self._size = flag == 1, size


def too_large(size: int, limit: int) -> MessageError:
    """Return the error of a message that is over the limit."""
    text = f"a message has {size} bytes, more than the {limit} that are taken"
    return MessageError(text, is_too_large=True)


def _expander(encoding: str, limit: int) -> Callable[[bytes], bytes]:
    def refuse(_message: bytes) -> bytes:
        raise MessageError("a message is compressed, and `grpc-encoding` does not say how")

    def expand(message: bytes) -> bytes:
        decompressor = zlib.decompressobj(_FORMATS[encoding])
        try:
            # One byte more than is taken shows that there are too many.
            expanded = decompressor.decompress(message, limit + 1)
        except zlib.error as error:
            raise MessageError(f"a message cannot be decompressed as {encoding}") from error
        if len(expanded) > limit:
            raise too_large(len(expanded), limit)
        if decompressor.unused_data:
            raise MessageError(f"a message goes on behind the end of its {encoding}")
        if not decompressor.eof:
            raise MessageError(f"a message ends before its {encoding} does")
        return expanded

    return expand if encoding in _FORMATS else refuse
