"""One call on the caller's side: its request, its answer, and its end, which comes once.

States of a call::

    WAITING  --a connection has room--> SENT
    WAITING  --none can be made-------> ENDED: UNAVAILABLE, certainly not sent
    SENT     --refused, or left unread by a peer that goes--> WAITING, a few times; then as above
    SENT     --status, reset, fault, connection lost--------> ENDED
    any      --deadline, `cancel`---------------------------> ENDED
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, Final

import grpc

from proxy.http2 import messages, metadata
from proxy.http2.answer import CallError, Fields, code_of_reset, read_status, refusal_of_head
from proxy.http2.faults import StreamEndedError, StreamFault
from proxy.http2.fields import literal
from proxy.http2.frames import ErrorCode
from proxy.http2.messages import MessageError, MessageReader
from proxy.http2.metadata import Metadata

if TYPE_CHECKING:
    from proxy.http2.channel import Channel
    from proxy.http2.dialled import DialledConnection
    from proxy.http2.outflow import SendSide

_OK: Final = grpc.StatusCode.OK
_CANCELLED: Final = grpc.StatusCode.CANCELLED
_INTERNAL: Final = grpc.StatusCode.INTERNAL
_UNAVAILABLE: Final = grpc.StatusCode.UNAVAILABLE
_OVER: Final = StreamEndedError(ErrorCode.CANCEL, "the call is over")
# Facts: a server of the gRPC library may still count a call whose end it has sent, and refuse the
# next one that it has promised to take.
_REFUSED: Final = (0.0, 0.005, 0.02, 0.1)
# What a deadline may be over sooner for the peer, to which it was sent rounded (seconds).
_CLOCK_SLACK: Final = 0.01


class OutgoingCall:
    """What a call is, whatever its answer. To be made by a channel.

    `headers` and `trailers` are what came before and with the status. A callback of
    `add_done_callback` is called with the call when it ends, at once if it has.
    """

    __slots__ = (
        "__weakref__",
        "_callbacks",
        "_channel",
        "_connection",
        "_deadline",
        "_is_sent",
        "_reader",
        "_retries",
        "_sending",
        "_timer",
        "_unsent",
        "_waiter",
        "details",
        "fields",
        "head",
        "headers",
        "is_cancelled",
        "is_done",
        "path",
        "receive_window",
        "request",
        "side",
        "status",
        "trailers",
        "waits",
    )

    def __init__(
        self,
        channel: Channel,
        path: str,
        request: bytes,
        *,
        timeout: float | None,
        pairs: Metadata,
        waits: bool,
    ) -> None:
        self.path = path
        self.request = request
        self.fields = metadata.write_pairs(pairs) if pairs else b""
        self.waits = waits
        self.side: SendSide
        self.receive_window = 0
        self.head: Fields | None = None
        self.headers: Metadata = ()
        self.trailers: Metadata = ()
        self.status: grpc.StatusCode | None = None
        self.details = ""
        self.is_done = False
        self.is_cancelled = False
        self._unsent = False
        self._channel = channel
        self._connection: DialledConnection | None = None
        self._reader: MessageReader | None = None
        self._is_sent = False
        self._sending: asyncio.Task[None] | None = None
        self._retries = 0
        self._waiter: asyncio.Future[None] | None = None
        self._callbacks: list[Callable[[Any], None]] = []
        self._timer: asyncio.TimerHandle | None = None
        self._deadline = 0.0
        if timeout is not None:
            loop = channel.loop
            self._deadline = loop.time() + timeout
            self._timer = loop.call_at(self._deadline, self._expire)

    # What callers use

    def done(self) -> bool:
        """Tell whether the call is over; messages that came before may be left to read."""
        return self.is_done

    def cancelled(self) -> bool:
        """Tell whether the call was cancelled here."""
        return self.is_cancelled

    def cancel(self) -> bool:
        """End the call, here and at the peer. False when it is over."""
        if self.is_done:
            return False
        self.is_cancelled = True
        self._break_off(_CANCELLED, "the call was cancelled")
        return True

    def add_done_callback(self, callback: Callable[[Any], None]) -> None:
        """Call back when the call is over."""
        if self.is_done:
            callback(self)
        else:
            self._callbacks.append(callback)

    # What the channel and its connections tell

    def sent_on(self, connection: DialledConnection) -> None:
        """Take note of the connection whose stream the call has become."""
        self._connection = connection

    def timeout_field(self) -> bytes:
        """Return the deadline as a field."""
        if self._timer is None:
            return b""
        left = self._deadline - self._channel.loop.time()
        return literal(b"grpc-timeout", metadata.write_timeout(left))

    def sent(self) -> None:
        """Take note that the whole request is sent."""
        self._is_sent = True
        self._sending = None

    def send_by(self, task: asyncio.Task[None]) -> None:
        """Take note of who sends a request that did not go out at once."""
        self._sending = task

    def not_sent(self, reason: str) -> None:
        """End the call, which never left this process."""
        self._unsent = True
        self._end(_UNAVAILABLE, reason)

    def not_begun(self, reason: str, pauses: Sequence[float] = (0.0,)) -> None:
        """Send the call again: the peer says that it has not looked at it.

        That happens as often as there are `pauses` (in seconds) before it.
        """
        self._stop_sending()
        if self.is_done:
            return
        if self._retries >= len(pauses) or self.head is not None:
            self._unsent = self.head is None
            self._end(_UNAVAILABLE, reason)
            return
        pause = pauses[self._retries]
        self._retries += 1
        self._connection, self._is_sent = None, False
        if pause:
            self._channel.loop.call_later(pause, self._begin_again)
        else:
            self._channel.begin(self)

    def _begin_again(self) -> None:
        if not self.is_done:
            self._channel.begin(self)

    def refuse(self, text: str) -> None:
        """End the call before it is sent: it is too large."""
        self._end(grpc.StatusCode.RESOURCE_EXHAUSTED, text)

    def fields_received(self, fields: Sequence[tuple[bytes, bytes]], *, is_end: bool) -> None:
        """Take the head of the answer, or its trailers."""
        connection = self._connection
        if connection is None:
            return
        found = connection.fields_of(fields, is_end=is_end)
        if found.size > self._channel.limits.metadata:
            text = f"the answer's metadata takes {found.size} bytes, more than are taken"
            self._break_off(grpc.StatusCode.RESOURCE_EXHAUSTED, text)
        elif self.head is not None:
            if not is_end:
                raise StreamFault(ErrorCode.PROTOCOL_ERROR, "the answer has a second head")
            self.trailers = found.metadata
            self._complete(found.own)
        elif is_end and b"grpc-status" in found.own:
            # A failed call's head and trailers may be one.
            self.head, self.trailers = found, found.metadata
            self._complete(found.own)
        elif found.own.get(b":status", b"")[:1] != b"1" or is_end:
            self._begin_answer(found, is_end=is_end)

    def _begin_answer(self, head: Fields, *, is_end: bool) -> None:
        self.head, self.headers = head, head.metadata
        refusal = refusal_of_head(head)
        encoding = head.own.get(b"grpc-encoding", b"identity").decode("latin-1")
        if refusal is None and not messages.is_known(encoding):
            refusal = _INTERNAL, f"the answer's `grpc-encoding` {encoding[:64]!r} is unknown"
        if refusal is None and is_end:
            refusal = read_status(head.own)
        if refusal is not None:
            self._break_off(*refusal)
        elif encoding != "identity":
            self._reader = MessageReader(self._channel.limits.message, encoding)

    def data_received(self, data: bytes, *, is_end: bool) -> None:
        """Take a part of the answer."""
        if self.head is None:
            raise StreamFault(ErrorCode.PROTOCOL_ERROR, "the answer has no head")
        try:
            self._take(data)
        except MessageError as error:
            code = grpc.StatusCode.RESOURCE_EXHAUSTED if error.is_too_large else _INTERNAL
            self._break_off(code, str(error))
            return
        if is_end and not self.is_done:
            self._break_off(grpc.StatusCode.UNKNOWN, "the answer has no `grpc-status`")

    def ended(self, error: StreamEndedError) -> None:
        """Take note that the stream is over before its time."""
        connection = self._connection
        if connection is not None and connection.is_closed:
            self._fail(_UNAVAILABLE, connection.describe_end(str(error)))
        elif error.code == ErrorCode.REFUSED_STREAM:
            self.not_begun("the peer refused the call", _REFUSED)
        elif error.code == ErrorCode.CANCEL and self._is_late():
            # The peer keeps the deadline as well, and was first.
            self._fail(grpc.StatusCode.DEADLINE_EXCEEDED, "the deadline has passed")
        else:
            self._fail(code_of_reset(error.code), str(error))

    def _is_late(self) -> bool:
        if self._timer is None:
            return False
        return self._channel.loop.time() > self._deadline - _CLOCK_SLACK

    # Of the answer's kind

    def _take(self, data: bytes) -> None:
        """Take a part of the body. `MessageError` for what is no message."""
        raise NotImplementedError

    def _lacks(self) -> str:
        """Return what an answer lacks whose status is OK; "" for nothing."""
        raise NotImplementedError

    def _drop(self) -> None:
        """Forget what has come: the call failed."""

    def _feed(self, data: bytes) -> Iterable[bytes]:
        if self._reader is None:
            self._reader = MessageReader(self._channel.limits.message)
        return self._reader.feed(data)

    # Ends

    def _complete(self, own: dict[bytes, bytes]) -> None:
        code, text = read_status(own)
        if code is _OK:
            is_between = self._reader is None or self._reader.is_between
            lack = self._lacks() if is_between else "the answer ends in the middle of a message"
            if lack:
                code, text = _INTERNAL, lack
        connection = self._connection
        if connection is not None:
            if self._is_sent:
                connection.forget(self)
            else:
                connection.reset(self, ErrorCode.NO_ERROR)
        self._end(code, text)

    def _break_off(self, code: grpc.StatusCode, text: str) -> None:
        self._leave(ErrorCode.CANCEL)
        self._fail(code, text)

    def _expire(self) -> None:
        if not self.is_done:
            self._break_off(grpc.StatusCode.DEADLINE_EXCEEDED, "the deadline has passed")

    def _fail(self, code: grpc.StatusCode, text: str) -> None:
        self._drop()
        self._end(code, text)

    def _leave(self, code: ErrorCode) -> None:
        if self._connection is None:
            self._channel.forget(self)
        else:
            self._connection.reset(self, code)

    def _stop_sending(self) -> None:
        if self._sending is not None:
            self._sending.cancel()
            self._sending = None

    def _end(self, code: grpc.StatusCode, text: str) -> None:
        if self.is_done:
            return
        self.is_done = True
        self.status, self.details = code, text
        self.request = b""
        if self._timer is not None:
            self._timer.cancel()
        if self._connection is not None:
            self.side.end(_OVER)
            self._stop_sending()
            self._connection = None
        self._wake()
        callbacks, self._callbacks = self._callbacks, []
        for callback in callbacks:
            callback(self)

    def _wake(self) -> None:
        waiter = self._waiter
        if waiter is not None and not waiter.done():
            waiter.set_result(None)

    def _raise_unless_ok(self) -> None:
        if self.status is _OK:
            return
        if self.is_cancelled:
            raise asyncio.CancelledError
        assert self.status is not None  # noqa: S101 - a call that is over has one
        raise CallError(
            self.status,
            self.details,
            initial=self.headers,
            trailing=self.trailers,
            is_unsent=self._unsent,
        )
