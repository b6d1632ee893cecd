"""How old a replica's data may be: the primary's heartbeat and the replica's probe.

The primary's node stamps one row of `kv` with its clock and its WAL position. A replica that shows
the stamp of time T has replayed everything that was committed before T, so its data is at most
`now - T` old. Unlike `now() - pg_last_xact_replay_timestamp()` this bound does not grow on a
replica of an idle primary. It compares the clocks of two database servers: their skew adds to it.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import Final

from proxy.store import sqlstate
from proxy.store.pool import Database
from proxy.store.queries import query

HEARTBEAT_KEY: Final = "metastore-proxy/heartbeat"


@dataclass(frozen=True)
class Sample:
    """One look at a database.

    `lag` is an upper bound in seconds at the moment of the look; None is unknown (no heartbeat
    has been replayed yet). A database that is not in recovery has lag 0.
    """

    in_recovery: bool
    replay_lsn: str | None
    lag: float | None


async def probe(database: Database, *, timeout: float) -> Sample:
    """Look at the database. Raises a `MetastoreError` when it does not answer in `timeout` s."""
    with sqlstate.raw():
        async with database.acquire() as session:
            row = await session.fetchrow(query("lag/probe"), HEARTBEAT_KEY, timeout=timeout)
    if row is None:
        return Sample(in_recovery=True, replay_lsn=None, lag=None)
    if not row["in_recovery"]:
        return Sample(in_recovery=False, replay_lsn=row["lsn"], lag=0.0)
    return Sample(
        in_recovery=True,
        replay_lsn=row["lsn"],
        lag=_age(row["heartbeat"], float(row["clock"])),
    )


async def is_in_recovery(database: Database) -> bool:
    """Whether the server is a standby. Needs no schema of ours, unlike `probe`."""
    with sqlstate.raw():
        async with database.acquire() as session:
            return bool(await session.fetchval("SELECT pg_is_in_recovery()"))


async def beat(database: Database, node_id: str, *, interval: float) -> None:
    """Stamp the heartbeat, unless another node has done so within half the interval."""
    with sqlstate.raw():
        async with database.acquire() as session:
            await session.execute(
                query("lag/beat"), HEARTBEAT_KEY, node_id, interval / 2, timeout=interval * 5
            )


def _age(heartbeat: str | None, clock: float) -> float | None:
    if heartbeat is None:
        return None
    try:
        stamped = float(json.loads(heartbeat)["at"])
    except (ValueError, KeyError, TypeError):
        return None
    # A stamp from the future (clock skew) says only that the skew is larger than the lag.
    return max(0.0, clock - stamped) if math.isfinite(stamped) else None
