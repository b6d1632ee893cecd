"""A database with the roles and grants of `config/postgres`, migrated by its owner."""

from __future__ import annotations

import itertools
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from proxy.demo.postgres import PostgresPair
from proxy.store import migrations
from proxy.store.migration_manifest import Track, migrations_of
from tests.support.postgres import Credentials, Scratch, opened

OWNER, READ_WRITE, READ_ONLY = "quickwit_owner", "quickwit_rw", "quickwit_ro"
_numbers = itertools.count(1)


@dataclass(frozen=True)
class Granted:
    """The database, and its URIs as each of the roles."""

    scratch: Scratch

    def who(self, role: str) -> Credentials:
        """Return a role with its password."""
        assert self.scratch.pair.setup is not None
        return Credentials(role, self.scratch.pair.setup.passwords[role])

    def primary_uri(self, role: str) -> str:
        """Return the URI on the primary as a role."""
        return self.scratch.uris_as(self.who(role))[0]

    def standby_uri(self, role: str) -> str:
        """Return the URI on the standby as a role."""
        return self.scratch.uris_as(self.who(role))[1]


@asynccontextmanager
async def granted_database(pair: PostgresPair, *, lacking: int = 0) -> AsyncIterator[Granted]:
    """Make the roles and a database with their grants, and migrate it; drop it afterwards.

    `lacking` is how many of the last required migrations are left out.
    """
    assert pair.setup is not None
    name = f"granted_{os.getpid()}_{next(_numbers)}"
    await pair.setup.make_roles(pair.primary, name)
    try:
        granted = Granted(Scratch(pair, name))
        async with opened(granted.primary_uri(OWNER)) as owner:
            required = migrations_of(Track.REQUIRED)
            await migrations.apply(owner, migrations=required[: len(required) - lacking])
            if not lacking:
                await migrations.apply_deferred(owner)
        await pair.wait_caught_up()
        yield granted
    finally:
        await pair.drop_database(name)
