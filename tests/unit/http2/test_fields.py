"""Header fields: what we write is read, what is broken is refused, nothing of them is logged."""

from __future__ import annotations

import io
import logging
from collections.abc import Iterator

import hpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy import logs
from proxy.http2.fields import STATUS_200, FieldReader, FieldsError, literal

LIMIT = 128 * 1024

# What is written differently by its length: see RFC 7541, 5.1.
LENGTHS = [0, 1, 126, 127, 128, 254, 255, 256, 16_510, 16_511, 40_000]


@pytest.mark.parametrize("size", LENGTHS)
def test_a_literal_of_any_length_is_what_a_decoder_reads(size: int) -> None:
    name, value = b"n" * (size or 1), b"v" * size
    block = STATUS_200 + literal(name, b"") + literal(b"x", value)
    found = hpack.Decoder(LIMIT).decode(block, raw=True)
    assert [tuple(field) for field in found] == [(b":status", b"200"), (name, b""), (b"x", value)]


@settings(deadline=None)
@given(st.lists(st.tuples(st.binary(min_size=1, max_size=300), st.binary(max_size=300))))
def test_any_fields_are_what_a_decoder_reads(fields: list[tuple[bytes, bytes]]) -> None:
    decoder = hpack.Decoder(1024 * 1024)
    block = b"".join(literal(*field) for field in fields)
    for _ in range(2):
        assert [tuple(field) for field in decoder.decode(block, raw=True)] == fields
    # Nothing of it was kept for later blocks.
    assert not decoder.header_table.dynamic_entries


def test_blocks_that_build_on_earlier_ones_are_read() -> None:
    encoder, reader = hpack.Encoder(), FieldReader(LIMIT)
    fields = [(b":path", b"/a/b"), (b"x-id", b"7"), (b"user-agent", b"tonic")]
    sizes = []
    for size in (4096, 4096, 0, 4096):
        encoder.header_table_size = size
        block = encoder.encode(fields)
        sizes.append(len(block))
        assert [tuple(field) for field in reader.read(block)] == fields
    assert sizes[1] == len(fields) < sizes[0]


def test_a_block_that_left_the_table_as_it_was_is_known() -> None:
    encoder, reader = hpack.Encoder(), FieldReader(LIMIT)
    fields = [(b":path", b"/a/b"), (b"x-id", b"7")]
    first, again = encoder.encode(fields), encoder.encode(fields)
    reader.read(first)
    assert reader.read(again) is reader.read(again)
    assert [tuple(field) for field in reader.read(again)] == fields
    # The same bytes now mean something else.
    reader.read(encoder.encode([(b"x-other", b"8"), (b":path", b"/c")]))
    assert [tuple(field) for field in reader.read(again)] == [(b"x-other", b"8"), (b":path", b"/c")]


FIELDS = st.lists(
    st.tuples(st.sampled_from([b"a", b"b", b":path"]), st.sampled_from([b"1", b"2", b"v" * 2000])),
    max_size=4,
)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(FIELDS, st.sampled_from([None, 0, 70, 4096]), st.booleans())))
def test_what_is_known_of_blocks_is_what_a_decoder_reads(
    steps: list[tuple[list[tuple[bytes, bytes]], int | None, bool]],
) -> None:
    encoder, reader, decoder = hpack.Encoder(), FieldReader(LIMIT), hpack.Decoder(LIMIT)
    block = b""
    for fields, size, is_repeated in steps:
        if not is_repeated:
            if size is not None:
                encoder.header_table_size = size
            block = encoder.encode(fields)
        try:
            expected = [tuple(field) for field in decoder.decode(block, raw=True)]
        except hpack.HPACKError:
            with pytest.raises(FieldsError):
                reader.read(block)
            return
        assert [tuple(field) for field in reader.read(block)] == expected


