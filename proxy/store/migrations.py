"""Bring the schema up to date, or check that it is.

Facts: the table `_sqlx_migrations`, the advisory lock keys, the rules and the error messages are
Quickwit's (through the sqlx library), so that its nodes and ours can start on one database in any
order, even at once. We depart in three points that its nodes cannot tell: all checksums are
compared before anything is applied, the timeouts of the role are lifted for the time of a
migration, and an invalid index left by an interrupted deferred migration is rebuilt instead of
being taken for a good one.
"""

from __future__ import annotations

import logging
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

import asyncpg

from proxy import errors
from proxy.store import grants, sqlstate
from proxy.store.migration_manifest import Migration, Track, known_migrations, migrations_of
from proxy.store.migration_session import (
    dedicated,
    execute_alone,
    guard,
    let_go_of_snapshot,
    lift_timeouts,
    lock_query,
    locked,
    one_transaction,
)
from proxy.store.pool import Database, Session
from proxy.store.queries import query

RUN_FAILED: Final = "failed to run PostgreSQL migrations"
CHECK_FAILED: Final = "failed to validate PostgreSQL migrations"

LOCK_FACTOR: Final = 0x3D32AD9E
DEFERRED_LOCK: Final = (424242, 1789)

_REMEDY: Final = "run `metastore-proxy migrate` or start a metastore node on the primary"

_RIGHTS: Final = "ALL PRIVILEGES"
_NOT_BY_NODES: Final = "nodes of other users wait for that with `QW_POSTGRES_SKIP_MIGRATIONS=true`"

_log = logging.getLogger(__name__)

Connection = asyncpg.Connection | Session
Progress = Callable[[Migration], None]


class State(StrEnum):
    """What `_sqlx_migrations` says of a migration; `UNKNOWN` is one that only it knows."""

    APPLIED = "applied"
    MISSING = "missing"
    DIRTY = "dirty"
    MISMATCH = "mismatch"
    UNKNOWN = "unknown"


@dataclass(frozen=True)
class MigrationStatus:
    """The state of one migration; `track` is None for an unknown one."""

    version: int
    description: str
    track: Track | None
    state: State


@dataclass(frozen=True)
class MigrationReport:
    """What `apply` did: the steps it ran, recorded versions it does not know, and seconds."""

    applied: tuple[Migration, ...]
    unknown: tuple[int, ...]
    seconds: float


class DeferredOutcome(StrEnum):
    """How `apply_deferred` ended; `ELSEWHERE` means that another node is at it."""

    APPLIED = "applied"
    UP_TO_DATE = "up_to_date"
    ELSEWHERE = "elsewhere"
    FAILED = "failed"


@dataclass(frozen=True)
class DeferredReport:
    """What `apply_deferred` did: steps run and recorded, indexes rebuilt, and why it failed."""

    outcome: DeferredOutcome
    applied: tuple[Migration, ...] = ()
    rebuilt: tuple[str, ...] = ()
    error: str = ""


@dataclass(frozen=True)
class _Row:
    version: int
    description: str
    success: bool
    checksum: bytes


class _Problem(Exception):
    """Why migrating or checking cannot go on; becomes the cause of an `Internal`."""


class _Denied(Exception):
    """A migration that this user may not apply; the server's refusal is the cause."""


def lock_key(database_name: str) -> int:
    """Return the key of the advisory lock under which a database is migrated."""
    return LOCK_FACTOR * zlib.crc32(database_name.encode())


async def apply(
    database: Database,
    *,
    lock: bool = True,
    progress: Progress | None = None,
    migrations: Sequence[Migration] | None = None,
) -> MigrationReport:
    """Apply the required migrations that the database lacks, in version order.

    Each step is applied and recorded in one transaction; a database that lacks nothing is not
    changed at all. With `lock`, waits without limit for another node that is migrating, and then
    finds its work done; a cancelled wait leaves nothing behind. Uses a connection of its own
    (`database` need not be open) and calls `progress` before each step. `migrations` replaces the
    required track.

    Raises `Connection` when the database cannot be reached or goes away, and `Internal` when it is
    read-only, holds a dirty migration or another checksum, or a step fails.
    """
    wanted = migrations_of(Track.REQUIRED) if migrations is None else tuple(migrations)
    started = time.monotonic()
    async with dedicated(database) as connection:
        with _failing_as(RUN_FAILED, database):
            async with one_transaction(connection):
                name = await _writable_database_name(connection)
                async with locked(connection, lock_key(name)) if lock else nullcontext():
                    applied, rows = await _apply_missing(connection, wanted, progress)
    known = {migration.version for migration in known_migrations()}
    unknown = tuple(version for version in rows if version not in known)
    return MigrationReport(applied, unknown, time.monotonic() - started)


