"""One backend's channel, the task that watches its health, and the calls under way on it.

States and what moves between them::

    CONNECTING --first health answer--> SERVING | NOT_SERVING
    any        --watch breaks---------> DOWN          (then again, with back-off)
    SERVING    --call found it dead---> DOWN          (then again, with back-off)
    SERVING    --question unanswered--> DOWN          (then again, with back-off)
    DOWN       --next health answer---> SERVING | NOT_SERVING

With somebody to listen to reports, a backend that serves is asked how far its data are, again and
again, and for the first time before it counts as SERVING, so that one of another cluster's database
is known for that before it takes a call. A replica's node that answers while its database does not
is as hung as one that does not answer: its health would say so several seconds later.

Facts: a backend without the health service answers UNIMPLEMENTED; it counts as serving while its
channel is READY.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, replace
from random import Random
from typing import Final, Generic, Protocol, TypeVar

import grpc
from google.protobuf.message import DecodeError
from grpc_health.v1 import health_pb2

from proxy import errors
from proxy.client.answers import Metadata
from proxy.client.channels import Channels, until_ready
from proxy.client.line import Line
from proxy.client.options import ClientOptions
from proxy.client.replication import Heard, ReportListener, WorkerAsker, ask
from proxy.client.underway import CallsUnderWay
from proxy.client.wire import Failure, read_failure
from proxy.errors import Code
from proxy.http2.answer import CallError
from proxy.http2.calls import StreamCall, UnaryCall
from proxy.http2.channel import Channel
from proxy.http2.outgoing import OutgoingCall
from proxy.routing.freshness import Report
from proxy.routing.members import BackendState

_WATCH: Final = "/grpc.health.v1.Health/Watch"
_READY: Final = grpc.ChannelConnectivity.READY
_HUNG: Final = "a question for its replication position was not answered in time"
_STUCK: Final = "its database does not answer"
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


def _read_health(raw: bytes) -> int:
    """Return the status that a health answer has; an unknown one of what does not parse."""
    try:
        return health_pb2.HealthCheckResponse.FromString(raw).status
    except DecodeError:
        return health_pb2.HealthCheckResponse.UNKNOWN


class Connection:
    """Owns the channel to one address.

    `open` starts the watch and returns at once; `close` ends it, gives calls under way a bound,
    then cancels them. `epoch` counts the connections that were found serving. `options` may change.
    """

    def __init__(
        self,
        address: str,
        on_state: StateListener,
        *,
        options: ClientOptions,
        rng: Random,
        authority: str | None = None,
        on_report: ReportListener | None = None,
        channels: Channels | None = None,
    ) -> None:
        self.address = address
        self.authority = authority
        self.epoch = 0
        self.is_closing = False
        self._on_state = on_state
        self.options = options
        self._rng = rng
        self._on_report = None if on_report is None else self._only_while_open(on_report)
        self._last_heard = 0.0
        self._asking: asyncio.Task[None] | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._watching: asyncio.Task[None] | None = None
        self._calls = CallsUnderWay()
        self._cut_epoch = -1
        self._failures = 0
        self._state = BackendState.CONNECTING
        self._line = Line(
            address,
            authority,
            channels or Channels(options),
            calls=self._calls.all,
            drain_timeout=options.drain_timeout,
            rng=rng,
            start=self._start,
            on_trouble=lambda: self._tell(self.trouble),
            ask_worker=WorkerAsker(address, options.connect_timeout, options.freshness_timeout),
        )

    @property
    def trouble(self) -> str:
        """Why the backend cannot be reached, where that is known and for a person to mend."""
        return self._line.trouble

    def open(self) -> None:
        """Make the channel and start to watch. Does nothing when already open."""
        if self._line.channel is not None or self.is_closing:
            return
        self._line.open()
        self._start_watch()

    def renew(self) -> None:
        """Connect anew, as the TLS files have changed. No call fails by it."""
        if not self.is_closing:
            self._line.renew(self._is_connected, self._renewed)

    def _is_connected(self) -> bool:
        return self._state in (BackendState.SERVING, BackendState.NOT_SERVING)

    def _renewed(self) -> None:
        """Follow the backend on its new channel; what it says there is of no other."""
        self._start_watch()
        if self._asking is not None:
            self._asking.cancel()
            self._start_asking(self._line.current())

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
                await asyncio.wait_for(self._calls.wait(), timeout)
        except TimeoutError:
            pass
        finally:
            self._calls.cancel()
            await self._line.close()

    # Calls

    def start_unary(
        self,
        method: Method[Q, R],
        request: Q,
        *,
        timeout: float,
        metadata: Metadata,
        may_be_cut: bool = False,
    ) -> UnaryCall[R]:
        """Send a unary call. The connection must be open.

        One that `may_be_cut`, being possible elsewhere, ends when the backend hangs: see `was_cut`.
        """
        channel, note = self._line.for_call()
        sent = (method.path, method.encode(request), method.decode)
        call = channel.unary(*sent, timeout=timeout, metadata=metadata)
        self._calls.add(call, note, may_be_cut=may_be_cut)
        return call

    def start_stream(
        self,
        method: Method[Q, R],
        request: Q,
        *,
        timeout: float,
        metadata: Metadata,
        may_be_cut: bool,
    ) -> StreamCall[R]:
        """Send a call whose answer is a stream. As `start_unary`; cut until `keep` at most."""
        channel, note = self._line.for_call()
        sent = (method.path, method.encode(request), method.decode)
        call = channel.stream(*sent, timeout=timeout, metadata=metadata)
        self._calls.add(call, note, may_be_cut=may_be_cut)
        return call

    def keep(self, call: OutgoingCall) -> None:
        """Leave a call alone from here on: part of its answer is handed on, none may replace it."""
        self._calls.keep(call)

    async def connect(self, timeout: float) -> bool:
        """Wait up to `timeout` seconds for the channel to be READY; tell whether it is.

        False at once when an attempt to connect has failed.
        """
        return await until_ready(self._line.opened, timeout)

    async def find_trouble(self, timeout: float) -> str:
        """Return why the backend cannot be reached; with TLS it may take `timeout` seconds."""
        return await self._line.find_trouble(timeout)

    def failure(self, error: CallError) -> Failure:
        """Return what a failed call means, in our words when the backend cannot be reached."""
        failure = read_failure(error)
        if failure.is_explicit or failure.code is not Code.UNAVAILABLE or not self.trouble:
            return failure
        return replace(failure, error=errors.Unavailable(self.trouble))

    def heard(self) -> None:
        """Take note that the backend answered a call, if only in part or with an error."""
        self._last_heard = time.monotonic()

    def report_dead(self, epoch: int, reason: str) -> None:
        """Take note that a call found the backend dead; it is DOWN until the watch starts anew.

        A call that began before the present connection says nothing about it: without the check of
        its epoch, a late failure from before a restart would take the new process out.
        """
        if epoch != self.epoch or self._state is not BackendState.SERVING:
            return
        if self._line.channel is None or self.is_closing or self._line.is_whole():
            return
        self._set(BackendState.DOWN, reason)
        self._failures += 1
        self._start_watch()

    def was_cut(self, epoch: int) -> bool:
        """Tell whether the backend was found hung on the connection that `epoch` counts."""
        return epoch <= self._cut_epoch

    def _found_hung(self, epoch: int, reason: str) -> None:
        """Leave a backend that answers nothing, and end the calls that can be made elsewhere."""
        if epoch != self.epoch or self.is_closing:
            return
        self._cut_epoch = epoch
        self._calls.cut()
        self.report_dead(epoch, reason)

    # Health

    def _set(self, state: BackendState, reason: str) -> None:
        if self.is_closing:
            return
        if state is BackendState.SERVING and self._state is not state:
            self.epoch += 1
        self._state = state
        if state is not BackendState.SERVING and self._asking is not None:
            self._asking.cancel()
            self._asking = None
        self._line.look_into(is_down=state is BackendState.DOWN)
        self._tell(reason)

    def _tell(self, reason: str) -> None:
        # Another connection may have taken over the address already.
        if not self.is_closing:
            self._on_state(self.address, self._state, reason)

    def _start_watch(self) -> None:
        if self._watching is not None:
            self._watching.cancel()
        self._watching = self._start(self._watch(), "")

    def _start(self, work: Coroutine[object, object, None], what: str) -> asyncio.Task[None]:
        task = asyncio.create_task(work, name=f"metastore-client {self.address}{what}")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _watch(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(self._delay())
            started = loop.time()
            reason = await self._watch_once(self._line.current(), self.options.health_service)
            self._set(BackendState.DOWN, reason)
            lasted = loop.time() - started > 2 * self.options.reconnect_max
            # A connection that held is tried again at once: it may have been closed for its age.
            self._failures = 0 if lasted else self._failures + 1

    def _delay(self) -> float:
        if self._failures == 0:
            return 0.0
        full = self.options.reconnect_min * 2.0 ** min(self._failures - 1, 16)
        delay = min(self.options.reconnect_max, full)
        return delay * (1.0 - _JITTER * self._rng.random())

    async def _watch_once(self, channel: Channel, service: str) -> str:
        """Follow the backend's health until it cannot be followed; return why.

        Of a backend that does not know `service`, its health as a whole is followed.
        """
        # A backend that is already DOWN is waited for; otherwise a refusal must be seen at once.
        call = channel.stream(
            _WATCH,
            health_pb2.HealthCheckRequest(service=service).SerializeToString(),
            _read_health,
            wait_for_ready=self._state is BackendState.DOWN,
        )
        try:
            async for status in call:
                if status == health_pb2.HealthCheckResponse.SERVING:
                    refusal = await self._admit(channel)
                    if refusal is not None:
                        return refusal
                elif status == health_pb2.HealthCheckResponse.SERVICE_UNKNOWN and service:
                    call.cancel()
                    return await self._watch_once(channel, "")
                else:
                    self._set(BackendState.NOT_SERVING, "health check")
        except CallError as error:
            failure = read_failure(error)
            if failure.code is Code.NOT_FOUND and service:
                return await self._watch_once(channel, "")
            if failure.code is not Code.UNIMPLEMENTED:
                return str(failure.error)
        else:
            return "the health watch ended"
        finally:
            call.cancel()
        return await self._follow_channel(channel)

    # Replication

    def _only_while_open(self, on_report: ReportListener) -> ReportListener:
        """Keep back what is heard late: another connection may have taken over the address."""

        def listen(address: str, report: Report) -> None:
            if not self.is_closing:
                self._line.lanes.note(report.worker, report.workers)
                on_report(address, report)

        return listen

    async def _admit(self, channel: Channel) -> str | None:
        """Let a backend whose health is good serve; return why not when it, or its data, hang."""
        if self._state is BackendState.SERVING:
            return None
        listener = self._on_report
        heard = Heard.NO_SUCH_SERVICE
        if listener is not None:
            heard = await ask(channel, self.options.freshness_timeout, self.address, listener)
            if heard is Heard.STUCK:
                return _STUCK
            if heard in (Heard.HUNG, Heard.DEAD):
                return _HUNG
        self._set(BackendState.SERVING, "health check")
        if heard is not Heard.NO_SUCH_SERVICE:
            self._start_asking(channel)
        return None

    def _start_asking(self, channel: Channel) -> None:
        if self._on_report is not None:
            asking = self._keep_asking(channel, self.epoch, self._on_report)
            self._asking = self._start(asking, " replication")

    async def _keep_asking(self, channel: Channel, epoch: int, listener: ReportListener) -> None:
        while True:
            await asyncio.sleep(self.options.freshness_interval * self._rng.uniform(0.8, 1.2))
            began = time.monotonic()
            heard = await ask(channel, self.options.freshness_timeout, self.address, listener)
            if heard is Heard.NO_SUCH_SERVICE:
                return
            # A node that answers calls is slow, not hung.
            if heard in (Heard.HUNG, Heard.STUCK) and self._last_heard < began:
                self._found_hung(epoch, _STUCK if heard is Heard.STUCK else _HUNG)

    async def _follow_channel(self, channel: Channel) -> str:
        """Take READY for serving, for a backend without a health service."""
        await channel.channel_ready()
        self._set(BackendState.SERVING, "connected; it has no health service")
        while channel.get_state() is _READY:
            await channel.wait_for_state_change(_READY)
        return "the connection was lost"
