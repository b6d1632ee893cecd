"""The roles a process can have and what each of them may do.

Facts: role names and their spellings are Quickwit's (`enabled_services`, `--service`); the router
is ours alone.
"""

from __future__ import annotations

from enum import Enum
from typing import Final


class Role(Enum):
    """A role of a node; the value is the canonical service name."""

    METASTORE = "metastore"
    READ_REPLICA = "metastore_read_replica"
    ROUTER = "metastore_router"

    @property
    def is_read_only(self) -> bool:
        """Whether the node's database session is read-only and writes are refused."""
        return self is Role.READ_REPLICA

    @property
    def has_database(self) -> bool:
        """Whether the node serves from a database of its own; a router only passes calls on."""
        return self is not Role.ROUTER

    @property
    def metastore_kind(self) -> str:
        """The value of the metric label `metastore_kind`."""
        return _METASTORE_KINDS[self]


_METASTORE_KINDS: Final = {
    Role.METASTORE: "primary",
    Role.READ_REPLICA: "read_replica",
    Role.ROUTER: "router",
}


# Every service name that a Quickwit configuration may hold, by accepted spelling.
SERVICE_NAMES: Final = {
    "metastore": "metastore",
    "metastore_read_replica": "metastore_read_replica",
    "metastore-read-replica": "metastore_read_replica",
    "metastore_router": "metastore_router",
    "metastore-router": "metastore_router",
    "control-plane": "control-plane",
    "control_plane": "control-plane",
    "indexer": "indexer",
    "searcher": "searcher",
    "janitor": "janitor",
    "compactor": "compactor",
}

# What Quickwit enables when nothing is configured. The read replica and the
# router are never defaults.
DEFAULT_SERVICES: Final = ("control-plane", "indexer", "janitor", "metastore", "searcher")
