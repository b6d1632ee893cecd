"""An answer that comes as a stream, held back until it is safe to hand on.

States of a stream::

    NEW     --complete, or more than `hold_bytes` arrived--> FLOWING
    NEW     --breaks--> NEW on another backend, from the start; what was held is dropped
    FLOWING --last message, a break, or `aclose`-----------> ENDED

Messages of two attempts are never mixed: they may come from two snapshots, and a list of splits
made of both could show a merged split beside those it replaced. So a stream that breaks once
something was handed on fails with `Unavailable`, and the caller repeats the whole call.
"""

from __future__ import annotations

import asyncio
import weakref
from collections import deque
from collections.abc import Callable
from types import TracebackType
from typing import Generic, Self, TypeVar

from google.protobuf.message import DecodeError

from proxy import errors
from proxy.client.answers import Served, read_served
from proxy.client.attempts import Attempt, Call
from proxy.client.connection import Method, Q
from proxy.client.failover import Failover
from proxy.client.wire import Failure
from proxy.errors import Code
from proxy.http2.answer import CallError
from proxy.http2.calls import StreamCall

R = TypeVar("R")


class _Flow(Generic[R]):
    """One attempt's call. Kept apart from the stream, so that a forgotten stream can end it.

    `first_within` is how many seconds its first message may take.
    """

    def __init__(
        self,
        failover: Failover,
        attempt: Attempt,
        call: StreamCall[R],
        first_within: float,
    ) -> None:
        self.failover = failover
        self.attempt = attempt
        self.call = call
        self.first_within = first_within

    def end(self, code: Code = Code.CANCELLED) -> None:
        """Cancel the call unless it is over, and take the attempt out of flight. Idempotent."""
        self.call.cancel()
        if not self.attempt.is_ended:
            self.failover.broke_off(self.attempt)
        self.failover.end(self.attempt, code)


def _sending(method: Method[Q, R], request: Q) -> Callable[[Attempt, bool], StreamCall[R]]:
    def send(attempt: Attempt, has_other: bool) -> StreamCall[R]:
        return attempt.connection.start_stream(
            method,
            request,
            timeout=max(0.0, attempt.call.time_left),
            metadata=attempt.metadata,
            may_be_cut=has_other,
        )

    return send


