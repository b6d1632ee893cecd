"""The requests of a stream that have come and wait for the handler."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Final, Self

from proxy.http2.connection import STREAM_WINDOW

# What a request takes in memory besides its bytes, about.
_OVERHEAD: Final = 64


class Inbox:
    """An asynchronous iterator over requests, for one handler; they are decoded as it takes them.

    `taken` is called for each that it takes.
    """

    def __init__(self, decode: Callable[[bytes], Any] | None, taken: Callable[[], None]) -> None:
        self._decode = decode
        self._taken = taken
        self._queue: asyncio.Queue[bytes | None] = asyncio.Queue()
        self._size = 0
        self._is_done = False

    @property
    def is_full(self) -> bool:
        """Whether the caller is to wait for the handler: it is a whole window ahead."""
        return self._size >= STREAM_WINDOW

    def put(self, message: bytes) -> None:
        """Add a request."""
        self._size += len(message) + _OVERHEAD
        self._queue.put_nowait(message)

    def finish(self) -> None:
        """Let the iterator end after what is there."""
        self._queue.put_nowait(None)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Any:
        message = None if self._is_done else await self._queue.get()
        if message is None:
            self._is_done = True
            raise StopAsyncIteration
        self._size -= len(message) + _OVERHEAD
        self._taken()
        return message if self._decode is None else self._decode(message)
