"""Pairs that start in half the time: `initdb` runs once in a process, and is copied from then on.

To PostgreSQL such pairs are one cluster, since they have one system identifier: a test that needs
two clusters makes the other one a `PostgresPair`.
"""

from __future__ import annotations

import asyncio
import atexit
import secrets
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any

from proxy.demo.postgres import PostgresPair, PostgresServer

# The superuser's, as it is in the data that is copied.
_PASSWORD = secrets.token_urlsafe(18)
_made: list[Path] = []


class QuickPair(PostgresPair):
    """A pair of a test's own, whose servers it may stop, freeze and promote."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._password = _PASSWORD

    async def _initialise(self, primary: PostgresServer) -> None:
        if _made:
            await _copy(_made[0], primary.data)
            return
        await primary.initialise()
        directory = Path(tempfile.mkdtemp(prefix="metastore-proxy-initdb-"))
        atexit.register(shutil.rmtree, directory, ignore_errors=True)
        await _copy(primary.data, directory / "data")
        _made.append(directory / "data")


async def _copy(source: Path, target: Path) -> None:
    """Copy a data directory of a server that does not run, with its owner."""
    # Many times faster than Python's own.
    await asyncio.to_thread(subprocess.run, ["cp", "-a", str(source), str(target)], check=True)
