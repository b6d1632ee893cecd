"""Metadata, deadlines and status texts as header fields; facts of gRPC's own specification."""

from __future__ import annotations

import base64
import re

import hpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.http2 import metadata
from proxy.http2.metadata import Pair


def fields(block: bytes) -> list[tuple[bytes, bytes]]:
    return [(name, value) for name, value in hpack.Decoder(10**6).decode(block, raw=True)]


TIMEOUTS = {
    b"1H": 3600.0,
    b"2M": 120.0,
    b"3S": 3.0,
    b"4m": 0.004,
    b"5u": 0.000005,
    b"6n": 6e-9,
    b"0n": 0.0,
    b"99999999H": 99_999_999 * 3600.0,
    b"00000001S": 1.0,
    b"000000001S": None,
    b"": None,
    b"1": None,
    b"S": None,
    b"1s": None,
    b"-1S": None,
    b"+1S": None,
    b"1.5S": None,
    b" 1S": None,
    b"1S ": None,
    b"1S\n": None,
    "\u0661S".encode(): None,
}


@pytest.mark.parametrize(("text", "seconds"), TIMEOUTS.items())
def test_a_timeout_is_at_most_eight_digits_and_a_unit(text: bytes, seconds: float | None) -> None:
    assert metadata.read_timeout(text) == (None if seconds is None else pytest.approx(seconds))


WRITTEN = {
    0.0: b"0u",
    -5.0: b"0u",
    0.0000019: b"1u",
    1.5: b"1500000u",
    99.9: b"99900000u",
    100.0: b"100000m",
    99_999.0: b"99999000m",
    100_000.0: b"100000S",
    1e12: b"99999999S",
}


@pytest.mark.parametrize(("seconds", "text"), WRITTEN.items())
def test_a_timeout_is_written_in_the_finest_unit(seconds: float, text: bytes) -> None:
    assert metadata.write_timeout(seconds) == text


@settings(deadline=None)
@given(st.floats(0, 9e7))
def test_a_timeout_that_was_written_is_never_longer(seconds: float) -> None:
    found = metadata.read_timeout(metadata.write_timeout(seconds))
    assert found is not None
    assert found <= seconds * (1 + 1e-9)
    assert found >= seconds - max(1e-6, seconds / 1e3)


PAIRS: dict[str, tuple[bytes, bytes, tuple[Pair, ...]]] = {
    "text": (b"x-id", b"a b", (("x-id", "a b"),)),
    "text with a comma": (b"x", b"a,b", (("x", "a,b"),)),
    "text in UTF-8": (b"x", "ä".encode(), (("x", "ä"),)),
    "text in no encoding": (b"x", b"\xff", (("x", "\ufffd"),)),
    "empty text": (b"x", b"", (("x", ""),)),
    "bytes": (b"x-bin", b"AP8=", (("x-bin", b"\0\xff"),)),
    "bytes without padding": (b"x-bin", b"AP8", (("x-bin", b"\0\xff"),)),
    "no bytes": (b"x-bin", b"", (("x-bin", b""),)),
    "several": (b"x-bin", b"AA, /w==,", (("x-bin", b"\0"), ("x-bin", b"\xff"), ("x-bin", b""))),
}


@pytest.mark.parametrize(("name", "value", "expected"), PAIRS.values(), ids=PAIRS)
def test_a_field_is_read(name: bytes, value: bytes, expected: tuple[Pair, ...]) -> None:
    assert tuple(metadata.read_pairs(name, value)) == expected


@pytest.mark.parametrize("value", [b"A", b"A===", b"*", b"A A=", b"AA-_", b"AA=A"])
def test_bytes_that_are_no_base64_are_malformed(value: bytes) -> None:
    with pytest.raises(ValueError, match=r"base64|padding|data"):
        tuple(metadata.read_pairs(b"x-bin", value))
    with pytest.raises(ValueError, match="ascii"):
        tuple(metadata.read_pairs(b"\xff", b""))


@settings(deadline=None)
@given(
    st.from_regex(re.compile(r"x[a-z0-9_.-]{0,20}"), fullmatch=True),
    st.binary(max_size=300),
    st.text(st.characters(min_codepoint=0x20, max_codepoint=0x7E)),
)
def test_metadata_that_was_written_is_what_is_read(key: str, raw: bytes, text: str) -> None:
    if key.endswith("-bin"):
        return
    pairs: tuple[Pair, ...] = ((key, text), (f"{key}-bin", raw))
    found = [
        pair for one in fields(metadata.write_pairs(pairs)) for pair in metadata.read_pairs(*one)
    ]
    assert tuple(found) == pairs


def test_bytes_are_written_as_base64_without_padding() -> None:
    pairs = (("x-bin", b"\0\xff"), ("y-bin", "text"), ("grpc-trace-bin", b"t"), ("z", b"plain"))
    assert fields(metadata.write_pairs(pairs)) == [
        (b"x-bin", b"AP8"),
        (b"y-bin", base64.b64encode(b"text").rstrip(b"=")),
        (b"grpc-trace-bin", b"dA"),
        (b"z", b"plain"),
    ]


UNSENDABLE: dict[str, Pair] = {
    "an upper case letter": ("X", "a"),
    "no key": ("", "a"),
    "a space": ("a b", "a"),
    "a pseudo field": (":path", "a"),
    "a letter beyond ASCII": ("ä", "a"),
    "what is gRPC's own": ("grpc-status", "0"),
    "a line break at the end of a key": ("x\n", "a"),
    "a line break": ("x", "a\r\nb: c"),
    "a line break at the end": ("x", "a\n"),
    "a zero": ("x", "\0"),
    "a value beyond ASCII": ("x", "ä"),
    "bytes beyond ASCII": ("x", b"\xff"),
}


@pytest.mark.parametrize("pair", UNSENDABLE.values(), ids=UNSENDABLE)
def test_what_cannot_be_sent_is_refused(pair: Pair) -> None:
    with pytest.raises(ValueError, match="metadata") as refused:
        metadata.write_pairs([("fine", "s3cr3t"), pair])
    assert "s3cr3t" not in str(refused.value)


TEXTS = {
    "plain ~!": b"plain ~!",
    "50%": b"50%25",
    "a\nb\x7f": b"a%0Ab%7F",
    "ä€": b"%C3%A4%E2%82%AC",
    "\ud800": b"?",
    "%41": b"%2541",
}


@pytest.mark.parametrize(("text", "escaped"), TEXTS.items())
def test_a_status_text_is_percent_encoded(text: str, escaped: bytes) -> None:
    assert fields(metadata.write_status(13, text)) == [
        (b"grpc-status", b"13"),
        (b"grpc-message", escaped),
    ]


@settings(deadline=None)
@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=200))
def test_a_status_text_that_was_written_is_what_is_read(text: str) -> None:
    found = dict(fields(metadata.write_status(2, text)))
    assert metadata.read_text(found.get(b"grpc-message", b"")) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (b"%", "%"),
        (b"%4", "%4"),
        (b"%zz", "%zz"),
        (b"a%20b", "a b"),
        (b"%FF", "\ufffd"),
        (b"\xff", "\ufffd"),
    ],
)
def test_a_status_text_that_is_malformed_is_taken_as_it_is(value: bytes, text: str) -> None:
    assert metadata.read_text(value) == text


def test_a_good_end_has_no_text() -> None:
    assert fields(metadata.write_status(0, "ignored")) == [(b"grpc-status", b"0")]
    assert fields(metadata.write_status(5, "")) == [(b"grpc-status", b"5")]
