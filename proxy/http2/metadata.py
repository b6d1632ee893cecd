"""Metadata, deadlines and status texts of gRPC, as header fields.

Facts: gRPC over HTTP/2: the values of keys that end in `-bin` travel as base64, padded or not, and
several may be joined by commas; `grpc-message` is percent-encoded UTF-8; `grpc-timeout` has at most
eight digits and a unit.
"""

from __future__ import annotations

import binascii
import re
from collections.abc import Iterable
from functools import lru_cache
from typing import Final
from urllib.parse import unquote

from proxy.http2.fields import literal

Pair = tuple[str, str | bytes]
Metadata = tuple[Pair, ...]

_UNITS: Final = {"H": 3600.0, "M": 60.0, "S": 1.0, "m": 1e-3, "u": 1e-6, "n": 1e-9}
_TIMEOUT: Final = re.compile(rb"([0-9]{1,8})([HMSmun])")
# Everything but the printable characters of ASCII, and the mark of the encoding itself.
_ESCAPED: Final = re.compile(rb"[^\x20-\x24\x26-\x7e]")
_KEY: Final = re.compile(r"[0-9a-z_.-]+")
# Values that are remembered as fields.
_SHORT: Final = 64
_VALUE: Final = re.compile(r"[\x20-\x7e]*")
# Peers take 8 KiB of trailers in all, and what a text says is in the metadata of an error as well.
_MOST_TEXT: Final = 2_560


def read_timeout(value: bytes) -> float | None:
    """Return the seconds of a `grpc-timeout`; None when it is none."""
    found = _TIMEOUT.fullmatch(value)
    return None if found is None else int(found[1]) * _UNITS[found[2].decode()]


def write_timeout(seconds: float) -> bytes:
    """Return a `grpc-timeout`, in the finest unit that fits, not longer than `seconds`."""
    for unit, size in (("u", 1e-6), ("m", 1e-3), ("S", 1.0)):
        count = int(seconds / size)
        if count < 100_000_000:
            return b"%d%s" % (max(count, 0), unit.encode())
    return b"99999999S"


def read_pairs(name: bytes, value: bytes) -> Iterable[Pair]:
    """Return the metadata that one field holds. `ValueError` when it is malformed."""
    key = name.decode("ascii")
    if not key.endswith("-bin"):
        return ((key, value.decode("utf-8", "replace")),)
    return tuple((key, _unbase64(part)) for part in value.split(b","))


def _unbase64(text: bytes) -> bytes:
    stripped = text.strip().rstrip(b"=")
    return binascii.a2b_base64(stripped + b"=" * (-len(stripped) % 4), strict_mode=True)


def write_pairs(pairs: Iterable[Pair]) -> bytes:
    """Return metadata as fields. `ValueError` for a key or a value that cannot be sent."""
    return b"".join(
        [
            _write_short(key, value) if len(value) <= _SHORT else _write_pair(key, value)
            for key, value in pairs
        ]
    )


@lru_cache(256)
def _write_short(key: str, value: str | bytes) -> bytes:
    """Return what most answers say again: who gave them."""
    return _write_pair(key, value)


def _write_pair(key: str, value: str | bytes) -> bytes:
    if _KEY.fullmatch(key) is None or (key.startswith("grpc-") and not key.endswith("-bin")):
        raise ValueError(f"metadata cannot have the key {key[:64]!r}")
    if key.endswith("-bin"):
        raw = value if isinstance(value, bytes) else value.encode()
        return literal(key.encode(), binascii.b2a_base64(raw, newline=False).rstrip(b"="))
    if isinstance(value, bytes):
        value = value.decode("ascii", "replace")
    if _VALUE.fullmatch(value) is None:
        raise ValueError(f"the value of the metadata {key!r} is not printable ASCII")
    return literal(key.encode(), value.encode("ascii"))


def write_status(code: int, text: str) -> bytes:
    """Return the fields of a status; a text is cut to what peers take beside other metadata."""
    if code == 0:
        return _OK
    status = literal(b"grpc-status", b"%d" % code)
    if not text:
        return status
    escaped = _escaped(text)
    while len(escaped) > _MOST_TEXT:
        text = text[: len(text) * _MOST_TEXT // len(escaped)]
        escaped = _escaped(text) + b"..."
    return status + literal(b"grpc-message", escaped)


def _escaped(text: str) -> bytes:
    raw = text.encode("utf-8", "replace")
    return _ESCAPED.sub(lambda found: b"%%%02X" % found[0][0], raw)


_OK: Final = literal(b"grpc-status", b"0")


def read_text(value: bytes) -> str:
    """Return the text of a `grpc-message`."""
    return unquote(value.decode("ascii", "replace"))
