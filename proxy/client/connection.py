"""One backend's channel, the task that watches its health, and the calls under way on it.

States and what moves between them::

    CONNECTING --first health answer--> SERVING | NOT_SERVING
    any        --watch breaks---------> DOWN          (then again, with back-off)
    SERVING    --call found it dead---> DOWN          (then again, with back-off)
    DOWN       --next health answer---> SERVING | NOT_SERVING

Facts: a backend without the health service answers UNIMPLEMENTED; it counts as serving while its
channel is READY.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import Final, Generic, Protocol, TypeVar

import grpc
from grpc_health.v1 import health_pb2

from proxy.client.answers import Metadata
from proxy.client.options import ClientOptions
from proxy.client.wire import read_failure
from proxy.errors import Code
from proxy.routing.members import BackendState

_WATCH: Final = "/grpc.health.v1.Health/Watch"
_READY: Final = grpc.ChannelConnectivity.READY
_BROKEN: Final = (
    grpc.ChannelConnectivity.TRANSIENT_FAILURE,
    grpc.ChannelConnectivity.SHUTDOWN,
)
# Of the wait before a reconnect, this part is drawn at random, so that clients spread out.
_JITTER: Final = 0.5

Q = TypeVar("Q")
R = TypeVar("R")


class StateListener(Protocol):
    """Whoever keeps the snapshot that a backend's state goes into."""

    def __call__(self, address: str, state: BackendState, reason: str, /) -> None:
        """Take note of a state; the same one may be told again."""


@dataclass(frozen=True)
class Method(Generic[Q, R]):
    """How one RPC's messages become bytes and back."""

    path: str
    encode: Callable[[Q], bytes]
    decode: Callable[[bytes], R]


