"""From bytes to frames: any split of them is the same, and each fault has the code of RFC 9113."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.http2 import frames, reading
from proxy.http2.faults import ConnectionFault, StreamFault
from proxy.http2.frames import ErrorCode
from tests.support.raw_http2 import HEAD, HELLO, block, data, headers, memory_server, message

F = frames.frame


class Notes(reading.FrameReader):
    """Takes down what it is told."""

    def __init__(self) -> None:
        super().__init__(expects_preface=True)
        self.told: list[tuple[Any, ...]] = []

    def read(self, data: bytes) -> None:
        super().read(data)
        while self.has_more:
            super().read(b"")

    def on_data(self, stream_id: int, data: bytes, size: int, *, is_end: bool) -> None:
        self.told.append(("data", stream_id, data, size, is_end))

    def on_fields(
        self, stream_id: int, fields: Iterable[tuple[bytes, bytes]], *, is_end: bool
    ) -> None:
        self.told.append(("fields", stream_id, [tuple(field) for field in fields], is_end))

    def on_window_update(self, stream_id: int, increment: int) -> None:
        self.told.append(("window", stream_id, increment))

    def on_reset(self, stream_id: int, code: int) -> None:
        self.told.append(("reset", stream_id, code))

    def on_settings(self, values: list[tuple[int, int]]) -> None:
        self.told.append(("settings", values))

    def on_ping(self, payload: bytes, *, is_answer: bool) -> None:
        self.told.append(("ping", payload, is_answer))

    def on_goaway(self, last_stream: int, code: int, text: bytes) -> None:
        self.told.append(("goaway", last_stream, code, text))

    def stream_fault(self, stream_id: int, fault: StreamFault) -> None:
        self.told.append(("fault", stream_id, fault.code))


def notes(*parts: bytes) -> list[tuple[Any, ...]]:
    """Return what is told of frames that follow a greeting."""
    reader = Notes()
    reader.read(HELLO)
    reader.read(b"".join(parts))
    return reader.told[1:]


BLOCK = block()
READ: dict[str, tuple[bytes, list[tuple[Any, ...]]]] = {
    "DATA": (F(0, 1, 3, b"abc"), [("data", 3, b"abc", 3, True)]),
    "DATA with padding": (F(0, 8, 3, b"\2abc--"), [("data", 3, b"abc", 6, False)]),
    "DATA of padding alone": (F(0, 8, 3, b"\2--"), [("data", 3, b"", 3, False)]),
    "DATA padded by nothing": (F(0, 9, 3, b"\0"), [("data", 3, b"", 1, True)]),
    "HEADERS": (F(1, 5, 3, BLOCK), [("fields", 3, [*HEAD], True)]),
    "HEADERS with priority": (
        F(1, 0x24, 3, b"\x80\0\0\1\x10" + BLOCK),
        [("fields", 3, [*HEAD], False)],
    ),
    "HEADERS with all": (
        F(1, 0x2D, 3, b"\1\0\0\0\0\x10" + BLOCK + b"-"),
        [("fields", 3, [*HEAD], True)],
    ),
    "a block in parts": (
        F(1, 1, 3, BLOCK[:5]) + F(9, 0, 3, b"") + F(9, 4, 3, BLOCK[5:]),
        [("fields", 3, [*HEAD], True)],
    ),
    "a stream's number with the reserved bit": (F(3, 0, 0x80000003, bytes(4)), [("reset", 3, 0)]),
    "RST_STREAM of an unknown code": (F(3, 0, 3, b"\xff" * 4), [("reset", 3, 0xFFFFFFFF)]),
    "WINDOW_UPDATE with the reserved bit": (F(8, 0, 0, b"\x80\0\0\1"), [("window", 0, 1)]),
    "PRIORITY": (F(2, 0, 3, bytes(5)), []),
    "SETTINGS": (
        frames.settings({1: 2, 0xABCD: 3}),
        [("settings", [(1, 2), (0xABCD, 3)])],
    ),
    "the answer to SETTINGS": (frames.SETTINGS_ACK, []),
    "PING": (F(6, 0, 0, b"12345678"), [("ping", b"12345678", False)]),
    "the answer to PING": (F(6, 1, 0, b"12345678"), [("ping", b"12345678", True)]),
    "GOAWAY": (frames.goaway(3, 2, "bye"), [("goaway", 3, 2, b"bye")]),
    "an unknown frame": (F(0xEE, 0xFF, 3, b"xyz") + F(0xEE, 0, 0), []),
}


@pytest.mark.parametrize(("sent", "expected"), READ.values(), ids=READ)
def test_a_frame_is_told(sent: bytes, expected: list[tuple[Any, ...]]) -> None:
    assert notes(sent) == expected


VALID = HELLO + b"".join(sent for sent, _ in READ.values()) * 2


@given(st.lists(st.integers(0, len(VALID)), max_size=40).map(sorted))
@settings(max_examples=60, deadline=None)
def test_any_split_of_the_bytes_is_the_same(cuts: list[int]) -> None:
    whole, split = Notes(), Notes()
    whole.read(VALID)
    for start, end in zip([0, *cuts], [*cuts, len(VALID)], strict=True):
        if start < end:
            split.read(VALID[start:end])
    assert split.told == whole.told
    assert len(whole.told) == 1 + 2 * sum(len(expected) for _, expected in READ.values())


def test_byte_by_byte_is_the_same() -> None:
    whole, split = Notes(), Notes()
    whole.read(VALID)
    for place in range(len(VALID)):
        split.read(VALID[place : place + 1])
    assert split.told == whole.told


P, S, Y, C = (
    ErrorCode.PROTOCOL_ERROR,
    ErrorCode.FRAME_SIZE_ERROR,
    ErrorCode.ENHANCE_YOUR_CALM,
    ErrorCode.COMPRESSION_ERROR,
)
OPEN_BLOCK = F(1, 0, 3, BLOCK[:5])
# With the section that demands the code.
FAULTS: dict[str, tuple[bytes, ErrorCode]] = {
    "4.2: a frame over the size": (frames.header(16_385, 0, 0, 3), S),
    "4.2: a frame over the size, of an unknown kind": (frames.header(0xFFFFFF, 0xEE, 0, 0), S),
    "4.3: a block that cannot be read": (F(1, 4, 3, b"\x80"), C),
    "4.3: a block that another frame interrupts": (OPEN_BLOCK + F(6, 0, 0, bytes(8)), P),
    "4.3: a block that an unknown frame interrupts": (OPEN_BLOCK + F(0xEE, 0, 3), P),
    "6.1: DATA of no stream": (F(0, 0, 0, b"x"), P),
    "6.1: more padding than there is": (F(0, 8, 3, b"\5----"), P),
    "6.1: padding without its length": (F(0, 8, 3), P),
    "6.2: HEADERS of no stream": (F(1, 4, 0, BLOCK), P),
    "6.2: more padding than there is": (F(1, 0xC, 3, b"\xff" + BLOCK), P),
    "6.2: a priority cut short": (F(1, 0x24, 3, b"\0\0\0\0"), S),
    "5.3.1: a stream that depends on itself": (F(1, 0x24, 3, b"\0\0\0\3\0" + BLOCK), P),
    "6.3: PRIORITY of no stream": (F(2, 0, 0, bytes(5)), P),
    "6.4: RST_STREAM of no stream": (F(3, 0, 0, bytes(4)), P),
    "6.4: RST_STREAM of a wrong size": (F(3, 0, 3, bytes(5)), S),
    "6.5: SETTINGS of a stream": (F(4, 0, 3), P),
    "6.5: SETTINGS of a wrong size": (F(4, 0, 0, bytes(7)), S),
    "6.5: an answer with settings": (F(4, 1, 0, bytes(6)), S),
    "6.6: PUSH_PROMISE": (F(5, 4, 3, bytes(4) + BLOCK), P),
    "6.7: PING of a stream": (F(6, 0, 3, bytes(8)), P),
    "6.7: PING of a wrong size": (F(6, 0, 0, bytes(7)), S),
    "6.8: GOAWAY of a stream": (F(7, 0, 3, bytes(8)), P),
    "6.8: GOAWAY of a wrong size": (F(7, 0, 0, bytes(7)), S),
    "6.9: WINDOW_UPDATE of a wrong size": (F(8, 0, 0, bytes(3)), S),
    "6.10: CONTINUATION of nothing": (F(9, 4, 3, BLOCK), P),
    "6.10: CONTINUATION of another stream": (OPEN_BLOCK + F(9, 4, 5, BLOCK[5:]), P),
    "6.10: CONTINUATION after the end": (F(1, 4, 3, BLOCK) + F(9, 4, 3, BLOCK), P),
    "10.5: a block over its limit": (F(1, 0, 3) + F(9, 0, 3, b"x" * 16_384) * 5, Y),
    "10.5: fields over their limit": (
        F(1, 4, 3, b"\x40\x01x\x7f\xbd\x1e" + b"v" * 4028 + b"\xbe" * 40),
        Y,
    ),
    "10.5: empty parts of a block": (F(1, 0, 3) + F(9, 0, 3) * 10_001, Y),
    "10.5: empty DATA": (F(0, 0, 3) * 10_001, Y),
    "10.5: DATA of padding alone": (F(0, 8, 3, b"\0") * 10_001, Y),
}


@pytest.mark.parametrize(("sent", "code"), FAULTS.values(), ids=FAULTS)
def test_a_fault_has_the_code_of_the_rfc(sent: bytes, code: ErrorCode) -> None:
    with pytest.raises(ConnectionFault) as fault:
        notes(sent)
    assert fault.value.code is code
    assert str(fault.value).isascii()


OF_A_STREAM = {
    "6.3: PRIORITY of a wrong size": (F(2, 0, 3, bytes(4)), S),
    "5.3.1: a stream that depends on itself": (F(2, 0, 3, b"\0\0\0\3\0"), P),
}


@pytest.mark.parametrize(("sent", "code"), OF_A_STREAM.values(), ids=OF_A_STREAM)
def test_a_fault_of_one_stream_leaves_the_others(sent: bytes, code: ErrorCode) -> None:
    assert notes(sent, F(6, 0, 0, bytes(8))) == [("fault", 3, code), ("ping", bytes(8), False)]


FIRST = {
    "HTTP/1": b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
    "TLS": b"\x16\x03\x01\x02\0",
    "a byte": b"p",
    "all but the end": frames.PREFACE[:-1] + b"x",
    "PING": frames.PREFACE + F(6, 0, 0, bytes(8)),
    "the answer to SETTINGS": frames.PREFACE + frames.SETTINGS_ACK,
}


@pytest.mark.parametrize("sent", FIRST.values(), ids=FIRST)
def test_the_first_is_the_preface_and_settings(sent: bytes) -> None:
    with pytest.raises(ConnectionFault) as fault:
        Notes().read(sent)
    assert fault.value.code is P


def test_frames_that_hold_something_may_come_between_empty_ones() -> None:
    told = notes(*(F(0, 0, 3) * 9000 + F(0, 0, 3, b"x") for _ in range(2)), F(0, 0, 3) * 10_000)
    assert len(told) == 28_002


def test_nothing_is_read_after_the_end() -> None:
    class Brief(Notes):
        def on_ping(self, payload: bytes, *, is_answer: bool) -> None:
            super().on_ping(payload, is_answer=is_answer)
            self.read_no_more()

    reader = Brief()
    reader.read(HELLO + F(6, 0, 0, bytes(8)) * 2 + b"\0\0")
    assert [told[0] for told in reader.told] == ["settings", "ping"]


# Whole frames of any content, and pieces that make sense, in any order.
PIECES: Sequence[bytes] = (
    headers(1),
    headers(3, end=True),
    headers(1, (b":path", b"/t.T/Chat")),
    data(1, message(b"abc"), end=True),
    data(1, message(b"abc")),
    F(1, 0, 1, BLOCK[:4]),
    F(9, 4, 1, BLOCK[4:]),
    frames.settings({4: 0}),
    frames.window_update(0, 1000),
    frames.window_update(1, 0x7FFFFFFF),
    frames.rst_stream(1, 8),
    F(6, 1, 0, b"draining"),
    F(6, 0, 0, b"draining"),
    frames.goaway(0, 0),
)
ANY_FRAME = st.builds(
    F, st.integers(0, 11), st.integers(0, 255), st.integers(0, 5), st.binary(max_size=40)
)


@given(st.lists(st.one_of(st.sampled_from(PIECES), ANY_FRAME, st.binary(max_size=40)), max_size=12))
@settings(max_examples=150, deadline=None)
def test_no_bytes_raise_or_hang(parts: list[bytes]) -> None:

    async def chat(requests: Any, _context: Any) -> Any:
        async for request in requests:
            yield request

    async def attack() -> None:
        async with memory_server(Chat=("stream_stream", chat)) as served:
            for part in parts:
                if part:
                    served.send(part)
                await asyncio.sleep(0)
            await served.settle()
            assert served.transport.is_aborted or served.log.frames
        assert not served.connection.streams
        assert not served.server._tasks

    with asyncio.Runner() as runner:
        runner.run(asyncio.wait_for(attack(), 10))
