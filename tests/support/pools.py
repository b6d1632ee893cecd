"""Pools of tests, and what their servers say of the sessions."""

from __future__ import annotations

from proxy.config import PoolSettings
from tests.support.postgres import Scratch

SMALL = PoolSettings(max_connections=2, acquire_timeout=5.0)
# For the test of exhaustion, which has to wait for it.
IMPATIENT = PoolSettings(max_connections=2, acquire_timeout=1.0)


async def is_sleeping(scratch: Scratch) -> bool:
    found = await scratch.value(
        "SELECT count(*) FROM pg_stat_activity WHERE datname = $1 AND wait_event = 'PgSleep'",
        scratch.name,
    )
    return bool(found)


async def has_no_sessions(scratch: Scratch) -> bool:
    found = await scratch.pair.primary.value(
        "SELECT count(*) FROM pg_stat_activity WHERE datname = $1", scratch.name
    )
    return found == 0
