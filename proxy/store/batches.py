"""Long answers of the database, read in batches: one is made while another is in use."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import AsyncExitStack, nullcontext
from typing import Any

from proxy.store.measured import statement
from proxy.store.pool import Database
from proxy.store.pooler import open_cursor
from proxy.store.slots import Slots


async def read(
    db: Database, sql: str, arguments: Sequence[object], *, size: int, turns: Slots | None = None
) -> AsyncGenerator[list[Any], None]:
    """Yield the rows of a statement, `size` at a time, from one snapshot.

    The last batch, and only that, is a short or an empty one; the session is back before it, and
    whenever the generator is closed. For each batch, and for the session, a turn is waited for. At
    most two batches are in memory. Raises what the driver raises, and `Db` for want of a session.
    """

    def turn() -> Any:
        return nullcontext() if turns is None else turns.taken()

    async with AsyncExitStack() as lent:
        async with turn():
            session = await lent.enter_async_context(db.transaction())
            running = lent.enter_context(statement(sql))
            cursor = await open_cursor(session, sql, *arguments)
            rows = await cursor.fetch(size)

        async def fetch() -> list[Any]:
            async with turn():
                return await cursor.fetch(size)

        while len(rows) == size:
            ahead = asyncio.create_task(fetch(), name="rows ahead")
            running.got(rows)
            try:
                # Sent before the rows at hand are worked on.
                await asyncio.sleep(0)
                yield rows
                running.resume()
                rows = await ahead
            finally:
                await _drop(ahead)
        running.got(rows)
    yield rows


async def _drop(task: asyncio.Task[list[Any]]) -> None:
    """End a fetch whose rows nobody wants; the connection is free again on return."""
    if not task.done():
        task.cancel()
        await asyncio.wait((task,))
    if not task.cancelled():
        # Seen here, so that it is not reported as lost.
        task.exception()
