"""Fixtures on a real PostgreSQL primary and its streaming standby, started once for a run.

Which one to take, fastest first:

- `clean`: the run's shared migrated database with all tables emptied; `shared_database` is a pool
  on it, `shared_replica` one on its standby.
- `migrated_database`, `database`, `replica_database`: a migrated database of the test's own.
- `fresh_database`: an empty database of the test's own, for tests of the schema.
- a `PostgresPair` of the test's own, for tests that stop, kill or promote a server.

Replay on the standby runs on its own: after a write call `await pg.wait_caught_up()` before
looking at the standby. Who calls `pg.pause_replay()` must call `pg.resume_replay()`.
"""

from __future__ import annotations

import os
import signal
from collections.abc import AsyncIterator

import asyncpg
import hypothesis
import pytest

from proxy.demo.postgres import PostgresPair
from proxy.logs import quiet_grpc_core
from proxy.store.pool import Database
from tests.support.postgres import (
    SETUP,
    Credentials,
    Scratch,
    empty_tables,
    opened,
    scratch_database,
    select_only_user,
)

quiet_grpc_core(os.environ)
# Hypothesis fails an example that takes 200 ms, which on a busy machine any may.
hypothesis.settings.register_profile("unhurried", deadline=None)
hypothesis.settings.load_profile("unhurried")
# A run in the background of a shell starts with these ignored, and so would what it starts.
for _number, _handler in (
    (signal.SIGINT, signal.default_int_handler),
    (signal.SIGQUIT, signal.SIG_DFL),
    (signal.SIGHUP, signal.SIG_DFL),
):
    if signal.getsignal(_number) is signal.SIG_IGN:
        signal.signal(_number, _handler)


@pytest.fixture(scope="session")
async def pg() -> AsyncIterator[PostgresPair]:
    """The run's pair, set up by `config/postgres`. Do not stop, kill or promote its servers."""
    async with PostgresPair(setup=SETUP) as pair:
        yield pair


@pytest.fixture(scope="session")
async def migrated_template(pg: PostgresPair) -> AsyncIterator[str]:
    """The name of a database with our schema, to be copied; nobody connects to it."""
    from proxy.store import migrations

    async with scratch_database(pg) as scratch:
        async with opened(scratch.primary_uri) as database:
            await migrations.apply(database)
        yield scratch.name


@pytest.fixture
async def fresh_database(pg: PostgresPair) -> AsyncIterator[Scratch]:
    """An empty database."""
    async with scratch_database(pg) as scratch:
        yield scratch


@pytest.fixture
async def migrated_database(pg: PostgresPair, migrated_template: str) -> AsyncIterator[Scratch]:
    """A database with our schema and no data."""
    async with scratch_database(pg, template=migrated_template) as scratch:
        yield scratch


@pytest.fixture
async def database(migrated_database: Scratch) -> AsyncIterator[Database]:
    """A read-write pool on the primary of `migrated_database`."""
    async with opened(migrated_database.primary_uri) as pool:
        yield pool


@pytest.fixture
async def replica_database(migrated_database: Scratch) -> AsyncIterator[Database]:
    """A read-only pool on the standby of `migrated_database`."""
    async with opened(migrated_database.standby_uri, read_only=True) as pool:
        yield pool


@pytest.fixture
async def readonly_user(migrated_database: Scratch) -> AsyncIterator[Credentials]:
    """A user with nothing but SELECT on `migrated_database`: see `Scratch.uris_as`."""
    async with select_only_user(migrated_database) as who:
        yield who


@pytest.fixture(scope="session")
async def shared_scratch(pg: PostgresPair, migrated_template: str) -> AsyncIterator[Scratch]:
    """The run's shared migrated database; take it through `clean`."""
    async with scratch_database(pg, template=migrated_template) as scratch:
        yield scratch


@pytest.fixture(scope="session")
async def shared_database(shared_scratch: Scratch) -> AsyncIterator[Database]:
    """A read-write pool on the shared database; combine it with `clean`."""
    async with opened(shared_scratch.primary_uri) as pool:
        yield pool


@pytest.fixture(scope="session")
async def shared_replica(shared_scratch: Scratch) -> AsyncIterator[Database]:
    """A read-only pool on the standby of the shared database; combine it with `clean`."""
    async with opened(shared_scratch.standby_uri, read_only=True) as pool:
        yield pool


@pytest.fixture(scope="session")
async def shared_cleaner(
    shared_scratch: Scratch,
) -> AsyncIterator[asyncpg.Connection[asyncpg.Record]]:
    """A connection for `clean` alone: connecting takes longer than cleaning."""
    connection = await shared_scratch.pair.primary.connect(shared_scratch.name)
    yield connection
    await connection.close()


@pytest.fixture
async def clean(
    shared_scratch: Scratch, shared_cleaner: asyncpg.Connection[asyncpg.Record]
) -> Scratch:
    """The shared database, every table of it empty at the start of the test."""
    await empty_tables(shared_cleaner)
    return shared_scratch
