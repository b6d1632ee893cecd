"""One call on the server's side: its request, its answer, and its end, which comes once.

A call is what handlers know as the context of `grpc.aio`, as far as ours and those of gRPC's own
services use it.

What ends a call::

    the handler returned or failed      its status, after what was sent before
    the deadline has passed             DEADLINE_EXCEEDED; the handler is cancelled
    the caller reset it, or is gone     the handler is cancelled, nothing is sent
    the request is malformed            a status at once; no handler runs
    the server ends it (`end`)          UNAVAILABLE; the handler is cancelled
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final, NoReturn

import grpc

from proxy.http2 import fields, messages, metadata
from proxy.http2.connection import STREAM_WINDOW
from proxy.http2.faults import StreamEndedError, StreamFault
from proxy.http2.frames import ErrorCode
from proxy.http2.inbox import Inbox
from proxy.http2.messages import MessageError, MessageReader
from proxy.http2.metadata import Metadata, Pair

if TYPE_CHECKING:
    from proxy.http2.request import Request
    from proxy.http2.server import ServerConnection

log = logging.getLogger(__name__)

_HEAD: Final = fields.STATUS_200 + fields.literal(b"content-type", b"application/grpc")
_CANCELLED: Final = grpc.StatusCode.CANCELLED.value[0]
_DEADLINE: Final = grpc.StatusCode.DEADLINE_EXCEEDED.value[0]
_EXHAUSTED: Final = grpc.StatusCode.RESOURCE_EXHAUSTED.value[0]
_INTERNAL: Final = grpc.StatusCode.INTERNAL.value[0]
_UNKNOWN: Final = grpc.StatusCode.UNKNOWN.value[0]
_OK: Final = grpc.StatusCode.OK.value[0]
_OVER: Final = StreamEndedError(ErrorCode.NO_ERROR, "the call is over")
# With as many calls at most, one has none beside it that it could be answered along with.
_FEW: Final = 2
_NO_MESSAGE: Final = "a call of this method has one message, and none has come"


class Aborted(Exception):
    """A handler has ended its call; the status is the call's own."""