async def apply_deferred(
    database: Database, *, migrations: Sequence[Migration] | None = None
) -> DeferredReport:
    """Build what nodes can serve without, unless another node is doing so; never fatal.

    Works on a connection of its own, without blocking writers, and may take long. An index that
    an interrupted build left invalid is dropped and built again, also when it is recorded as
    applied. Call it after `apply`. Failures are logged and returned; cancelling stops the build,
    and the next call repairs what it leaves. `migrations` replaces the deferred track.
    """
    wanted = migrations_of(Track.DEFERRED) if migrations is None else tuple(migrations)
    try:
        async with guard(database) as lock, dedicated(database) as connection:
            holder = lock or connection
            # Not before both are connected: whoever waits for a server must not hold one.
            with _failing_as(RUN_FAILED, database):
                async with one_transaction(holder):
                    return await _apply_deferred_on(holder, connection, wanted)
    except errors.MetastoreError as error:
        _log.warning("deferred migrations failed", extra={"error": str(error)})
        return DeferredReport(DeferredOutcome.FAILED, error=str(error))


async def check(session: Connection) -> None:
    """Make sure that all required migrations are recorded, clean and with the right checksum.

    Only reads, so it works on a standby and with a user that has nothing but SELECT. Versions that
    this program does not know are fine. Raises `Internal` naming the first offending migration.
    """
    with _failing_as(CHECK_FAILED):
        try:
            rows = await _read_rows(session)
        except asyncpg.UndefinedTableError as error:
            raise _Problem(
                f"table `_sqlx_migrations` does not exist, the schema was never created: {_REMEDY}"
            ) from error
        _refuse_dirty(rows)
        required = migrations_of(Track.REQUIRED)
        missing = [migration for migration in required if migration.version not in rows]
        if missing:
            others = ", ".join(str(migration.version) for migration in missing[1:])
            more = f", and {len(missing) - 1} more ({others})" if others else ""
            raise _Problem(f"missing required migration {missing[0]}{more}: {_REMEDY}")
        _refuse_mismatch(rows, required)


async def status(session: Connection) -> list[MigrationStatus]:
    """Return the state of every known or recorded migration, in version order; only reads.

    All are missing where the table is. Raises `Internal` when the table cannot be read.
    """
    with _failing_as(CHECK_FAILED):
        try:
            rows = await _read_rows(session)
        except asyncpg.UndefinedTableError:
            rows = {}
    known = {migration.version: migration for migration in known_migrations()}
    return [
        _status_of(version, known.get(version), rows.get(version))
        for version in sorted(known.keys() | rows.keys())
    ]


def _status_of(version: int, migration: Migration | None, row: _Row | None) -> MigrationStatus:
    if row is None:
        state = State.MISSING
    elif not row.success:
        state = State.DIRTY
    elif migration is None:
        state = State.UNKNOWN
    elif row.checksum != migration.checksum:
        state = State.MISMATCH
    else:
        state = State.APPLIED
    if migration is not None:
        return MigrationStatus(version, migration.description, migration.track, state)
    return MigrationStatus(version, row.description if row else "", None, state)


async def _apply_missing(
    connection: asyncpg.Connection, wanted: Sequence[Migration], progress: Progress | None
) -> tuple[tuple[Migration, ...], dict[int, _Row]]:
    if not await connection.fetchval(query("migrations/table_exists")):
        await connection.execute(query("migrations/create_table"))
    rows = await _read_rows(connection)
    _refuse_dirty(rows)
    _refuse_mismatch(rows, wanted)
    missing = tuple(migration for migration in wanted if migration.version not in rows)
    for migration in missing:
        if progress is not None:
            progress(migration)
        await _run(connection, migration)
    return missing, rows


async def _run(connection: asyncpg.Connection, migration: Migration) -> None:
    _log.info(
        "applying migration",
        extra={"version": migration.version, "description": migration.description},
    )
    started = time.perf_counter_ns()
    record = (migration.version, migration.description, migration.checksum)
    try:
        if migration.concurrent_index is None:
            async with connection.transaction():
                await connection.execute(migration.sql)
                await connection.execute(query("migrations/insert"), *record)
        else:
            await execute_alone(connection, migration.sql)
            await connection.execute(query("migrations/insert"), *record)
        nanoseconds = time.perf_counter_ns() - started
        await connection.execute(
            query("migrations/set_execution_time"), migration.version, nanoseconds
        )
    except sqlstate.DRIVER_ERRORS as error:
        if isinstance(error, asyncpg.InsufficientPrivilegeError):
            raise _Denied(f"migration {migration}: ") from error
        text = f"migration {migration} failed: {_text(error)}"
        if isinstance(error, sqlstate.LOST):
            raise errors.Connection(f"{RUN_FAILED}: {text}") from error
        raise _Problem(text) from error


