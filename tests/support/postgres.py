"""Databases on the embedded pair: made empty or migrated, opened through our own pool, dropped."""

from __future__ import annotations

import itertools
import os
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import asyncpg

from proxy.config import PoolSettings, PostgresUri, parse_postgres_uri
from proxy.demo.postgres import PostgresPair, quoted
from proxy.store.pool import Database

# The files by which operators set up a primary and its replicas.
SETUP = Path(__file__).resolve().parents[2] / "config" / "postgres"
MIGRATIONS_TABLE = "_sqlx_migrations"
_numbers = itertools.count(1)


@dataclass(frozen=True)
class Credentials:
    """A database user that a test made."""

    user: str
    password: str


@dataclass(frozen=True)
class Scratch:
    """One database of a test, on the primary and, once caught up, on the standby."""

    pair: PostgresPair
    name: str

    @property
    def primary_uri(self) -> str:
        """The URI on the primary, as the superuser."""
        return self.pair.primary_uri(self.name)

    @property
    def standby_uri(self) -> str:
        """The URI on the standby, as the superuser."""
        return self.pair.standby_uri(self.name)

    def uris_as(self, who: Credentials) -> tuple[str, str]:
        """Return the URIs on the primary and on the standby as another user."""
        return (
            self.pair.primary_uri(self.name, user=who.user, password=who.password),
            self.pair.standby_uri(self.name, user=who.user, password=who.password),
        )

    async def execute(self, statement: str) -> None:
        """Run statements on the primary as the superuser."""
        await self.pair.primary.execute(statement, database=self.name)

    async def value(self, statement: str, *arguments: object) -> object:
        """Return the first value of a query on the primary."""
        return await self.pair.primary.value(statement, *arguments, database=self.name)


@asynccontextmanager
async def scratch_database(
    pair: PostgresPair, *, template: str | None = None
) -> AsyncIterator[Scratch]:
    """Make a database with a name of its own, on the standby as well; drop it afterwards."""
    name = f"test_{os.getpid()}_{next(_numbers)}"
    await pair.create_database(name, template=template)
    try:
        await pair.wait_caught_up()
        yield Scratch(pair, name)
    finally:
        await pair.drop_database(name)


def parsed(uri: str) -> PostgresUri:
    """Return the URI as the node's configuration holds it."""
    return parse_postgres_uri(uri)


@asynccontextmanager
async def opened(
    uri: str, settings: PoolSettings | None = None, *, read_only: bool = False
) -> AsyncIterator[Database]:
    """Open our pool on a URI; close it afterwards."""
    database = Database(parsed(uri), settings or PoolSettings(), read_only=read_only)
    await database.open()
    try:
        yield database
    finally:
        await database.close()


@asynccontextmanager
async def select_only_user(scratch: Scratch) -> AsyncIterator[Credentials]:
    """Make a user that may log in and read the tables there are and will be, and nothing else."""
    who = Credentials(f"reader_{os.getpid()}_{next(_numbers)}", secrets.token_urlsafe(12))
    role, database = quoted(who.user), quoted(scratch.name)
    await scratch.execute(
        f"""
        CREATE ROLE {role} LOGIN PASSWORD '{who.password}';
        GRANT CONNECT ON DATABASE {database} TO {role};
        GRANT USAGE ON SCHEMA public TO {role};
        GRANT SELECT ON ALL TABLES IN SCHEMA public TO {role};
        ALTER DEFAULT PRIVILEGES IN SCHEMA public GRANT SELECT ON TABLES TO {role};
        """
    )
    await scratch.pair.wait_caught_up()
    try:
        yield who
    finally:
        await scratch.execute(f"DROP OWNED BY {role}; DROP ROLE {role}")


_EMPTY_TABLES = f"""
DO $$
DECLARE
    tables regclass[] := ARRAY(
        SELECT format('%I.%I', schemaname, tablename)::regclass
        FROM pg_tables WHERE schemaname = 'public' AND tablename <> '{MIGRATIONS_TABLE}'
        -- Other tables refer to the indexes, and one of them does not cascade.
        ORDER BY tablename = 'indexes'
    );
    named regclass;
BEGIN
    FOREACH named IN ARRAY tables LOOP
        -- Deleting a few rows is many times faster than making new files; many rows it is not.
        IF pg_total_relation_size(named) > 4000000 THEN
            EXECUTE format('TRUNCATE %s CASCADE', named);
        ELSE
            EXECUTE format('DELETE FROM %s', named);
        END IF;
    END LOOP;
    FOR named IN SELECT format('%I.%I', schemaname, sequencename) FROM pg_sequences LOOP
        PERFORM setval(named, 1, false);
    END LOOP;
END $$
"""


async def empty_tables(connection: asyncpg.Connection[asyncpg.Record]) -> None:
    """Empty all tables but the record of migrations, and restart the sequences."""
    await connection.execute(_EMPTY_TABLES)
