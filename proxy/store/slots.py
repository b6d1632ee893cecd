"""How many long answers are worked on at once, so that short ones beside them do not wait."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class Slots:
    """Lets `count` work at once, in the order they came; others wait.

    Whoever takes longer than `bound` seconds goes on, and no longer counts: a slow one holds up the
    others for no longer than that.
    """

    def __init__(self, count: int, bound: float) -> None:
        self._free = asyncio.Semaphore(count)
        self._bound = bound

    @asynccontextmanager
    async def taken(self) -> AsyncIterator[None]:
        """Wait for a slot and hold it meanwhile."""
        await self._free.acquire()
        is_held = True

        def give_back() -> None:
            nonlocal is_held
            if is_held:
                is_held = False
                self._free.release()

        late = asyncio.get_running_loop().call_later(self._bound, give_back)
        try:
            yield
        finally:
            late.cancel()
            give_back()