class AnswerStream(Generic[R]):
    """An async iterator over the messages of an answer.

    The call begins with the first message asked for; nothing is read ahead of the caller beyond
    `hold_bytes`. `served_by`, `role`, `route`, `lag` and `backend` are known from the first message
    on, as far as the node says so early, and complete at the end, with `lsn`; None before.

    Ends with a `MetastoreError` when the call fails. `aclose` (or leaving `async with`) cancels the
    call; so does dropping the stream. Not for use by two tasks at once.
    """

    def __init__(
        self,
        begin: Callable[[], tuple[Failover, Call]],
        method: Method[Q, R],
        request: Q,
        size: Callable[[R], int],
    ) -> None:
        self._begin = begin
        self._send = _sending(method, request)
        self._size = size
        self._held: deque[R] = deque()
        self._flow: _Flow[R] | None = None
        self._finalizer: weakref.finalize[..., AnswerStream[R]] | None = None
        self._served: Served | None = None
        self._handed_on = 0
        self._is_new = True
        self._is_complete = False

    @property
    def served(self) -> Served | None:
        """The facts about the answer, or None before the first message."""
        return self._served

    @property
    def served_by(self) -> str | None:
        """The ID of the node that serves the stream, or its address if it does not say."""
        return self._served.served_by if self._served is not None else None

    @property
    def role(self) -> str | None:
        """What the node calls itself."""
        return self._served.role if self._served is not None else None

    @property
    def route(self) -> str | None:
        """`replica`, `primary`, `fallback` or `stale`."""
        return self._served.route if self._served is not None else None

    @property
    def lag(self) -> float | None:
        """How old the data may be, in seconds; None when unknown."""
        return self._served.lag if self._served is not None else None

    @property
    def backend(self) -> str | None:
        """The address of the backend."""
        return self._served.backend if self._served is not None else None

    @property
    def lsn(self) -> str | None:
        """A position at or after everything the call saw; see `Served`."""
        return self._served.lsn if self._served is not None else None

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> R:
        if self._is_new:
            self._is_new = False
            await self._open()
        if self._held:
            self._handed_on += 1
            return self._held.popleft()
        if self._is_complete or self._flow is None:
            raise StopAsyncIteration
        return await self._read_on(self._flow)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Cancel the call if it is under way; the stream gives nothing more. Idempotent."""
        self._is_new = False
        self._held.clear()
        if self._flow is not None:
            self._flow.end()
            self._flow = None

    # While nothing has been handed on

    async def _open(self) -> None:
        failover, call = self._begin()
        while True:
            attempt = await failover.next_attempt(call)
            flow = self._start(failover, attempt)
            try:
                await self._hold(flow)
            except CallError as error:
                self._drop(flow)
                failover.failed(attempt, attempt.connection.failure(error))
            except TimeoutError:
                self._drop(flow)
                late = errors.Timeout(
                    f"{attempt.connection.address} sent nothing within "
                    f"{failover.options.attempt_timeout:g} s"
                )
                failover.failed(attempt, Failure(late, Code.DEADLINE_EXCEEDED, is_explicit=False))
            except asyncio.CancelledError:
                self._drop(flow)
                if not failover.cut_off(attempt):
                    flow.end()
                    raise
            except BaseException:
                flow.end()
                raise
            else:
                return

    def _start(self, failover: Failover, attempt: Attempt) -> _Flow[R]:
        has_other = failover.has_other(attempt)
        call = self._send(attempt, has_other)
        flow = _Flow(failover, attempt, call, failover.attempt_time(attempt, has_other=has_other))
        if self._finalizer is not None:
            self._finalizer.detach()
        # Without it a stream that is not read to its end would stay in flight to its deadline.
        self._finalizer = weakref.finalize(self, flow.end)
        self._finalizer.atexit = False
        self._flow = flow
        return flow

    def _drop(self, flow: _Flow[R]) -> None:
        """Forget what a broken attempt has sent."""
        flow.call.cancel()
        self._held.clear()
        self._flow = None

    async def _hold(self, flow: _Flow[R]) -> None:
        limit = flow.failover.options.hold_bytes
        async with asyncio.timeout(flow.first_within):
            message = await self._read(flow)
        size = 0
        while message is not None:
            self._held.append(message)
            size += self._size(message)
            if size > limit:
                headers = flow.call.headers
                self._served = read_served(flow.attempt.choice, headers, (), flow.attempt.lag)
                flow.attempt.connection.keep(flow.call)
                return
            message = await self._read(flow)

    # Afterwards

    async def _read_on(self, flow: _Flow[R]) -> R:
        try:
            message = await self._read(flow)
        except CallError as error:
            self._flow = None
            failure = flow.attempt.connection.failure(error)
            flow.failover.broke_off(flow.attempt)
            flow.failover.failed(flow.attempt, failure)
            raise self._broken(flow, str(failure.error)) from error
        except asyncio.CancelledError:
            self._flow = None
            if not flow.failover.cut_off(flow.attempt):
                flow.end()
                raise
            raise self._broken(flow, "its connection was closed") from None
        if message is None:
            raise StopAsyncIteration
        self._handed_on += 1
        return message

    def _broken(self, flow: _Flow[R], why: str) -> errors.Unavailable:
        return errors.Unavailable(
            f"{flow.attempt.call.rpc.name} broke after {self._handed_on} messages of "
            f"{flow.attempt.connection.address}, repeat the call: {why}"
        )

    async def _read(self, flow: _Flow[R]) -> R | None:
        """Return the next message; None after the last, when the facts are complete."""
        try:
            message = await flow.call.read()
        except DecodeError as error:
            flow.end(Code.INTERNAL)
            whose = flow.attempt.connection.address
            raise errors.Internal(f"a message of {whose} does not parse") from error
        if message is not None:
            # A node that is busy sending may be late with its other answers: it is not hung.
            flow.attempt.connection.heard()
            return message
        call, attempt = flow.call, flow.attempt
        self._served = read_served(attempt.choice, call.headers, call.trailers, attempt.lag)
        self._is_complete = True
        self._flow = None
        flow.failover.answered(flow.attempt, self._served)
        return None
