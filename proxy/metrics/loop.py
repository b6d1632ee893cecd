"""How late the event loop is: what keeps it busy holds up every call."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

INTERVAL: Final = 0.25


async def watch_loop(note: Callable[[float], None], interval: float = INTERVAL) -> None:
    """Tell `note` each `interval` seconds how many seconds late this ran, until cancelled."""
    loop = asyncio.get_running_loop()
    while True:
        due = loop.time() + interval
        await asyncio.sleep(interval)
        note(max(0.0, loop.time() - due))
