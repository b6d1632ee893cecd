"""From a call to an answer: which backend is tried, what a failure leads to, and when to stop.

A call and its attempts::

    choose --none left, or the primary full----------> fail with the last error
      |  ^
      |  '--failed, a read or certainly not sent, time left-- (no backend twice, see below)
      v                                                  |
    send --answer or error of the application--> done    |
         --failure of the backend, budget left-----------|
         --refused: behind the position asked for--------'

A read that a backend refused as one too many goes on like one that failed, and when no backend is
left comes back to those that refused it, with growing pauses, for `shed_timeout` seconds: the calls
that two frozen replicas held reach the primary all at once, and it takes them in portions.

A write is sent once. It goes on to another primary only when it certainly never left this process,
which is when its channel could not be connected.

Each attempt beyond the first is taken from the retry budget, but for a refusal: the node that
refuses, or is too busy, has done no work.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import Final, NoReturn, TypeVar

from google.protobuf.message import DecodeError

from proxy import errors
from proxy.client import hedging
from proxy.client.answers import Answer, Served, read_answer, read_served
from proxy.client.attempts import (
    Attempt,
    Call,
    is_deadline,
    is_doubtful,
    is_refusal,
    outcome_of,
)
from proxy.client.connection import Connection, Method, Q
from proxy.client.events import (
    CallFellBack,
    CallFinished,
    CallRetried,
    CallRouted,
    CallShed,
    Emitter,
    RetryDenied,
)
from proxy.client.options import ClientOptions
from proxy.client.pool import BackendPool, closed
from proxy.client.session import Session, Terms
from proxy.client.spans import begin_span, end_span
from proxy.client.wire import Failure, is_backend_failure, is_shed, is_unsent
from proxy.errors import Code
from proxy.http2.answer import CallError
from proxy.routing.budget import LEAST_TIME, may_repeat
from proxy.routing.catalogue import Rpc
from proxy.routing.explanation import summary
from proxy.routing.members import Backend, BackendState, Snapshot
from proxy.routing.selection import Choice, Route, wants_replica

R = TypeVar("R")

# The first pause (seconds) before a call comes back to backends that were too busy for it.
_SHED_PAUSE: Final = 0.05


class Failover:
    """Makes calls on the pool's backends by the rules of the module's text."""

    def __init__(
        self, pool: BackendPool, session: Session, *, options: ClientOptions, emit: Emitter
    ) -> None:
        self.options = options
        self.emit = emit
        self._pool = pool
        self._session = session

    def plan(self, rpc: Rpc, timeout: float | None, terms: Terms) -> Call:
        """Return a call that has not begun."""
        limit = rpc.deadline if timeout is None else timeout
        return Call(rpc, limit, terms, time.monotonic())

    async def unary(self, call: Call, method: Method[Q, R], request: Q) -> Answer[R]:
        """Make a unary call. Cancelling the caller cancels the call at the backend."""
        while True:
            attempt = await self.next_attempt(call)
            delay = self.options.hedge_delay
            if delay is not None and call.rpc.is_read:
                attempt, found = await hedging.race(self, attempt, method, request, delay)
            else:
                found = await self.send(attempt, method, request)
            if isinstance(found, Answer):
                return found
            self.failed(attempt, found)

    async def send(self, attempt: Attempt, method: Method[Q, R], request: Q) -> Answer[R] | Failure:
        """Make one attempt. It is ended on return with an answer, and when this raises.

        A cancellation that comes of the connection's being closed, or of its backend's being hung,
        is a failure; that of the caller's own task goes on, also when both happened.
        """
        has_other = self.has_other(attempt)
        try:
            sent = attempt.connection.start_unary(
                method,
                request,
                timeout=self.attempt_time(attempt, has_other=has_other),
                metadata=attempt.metadata,
                may_be_cut=has_other,
            )
            response = await sent
        except CallError as error:
            return attempt.connection.failure(error)
        except DecodeError as error:
            self.end(attempt, Code.INTERNAL)
            by = read_served(attempt.choice, sent.headers, sent.trailers).served_by
            raise errors.Internal(f"the response of {by} does not parse") from error
        except asyncio.CancelledError:
            closing = self._closing(attempt)
            if closing is None:
                self.end(attempt, Code.CANCELLED)
                raise
            return closing
        found = read_answer(attempt.choice, sent.headers, sent.trailers, attempt.lag, response)
        self.answered(attempt, found)
        return found

    def answered(self, attempt: Attempt, served: Served) -> None:
        """End an attempt that was answered in full."""
        attempt.connection.heard()
        self.end(attempt, Code.OK)
        call = attempt.call
        # Another backend has an answer to this request, so that they were at fault.
        for choice in call.doubted:
            self._pool.blame(choice)
        self._session.answered(call.rpc, call.terms, attempt.choice.backend, served)

    def broke_off(self, attempt: Attempt) -> None:
        """Take note that the caller saw part of an attempt's answer and no more."""
        self._session.broke_off(attempt.call.terms)

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
            if trouble := await connection.find_trouble(call.time_left):
                why += f": {trouble}"
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
            self.emit(CallRetried(name, call.last_backend, variant, call.attempts))
        elif call.attempts == 0:
            board = self._pool.board
            board.budget.earn(board.in_flight)
        call.attempts += 1
        self.emit(CallRouted(name, address, choice.route, call.attempts))
        if choice.route is Route.FALLBACK:
            self.emit(CallFellBack(name, address))
        self._pool.begin(choice)
        lag, now = self._pool.lag(address), time.monotonic()
        return Attempt(
            call, choice, connection, connection.epoch, now, lag, begin_span(call, choice)
        )

    def second_attempt(self, attempt: Attempt) -> Attempt | None:
        """Begin an attempt beside one that is under way; None when no other backend is left.

        Only a backend that serves is worth it, and only as far as the retry budget goes.
        """
        call = attempt.call
        choice = self._pick(call, also_tried=attempt.choice.backend.address)
        if choice is None or not choice.backend.is_serving or not self._pool.board.budget.spend():
            return None
        return self._begin(call, choice, self._pool.connection(choice.backend.address))

    def end(self, attempt: Attempt, code: Code, failure: Failure | None = None) -> None:
        """Take an attempt out of flight, once."""
        if attempt.is_ended:
            return
        attempt.is_ended = True
        seconds = time.monotonic() - attempt.started
        choice, backend = attempt.choice, attempt.choice.backend
        outcome = outcome_of(attempt, code, failure, seconds)
        self._pool.end(choice, outcome, seconds if code is Code.OK else None)
        end_span(attempt, code, failure)
        name, route = attempt.call.rpc.name, choice.route
        self.emit(CallFinished(name, backend.address, backend.role, route, code, seconds))

    def attempt_time(self, attempt: Attempt, *, has_other: bool) -> float:
        """Return how long an attempt may take: all that is left, or less while others remain."""
        left = max(0.0, attempt.call.time_left)
        return min(left, self.options.attempt_timeout) if has_other else left

    def has_other(self, attempt: Attempt) -> bool:
        """Tell whether, should this attempt fail, another serving backend could take the call."""
        call, address = attempt.call, attempt.choice.backend.address
        known = self._pool.snapshot.backends
        # In front of a single node there is nothing to look for.
        if not call.rpc.is_read or (len(known) == 1 and known[0].address == address):
            return False
        other = self._pick(call, also_tried=address)
        return other is not None and other.backend.is_serving

    # Failures

    def failed(self, attempt: Attempt, failure: Failure) -> None:
        """End a failed attempt. Returns when the call may be repeated, else raises its error."""
        call, address = attempt.call, attempt.choice.backend.address
        if not call.rpc.is_read and is_unsent(failure) and call.time_left > LEAST_TIME:
            # The connection broke when it was chosen already: the call may wait for its return.
            self.end(attempt, failure.code, failure)
            attempt.connection.report_dead(attempt.epoch, str(failure.error))
            return
        self.note_failed(attempt, failure)
        if call.time_left <= LEAST_TIME and is_deadline(failure):
            raise self._timed_out(call) from failure.cause
        allowed = may_repeat(
            call.rpc,
            is_backend_failure=is_backend_failure(failure),
            was_sent=True,
            time_left=call.time_left,
        )
        is_free = is_refusal(attempt, failure) or is_shed(failure)
        if allowed and not is_free and not self._pool.board.budget.spend():
            self.emit(RetryDenied(call.rpc.name, address))
            allowed = False
        if not allowed:
            raise failure.error from failure.cause

    def note_failed(self, attempt: Attempt, failure: Failure) -> None:
        """End a failed attempt and remember its error, whether or not the call is repeated."""
        self.end(attempt, failure.code, failure)
        if failure.is_explicit:
            attempt.connection.heard()
        if is_doubtful(failure):
            attempt.call.doubted.append(attempt.choice)
        if is_refusal(attempt, failure):
            attempt.call.refused()
        elif failure.code is Code.UNAVAILABLE:
            attempt.connection.report_dead(attempt.epoch, str(failure.error))
        self._note(attempt.call, attempt.choice.backend.address, failure)

    def cut_off(self, attempt: Attempt) -> bool:
        """Take a cancellation for a failure when it came from the connection's being closed.

        False when the caller's own task was cancelled, also when both happened: then
        `CancelledError` must go on. Otherwise as `failed`.
        """
        closing = self._closing(attempt)
        if closing is None:
            return False
        self.failed(attempt, closing)
        return True

    def _closing(self, attempt: Attempt) -> Failure | None:
        task, connection = asyncio.current_task(), attempt.connection
        is_ours = connection.is_closing or connection.was_cut(attempt.epoch)
        if not is_ours or (task is not None and task.cancelling()):
            return None
        what = "was closed" if connection.is_closing else "gave no sign of life"
        error = errors.Unavailable(f"the connection to {connection.address} {what} during the call")
        return Failure(error, Code.CANCELLED, is_explicit=False)

    def _note(self, call: Call, address: str, failure: Failure) -> None:
        call.tried.add(address)
        if failure.cause is not None:
            # Its frames would keep a stream alive that its caller has dropped.
            failure.cause.__traceback__ = None
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
        if call.time_left > 0 and self._is_shed(call):
            self.emit(CallShed(call.rpc.name))
            raise errors.TooManyRequests
        if call.last is not None:
            raise call.last.error from call.last.cause
        if call.time_left <= 0:
            raise self._timed_out(call)
        view = self._pool.board.view(time.monotonic())
        raise errors.Unavailable(summary(call.rpc, view, call.terms.need))

    # Choice

    def _pick(self, call: Call, also_tried: str | None = None) -> Choice | None:
        tried = call.tried if also_tried is None else call.tried | {also_tried}
        return self._pool.choose(call.rpc, call.terms.need, tried)

    def _is_shed(self, call: Call) -> bool:
        """Tell whether nothing was picked because the primary takes no more fallbacks."""
        if not wants_replica(call.rpc, call.terms.need):
            return False
        return not self._pool.board.view(time.monotonic()).has_room

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
            picked = self._pick(call)
            return self._patience(call, picked, snapshot) <= 0

        while not self._pool.is_closed and call.time_left > 0:
            if is_settled(self._pool.snapshot):
                return picked
            patience = self._patience(call, picked, self._pool.snapshot)
            await self._pool.wait_until(is_settled, min(patience, call.time_left))
        return None if self._pool.is_closed or call.time_left <= 0 else picked

    async def _return_to_busy(self, call: Call) -> bool:
        """Pause, then let the backends that were too busy be chosen again; False if there is none.

        The pauses double, and are drawn at random so that calls refused together do not return so.
        """
        is_full = self._is_shed(call)
        if is_full:
            call.shed_since = call.shed_since or time.monotonic()
        if call.shed_since is None or not (call.shed_by or is_full) or self._pool.is_closed:
            return False
        pause = _SHED_PAUSE * 2.0**call.returns * self._pool.rng.uniform(0.5, 1.0)
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
            if picked.route is Route.FALLBACK:
                return self._until_settled(call, snapshot.replicas())
            if picked.route is Route.PRIMARY:
                return 0.0
            # Until a primary has said which cluster this is, a replica may be another's.
            if picked.route is Route.REPLICA and self._pool.board.ledger.identity:
                return 0.0
            return self._until_settled(call, snapshot.primaries)
        if picked is None and (call.tried or self._is_shed(call)):
            return 0.0
        # Counted from the start, not from each attempt: a total outage is reported soon.
        return call.started + self.options.connect_timeout - time.monotonic()

    def _until_settled(self, call: Call, backends: Sequence[Backend]) -> float:
        """Return how long a backend that was just learned of may still take to say it serves."""
        known_since = [
            backend.since
            for backend in backends
            if backend.state is BackendState.CONNECTING and backend.address not in call.tried
        ]
        if not known_since:
            return 0.0
        return max(known_since) + self.options.settle_timeout - time.monotonic()
