"""The messages in a body: any chunks, compressed or not, and never more than the limit."""

from __future__ import annotations

import gzip
import struct
import zlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.http2 import messages
from proxy.http2.messages import MessageError, MessageReader
from tests.support.raw_http2 import message

LIMIT = 1000


def read(data: bytes, *, encoding: str = "identity", limit: int = LIMIT) -> list[bytes]:
    reader = MessageReader(limit, encoding)
    found = list(reader.feed(data))
    assert reader.is_between
    return found


@settings(deadline=None)
@given(st.lists(st.binary(max_size=300), max_size=8), st.data())
def test_messages_come_out_as_they_went_in_however_they_are_cut(
    sent: list[bytes], data: st.DataObject
) -> None:
    body = b"".join(message(one) for one in sent)
    cuts = data.draw(st.lists(st.integers(0, len(body)), max_size=12).map(sorted))
    reader, found = MessageReader(LIMIT), []
    for start, end in zip([0, *cuts], [*cuts, len(body)], strict=True):
        found += list(reader.feed(body[start:end]))
    assert found == sent
    assert reader.is_between


def test_byte_by_byte_a_message_is_there_with_its_last() -> None:
    reader = MessageReader(LIMIT)
    body = message(b"abc") + message(b"")
    came = [list(reader.feed(body[place : place + 1])) for place in range(len(body))]
    assert [place for place, found in enumerate(came) if found] == [7, 12]
    assert came[7] + came[12] == [b"abc", b""]


@pytest.mark.parametrize("size", [1, 4, 5, 7])
def test_what_is_left_over_shows(size: int) -> None:
    reader = MessageReader(LIMIT)
    assert not list(reader.feed(message(b"abc")[:size]))
    assert not reader.is_between


COMPRESSORS = {"gzip": gzip.compress, "deflate": zlib.compress}


@pytest.mark.parametrize("encoding", COMPRESSORS)
@pytest.mark.parametrize("raw", [b"", b"x", b"y" * LIMIT, bytes(range(250)) * 4])
def test_a_compressed_message_is_expanded(encoding: str, raw: bytes) -> None:
    body = message(COMPRESSORS[encoding](raw), 1) + message(b"plain")
    assert read(body, encoding=encoding, limit=1100 if len(raw) == LIMIT else LIMIT + 100) == [
        raw,
        b"plain",
    ]


@pytest.mark.parametrize("encoding", COMPRESSORS)
def test_exactly_the_limit_is_taken_and_a_byte_more_is_not(encoding: str) -> None:
    compress = COMPRESSORS[encoding]
    assert read(message(compress(b"x" * LIMIT), 1), encoding=encoding) == [b"x" * LIMIT]
    assert read(message(b"x" * LIMIT)) == [b"x" * LIMIT]
    for body in (message(compress(b"x" * (LIMIT + 1)), 1), message(b"x" * (LIMIT + 1))):
        with pytest.raises(MessageError, match="a message has 1001 bytes") as refused:
            read(body, encoding=encoding)
        assert refused.value.is_too_large


def test_a_bomb_is_expanded_no_further_than_the_limit() -> None:
    bomb = gzip.compress(bytes(64 * 1024 * 1024))
    with pytest.raises(MessageError, match="more than the 100000 that are taken") as refused:
        read(message(bomb, 1), encoding="gzip", limit=100_000)
    assert refused.value.is_too_large


def test_too_large_is_known_before_the_message_comes() -> None:
    with pytest.raises(MessageError, match="a message has 4294967295 bytes"):
        list(MessageReader(LIMIT).feed(struct.pack("!BI", 0, 0xFFFFFFFF)))


BROKEN = {
    "a flag of two": (message(b"x", 2), "identity", "flag is 2, and must be 0 or 1"),
    "a flag of 255": (message(b"x", 255), "gzip", "flag is 255"),
    "compressed, and none was named": (message(gzip.compress(b"x"), 1), "identity", "does not say"),
    "no gzip": (message(b"xyz", 1), "gzip", "cannot be decompressed as gzip"),
    "gzip for deflate": (message(gzip.compress(b"x"), 1), "deflate", "cannot be decompressed"),
    "nothing": (message(b"", 1), "gzip", "ends before its gzip does"),
    "cut short": (message(gzip.compress(b"x")[:-1], 1), "gzip", "ends before its gzip does"),
    "a wrong sum": (message(gzip.compress(b"x")[:-8] + bytes(8), 1), "gzip", "decompressed"),
    "more behind it": (message(gzip.compress(b"x") + b"y", 1), "gzip", "goes on behind the end"),
}


@pytest.mark.parametrize(("body", "encoding", "expected"), BROKEN.values(), ids=BROKEN)
def test_a_broken_message_is_refused(body: bytes, encoding: str, expected: str) -> None:
    with pytest.raises(MessageError, match=expected) as refused:
        read(body, encoding=encoding)
    assert not refused.value.is_too_large


ONLY = {
    "one": (message(b"abc"), b"abc"),
    "an empty one": (message(b""), b""),
    "compressed": (message(b"abc", 1), None),
    "two": (message(b"a") * 2, None),
    "cut short": (message(b"abc")[:-1], None),
    "no prefix": (b"\0\0\0\0", None),
    "nothing": (b"", None),
}


@pytest.mark.parametrize(("body", "expected"), ONLY.values(), ids=ONLY)
def test_a_body_of_one_message(body: bytes, expected: bytes | None) -> None:
    assert messages.only_message(body) == expected


def test_what_is_written_is_what_is_read() -> None:
    assert messages.prefix(b"x" * 258) == b"\0\0\0\1\2"
    assert [name for name in messages.ACCEPTED.decode().split(",") if messages.is_known(name)] == [
        "identity",
        "deflate",
        "gzip",
    ]
    assert not messages.is_known("snappy")