BROKEN = {
    "an index beyond the tables": b"\xff\x80\x01",
    "index zero": b"\x80",
    "a table larger than was agreed": b"\x3f\xff\xff\x03",
    "a change of the table behind a field": b"\x88\x20",
    "a name cut short": b"\x00\x05ab",
    "a value cut short": b"\x00\x01a\x05b",
    "no value": b"\x00\x01a",
    "nothing behind the kind of a field": b"\x40",
    "a number without end": b"\x7f" + b"\xff" * 60_000,
    "Huffman's end inside a text": b"\x00\x01a\x84\xff\xff\xff\xff",
}


@pytest.mark.parametrize("block", BROKEN.values(), ids=BROKEN)
def test_a_broken_block_is_refused(block: bytes) -> None:
    with pytest.raises(FieldsError, match="cannot be decoded") as refused:
        FieldReader(LIMIT).read(block)
    assert not refused.value.is_too_large


def test_a_small_block_that_becomes_many_fields_is_refused_at_the_limit() -> None:
    reader = FieldReader(LIMIT)
    # One byte each tells four thousand again: a "bomb".
    block = b"\x40" + literal(b"x", b"v" * 3900)[1:] + b"\xbe" * 16_000
    with pytest.raises(FieldsError, match="too large") as refused:
        reader.read(block)
    assert refused.value.is_too_large


@settings(deadline=None)
@given(st.lists(st.binary(max_size=64), max_size=5))
def test_no_bytes_raise_anything_else(blocks: list[bytes]) -> None:
    reader = FieldReader(LIMIT)
    for block in blocks:
        try:
            list(reader.read(block))
        except FieldsError:
            return


ANY_FIELDS = st.lists(
    st.tuples(
        st.one_of(
            st.sampled_from([b":path", b"x-id", b"date"]), st.binary(min_size=1, max_size=40)
        ),
        st.one_of(st.sampled_from([b"", b"/a/b", b"7"]), st.binary(max_size=300)),
    ),
    max_size=12,
)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(ANY_FIELDS, st.booleans(), st.sampled_from([None, 0, 100, 4096])), max_size=6
    )
)
def test_what_another_writes_is_read_with_what_it_remembers(
    blocks: list[tuple[list[tuple[bytes, bytes]], bool, int | None]],
) -> None:
    encoder, reader = hpack.Encoder(), FieldReader(LIMIT)
    for fields, is_packed, size in blocks:
        if size is not None:
            encoder.header_table_size = size
        assert list(reader.read(encoder.encode(fields, huffman=is_packed))) == fields


PIECES = st.one_of(
    st.binary(min_size=1, max_size=30),
    st.sampled_from(
        [b"\x82", b"\xbe", b"\xbf", b"\x40", b"\x20", b"\x3f\xe1\x1f", b"\x10", b"\x7e"]
    ),
    st.builds(lambda name, value: b"\x40" + literal(name, value)[1:], st.binary(), st.binary()),
)


@settings(deadline=None)
@given(st.lists(st.lists(PIECES, max_size=8).map(b"".join), max_size=4))
def test_any_bytes_are_read_as_another_reads_them(blocks: list[bytes]) -> None:
    decoder, reader = hpack.Decoder(LIMIT), FieldReader(LIMIT)
    # Again: what was read once may be known, or say something else by now.
    for block in blocks * 2:
        try:
            expected = [tuple(field) for field in decoder.decode(block, raw=True)]
        except (hpack.HPACKError, IndexError):
            with pytest.raises(FieldsError):
                reader.read(block)
            return
        assert list(reader.read(block)) == expected


@pytest.fixture
def lines() -> Iterator[io.StringIO]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    stream = io.StringIO()
    yield stream
    root.handlers[:] = handlers
    root.setLevel(level)


@pytest.mark.parametrize("level", ["trace", "debug", "info,proxy=trace"])
def test_fields_are_logged_at_no_level(lines: io.StringIO, level: str) -> None:
    logs.configure(level=level, stream=lines)
    logging.getLogger("proxy.test").debug("heard")
    block = hpack.Encoder().encode([(b"authorization", b"Bearer s3cr3t")], huffman=False)
    FieldReader(LIMIT).read(block)
    assert "heard" in lines.getvalue()
    assert "s3cr3t" not in lines.getvalue()
    assert lines.getvalue().count("\n") == 1