class Connection:
    """Owns the channel to one address.

    `open` starts the watch and returns at once; `close` ends it, gives calls under way a bound,
    then cancels them. `epoch` counts the connections that were found serving.
    """

    def __init__(
        self,
        address: str,
        on_state: StateListener,
        *,
        options: ClientOptions,
        rng: Random,
        authority: str | None = None,
    ) -> None:
        self.address = address
        self.epoch = 0
        self.is_closing = False
        self._on_state = on_state
        self._options = options
        self._rng = rng
        self._authority = authority
        self._channel: grpc.aio.Channel | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._watching: asyncio.Task[None] | None = None
        self._calls: set[grpc.aio.Call] = set()
        self._idle = asyncio.Event()
        self._idle.set()
        self._failures = 0
        self._state = BackendState.CONNECTING

    def open(self) -> None:
        """Make the channel and start to watch. Does nothing when already open."""
        if self._channel is not None or self.is_closing:
            return
        self._channel = grpc.aio.insecure_channel(
            self.address, options=self._options.channel_arguments(self._authority)
        )
        self._start_watch(self._channel)

    async def close(self, timeout: float = 0.0) -> None:
        """End the watch; give calls `timeout` seconds, then cancel them. Idempotent.

        A call that is cancelled this way fails for its caller with `Unavailable`.
        """
        self.is_closing = True
        tasks = tuple(self._tasks)
        for task in tasks:
            task.cancel()
        try:
            if tasks:
                await asyncio.wait(tasks)
            if timeout > 0:
                await asyncio.wait_for(self._idle.wait(), timeout)
        except TimeoutError:
            pass
        finally:
            channel, self._channel = self._channel, None
            for call in tuple(self._calls):
                call.cancel()
            if channel is not None:
                await channel.close()

    # Calls

    def start_unary(
        self, method: Method[Q, R], request: Q, *, timeout: float, metadata: Metadata
    ) -> grpc.aio.UnaryUnaryCall[Q, R]:
        """Send a unary call. The connection must be open."""
        channel = self._open_channel()
        send: grpc.aio.UnaryUnaryMultiCallable[Q, R] = channel.unary_unary(
            method.path, method.encode, method.decode
        )
        call = send(request, timeout=timeout, metadata=tuple(metadata))
        self._track(call)
        return call

    def start_stream(
        self, method: Method[Q, R], request: Q, *, timeout: float, metadata: Metadata
    ) -> grpc.aio.UnaryStreamCall[Q, R]:
        """Send a call whose answer is a stream. The connection must be open."""
        channel = self._open_channel()
        send: grpc.aio.UnaryStreamMultiCallable[Q, R] = channel.unary_stream(
            method.path, method.encode, method.decode
        )
        call = send(request, timeout=timeout, metadata=tuple(metadata))
        self._track(call)
        return call

    def _open_channel(self) -> grpc.aio.Channel:
        if self._channel is None:
            raise RuntimeError(f"the connection to {self.address} is not open")
        return self._channel

    def _track(self, call: grpc.aio.Call) -> None:
        self._calls.add(call)
        self._idle.clear()
        call.add_done_callback(self._untrack)

    def _untrack(self, call: grpc.aio.Call) -> None:
        self._calls.discard(call)
        if not self._calls:
            self._idle.set()

    async def connect(self, timeout: float) -> bool:
        """Wait up to `timeout` seconds for the channel to be READY; tell whether it is.

        False at once when an attempt to connect has failed.
        """
        channel = self._open_channel()
        try:
            async with asyncio.timeout(timeout):
                while (state := channel.get_state(try_to_connect=True)) is not _READY:
                    if state in _BROKEN:
                        return False
                    await channel.wait_for_state_change(state)
        except TimeoutError:
            return False
        return True

    def report_dead(self, epoch: int, reason: str) -> None:
        """Take note that a call found the backend dead; it is DOWN until the watch starts anew.

        A call that began before the present connection says nothing about it: without the check of
        its epoch, a late failure from before a restart would take the new process out.
        """
        if epoch != self.epoch or self._state is not BackendState.SERVING:
            return
        channel = self._channel
        if channel is None or self.is_closing:
            return
        self._set(BackendState.DOWN, reason)
        self._failures += 1
        if self._watching is not None:
            self._watching.cancel()
        self._start_watch(channel)

    # Health

    def _set(self, state: BackendState, reason: str) -> None:
        if state is BackendState.SERVING and self._state is not state:
            self.epoch += 1
        self._state = state
        self._on_state(self.address, state, reason)

    def _start_watch(self, channel: grpc.aio.Channel) -> None:
        task = asyncio.create_task(self._watch(channel), name=f"metastore-client {self.address}")
        self._watching = task
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _watch(self, channel: grpc.aio.Channel) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(self._delay())
            started = loop.time()
            reason = await self._watch_once(channel)
            self._set(BackendState.DOWN, reason)
            lasted = loop.time() - started > 2 * self._options.reconnect_max
            # A connection that held is tried again at once: it may have been closed for its age.
            self._failures = 0 if lasted else self._failures + 1

    def _delay(self) -> float:
        if self._failures == 0:
            return 0.0
        full = self._options.reconnect_min * 2.0 ** min(self._failures - 1, 16)
        delay = min(self._options.reconnect_max, full)
        return delay * (1.0 - _JITTER * self._rng.random())

    async def _watch_once(self, channel: grpc.aio.Channel) -> str:
        """Follow the backend's health until it cannot be followed; return why."""
        watch: grpc.aio.UnaryStreamMultiCallable[
            health_pb2.HealthCheckRequest, health_pb2.HealthCheckResponse
        ] = channel.unary_stream(
            _WATCH,
            health_pb2.HealthCheckRequest.SerializeToString,
            health_pb2.HealthCheckResponse.FromString,
        )
        # A backend that is already DOWN is waited for; otherwise a refusal must be seen at once.
        call = watch(
            health_pb2.HealthCheckRequest(service=self._options.health_service),
            wait_for_ready=self._state is BackendState.DOWN,
        )
        try:
            async for answer in call:
                # The library hands over None for an answer that does not parse.
                if getattr(answer, "status", None) == health_pb2.HealthCheckResponse.SERVING:
                    self._set(BackendState.SERVING, "health check")
                else:
                    self._set(BackendState.NOT_SERVING, "health check")
        except grpc.aio.AioRpcError as error:
            failure = read_failure(error)
            if failure.code is not Code.UNIMPLEMENTED:
                return str(failure.error)
        else:
            return "the health watch ended"
        finally:
            call.cancel()
        return await self._follow_channel(channel)

    async def _follow_channel(self, channel: grpc.aio.Channel) -> str:
        """Take READY for serving, for a backend without a health service."""
        await channel.channel_ready()
        self._set(BackendState.SERVING, "connected; it has no health service")
        while channel.get_state() is _READY:
            await channel.wait_for_state_change(_READY)
        return "the connection was lost"
