"""The migrations this program knows: what is recorded of each, and its SQL.

Facts: versions, descriptions and checksums are Quickwit's, so that its nodes and ours accept each
other's databases. A checksum is the SHA-384 of Quickwit's file, not of ours: our SQL is written
anew and leaves the same catalog and data after each version.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cache
from importlib import resources


class Track(StrEnum):
    """Whether a node needs a migration to serve, or can wait for it."""

    REQUIRED = "required"
    DEFERRED = "deferred"


@dataclass(frozen=True)
class Migration:
    """One step of the schema.

    `concurrent_index` names the index that the step builds concurrently; such a step is a single
    statement, run outside a transaction, and may leave an invalid index when it is interrupted.
    """

    version: int
    description: str
    checksum: bytes
    track: Track
    sql: str = field(repr=False)
    concurrent_index: str | None = None

    def __str__(self) -> str:
        return f"{self.version} ({self.description})"


@cache
def known_migrations() -> tuple[Migration, ...]:
    """Return all migrations of both tracks in version order."""
    folder = resources.files("proxy.store").joinpath("sql", "migrations")
    entries = json.loads(folder.joinpath("manifest.json").read_text(encoding="utf-8"))
    return tuple(
        Migration(
            version=entry["version"],
            description=entry["description"],
            checksum=bytes.fromhex(entry["sha384"]),
            track=Track(entry["track"]),
            sql=folder.joinpath(entry["file"]).read_text(encoding="utf-8"),
            concurrent_index=entry.get("concurrent_index"),
        )
        for entry in entries
    )


def migrations_of(track: Track) -> tuple[Migration, ...]:
    """Return the migrations of one track in version order."""
    return tuple(migration for migration in known_migrations() if migration.track is track)
