"""Setting up a pair by the files that operators use: `config/postgres` of the sources.

The demo does without, since an installed package has no `config`; the tests do not.
"""

from __future__ import annotations

import secrets
import shutil
from pathlib import Path
from typing import Final

from proxy.demo.postgres_host import HOST, environment
from proxy.demo.postgres_server import SUPERUSER, PostgresServer

# The variable of `roles.sql` and `replication.sql` that holds each role's password.
VARIABLES: Final = {
    "quickwit_owner": "OWNER_PASSWORD",
    "quickwit_rw": "READ_WRITE_PASSWORD",
    "quickwit_ro": "READ_ONLY_PASSWORD",
    "quickwit_replication": "REPLICATION_PASSWORD",
}


class PostgresSetup:
    """The files of one directory, and random passwords for the roles that they make."""

    def __init__(self, source: Path) -> None:
        self._source = source
        self._directory = source
        self.passwords: dict[str, str] = {role: secrets.token_urlsafe(18) for role in VARIABLES}

    def copy_to(self, directory: Path) -> None:
        """Copy the files to where the servers' account can read them."""
        self._directory = directory
        shutil.copytree(self._source, directory)
        for path in (directory, *directory.iterdir()):
            path.chmod(0o755)

    @property
    def settings(self) -> dict[str, str]:
        """The settings that make a server read the files."""
        return {
            "config_file": str(self._directory / "postgresql.conf"),
            "hba_file": str(self._directory / "pg_hba.conf"),
        }

    @property
    def _variables(self) -> dict[str, str]:
        return {VARIABLES[role]: password for role, password in self.passwords.items()}

    async def make_roles(self, primary: PostgresServer, database: str) -> None:
        """Make the roles and a database with their grants; safe to repeat."""
        await self._psql(primary, "roles.sql", METASTORE_DATABASE=database)

    async def make_slot(self, primary: PostgresServer, name: str) -> None:
        """Make the role that replicates and a slot; safe to repeat."""
        await self._psql(primary, "replication.sql", REPLICATION_SLOT=name)

    async def _psql(self, primary: PostgresServer, script: str, **variables: str) -> None:
        await primary.run(
            "psql",
            "--no-psqlrc",
            "--quiet",
            "--no-password",
            f"--dbname=host={HOST} port={primary.port} user={SUPERUSER} dbname=postgres",
            f"--file={self._directory / script}",
            PGPASSWORD=primary.superuser_password,
            **self._variables,
            **variables,
        )

    async def clone(self, primary: PostgresServer, standby: PostgresServer) -> None:
        """Clone the primary into the data directory of a standby."""
        await self.make_slot(primary, standby.name)
        # The clone is made beside the data directory, which only the parent's owner may do.
        standby.own(standby.data.parent)
        await standby.run(
            "/bin/sh",
            str(self._directory / "replica.sh"),
            "true",
            PATH=f"{standby.binaries}:{environment().get('PATH', '')}",
            PGDATA=str(standby.data),
            PRIMARY_HOST=HOST,
            PRIMARY_PORT=str(primary.port),
            REPLICATION_SLOT=standby.name,
            **self._variables,
        )
