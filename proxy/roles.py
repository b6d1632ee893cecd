"""The roles a process can have and what each of them may do.

Facts: role names and their spellings are Quickwit's (`enabled_services`, `--service`).
"""

from __future__ import annotations

from enum import Enum
from typing import Final


class Role(Enum):
    """A role of a node; the value is the canonical service name."""

    METASTORE = "metastore"
    READ_REPLICA = "metastore_read_replica"

    @property
    def is_read_only(self) -> bool:
        """Whether the node's database session is read-only and writes are refused."""
        return self is Role.READ_REPLICA

    @property
    def metastore_kind(self) -> str:
        """The value of the metric label `metastore_kind`."""
        return "read_replica" if self.is_read_only else "primary"


# Every service name that a Quickwit configuration may hold, by accepted spelling.
SERVICE_NAMES: Final = {
    "metastore": "metastore",
    "metastore_read_replica": "metastore_read_replica",
    "metastore-read-replica": "metastore_read_replica",
    "control-plane": "control-plane",
    "control_plane": "control-plane",
    "indexer": "indexer",
    "searcher": "searcher",
    "janitor": "janitor",
    "compactor": "compactor",
}

# What Quickwit enables when nothing is configured. The read replica is never a default.
DEFAULT_SERVICES: Final = ("control-plane", "indexer", "janitor", "metastore", "searcher")
