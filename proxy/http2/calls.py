"""The two kinds of calls that are made: with one answer, and with a stream of them."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Generator
from typing import TYPE_CHECKING, Any, Generic, Self, TypeVar

from proxy.http2 import messages
from proxy.http2.messages import MessageError
from proxy.http2.metadata import Metadata
from proxy.http2.outgoing import OutgoingCall

if TYPE_CHECKING:
    from proxy.http2.channel import Channel

R = TypeVar("R")


class UnaryCall(OutgoingCall, Generic[R]):
    """A call with one answer: await it, once.

    Raises `CallError` when the call failed, `CancelledError` when it was cancelled here, and what
    the decoder raises. Cancelling who awaits it cancels it.
    """

    __slots__ = ("_decode", "_message")

    def __init__(
        self,
        channel: Channel,
        path: str,
        request: bytes,
        decode: Callable[[bytes], R],
        *,
        timeout: float | None,
        pairs: Metadata,
        waits: bool,
    ) -> None:
        super().__init__(channel, path, request, timeout=timeout, pairs=pairs, waits=waits)
        self._decode = decode
        self._message: bytes | None = None

    def __await__(self) -> Generator[Any, None, R]:
        if not self.is_done:
            waiter = self._waiter = self._channel.loop.create_future()
            try:
                yield from waiter
            except asyncio.CancelledError:
                self.cancel()
                raise
        self._raise_unless_ok()
        assert self._message is not None  # noqa: S101 - an answer without one has failed
        return self._decode(self._message)

    def _take(self, data: bytes) -> None:
        if self._message is None and self._reader is None:
            message = messages.only_message(data)
            if message is not None and len(message) <= self._channel.limits.message:
                self._message = message
                return
        for message in self._feed(data):
            if self._message is not None:
                raise MessageError("the answer has more than one message")
            self._message = message
        connection = self._connection
        if connection is not None:
            connection.make_room(self)

    def _lacks(self) -> str:
        return "the answer has no message" if self._message is None else ""


class StreamCall(OutgoingCall, Generic[R]):
    """A call whose answer is a stream of messages: `read` them, or iterate. For one task at once.

    The peer may be ahead of the reader by one window and one message.
    """

    __slots__ = ("_decode", "_held", "_inbox")

    def __init__(
        self,
        channel: Channel,
        path: str,
        request: bytes,
        decode: Callable[[bytes], R],
        *,
        timeout: float | None,
        pairs: Metadata,
        waits: bool,
    ) -> None:
        super().__init__(channel, path, request, timeout=timeout, pairs=pairs, waits=waits)
        self._decode = decode
        self._inbox: deque[bytes] = deque()
        self._held = 0

    async def read(self) -> R | None:
        """Return the next message; None after the last of a call that went well.

        Raises as `UnaryCall` does; what came before a status that is an error is returned first.
        """
        while not self._inbox:
            if self.is_done:
                self._raise_unless_ok()
                return None
            self._waiter = self._channel.loop.create_future()
            try:
                await self._waiter
            except asyncio.CancelledError:
                self.cancel()
                raise
            finally:
                self._waiter = None
        message = self._inbox.popleft()
        self._held -= len(message)
        self._replenish()
        return self._decode(message)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> R:
        message = await self.read()
        if message is None:
            raise StopAsyncIteration
        return message

    def _take(self, data: bytes) -> None:
        for message in self._feed(data):
            self._inbox.append(message)
            self._held += len(message)
        if self._inbox:
            self._wake()
        self._replenish()

    def _replenish(self) -> None:
        connection = self._connection
        if connection is not None:
            connection.make_room(self, self._held)

    def _lacks(self) -> str:
        return ""

    def _drop(self) -> None:
        self._inbox.clear()
        self._held = 0
