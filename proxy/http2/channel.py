"""A channel to one address: a connection that is made when it is needed, and calls on it.

States, as `grpc.ChannelConnectivity` names them::

    IDLE               --a call, or `get_state(try_to_connect=True)`--> CONNECTING
    CONNECTING         --connected----> READY
    CONNECTING         --failed-------> TRANSIENT_FAILURE
    TRANSIENT_FAILURE  --the back-off is over: with calls that wait, another attempt (the state
                         stays until one succeeds), else IDLE
    READY              --lost, or the peer takes no more calls--> IDLE
    any                --`close`------> SHUTDOWN

A call that does not wait for a connection fails with UNAVAILABLE at once while there is none, and
an attempt has failed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from random import Random
from types import TracebackType
from typing import Final, Self, TypeVar

import grpc

from proxy.http2.calls import StreamCall, UnaryCall
from proxy.http2.dialled import (
    ChannelLimits,
    DialError,
    DialledConnection,
    Security,
    dial,
    head_of,
)
from proxy.http2.metadata import Pair
from proxy.http2.outgoing import OutgoingCall

R = TypeVar("R")

State = grpc.ChannelConnectivity
_BACKOFF: Final = 1.6
_JITTER: Final = 0.2
# How long what was written last may take to go out (seconds).
_LAST_BYTES: Final = 1.0


class Channel:
    """Makes calls to the peer at `address`: `host:port`, `[v6]:port` or `unix:path`.

    `authority` is the name that calls are for, the address without it. For one event loop, which
    must run when it is made.
    """

    def __init__(
        self,
        address: str,
        *,
        limits: ChannelLimits,
        authority: str | None = None,
        security: Security | None = None,
        rng: Random | None = None,
    ) -> None:
        self.address = address
        self.limits = limits
        self.security = security
        self.loop = asyncio.get_running_loop()
        self._authority = authority or address
        self._rng = rng or Random()  # noqa: S311 - nobody is to be kept from guessing
        self._heads: dict[str, bytes] = {}
        self._state = State.IDLE
        self._watchers: set[asyncio.Future[None]] = set()
        self._waiting: dict[OutgoingCall, None] = {}
        self._connection: DialledConnection | None = None
        self._connections: set[DialledConnection] = set()
        self._connecting: asyncio.Task[None] | None = None
        self._backoff = limits.reconnect_min
        self._reason = ""

    # Calls

    def unary(
        self,
        path: str,
        request: bytes,
        decode: Callable[[bytes], R],
        *,
        timeout: float | None = None,
        metadata: Iterable[Pair] = (),
        wait_for_ready: bool = False,
    ) -> UnaryCall[R]:
        """Make a call with one answer. `ValueError` for metadata that cannot be sent."""
        call = UnaryCall(
            *(self, path, request, decode),
            timeout=timeout,
            pairs=tuple(metadata),
            waits=wait_for_ready,
        )
        self.begin(call)
        return call

    def stream(
        self,
        path: str,
        request: bytes,
        decode: Callable[[bytes], R],
        *,
        timeout: float | None = None,
        metadata: Iterable[Pair] = (),
        wait_for_ready: bool = False,
    ) -> StreamCall[R]:
        """Make a call whose answer is a stream. `ValueError` for metadata that cannot be sent."""
        call = StreamCall(
            *(self, path, request, decode),
            timeout=timeout,
            pairs=tuple(metadata),
            waits=wait_for_ready,
        )
        self.begin(call)
        return call

    def begin(self, call: OutgoingCall) -> None:
        """Send a call, or have it wait until it can be."""
        connection = self._connection
        size, limit = len(call.request), self.limits.message
        if size > limit:
            call.refuse(f"the request has {size} bytes, more than the {limit} that may be sent")
        elif connection is not None and connection.has_room and not self._waiting:
            connection.submit(call)
        elif self._state is State.SHUTDOWN:
            call.not_sent("the channel is closed")
        elif self._state is State.TRANSIENT_FAILURE and not call.waits:
            call.not_sent(self._reason)
        else:
            self._waiting[call] = None
            self._connect()

    def forget(self, call: OutgoingCall) -> None:
        """Have a call wait no more."""
        self._waiting.pop(call, None)

    def head(self, path: str) -> bytes:
        """Return the fields that all calls of a method have."""
        found = self._heads.get(path)
        if found is None:
            is_tls = self.security is not None
            found = self._heads[path] = head_of(path, self._authority, is_tls=is_tls)
        return found

    # State

    def get_state(self, try_to_connect: bool = False) -> grpc.ChannelConnectivity:
        """Return the state; with `try_to_connect` an idle channel begins to connect."""
        if try_to_connect:
            self._connect()
        return self._state

    async def wait_for_state_change(self, last: grpc.ChannelConnectivity) -> None:
        """Wait until the state is another than `last`."""
        while self._state is last:
            watcher = self.loop.create_future()
            self._watchers.add(watcher)
            try:
                await watcher
            finally:
                self._watchers.discard(watcher)

    async def channel_ready(self) -> None:
        """Wait until the channel is connected, for however many attempts."""
        while (state := self.get_state(try_to_connect=True)) is not State.READY:
            if state is State.SHUTDOWN:
                raise RuntimeError(f"the channel to {self.address} is closed")
            await self.wait_for_state_change(state)

    def _set(self, state: grpc.ChannelConnectivity) -> None:
        if self._state is State.SHUTDOWN:
            return
        self._state = state
        for watcher in self._watchers:
            if not watcher.done():
                watcher.set_result(None)

    # Connecting

    def _connect(self) -> None:
        if self._state is State.IDLE:
            self._set(State.CONNECTING)
            name = f"http2 {self.address} connecting"
            self._connecting = self.loop.create_task(self._keep_trying(), name=name)

    async def _keep_trying(self) -> None:
        while True:
            began = self.loop.time()
            try:
                connection = await dial(self)
            except DialError as error:
                self._failed(f"failed to connect to {self.address}: {error}")
            else:
                if not connection.is_leaving:
                    break
                # It has come and gone meanwhile.
                self._failed(f"failed to connect to {self.address}: the connection was lost")
            pause = self._backoff * self._rng.uniform(1 - _JITTER, 1 + _JITTER)
            self._backoff = min(self.limits.reconnect_max, self._backoff * _BACKOFF)
            await asyncio.sleep(began + pause - self.loop.time())
            if not self._waiting:
                self._set(State.IDLE)
                return
        self._connecting = None
        self._backoff = self.limits.reconnect_min
        self._connections.add(connection)
        connection.gone.add_done_callback(lambda _: self._connections.discard(connection))
        self._connection = connection
        self._set(State.READY)
        self.has_room(connection)

    def _failed(self, reason: str) -> None:
        self._reason = reason
        self._set(State.TRANSIENT_FAILURE)
        for call in [call for call in self._waiting if not call.waits]:
            self._waiting.pop(call, None)
            call.not_sent(reason)

    # What connections tell

    def has_room(self, connection: DialledConnection) -> None:
        """Send the calls that wait, as far as there is room."""
        while self._waiting and connection is self._connection and connection.has_room:
            call = next(iter(self._waiting))
            del self._waiting[call]
            connection.submit(call)

    def left(self, connection: DialledConnection) -> None:
        """Take note that a connection takes no new calls."""
        if connection is self._connection:
            self._connection = None
            self._set(State.IDLE)
            if self._waiting:
                self._connect()

    # End

    async def close(self) -> None:
        """Cancel all calls and close the connections. Idempotent."""
        if self._state is State.SHUTDOWN:
            return
        connecting, self._connecting = self._connecting, None
        self._connection = None
        self._set(State.SHUTDOWN)
        for call in tuple(self._waiting):
            call.cancel()
        for connection in tuple(self._connections):
            for stream in tuple(connection.streams.values()):
                if isinstance(stream, OutgoingCall):
                    stream.cancel()
            connection.hang_up()
        if connecting is not None:
            connecting.cancel()
            await asyncio.wait({connecting})
        await self._until_gone()

    async def _until_gone(self) -> None:
        connections = tuple(self._connections)
        try:
            if connections:
                await asyncio.wait([one.gone for one in connections], timeout=_LAST_BYTES)
        finally:
            for connection in connections:
                connection.transport.abort()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()
