"""From a call to an answer: which backend is tried, what a failure leads to, and when to stop.

A call and its attempts::

    choose --none left-------------------------------> fail with the last error
      |  ^
      |  '--failed, a read or certainly not sent, time left-- (no backend twice, see below)
      v                                                  |
    send --answer or error of the application--> done    |
         --failure of the backend------------------------'

A read that a backend refused as one too many goes on like one that failed, and when no backend is
left comes back to those that refused it, with growing pauses, for `shed_timeout` seconds: the calls
that two frozen replicas held reach the primary all at once, and it takes them in portions.

A write is sent once. It goes on to another primary only when it certainly never left this process,
which is when its channel could not be connected.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Final, NoReturn, TypeVar

import grpc

from proxy import errors
from proxy.client.answers import Answer, Metadata, answer, read_served
from proxy.client.connection import Connection, Method, Q
from proxy.client.events import CallFellBack, CallFinished, CallRetried, CallRouted, Emitter
from proxy.client.options import ClientOptions
from proxy.client.pool import BackendPool, closed
from proxy.client.wire import Failure, is_backend_failure, is_shed, read_failure
from proxy.errors import Code
from proxy.routing import consistency
from proxy.routing.catalogue import Rpc
from proxy.routing.members import Backend, BackendState, Snapshot
from proxy.routing.selection import Choice, Route, choose

R = TypeVar("R")

# Less time than this (seconds) is not worth another attempt.
_LEAST_TIME: Final = 0.005
# The first pause (seconds) before a call comes back to backends that were too busy for it.
_SHED_PAUSE: Final = 0.05


@dataclass
class Call:
    """A call under way. Times are monotonic seconds; `tried` and `shed_by` hold addresses.

    `shed_by` are those of `tried` that only were too busy, since the call last came back to them;
    `shed_since` is when the first was.
    """

    rpc: Rpc
    timeout: float
    metadata: Metadata
    allow_replica: bool
    started: float
    tried: set[str] = field(default_factory=set)
    shed_by: set[str] = field(default_factory=set)
    shed_since: float | None = None
    returns: int = 0
    attempts: int = 0
    last: Failure | None = None
    last_backend: str = ""

    @property
    def time_left(self) -> float:
        """Seconds until the deadline of the whole call; negative past it."""
        return self.started + self.timeout - time.monotonic()


@dataclass
class Attempt:
    """One try of a call on one backend; in flight from its start until `Failover.end`."""

    call: Call
    choice: Choice
    connection: Connection
    epoch: int
    started: float
    is_ended: bool = False


class Failover:
    """Makes calls on the pool's backends by the rules of the module's text."""

    def __init__(
        self, pool: BackendPool, *, options: ClientOptions, rng: Random, emit: Emitter
    ) -> None:
        self.options = options
        self._pool = pool
        self._rng = rng
        self._emit = emit

    def plan(self, rpc: Rpc, timeout: float | None, metadata: Metadata) -> Call:
        """Return a call that has not begun. `InvalidArgument` for metadata that is no wish."""
        wish = next((value for key, value in metadata if key == consistency.ALLOW_REPLICA), None)
        text = wish.decode("utf-8", "replace") if isinstance(wish, bytes) else wish
        allow_replica = consistency.parse_allow_replica(text)
        limit = rpc.deadline if timeout is None else timeout
        return Call(rpc, limit, metadata, allow_replica, time.monotonic())

    async def unary(self, call: Call, method: Method[Q, R], request: Q) -> Answer[R]:
        """Make a unary call. Cancelling the caller cancels the call at the backend."""
        while True:
            attempt = await self.next_attempt(call)
            try:
                return await self._send(attempt, method, request)
            except grpc.aio.AioRpcError as error:
                self.failed(attempt, read_failure(error))
            except asyncio.CancelledError:
                if not self.cut_off(attempt):
                    raise
            finally:
                # Only a cancelled attempt is not ended yet.
                self.end(attempt, Code.CANCELLED)

    async def _send(self, attempt: Attempt, method: Method[Q, R], request: Q) -> Answer[R]:
        sent = attempt.connection.start_unary(
            method, request, timeout=self.attempt_time(attempt), metadata=attempt.call.metadata
        )
        response = await sent
        served = read_served(attempt.choice, await sent.trailing_metadata())
        if response is None:
            # The library logs a response that does not parse, and hands over None.
            self.end(attempt, Code.INTERNAL)
            raise errors.Internal(f"the response of {served.served_by} does not parse")
        self.end(attempt, Code.OK)
        return answer(response, served)

    # Attempts

    async def next_attempt(self, call: Call) -> Attempt:
        """Choose a backend and begin an attempt on it; the call's last error when none is left."""
        while True:
            choice = await self._choose(call)
            backend = choice.backend
            connection = self._pool.connection(backend.address)
            if call.rpc.is_read or await self._connect(call, connection):
                return self._begin(call, choice, connection)
            why = f"no connection to {backend.role.value} {backend.address}"
            if backend.is_serving:
                # It broke a moment ago. Nothing was sent, so the call may wait for its return.
                connection.report_dead(connection.epoch, why)
                continue
            self._note(
                call, backend.address, Failure(errors.Unavailable(why), Code.UNAVAILABLE, False)
            )

    async def _connect(self, call: Call, connection: Connection) -> bool:
        limit = min(self.options.connect_timeout, call.time_left)
        return await connection.connect(max(0.0, limit)) and not connection.is_closing

    def _begin(self, call: Call, choice: Choice, connection: Connection) -> Attempt:
        address, name = choice.backend.address, call.rpc.name
        if call.last is not None:
            variant = call.last.error.variant
            self._emit(CallRetried(name, call.last_backend, variant, call.attempts))
        call.attempts += 1
        self._emit(CallRouted(name, address, choice.route, call.attempts))
        if choice.route is Route.FALLBACK:
            self._emit(CallFellBack(name, address))
        self._pool.begin(address)
        return Attempt(call, choice, connection, connection.epoch, time.monotonic())

    def end(self, attempt: Attempt, code: Code) -> None:
        """Take an attempt out of flight, once."""
        if attempt.is_ended:
            return
        attempt.is_ended = True
        seconds = time.monotonic() - attempt.started
        backend = attempt.choice.backend
        self._pool.end(backend.address, seconds if code is Code.OK else None)
        self._emit(
            CallFinished(
                attempt.call.rpc.name, backend.address, attempt.choice.route, code, seconds
            )
        )

    def attempt_time(self, attempt: Attempt) -> float:
        """Return how long an attempt may take: all that is left, or less while others remain."""
        left = max(0.0, attempt.call.time_left)
        return min(left, self.options.attempt_timeout) if self.has_other(attempt) else left

    def has_other(self, attempt: Attempt) -> bool:
        """Tell whether, should this attempt fail, another serving backend could take the call."""
        call = attempt.call
        if not call.rpc.is_read:
            return False
        other = self._pick(call, self._pool.snapshot, also_tried=attempt.choice.backend.address)
        return other is not None and other.backend.is_serving

    # Failures

    def failed(self, attempt: Attempt, failure: Failure) -> None:
        """End a failed attempt. Returns when the call may be repeated, else raises its error."""
        self.end(attempt, failure.code)
        if failure.code is Code.UNAVAILABLE:
            attempt.connection.report_dead(attempt.epoch, str(failure.error))
        call = attempt.call
        self._note(call, attempt.choice.backend.address, failure)
        if call.time_left <= _LEAST_TIME and _is_deadline(failure):
            raise self._timed_out(call) from failure.cause
        may_repeat = call.rpc.is_read and is_backend_failure(failure)
        if not may_repeat or call.time_left <= _LEAST_TIME:
            raise failure.error from failure.cause

    def cut_off(self, attempt: Attempt) -> bool:
        """Take a cancellation for a failure when it came from the connection's being closed.

        False when the caller's own task was cancelled, also when both happened: then
        `CancelledError` must go on. Otherwise as `failed`.
        """
        task = asyncio.current_task()
        if not attempt.connection.is_closing or (task is not None and task.cancelling()):
            return False
        address = attempt.connection.address
        error = errors.Unavailable(f"the connection to {address} was closed during the call")
        self.failed(attempt, Failure(error, Code.CANCELLED, is_explicit=False))
        return True

    def _note(self, call: Call, address: str, failure: Failure) -> None:
        call.tried.add(address)
        if is_shed(failure):
            call.shed_by.add(address)
            # Counted from here: the call may have waited long for a backend that froze.
            call.shed_since = call.shed_since or time.monotonic()
        call.last, call.last_backend = failure, address

    def _timed_out(self, call: Call) -> errors.Timeout:
        tried = f" (tried {', '.join(sorted(call.tried))})" if call.tried else ""
        return errors.Timeout(f"{call.rpc.name} got no answer within {call.timeout:g} s{tried}")

    def _give_up(self, call: Call) -> NoReturn:
        if self._pool.is_closed:
            raise closed()
        if call.last is not None:
            raise call.last.error from call.last.cause
        if call.time_left <= 0:
            raise self._timed_out(call)
        raise errors.Unavailable(f"no backend is known for {call.rpc.name}: check the targets")

    # Choice

    def _pick(self, call: Call, snapshot: Snapshot, also_tried: str | None = None) -> Choice | None:
        tried = call.tried if also_tried is None else call.tried | {also_tried}
        return choose(
            call.rpc,
            snapshot,
            self._pool.loads,
            self._rng,
            tried,
            allow_replica=call.allow_replica,
        )

    async def _choose(self, call: Call) -> Choice:
        """Choose, after a wait where a little patience may find a better backend."""
        while (picked := await self._pick_patiently(call)) is None:
            if not await self._return_to_busy(call):
                self._give_up(call)
        return picked

    async def _pick_patiently(self, call: Call) -> Choice | None:
        picked: Choice | None = None

        def is_settled(snapshot: Snapshot) -> bool:
            nonlocal picked
            picked = self._pick(call, snapshot)
            return self._patience(call, picked, snapshot) <= 0

        while not self._pool.is_closed and call.time_left > 0:
            if is_settled(self._pool.snapshot):
                break
            patience = self._patience(call, picked, self._pool.snapshot)
            await self._pool.wait_until(is_settled, min(patience, call.time_left))
        return None if self._pool.is_closed or call.time_left <= 0 else picked

    async def _return_to_busy(self, call: Call) -> bool:
        """Pause, then let the backends that were too busy be chosen again; False if there is none.

        The pauses double, and are drawn at random so that calls refused together do not return so.
        """
        if call.shed_since is None or not call.shed_by or self._pool.is_closed:
            return False
        pause = _SHED_PAUSE * 2.0**call.returns * self._rng.uniform(0.5, 1.0)
        patience = call.shed_since + self.options.shed_timeout - time.monotonic()
        if pause >= min(patience, call.time_left):
            return False
        await asyncio.sleep(pause)
        call.tried -= call.shed_by
        call.shed_by.clear()
        call.returns += 1
        return True

    def _patience(self, call: Call, picked: Choice | None, snapshot: Snapshot) -> float:
        """Return how many seconds to wait for something better than what was picked."""
        if picked is not None and picked.backend.is_serving:
            if picked.route is not Route.FALLBACK:
                return 0.0
            return self._until_replicas_settle(call, snapshot.replicas())
        if picked is None and call.tried:
            return 0.0
        # Counted from the start, not from each attempt: a total outage is reported soon.
        return call.started + self.options.connect_timeout - time.monotonic()

    def _until_replicas_settle(self, call: Call, replicas: Sequence[Backend]) -> float:
        """Return how long a replica that was just learned of may still take to say it serves."""
        known_since = [
            backend.since
            for backend in replicas
            if backend.state is BackendState.CONNECTING and backend.address not in call.tried
        ]
        if not known_since:
            return 0.0
        return max(known_since) + self.options.settle_timeout - time.monotonic()


def _is_deadline(failure: Failure) -> bool:
    return failure.code is Code.DEADLINE_EXCEEDED and not failure.is_explicit
