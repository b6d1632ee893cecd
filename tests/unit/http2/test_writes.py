"""What is written in one turn of the event loop goes to the socket in one piece, in order."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import pytest

from proxy.http2.writes import Writes


class Pieces:
    """Stands in for a transport; `pieces` are what it was given."""

    def __init__(self) -> None:
        self.pieces: list[bytes] = []

    def write(self, data: bytes) -> None:
        self.pieces.append(data)


@pytest.fixture
def pieces() -> Pieces:
    return Pieces()


@pytest.fixture
def writes(pieces: Pieces) -> Writes:
    return Writes(cast("Any", pieces))


async def test_a_turn_is_one_piece(pieces: Pieces, writes: Writes) -> None:
    for _ in range(3):
        writes.add(b"a")
        writes.add(b"b")
        assert writes.size == 2
        await asyncio.sleep(0)
    assert pieces.pieces == [b"ab"] * 3
    assert writes.size == 0


async def test_much_is_not_held_back_and_keeps_its_place(pieces: Pieces, writes: Writes) -> None:
    writes.add(b"a")
    writes.add(b"b" * 40_000)
    assert pieces.pieces == [b"a" + b"b" * 40_000]
    writes.add(b"c")
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert pieces.pieces[1:] == [b"c"]


async def test_what_was_flushed_is_written_once(pieces: Pieces, writes: Writes) -> None:
    writes.add(b"a")
    writes.flush()
    writes.flush()
    assert pieces.pieces == [b"a"]
    await asyncio.sleep(0)
    assert pieces.pieces == [b"a"]
