"""A counter on the primary that every read of an index shows, and when each value was committed."""

from __future__ import annotations

import asyncio
import re
import time
from bisect import bisect_right
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

import asyncpg

from proxy.proto.quickwit import metastore_pb2 as pb
from tests.support.fleet import DATABASE, Fleet

_SET: Final = """
UPDATE indexes SET index_metadata_json = jsonb_set(
  index_metadata_json::jsonb,
  '{index_config,indexing_settings,commit_timeout_secs}',
  to_jsonb($1::bigint)
)::text
"""
_SHOWN: Final = re.compile(r'"commit_timeout_secs"\s*:\s*(\d+)')


class Counter:
    """Counts up in the metadata of all indexes, on a connection of its own to the primary."""

    def __init__(self, connection: asyncpg.Connection[asyncpg.Record], interval: float) -> None:
        self._connection = connection
        self._interval = interval
        self._committed: list[float] = []

    async def count(self) -> None:
        """Count one up; returns when that is committed."""
        await self._connection.execute(_SET, len(self._committed) + 1)
        self._committed.append(time.monotonic())

    async def keep_counting(self) -> None:
        """Count until cancelled."""
        while True:
            await self.count()
            await asyncio.sleep(self._interval)

    @property
    def value(self) -> int:
        """The newest value that is known to be committed."""
        return len(self._committed)

    def committed_by(self, moment: float) -> int:
        """Return the newest value that was known to be committed at a monotonic time."""
        return bisect_right(self._committed, moment)

    def since(self, value: int) -> float:
        """Return when the value after `value` was known to be committed; infinite if never."""
        # One more than is known can be committed, by the statement that is under way.
        assert 1 <= value <= len(self._committed) + 1, value
        return self._committed[value] if value < len(self._committed) else float("inf")


def shown(answer: pb.IndexMetadataResponse) -> int:
    """Return the counter's value that an answer shows."""
    found = _SHOWN.search(answer.index_metadata_serialized_json)
    assert found is not None, answer.index_metadata_serialized_json[:200]
    return int(found[1])


@asynccontextmanager
async def counting(fleet: Fleet, *, interval: float = 0.02) -> AsyncIterator[Counter]:
    """Count on the fleet's primary inside the block."""
    connection = await fleet.pair.primary.connect(DATABASE)
    counter = Counter(connection, interval)
    await counter.count()
    await fleet.pair.wait_caught_up()
    task = asyncio.create_task(counter.keep_counting(), name="counter")
    try:
        yield counter
    finally:
        task.cancel()
        await asyncio.wait({task})
        await connection.close()
        if not task.cancelled():
            task.result()
