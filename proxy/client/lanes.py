"""Further connections to a backend of several worker processes, one to each.

Facts: the kernel gives each connection to one of the processes that listen on a port, by a hash of
both ends' addresses, so that a process may get none of a few. A node of this project's says by
`GetReplication` how many workers it has and which one answers; connections are made until each has
one. A connection that ended is not made again by itself: it might lead to another worker.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Collection, Coroutine
from contextlib import suppress
from random import Random
from typing import Final, Protocol

import grpc

from proxy.http2.channel import Channel
from proxy.http2.outgoing import OutgoingCall

_READY: Final = grpc.ChannelConnectivity.READY
# Of more workers than this the others are left to chance.
MOST: Final = 16
# Connections that are made in a row for each worker, in vain or not, before a pause (in seconds),
# which is also how often those there are looked at.
_TRIES: Final = 4
_PAUSE: Final = 1.0
# Calls that break within so many seconds of the end of a connection broke because of that.
_AFTERMATH: Final = 1.0


class Caller(Protocol):
    """Whoever starts a task that the connection owns."""

    def __call__(
        self, work: Coroutine[object, object, None], what: str, /
    ) -> asyncio.Task[None]: ...


class Asker(Protocol):
    """Whoever connects, and asks which worker answers; None when none does."""

    async def __call__(self, channel: Channel, /) -> int | None: ...


class Lane:
    """A connection to one worker, and the calls under way on it."""

    def __init__(self, worker: int, channel: Channel) -> None:
        self.worker = worker
        self.channel = channel
        self.calls: set[OutgoingCall] = set()

    @property
    def is_ready(self) -> bool:
        """Whether a call can be sent at once."""
        return self.channel.get_state() is _READY


class Lanes:
    """Spreads calls over the workers of one backend. Without workers it does nothing.

    `make` makes a channel, `ask` connects it, `retire` closes it once its calls have ended.
    """

    def __init__(
        self,
        *,
        make: Callable[[], Channel],
        ask: Asker,
        retire: Callable[[Channel, Collection[OutgoingCall]], None],
        start: Caller,
        rng: Random,
    ) -> None:
        self._make = make
        self._ask = ask
        self._retire = retire
        self._start = start
        self._rng = rng
        self._lanes: dict[int, Lane] = {}
        self._main_worker = 0
        self._workers = 1
        self._wake = asyncio.Event()
        self._filling: asyncio.Task[None] | None = None
        self._lost_at = float("-inf")

    @property
    def workers(self) -> frozenset[int]:
        """The workers that have a lane, besides the one of the main connection."""
        return frozenset(self._lanes)

    def note(self, worker: int, workers: int) -> None:
        """Take note of which worker, of how many, answers on the main connection."""
        if (worker, workers) == (self._main_worker, self._workers):
            return
        self._main_worker, self._workers = worker, workers if worker else 1
        self._wake.set()
        if self._workers > 1 and (self._filling is None or self._filling.done()):
            self._filling = self._start(self._fill(), " lanes")

    def pick(self, in_flight: int) -> Lane | None:
        """Return the lane for a call; None for the main connection. `in_flight` is of them all."""
        if not self._lanes:
            return None
        ready = [lane for lane in self._lanes.values() if lane.is_ready]
        busy = sum(len(lane.calls) for lane in self._lanes.values())
        best: Lane | None = None
        least = (in_flight - busy, self._rng.random())
        for lane in ready:
            load = (len(lane.calls), self._rng.random())
            if load < least:
                best, least = lane, load
        return best

    def has_lost_one(self) -> bool:
        """Tell whether a lane ended just now, so that what broke may have broken with it."""
        for lane in [lane for lane in self._lanes.values() if not lane.is_ready]:
            self._drop(lane)
        return time.monotonic() - self._lost_at < _AFTERMATH

    def renew(self) -> None:
        """Make all lanes anew; calls under way end on the old ones."""
        for lane in tuple(self._lanes.values()):
            self._let_go(lane)
        self._wake.set()

    def clear(self) -> list[Channel]:
        """Forget all lanes; return their channels, to be closed."""
        channels = [lane.channel for lane in self._lanes.values()]
        self._lanes.clear()
        return channels

    def _drop(self, lane: Lane) -> None:
        self._lost_at = time.monotonic()
        self._let_go(lane)
        self._wake.set()

    def _let_go(self, lane: Lane) -> None:
        del self._lanes[lane.worker]
        self._retire(lane.channel, lane.calls)

    def _tidy(self) -> None:
        """Drop what ended, and what leads where the main connection or nobody is."""
        for lane in tuple(self._lanes.values()):
            if not lane.is_ready:
                self._drop(lane)
            elif lane.worker not in self._wanted():
                self._let_go(lane)

    def _wanted(self) -> set[int]:
        if self._workers == 1:
            return set()
        return set(range(1, min(self._workers, MOST) + 1)) - {self._main_worker}

    async def _fill(self) -> None:
        while self._workers > 1:
            self._wake.clear()
            self._tidy()
            for _ in range(_TRIES * min(self._workers, MOST)):
                if not self._wanted() - self._lanes.keys():
                    break
                await self._add_one()
            with suppress(TimeoutError):
                async with asyncio.timeout(_PAUSE * self._rng.uniform(0.8, 1.2)):
                    await self._wake.wait()
        self._tidy()

    async def _add_one(self) -> None:
        channel = self._make()
        worker = None
        try:
            worker = await self._ask(channel)
        finally:
            is_new = worker in self._wanted() and worker not in self._lanes
            if worker is not None and is_new:
                self._lanes[worker] = Lane(worker, channel)
            else:
                await channel.close()
