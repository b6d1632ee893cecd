"""A replica's node that passes on what it cannot serve itself (`proxy.forward`).

What becomes of a read::

    passed on to it already, or a write    served here, or refused
    outside the six, without leave         passed on
    this database down, or over the bound  passed on; where that fails, a stale answer from here
    any other                              served here; passed on when that fails before any answer

A call that was passed on to this node is never passed on again, so that forwarding cannot loop.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

from proxy import errors
from proxy.routing import consistency
from proxy.routing.catalogue import Rpc
from proxy.routing.consistency import Wishes
from proxy.routing.selection import may_use_replica
from proxy.server.forwarding import Context, Forwarder, is_forwarded, time_left

_T = TypeVar("_T")

# Why a read is passed on.
OUTSIDE: Final = "the call is not stale-tolerant, and no leave was given"
DOWN: Final = "its database does not serve"
TOO_OLD: Final = "its data are over `proxy.max_lag`, or of unknown age"

# An attempt gets no less than this (seconds) of the caller's time: one in good health may need it.
_LEAST_PATIENCE: Final = 1.0


class Progress:
    """How far an attempt to answer a call has come: what may follow depends on it."""

    def __init__(self, *, is_stale: bool = False) -> None:
        self.is_stale = is_stale
        self.has_begun = False
        self._listener: Callable[[], None] | None = None

    def begin(self) -> None:
        """Say that a part of the answer is about to reach the caller."""
        if self.has_begun:
            return
        self.has_begun = True
        if self._listener is not None:
            self._listener()

    def on_begin(self, listener: Callable[[], None]) -> None:
        """Call `listener` when the answer begins."""
        self._listener = listener


Serve = Callable[[Progress], Awaitable[_T]]


class Alone:
    """What stands in for a relay at a node that passes nothing on: all is served here."""

    async def unary(self, _rpc: Rpc, _raw: bytes, _context: Context, serve: Serve[bytes]) -> bytes:
        """Return what `serve` does."""
        return await serve(Progress())

    async def stream(self, _rpc: Rpc, _raw: bytes, _context: Context, serve: Serve[None]) -> None:
        """Let `serve` send the answer."""
        await serve(Progress())


class Relay:
    """Decides between serving here and passing on.

    `is_up` tells whether this node's database can be asked at all, `is_too_old` whether its data
    are over `proxy.max_lag`; both are asked for each call. `serve_stale` may change. An attempt
    that another may follow may take `patience` seconds until its answer begins, or half of the
    caller's time if that is less.
    """

    def __init__(
        self,
        forwarder: Forwarder,
        *,
        is_up: Callable[[], bool],
        is_too_old: Callable[[], bool],
        serve_stale: bool,
        patience: float,
    ) -> None:
        self._forwarder = forwarder
        self._is_up = is_up
        self._is_too_old = is_too_old
        self.serve_stale = serve_stale
        self._patience = patience

    async def unary(self, rpc: Rpc, raw: bytes, context: Context, serve: Serve[bytes]) -> bytes:
        """Return the answer of a unary call, from `serve` or from another node."""

        async def pass_on(_: Progress) -> bytes:
            return await self._forwarder.unary(rpc, raw, context)

        return await self._either(rpc, context, serve, pass_on)

    async def stream(self, rpc: Rpc, raw: bytes, context: Context, serve: Serve[None]) -> None:
        """Send the answer of a streaming call, by `serve` or from another node."""

        async def pass_on(progress: Progress) -> None:
            await self._forwarder.stream(rpc, raw, context, progress.begin)

        await self._either(rpc, context, serve, pass_on)

    def passes_on(self, rpc: Rpc, wishes: Wishes) -> str | None:
        """Return why a read that nobody passed on to this node goes to another; None if not."""
        if not may_use_replica(rpc, allow_replica=wishes.allow_replica):
            return OUTSIDE
        if not self._is_up():
            return DOWN
        return TOO_OLD if self._is_too_old() else None

    async def _either(self, rpc: Rpc, context: Context, serve: Serve[_T], pass_on: Serve[_T]) -> _T:
        if not rpc.is_read or is_forwarded(context):
            return await serve(Progress())
        wishes = consistency.read_wishes(context.invocation_metadata() or ())
        reason = self.passes_on(rpc, wishes)
        if reason in (OUTSIDE, DOWN):
            return await pass_on(Progress())
        if reason is None:
            return await _first(self._in_time(serve, context, "this node's database"), pass_on)
        if self.serve_stale and wishes.max_lag is None and wishes.min_lsn is None:
            elsewhere = self._in_time(pass_on, context, "other nodes")
            return await _first(elsewhere, serve, Progress(is_stale=True))
        return await pass_on(Progress())

    def _in_time(self, serve: Serve[_T], context: Context, who: str) -> Serve[_T]:
        left = time_left(context)
        limit = min(self._patience, max(_LEAST_PATIENCE, left / 2))

        async def bounded(progress: Progress) -> _T:
            try:
                async with asyncio.timeout(limit) as bound:
                    progress.on_begin(lambda: bound.reschedule(None))
                    return await serve(progress)
            except TimeoutError as error:
                raise errors.Timeout(f"{who} gave no answer within {limit:g} s") from error

        return bounded


async def _first(one: Serve[_T], other: Serve[_T], last: Progress | None = None) -> _T:
    """Return what `one` gives, or `other` when it failed before its answer began."""
    progress = Progress()
    try:
        return await one(progress)
    except errors.MetastoreError as error:
        if progress.has_begun or not error.is_retryable:
            raise
    return await other(last or Progress())
