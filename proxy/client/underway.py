"""The calls under way on one connection, and which of them may be made elsewhere instead."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from proxy.http2.outgoing import OutgoingCall


class CallsUnderWay:
    """Holds each call from `add` to its end. `all` is to be read only."""

    def __init__(self) -> None:
        self.all: set[OutgoingCall] = set()
        self._cuttable: set[OutgoingCall] = set()
        self._idle = asyncio.Event()
        self._idle.set()

    def add(
        self, call: OutgoingCall, note: Callable[[OutgoingCall], None], *, may_be_cut: bool
    ) -> None:
        """Take note of a call that has begun, as `note` does; `cut` ends it if it `may_be_cut`."""
        note(call)
        self.all.add(call)
        self._idle.clear()
        call.add_done_callback(self._forget)
        if may_be_cut:
            self._cuttable.add(call)

    def _forget(self, call: OutgoingCall) -> None:
        self.all.discard(call)
        self._cuttable.discard(call)
        if not self.all:
            self._idle.set()

    def keep(self, call: OutgoingCall) -> None:
        """Have `cut` leave a call alone from here on."""
        self._cuttable.discard(call)

    def cut(self) -> None:
        """Cancel those that can be made elsewhere."""
        for call in tuple(self._cuttable):
            call.cancel()

    def cancel(self) -> None:
        """Cancel all."""
        for call in tuple(self.all):
            call.cancel()

    async def wait(self) -> None:
        """Wait until there is none."""
        await self._idle.wait()
