"""How many long answers are worked on at once, so that short ones beside them do not wait."""

from __future__ import annotations

import asyncio
from collections import deque
from contextlib import suppress
from time import monotonic
from types import TracebackType


class Slots:
    """Lets `count` work at once, in the order they came; others wait.

    Whoever takes longer than `bound` seconds goes on, and no longer counts: a slow one holds up the
    others for no longer than that. Whoever waits gets `TimeoutError` when nobody was let in for
    `patience` seconds. None is no bound, and endless patience. For one event loop.
    """

    def __init__(self, count: int, *, bound: float | None, patience: float | None = None) -> None:
        self._free = count
        self._bound = bound
        self._patience = patience
        # Those who count, and since when, the first one first.
        self._working: dict[Slot, float] = {}
        self._queue: deque[Slot] = deque()
        self._last_entry = 0.0
        self._watch: asyncio.TimerHandle | None = None

    def taken(self) -> Slot:
        """Return what waits for a slot on entry, and gives it back on exit."""
        return Slot(self)

    def try_enter(self, slot: Slot) -> bool:
        """Let it in if nobody has to wait."""
        if not self._free:
            return False
        self._free -= 1
        self._let_in(slot)
        return True

    async def wait(self, slot: Slot) -> None:
        """Wait until it is let in."""
        began, turn = monotonic(), asyncio.get_running_loop().create_future()
        slot.turn = turn
        self._queue.append(slot)
        self._watch_oldest()
        try:
            if self._patience is None:
                await turn
                return
            while not turn.done():
                left = max(began, self._last_entry) + self._patience - monotonic()
                if left <= 0.0:
                    raise TimeoutError
                await asyncio.wait((turn,), timeout=left)
        except BaseException:
            if turn.done() and not turn.cancelled():
                # It was let in just before it was cancelled.
                self.leave(slot)
            else:
                with suppress(ValueError):
                    self._queue.remove(slot)
            raise

    def leave(self, slot: Slot) -> None:
        """Let the next one in, unless the slot was given to another already."""
        if self._working.pop(slot, None) is None:
            return
        while self._queue:
            following = self._queue.popleft()
            # Not one that was cancelled and has not woken up yet.
            if following.turn is not None and not following.turn.done():
                following.turn.set_result(None)
                self._let_in(following)
                return
        self._free += 1

    def _let_in(self, slot: Slot) -> None:
        self._last_entry = self._working[slot] = monotonic()

    def _watch_oldest(self) -> None:
        """See to it that whoever has worked for longest ceases to count in time."""
        if self._bound is not None and self._watch is None and self._working and self._queue:
            due = next(iter(self._working.values())) + self._bound
            wait = max(0.0, due - monotonic())
            self._watch = asyncio.get_running_loop().call_later(wait, self._pass_over)

    def _pass_over(self) -> None:
        self._watch = None
        now = monotonic()
        for slot, since in list(self._working.items()):
            if self._bound is not None and self._queue and since + self._bound <= now:
                self.leave(slot)
        self._watch_oldest()


class Slot:
    """A place among those who work, from entry to exit."""

    __slots__ = ("_slots", "turn")

    def __init__(self, slots: Slots) -> None:
        self._slots = slots
        self.turn: asyncio.Future[None] | None = None

    async def __aenter__(self) -> None:
        """Wait for the place."""
        if not self._slots.try_enter(self):
            await self._slots.wait(self)

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Give it back."""
        self._slots.leave(self)
