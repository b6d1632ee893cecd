"""Taking a node out of service: once begun it goes one way, whoever asked first.

States::

    SERVING   --begin---------------------------------> LEAVING
    LEAVING   --others had time to turn away----------> FINISHING
    FINISHING --no call in flight, and no new ones----> DRAINED
    FINISHING --the bound is over---------------------> OVERDUE
    OVERDUE   --no call in flight, and no new ones----> DRAINED

The node serves in all of them. In LEAVING and after it is not ready for anybody who asks: health,
`readyz`, gossip. Callers that ask nobody keep their connection, and are sent away only when it
reaches `grpc.max_connection_age`.

Facts: a connection that ends, for its age or because the server stops, loses no call that its
caller had sent (`proxy.http2.server`); a caller that was told before need not even connect anew.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from proxy.config import NodeConfig
from proxy.server.control_protocol import DrainState
from proxy.server.observing import CallObserver
from proxy.server.readiness import Readiness

# A caller that does not turn away calls again within this time (seconds), or hardly ever.
QUIET: Final = 0.3
# The part of `proxy.drain_timeout` that may be spent on telling others.
_TELLING: Final = 0.5
# A connection's age is drawn from up to this much more; and the time of a round trip.
_AGE_JITTER: Final = 1.1
_AGE_SLACK: Final = 0.5
_LOOK: Final = 0.02


@dataclass(frozen=True, slots=True)
class Bounds:
    """How long a drain takes, in seconds.

    linger     until others have turned away, after they were told
    limit      in all, from the beginning to the end of the last call
    patience   how long after `linger` a server that is about to stop waits for callers that call
               nevertheless: their connections end for their age within that time
    """

    linger: float
    limit: float
    patience: float

    @classmethod
    def of(cls, config: NodeConfig, farewell: float) -> Bounds:
        """Return what a configuration says; `farewell` is what gossip would like to have.

        `proxy.shutdown_delay` is kept to, the farewell within half of `proxy.drain_timeout`.
        """
        proxy, age = config.proxy, config.grpc.max_connection_age
        linger = max(proxy.shutdown_delay, min(farewell, proxy.drain_timeout * _TELLING))
        # Without a delay nobody is waited for, as in a test.
        patience = age * _AGE_JITTER + _AGE_SLACK if age is not None and linger > 0 else 0.0
        return cls(linger, max(proxy.drain_timeout, linger), patience)


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a drain is: `late` counts the calls that arrived after others had turned away."""

    state: DrainState
    seconds: float
    limit: float
    in_flight: int
    late: int


class Drain:
    """Owns the drain of one node. `bounds` is asked when it begins, `in_flight` again and again."""

    def __init__(
        self,
        readiness: Readiness,
        observer: CallObserver,
        in_flight: Callable[[], int],
        bounds: Callable[[], Bounds],
    ) -> None:
        self.state = DrainState.SERVING
        self._readiness = readiness
        self._observer = observer
        self._in_flight = in_flight
        self._ask_bounds = bounds
        self._bounds = Bounds(0.0, 0.0, 0.0)
        self._began = 0.0
        self._drained = 0.0
        self._late_from = 0
        self._seen = 0
        self._still = 0
        self._hurry = asyncio.Event()
        self._changed = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    @property
    def progress(self) -> Progress:
        """How far it is now."""
        has_told = self.state not in (DrainState.SERVING, DrainState.LEAVING)
        late = self._observer.begun - self._late_from if has_told else 0
        seconds = 0.0 if self._task is None else time.monotonic() - self._began
        return Progress(self.state, seconds, self._bounds.limit, self._in_flight(), late)

    @property
    def time_left(self) -> float:
        """Seconds until the bound, 0 when it is over or was cut short."""
        if self._hurry.is_set():
            return 0.0
        return max(0.0, self._began + self._bounds.limit - time.monotonic())

    @property
    def hurried(self) -> asyncio.Event:
        """Set once somebody will not wait any longer."""
        return self._hurry

    def hurry(self) -> None:
        """Wait for nothing any more."""
        self._hurry.set()

    def begin(self) -> None:
        """Turn not ready for good, and follow what becomes of the calls. Idempotent."""
        if self._task is not None:
            return
        self._began, self._bounds = time.monotonic(), self._ask_bounds()
        self._set(DrainState.LEAVING)
        self._readiness.drain()
        self._task = asyncio.create_task(self._run(), name="drain")

    async def before_stop(self) -> None:
        """Wait until the server may stop without losing a call, as far as that can be had."""
        now = time.monotonic()
        if self.state is DrainState.DRAINED:
            # The clock stood while the node waited for its end: it may have calls again.
            self._began += now - self._drained
        told = max(now, self._began + self._bounds.linger)
        deadline = min(told + self._bounds.patience, self._began + self._bounds.limit)
        while not self._hurry.is_set():
            left = deadline - time.monotonic()
            is_leaving = self.state is DrainState.LEAVING
            # Calls in flight are not waited for here: the server does that.
            if not is_leaving and (left <= 0 or self._is_quiet):
                return
            await self._pause(_LOOK)

    async def changed(self, timeout: float) -> Progress:
        """Return the progress after the next change of the state, or after `timeout` seconds."""
        # Taken before the wait, so that no change in between is missed.
        event = self._changed
        try:
            async with asyncio.timeout(timeout):
                await event.wait()
        except TimeoutError:
            pass
        return self.progress

    async def close(self, *, is_done: bool) -> None:
        """End the watch; `is_done` tells whether all calls have ended. Idempotent."""
        if self._task is None:
            return
        self._task.cancel()
        await asyncio.wait({self._task})
        self._set(DrainState.DRAINED if is_done else DrainState.OVERDUE)

    def _set(self, state: DrainState) -> None:
        if state is not self.state:
            self.state = state
            changed, self._changed = self._changed, asyncio.Event()
            changed.set()

    async def _pause(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                await self._hurry.wait()
        except TimeoutError:
            return

    async def _run(self) -> None:
        told = self._began + self._bounds.linger
        while self.state is not DrainState.DRAINED:
            self._look()
            if self.state is DrainState.LEAVING:
                if time.monotonic() >= told or self._hurry.is_set():
                    self._late_from = self._observer.begun
                    self._set(DrainState.FINISHING)
            elif self._is_quiet and not self._in_flight():
                self._drained = time.monotonic()
                self._set(DrainState.DRAINED)
            elif self.time_left <= 0:
                self._set(DrainState.OVERDUE)
            await asyncio.sleep(_LOOK)

    def _look(self) -> None:
        begun = self._observer.begun
        self._still = self._still + 1 if begun == self._seen else 0
        self._seen = begun

    @property
    def _is_quiet(self) -> bool:
        """Whether no call has arrived for a while; not by the clock, which runs in a stall too."""
        return self._still * _LOOK >= QUIET
