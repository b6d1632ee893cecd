"""The channel to one backend: replaced without a gap when the TLS files change, and looked into
when it does not come up.

A channel keeps the certificates that it was made with for all its connections, so that taking up
new ones means another channel.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection, Coroutine
from contextlib import suppress
from random import Random
from typing import Final, Protocol

import grpc

from proxy.client.channels import Channels, until_ready
from proxy.client.lanes import Asker, Lanes
from proxy.http2.channel import Channel
from proxy.http2.outgoing import OutgoingCall

log = logging.getLogger(__name__)

# Seconds that a connection with new files may take, and until it is tried again.
_RENEW_TIMEOUT: Final = 5.0
_RENEW_PAUSE: Final = 5.0
# Seconds between two looks at why a backend cannot be reached.
_DIAGNOSE_PAUSE: Final = 5.0


class Starter(Protocol):
    """Whoever owns the tasks of a connection."""

    def __call__(
        self, work: Coroutine[object, object, None], what: str, /
    ) -> asyncio.Task[None]: ...


class Line:
    """Owns the channel to `address`. `calls` are those under way, on whichever channel.

    `trouble` tells why the backend cannot be reached, where that is known and for a person to mend.
    """

    def __init__(
        self,
        address: str,
        authority: str | None,
        channels: Channels,
        *,
        calls: Collection[OutgoingCall],
        drain_timeout: float,
        rng: Random,
        start: Starter,
        on_trouble: Callable[[], None],
        ask_worker: Asker,
    ) -> None:
        self.trouble = ""
        self.channel: Channel | None = None
        self._address = address
        self._authority = authority
        self._channels = channels
        self._calls = calls
        self._drain_timeout = drain_timeout
        self._rng = rng
        self._start = start
        self._on_trouble = on_trouble
        self.lanes = Lanes(
            make=lambda: channels.make(address, authority),
            ask=ask_worker,
            retire=self._let_go,
            start=start,
            rng=rng,
        )
        self._generation = 0
        self._retiring: set[asyncio.Task[None]] = set()
        self._renewal: asyncio.Task[None] | None = None
        self._diagnosis: asyncio.Task[None] | None = None

    def open(self) -> None:
        """Make the channel."""
        self._generation = self._channels.generation
        self.channel = self._channels.make(self._address, self._authority)

    @property
    def opened(self) -> Channel:
        """The channel; `RuntimeError` when it is not open."""
        if self.channel is None:
            raise RuntimeError(f"the connection to {self._address} is not open")
        return self.channel

    def current(self) -> Channel:
        """Return the channel for a connection to be made; one with old files is left."""
        if self.channel is not None and self._generation != self._channels.generation:
            self._end_renewal()
            self._replace(self._channels.make(self._address, self._authority))
        return self.opened

    def renew(self, is_connected: Callable[[], bool], on_renewed: Callable[[], None]) -> None:
        """Connect anew with the files as they are now, in the background.

        While the backend is connected, calls go on by the old channel until the new one is ready,
        and those under way end on it.
        """
        self._end_renewal()
        if self.channel is not None:
            self._renewal = self._start(self._renew(is_connected, on_renewed), " renewal")

    def _end_renewal(self) -> None:
        renewal, self._renewal = self._renewal, None
        if renewal is not None:
            renewal.cancel()

    async def _renew(
        self, is_connected: Callable[[], bool], on_renewed: Callable[[], None]
    ) -> None:
        while is_connected():
            made = self._channels.make(self._address, self._authority)
            try:
                is_ready = await until_ready(made, _RENEW_TIMEOUT)
            except BaseException:
                await made.close()
                raise
            if is_ready and is_connected():
                self._replace(made)
                break
            await made.close()
            log.warning(
                "backend not reached with the new TLS files: the old connection goes on",
                extra={
                    "backend": self._address,
                    "reason": await self._channels.diagnose(self._address, self._authority),
                },
            )
            await asyncio.sleep(_RENEW_PAUSE * self._rng.uniform(0.8, 1.2))
        self._renewal = None
        on_renewed()

    def _replace(self, made: Channel) -> None:
        old, self.channel = self.channel, made
        self._generation = self._channels.generation
        if old is not None:
            self._let_go(old, self._calls)
        self.lanes.renew()

    def _let_go(self, channel: Channel, calls: Collection[OutgoingCall]) -> None:
        # Not one of the connection's tasks, which end before its calls do.
        task = asyncio.create_task(
            _retire(channel, tuple(calls), self._drain_timeout),
            name=f"metastore-client {self._address} retiring",
        )
        self._retiring.add(task)
        task.add_done_callback(self._retiring.discard)

    def for_call(self) -> tuple[Channel, Callable[[OutgoingCall], None]]:
        """Return the channel for a call, and what is to be told of it once it has begun."""
        lane = self.lanes.pick(len(self._calls))
        if lane is None:
            return self.opened, _untold
        calls = lane.calls

        def note(call: OutgoingCall) -> None:
            calls.add(call)
            call.add_done_callback(calls.discard)

        return lane.channel, note

    def is_whole(self) -> bool:
        """Tell whether a call that broke did so with a lane, while this connection holds."""
        if not self.lanes.has_lost_one() or self.channel is None:
            return False
        return self.channel.get_state() is grpc.ChannelConnectivity.READY

    def look_into(self, *, is_down: bool) -> None:
        """While the backend is down, find out why; forget it otherwise."""
        if is_down:
            if self._diagnosis is None or self._diagnosis.done():
                self._diagnosis = self._start(self._follow_trouble(), " diagnosis")
            return
        self.trouble = ""
        if self._diagnosis is not None:
            self._diagnosis.cancel()
            self._diagnosis = None

    async def find_trouble(self, timeout: float) -> str:
        """Return the trouble, or look for it now if that is worth `timeout` seconds."""
        if not self.trouble and self._channels.is_tls:
            with suppress(TimeoutError):
                async with asyncio.timeout(max(0.0, timeout)):
                    return await self._channels.diagnose(self._address, self._authority)
        return self.trouble

    async def _follow_trouble(self) -> None:
        while True:
            found = await self._channels.diagnose(self._address, self._authority)
            if found != self.trouble:
                self.trouble = found
                if found:
                    log.warning(
                        "backend not reached", extra={"backend": self._address, "reason": found}
                    )
                self._on_trouble()
            if not self._channels.is_tls:
                return
            await asyncio.sleep(_DIAGNOSE_PAUSE * self._rng.uniform(0.8, 1.2))

    async def close(self) -> None:
        """Close the channel, and those that calls were still under way on. Idempotent."""
        channel, self.channel = self.channel, None
        retiring = tuple(self._retiring)
        for task in retiring:
            task.cancel()
        if retiring:
            await asyncio.wait(retiring)
        for one in (channel, *self.lanes.clear()):
            if one is not None:
                await one.close()


def _untold(_call: OutgoingCall) -> None:
    """Take note of nothing: the connection does."""


async def _retire(channel: Channel, calls: Collection[OutgoingCall], timeout: float) -> None:
    """Close a channel once the calls on it have ended, or after `timeout` seconds."""
    left = {call for call in calls if not call.done()}
    ended = asyncio.Event()

    def end(call: OutgoingCall) -> None:
        left.discard(call)
        if not left:
            ended.set()

    for call in tuple(left):
        call.add_done_callback(end)
    try:
        if left:
            async with asyncio.timeout(timeout):
                await ended.wait()
    except TimeoutError:
        pass
    finally:
        await channel.close()
