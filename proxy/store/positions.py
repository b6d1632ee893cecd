"""What a server tells of itself: its role, its position in the WAL, its timeline, its cluster.

A server that refuses part of the question is asked for less, so that a node can serve from it all
the same: first without the control file, which tells the cluster, then without the WAL.

Facts: Amazon Aurora answers `pg_last_wal_replay_lsn()` and its like with SQLSTATE 0A000 on readers;
a writer whose `wal_level` is not `logical` answers `pg_current_wal_lsn()` with 55000; some versions
are reported not to have the functions at all.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from typing import Final
from weakref import WeakKeyDictionary

import asyncpg

from proxy.store.queries import query

# By how much they ask, most first.
_QUESTIONS: Final = (
    "position",
    "position_without_control",
    "position_without_wal",
    "position_unknown",
)
# The last question that asks for a position.
_LAST_WITH_WAL: Final = 1
# Seconds until all is asked again, in case the right was granted: the server logs each refusal.
ASK_AGAIN: Final = 60.0

REFUSALS: Final = (
    asyncpg.FeatureNotSupportedError,
    asyncpg.InsufficientPrivilegeError,
    asyncpg.ObjectNotInPrerequisiteStateError,
    asyncpg.UndefinedFunctionError,
)


@dataclass(frozen=True, slots=True)
class Position:
    """A server's answer. None is unknown; `refused` is why `lsn` is, where the server said so.

    Of a primary `lsn` is where it inserts, and `segment_offset` how far that is into its segment;
    of a standby what it has replayed. `incarnation` tells one run of one server from every other.
    `clock` is seconds of the epoch, `sender_ahead` how far the WAL sender's clock is ahead of it.
    """

    in_recovery: bool
    incarnation: str
    lsn: str | None
    segment_offset: int | None
    timeline: int | None
    identity: str | None
    clock: float
    sender_ahead: float | None
    refused: asyncpg.PostgresError | None = None


@dataclass(frozen=True, slots=True)
class _Habit:
    """Which question to begin with on a connection until a time, and why it is not the first."""

    number: int
    until: float
    refused: asyncpg.PostgresError | None


_ANYTHING: Final = _Habit(0, float("inf"), None)
_habits: Final[WeakKeyDictionary[asyncpg.Connection[asyncpg.Record], _Habit]] = WeakKeyDictionary()


async def read_position(connection: asyncpg.Connection[asyncpg.Record]) -> Position:
    """Ask a server what it is. Raises what the driver raises."""
    now = time.monotonic()
    habit = _habits.get(connection, _ANYTHING)
    if now >= habit.until:
        habit = _ANYTHING
    while True:
        try:
            row = await connection.fetchrow(query(f"replication/{_QUESTIONS[habit.number]}"))
            break
        except REFUSALS as error:
            if habit.number + 1 == len(_QUESTIONS):
                raise
            # Refused once the control file is out of it, the position is what was refused.
            is_position = habit.number == _LAST_WITH_WAL
            # Its traceback holds the connection, which what is remembered must not.
            refused = error.with_traceback(None) if is_position else habit.refused
            habit = _Habit(habit.number + 1, now + ASK_AGAIN, refused)
    if habit is not _ANYTHING:
        _habits[connection] = habit
    if row is None:
        raise asyncpg.InterfaceError("the database did not tell its state")
    return replace(Position(**row), refused=habit.refused)
