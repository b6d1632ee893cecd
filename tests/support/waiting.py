"""Waiting for a condition, never for a time."""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import Callable


async def until(
    condition: Callable[[], object],
    describe: Callable[[], object] = lambda: "",
    *,
    timeout: float = 20.0,
) -> object:
    """Return the first true value of `condition` (which may be async); fail after `timeout` s."""
    deadline = time.monotonic() + timeout
    while True:
        value = condition()
        if inspect.isawaitable(value):
            value = await value
        if value:
            return value
        if time.monotonic() > deadline:
            raise AssertionError(f"condition not met within {timeout:g} s: {describe()}")
        await asyncio.sleep(0.01)
