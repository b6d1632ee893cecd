"""Methods that tests of the gRPC transport call."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc


class Methods:
    """What the tests call, and what became of it."""

    def __init__(self) -> None:
        self.ended: list[str] = []
        self.running = 0

    async def wait(self, _request: bytes, _context: Any) -> bytes:
        self.running += 1
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            self.ended.append("cancelled")
            raise
        finally:
            self.running -= 1
        return b""

    async def count(self, request: bytes, context: Any) -> AsyncIterator[bytes]:
        await context.send_initial_metadata((("x-first", "1"), ("x-bin", b"\0")))
        context.set_trailing_metadata((("x-last", "2"),))
        for number in range(int(request)):
            yield b"%d" % number

    async def chat(self, requests: AsyncIterator[bytes], _context: Any) -> AsyncIterator[bytes]:
        async for request in requests:
            yield request.upper()

    async def total(self, requests: AsyncIterator[bytes], _context: Any) -> bytes:
        return b"".join([request async for request in requests])

    async def large(self, request: bytes, _context: Any) -> bytes:
        return bytes(range(256)) * (int(request) // 256)

    async def refuse(self, _request: bytes, context: Any) -> bytes:
        trailing = (("x-why", "so"), ("y-bin", b"\xff"))
        await context.abort(grpc.StatusCode.NOT_FOUND, "no ä\n50%", trailing)
        raise AssertionError

    async def fail(self, _request: bytes, _context: Any) -> bytes:
        raise ValueError("s3cr3t")

    async def metadata(self, _request: bytes, context: Any) -> bytes:
        remaining = context.time_remaining()
        return repr((context.invocation_metadata(), remaining is None, context.peer())).encode()

    def served(self) -> dict[str, Any]:
        return {
            "Wait": self.wait,
            "Count": ("unary_stream", self.count),
            "Chat": ("stream_stream", self.chat),
            "Total": ("stream_unary", self.total),
            "Large": self.large,
            "Refuse": self.refuse,
            "Fail": self.fail,
            "Metadata": self.metadata,
        }


class Gate:
    """A method that answers once it is opened."""

    def __init__(self) -> None:
        self.open = asyncio.Event()

    async def pass_through(self, request: bytes, _context: Any) -> bytes:
        await self.open.wait()
        return request