class ServerCall:
    """The server's side of one call. `ended` callbacks run once, when it is over."""

    def __init__(
        self,
        connection: ServerConnection,
        stream_id: int,
        request: Request,
        *,
        is_half_closed: bool = False,
    ) -> None:
        self.side = connection.open_side(stream_id)
        self.receive_window = STREAM_WINDOW
        self.is_over = False
        self._connection = connection
        self._request = request
        self._reader: MessageReader | None = None
        self._received = 0
        self._is_half_closed = is_half_closed
        self._message: bytes | None = None
        self._method: grpc.RpcMethodHandler[Any, Any] | None = None
        self._inbox: Inbox | None = None
        self._task: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._is_head_sent = False
        self._is_writing = False
        self._initial = b""
        self._trailing: Iterable[Pair] = ()
        self._code: grpc.StatusCode | None = None
        self._details = ""
        self._encode: Callable[[Any], bytes] | None = None

    # What handlers use

    def invocation_metadata(self) -> Metadata:
        """Return what the caller sent, without what is of gRPC itself."""
        return self._request.metadata

    def peer(self) -> str:
        """Return the caller's address."""
        return self._connection.peer

    def time_remaining(self) -> float | None:
        """Return the seconds that are left of the deadline; None without one."""
        if self._timer is None:
            return None
        return max(0.0, self._timer.when() - self._connection.now())

    def cancelled(self) -> bool:
        """Tell whether the call ended before its handler did."""
        return self.is_over

    def done(self) -> bool:
        """Tell whether the call is over."""
        return self.is_over

    def set_code(self, code: grpc.StatusCode) -> None:
        """Set the code that the call ends with."""
        self._code = code

    def set_details(self, details: str) -> None:
        """Set the text that the call ends with."""
        self._details = details

    def set_trailing_metadata(self, trailing: Iterable[Pair]) -> None:
        """Set what is sent with the status."""
        self._trailing = tuple(trailing)

    async def send_initial_metadata(self, initial: Iterable[Pair]) -> None:
        """Send metadata before any message. `ValueError` for what cannot be sent."""
        self._initial = metadata.write_pairs(initial)
        self._send(self._head())

    async def write(self, message: Any) -> None:
        """Send one message of a stream; returns when the caller's windows have let it go."""
        raw: bytes = message if self._encode is None else self._encode(message)
        await self._write(raw)

    async def abort(
        self, code: grpc.StatusCode, details: str = "", trailing: Iterable[Pair] = ()
    ) -> NoReturn:
        """End the call with a status, by an exception that is to pass through the handler."""
        self._code, self._details, self._trailing = code, details, tuple(trailing)
        raise Aborted

    # What the connection tells

    def begin(self, method: grpc.RpcMethodHandler[Any, Any]) -> None:
        """Serve the call by a method once its request is there."""
        self._method = method
        self._encode = method.response_serializer
        timeout = self._request.timeout
        if timeout is not None:
            self._timer = self._connection.call_later(timeout, self._expire)
        if method.request_streaming:
            self._inbox = Inbox(method.request_deserializer, self._replenish)
            if self._is_half_closed:
                self._inbox.finish()
            self._run()
        elif self._is_half_closed:
            self.end(_INTERNAL, _NO_MESSAGE)

    def fields_received(self, more: Sequence[tuple[bytes, bytes]], *, is_end: bool) -> None:
        """Take trailers, which mean nothing in a request. `StreamFault` if they are malformed."""
        if self._is_half_closed:
            raise StreamFault(ErrorCode.STREAM_CLOSED, "the request has ended")
        if not is_end or any(name[:1] == b":" or name.lower() != name for name, _ in more):
            raise StreamFault(ErrorCode.PROTOCOL_ERROR, "the trailers are malformed")
        self.data_received(b"", is_end=True)

    def data_received(self, data: bytes, *, is_end: bool) -> None:
        """Take a part of the request."""
        if self._is_half_closed:
            raise StreamFault(ErrorCode.STREAM_CLOSED, "the request has ended")
        self._is_half_closed = is_end
        self._received += len(data)
        expected = self._request.content_length
        if expected is not None and (
            self._received > expected or (is_end and self._received != expected)
        ):
            raise StreamFault(ErrorCode.PROTOCOL_ERROR, "`content-length` is not that of the body")
        if self.is_over:
            return
        if is_end and self._inbox is None and self._reader is None:
            self._message = messages.only_message(data)
            if self._message is not None and len(self._message) <= self._connection.message_limit:
                self._run()
                return
            self._message = None
        try:
            self._read(data, is_end=is_end)
        except MessageError as error:
            self.end(_EXHAUSTED if error.is_too_large else _INTERNAL, str(error))

    def ended(self, error: StreamEndedError) -> None:
        """Cancel the handler: nobody waits for its answer any more."""
        self._stop()

    def end(self, code: int, text: str, head: bytes = b"") -> None:
        """End the call with a status that is not its handler's; the handler is cancelled.

        `head` is fields that go with a status before which nothing was sent.
        """
        if self.is_over:
            return
        self._stop()
        self._initial += head
        if self.side.is_midway:
            self._connection.reset(self, ErrorCode.CANCEL)
        else:
            self._finish(code, text)

    def _read(self, data: bytes, *, is_end: bool) -> None:
        if self._reader is None:
            self._reader = MessageReader(self._connection.message_limit, self._request.encoding)
        for message in self._reader.feed(data):
            if self._inbox is not None:
                self._inbox.put(message)
            elif self._message is not None:
                raise MessageError("a call of this method has one message, and more have come")
            else:
                self._message = message
        if is_end:
            if not self._reader.is_between:
                raise MessageError("the request ends in the middle of a message")
            if self._inbox is not None:
                self._inbox.finish()
            elif self._message is None:
                raise MessageError(_NO_MESSAGE)
            else:
                self._run()
        else:
            self._replenish()

    def _replenish(self) -> None:
        if self._inbox is None or not self._inbox.is_full:
            self._connection.make_room(self)

    # Serving

    def _run(self) -> None:
        self._task = self._connection.start(self._serve(), self._request.path)

    def _stop(self) -> None:
        self.is_over = True
        self.side.end(_OVER)
        # The handler may still read it; here it would keep itself and this call alive.
        self._inbox = None
        if self._timer is not None:
            self._timer.cancel()
        if self._task is not None and self._task is not asyncio.current_task():
            self._task.cancel()

    def _expire(self) -> None:
        self.end(_DEADLINE, "the deadline has passed")

    async def _serve(self) -> None:
        try:
            code = await self._handle()
        except asyncio.CancelledError:
            if not self.is_over:
                # Cancelled from within, by whoever ended this task.
                self.end(_CANCELLED, "the call was cancelled")
            return
        except Aborted:
            code = self._code.value[0] if self._code is not None else _OK
            # What was aborted has not ended well.
            code = _UNKNOWN if code == _OK else code
        # The boundary to the caller: what is raised here is a defect of a handler.
        except Exception as error:
            if self.is_over and isinstance(error, StreamEndedError):
                # The caller has left.
                return
            log.exception("unexpected error in a handler", extra={"path": self._request.path})
            code, self._details, self._trailing = _UNKNOWN, "unexpected error", ()
        # There is nothing left to cancel.
        self._task = None
        if not self.is_over:
            self._finish(code, self._details)

    async def _handle(self) -> int:
        method = self._method
        assert method is not None  # noqa: S101 - `begin` comes before any request
        handler: Any
        if method.request_streaming:
            request: Any = self._inbox
            handler = method.stream_stream if method.response_streaming else method.stream_unary
        else:
            decode, request = method.request_deserializer, self._message
            self._message = None
            if decode is not None:
                try:
                    request = decode(request)
                # Whatever a decoder raises means the same.
                except Exception:
                    self._details = "the request cannot be decoded"
                    return _INTERNAL
            handler = method.unary_stream if method.response_streaming else method.unary_unary
        answer: Any = handler(request, self)
        if not method.response_streaming:
            return await self._answer(answer)
        if hasattr(answer, "__aiter__"):
            try:
                async for message in answer:
                    await self.write(message)
            finally:
                # Left half way, it would be ended by the garbage collector: some time, outside of
                # the call.
                if hasattr(answer, "aclose"):
                    await answer.aclose()
        else:
            await answer
        return _OK if self._code is None else self._code.value[0]

    async def _answer(self, answer: Awaitable[Any]) -> int:
        message = await answer
        if self._code is not None and self._code is not grpc.StatusCode.OK:
            code: int = self._code.value[0]
            return code
        raw: bytes = message if self._encode is None else self._encode(message)
        # It may be a while until the caller has taken the bytes.
        del message
        if self.is_over:
            return _OK
        trailers = self._trailers(_OK, "")
        before = messages.prefix(raw)
        connection = self._connection
        # One besides it may be a watch.
        is_alone = len(connection.streams) <= _FEW
        out = connection.out
        if out.try_send(self.side, self._head(), (before, raw), trailers, at_once=is_alone):
            self._task = None
            self.close()
            return _OK
        await self._write(raw)
        return _OK

    async def _write(self, raw: bytes) -> None:
        if self._is_writing or self.side.is_midway:
            # What is sent now would be taken for the rest of the message that was begun.
            raise RuntimeError("another message of the call has not been sent whole")
        prefix = messages.prefix(raw)
        if self._connection.out.try_send(self.side, self._head(), (prefix, raw), b""):
            self._is_head_sent = True
            return
        self._send(self._head())
        self._is_writing = True
        try:
            await self._connection.out.send(self.side, raw, prefix)
            self.side.is_midway = False
        finally:
            self._is_writing = False

    def _head(self) -> bytes:
        if self._is_head_sent:
            return b""
        return self._block(_HEAD + self._initial, end_stream=False)

    def _block(self, block: bytes, *, end_stream: bool) -> bytes:
        return self._connection.out.block(self.side.stream_id, block, end_stream=end_stream)

    def _send(self, data: bytes) -> None:
        self._is_head_sent = True
        if data and not self.is_over:
            self._connection.out.write(data)

    def _trailers(self, code: int, text: str) -> bytes:
        status = metadata.write_status(code, text) + metadata.write_pairs(self._trailing)
        # Without anything before it, the status is head and trailers at once.
        before = b"" if self._is_head_sent or code == _OK else _HEAD + self._initial
        return self._block(before + status, end_stream=True)

    def _finish(self, code: int, text: str) -> None:
        """Send the status."""
        if self.side.is_midway:
            self._task = self._connection.start(self._finish_later(code, text), self._request.path)
            return
        try:
            trailers = self._trailers(code, text)
        except ValueError:
            log.exception("metadata that cannot be sent", extra={"path": self._request.path})
            self._trailing = ()
            trailers = self._trailers(_INTERNAL, "unexpected error")
        if code == _OK:
            trailers = self._head() + trailers
        self._connection.out.write(trailers)
        self.close()

    async def _finish_later(self, code: int, text: str) -> None:
        """Send the status behind the rest of a message that the handler has given up."""
        with suppress(StreamEndedError):
            await self._connection.out.send(self.side, self.side.rest)
            self.side.is_midway = False
            self._finish(code, text)

    def close(self) -> None:
        """Forget the stream: its last frame is written."""
        self._stop()
        if self._is_half_closed:
            self._connection.forget(self)
        else:
            # Facts: RFC 9113, 8.1: an answer may be whole before the request is, and says so.
            self._connection.reset(self, ErrorCode.NO_ERROR)