async def _apply_deferred_on(
    guard: asyncpg.Connection, connection: asyncpg.Connection, wanted: Sequence[Migration]
) -> DeferredReport:
    await _writable_database_name(guard)
    # The lock is never given back explicitly: it ends with the connection, however that ends.
    if not await guard.fetchval(lock_query(guard, "try_deferred_lock"), *DEFERRED_LOCK):
        return DeferredReport(DeferredOutcome.ELSEWHERE)
    await let_go_of_snapshot(guard)
    rebuilt: list[str] = []
    for migration in wanted:
        name = migration.concurrent_index
        if name is None:
            continue
        found = await connection.fetchrow(query("migrations/invalid_index"), name)
        if found is None:
            continue
        if found["is_being_built"]:
            return DeferredReport(DeferredOutcome.ELSEWHERE)
        _log.warning("rebuilding an invalid index", extra={"index": name})
        await execute_alone(connection, found["drop_statement"])
        await execute_alone(connection, migration.sql)
        rebuilt.append(name)
    applied, _ = await _apply_missing(connection, wanted, None)
    changed = bool(applied or rebuilt)
    outcome = DeferredOutcome.APPLIED if changed else DeferredOutcome.UP_TO_DATE
    return DeferredReport(outcome, applied, tuple(rebuilt))


async def _read_rows(session: Connection) -> dict[int, _Row]:
    try:
        records = await session.fetch(query("migrations/list"))
    except asyncpg.InsufficientPrivilegeError as error:
        raise _Problem(
            f"{_text(error)}: grant the user of this node SELECT on all tables of the schema, "
            "`_sqlx_migrations` included"
        ) from error
    return {record["version"]: _Row(**record) for record in records}


def _refuse_dirty(rows: dict[int, _Row]) -> None:
    for row in rows.values():
        if not row.success:
            raise _Problem(
                f"migration {row.version} is dirty ({row.description} was begun and not finished): "
                "restore the schema by hand, then delete its row from `_sqlx_migrations`"
            )


def _refuse_mismatch(rows: dict[int, _Row], wanted: Sequence[Migration]) -> None:
    for migration in wanted:
        row = rows.get(migration.version)
        if row is not None and row.checksum != migration.checksum:
            raise _Problem(
                f"migration {migration} differs between database and expected value: checksum "
                f"{row.checksum.hex()[:12]}... is recorded and {migration.checksum.hex()[:12]}... "
                "expected; use a database migrated by a released version of Quickwit or of this "
                "program"
            )


async def _writable_database_name(connection: asyncpg.Connection) -> str:
    (facts,) = await connection.fetch(query("migrations/session_facts"))
    if facts["is_standby"]:
        raise _Problem("the server is a standby: point `metastore_uri` at the primary")
    if facts["is_read_only"]:
        raise _Problem(
            "the session is read-only: unset `QW_POSTGRES_READ_ONLY`, or set "
            "`QW_POSTGRES_SKIP_MIGRATIONS` to check migrations only"
        )
    await lift_timeouts(connection)
    name: str = facts["database"]
    return name


@contextmanager
def _failing_as(message: str, database: Database | None = None) -> Iterator[None]:
    try:
        yield
    except _Problem as problem:
        raise errors.Internal(message, str(problem)) from problem
    except sqlstate.LOST as error:
        raise errors.Connection(f"{message}: {_text(error)}") from error
    except _Denied as denied:
        refusal = denied.__cause__ or denied
        raise errors.Internal(message, f"{denied}{_refused(refusal, database)}") from refusal
    except sqlstate.DRIVER_ERRORS as error:
        raise errors.Internal(message, _refused(error, database)) from error


def _refused(error: BaseException, database: Database | None) -> str:
    refused = "" if database is None else grants.explain(error, database.uri, _RIGHTS)
    if not refused:
        return _text(error)
    alternative = "" if grants.MIGRATE in refused else f", or {grants.MIGRATE}"
    return f"{refused}{alternative}; {_NOT_BY_NODES}"


def _text(error: BaseException) -> str:
    # The driver's own text of a server error adds its detail, which may quote rows.
    if isinstance(error, asyncpg.PostgresError) and error.args:
        hint = getattr(error, "hint", None)
        return f"{error.args[0]} ({hint})" if hint else str(error.args[0])
    return str(error) or type(error).__name__
